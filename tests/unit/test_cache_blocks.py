"""Geometry and checksums of blocks."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.caching import noise
from tierfs.cache.blocks import (
    block_count,
    block_extent,
    checksum_of,
    combined_crc64nvme,
    identity_of,
    intact,
    seal,
    whole_blocks,
)
from tierfs.index.records import BLOCK_SIZE, ObjectRef
from tierfs.lake.protocol import ChecksumKind, Version

SIZES = st.integers(0, 5 * BLOCK_SIZE)


@given(SIZES)
def test_block_extents_tile_the_object(size: int) -> None:
    edges = [block_extent(n, size) for n in range(block_count(size))]
    assert sum(hi - lo for lo, hi in edges) == size
    assert all(hi > lo for lo, hi in edges)


@given(SIZES, st.integers(0, 5 * BLOCK_SIZE), st.integers(0, 5 * BLOCK_SIZE))
def test_whole_blocks_are_those_inside(size: int, a: int, b: int) -> None:
    lo, hi = sorted((min(a, size), min(b, size)))
    inside = [
        n
        for n in range(block_count(size))
        if lo <= block_extent(n, size)[0] and block_extent(n, size)[1] <= hi
    ]
    assert list(whole_blocks(lo, hi, size)) == inside


def test_intact_sees_a_flipped_bit_and_a_missing_byte() -> None:
    data = bytearray(noise(5000))
    record = seal(data)
    assert intact(record, data)
    assert not intact(record, data[:-1])
    data[4000] ^= 8
    assert not intact(record, data)


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=6))
def test_block_checksums_combine_to_that_of_the_object(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    assert combined_crc64nvme(map(seal, parts)) == checksum_of(ChecksumKind.CRC64NVME, whole)


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        # The check values of the CRC catalogue, for "123456789".
        (ChecksumKind.CRC64NVME, 0xAE8B14860A799888),
        (ChecksumKind.CRC32C, 0xE3069283),
        (ChecksumKind.CRC32, 0xCBF43926),
    ],
)
def test_checksums_are_the_published_ones_and_go_on(kind: ChecksumKind, check: int) -> None:
    assert checksum_of(kind, b"123456789") == check
    assert checksum_of(kind, b"6789", checksum_of(kind, b"12345")) == check
    assert zlib.crc32(b"123456789") == 0xCBF43926


def test_no_checksum_is_not_a_checksum() -> None:
    with pytest.raises(ValueError, match="0"):
        checksum_of(ChecksumKind.NONE, b"")


def test_identity_tells_fields_apart() -> None:
    def identity(key: bytes, etag: bytes, version_id: bytes) -> bytes:
        return identity_of(ObjectRef(key, Version(etag, version_id), False, False))

    seen = {
        identity(b"a", b"b", b""),
        identity(b"ab", b"", b""),
        identity(b"a", b"", b"b"),
        identity(b"", b"a", b"b"),
    }
    assert len(seen) == 4
    assert all(len(one) == 16 for one in seen)
