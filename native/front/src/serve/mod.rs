//! From a request of the kernel's to its answer.
//!
//! `Worker::serve` reads a request into a slot and decides: either it is answered at once, from the
//! index and the cache, or its slot stays busy: until `Worker::answered`, if it became an upcall;
//! until `Worker::go_on`, if it waits for bytes from the lake.
//! One OPEN and its READs, of a file that is cached:
//!
//! ```text
//! decide -> open -> NamesReader::openable   is the version confirmed?    no: upcall CONFIRM
//!                -> OpenInodes::join        open already: one more handle
//!                -> Worker::verified_copy   whole and verified?          no: a small one is fetched
//!                -> OpenInodes::add         a backing id: the kernel reads by itself from now on
//! decide -> read -> Cache::plan             without one: blocks          not here: flights
//!                -> Copy::read              verified
//! ```
//!
//! `names`, `open`, `read` and `write` have the operations.
//!
//! The promises are those of `tierfs/fs/operations.py`; so are the facts F1..F4 that it names.

mod names;
mod open;
mod read;
mod stall;
mod write;

use std::sync::Arc;

use names::Unlisted;
use read::Reading;
use stall::Stall;
use write::{after_change, hand_over};
use zerocopy::IntoBytes;

use crate::attributes::{Rules, Ttl};
use crate::cache::flight::{Flight, Until, Waiting};
use crate::cache::table::Held;
use crate::front::Front;
use crate::fuse::abi::{InHeader, OpenOut, ROOT_ID, init_flag};
use crate::fuse::request::{DirectoryRequest, Operation, Request};
use crate::fuse::{init, reply};
use crate::index::cache::CacheReader;
use crate::index::journal::{Journal, JournalReader};
use crate::index::names::{NamesReader, Openable};
use crate::index::records::ROOT_INO;
use crate::log;
use crate::shared::Slot;
use crate::stats::Stats;
use crate::sys::device::Received;
use crate::upcall::client::Pending;
use crate::upcall::wire::{self, Answer, Ask};

/// What a thread that reads only now and then keeps for the next time.
const LARGE_BUFFER: usize = 64 << 10;

/// What becomes of an answer to an upcall.
#[derive(Debug)]
pub enum Then {
    Entry,
    Attributes,
    /// The version is confirmed: open it.
    Open,
    /// An OPEN that the control plane decides about.
    Handed {
        flags: u32,
    },
    Created,
    /// A directory or a link.
    Made,
    /// A link's target.
    Target,
    Readdir(DirectoryRequest),
    Xattr {
        size: u32,
    },
    /// Only an errno.
    Nothing,
}

/// An OPEN or a CREATE that goes on where its upcall is answered.
pub enum Opening {
    /// The version is confirmed.
    Confirmed(Slot),
    /// The control plane has decided about it.
    Told(Slot, Told),
}

/// What the control plane has decided about an OPEN or a CREATE. It counts for as long as the
/// session goes on: the next control plane knows of a handle only if it was there when it asked.
pub struct Told {
    session: u64,
    then: Then,
    count: u32,
    ttl: Ttl,
    tail: Vec<u8>,
}

/// What becomes of a request when the flights that it waits for are over.
enum After {
    Open(Box<(Openable, Held)>),
    Read(Held, Reading),
}

/// What a request came to.
enum Outcome {
    Answered,
    Upcall(Ask, wire::Request, Then),
    /// For the bytes of these; nobody waits for the cache disk.
    Wait(Vec<Arc<Flight>>, After),
}

use Outcome::{Answered, Upcall, Wait};

/// One thread's part of the front.
pub struct Worker {
    front: Arc<Front>,
    names: NamesReader,
    cache: CacheReader,
    /// Where there are write-back directories.
    journal: Option<JournalReader>,
    /// For the bytes of a READ, and for blocks that are verified.
    buffer: Vec<u8>,
    scratch: Vec<u8>,
}

impl Worker {
    pub fn new(front: Arc<Front>) -> Self {
        let (names, cache) = (front.names.reader(), front.cache.index.reader());
        let journal = front.journal.as_ref().map(Journal::reader);
        Self { front, names, cache, journal, buffer: Vec::new(), scratch: Vec::new() }
    }

    /// Free what a large request has left; there are many threads that see one now and then.
    pub fn forget_large_buffers(&mut self) {
        for buffer in [&mut self.buffer, &mut self.scratch] {
            if buffer.capacity() > LARGE_BUFFER {
                *buffer = Vec::new();
            }
        }
    }

    /// A version, as `NamesReader::openable` says.
    pub fn openable(&mut self, rules: &Rules, ino: u64) -> Option<Openable> {
        self.names.openable(rules, ino)
    }

    /// This thread's reader of `cache/`.
    pub fn cache_reader(&mut self) -> &mut CacheReader {
        &mut self.cache
    }

