//! From a request of the kernel's to its answer.
//!
//! `Worker::serve` reads a request into a slot and decides: either it is answered at once, from the
//! index and the cache, or it becomes an upcall and its slot stays busy until `Worker::answered`.
//! One OPEN and its READs, of a file that is cached:
//!
//! ```text
//! decide -> open -> NamesReader::openable   is the version confirmed?        no: upcall CONFIRM
//!                -> OpenInodes::join        open already: one more handle
//!                -> Copies::find            whole and verified?              no: upcall OPEN
//!                -> OpenInodes::add         a backing id: the kernel reads by itself from now on
//! decide -> read -> Copy::read              without one: blocks, verified    not here: upcall READ
//! ```
//!
//! The promises are those of `tierfs/fs/operations.py`; so are the facts F1..F4 that it names.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use zerocopy::IntoBytes;

use crate::attributes::{Rules, Ttl, now_ns};
use crate::copies::{Copies, Copy, State};
use crate::fuse::abi::{
    GetxattrOut, InHeader, LseekIn, LseekOut, OpenOut, ROOT_ID, ReadIn, ReleaseIn, StatfsOut,
    init_flag, opcode, open_flag,
};
use crate::fuse::request::{Operation, Request};
use crate::fuse::{init, reply};
use crate::index::cache::{CacheIndex, CacheReader};
use crate::index::names::{Lookup, Names, NamesReader, Openable};
use crate::index::records::{BLOCK_SIZE, ROOT_INO};
use crate::log;
use crate::opened::{Handle, Inode, OpenInodes};
use crate::run::index_numbers;
use crate::shared::{Opened, Shared, Slot};
use crate::stats::Stats;
use crate::sys::device::{Device, Received};
use crate::upcall::client::{Client, Pending};
use crate::upcall::wire::{self, AccessKind, Answer, Ask};

/// A copy up to this size is verified while its OPEN waits; a larger one is read block by block
/// until it has been verified beside.
const VERIFY_AT_ONCE_BYTES: u64 = 8 << 20;
const XATTR_PREFIX: &[u8] = b"user.tierfs.";
/// Offsets of the two entries that are in every directory; real ones are inode numbers >= 16.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;
/// The lake has no capacity: `df` shows 1 PiB, all of it free.
const STATFS_BLOCKS: u64 = (1 << 50) / 4096;
const WRITE_FLAGS: i32 = libc::O_WRONLY | libc::O_RDWR | libc::O_TRUNC | libc::O_APPEND;

/// Everything that the threads share.
pub struct Front {
    pub device: Device,
    pub shared: Shared,
    pub client: Client<Then>,
    pub opened: OpenInodes,
    pub rules: Rules,
    pub names: Names,
    pub cache: CacheIndex,
    pub copies: Copies,
    pub stats: Stats,
    /// INIT flags that are switched off.
    pub masked: u64,
    /// Inodes whose copies are to be verified as a whole: see `crate::verifier`.
    pub unverified: std::sync::mpsc::SyncSender<u64>,
    /// Told once INIT has been answered.
    pub ready: OnceLock<()>,
    /// Handles of OPENs that the last front recorded and perhaps did not answer, by `unique`.
    pub pending_rows: std::collections::HashMap<u64, Opened>,
    pub lake_directory: PathBuf,
    /// Of the index files that are open.
    index_numbers: Vec<Option<u64>>,
    refused_errno: AtomicU64,
}

/// What becomes of an answer to an upcall.
#[derive(Debug)]
pub enum Then {
    Entry,
    Attributes,
    /// The version is confirmed: open it.
    Open,
    /// The control plane has it open: give out a handle.
    Opened(Box<Openable>),
    Read,
    Readdir(reply::DirectoryRequest),
    Xattr {
        size: u32,
    },
    /// Only an errno.
    Nothing,
}

/// What a request came to.
enum Outcome {
    Answered,
    Upcall(Ask, wire::Request, Then),
}

use Outcome::{Answered, Upcall};

