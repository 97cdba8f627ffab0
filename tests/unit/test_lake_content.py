"""Content on its way: invariants B1 to B3 of `tierfs.lake.content`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tierfs.errors import IntegrityError, LakeUnavailable
from tierfs.lake.content import Call, Outgoing, crc64nvme_of, joined_crc64nvme
from tierfs.lake.retry import Transient
from tierfs.lake.writing import FileRange

MIB = 1 << 20
BODY = os.urandom(3 * MIB + 17)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "f").write_bytes(BODY)
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    yield fd
    try:
        os.close(fd)
    except OSError:
        return  # The test did it.


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("span", [(0, len(BODY)), (5, 2 * MIB), (len(BODY) - 1, 1), (7, 0)])
def test_exactly_the_range_is_given(file: int, span: tuple[int, int]) -> None:
    offset, length = span
    wanted = BODY[offset : offset + length]
    for content in (FileRange(file, offset, length), wanted):
        with Outgoing(content) as outgoing:
            assert outgoing.length == length
            for _ in range(2):  # Every attempt begins anew.
                assert outgoing.whole() == wanted
            with closing(outgoing.pieces()) as pieces:
                assert all(0 < len(piece) <= MIB for piece in pieces)


def test_the_callers_descriptor_may_go(file: int, tmp_path: Path) -> None:
    """Seen to fail with `_duplicate` left out: the other file's bytes were given."""
    (tmp_path / "other").write_bytes(bytes(len(BODY)))
    content = FileRange(file, 0, len(BODY))
    with Outgoing(content) as outgoing, closing(outgoing.pieces()) as pieces:
        got = bytes(next(pieces))
        os.close(file)
        other = os.open(tmp_path / "other", os.O_RDONLY)
        assert other == file, "the number was taken again"
        got += b"".join(bytes(piece) for piece in pieces)
    assert got == BODY


def test_nothing_is_given_once_the_call_has_ended(file: int) -> None:
    """Seen to fail without the checks in `pieces` and `_use`."""
    before = open_files()
    outgoing = Outgoing(FileRange(file, 0, len(BODY)))
    with outgoing:
        pieces = outgoing.pieces()
        next(pieces)
    assert open_files() == before + 1, "whoever is at work keeps it open"
    with pytest.raises(Transient):
        next(pieces)
    assert open_files() == before
    with pytest.raises(Transient):
        outgoing.whole()
    assert open_files() == before


def test_a_call_ends() -> None:
    with Call() as call:
        call.check()
    with pytest.raises(Transient):
        call.check()


@pytest.mark.parametrize("length", [len(BODY) + 1, 10 * len(BODY)])
def test_a_file_that_ends_early(file: int, length: int) -> None:
    with Outgoing(FileRange(file, 0, length)) as outgoing, pytest.raises(IntegrityError):
        outgoing.whole()


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "f", os.O_WRONLY | os.O_CREAT)
    try:
        with Outgoing(FileRange(fd, 0, 5)) as outgoing, pytest.raises(IntegrityError):
            outgoing.whole()
    finally:
        os.close(fd)


def test_a_descriptor_that_is_none(file: int) -> None:
    os.close(file)
    with pytest.raises(LakeUnavailable):
        Outgoing(FileRange(file, 0, 5))


def test_checksums_add_up() -> None:
    pieces = [BODY[:MIB], b"", BODY[MIB:]]
    parts = [(crc64nvme_of(piece), len(piece)) for piece in pieces]
    assert joined_crc64nvme(iter(parts)) == crc64nvme_of(BODY)
    assert crc64nvme_of(memoryview(pieces[2]), parts[0][0]) == crc64nvme_of(BODY)