    /// Answer requests until the connection ends.
    pub fn run(&mut self, on_turn: impl Fn(bool)) -> std::io::Result<()> {
        loop {
            on_turn(false);
            let mut slot = self.front.shared.take();
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
        let outcome = self.decide(&request);
        self.settle(slot, outcome);
    }

    fn settle(&mut self, slot: Slot, outcome: Outcome) {
        let front = self.front.clone();
        match outcome {
            Answered => front.shared.release(slot), // S2, S3
            Upcall(ask, request, then) => {
                Stats::count(&front.stats.upcalls);
                front.client.call(slot, ask, request, then);
            }
            Wait(flights, after) => {
                let stall = Stall::begin(&front, &slot, &after, &flights);
                let task = Box::new(move |worker: &mut Self, flights: &[Arc<Flight>]| {
                    worker.go_on(slot, after, flights);
                    stall.tell(&worker.front);
                });
                Waiting::until(Until::Done, flights, task, self);
            }
        }
    }

    /// Go on with an OPEN or a CREATE whose upcall is answered; may wait for the disk.
    pub fn go_on_opening(&mut self, opening: Opening) {
        let (Opening::Confirmed(slot) | Opening::Told(slot, _)) = &opening;
        let front = self.front.clone();
        let Some(request) = Request::parse(front.shared.message(slot)) else {
            let (Opening::Confirmed(slot) | Opening::Told(slot, _)) = opening;
            front.shared.release(slot);
            return;
        };
        // What came of it is the request's, whose slot is the one that it came in.
        let outcome = match &opening {
            Opening::Confirmed(_) => self.confirmed(&request.header),
            Opening::Told(_, told) => match told.then {
                Then::Handed { flags } => self.handed_back(&request, flags, told),
                _ => self.created(&request, told),
            },
        };
        let (Opening::Confirmed(slot) | Opening::Told(slot, _)) = opening;
        self.settle(slot, outcome);
    }

    fn confirmed(&mut self, header: &InHeader) -> Outcome {
        let front = self.front.clone();
        // However short the TTL is, what was just confirmed may be opened.
        let rules = Rules { ttl: Ttl::FOREVER, ..front.rules.clone() };
        match self.names.openable(&rules, header.nodeid) {
            Some(openable) => self.open_confirmed(header, openable),
            None => self.refuse(header.unique, libc::ESTALE), // F3
        }
    }

    /// Go on with a request whose flights are over.
    fn go_on(&mut self, slot: Slot, after: After, flights: &[Arc<Flight>]) {
        let front = self.front.clone();
        let Some(request) = Request::parse(front.shared.message(&slot)) else {
            front.shared.release(slot);
            return;
        };
        let (unique, ino) = (request.header.unique, request.header.nodeid);
        let outcome = match after {
            After::Open(opening) => {
                let (version, object) = *opening;
                self.open_fetched(unique, ino, version, object, flights)
            }
            After::Read(object, reading) => self.read_fetched(unique, object, reading, flights),
        };
        self.settle(slot, outcome);
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
            Operation::Readlink => Upcall(Ask::Readlink, wire::Request::of(ino), Then::Target),
            &Operation::Open { flags } => self.open(request, flags),
            Operation::Read(read) => self.read(unique, ino, read),
            Operation::Release(release) => self.release(unique, ino, release),
            Operation::Statfs => self.statfs(unique),
            &Operation::Getxattr { name, size } => self.getxattr(header, name, size),
            &Operation::Listxattr { size } => self.listxattr(unique, ino, size),
            Operation::Opendir => self.answer(unique, &[OpenOut::default().as_bytes()]),
            &Operation::Readdir(asked) => self.readdir(unique, ino, asked, Unlisted::MayComeToBe),
            Operation::Lseek(lseek) => self.lseek(unique, ino, lseek),
            &Operation::Flush { fh } => self.flush(request, fh),
            Operation::Fallocate(asked) => self.allocate(request, asked),
            Operation::Nothing => self.answer(unique, &[]), // F1
            Operation::Unanswered => Answered,
            Operation::Change => hand_over(request, after_change(header.opcode)),
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
        if self.front.journal.is_some() && agreed & init_flag::PASSTHROUGH == 0 {
            log::error(
                "write-back directories need a kernel that passes files through (Linux 6.9, \
                 CAP_SYS_ADMIN); mount with front=python",
            );
            return self.refuse(unique, libc::EPROTO);
        }
        self.front.shared.set_init_flags(agreed);
        let outcome = self.answer(unique, &[out.as_bytes()]);
        log::info(&format!("the kernel and we use {}", init::names(agreed)));
        let _ = self.front.ready.set(());
        outcome
    }

    /// Go on with a request whose upcall is answered.
    pub fn answered(&mut self, pending: Pending<Then>, answer: &Answer<'_>) {
        let front = self.front.clone();
        let Pending { slot, part, then, session } = pending;
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
            Then::Entry | Then::Made => match wire::attributes(answer.tail) {
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
            // These have no part of the arena.
            Then::Open => return front.open_soon(Opening::Confirmed(slot)),
            Then::Handed { .. } | Then::Created => {
                let Answer { count, ttl, tail, .. } = *answer;
                let told = Told { session, then, count, ttl, tail: tail.into() };
                return front.open_soon(Opening::Told(slot, told));
            }
            Then::Target => self.answer(unique, &[answer.tail]),
            Then::Readdir(asked) => self.readdir_answered(unique, ino, asked, answer, bytes),
            Then::Xattr { size } => self.xattr(unique, size, answer.tail),
            Then::Nothing => self.answer(unique, &[]),
        };
        if let Some(part) = part {
            front.client.give_back(part);
        }
        self.settle(slot, outcome);
    }
}

const _: () = assert!(ROOT_ID == ROOT_INO);