impl Front {
    #[allow(clippy::too_many_arguments)] // Once, in `main`.
    pub fn new(
        device: Device,
        shared: Shared,
        client: Client<Then>,
        rows: &[Opened],
        pending_rows: std::collections::HashMap<u64, Opened>,
        rules: Rules,
        lake_directory: PathBuf,
        masked: u64,
        unverified: std::sync::mpsc::SyncSender<u64>,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let opened = OpenInodes::restore(rows, &shared, &device);
        Ok(Self {
            opened,
            rules,
            names: Names::open(&lake_directory)?,
            cache: CacheIndex::open(&lake_directory)?,
            copies: Copies::new(lake_directory.clone(), crate::sys::file::boot_id()?),
            stats: Stats::default(),
            device,
            shared,
            client,
            masked,
            unverified,
            ready: OnceLock::new(),
            pending_rows,
            index_numbers: index_numbers(&lake_directory),
            lake_directory,
            refused_errno: AtomicU64::new(0),
        })
    }

    /// Whether the index in the cache is the one that is open here: a damaged one is moved aside.
    pub fn index_is_the_same(&self) -> bool {
        self.index_numbers == index_numbers(&self.lake_directory)
    }

    fn passes_through(&self) -> bool {
        self.shared.init_flags().is_some_and(|flags| flags & init_flag::PASSTHROUGH != 0)
    }

    /// Tell the control plane which files this front keeps in use; it may be a new one.
    pub fn tell_what_is_open(&self) {
        for (ino, backing) in self.opened.all() {
            if backing > 0 {
                self.client.access(ino, now_ns(), AccessKind::Open);
            }
        }
    }

    fn open_backing(&self, file: &std::fs::File) -> i32 {
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
        let waiting = self.client.waiting() as u64;
        let index_errors = self.names.errors() + self.cache.errors();
        let open = self.opened.all().len() as u64;
        let features = init::names(self.shared.init_flags().unwrap_or(0));
        let counters = self.stats.text(&[
            ("waiting_upcalls", waiting),
            ("index_errors", index_errors),
            ("open_inodes", open),
            ("passthrough_errno", self.refused_errno.load(Ordering::Relaxed)),
        ]);
        format!("features {features}\n{counters}")
    }
}

/// One thread's part of the front.
pub struct Worker {
    front: Arc<Front>,
    names: NamesReader,
    cache: CacheReader,
    /// For the bytes of a READ, and for blocks that are verified.
    buffer: Vec<u8>,
    scratch: Vec<u8>,
}

impl Worker {
    pub fn new(front: Arc<Front>) -> Self {
        let (names, cache) = (front.names.reader(), front.cache.reader());
        Self { front, names, cache, buffer: Vec::new(), scratch: Vec::new() }
    }

    /// Answer requests until the connection ends.
    pub fn run(&mut self, on_turn: impl Fn(bool)) -> std::io::Result<()> {
        loop {
            let mut slot = self.front.shared.take();
            on_turn(false);
            let received = self.front.device.receive(self.front.shared.buffer(&mut slot));
            on_turn(true);
            match received {
                Ok(Received::Request(_)) => self.serve(slot),
                Ok(Received::Nothing) => self.front.shared.release(slot),
                Ok(Received::End) => {
                    self.front.shared.release(slot);
                    return Ok(());
                }
                Err(error) => {
                    self.front.shared.release(slot);
                    return Err(error);
                }
            }
        }
    }

    /// The request in `slot`, which a dead front left.
    pub fn replay(&mut self, slot: Slot) {
        Stats::count(&self.front.stats.replayed);
        self.serve(slot);
    }

    fn serve(&mut self, slot: Slot) {
        let front = self.front.clone();
        Stats::count(&front.stats.requests);
        let Some(request) = Request::parse(front.shared.message(&slot)) else {
            Stats::count(&front.stats.malformed);
            front.shared.release(slot);
            return;
        };
        match self.decide(&request) {
            Answered => front.shared.release(slot), // S2, S3
            Upcall(ask, request, then) => {
                Stats::count(&front.stats.upcalls);
                front.client.call(slot, ask, request, then);
            }
        }
    }

