"""How fast writers may go while uploads are slower."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierfs.writeback.pace import (
    LEAST_BYTES_S,
    LONGEST_QUEUE_S,
    MOST_S,
    SOFT_SHARE,
    Meter,
    Queue,
    pace_s,
)

MIB = 1 << 20
BUDGET = 1000 * MIB


def test_up_to_the_soft_mark_nobody_is_slowed_down() -> None:
    assert pace_s(MIB, 0, BUDGET, 1.0) == 0
    assert pace_s(MIB, int(SOFT_SHARE * BUDGET), BUDGET, 1.0) == 0
    assert pace_s(MIB, int(SOFT_SHARE * BUDGET) + 1000, BUDGET, 1.0) > 0


@given(st.integers(0, 2 * BUDGET), st.integers(0, 2 * BUDGET))
def test_the_fuller_the_slower(a: int, b: int) -> None:
    less, more = sorted((a, b))
    assert pace_s(MIB, less, BUDGET, MIB) <= pace_s(MIB, more, BUDGET, MIB)


@given(st.integers(0, BUDGET - MIB))
def test_it_grows_without_a_step(used: int) -> None:
    here, next_ = (pace_s(MIB, at, BUDGET, 64 * MIB) for at in (used, used + MIB))
    assert next_ - here <= max(0.2 * here, 0.001) or used > 0.95 * BUDGET


def test_a_steady_writer_is_as_fast_as_the_uploads_at_four_fifths() -> None:
    assert pace_s(MIB, BUDGET * 8 // 10, BUDGET, 20 * MIB) == pytest.approx(0.05, rel=1e-3)


def test_there_is_an_end_to_it() -> None:
    assert pace_s(100 * MIB, BUDGET, BUDGET, MIB) == MOST_S
    assert pace_s(100 * MIB, 2 * BUDGET, BUDGET, MIB) == MOST_S
    assert pace_s(1 << 40, BUDGET * 9 // 10, BUDGET, 1.0) == MOST_S


def test_with_nothing_known_of_the_uploads_there_is_no_pace() -> None:
    assert pace_s(MIB, BUDGET, BUDGET, 0.0) == 0
    assert pace_s(MIB, MIB, 0, MIB) == 0


@pytest.mark.parametrize("writers", [1, 8])
@pytest.mark.parametrize("uploads", [4, 20, 200])
def test_a_run_that_writes_faster_than_it_uploads_never_reaches_the_end(
    writers: int, uploads: int
) -> None:
    """All writers together, each at a thousand MiB/s by itself, against *uploads* MiB/s."""
    queue, used, clock = Queue(), 0.0, 0.0
    free_at = [0.0] * writers
    fullest, written = 0.0, 0
    while clock < 200:
        writer = min(range(writers), key=free_at.__getitem__)
        used = max(0.0, used - (max(clock, free_at[writer]) - clock) * uploads * MIB)
        clock = max(clock, free_at[writer])
        pace = pace_s(MIB, int(used), BUDGET, uploads * MIB)
        free_at[writer] = clock + 0.001 + queue.wait_s(pace, clock)
        used += MIB
        written += 1
        fullest = max(fullest, used)
    assert fullest < 0.95 * BUDGET
    # And the uploads never had to wait for them.
    assert written >= uploads * 200


def test_many_writers_take_turns() -> None:
    queue = Queue()
    assert [queue.wait_s(1.0, 100.0) for _ in range(3)] == [1.0, 2.0, 3.0]
    assert queue.wait_s(0.0, 100.0) == 0.0
    assert [queue.wait_s(MOST_S, 100.0) for _ in range(9)][-1] == LONGEST_QUEUE_S
    assert queue.wait_s(1.0, 200.0) == 1.0


def test_the_slowest_pace_is_an_eighth_of_the_uploads_speed() -> None:
    assert pace_s(MIB, BUDGET, BUDGET, 16 * MIB) == pytest.approx(0.5)


def test_small_files_that_trickle_do_not_hold_up_a_large_one() -> None:
    trickle, least = (pace_s(MIB, BUDGET, BUDGET, speed) for speed in (1000.0, LEAST_BYTES_S))
    assert trickle == least == pytest.approx(0.5)


def send(meter: Meter, begin_s: float, each_s: float, *, requests: int = 1) -> None:
    """Ten seconds in which *requests* of a MiB are always under way, for *each_s* each."""
    at = begin_s
    while at < begin_s + 10:
        for _ in range(requests):
            meter.begun(at)
        at += each_s
        for _ in range(requests):
            meter.ended(MIB, at)


def test_uploads_are_timed_by_what_they_send() -> None:
    meter = Meter()
    send(meter, 100, 0.25)
    assert meter.bytes_s == pytest.approx(4 * MIB)
    send(meter, 110, 0.25, requests=3)
    assert meter.bytes_s == pytest.approx(12 * MIB, rel=0.01)
    # A link that gets slower is noticed.
    send(meter, 120, 2.5, requests=1)
    assert meter.bytes_s < 2 * MIB


def test_uploads_that_have_nothing_to_send_are_not_slow() -> None:
    meter = Meter()
    for n in range(40):
        meter.begun(100 + 60.0 * n)
        meter.ended(MIB, 100 + 60.0 * n + 0.25)
    assert meter.bytes_s == pytest.approx(4 * MIB)


def test_requests_that_fail_bring_nothing() -> None:
    meter = Meter()
    send(meter, 100, 0.25)
    for n in range(20):
        meter.begun(110 + n)
        meter.ended(0, 111 + n)
    assert meter.bytes_s < MIB
