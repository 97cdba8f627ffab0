"""What is said of how checkpoints come into the lake, from a clock that moves when it is told."""

from __future__ import annotations

from tierfs.clock import ManualClock
from tierfs.writeback.episodes import (
    QUIET_S,
    RATE_WINDOW_S,
    REMEMBERED,
    WRITERS_S,
    Episodes,
    Lateness,
    Rate,
    Waiting,
)
from tierfs.writeback.records import Base, Entry, Op, State
from tierfs.writeback.watch import line_of

ROOT = b"runs"


def entry(ino: int, begun_ns: int, size: int = 10, op: Op = Op.PUT, path: bytes = b"") -> Entry:
    return Entry(
        op, State.PUBLISHING, Base.ABSENT, True, ino, size, begun_ns, bytes(8), 1, 1, ROOT,
        path or b"runs/%d" % ino,
    )  # fmt: skip


class Played:
    """Files that are written, closed and published at times that are told in seconds."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.start_ns = self.clock.now_ns()
        self.episodes = Episodes(self.clock.now_ns)
        self.lsn = 0

    def at(self, seconds: float) -> int:
        """Move the clock to that many seconds after the start."""
        self.clock.advance(seconds - (self.clock.now_ns() - self.start_ns) / 1e9)
        return self.clock.now_ns()

    def close(self, ino: int, written_s: float, closed_s: float, size: int = 10) -> Entry:
        first_ns = self.start_ns + round(written_s * 1e9)
        closed = entry(ino, self.at(closed_s), size)
        self.episodes.committed(ino, first_ns)
        return closed

    def publish(self, closed: Entry, from_s: float, to_s: float) -> None:
        self.at(from_s)
        self.episodes.began(ROOT)
        self.at(to_s)
        self.lsn += 1
        self.episodes.published(ROOT, self.lsn, closed)


def test_a_checkpoint_is_told_once_and_in_parts() -> None:
    played = Played()
    one = played.close(1, 1.0, 2.0, 100)
    two = played.close(2, 2.0, 4.0, 200)
    played.publish(one, 2.5, 3.0)
    played.publish(two, 4.0, 9.0)
    assert played.episodes.end(ROOT, writing=False) is None
    played.at(9.0 + QUIET_S)
    ended = played.episodes.end(ROOT, writing=False)
    assert ended is not None
    assert line_of(ended) == (
        "checkpoint root=/runs files=2 bytes=300 first_write=0.000 last_close=3.000"
        " upload_start=1.500 durable=8.000 lsn=2"
    )
    assert (ended.changes, ended.last_path) == (2, b"runs/2")
    assert played.episodes.roots == []
    assert played.episodes.end(ROOT, writing=False) is None


def test_a_file_that_is_being_written_belongs_to_the_same_checkpoint() -> None:
    played = Played()
    played.publish(played.close(1, 0.0, 1.0), 1.0, 2.0)
    played.at(2.0 + QUIET_S)
    assert played.episodes.end(ROOT, writing=True) is None
    # Not for ever: the log of a run is open until its end.
    played.at(2.0 + WRITERS_S)
    assert played.episodes.end(ROOT, writing=True) is not None


def test_at_the_end_of_a_mount_nothing_is_waited_for() -> None:
    played = Played()
    played.publish(played.close(1, 0.0, 1.0), 1.0, 2.0)
    assert played.episodes.end(ROOT, writing=True, at_once=True) is not None


def test_the_next_checkpoint_has_times_of_its_own() -> None:
    played = Played()
    played.publish(played.close(1, 0.0, 1.0), 1.0, 2.0)
    played.at(10.0)
    played.episodes.end(ROOT, writing=False)
    played.publish(played.close(1, 20.0, 21.0), 22.0, 24.0)
    played.at(40.0)
    ended = played.episodes.end(ROOT, writing=False)
    assert ended is not None
    assert ended.seconds == {"last_close": 1.0, "upload_start": 2.0, "durable": 4.0}


def test_what_a_restart_finds_begins_with_its_first_close() -> None:
    played = Played()
    closed = entry(1, played.at(5.0))
    again = Played()
    again.publish(closed, 7.0, 8.0)
    again.at(20.0)
    ended = again.episodes.end(ROOT, writing=False)
    assert ended is not None
    assert ended.seconds == {"last_close": 0.0, "upload_start": 2.0, "durable": 3.0}


def test_removals_are_changes_and_no_files() -> None:
    played = Played()
    played.episodes.began(ROOT)
    played.episodes.published(ROOT, 1, entry(0, played.at(1.0), 0, Op.DELETE))
    ended = played.episodes.end(ROOT, writing=False, at_once=True)
    assert ended is not None
    assert (ended.changes, ended.files, ended.size_bytes) == (1, 0, 0)


def test_a_clock_that_is_set_back_makes_no_negative_times() -> None:
    played = Played()
    closed = played.close(1, 100.0, 101.0)
    played.publish(closed, 3.0, 4.0)
    played.at(4.0 + QUIET_S)
    ended = played.episodes.end(ROOT, writing=False)
    assert ended is not None
    assert ended.seconds == {"last_close": 1.0, "upload_start": 0.0, "durable": 0.0}


def test_temporary_files_that_never_arrive_are_not_remembered_for_ever() -> None:
    played = Played()
    for ino in range(REMEMBERED + 10):
        played.episodes.committed(ino, 1)
    assert len(played.episodes._first_ns) == REMEMBERED


def test_odd_names_stay_in_one_line_and_one_field() -> None:
    played = Played()
    played.episodes.published(b'a b\n"\xff', 1, entry(1, 0))
    ended = played.episodes.end(b'a b\n"\xff', writing=False, at_once=True)
    assert ended is not None
    assert line_of(ended).startswith('checkpoint root="/a b\\\\n\\"\\\\xff" files=1 ')


def test_late_is_said_when_it_begins_and_when_it_is_over() -> None:
    lateness, second = Lateness(10.0), 1_000_000_000
    old, new = Waiting(b"runs/a", 0), Waiting(b"runs/b", 15 * second)
    assert lateness.look(ROOT, old, 9 * second) is None
    assert lateness.look(ROOT, old, 11 * second) is True
    assert lateness.is_late(ROOT)
    assert lateness.look(ROOT, old, 500 * second) is None
    assert not lateness.is_late(b"other")
    # What was late is there, and what is left has not waited for long.
    assert lateness.look(ROOT, new, 20 * second) is False
    assert lateness.look(ROOT, None, 21 * second) is None
    assert lateness.look(ROOT, new, 26 * second) is True
    assert lateness.look(ROOT, None, 27 * second) is False
    assert not lateness.is_late(ROOT)


def test_the_rate_is_that_of_the_last_seconds() -> None:
    rate = Rate()
    assert rate.bytes_per_s == 0
    rate.sample(0.0, 0)
    assert rate.bytes_per_s == 0
    rate.sample(1.0, 500)
    assert rate.bytes_per_s == 500
    for second in range(2, 200):
        rate.sample(float(second), 500 + 100 * (second - 1))
    assert rate.bytes_per_s == 100
    rate.sample(199.0 + RATE_WINDOW_S, 20300)
    rate.sample(200.0 + RATE_WINDOW_S, 20300)
    assert rate.bytes_per_s == 0