    fn decide(&mut self, request: &Request<'_>) -> Outcome {
        let header = &request.header;
        let (unique, ino) = (header.unique, header.nodeid);
        match &request.operation {
            &Operation::Init { minor, max_readahead, flags } => {
                self.init(unique, minor, max_readahead, flags)
            }
            &Operation::Lookup { name } => self.lookup(unique, ino, name),
            Operation::Getattr => self.getattr(unique, ino),
            Operation::Readlink => self.refuse(unique, libc::EINVAL),
            &Operation::Open { flags } => self.open(header, flags),
            Operation::Read(read) => self.read(unique, ino, read),
            Operation::Release(release) => self.release(unique, ino, release),
            Operation::Statfs => self.statfs(unique),
            &Operation::Getxattr { name, size } => self.getxattr(header, name, size),
            &Operation::Listxattr { size } => self.listxattr(unique, size),
            Operation::Opendir => self.answer(unique, &[OpenOut::default().as_bytes()]),
            &Operation::Readdir { offset, size, plus } => {
                self.readdir(unique, ino, offset, size, plus)
            }
            Operation::Lseek(lseek) => self.lseek(unique, ino, lseek),
            Operation::Nothing => self.answer(unique, &[]), // F1
            Operation::Unanswered => Answered,
            Operation::Change => change(ino, header.opcode),
            Operation::Unknown => self.refuse(unique, libc::ENOSYS),
            Operation::Malformed => {
                Stats::count(&self.front.stats.malformed);
                self.refuse(unique, libc::EINVAL)
            }
        }
    }

    fn answer(&self, unique: u64, parts: &[&[u8]]) -> Outcome {
        if let Err(error) = self.front.device.answer(unique, parts) {
            log::warning(&format!("an answer was not taken: {error}"));
        }
        Answered
    }

    fn refuse(&self, unique: u64, code: i32) -> Outcome {
        if let Err(error) = self.front.device.refuse(unique, code) {
            log::warning(&format!("an answer was not taken: {error}"));
        }
        Answered
    }

    fn init(&self, unique: u64, minor: u32, max_readahead: u32, flags: u64) -> Outcome {
        let Some((out, agreed)) = init::answer(minor, max_readahead, flags, self.front.masked)
        else {
            log::error(&format!("the kernel speaks FUSE 7.{minor}; 7.31 is needed (Linux 5.4)"));
            return self.refuse(unique, libc::EPROTO);
        };
        self.front.shared.set_init_flags(agreed);
        let outcome = self.answer(unique, &[out.as_bytes()]);
        log::info(&format!("the kernel and we use {}", init::names(agreed)));
        let _ = self.front.ready.set(());
        outcome
    }

    // Names.

    fn lookup(&mut self, unique: u64, parent: u64, name: &[u8]) -> Outcome {
        let front = self.front.clone();
        // Asked only by who has a handle of an inode and wants its name (open_by_handle_at).
        if name == b"." {
            return self.entry_of(unique, parent);
        }
        if name == b".." {
            return match self.names.attributes(&front.rules, parent) {
                Some((_, above)) => self.entry_of(unique, above),
                None => self.refuse(unique, libc::ESTALE),
            };
        }
        match self.names.lookup(&front.rules, parent, name) {
            Lookup::Found(found, ttl) => {
                self.answer(unique, &[reply::entry(&found, ttl).as_bytes()])
            }
            Lookup::Absent(ttl) => self.answer(unique, &[reply::absence(ttl).as_bytes()]), // F4
            Lookup::Ask => {
                let request = wire::Request { tail: name.to_vec(), ..wire::Request::of(parent) };
                Upcall(Ask::Lookup, request, Then::Entry)
            }
        }
    }

    fn entry_of(&mut self, unique: u64, ino: u64) -> Outcome {
        match self.names.attributes(&self.front.rules, ino) {
            Some((found, _)) => {
                let entry = reply::entry(&found, self.front.rules.ttl);
                self.answer(unique, &[entry.as_bytes()])
            }
            None => self.refuse(unique, libc::ESTALE),
        }
    }

