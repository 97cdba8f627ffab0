"""How fast bodies go out (`tierfs.lake.pace`), on a clock of the test's."""

from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path

import pytest
import trio

from tests.caching import noise
from tests.lake_options import Options
from tests.writing import PATIENCE_S, Lake, world
from tierfs.lake.content import Outgoing
from tierfs.lake.open import open_lake
from tierfs.lake.pace import BURST_S, Pace
from tierfs.lake.retry import Transient
from tierfs.lake.writing import FileRange
from tierfs.writeback import uploads

MIB = 1 << 20


class Clock:
    """Time passes for who sleeps, and for nobody else."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)

    def pace(self, bytes_s: int) -> Pace:
        return Pace(bytes_s, clock=lambda: self.now, sleep=self.sleep)


def nothing() -> None:
    """Whoever sends goes on."""


def test_all_bodies_together_keep_the_rate(tmp_path: Path) -> None:
    clock = Clock()
    pace = clock.pace(8 * MIB)
    (tmp_path / "f").write_bytes(noise(3 * MIB, 1))
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    started, sent = clock.now, 0
    with Outgoing(FileRange(fd, 0, 3 * MIB, pace)) as a, Outgoing(FileRange(fd, 0, MIB, pace)) as b:
        bodies = [a.pieces(), b.pieces()]
        while bodies:
            for body in list(bodies):
                piece = next(body, None)
                if piece is None:
                    bodies.remove(body)
                    continue
                sent += len(piece)
                # At every moment, and not only in the end.
                assert sent <= (clock.now - started + BURST_S) * pace.bytes_s + len(piece)
    os.close(fd)
    assert sent == 4 * MIB
    assert clock.now - started == pytest.approx(0.5, abs=BURST_S)
    # Piece by piece: nobody waits for what a whole part takes.
    assert max(clock.slept) <= pace.piece_bytes / pace.bytes_s + 1e-6


def test_quiet_times_are_not_caught_up_on() -> None:
    clock = Clock()
    pace = clock.pace(MIB)
    pace.wait(MIB, nothing)
    clock.now += 3600
    started = clock.now
    for _ in range(10):
        pace.wait(MIB, nothing)
    assert clock.now - started == pytest.approx(9, abs=2 * BURST_S)


def test_a_call_that_has_ended_does_not_wait_on() -> None:
    clock = Clock()
    pace = clock.pace(1024)
    pace.wait(1 << 20, nothing)
    looks = 0

    def check() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise Transient("the call has ended")

    with pytest.raises(Transient):
        pace.wait(1, check)
    assert clock.now - 1000 < 1


@pytest.mark.parametrize(
    ("bytes_s", "piece"), [(1, 4 << 10), (512 << 10, 64 << 10), (1 << 40, 128 << 10)]
)
def test_pieces_are_small_where_they_take_long(bytes_s: int, piece: int) -> None:
    assert Pace(bytes_s).piece_bytes == piece


def test_a_slow_pace_is_given_its_time(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(MIB))
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    for rate, least_s in ((64 << 10, 16), (64 * MIB, 1)):
        with Outgoing(FileRange(fd, 0, MIB, Pace(rate))) as body:
            assert body.least_s == least_s
    os.close(fd)


async def test_every_upload_of_a_mount_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PART_BYTES", MIB)
    clock, lake = Clock(), Lake()
    files = {b"small": noise(MIB // 2, 1), b"large": noise(3 * MIB, 2)}
    async with world(tmp_path, lake, pace=clock.pace(4 * MIB)) as mount:
        for name, data in files.items():
            await mount.write(name, data)
        assert await mount.flush()
    assert lake.contents() == files
    assert clock.now - 1000 == pytest.approx(3.5 / 4, abs=2 * BURST_S)


async def test_reads_go_on_while_an_upload_waits_for_its_turn(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "there").write_bytes(b"read me")
    waiting, go_on = threading.Event(), threading.Event()

    def sleep(seconds: float) -> None:
        waiting.set()
        go_on.wait(10)

    lake = await open_lake(Options(url=f"file://{tmp_path}/lake"))
    hours = itertools.count()
    pace = Pace(MIB, sleep=sleep, clock=lambda: 3600.0 * next(hours) if go_on.is_set() else 0.0)
    try:
        async with world(tmp_path / "cache", lake, pace=pace) as mount:
            await mount.write(b"written", noise(2 * MIB, 1))
            await trio.to_thread.run_sync(waiting.wait, 10)
            with trio.fail_after(PATIENCE_S):
                assert await mount.read(b"there") == b"read me"
            assert not (tmp_path / "lake" / "written").exists()
            go_on.set()
            assert await mount.flush()
    finally:
        go_on.set()
        await lake.aclose()
    assert (tmp_path / "lake" / "written").read_bytes() == noise(2 * MIB, 1)
