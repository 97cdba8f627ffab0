use std::os::fd::{FromRawFd, OwnedFd};

use super::*;
use crate::shared::Shared;
use crate::upcall::wire::{LONGEST, VERSION};

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

    /// In session 1.
    fn in_session() -> Self {
        let mut world = Self::new();
        world.client.start(1);
        world.heard();
        world.hello(1);
        world
    }

    fn call(&self, ino: u64, arena_length: u64) {
        let request = Request { arena_length, ..Request::of(ino) };
        let then = u32::try_from(ino).unwrap();
        self.client.call(self.shared.take(), Ask::Get, request, then);
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
        let mut message = VERSION.to_le_bytes().to_vec();
        message.extend(kind.to_le_bytes());
        message.extend(u32::try_from(40 + tail.len()).unwrap().to_le_bytes());
        message.extend(session.to_le_bytes());
        message.extend(id.to_le_bytes());
        message.resize(40, 0);
        message.extend(tail);
        assert!(self.control.send(&message).unwrap());
    }

    fn hello(&mut self, session: u64) {
        self.say(0x4001, session, 0, &[0; 72]);
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
    assert_eq!(world.heard().unwrap(), (Ask::Get as u16, 1, 1, 16, 0));
    world.say(0x8006, 1, 1, b"");
    assert_eq!(world.answered(), [(16, None)]);
    assert_eq!(world.client.waiting(), 0);
}

#[test]
fn the_next_control_plane_gets_what_the_last_one_did_not_answer() {
    let mut world = World::in_session();
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
fn who_was_answered_knows_whether_another_session_has_begun() {
    let mut world = World::in_session();
    world.call(16, 0);
    let call = world.heard().unwrap();
    // The answer, and right behind it another control plane.
    world.say(0x8006, 1, call.2, b"");
    world.say(0x4002, 0, 0, b"");
    let World { client, shared, buffer, .. } = &mut world;
    let mut answered = None;
    let take = |event: Event<'_, u32>| match event {
        Event::Answered(pending, _) => {
            answered = Some(pending.session);
            assert!(client.is_current(1));
            shared.release(pending.slot);
        }
        Event::Ready => client.start(2),
        _ => panic!(),
    };
    client.pump(buffer, 1000, take).unwrap();
    assert_eq!(answered, Some(1));
    assert!(!client.is_current(1));
}

#[test]
fn what_is_said_behind_hello_is_not_lost() {
    let mut world = World::new();
    world.client.start(1);
    world.heard();
    world.say(0x4001, 1, 0, &[0; 72]);
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
    let mut world = World::in_session();
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
    let mut world = World::in_session();
    for ino in 0..1000 {
        world.call(16 + ino, 0);
        world.client.access(16 + ino, 0, 1);
    }
    let mut heard = 0;
    while heard < 1000 {
        match world.heard() {
            Some((kind, ..)) => heard += usize::from(kind == Ask::Get as u16),
            None => assert!(world.answered().is_empty()), // Sends what found no room.
        }
    }
}

#[test]
fn what_is_read_now_and_then_is_told_soon() {
    let mut world = World::in_session();
    let begin = 7_000_000_000;
    for n in 0..3 {
        world.client.access(16, begin + n * COMPANY_NS / 3, 1);
    }
    assert_eq!(world.heard(), None);
    world.client.access(16, begin + COMPANY_NS, 1);
    assert_eq!(world.heard().unwrap().0, Ask::Accesses as u16);
    // The next one waits as long, from when it came, and no longer if it is the last.
    let begin = begin + 5 * COMPANY_NS;
    world.client.access(16, begin, 1);
    world.client.flush_due(begin + COMPANY_NS - 1);
    assert_eq!(world.heard(), None);
    world.client.flush_due(begin + COMPANY_NS);
    assert_eq!(world.heard().unwrap().0, Ask::Accesses as u16);
}

#[test]
fn what_was_read_is_told_before_room_is_asked_for() {
    let mut world = World::in_session();
    world.client.access(16, 5, 4242);
    world.client.flush_accesses();
    let request = Request { offset: MIB, ..Request::of(16) };
    world.client.call(world.shared.take(), Ask::Room, request, 0);
    let message = world.control.receive(&mut world.buffer).unwrap().unwrap();
    assert_eq!(u16::from_le_bytes([message[2], message[3]]), Ask::Accesses as u16);
    let access = [&16u64.to_le_bytes()[..], &5u64.to_le_bytes(), &4u32.to_le_bytes()].concat();
    assert_eq!(message[64..], [&access[..], &4242u32.to_le_bytes()].concat());
    let (kind, _, _, ino, _) = world.heard().unwrap();
    assert_eq!((kind, ino), (Ask::Room as u16, 16));
}

#[test]
fn a_thread_waits_for_its_answer() {
    let world = World::in_session();
    let World { client, control, .. } = &world;
    let reply = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let request = Request { arena_length: MIB, ..Request::of(16) };
            client.ask(Ask::Get, request, None).unwrap()
        });
        let mut buffer = vec![0; LONGEST];
        let id = loop {
            if let Some(message) = control.receive(&mut buffer).unwrap() {
                break u64::from_le_bytes(message[16..24].try_into().unwrap());
            }
        };
        world.say(0x8006, 1, id, b"tail");
        let mut buffer = vec![0; LONGEST];
        client.pump(&mut buffer, 1000, |_| panic!("it is the thread's alone")).unwrap();
        asking.join().unwrap()
    });
    assert_eq!((reply.errno, &reply.tail[..]), (0, &b"tail"[..]));
    assert_eq!(reply.part.unwrap().length as u64, MIB);
    let request = Request::of(16);
    assert!(world.client.ask(Ask::Room, request, Some(Duration::ZERO)).is_none());
}
