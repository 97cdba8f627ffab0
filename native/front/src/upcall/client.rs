//! Upcalls under way: sent to the control plane, kept until it answers, sent again to the next one.
//!
//! ```text
//!   call() --> pending --send--> control plane --answer--> pump() --> the caller of `pump`
//!                ^  |                 |
//!                |  `- no room in the arena, in the socket, no session: sent later
//!                `---- resume(): a new control plane gets all of them again
//! ```
//!
//! Invariants:
//!
//! U1. An upcall is pending until its answer is taken. Its slot stays busy meanwhile, so that it
//!     outlives this process, too.
//! U2. Messages carry the session in which they were said, and each side drops those of another
//!     one. A session begins with START here and HELLO there; from START on the control plane
//!     writes into the arena for this session alone. So no late answer of an earlier life, on
//!     either side, finds its way into a part of the arena that has another holder by now.
//! U3. Nothing here waits for the control plane: what finds no room in the socket is queued, in
//!     order. The queue is bounded by the slots and by the threads that fetch; accesses are dropped
//!     when it is long. Only who says so waits for an answer (`Client::ask`).

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::wire::{
    AccessKind, Answer, Ask, Hello, Incoming, OpenHandle, Request, Space, What, push_access,
    push_handle, set_session,
};
use crate::arena::{Arena, Part};
use crate::cache::adopt::Adoption;
use crate::cache::evict::Victim;
use crate::gate::Gate;
use crate::queue::Priority;
use crate::shared::{ARENA_AT, ARENA_BYTES, Slot};
use crate::sys::{self, socket::Socket};

/// Accesses in one message: the control plane takes some 50 us for each, and whoever waits for it
/// meanwhile is to have their turn.
const ACCESSES: usize = 64;
/// How long the first of them waits for others: what is fetched ahead goes by where readers are.
const COMPANY_NS: i64 = 25_000_000;
/// Messages that may wait for a control plane that does not listen before nothing is reported.
const MOST_OUTGOING: usize = 1024;
const ACCESS_BYTES: usize = 24;
/// Handles in one message.
const HANDLES: usize = 1024;
/// Messages taken in a row before whoever pumps does something else.
const MESSAGES: usize = 256;

/// A request of the kernel's that waited for an answer to an upcall; `then` says what becomes of it.
pub struct Pending<T> {
    pub slot: Slot,
    pub part: Option<Part>,
    pub then: T,
    /// In which it was answered.
    pub session: u64,
}

/// An answer to a thread that waited for it. Whoever has it gives the part of the arena back.
#[derive(Debug)]
pub struct Reply {
    pub errno: i32,
    pub count: u32,
    pub tail: Vec<u8>,
    pub part: Option<Part>,
}

/// Who wants the answer to an upcall.
enum Caller<T> {
    Request { slot: Slot, then: T },
    Thread(Gate<Reply>),
}

/// An upcall that is not answered.
struct Call<T> {
    caller: Caller<T>,
    part: Option<Part>,
    ask: Ask,
    request: Request,
}

/// Something that the control plane wants done, to be answered by `Client::done`. The next control
/// plane counts its commands anew, so each belongs to its session.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    session: u64,
    id: u64,
}