    fn getattr(&mut self, unique: u64, ino: u64) -> Outcome {
        let front = self.front.clone();
        let named = self.names.attributes(&front.rules, ino).map(|(found, _)| found);
        let found = named.or_else(|| front.opened.get(ino)?.attributes);
        match found {
            Some(found) => {
                let out = reply::attr_out(&found, front.rules.ttl);
                self.answer(unique, &[out.as_bytes()])
            }
            None => Upcall(Ask::Getattr, wire::Request::of(ino), Then::Attributes),
        }
    }

    fn readdir(&mut self, unique: u64, ino: u64, offset: u64, size: u32, plus: bool) -> Outcome {
        let front = self.front.clone();
        let mut directory = reply::Directory::new(size, plus);
        let mut after = offset;
        if after < DOT_DOT {
            let Some((own, _)) = self.names.attributes(&front.rules, ino) else {
                return self.refuse(unique, libc::ENOENT);
            };
            for (next, name) in [(DOT, &b"."[..]), (DOT_DOT, b"..")] {
                if after < next {
                    if !directory.add(name, &own, Ttl::ZERO, next) {
                        return self.answer(unique, &[directory.bytes()]);
                    }
                    after = next;
                }
            }
        }
        let after = if after == DOT_DOT { 0 } else { after };
        let listed = self.names.readdir(&front.rules, ino, after, |name, found, ttl| {
            directory.add(name, found, ttl, found.ino)
        });
        if listed {
            return self.answer(unique, &[directory.bytes()]);
        }
        let most = directory.most_left().min(MOST_ENTRIES);
        let request = wire::Request {
            offset: after,
            size: most,
            arena_length: u64::from(most) * LONGEST_ENTRY,
            ..wire::Request::of(ino)
        };
        let asked = reply::DirectoryRequest { offset, size, plus };
        Upcall(Ask::Readdir, request, Then::Readdir(asked))
    }

    // Bytes.

    fn open(&mut self, header: &InHeader, flags: u32) -> Outcome {
        let (unique, ino) = (header.unique, header.nodeid);
        if flags.cast_signed() & WRITE_FLAGS != 0 {
            return change(ino, opcode::OPEN);
        }
        let front = self.front.clone();
        if let Some(known) = front.pending_rows.get(&unique)
            && front.shared.has_row(known.fh)
        {
            // The front before this one did it, and died before it could say so, or after.
            return self
                .opened(unique, Handle { fh: known.fh, backing: known.backing, first: false });
        }
        match self.names.openable(&front.rules, ino) {
            Some(openable) => self.open_confirmed(unique, ino, openable),
            None => Upcall(Ask::Confirm, wire::Request::of(ino), Then::Open),
        }
    }

    fn open_confirmed(&mut self, unique: u64, ino: u64, openable: Openable) -> Outcome {
        let front = self.front.clone();
        if let Some(handle) = front.opened.join(&front.shared, ino, unique, false) {
            return self.give(unique, ino, handle, false);
        }
        let size = openable.attributes.size;
        let mut inode = Inode::new(0);
        inode.attributes = Some(openable.attributes);
        inode.identity = Some(openable.identity);
        let state = if size == 0 {
            None // There is nothing to read of it, and no cache file.
        } else {
            Some(front.copies.find(&mut self.cache, ino, &openable.identity, size))
        };
        let passed = match state {
            None => None,
            Some(State::Missing) => {
                let then = Then::Opened(Box::new(openable));
                return Upcall(Ask::Open, wire::Request::of(ino), then);
            }
            Some(State::Verified(copy)) => {
                inode.copy = Some(Arc::new(copy));
                inode.copy.clone()
            }
            Some(State::Whole(copy)) if size <= VERIFY_AT_ONCE_BYTES => {
                let Some(stamp) =
                    copy.verify(&front.copies, &mut self.cache, ino, &mut self.scratch)
                else {
                    // The control plane finds out what is wrong, and mends it.
                    Stats::count(&front.stats.unverified);
                    let then = Then::Opened(Box::new(openable));
                    return Upcall(Ask::Open, wire::Request::of(ino), then);
                };
                Stats::count(&front.stats.verified);
                tell_verified(&front.client, ino, stamp.size, stamp.ctime_ns);
                inode.copy = Some(Arc::new(copy));
                inode.copy.clone()
            }
            Some(State::Whole(copy)) => {
                // Whoever finds the queue full tries again at its next OPEN.
                let _ = front.unverified.try_send(ino);
                inode.copy = Some(Arc::new(copy));
                None
            }
        };
        let backing = || match passed {
            Some(copy) if front.passes_through() => front.open_backing(&copy.file),
            _ => 0,
        };
        let handle = front.opened.add(&front.shared, ino, unique, inode, backing);
        self.give(unique, ino, handle, false)
    }

