use super::*;
use crate::golden;
use crate::index::records::ObjectRef;
use crate::lake::Source;

fn golden(name: &str) -> Vec<u8> {
    let golden = golden::file("upcalls/messages.json");
    assert_eq!(golden["version"], VERSION);
    golden::bytes(&golden, "messages", name)
}

#[test]
fn requests() {
    let lookup = Request { tail: b"caf\xc3\xa9\n\xff".to_vec(), ..Request::of(0x10) };
    assert_eq!(lookup.encode(Ask::Lookup, 7, 0x0102_0304_0506_0708), golden("lookup"));
    let object = Request { tail: golden("get")[64..].to_vec(), ..Request::of(77) };
    assert_eq!(ObjectRef::parse(&object.tail).unwrap().key, b"caf\xc3\xa9/a.jpg");
    let get = Request {
        size: 1 << 20,
        uid: 1,
        arena_at: 65_536,
        arena_length: 1 << 20,
        ..object.clone()
    };
    assert_eq!(get.encode(Ask::Get, 7, 9), golden("get"));
    assert_eq!(object.encode(Ask::Head, 7, 12), golden("head"));
    let room = Request { offset: 8 << 30, size: 64, ..Default::default() };
    assert_eq!(room.encode(Ask::Room, 7, 11), golden("room"));
    let room = Request { ino: 77, uid: 1, ..room };
    assert_eq!(room.encode(Ask::Room, 7, 13), golden("room for a file"));
    let readdir = Request {
        offset: 80,
        size: 1000,
        uid: MAY_LOOK,
        arena_at: 65_536,
        arena_length: 297_000,
        ..Request::of(77)
    };
    assert_eq!(readdir.encode(Ask::Readdir, 7, 15), golden("readdir"));
    let xattr = Request { uid: 1000, tail: b"user.tierfs.etag".to_vec(), ..Request::of(77) };
    assert_eq!(xattr.encode(Ask::Getxattr, 7, 10), golden("getxattr"));
    let change = Request {
        offset: 0x0102_0304_0506_0708,
        size: 35,
        uid: 1000,
        tail: golden("change")[64..].to_vec(),
        ..Request::of(16)
    };
    assert_eq!(change.encode(Ask::Change, 7, 14), golden("change"));
    let released = Request { offset: 0x0102, ..Request::of(77) };
    assert_eq!(released.encode(Ask::Released, 7, 0), golden("released"));
    let mut tail = Vec::new();
    push_handle(&mut tail, OpenHandle { ino: 77, unique: 0x0102, writes: true });
    push_handle(&mut tail, OpenHandle { ino: 0, unique: 0x0104, writes: false });
    let handles = Request { size: 1, tail, ..Default::default() };
    assert_eq!(handles.encode(Ask::Handles, 7, 0), golden("handles"));
    let mut tail = Vec::new();
    push_access(&mut tail, 77, -1, AccessKind::Read, 4242);
    push_access(&mut tail, 78, 1_700_000_000_000_000_000, AccessKind::Released, 0);
    let accesses = Request { tail, ..Default::default() };
    let mut message = accesses.encode(Ask::Accesses, 1, 0);
    set_session(&mut message, 7);
    assert_eq!(message, golden("accesses"));
    let mut tail = Vec::new();
    push_access(&mut tail, 110_000, 23_000_000, AccessKind::Stall, 4242);
    let stall = Request { tail, ..Default::default() };
    assert_eq!(stall.encode(Ask::Accesses, 7, 0), golden("stall"));
}

#[test]
fn answers() {
    let bytes = golden("answer to lookup");
    let incoming = Incoming::parse(&bytes).unwrap();
    assert_eq!((incoming.session, incoming.id), (7, 0x0102_0304_0506_0708));
    let What::Answer(answer) = incoming.what else { panic!() };
    assert_eq!((answer.errno, answer.count, answer.ttl), (0, 0, Ttl::from_ns(60_000_000_000)));
    let expected =
        Attributes { ino: 77, mode: 0o100_644, uid: 1000, gid: 100, size: 110_000, mtime_ns: -5 };
    assert_eq!(attributes(answer.tail), Some((expected, &[][..])));
    let bytes = golden("answer that a name is absent");
    let What::Answer(answer) = Incoming::parse(&bytes).unwrap().what else { panic!() };
    assert_eq!((answer.errno, answer.ttl), (2, Ttl::FOREVER));
    let bytes = golden("answer to get");
    let What::Answer(answer) = Incoming::parse(&bytes).unwrap().what else { panic!() };
    let value = 0x0102_0304_0506_0708;
    let expected_checksum = Checksum { kind: ChecksumKind::Crc64Nvme, value };
    assert_eq!((answer.count, checksum(answer.tail)), (1 << 20, Some(expected_checksum)));
    assert_eq!(checksum(b""), None);
    let bytes = golden("answer to room");
    let What::Answer(answer) = Incoming::parse(&bytes).unwrap().what else { panic!() };
    assert_eq!((answer.count, victims(answer.tail)), (0, Some(two_victims())));
    assert_eq!(victims(&answer.tail[1..]), None);
    let bytes = golden("answer that a file is not worth it");
    let What::Answer(answer) = Incoming::parse(&bytes).unwrap().what else { panic!() };
    assert_eq!((answer.count, victims(answer.tail)), (DECLINED, Some(Vec::new())));
    let bytes = golden("answer that a directory is listed");
    let What::Answer(answer) = Incoming::parse(&bytes).unwrap().what else { panic!() };
    assert_eq!((answer.errno, answer.count), (0, LISTED));
    let bytes = golden("entry");
    let (found, name, rest) = entry(&bytes).unwrap();
    assert_eq!((found, name, rest), (expected, &b"a\xff"[..], &[][..]));
}

