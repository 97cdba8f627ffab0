"""The bytes of upcalls: golden messages, which the native front's tests are held to as well."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import pytest

from tierfs.cache.budget import Priority
from tierfs.cache.eviction import Victim
from tierfs.control import wire
from tierfs.control.wire import AccessKind, Ask, Command, Request
from tierfs.errors import InvalidRequest
from tierfs.index.records import EXTENT_SIZE, ObjectRef
from tierfs.index.schema import pack_object
from tierfs.lake.protocol import Checksum, ChecksumKind, Source, Version

GOLDEN = Path(__file__).parent.parent / "golden" / "upcalls" / "messages.json"

LOOKUP = Request(Ask.LOOKUP, 7, 0x0102030405060708, 0x10, 0, 0, 0, 0, 0, b"caf\xc3\xa9\n\xff")
OBJECT = pack_object(ObjectRef(b"caf\xc3\xa9/a.jpg", Version(b'"0123"', b"v1"), False, True))
ROOM = Request(Ask.ROOM, 7, 11, 0, 1 << 33, 64, 0, 0, 0, b"")
ROOM_FOR_A_FILE = Request(Ask.ROOM, 7, 13, 77, 1 << 33, 64, 1, 0, 0, b"")
GET = Request(Ask.GET, 7, 9, 77, 0, 1 << 20, 1, 65_536, 1 << 20, OBJECT)
HEAD = Request(Ask.HEAD, 7, 12, 77, 0, 0, 0, 0, 0, OBJECT)
READDIR = Request(Ask.READDIR, 7, 15, 77, 80, 1000, wire.MAY_LOOK, 65_536, 297_000, b"")
VICTIMS = [
    Victim(77),
    Victim(78, ((0, EXTENT_SIZE), (1 << 40, (1 << 40) + EXTENT_SIZE))),
]
SOURCE = Source(
    scheme="https",
    host="bucket.s3.eu-west-1.amazonaws.com",
    port=443,
    path="/caf%C3%A9/",
    region="eu-west-1",
    access_key="AKIDEXAMPLE",
    secret_key="secret",
    token="token",
    headers=(("x-amz-request-payer", "requester"),),
    ca_bundle="/etc/ssl/own.pem",
    connections=64,
    stall_s=15.0,
)
#: CREATE of "a.pt", mode 0644, umask 022, by group 100 and process 4242.
CHANGE = Request(
    Ask.CHANGE, 7, 14, 16, 0x0102030405060708, 35, 1000, 0, 0,
    wire.CALLER.pack(100, 4242) + struct.pack("=IIII", 0o101, 0o100644, 0o022, 0) + b"a.pt\0",
)  # fmt: skip
HANDLES = wire.HANDLE.pack(77, 0x0102, 1) + wire.HANDLE.pack(0, 0x0104, 0)
ATTRIBUTES = wire.pack_attributes(77, 110_000, -5, 0o100644, 1000, 100)


def encoded() -> dict[str, str]:
    """Every golden message as this code writes it: what it is -> hexadecimal."""
    accesses = b"".join(
        wire.ACCESS.pack(*access)
        for access in (
            (77, -1, AccessKind.READ, 4242),
            (78, 1_700_000_000_000_000_000, AccessKind.RELEASED, 0),
        )
    )
    stall = wire.ACCESS.pack(110_000, 23_000_000, AccessKind.STALL, 4242)
    rules = wire.pack_rules(
        ttl_s=math.inf,
        negative_ttl_s=5e-9,
        directory_mtime_ns=1_700_000_000_000_000_000,
        uid=1000,
        gid=100,
        umask=0o027,
        max_requests=64,
        memory=1 << 30,
        cache_limit=None,
        min_free=0.1,
        writes=True,
        lake_directory=b"/nvme/caf\xff",
    )
    messages = {
        "lookup": wire.pack_request(LOOKUP),
        "room": wire.pack_request(ROOM),
        "room for a file": wire.pack_request(ROOM_FOR_A_FILE),
        "get": wire.pack_request(GET),
        "head": wire.pack_request(HEAD),
        "readdir": wire.pack_request(READDIR),
        "getxattr": wire.pack_request(
            Request(Ask.GETXATTR, 7, 10, 77, 0, 0, 1000, 0, 0, b"user.tierfs.etag")
        ),
        "change": wire.pack_request(CHANGE),
        "released": wire.pack_request(Request(Ask.RELEASED, 7, 0, 77, 0x0102, 0, 0, 0, 0, b"")),
        "handles": wire.pack_request(Request(Ask.HANDLES, 7, 0, 0, 0, 1, 0, 0, 0, HANDLES)),
        "accesses": wire.pack_request(Request(Ask.ACCESSES, 7, 0, 0, 0, 0, 0, 0, 0, accesses)),
        "stall": wire.pack_request(Request(Ask.ACCESSES, 7, 0, 0, 0, 0, 0, 0, 0, stall)),
        "answer to lookup": wire.pack_answer(LOOKUP, ttl_s=60, tail=ATTRIBUTES),
        "answer that a name is absent": wire.pack_answer(LOOKUP, errno=2, ttl_s=math.inf),
        "answer to room": wire.pack_answer(ROOM, tail=wire.pack_victims(VICTIMS)),
        "answer that a file is not worth it": wire.pack_answer(
            ROOM_FOR_A_FILE, count=wire.DECLINED
        ),
        "answer to get": wire.pack_answer(
            GET,
            count=1 << 20,
            tail=wire.pack_checksum(Checksum(ChecksumKind.CRC64NVME, 0x0102030405060708)),
        ),
        "answer that a directory is listed": wire.pack_answer(READDIR, count=wire.LISTED),
        "done": wire.pack_request(
            Request(Ask.DONE, 7, 4, 0, 0, 5, 0, 0, 0, b"503 Slow Down")  # 5: EIO
        ),
        "entry": wire.pack_entry(ATTRIBUTES, b"a\xff"),
        "hello": wire.pack_command(Command.HELLO, 7, 0, rules),
        "forget entry": wire.pack_command(
            Command.FORGET_ENTRY, 7, 3, wire.PARENT.pack(16) + b"a.jpg"
        ),
        "source": wire.pack_command(Command.SOURCE, 7, 0, wire.pack_source(SOURCE)),
        "no source": wire.pack_command(Command.SOURCE, 7, 0, wire.pack_source(None)),
        "fetch": wire.pack_command(
            Command.FETCH, 7, 4, wire.pack_fetch(77, 1 << 20, 3 << 20, Priority.WARM_UP)
        ),
        "fill": wire.pack_command(Command.FILL, 7, 14, wire.pack_fill([77, 78])),
        "adopt": wire.pack_command(
            Command.ADOPT, 7, 15, wire.pack_adopt(77, 1 << 40, b"0123456789abcdef", 0x01020304)
        ),
        "renamed": wire.pack_command(
            Command.RENAMED,
            7,
            16,
            wire.pack_renamed(77, b"0123456789abcdef", b"fedcba9876543210"),
        ),
        "space": wire.pack_command(Command.SPACE, 7, 0, wire.SPACE.pack(1 << 40, 1 << 39)),
        "evict": wire.pack_command(Command.EVICT, 7, 5, wire.pack_victims(VICTIMS)),
        "invalidate": wire.pack_command(Command.INVALIDATE, 7, 6, wire.PARENT.pack(77)),
        "resize": wire.pack_command(Command.RESIZE, 7, 8, wire.pack_limit(1 << 40)),
    }
    return {name: message.hex() for name, message in messages.items()}


def test_bytes_are_the_golden_ones() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert golden["version"] == wire.VERSION
    assert golden["messages"] == encoded(), "a changed message needs a new VERSION"


@pytest.mark.parametrize("request_", [LOOKUP, ROOM, ROOM_FOR_A_FILE, GET, HEAD, READDIR])
def test_requests_come_back(request_: Request) -> None:
    assert wire.parse_request(wire.pack_request(request_)) == request_


def test_what_is_no_message_is_refused() -> None:
    whole = wire.pack_request(LOOKUP)
    for message in (
        b"",
        whole[:-1],
        whole + b"x",
        b"\x01" + whole[1:],  # Another version.
        whole[:2] + b"\xff\x00" + whole[4:],  # An unknown kind.
    ):
        with pytest.raises(InvalidRequest):
            wire.parse_request(message)


def test_accesses_of_unknown_kinds_are_left_out() -> None:
    tail = wire.ACCESS.pack(1, 2, AccessKind.READ, 5) + wire.ACCESS.pack(3, 4, 99, 5) + b"rest"
    assert list(wire.accesses(tail)) == [(1, 2, AccessKind.READ, 5)]


def test_a_source_is_texts_with_their_lengths() -> None:
    packed = wire.pack_source(SOURCE)
    texts = []
    while packed:
        end = 2 + int.from_bytes(packed[:2], "little")
        texts.append(packed[2:end].decode())
        packed = packed[end:]
    assert texts == [
        "https",
        "bucket.s3.eu-west-1.amazonaws.com",
        "443",
        "/caf%C3%A9/",
        "eu-west-1",
        "AKIDEXAMPLE",
        "secret",
        "token",
        "x-amz-request-payer: requester\n",
        "/etc/ssl/own.pem",
        "64",
        "15000",
    ]


def test_a_source_shows_no_secrets() -> None:
    for shown in (repr(SOURCE), str(SOURCE), f"{SOURCE}", repr([SOURCE])):
        assert "bucket.s3" in shown
        for secret in ("AKIDEXAMPLE", "secret", "token", "requester"):
            assert secret not in shown


def test_a_victim_without_extents_never_stands_for_the_whole_file() -> None:
    assert wire.pack_victims([Victim(77, ())]) == b""


def test_limits() -> None:
    assert wire.pack_limit(None) == b"\xff" * 8
    assert wire.pack_limit(0) == bytes(8)


def test_an_answer_of_another_length_is_refused() -> None:
    assert wire.unpack(wire.EVICTED, (3).to_bytes(8, "little") + bytes(8)) == (3, 0)
    for tail in (b"", bytes(15), bytes(17)):
        with pytest.raises(InvalidRequest):
            wire.unpack(wire.EVICTED, tail)


def test_times() -> None:
    assert wire.to_ns(1.5) == 1_500_000_000
    assert wire.to_ns(-1) == 0
    assert wire.to_ns(math.inf) == wire.FOREVER_NS
    assert wire.to_ns(1e30) == wire.FOREVER_NS - 1