    /// Answer an OPEN with `handle`. `upcalled`: the control plane knows of the access.
    fn give(&self, unique: u64, ino: u64, handle: Option<Handle>, upcalled: bool) -> Outcome {
        let Some(handle) = handle else { return self.refuse(unique, libc::ENFILE) };
        if handle.backing > 0 {
            let kind = if handle.first { AccessKind::Opened } else { AccessKind::Read };
            self.front.client.access(ino, now_ns(), kind);
        } else if !upcalled {
            self.front.client.access(ino, now_ns(), AccessKind::Read);
        }
        self.opened(unique, handle)
    }

    fn opened(&self, unique: u64, handle: Handle) -> Outcome {
        let Handle { fh, backing, .. } = handle;
        let open_flags = if backing > 0 {
            Stats::count(&self.front.stats.opens_passed_through);
            open_flag::PASSTHROUGH | open_flag::NOFLUSH
        } else {
            Stats::count(&self.front.stats.opens_asked);
            open_flag::KEEP_CACHE | open_flag::NOFLUSH // F2
        };
        let out = OpenOut { fh, open_flags, backing_id: backing };
        self.answer(unique, &[out.as_bytes()])
    }

    fn read(&mut self, unique: u64, ino: u64, read: &ReadIn) -> Outcome {
        let front = self.front.clone();
        let inode = front.opened.get(ino);
        let known = inode.as_ref().and_then(|inode| inode.attributes);
        let Some(size) = known.or_else(|| Some(self.names.attributes(&front.rules, ino)?.0)) else {
            return ask_for_bytes(ino, read);
        };
        let end = read.offset.saturating_add(read.size.into()).min(size.size);
        let Some(length) = end.checked_sub(read.offset).filter(|&length| length > 0) else {
            return self.answer(unique, &[]);
        };
        if self.read_copy(inode.as_ref(), ino, size.size, read.offset, length) {
            Stats::count(&front.stats.hits);
            front.stats.hit_bytes.fetch_add(length, Ordering::Relaxed);
            return self.answer(unique, &[&self.buffer]);
        }
        ask_for_bytes(ino, read)
    }

    /// Read `length` bytes of a cached copy into `self.buffer`; false if they are not all here.
    fn read_copy(
        &mut self,
        inode: Option<&Inode>,
        ino: u64,
        size: u64,
        offset: u64,
        length: u64,
    ) -> bool {
        let Some(copy) = self.copy_for(inode, ino, size, offset) else { return false };
        let Ok(length) = usize::try_from(length) else { return false };
        self.buffer.resize(length, 0);
        copy.read(&mut self.cache, ino, offset, &mut self.buffer, &mut self.scratch)
    }

    /// The cached copy of an open inode, opened here if the block at `offset` is in it.
    fn copy_for(
        &mut self,
        inode: Option<&Inode>,
        ino: u64,
        size: u64,
        offset: u64,
    ) -> Option<Arc<Copy>> {
        let inode = inode?;
        if let Some(copy) = &inode.copy {
            return Some(copy.clone());
        }
        self.cache.block(ino, u32::try_from(offset / BLOCK_SIZE).ok()?)?;
        if self.cache.file(ino)?.identity != inode.identity? {
            return None;
        }
        let copy = Arc::new(self.front.copies.open(ino, size)?);
        self.front.opened.set_copy(ino, &copy);
        Some(copy)
    }

    fn release(&self, unique: u64, ino: u64, release: &ReleaseIn) -> Outcome {
        let front = &self.front;
        if let Some(inode) = front.opened.release(&front.shared, &front.device, ino, release.fh) {
            if inode.backing > 0 {
                front.client.access(ino, now_ns(), AccessKind::Released);
            }
            if inode.upcalled > 0 {
                let request = wire::Request { size: inode.upcalled, ..wire::Request::of(ino) };
                front.client.tell(Ask::Close, &request);
            }
        }
        self.answer(unique, &[])
    }