fn two_victims() -> Vec<Victim> {
    let extents = vec![(0, 8 << 20), (1 << 40, (1 << 40) + (8 << 20))];
    vec![Victim { ino: 77, extents: Vec::new() }, Victim { ino: 78, extents }]
}

#[test]
fn what_is_to_be_done() {
    let bytes = golden("fetch");
    let What::Fetch { ino, lo, hi, priority } = Incoming::parse(&bytes).unwrap().what else {
        panic!()
    };
    assert_eq!((ino, lo, hi, priority), (77, 1 << 20, 3 << 20, Priority::WarmUp));
    let bytes = golden("fill");
    let What::Fill(inos) = Incoming::parse(&bytes).unwrap().what else { panic!() };
    assert_eq!(inos, [77, 78]);
    let bytes = golden("adopt");
    let What::Adopt(found) = Incoming::parse(&bytes).unwrap().what else { panic!() };
    let identity = *b"0123456789abcdef";
    let expected = Adoption { ino: 77, size: 1 << 40, identity, crc64nvme: 0x0102_0304 };
    assert_eq!(found, expected);
    let bytes = golden("renamed");
    let What::Renamed { ino, old, new } = Incoming::parse(&bytes).unwrap().what else { panic!() };
    assert_eq!((ino, old, new), (77, identity, *b"fedcba9876543210"));
    let bytes = golden("evict");
    let What::Evict(found) = Incoming::parse(&bytes).unwrap().what else { panic!() };
    assert_eq!(found, two_victims());
    let bytes = golden("invalidate");
    let invalidate = Incoming::parse(&bytes).unwrap().what;
    assert!(matches!(invalidate, What::Invalidate { ino: 77 }));
    let bytes = golden("resize");
    let What::Resize { limit } = Incoming::parse(&bytes).unwrap().what else { panic!() };
    assert_eq!(limit, Some(1 << 40));
    let bytes = golden("space");
    let What::Space(space) = Incoming::parse(&bytes).unwrap().what else { panic!() };
    assert_eq!(space, Space { total: 1 << 40, free: 1 << 39 });
    let bytes = golden("source");
    let What::Source(tail) = Incoming::parse(&bytes).unwrap().what else { panic!() };
    let source = Source::parse(tail).unwrap();
    assert_eq!((&source.access_key[..], source.connections), ("AKIDEXAMPLE", 64));
    let bytes = golden("no source");
    let What::Source(tail) = Incoming::parse(&bytes).unwrap().what else { panic!() };
    assert!(Source::parse(tail).is_none());
}

#[test]
fn commands() {
    let bytes = golden("hello");
    let What::Hello(hello, _) = Incoming::parse(&bytes).unwrap().what else { panic!() };
    let Hello { rules, limits, lake_directory } = hello;
    assert_eq!(rules.ttl, Ttl::FOREVER);
    assert_eq!(rules.negative_ttl, Ttl::from_ns(5));
    assert_eq!((rules.uid, rules.gid, rules.umask), (1000, 100, 0o027));
    assert!(rules.writes);
    assert_eq!(rules.directory_mtime_ns, 1_700_000_000_000_000_000);
    assert_eq!(lake_directory.as_os_str().as_bytes(), b"/nvme/caf\xff");
    let expected = Limits { cache: None, min_free: 0.1, memory: 1 << 30, max_requests: 64 };
    assert_eq!(limits, expected);
    let bytes = golden("forget entry");
    let incoming = Incoming::parse(&bytes).unwrap();
    assert!(matches!(incoming.what, What::ForgetEntry { parent: 16, name: b"a.jpg" }));
}

#[test]
fn nothing_panics_whatever_comes() {
    let whole = golden("hello");
    for cut in 0..whole.len() {
        assert!(Incoming::parse(&whole[..cut]).is_none());
    }
    for kind in 0..=u16::MAX {
        let mut message = vec![0xFF; 40];
        message[..2].copy_from_slice(&VERSION.to_le_bytes());
        message[2..4].copy_from_slice(&kind.to_le_bytes());
        message[4..8].copy_from_slice(&40u32.to_le_bytes());
        let _ = Incoming::parse(&message);
    }
    for length in 0..60 {
        let _ = entry(&vec![0xFF; length]);
    }
}
