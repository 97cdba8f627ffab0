"""The bytes of the index: golden records, which readers in other languages are held to as well."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tierfs.errors import IndexDamaged
from tierfs.index import schema
from tierfs.index.records import (
    BlockRecord,
    CachedFile,
    Dentry,
    Hidden,
    HiddenReason,
    Inode,
    Kind,
    Listing,
    ListingState,
    ObjectRef,
)
from tierfs.lake.protocol import Version

GOLDEN = Path(__file__).parent.parent / "golden" / "index" / "records.json"

U64_MAX = 2**64 - 1
I64_MIN = -(2**63)

INODES = {
    "directory": Inode(Kind.DIRECTORY, 0, -1, -1, 0, 0, 1),
    "file": Inode(Kind.FILE, 0o640, 1000, 100, 110_000, 1_700_000_000_123_456_789, 16),
    "extremes": Inode(Kind.SYMLINK, 0o7777, 2**32 - 2, 0, U64_MAX, I64_MIN, U64_MAX),
}
OBJECTS = {
    "plain": ObjectRef(b"train/a.jpg", Version(b'"d41d8cd98f00b204"'), False, False),
    "all": ObjectRef(b"\xff" * 1024, Version(b"e" * 64, b"v" * 1024), True, True),
}
LISTINGS = {
    "complete": Listing(ListingState.COMPLETE, 1_700_000_000_000_000_000, 12, 11_345, None),
    "partial": Listing(ListingState.PARTIAL, 5, 2**32 - 1, U64_MAX, b"to/ken="),
    "empty token": Listing(ListingState.PARTIAL, -5, 1, 0, b""),
}
FILES = {
    "fresh": CachedFile(bytes(range(16)), 110_000, 0, False, False, bytes(8), 0, 0, 0),
    "whole": CachedFile(
        b"\xfe" * 16, 2**40, 2**40, True, True, b"bootboot", 2**40, -1, 1_700_000_000
    ),
}
BLOCKS = {
    "full": BlockRecord(1 << 20, U64_MAX, 0),
    "last": BlockRecord(1, 0x0123456789ABCDEF, 0xFEDCBA9876543210),
}


def encoded() -> dict[str, str]:
    """Every golden record as this code writes it: what it is -> hexadecimal."""
    records: dict[str, bytes] = {
        "meta value": schema.pack_meta("names", "s3://bucket/pr\udcffefix", 1_700_000_000),
        "inodes key": schema.pack_u64_key(0x0102030405060708),
        "dentries key": schema.pack_dentry_key(0x10, b"caf\xc3\xa9\n\xff"),
        "dentries value": schema.pack_dentry(0x1122334455667788, Kind.FILE, -2),
        "children key": schema.pack_pair_key(0x10, 0x1122334455667788),
        "blocks key": schema.pack_block_key(0x10, 0xA0B0C0D0),
        "hidden key": schema.pack_hidden_key(16, b"a//b"),
        "hidden value": schema.pack_hidden(Hidden(16, b"a//b", HiddenReason.EMPTY_COMPONENT)),
        "state key of a count": schema.hidden_count_key(HiddenReason.NUL_BYTE),
        "totals value": schema.TOTALS.pack(3, 2**40 + 1, 3 * 512),
        "reservations value": schema.U64.pack(65_552),
    }
    groups: list[tuple[str, dict[str, Any], Callable[[Any], bytes]]] = [
        ("inodes", INODES, schema.pack_inode),
        ("objects", OBJECTS, schema.pack_object),
        ("listings", LISTINGS, schema.pack_listing),
        ("files", FILES, schema.pack_file),
        ("blocks", BLOCKS, schema.pack_block),
    ]
    for database, values, pack in groups:
        for name, value in values.items():
            records[f"{database} value, {name}"] = pack(value)
    return {name: value.hex() for name, value in records.items()}


def test_bytes_are_the_golden_ones() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert golden["format_versions"] == {
        name: schema.FORMAT_VERSIONS[name] for name in ("names", "cache")
    }
    assert golden["records"] == encoded(), "a changed record needs a new format version"


@pytest.mark.parametrize(
    ("values", "pack", "unpack"),
    [
        (INODES, schema.pack_inode, schema.unpack_inode),
        (OBJECTS, schema.pack_object, schema.unpack_object),
        (LISTINGS, schema.pack_listing, schema.unpack_listing),
        (FILES, schema.pack_file, schema.unpack_file),
        (BLOCKS, schema.pack_block, schema.unpack_block),
    ],
)
def test_records_come_back(
    values: dict[str, Any], pack: Callable[[Any], bytes], unpack: Callable[[bytes], Any]
) -> None:
    for value in values.values():
        back = unpack(pack(value))
        assert back == value
        assert [type(field) for field in back] == [type(field) for field in value]


def test_dentry_and_hidden_come_back() -> None:
    assert schema.unpack_dentry(schema.pack_dentry(7, Kind.DIRECTORY, -9)) == Dentry(
        7, Kind.DIRECTORY, -9
    )
    hidden = Hidden(16, b"x" * 1024, HiddenReason.NAME_TOO_LONG)
    key = schema.pack_u64_key(16) + bytes(16)
    assert schema.unpack_hidden(key, schema.pack_hidden(hidden)) == hidden


def test_meta_comes_back() -> None:
    lake = "s3://bucket/pr\udcffefix"
    value = schema.pack_meta("cache", lake, 5, version=9)
    assert schema.unpack_meta(value) == (9, "cache", lake, 5)
    for wrong in (b"", b"TIERFSIX", b"\0" * 64):
        with pytest.raises(IndexDamaged):
            schema.unpack_meta(wrong)


def test_fixed_records_are_aligned() -> None:
    sizes = {
        schema.INODE: 40,
        schema.DENTRY: 24,
        schema.OBJECT: 8,
        schema.LISTING: 24,
        schema.FILE: 72,
        schema.BLOCK: 24,
        schema.META: 24,
    }
    for layout, size in sizes.items():
        assert layout.size == size


def test_keys_sort_as_numbers() -> None:
    numbers = [0, 1, 255, 256, 2**32, U64_MAX]
    assert sorted(map(schema.pack_u64_key, numbers)) == list(map(schema.pack_u64_key, numbers))
    blocks = [(1, 2**32 - 1), (2, 0), (2, 256)]
    packed = [schema.pack_block_key(*block) for block in blocks]
    assert sorted(packed) == packed
