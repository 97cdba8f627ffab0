//! What the threads of a front share.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, SyncSender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use crate::attributes::Rules;
use crate::cache::Cache;
use crate::cache::evict::{Freed, Newcomer, Victim, Wanted};
use crate::checksum::Checksum;
use crate::errands::Errand;
use crate::fuse::abi::init_flag;
use crate::fuse::init;
use crate::index::cache::CacheReader;
use crate::index::journal::Journal;
use crate::index::names::Names;
use crate::lake::{Counters, Lake, Source};
use crate::log;
use crate::opened::{Means, OpenInodes};
use crate::run::index_numbers;
use crate::serve::{Opening, Then};
use crate::shared::{Opened, Shared, row_flag};
use crate::space::Evicted;
use crate::stats::Stats;
use crate::sys::device::Device;
use crate::upcall::client::Client;
use crate::upcall::wire::{self, Ask, Hello, OpenHandle, Space};

/// How long a fetch waits to be told whom to evict; then it does without room on disk.
const ROOM_PATIENCE: Duration = Duration::from_secs(2);
/// Files and extents evicted in one go.
const EVICT_AT_ONCE: u32 = 64;
/// Choices none of which could leave, after which everything is taken to be in use.
const MOST_IN_VAIN: u32 = 4;

/// To the threads that work beside requests.
pub struct Senders {
    /// What the kernel is to forget.
    pub notices: Sender<Errand>,
    pub others: Sender<Errand>,
    /// OPENs and CREATEs that go on.
    pub opening: Sender<Opening>,
}

/// Everything that the threads share.
pub struct Front {
    pub device: Device,
    pub shared: Shared,
    pub client: Client<Then>,
    pub opened: OpenInodes,
    pub rules: Rules,
    pub names: Names,
    pub cache: Cache,
    /// Where there are write-back directories.
    pub journal: Option<Journal>,
    pub stats: Arc<Stats>,
    /// INIT flags that are switched off.
    pub masked: u64,
    /// Inodes whose copies are to be verified as a whole, beside requests (`Worker::verify`).
    pub unverified: SyncSender<u64>,
    /// Told once INIT has been answered.
    pub ready: OnceLock<()>,
    /// Handles of OPENs that the last front recorded and perhaps did not answer, by `unique`.
    pub pending_rows: HashMap<u64, Opened>,
    pub lake_directory: PathBuf,
    /// What the control plane said of the room for what is written; `None`: nothing so far.
    space: Mutex<Option<Space>>,
    /// The lake, where we have a client for it.
    lake: RwLock<Option<Arc<Lake>>>,
    errands: Mutex<Senders>,
    /// Of the index files that are open.
    index_numbers: Vec<Option<u64>>,
    refused_errno: AtomicU64,
}

impl Front {
    #[allow(clippy::too_many_arguments)] // Once, in `main`.
    pub fn new(
        device: Device,
        shared: Shared,
        client: Client<Then>,
        rows: &[Opened],
        pending_rows: HashMap<u64, Opened>,
        hello: Hello,
        index_numbers: Vec<Option<u64>>,
        names: Names,
        cache: Cache,
        journal: Option<Journal>,
        masked: u64,
        unverified: SyncSender<u64>,
        errands: Senders,
    ) -> Self {
        let Hello { rules, lake_directory, .. } = hello;
        let opened = OpenInodes::restore(rows, &shared, &device);
        Self {
            opened,
            rules,
            names,
            stats: cache.stats.clone(),
            cache,
            journal,
            device,
            shared,
            client,
            masked,
            unverified,
            ready: OnceLock::new(),
            pending_rows,
            index_numbers,
            lake_directory,
            space: Mutex::default(),
            lake: RwLock::default(),
            errands: Mutex::new(errands),
            refused_errno: AtomicU64::new(0),
        }
    }

    /// Whether the index in the cache is the one that is open here: a damaged one is moved aside.
    pub fn index_is_the_same(&self) -> bool {
        self.index_numbers == index_numbers(&self.lake_directory)
    }

