"""A reader that goes on from pass to pass, and what becomes of one that cannot."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.loadgen import PROGRAM, File, Loadgen, Range, ReadFailedError, WrongBytesError

FILES = [File(f"{n}.bin", 1000 + n) for n in range(4)]


@pytest.fixture
def loadgen(tmp_path: Path) -> Iterator[Loadgen]:
    if not PROGRAM.exists():
        pytest.skip("lakesim is not built: there is no Rust toolchain")
    made = Loadgen()
    made.generate(tmp_path, 1, FILES)
    yield made
    for process in made.abandoned:
        assert process.wait(10) is not None


def test_one_process_reads_pass_after_pass(loadgen: Loadgen, tmp_path: Path) -> None:
    with loadgen.reader(tmp_path, 1, 2) as reader:
        for order in (FILES, FILES[::-1], FILES[:1], []):
            answer = reader.read(order)
            assert answer["files"] == len(order)
            assert answer["bytes"] == sum(file.size for file in order)
            assert sorted(line for line, _, _ in answer["times"]) == list(range(len(order)))
        assert reader.read(FILES, limit_s=0)["files"] == 0
        assert reader.read(FILES, rate=50)["seconds"] > 0.05
    with loadgen.reader(tmp_path, 1, 2, ranges=True) as reader:
        assert reader.read([Range("1.bin", 10, 20), Range("2.bin", 0, 30)])["bytes"] == 50


def test_a_reader_that_finds_a_wrong_byte_says_so(loadgen: Loadgen, tmp_path: Path) -> None:
    with loadgen.reader(tmp_path, 1, 1) as reader:
        reader.read(FILES)
        (tmp_path / FILES[2].path).write_bytes(bytes(FILES[2].size))
        with pytest.raises(WrongBytesError, match=FILES[2].path):
            reader.read(FILES)
        # It has ended with that.
        with pytest.raises(WrongBytesError):
            reader.read(FILES)


def test_a_reader_that_hangs_is_given_up(
    loadgen: Loadgen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.loadgen.STUCK_S", 0.5)
    os.mkfifo(tmp_path / "hangs")
    with (
        loadgen.reader(tmp_path, 1, 1) as reader,
        pytest.raises(ReadFailedError, match=r"not done after 0\.6 s"),
    ):
        reader.read([File("hangs", 10)], limit_s=0.1)


def test_a_process_that_hangs_is_given_up(
    loadgen: Loadgen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.loadgen.STUCK_S", 0.5)
    os.mkfifo(tmp_path / "hangs")
    with pytest.raises(ReadFailedError, match=r"not done after 0\.6 s"):
        loadgen.small(tmp_path, 1, [File("hangs", 10)], 1, limit_s=0.1)
    assert len(loadgen.abandoned) <= 1  # None, if it was seen to end at once.


def test_a_file_that_is_not_there_is_a_failed_read(loadgen: Loadgen, tmp_path: Path) -> None:
    with loadgen.reader(tmp_path, 1, 1) as reader, pytest.raises(ReadFailedError, match="absent"):
        reader.read([File("absent", 10)])
