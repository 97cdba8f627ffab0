"""The bytes of the journal: records come back, and are the golden ones."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tierfs.index import schema
from tierfs.index.records import Kind
from tierfs.writeback.records import (
    Base,
    Entry,
    Flag,
    Node,
    Op,
    State,
    flags_of,
    pack_entry,
    pack_node,
    pack_part,
    unpack_entry,
    unpack_node,
    unpack_part,
)

GOLDEN = Path(__file__).parent.parent / "golden" / "journal" / "records.json"

U64_MAX = 2**64 - 1
I64_MIN = -(2**63)
U16_MAX = 2**16 - 1

NODES = {
    "zeros": Node(Kind.FILE, Flag.NONE, 0, 0, 0, 0, 0, 0, 0, 0, 0, b""),
    "file": Node(
        Kind.FILE, Flag.PUBLISHED, 0o640, 1000, 100, 110_000, 1_700_000_000_123_456_789,
        1_700_000_001_000_000_000, 7, 5, 16, b"model.pt", b"", b"run/model.pt", b'"d41d8cd9"',
    ),
    "directory": Node(
        Kind.DIRECTORY, Flag.FRESH | Flag.HELD, 0o755, 0, 0, 0, -1, -1, 3, 0, 1, b"step-1.tmp"
    ),
    "link": Node(
        Kind.SYMLINK, Flag.NONE, 0o777, 1, 2, 6, 5, 6, 9, 9, 16, b"latest\n\xff", b"step-7"
    ),
    "extremes": Node(
        Kind.FILE, Flag.UNLINKED | Flag.HELD | Flag.FRESH | Flag.REMOTE | Flag.PUBLISHED, 0o7777,
        2**32 - 1, 2**32 - 2, U64_MAX, I64_MIN, 2**63 - 1, U64_MAX, U64_MAX - 1, U64_MAX - 2,
        b"n" * 255, b"t" * 300, b"\xff" * 1024, b"e" * 64,
    ),
}  # fmt: skip
ENTRIES = {
    "put": Entry(
        Op.PUT, State.PENDING, Base.ABSENT, False, 17, 110_000, 1_700_000_000_000_000_000,
        b"bootboot", 0, 7, b"run", b"run/model.pt",
    ),
    "put over a version": Entry(
        Op.PUT, State.PUBLISHING, Base.VERSION, True, 17, 0, 5, b"bootboot", 0, 9, b"", b"latest",
        b"", b'"e"',
    ),
    "move over ours": Entry(
        Op.MOVE, State.PENDING, Base.OURS, False, 17, 1, 6, bytes(8), 16, 7, b"run", b"run/b",
        b"run/a", b"", 4, True,
    ),
    "delete": Entry(
        Op.DELETE, State.PENDING, Base.VERSION, False, 0, 0, -1, bytes(8), 16, 0, b"a\nb",
        b"a\nb/\xff", b"", b"e",
    ),
    "extremes": Entry(
        Op.ATTRIBUTES, State.PUBLISHING, Base.OURS, True, U64_MAX, U64_MAX - 1, I64_MIN,
        b"\xff" * 8, U64_MAX - 2, U64_MAX - 3, b"r" * 255, b"p" * 1024, b"o" * 1024, b"e" * 64,
        U64_MAX - 4, True,
    ),
    "link": Entry(
        Op.LINK, State.PENDING, Base.OURS, False, 18, 6, 7, b"bootboot", 0, 0, b"run",
        b"run/latest", b"", b"", 3, True, True, b"step-7\xff",
    ),
}  # fmt: skip
PARTS: dict[str, tuple[int, int, bytes]] = {
    "the upload": (16 << 20, 0, b"upload-id"),
    "a part": (16 << 20, 0xFEDCBA9876543210, b'"e"'),
    "nothing said": (0, U64_MAX, b""),
}


def encoded() -> dict[str, str]:
    """Every golden record as this code writes it: what it is -> hexadecimal."""
    records: dict[str, bytes] = {}
    groups: list[tuple[str, Mapping[str, Any], Callable[[Any], bytes]]] = [
        ("nodes", NODES, pack_node),
        ("log", ENTRIES, pack_entry),
        ("parts", PARTS, lambda part: pack_part(*part)),
    ]
    for database, values, pack in groups:
        for name, value in values.items():
            records[f"{database} value, {name}"] = pack(value)
    return {name: value.hex() for name, value in records.items()}


@pytest.mark.parametrize("node", NODES.values(), ids=NODES)
def test_flags_are_found_without_the_rest(node: Node) -> None:
    assert flags_of(pack_node(node)) == node.flags


def test_bytes_are_the_golden_ones() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert golden["format_version"] == schema.FORMAT_VERSIONS["journal"]
    assert golden["records"] == encoded(), "a changed record needs a new format version"


@pytest.mark.parametrize("name", NODES)
def test_a_node_comes_back(name: str) -> None:
    back = unpack_node(pack_node(NODES[name]))
    assert back == NODES[name]
    assert [type(field) for field in back] == [type(field) for field in NODES[name]]


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_comes_back(name: str) -> None:
    back = unpack_entry(pack_entry(ENTRIES[name]))
    assert back == ENTRIES[name]
    assert [type(field) for field in back] == [type(field) for field in ENTRIES[name]]


@pytest.mark.parametrize("name", PARTS)
def test_a_part_comes_back(name: str) -> None:
    assert unpack_part(pack_part(*PARTS[name])) == PARTS[name]


@pytest.mark.parametrize("tail", ["name", "target", "key", "etag"])
@pytest.mark.parametrize("content", [b"", b"x", b"\0\n\xff", b"y" * U16_MAX])
def test_each_tail_of_a_node_is_its_own(tail: str, content: bytes) -> None:
    change: dict[str, Any] = {tail: content}
    empty = NODES["zeros"]._replace(**change)
    assert unpack_node(pack_node(empty)) == empty
    full = NODES["extremes"]._replace(**change)
    assert unpack_node(pack_node(full)) == full


@pytest.mark.parametrize("tail", ["root", "path", "other", "etag", "target"])
@pytest.mark.parametrize("content", [b"", b"x", b"\0\n\xff", b"y" * U16_MAX])
def test_each_tail_of_an_entry_is_its_own(tail: str, content: bytes) -> None:
    change: dict[str, Any] = {tail: content}
    full = ENTRIES["extremes"]._replace(**change)
    assert unpack_entry(pack_entry(full)) == full
    some = ENTRIES["link"]._replace(**change)
    assert unpack_entry(pack_entry(some)) == some


@pytest.mark.parametrize("synced", [False, True])
@pytest.mark.parametrize("was_present", [False, True])
def test_the_flags_of_an_entry_are_apart(synced: bool, was_present: bool) -> None:
    entry = ENTRIES["put"]._replace(synced=synced, was_present=was_present)
    back = unpack_entry(pack_entry(entry))
    assert (back.synced, back.was_present) == (synced, was_present)


@pytest.mark.parametrize("op", Op)
@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("base", Base)
def test_every_entry_can_be_said(op: Op, state: State, base: Base) -> None:
    entry = ENTRIES["put"]._replace(op=op, state=state, base=base)
    assert unpack_entry(pack_entry(entry)) == entry


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_of_node_can_be_said(kind: Kind) -> None:
    node = NODES["zeros"]._replace(kind=kind)
    assert unpack_node(pack_node(node)) == node


def test_numbers_are_where_the_tables_say() -> None:
    node = NODES["file"]
    value = pack_node(node)
    assert len(value) == 72 + len(node.name) + len(node.key) + len(node.etag)
    assert value[:2] == bytes([Kind.FILE, Flag.PUBLISHED])
    for offset, number in [(40, node.lsn), (48, node.content), (56, node.parent)]:
        assert struct.unpack_from("<Q", value, offset) == (number,)
    assert struct.unpack_from("<4H", value, 64) == (8, 0, 12, 10)
    assert value[72:80] == b"model.pt"
    assert value[12:16] == bytes(4)
    entry = ENTRIES["move over ours"]
    value = pack_entry(entry)
    assert len(value) == 72 + len(b"run" + b"run/b" + b"run/a")
    assert value[:4] == bytes([Op.MOVE, State.PENDING, Base.OURS, 0])
    for offset, number in [(8, entry.ino), (40, entry.parent), (48, 7), (56, entry.earlier)]:
        assert struct.unpack_from("<Q", value, offset) == (number,)
    assert struct.unpack_from("<HH", value, 4) == (2, 0)
    assert value[72:75] == b"run"
    value = pack_entry(ENTRIES["link"])
    assert struct.unpack_from("<HH", value, 4) == (6, 7)
    assert value.endswith(b"run/lateststep-7\xff")


def test_flags_are_put_on_and_taken_off() -> None:
    node = NODES["zeros"].marked(Flag.HELD).marked(Flag.PUBLISHED).marked(Flag.HELD)
    assert node.flags == Flag.HELD | Flag.PUBLISHED
    assert node.unmarked(Flag.HELD | Flag.REMOTE).flags == Flag.PUBLISHED
    assert NODES["zeros"].flags == Flag.NONE


@pytest.mark.parametrize(
    ("numbers", "values"),
    [
        (Flag, {"NONE": 0, "UNLINKED": 1, "HELD": 2, "FRESH": 4, "REMOTE": 8, "PUBLISHED": 16,
                "SYNCED": 32, "DOUBTFUL": 64, "LOST": 128}),
        (Op, {"PUT": 1, "DELETE": 2, "MAKE_DIRECTORY": 3, "REMOVE_DIRECTORY": 4, "LINK": 5,
              "MOVE": 6, "ATTRIBUTES": 7, "COPY": 8}),
        (State, {"PENDING": 0, "PUBLISHING": 1}),
        (Base, {"ABSENT": 0, "VERSION": 1, "OURS": 2}),
    ],
)  # fmt: skip
def test_numbers_on_the_disk_stay(numbers: Any, values: dict[str, int]) -> None:
    members = getattr(numbers, "__members__", None) or vars(numbers)
    assert {n: int(value) for n, value in members.items() if n.isupper()} == values
