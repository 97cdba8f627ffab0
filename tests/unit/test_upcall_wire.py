"""The bytes of upcalls: golden messages, which the native front's tests are held to as well."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tierfs.control import wire
from tierfs.control.wire import AccessKind, Ask, Command, Request
from tierfs.errors import InvalidRequest

GOLDEN = Path(__file__).parent.parent / "golden" / "upcalls" / "messages.json"

LOOKUP = Request(Ask.LOOKUP, 7, 0x0102030405060708, 0x10, 0, 0, 0, 0, 0, b"caf\xc3\xa9\n\xff")
READ = Request(Ask.READ, 7, 9, 77, 1 << 40, 1 << 20, 0, 65_536, 1 << 20, b"")
ATTRIBUTES = wire.pack_attributes(77, 110_000, -5, 0o100644, 1000, 100)


def encoded() -> dict[str, str]:
    """Every golden message as this code writes it: what it is -> hexadecimal."""
    accesses = b"".join(
        wire.ACCESS.pack(*access)
        for access in (
            (77, -1, AccessKind.READ),
            (78, 1_700_000_000_000_000_000, AccessKind.RELEASED),
        )
    )
    rules = wire.pack_rules(
        ttl_s=math.inf,
        negative_ttl_s=5e-9,
        directory_mtime_ns=1_700_000_000_000_000_000,
        uid=1000,
        gid=100,
        umask=0o027,
        lake_directory=b"/nvme/caf\xff",
    )
    messages = {
        "lookup": wire.pack_request(LOOKUP),
        "read": wire.pack_request(READ),
        "note": wire.pack_request(Request(Ask.NOTE, 7, 0, 77, 1 << 20, 1 << 17, 0, 0, 0, b"")),
        "getxattr": wire.pack_request(
            Request(Ask.GETXATTR, 7, 10, 77, 0, 0, 1000, 0, 0, b"user.tierfs.etag")
        ),
        "accesses": wire.pack_request(Request(Ask.ACCESSES, 7, 0, 0, 0, 0, 0, 0, 0, accesses)),
        "answer to lookup": wire.pack_answer(LOOKUP, ttl_s=60, tail=ATTRIBUTES),
        "answer that a name is absent": wire.pack_answer(LOOKUP, errno=2, ttl_s=math.inf),
        "entry": wire.pack_entry(ATTRIBUTES, b"a\xff"),
        "hello": wire.pack_command(Command.HELLO, 7, 0, rules),
        "forget entry": wire.pack_command(
            Command.FORGET_ENTRY, 7, 3, wire.PARENT.pack(16) + b"a.jpg"
        ),
    }
    return {name: message.hex() for name, message in messages.items()}


def test_bytes_are_the_golden_ones() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert golden["version"] == wire.VERSION
    assert golden["messages"] == encoded(), "a changed message needs a new VERSION"


@pytest.mark.parametrize("request_", [LOOKUP, READ])
def test_requests_come_back(request_: Request) -> None:
    assert wire.parse_request(wire.pack_request(request_)) == request_


def test_what_is_no_message_is_refused() -> None:
    whole = wire.pack_request(LOOKUP)
    for message in (
        b"",
        whole[:-1],
        whole + b"x",
        b"\x02" + whole[1:],  # Another version.
        whole[:2] + b"\xff\x00" + whole[4:],  # An unknown kind.
    ):
        with pytest.raises(InvalidRequest):
            wire.parse_request(message)


def test_accesses_of_unknown_kinds_are_left_out() -> None:
    tail = wire.ACCESS.pack(1, 2, AccessKind.READ) + wire.ACCESS.pack(3, 4, 99) + b"rest"
    assert list(wire.accesses(tail)) == [(1, 2, AccessKind.READ)]


def test_times() -> None:
    assert wire.to_ns(1.5) == 1_500_000_000
    assert wire.to_ns(-1) == 0
    assert wire.to_ns(math.inf) == wire.FOREVER_NS
    assert wire.to_ns(1e30) == wire.FOREVER_NS - 1