    /// What `opened` needs to open and close.
    pub fn means(&self) -> Means<'_, Then> {
        Means { shared: &self.shared, device: &self.device, client: &self.client }
    }

    pub fn passes_through(&self) -> bool {
        self.shared.init_flags().is_some_and(|flags| flags & init_flag::PASSTHROUGH != 0)
    }

    // The lake.

    /// The lake, where we have a client for it.
    pub fn lake(&self) -> Option<Arc<Lake>> {
        self.lake.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The control plane says how much room there is for what is written.
    pub fn set_space(&self, space: Space) {
        *self.space.lock().unwrap_or_else(PoisonError::into_inner) = Some(space);
    }

    /// What it said last.
    pub fn space(&self) -> Option<Space> {
        *self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The control plane says where the lake is, and who we are there.
    pub fn set_source(&self, tail: &[u8]) {
        let mut lake = self.lake.write().unwrap_or_else(PoisonError::into_inner);
        let Some(source) = Source::parse(tail) else {
            *lake = None;
            return;
        };
        if lake.as_ref().is_some_and(|known| known.renew(&source)) {
            return;
        }
        *lake = match Lake::new(source) {
            Ok(made) => Some(Arc::new(made)),
            Err(error) => {
                log::warning(&format!("the control plane fetches for the front: {error}"));
                None
            }
        };
    }

    /// Fill `buffer` by the control plane, as `request` says; the object's checksum, if it came
    /// with it.
    pub fn ask_for_bytes(
        &self,
        request: wire::Request,
        buffer: &mut [u8],
    ) -> Result<Option<Checksum>, i32> {
        let reply = self.client.ask(Ask::Get, request, None).ok_or(libc::EIO)?;
        let Some(part) = reply.part else { return Err(libc::EIO) };
        let right = reply.errno == 0 && reply.count as usize == buffer.len();
        if right {
            buffer.copy_from_slice(self.shared.arena(part.at, part.length));
        }
        self.client.give_back(part);
        match reply.errno {
            0 if right => Ok(wire::checksum(&reply.tail)),
            0 => Err(libc::EIO),
            code => Err(code),
        }
    }

    // Eviction.

    /// Have something done beside requests.
    pub fn send(&self, errand: Errand) {
        let errands = self.errands.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = match errand {
            Errand::ForgetEntry { .. } | Errand::ForgetContent { .. } => &errands.notices,
            _ => &errands.others,
        };
        let _ = sender.send(errand); // Whoever does them ends with this process.
    }

    /// Go on with an OPEN or a CREATE in a thread that may wait for the disk.
    pub fn open_soon(&self, opening: Opening) {
        let errands = self.errands.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = errands.opening.send(opening);
    }

    /// Evict what was open until now.
    pub fn evict_soon(&self, ino: u64) {
        self.send(Errand::Evict { command: None, victims: vec![Victim { ino, extents: vec![] }] });
    }

    /// Evict `victims`; with `doom` those that are in use, and are to go as a whole, afterwards.
    pub fn evict(&self, index: &mut CacheReader, victims: &[Victim], doom: bool) -> Freed {
        self.cache.evict(index, victims, doom, |ino, doom| {
            if doom { self.opened.doom(ino) } else { self.opened.is_open(ino) }
        })
    }

    /// Evict about `bytes` of what the control plane chooses, nothing in use; with a `newcomer` only
    /// what is worth less than that.
    pub fn make_room(
        &self,
        index: &mut CacheReader,
        bytes: u64,
        newcomer: Option<Newcomer>,
    ) -> Evicted {
        let mut freed = 0;
        let mut in_vain = 0;
        while freed < bytes {
            let request = wire::Request {
                ino: newcomer.map_or(0, |newcomer| newcomer.ino),
                offset: bytes - freed,
                size: EVICT_AT_ONCE,
                uid: match newcomer.map(|newcomer| newcomer.wanted) {
                    None | Some(Wanted::Reader) => 0,
                    Some(Wanted::Ahead) => wire::ROOM_AHEAD,
                    Some(Wanted::WarmUp) => wire::ROOM_WARM_UP,
                },
                ..Default::default()
            };
            // So that it knows what is in use, and what was just read.
            self.client.flush_accesses();
            let reply = self.client.ask(Ask::Room, request, Some(ROOM_PATIENCE));
            let code = reply.as_ref().map_or(libc::ETIMEDOUT, |reply| reply.errno);
            let Some(reply) = reply.filter(|_| code == 0) else {
                let error = std::io::Error::from_raw_os_error(code);
                self.cache.health.failed("ask what to evict", &error);
                break;
            };
            if newcomer.is_some() && reply.count == wire::DECLINED {
                return Evicted::Declined;
            }
            let victims = wire::victims(&reply.tail).unwrap_or_default();
            let got = self.evict(index, &victims, false).bytes;
            if got == 0 {
                // What was chosen may have come into use meanwhile, which says nothing of the rest.
                if victims.is_empty() || in_vain == MOST_IN_VAIN {
                    break;
                }
                in_vain += 1;
            }
            freed += got;
        }
        Evicted::Freed(freed)
    }

    /// Tell the control plane which files this front keeps in use; it may be a new one.
    pub fn tell_what_is_open(&self) {
        self.opened.for_each(|ino, inode| {
            if !inode.staged {
                self.client.usage(ino, true);
            }
        });
        if self.journal.is_none() {
            return;
        }
        // What is answered meanwhile is in one of them, or in both.
        let waiting = self.shared.under_way();
        let staged = self.shared.open_rows();
        let staged = staged.iter().filter(|row| row.flags & row_flag::STAGED != 0);
        let handles: Vec<OpenHandle> = waiting
            .into_iter()
            .map(|unique| OpenHandle { ino: 0, unique, writes: false })
            .chain(staged.map(|row| OpenHandle {
                ino: row.ino,
                unique: row.unique,
                writes: row.flags & row_flag::WRITES != 0,
            }))
            .collect();
        self.client.tell_handles(&handles);
    }

    pub fn open_backing(&self, file: &std::fs::File) -> i32 {
        match self.device.open_backing(file) {
            Ok(id) => {
                self.shared.saw_backing(id);
                id
            }
            Err(error) => {
                Stats::count(&self.stats.passthrough_refused);
                let code = error.raw_os_error().unwrap_or(libc::EIO).unsigned_abs().into();
                if self.refused_errno.swap(code, Ordering::Relaxed) != code {
                    log::warning(&format!(
                        "the kernel does not pass reads through: {error}; they are copied"
                    ));
                }
                0
            }
        }
    }

    /// Lines for `status`.
    pub fn status(&self) -> String {
        let cache = &self.cache;
        let (mut open, mut handles) = (0, 0);
        self.opened.for_each(|_, inode| {
            open += 1;
            handles += u64::from(inode.handles);
        });
        let lake = self.lake();
        let of_lake = |counter: fn(&Counters) -> &AtomicU64| {
            lake.as_ref().map_or(0, |lake| counter(lake.counters()).load(Ordering::Relaxed))
        };
        let features = init::names(self.shared.init_flags().unwrap_or(0));
        let counters = self.stats.text(&[
            ("waiting_upcalls", self.client.waiting() as u64),
            ("index_errors", self.names.errors() + cache.index.errors()),
            ("open_inodes", open),
            ("open_handles", handles),
            ("passthrough_errno", self.refused_errno.load(Ordering::Relaxed)),
            ("used_bytes", cache.capacity.used_bytes()),
            ("reserved_bytes", cache.capacity.reserved_bytes()),
            ("in_flight", cache.in_flight.load(Ordering::Relaxed)),
            ("buffer_bytes", cache.queue.used_bytes()),
            ("buffer_limit_bytes", cache.queue.total_bytes()),
            ("waiting_requests", cache.queue.waiting() as u64),
            ("hot_bytes", cache.hot.used_bytes()),
            ("streaming", cache.health.streaming().into()),
            ("disk_errors", cache.health.errors()),
            ("lake_get_requests", of_lake(|counters| &counters.get_requests)),
            ("lake_bytes_read", of_lake(|counters| &counters.bytes_read)),
            ("lake_retries", of_lake(|counters| &counters.retries)),
            ("lake_slow_downs", of_lake(|counters| &counters.slow_downs)),
        ]);
        let reason = cache.health.reason();
        format!("features {features}\nstreaming_reason {reason}\n{counters}")
    }
}
