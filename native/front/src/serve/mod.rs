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
//! `names`, `open` and `read` have the operations.
//!
//! The promises are those of `tierfs/fs/operations.py`; so are the facts F1..F4 that it names.

mod names;
mod open;
mod read;

use std::sync::Arc;

use read::Reading;
use zerocopy::IntoBytes;

use crate::attributes::{Rules, Ttl};
use crate::cache::flight::{Flight, Until, Waiting};
use crate::cache::table::Held;
use crate::front::Front;
use crate::fuse::abi::{OpenOut, ROOT_ID};
use crate::fuse::request::{Operation, Request};
use crate::fuse::{init, reply};
use crate::index::cache::CacheReader;
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
    Readdir(reply::DirectoryRequest),
    Xattr {
        size: u32,
    },
    /// Only an errno.
    Nothing,
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
    Wait(Vec<Arc<Flight>>, Until, After),
}

use Outcome::{Answered, Upcall, Wait};

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
        let (names, cache) = (front.names.reader(), front.cache.index.reader());
        Self { front, names, cache, buffer: Vec::new(), scratch: Vec::new() }
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
            Wait(flights, until, after) => {
                let task = Box::new(move |worker: &mut Self, flights: &[Arc<Flight>]| {
                    worker.go_on(slot, after, flights);
                });
                Waiting::until(until, flights, task, self);
            }
        }
    }

    /// Go on with an OPEN whose version was just confirmed.
    pub fn confirmed(&mut self, slot: Slot) {
        let front = self.front.clone();
        let Some(request) = Request::parse(front.shared.message(&slot)) else {
            front.shared.release(slot);
            return;
        };
        let header = &request.header;
        // However short the TTL is, what was just confirmed may be opened.
        let rules = Rules { ttl: Ttl::FOREVER, ..front.rules.clone() };
        let outcome = match self.names.openable(&rules, header.nodeid) {
            Some(openable) => self.open_confirmed(header, openable),
            None => self.refuse(header.unique, libc::ESTALE), // F3
        };
        self.settle(slot, outcome);
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

    /// Go on with a request whose upcall is answered.
    pub fn answered(&mut self, pending: Pending<Then>, answer: &Answer<'_>) {
        let front = self.front.clone();
        let Pending { slot, part, then } = pending;
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
            Then::Open => return front.open_soon(slot), // It has no part of the arena.
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

fn change(ino: u64, code: u32) -> Outcome {
    let request = wire::Request { size: code, ..wire::Request::of(ino) };
    Upcall(Ask::Change, request, Then::Nothing)
}

const _: () = assert!(ROOT_ID == ROOT_INO);
