//! The read-through cache: whole versions of objects, kept in sparse files, verified before they
//! are served. The one writer of `cache/` and of `objects/`; `tierfs/cache` is the same in Python,
//! for the other front.
//!
//! ```text
//! Cache::plan ------- "give me [lo, hi)": all here, or flights for what is missing     (read)
//!   |- Table          the objects in use, one `Object` for each inode           (table, objects)
//!   |- Copy, Files    cache files: open, create, read, write, punch, unlink        (copy, files)
//!   |- Hot            blocks that are not kept on disk, until they were read               (hot)
//!   `- Flight         single flight: one GET for each missing block, then file, then index
//!        |                                                                    (flight, fetch)
//!        |- Queue     room in memory; who goes first                            (crate::queue)
//!        |- Capacity  room on disk, reserved before a fetch               (room, crate::space)
//!        |            whom to evict, and what is not worth it, is the control plane's
//!        |            decision; how it is done, is in                                (evict)
//!        |- Landing   into the file, then into the index                           (landing)
//!        |- filled()  the whole compared with the lake's checksum                 (complete)
//!        |- adopt()   a staging file becomes a copy                                     (adopt)
//!        `- Recorder  what changed in the objects in use, committed in groups       (record)
//! ```
//!
//! Invariants (each names who keeps it):
//!
//! C1. No byte leaves a cache file unverified (`Copy`; of what passes through to the kernel,
//!     `Worker::open`: only a whole copy that is, to size and ctime, the file that was verified
//!     since this boot).
//! C2. A block is recorded after its bytes were written to the file, never before (`landing`,
//!     `Recorder`). A process killed at any instant therefore leaves records of right bytes only; a
//!     machine that loses power may leave wrong bytes, which C1 finds.
//! C3. Every file under `objects/` has a record in `cache/files`: the record is committed before the
//!     file is created (`Recorder::announce`), and dropped after the file is unlinked (`evict`). So
//!     start-up never walks `objects/` and nothing is orphaned; an index that starts empty has the
//!     old files put aside and deleted (`Files::start_over`).
//! C4. All bytes of a cache file belong to one version. The record carries the identity of (key,
//!     etag, version id); another identity drops the copy (`Cache::acquire`), each GET names the
//!     version, and after a 412 the object is stale: nothing more is read from it unless all is
//!     there (`Cache::guard`).
//! C5. Bytes on disk plus reservations never exceed the capacity (`Capacity`).
//! C6. What is in use (open, being fetched, being recorded) is never evicted (`Table::leave`).
//! C7. One GET at a time for a block; whoever asks meanwhile shares its outcome, and a waiter that
//!     is cancelled takes nothing from the others (`Cache::start`).
//! C8. Trouble with the cache disk (full, failing, read-only) never reaches a reader: it streams
//!     from the lake (`Health`, `landing`).
//! C9. An object is complete only if its full-object checksum, where the lake has one, was compared
//!     (`complete`).
//! C10. Bytes leave a file that stays after their records did, never before, so that no record
//!     speaks of a hole; and no hole is ever punched in a file of which all is present (`evict`).
//! C11. A cache file that the kernel may read by itself is never written again, but for a block that
//!     was found to be wrong: a copy that starts over is another file (`Files::create`).

pub mod adopt;
pub mod buffers;
pub mod complete;
pub mod copy;
pub mod evict;
pub mod fetch;
pub mod files;
pub mod flight;
pub mod hot;
pub mod landing;
pub mod objects;
pub mod read;
pub mod record;
pub mod room;
pub mod table;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use buffers::Buffers;
use files::Files;
use flight::Flight;
use hot::Hot;
use landing::Landing;
use objects::Object;
use record::Recorder;
use table::{Held, Table};

use crate::attributes::now_s;
use crate::health::{Health, Part};
use crate::index::cache::{CacheIndex, CacheReader};
use crate::index::lmdb;
use crate::index::records::overhead_bytes;
use crate::log;
use crate::queue::Queue;
use crate::space::Capacity;
use crate::stats::Stats;
use crate::streams::MAX_WINDOW_BYTES;
use crate::sys::file;