    fn lseek(&mut self, unique: u64, ino: u64, lseek: &LseekIn) -> Outcome {
        let front = self.front.clone();
        let size = match front.opened.get(ino).and_then(|inode| inode.attributes) {
            Some(found) => found.size,
            None => match self.names.attributes(&front.rules, ino) {
                Some((found, _)) => found.size,
                None => return self.refuse(unique, libc::ESTALE),
            },
        };
        // An object has no holes but the one at its end.
        let offset = match lseek.whence.cast_signed() {
            _ if lseek.offset >= size => return self.refuse(unique, libc::ENXIO),
            libc::SEEK_DATA => lseek.offset,
            libc::SEEK_HOLE => size,
            _ => return self.refuse(unique, libc::EINVAL),
        };
        self.answer(unique, &[LseekOut { offset }.as_bytes()])
    }

    // Attributes.

    fn statfs(&mut self, unique: u64) -> Outcome {
        let out = StatfsOut {
            blocks: STATFS_BLOCKS,
            bfree: STATFS_BLOCKS,
            bavail: STATFS_BLOCKS,
            files: self.names.entry_count() + (1 << 32),
            ffree: 1 << 32,
            bsize: 4096,
            frsize: 4096,
            namelen: 255,
            ..Default::default()
        };
        self.answer(unique, &[out.as_bytes()])
    }

    fn getxattr(&self, header: &InHeader, name: &[u8], size: u32) -> Outcome {
        if !name.starts_with(XATTR_PREFIX) {
            // Also security.capability, which the kernel asks for before it runs a file.
            return self.refuse(header.unique, libc::ENODATA);
        }
        let request = wire::Request {
            uid: header.uid,
            tail: name.to_vec(),
            ..wire::Request::of(header.nodeid)
        };
        Upcall(Ask::Getxattr, request, Then::Xattr { size })
    }

    /// Empty on purpose: what a listing shows, `cp -a` copies.
    fn listxattr(&self, unique: u64, size: u32) -> Outcome {
        if size == 0 {
            return self.answer(unique, &[GetxattrOut::default().as_bytes()]);
        }
        self.answer(unique, &[])
    }

    // Answers of the control plane.

    /// Go on with a request whose upcall is answered.
    pub fn answered(&mut self, pending: Pending<Then>, answer: &Answer<'_>) {
        let front = self.front.clone();
        let Pending { slot, part, then, .. } = pending;
        let Some(request) = Request::parse(front.shared.message(&slot)) else {
            front.shared.release(slot);
            return;
        };
        let (unique, ino) = (request.header.unique, request.header.nodeid);
        let bytes = part.as_ref().map_or(&[][..], |part| front.shared.arena(part.at, part.length));
        let outcome = match then {
            Then::Entry if answer.errno == libc::ENOENT => {
                self.answer(unique, &[reply::absence(answer.ttl).as_bytes()])
            }
            _ if answer.errno != 0 => self.refuse(unique, answer.errno),
            Then::Entry => match wire::attributes(answer.tail) {
                Some((found, _)) => {
                    self.answer(unique, &[reply::entry(&found, answer.ttl).as_bytes()])
                }
                None => self.refuse(unique, libc::EIO),
            },
            Then::Attributes => match wire::attributes(answer.tail) {
                Some((found, _)) => {
                    self.answer(unique, &[reply::attr_out(&found, answer.ttl).as_bytes()])
                }
                None => self.refuse(unique, libc::EIO),
            },
            Then::Open => {
                // However short the TTL is, what was just confirmed may be opened.
                let rules = Rules { ttl: Ttl::FOREVER, ..front.rules.clone() };
                match self.names.openable(&rules, ino) {
                    Some(openable) => self.open_confirmed(unique, ino, openable),
                    None => self.refuse(unique, libc::ESTALE), // F3
                }
            }
            Then::Opened(openable) => self.open_upcalled(unique, ino, &openable),
            Then::Read => {
                let bytes = bytes.get(..answer.count as usize);
                bytes.map_or_else(|| self.refuse(unique, libc::EIO), |b| self.answer(unique, &[b]))
            }
            Then::Readdir(asked) => self.readdir_answered(unique, ino, asked, answer, bytes),
            Then::Xattr { size } => self.xattr(unique, size, answer.tail),
            Then::Nothing => self.answer(unique, &[]),
        };
        if let Some(part) = part {
            front.client.give_back(part);
        }
        match outcome {
            Answered => front.shared.release(slot),
            Upcall(ask, request, then) => front.client.call(slot, ask, request, then),
        }
    }

