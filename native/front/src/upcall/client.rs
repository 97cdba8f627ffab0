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
//!     order. The queue is bounded by the slots; accesses and notes are dropped when it is long.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::wire::{AccessKind, Answer, Ask, Incoming, Request, What, push_access, set_session};
use crate::arena::{Arena, Part};
use crate::attributes::Rules;
use crate::shared::{ARENA_AT, ARENA_BYTES, Slot};
use crate::sys::{self, socket::Socket};

/// Accesses in one message.
const ACCESSES: usize = 1024;
const ACCESS_BYTES: usize = 24;

/// A request of the kernel's that waits for an answer to an upcall; `then` says what becomes of it.
pub struct Pending<T> {
    pub slot: Slot,
    pub part: Option<Part>,
    pub then: T,
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
    Hello(Rules, std::path::PathBuf),
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
}

struct State<T> {
    /// Of the last START.
    session: u64,
    /// Whether HELLO has answered it.
    met: bool,
    next_id: u64,
    pending: HashMap<u64, Pending<T>>,
    /// Messages that found no room in the socket.
    outgoing: VecDeque<Vec<u8>>,
    /// Pending ones that found no room in the arena.
    starved: VecDeque<u64>,
    accesses: Vec<u8>,
    /// What is to be told of files that came into use or went out of it: their last state.
    usage: HashMap<u64, bool>,
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
        // `Front::tell_what_is_open` follows.
        state.accesses.clear();
        state.usage.clear();
        let start = Request {
            offset: ARENA_AT as u64,
            arena_length: ARENA_BYTES as u64,
            ..Default::default()
        };
        self.send(&mut state, start.encode(Ask::Start, session, 0));
    }

    /// HELLO has come: say again what was not answered, the oldest first.
    pub fn resume(&self) {
        let mut state = self.lock();
        state.met = true;
        let mut ids: Vec<u64> = state.pending.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.submit(&mut state, id);
        }
    }

    // Out.

    /// Ask the control plane, for the request in `slot`. The answer comes out of `pump`.
    pub fn call(&self, slot: Slot, ask: Ask, request: Request, then: T) {
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.pending.insert(id, Pending { slot, part: None, then, ask, request });
        if state.met {
            self.submit(&mut state, id);
        }
    }

    /// Say something that needs no answer. A note of a read, or of a verification, is
    /// dropped where many messages wait (U3): the first is of use at once or not at all, the second
    /// is made again.
    pub fn tell(&self, ask: Ask, request: &Request) {
        let mut state = self.lock();
        let spare = matches!(ask, Ask::Note | Ask::Verified);
        if state.met && !(spare && state.outgoing.len() >= ACCESSES) {
            let message = request.encode(ask, state.session, 0);
            self.send(&mut state, message);
        }
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

    /// Report an access, with the next message of them.
    pub fn access(&self, ino: u64, at_ns: i64) {
        let mut state = self.lock();
        if state.met && state.outgoing.len() < ACCESSES {
            push_access(&mut state.accesses, ino, at_ns, AccessKind::Read);
            if state.accesses.len() >= ACCESSES * ACCESS_BYTES {
                self.send_accesses(&mut state);
            }
        }
    }

    /// Report that a file is in use here, or not any more, with the next message of accesses. The
    /// caller holds the lock under which that is so, so that the last word is the right one.
    pub fn usage(&self, ino: u64, used: bool) {
        self.lock().usage.insert(ino, used);
    }

    /// Send what waits for company: accesses, and what came into use or went out of it.
    pub fn flush_accesses(&self) {
        let mut state = self.lock();
        if !state.met || state.outgoing.len() >= ACCESSES {
            return;
        }
        for (ino, used) in std::mem::take(&mut state.usage) {
            let kind = if used { AccessKind::Open } else { AccessKind::Released };
            push_access(&mut state.accesses, ino, 0, kind);
            if state.accesses.len() >= ACCESSES * ACCESS_BYTES {
                self.send_accesses(&mut state);
            }
        }
        self.send_accesses(&mut state);
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
        if let Some(id) = state.starved.pop_front() {
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
            self.flush();
        }
        while let Some(message) = self.socket.receive(buffer)? {
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

    fn flush(&self) {
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
            What::Hello { rules, lake_directory } => Some(Event::Hello(rules, lake_directory)),
            What::ForgetEntry { parent, name } => {
                Some(Event::ForgetEntry { command, parent, name })
            }
            What::ForgetContent { ino } => Some(Event::ForgetContent { command, ino }),
            What::Stats => Some(Event::Stats { command }),
            What::Answer(answer) => Some(Event::Answered(state.pending.remove(&id)?, answer)),
            What::Ready => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{FromRawFd, OwnedFd};

    use super::*;
    use crate::shared::Shared;
    use crate::upcall::wire::LONGEST;

    const MIB: u64 = 1 << 20;

    /// A client, slots for its calls, and the control plane's end of the socket.
    struct World {
        client: Client<u32>,
        shared: Shared,
        control: Socket,
        buffer: Vec<u8>,
    }

    impl World {
        fn new() -> Self {
            let mut ends = [0; 2];
            // SAFETY: room for two descriptors, which are nobody else's; a memfd likewise.
            let (ours, theirs, memory) = unsafe {
                let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
                assert_eq!(libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()), 0);
                let memfd = libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC);
                assert!(memfd >= 0);
                (
                    OwnedFd::from_raw_fd(ends[0]),
                    OwnedFd::from_raw_fd(ends[1]),
                    OwnedFd::from_raw_fd(memfd),
                )
            };
            let shared = Shared::map(memory).unwrap();
            shared.scan(|_| false);
            Self {
                client: Client::new(Socket::new(ours)),
                shared,
                control: Socket::new(theirs),
                buffer: vec![0; LONGEST],
            }
        }

        fn call(&self, ino: u64, arena_length: u64) {
            let request = Request { arena_length, ..Request::of(ino) };
            let then = u32::try_from(ino).unwrap();
            self.client.call(self.shared.take(), Ask::Read, request, then);
        }

        /// Kind, session, id, ino and place in the arena of what the control plane receives next.
        fn heard(&mut self) -> Option<(u16, u64, u64, u64, u64)> {
            let message = self.control.receive(&mut self.buffer).unwrap()?;
            let at = |at: usize| u64::from_le_bytes(message[at..at + 8].try_into().unwrap());
            let kind = u16::from_le_bytes(message[2..4].try_into().unwrap());
            Some((kind, at(8), at(16), at(24), at(48)))
        }

        /// What the control plane says: an answer, or HELLO.
        fn say(&self, kind: u16, session: u64, id: u64, tail: &[u8]) {
            let mut message = vec![1, 0];
            message.extend(kind.to_le_bytes());
            message.extend(u32::try_from(40 + tail.len()).unwrap().to_le_bytes());
            message.extend(session.to_le_bytes());
            message.extend(id.to_le_bytes());
            message.resize(40, 0);
            message.extend(tail);
            assert!(self.control.send(&message).unwrap());
        }

        fn hello(&mut self, session: u64) {
            self.say(0x4001, session, 0, &[0; 48]);
            let mut met = false;
            let take = |event: Event<'_, u32>| met = matches!(event, Event::Hello(..));
            self.client.pump(&mut self.buffer, 1000, take).unwrap();
            assert!(met);
            self.client.resume();
        }

        /// What the calls were for whose answers have come, and their parts.
        fn answered(&mut self) -> Vec<(u32, Option<Part>)> {
            let mut found = Vec::new();
            let take = |event: Event<'_, u32>| {
                if let Event::Answered(pending, _) = event {
                    self.shared.release(pending.slot);
                    found.push((pending.then, pending.part));
                }
            };
            self.client.pump(&mut self.buffer, 10, take).unwrap();
            found
        }
    }

    #[test]
    fn calls_wait_for_a_session() {
        let mut world = World::new();
        world.call(16, 0);
        assert_eq!(world.heard(), None);
        world.client.start(1);
        assert_eq!(world.heard().unwrap().0, Ask::Start as u16);
        world.hello(1);
        assert_eq!(world.heard().unwrap(), (Ask::Read as u16, 1, 1, 16, 0));
        world.say(0x8006, 1, 1, b"");
        assert_eq!(world.answered(), [(16, None)]);
        assert_eq!(world.client.waiting(), 0);
    }

    #[test]
    fn the_next_control_plane_gets_what_the_last_one_did_not_answer() {
        let mut world = World::new();
        world.client.start(1);
        world.heard();
        world.hello(1);
        world.call(16, MIB);
        world.call(17, MIB);
        let (first, second) = (world.heard().unwrap(), world.heard().unwrap());
        world.say(0x8006, 1, first.2, b"");
        let [(16, Some(part))] = &world.answered()[..] else { panic!() };
        assert_eq!(part.at as u64, first.4);
        world.client.start(2);
        world.heard();
        // A late answer of the first one: dropped, however right it looks.
        world.say(0x8006, 1, second.2, b"");
        assert_eq!(world.answered(), []);
        world.hello(2);
        let again = world.heard().unwrap();
        assert_eq!(again, (second.0, 2, second.2, second.3, second.4));
        assert_eq!(world.heard(), None);
        world.say(0x8006, 2, again.2, b"");
        assert_eq!(world.answered().len(), 1);
    }

    #[test]
    fn what_is_said_behind_hello_is_not_lost() {
        let mut world = World::new();
        world.client.start(1);
        world.heard();
        world.say(0x4001, 1, 0, &[0; 48]);
        world.say(0x4004, 1, 7, &16u64.to_le_bytes());
        let mut taken = Vec::new();
        let take = |event: Event<'_, u32>| {
            taken.push(matches!(event, Event::ForgetContent { ino: 16, .. }));
        };
        world.client.pump(&mut world.buffer, 1000, take).unwrap();
        assert_eq!(taken, [false]); // HELLO; who waited for it alone looks at nothing else.
        let take = |event: Event<'_, u32>| {
            taken.push(matches!(event, Event::ForgetContent { ino: 16, .. }));
        };
        world.client.pump(&mut world.buffer, 1000, take).unwrap();
        assert_eq!(taken, [false, true]);
    }

    #[test]
    fn who_finds_no_room_in_the_arena_waits_for_it() {
        let mut world = World::new();
        world.client.start(1);
        world.heard();
        world.hello(1);
        let room = u64::try_from(ARENA_BYTES).unwrap() / MIB;
        for ino in 0..=room {
            world.call(16 + ino, MIB);
        }
        let sent: Vec<_> = std::iter::from_fn(|| world.heard()).collect();
        assert_eq!(sent.len() as u64, room);
        world.say(0x8006, 1, sent[0].2, b"");
        let [(16, Some(_))] = &world.answered()[..] else { panic!() };
        assert_eq!(world.heard(), None);
        world.client.give_back(Part { at: 0, length: 1 << 20 });
        assert_eq!(world.heard().unwrap().3, 16 + room);
    }

    #[test]
    fn a_control_plane_that_does_not_listen_holds_nobody_up() {
        let mut world = World::new();
        world.client.start(1);
        world.heard();
        world.hello(1);
        for ino in 0..1000 {
            world.call(16 + ino, 0);
            world.client.access(16 + ino, 0);
        }
        let mut heard = 0;
        while heard < 1000 {
            match world.heard() {
                Some((kind, ..)) => heard += usize::from(kind == Ask::Read as u16),
                None => assert!(world.answered().is_empty()), // Sends what found no room.
            }
        }
    }
}