/// Blocks kept in memory for want of room on disk, at most, and at most this part of all memory.
const HOT_BYTES: u64 = 32 << 20;
const HOT_SHARE: u64 = 8;
/// Memory kept for the next requests while nobody uses it, in the same way.
const SPARE_BYTES: u64 = 32 << 20;
const SPARE_SHARE: u64 = 8;
/// The part of all memory, in eighths, that requests take, from the GET until their bytes are on the
/// disk. What is left beside the two above is for all else: stacks, the heap, sockets.
const REQUESTS_EIGHTHS: u64 = 3;
/// The longest window of read-ahead, as a part of the memory for requests.
const WINDOW_SHARE: u64 = 8;
/// How long an end waits for the disk to take what has come from the lake.
const KEEP: Duration = Duration::from_secs(2);

/// What a cache is told of its bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Bytes on disk; `None`: the disk's free reserve alone.
    pub cache: Option<u64>,
    /// The part of the disk that stays free.
    pub min_free: f64,
    /// Bytes of buffers and requests.
    pub memory: u64,
    pub max_requests: usize,
}

/// The cache of one lake.
pub struct Cache {
    pub index: CacheIndex,
    pub files: Files,
    pub table: Arc<Table>,
    pub recorder: Recorder,
    pub capacity: Capacity,
    pub health: Health,
    pub queue: Queue<Arc<Flight>>,
    pub hot: Hot,
    pub buffers: Arc<Buffers>,
    pub in_flight: AtomicU64,
    /// What is to go to the cache disk, and how often that came to an end with it.
    pub landing: AtomicU64,
    pub landed: AtomicU64,
    /// The index can be used no more until it is opened anew.
    pub index_lost: AtomicBool,
    pub stats: Arc<Stats>,
    /// Comparisons with the lake's checksum that wait or are under way.
    comparing: AtomicU64,
    /// Objects whose checksum is to be compared (`complete::run`).
    completed: Mutex<Sender<(Held, u32)>>,
    /// What has come from the lake, and where it waits (`landing::run`).
    landings: Sender<Landing>,
    to_land: Mutex<Receiver<Landing>>,
    /// Bytes without records that are still on the disk, by inode (`evict`).
    lingering: Mutex<HashMap<u64, u64>>,
    /// The longest window of read-ahead.
    max_window: u64,
}

/// What a cache has for others to do.
pub struct Waiting {
    /// Objects whose last user left, for `Cache::left`.
    pub left: Receiver<Arc<Object>>,
    /// Objects for `complete::run`.
    pub filled: Receiver<(Held, u32)>,
}

impl Cache {
    pub fn open(
        lake_directory: &Path,
        limits: Limits,
        stats: Arc<Stats>,
    ) -> Result<(Self, Waiting), Box<dyn std::error::Error>> {
        let index = CacheIndex::open(lake_directory)?;
        let files = Files::new(lake_directory, file::boot_id()?);
        let health = Health::default();
        let totals = index.reader().totals();
        let totals = totals.ok_or_else(|| lmdb::Error::record("read the index's totals"))?;
        if totals.files == 0
            && let Err(error) = files.start_over()
        {
            health.failed("put old cache files aside", &error);
        }
        let hot = Hot::new(HOT_BYTES.min(limits.memory / HOT_SHARE));
        let spare = SPARE_BYTES.min(limits.memory / SPARE_SHARE);
        let budget = limits.memory / 8 * REQUESTS_EIGHTHS;
        let (left, left_receiver) = channel();
        let (filled, filled_receiver) = channel();
        let (landings, to_land) = channel();
        let disk = files.directory().to_owned();
        let cache = Self {
            index,
            table: Table::new(left),
            recorder: Recorder::default(),
            capacity: Capacity::new(disk, limits.cache, limits.min_free, totals.disk_bytes()),
            health,
            queue: Queue::new(budget, limits.max_requests),
            hot,
            buffers: Buffers::new(spare),
            in_flight: AtomicU64::new(0),
            landing: AtomicU64::new(0),
            landed: AtomicU64::new(0),
            index_lost: AtomicBool::new(false),
            stats,
            comparing: AtomicU64::new(0),
            completed: Mutex::new(filled),
            landings,
            to_land: Mutex::new(to_land),
            lingering: Mutex::default(),
            max_window: MAX_WINDOW_BYTES.min(budget / WINDOW_SHARE),
            files,
        };
        Ok((cache, Waiting { left: left_receiver, filled: filled_receiver }))
    }