    fn open_upcalled(&self, unique: u64, ino: u64, openable: &Openable) -> Outcome {
        let front = &self.front;
        let mut inode = Inode::new(0);
        inode.attributes = Some(openable.attributes);
        inode.identity = Some(openable.identity);
        inode.upcalled = 1;
        let handle = front.opened.add(&front.shared, ino, unique, inode, || 0);
        self.give(unique, ino, handle, true)
    }

    fn readdir_answered(
        &mut self,
        unique: u64,
        ino: u64,
        asked: reply::DirectoryRequest,
        answer: &Answer<'_>,
        mut bytes: &[u8],
    ) -> Outcome {
        let front = self.front.clone();
        let mut directory = reply::Directory::new(asked.size, asked.plus);
        if asked.offset < DOT_DOT
            && let Some((own, _)) = self.names.attributes(&front.rules, ino)
        {
            for (next, name) in [(DOT, &b"."[..]), (DOT_DOT, b"..")] {
                if asked.offset < next {
                    directory.add(name, &own, Ttl::ZERO, next);
                }
            }
        }
        for _ in 0..answer.count {
            let Some((found, name, rest)) = wire::entry(bytes) else {
                return self.refuse(unique, libc::EIO);
            };
            if !directory.add(name, &found, answer.ttl, found.ino) {
                break;
            }
            bytes = rest;
        }
        self.answer(unique, &[directory.bytes()])
    }

    fn xattr(&self, unique: u64, size: u32, value: &[u8]) -> Outcome {
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        if size == 0 {
            let out = GetxattrOut { size: length, padding: 0 };
            return self.answer(unique, &[out.as_bytes()]);
        }
        if length > size {
            return self.refuse(unique, libc::ERANGE);
        }
        self.answer(unique, &[value])
    }

    // Beside requests.

    /// Verify the copy of `ino` as a whole.
    pub fn verify(&mut self, ino: u64) {
        let front = self.front.clone();
        let Some(inode) = front.opened.get(ino) else { return };
        let Some(copy) = inode.copy else { return };
        match copy.verify(&front.copies, &mut self.cache, ino, &mut self.scratch) {
            Some(stamp) => {
                Stats::count(&front.stats.verified);
                tell_verified(&front.client, ino, stamp.size, stamp.ctime_ns);
            }
            // A reader that comes upon the block asks the control plane for it.
            None => Stats::count(&front.stats.unverified),
        }
    }
}

/// Entries in one answer of the control plane.
const MOST_ENTRIES: u32 = 1000;
/// Attributes, the length of a name, and the longest name.
const LONGEST_ENTRY: u64 = 40 + 2 + 255;

fn change(ino: u64, code: u32) -> Outcome {
    let request = wire::Request { size: code, ..wire::Request::of(ino) };
    Upcall(Ask::Change, request, Then::Nothing)
}

fn ask_for_bytes(ino: u64, read: &ReadIn) -> Outcome {
    let request = wire::Request {
        offset: read.offset,
        size: read.size,
        arena_length: read.size.into(),
        ..wire::Request::of(ino)
    };
    Upcall(Ask::Read, request, Then::Read)
}

fn tell_verified(client: &Client<Then>, ino: u64, size: u64, ctime_ns: i64) {
    let request = wire::Request {
        offset: ctime_ns.cast_unsigned(),
        arena_at: size,
        ..wire::Request::of(ino)
    };
    client.tell(Ask::Verified, &request);
}

const _: () = assert!(ROOT_ID == ROOT_INO);