/// What `Client::pump` found.
pub enum Event<'a, T> {
    Answered(Pending<T>, Answer<'a>),
    /// A control plane has started: begin a session with it.
    Ready,
    /// The session that was begun is answered. To be followed by `resume`.
    Hello(Hello, &'a [u8]),
    ForgetEntry {
        command: Command,
        parent: u64,
        name: &'a [u8],
    },
    ForgetContent {
        command: Command,
        ino: u64,
    },
    Stats {
        command: Command,
    },
    /// Where the lake is.
    Source(&'a [u8]),
    Fetch {
        command: Command,
        ino: u64,
        lo: u64,
        hi: u64,
        priority: Priority,
    },
    Evict {
        command: Command,
        victims: Vec<Victim>,
    },
    Invalidate {
        command: Command,
        ino: u64,
    },
    Resize {
        command: Command,
        limit: Option<u64>,
    },
    Fill {
        command: Command,
        inos: Vec<u64>,
    },
    Adopt {
        command: Command,
        adoption: Adoption,
    },
    Renamed {
        command: Command,
        ino: u64,
        old: [u8; 16],
        new: [u8; 16],
    },
    Space(Space),
}

struct State<T> {
    /// Of the last START.
    session: u64,
    /// Whether HELLO has answered it.
    met: bool,
    next_id: u64,
    pending: HashMap<u64, Call<T>>,
    /// Messages that found no room in the socket.
    outgoing: VecDeque<Vec<u8>>,
    /// Pending ones that found no room in the arena.
    starved: VecDeque<u64>,
    accesses: Vec<u8>,
    /// When the first of these was.
    accesses_since_ns: i64,
    /// What is to be told of files that came into use or went out of it: their last state.
    usage: HashMap<u64, bool>,
}

impl<T> State<T> {
    /// Whether the control plane hears of accesses now.
    fn is_told(&self) -> bool {
        self.met && self.outgoing.len() < MOST_OUTGOING
    }
}

pub struct Client<T> {
    socket: Socket,
    arena: Arena,
    state: Mutex<State<T>>,
}

impl<T> Client<T> {
    pub fn new(socket: Socket) -> Self {
        let state = State {
            session: 0,
            met: false,
            next_id: 1,
            pending: HashMap::new(),
            outgoing: VecDeque::new(),
            starved: VecDeque::new(),
            accesses: Vec::new(),
            accesses_since_ns: 0,
            usage: HashMap::new(),
        };
        Self { socket, arena: Arena::default(), state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many upcalls wait for an answer.
    pub fn waiting(&self) -> usize {
        self.lock().pending.len()
    }

    // Sessions.

    /// Begin `session`: what is said in an earlier one counts no more. HELLO is to follow.
    pub fn start(&self, session: u64) {
        let mut state = self.lock();
        state.session = session;
        state.met = false;
        state.outgoing.clear();
        state.starved.clear();
        // `Front::tell_what_is_open` follows, and is told first.
        state.accesses.clear();
        state.usage.clear();
        let start = Request {
            offset: ARENA_AT as u64,
            arena_length: ARENA_BYTES as u64,
            ..Default::default()
        };
        self.send(&mut state, start.encode(Ask::Start, session, 0));
    }

    /// HELLO has come: say what is in use, then again what was not answered, the oldest first.
    pub fn resume(&self) {
        let mut state = self.lock();
        state.met = true;
        self.flush(&mut state);
        let mut ids: Vec<u64> = state.pending.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.submit(&mut state, id);
        }
    }

    /// Whether no session has begun since `session` did: whoever answered in it is there, as far as
    /// is known, and a later one has not been told yet what is open.
    pub fn is_current(&self, session: u64) -> bool {
        self.lock().session == session
    }

    // Out.

    /// Ask the control plane, for the request in `slot`. The answer comes out of `pump`.
    pub fn call(&self, slot: Slot, ask: Ask, request: Request, then: T) {
        self.submit_new(Caller::Request { slot, then }, ask, request);
    }

    /// Ask the control plane, and wait for the answer, over its deaths, too. `None`: it did not come
    /// within `patience`, which is for requests without a part of the arena. Not for the thread that
    /// calls `pump`.
    pub fn ask(&self, ask: Ask, request: Request, patience: Option<Duration>) -> Option<Reply> {
        let gate = Gate::default();
        let id = self.submit_new(Caller::Thread(gate.clone()), ask, request);
        let reply = gate.wait(patience);
        if reply.is_none() {
            self.lock().pending.remove(&id);
        }
        reply
    }

    fn submit_new(&self, caller: Caller<T>, ask: Ask, request: Request) -> u64 {
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.pending.insert(id, Call { caller, part: None, ask, request });
        if state.met {
            self.submit(&mut state, id);
        }
        id
    }

    /// Answer a command; nobody hears it if its session is over.
    pub fn done(&self, command: Command, errno: u32, answer: &[u8]) {
        let mut state = self.lock();
        if command.session != state.session {
            return;
        }
        let done = Request { size: errno, tail: answer.to_vec(), ..Default::default() };
        let message = done.encode(Ask::Done, state.session, command.id);
        self.send(&mut state, message);
    }

    /// Report an access by process `pid`, with the next message of them. `at_ns`: now.
    pub fn access(&self, ino: u64, at_ns: i64, pid: u32) {
        self.tell(at_ns, |tail| push_access(tail, ino, at_ns, AccessKind::Read, pid));
    }

    /// Report, with the next message of accesses, that an OPEN or a READ by process `pid` has waited
    /// `waited_ns` for so many bytes from the lake. `at_ns`: now.
    pub fn stalled(&self, bytes: u64, waited_ns: i64, at_ns: i64, pid: u32) {
        self.tell(at_ns, |tail| push_access(tail, bytes, waited_ns, AccessKind::Stall, pid));
    }

    fn tell(&self, at_ns: i64, push: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock();
        if state.is_told() {
            if state.accesses.is_empty() {
                state.accesses_since_ns = at_ns;
            }
            self.add_access(&mut state, push);
            self.send_due(&mut state, at_ns);
        }
    }

    fn add_access(&self, state: &mut State<T>, push: impl FnOnce(&mut Vec<u8>)) {
        push(&mut state.accesses);
        if state.accesses.len() >= ACCESSES * ACCESS_BYTES {
            self.send_accesses(state);
        }
    }

    fn send_due(&self, state: &mut State<T>, at_ns: i64) {
        if at_ns.saturating_sub(state.accesses_since_ns) >= COMPANY_NS {
            self.send_accesses(state);
        }
    }

    /// Report that a file is in use here, or not any more, with the next message of accesses. The
    /// caller holds the lock under which that is so, so that the last word is the right one.
    pub fn usage(&self, ino: u64, used: bool) {
        self.lock().usage.insert(ino, used);
    }

    /// Send accesses that have waited for company for long enough. `at_ns`: now.
    pub fn flush_due(&self, at_ns: i64) {
        self.send_due(&mut self.lock(), at_ns);
    }

    /// Send what waits for company: accesses, and what came into use or went out of it.
    pub fn flush_accesses(&self) {
        self.flush(&mut self.lock());
    }

    fn flush(&self, state: &mut State<T>) {
        if !state.is_told() {
            return;
        }
        for (ino, used) in std::mem::take(&mut state.usage) {
            let kind = if used { AccessKind::Open } else { AccessKind::Released };
            self.add_access(state, |tail| push_access(tail, ino, 0, kind, 0));
        }
        self.send_accesses(state);
    }

    /// Say that a handle of a staging file is closed.
    pub fn released(&self, ino: u64, unique: u64) {
        let mut state = self.lock();
        // Who begins the next session hears of all that are open.
        if state.met {
            let request = Request { offset: unique, ..Request::of(ino) };
            let message = request.encode(Ask::Released, state.session, 0);
            self.send(&mut state, message);
        }
    }

    /// Say, at the beginning of a session, which handles of staging files are open, and which
    /// requests are under way. Between HELLO and `resume`.
    pub fn tell_handles(&self, handles: &[OpenHandle]) {
        let mut state = self.lock();
        let mut pages = handles.chunks(HANDLES).peekable();
        loop {
            let page = pages.next().unwrap_or_default();
            let mut tail = Vec::with_capacity(page.len() * ACCESS_BYTES);
            for &handle in page {
                push_handle(&mut tail, handle);
            }
            let last = pages.peek().is_none();
            let request = Request { size: last.into(), tail, ..Default::default() };
            let message = request.encode(Ask::Handles, state.session, 0);
            self.send(&mut state, message);
            if last {
                return;
            }
        }
    }

    fn send_accesses(&self, state: &mut State<T>) {
        if state.accesses.is_empty() {
            return;
        }
        let tail = std::mem::take(&mut state.accesses);
        let request = Request { tail, ..Default::default() };
        let message = request.encode(Ask::Accesses, state.session, 0);
        self.send(state, message);
    }

    /// Send a pending upcall, or leave it among the starved.
    fn submit(&self, state: &mut State<T>, id: u64) {
        let session = state.session;
        let Some(pending) = state.pending.get_mut(&id) else { return };
        let wanted = usize::try_from(pending.request.arena_length).unwrap_or(usize::MAX);
        if wanted > 0 && pending.part.is_none() {
            let Some(part) = self.arena.take(wanted) else {
                state.starved.push_back(id);
                return;
            };
            pending.request.arena_at = part.at as u64;
            pending.part = Some(part);
        }
        let message = pending.request.encode(pending.ask, session, id);
        self.send(state, message);
    }

    fn send(&self, state: &mut State<T>, mut message: Vec<u8>) {
        set_session(&mut message, state.session);
        // An error is that of a socket whose other end is closed: the keeper's end, so ours is near.
        if !state.outgoing.is_empty() || !self.socket.send(&message).unwrap_or(true) {
            state.outgoing.push_back(message); // U3
        }
    }

    /// A part of the arena is not needed any more.
    pub fn give_back(&self, part: Part) {
        self.arena.give_back(part);
        let mut state = self.lock();
        for id in std::mem::take(&mut state.starved) {
            self.submit(&mut state, id);
        }
    }

    // In.

    /// Wait up to `timeout_ms` for messages, which are read into `buffer` (`LONGEST`), send what found no room,
    /// and hand each event to `take`. The error is the end: the keeper is gone.
    pub fn pump(
        &self,
        buffer: &mut [u8],
        timeout_ms: i32,
        mut take: impl FnMut(Event<'_, T>),
    ) -> io::Result<()> {
        let queued = !self.lock().outgoing.is_empty();
        let (_, writable) = sys::wait(self.socket.as_fd(), queued, timeout_ms);
        if writable {
            self.send_outgoing();
        }
        for _ in 0..MESSAGES {
            let Some(message) = self.socket.receive(buffer)? else { break };
            if let Some(event) = self.event(message) {
                // What is said behind HELLO is for whoever serves, who may not be there yet.
                let last = matches!(event, Event::Hello(..));
                take(event);
                if last {
                    break;
                }
            }
        }
        Ok(())
    }

    fn send_outgoing(&self) {
        let mut state = self.lock();
        while let Some(message) = state.outgoing.front() {
            if !self.socket.send(message).unwrap_or(true) {
                return;
            }
            state.outgoing.pop_front();
        }
    }

    fn event<'a>(&self, message: &'a [u8]) -> Option<Event<'a, T>> {
        let incoming = Incoming::parse(message)?;
        let id = incoming.id;
        if matches!(incoming.what, What::Ready) {
            return Some(Event::Ready);
        }
        let mut state = self.lock();
        if incoming.session != state.session {
            return None; // U2
        }
        let command = Command { session: incoming.session, id };
        match incoming.what {
            What::Hello(hello, tail) => Some(Event::Hello(hello, tail)),
            What::ForgetEntry { parent, name } => {
                Some(Event::ForgetEntry { command, parent, name })
            }
            What::ForgetContent { ino } => Some(Event::ForgetContent { command, ino }),
            What::Stats => Some(Event::Stats { command }),
            What::Source(tail) => Some(Event::Source(tail)),
            What::Fetch { ino, lo, hi, priority } => {
                Some(Event::Fetch { command, ino, lo, hi, priority })
            }
            What::Evict(victims) => Some(Event::Evict { command, victims }),
            What::Invalidate { ino } => Some(Event::Invalidate { command, ino }),
            What::Resize { limit } => Some(Event::Resize { command, limit }),
            What::Fill(inos) => Some(Event::Fill { command, inos }),
            What::Adopt(adoption) => Some(Event::Adopt { command, adoption }),
            What::Renamed { ino, old, new } => Some(Event::Renamed { command, ino, old, new }),
            What::Space(space) => Some(Event::Space(space)),
            What::Answer(answer) => {
                let Call { caller, part, .. } = state.pending.remove(&id)?;
                match caller {
                    Caller::Request { slot, then } => {
                        let session = incoming.session;
                        Some(Event::Answered(Pending { slot, part, then, session }, answer))
                    }
                    Caller::Thread(gate) => {
                        let Answer { errno, count, tail, .. } = answer;
                        gate.give(Reply { errno, count, tail: tail.to_vec(), part });
                        None
                    }
                }
            }
            What::Ready => None,
        }
    }
}

#[cfg(test)]
mod tests;