    /// Become a user of a version of `size` bytes. Never fails for trouble with the cache. Of an
    /// inode that is in use as another version `None`: one inode with two versions is stale (C4).
    pub fn acquire(
        &self,
        index: &mut CacheReader,
        ino: u64,
        size: u64,
        identity: [u8; 16],
        record: &[u8],
    ) -> Option<Held> {
        let mut started_over = false;
        let held = self.table.acquire(ino, || {
            let object = Object::new(ino, size, identity, record.into(), self.max_window);
            let mut state = object.state();
            self.load(index, &object, &mut state);
            state.last_used_s = now_s(); // Whoever chooses what goes takes it for the newest.
            started_over = state.purge;
            drop(state);
            object
        });
        if held.identity != identity || held.size != size {
            return None;
        }
        if started_over {
            self.recorder.mark(&held);
        }
        Some(held)
    }

    fn load(&self, index: &mut CacheReader, object: &Object, state: &mut objects::State) {
        let Some(known) = index.file(object.ino) else {
            if !index.is_readable() {
                // There may be a copy, which is left alone.
                let error = io::Error::other("no answer");
                self.health.part_failed(Part::Index, "look into the cache index", &error);
                state.bypass = true;
            }
            return;
        };
        let whole = known.present_bytes == object.size;
        if known.identity != object.identity || known.size != object.size {
            log::warning(&format!(
                "the cached copy is of another version, dropped: {}",
                object.name()
            ));
            object.restore(state, &known, Some(Vec::new()));
            object.remove_all(state);
            self.hot.forget(object.ino);
            // Its record stays, and is of the other size.
            self.capacity.freed(known.present_bytes);
            self.capacity.adjust(known.overhead_bytes(), overhead_bytes(object.size));
            return;
        }
        let numbers = (!whole && known.present_bytes > 0).then(|| index.numbers(object.ino));
        object.restore(state, &known, numbers.or((!whole).then(Vec::new)));
        if known.present_bytes == 0 {
            return;
        }
        match self.files.open_to_fill(object.ino, object.size) {
            Ok(copy) => state.copy = Some(Arc::new(copy)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                log::warning(&format!(
                    "the cache file is gone, dropped its records: {}",
                    object.name()
                ));
                object.remove_all(state);
                self.capacity.freed(known.present_bytes);
            }
            Err(error) => {
                // Too many open files, a failing disk: nothing is known to be wrong with the copy,
                // so it is left alone and the lake serves this use of the object.
                self.health.failed("open a cached copy", &error);
                object.forget(state);
                state.bypass = true;
            }
        }
    }

    /// The last user of an object has left; whether its copy is to be evicted.
    pub fn left(&self, index: &mut CacheReader, object: &Object) -> bool {
        if object.unrecorded.load(Ordering::Acquire) {
            // From here on the index alone speaks for it, so what it does not know of is not
            // counted. Bytes without a record are overwritten by the next fill, or go with the file.
            let known = index.file(object.ino).map_or(0, |file| file.present_bytes);
            let had = object.present_bytes.load(Ordering::Acquire);
            if index.is_readable() {
                self.capacity.adjust(had, known);
            }
        }
        object.doomed.load(Ordering::Acquire) || object.is_stale()
    }

    /// A file is used now.
    pub fn used(&self, ino: u64) {
        let now_s = now_s();
        self.recorder.touch(ino, now_s);
        if let Some(object) = self.table.get(ino) {
            object.state().last_used_s = now_s;
        }
    }

    /// The index does not take something, or cannot be read.
    fn index_failed(&self, doing: &str, error: &lmdb::Error) {
        let full = error.is_full().then(|| io::Error::from_raw_os_error(libc::ENOSPC));
        let error_of_disk = full.unwrap_or_else(|| io::Error::other(error.to_string()));
        self.health.part_failed(Part::Index, doing, &error_of_disk);
        if error.is_final() {
            self.index_lost.store(true, Ordering::Release);
        }
        if error.is_damage() {
            // The next one who opens it moves it aside.
            let marker = self.files.directory().join("cache").join("damaged");
            let _ = std::fs::write(marker, format!("{error}\n"));
        }
    }

    /// Keep what has come from the lake; for the end of this process.
    pub fn close(&self) {
        let end = Instant::now() + KEEP;
        self.queue.close();
        while self.landing.load(Ordering::Acquire) > 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.recorder.drain(KEEP);
    }
}
