"""The adaptive limiter (A1 to A3) and the retrier, on a virtual clock."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from tierfs.errors import LakeDenied, LakeProtocolError, LakeUnavailable
from tierfs.lake.limiter import AdaptiveLimiter
from tierfs.lake.protocol import LakeCounters
from tierfs.lake.retry import Retrier, Transient


@pytest.mark.mockclock
async def test_never_more_than_the_limit_in_flight() -> None:
    limiter = AdaptiveLimiter(3)
    most = 0

    async def one() -> None:
        nonlocal most
        async with limiter.slot():
            most = max(most, limiter.in_flight)
            await trio.sleep(1)

    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(one)
    assert most == 3
    assert trio.current_time() - started == pytest.approx(4, abs=0.1)
    assert limiter.in_flight == 0


@pytest.mark.mockclock
async def test_slots_are_given_in_order() -> None:
    limiter = AdaptiveLimiter(1)
    order: list[int] = []

    async def one(number: int) -> None:
        async with limiter.slot():
            order.append(number)
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(one, number)
            await trio.testing.wait_all_tasks_blocked()
    assert order == [0, 1, 2, 3, 4]


@pytest.mark.mockclock
async def test_a_cancelled_waiter_holds_nothing() -> None:
    limiter = AdaptiveLimiter(1)
    async with limiter.slot():
        with trio.move_on_after(1) as scope:
            async with limiter.slot():
                raise AssertionError("there was no slot to have")
        assert scope.cancelled_caught
        assert limiter.in_flight == 1
    with trio.fail_after(1):
        async with limiter.slot():
            assert limiter.in_flight == 1


@pytest.mark.mockclock
async def test_a_burst_of_complaints_halves_once() -> None:
    limiter = AdaptiveLimiter(64)
    async with trio.open_nursery() as nursery:
        for _ in range(64):
            nursery.start_soon(_hold, limiter)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(20):
            limiter.slow_down()
        assert limiter.limit == 32
        await trio.sleep(1.5)
        limiter.slow_down()
        assert limiter.limit == 16


@pytest.mark.mockclock
async def test_a_cut_counts_from_what_was_in_flight() -> None:
    limiter = AdaptiveLimiter(64)
    async with limiter.slot(), limiter.slot(), limiter.slot(), limiter.slot():
        limiter.slow_down()
    assert limiter.limit == 2


@pytest.mark.mockclock
async def test_no_slot_is_given_above_a_cut_limit() -> None:
    limiter = AdaptiveLimiter(4)
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(_hold, limiter)
        await trio.testing.wait_all_tasks_blocked()
        limiter.slow_down()
        with trio.move_on_after(1) as scope:
            async with limiter.slot():
                pass
        assert scope.cancelled_caught
    assert limiter.in_flight == 0


@pytest.mark.mockclock
async def test_success_restores_the_limit_round_by_round() -> None:
    limiter = AdaptiveLimiter(8)
    for _ in range(4):
        limiter.slow_down()
        await trio.sleep(2)
    assert limiter.limit == 1
    for expected in (2.0, 2.5, 2.9):
        limiter.succeeded()
        assert limiter.limit == pytest.approx(expected)
    for _ in range(100):
        limiter.succeeded()
    assert limiter.limit == 8


async def _hold(limiter: AdaptiveLimiter) -> None:
    async with limiter.slot():
        await trio.sleep(5)


def retrier(deadline_s: float = 10.0) -> tuple[Retrier, LakeCounters, AdaptiveLimiter]:
    counters, limiter = LakeCounters(), AdaptiveLimiter(8)
    return Retrier(limiter, counters, deadline_s, random.Random(7)), counters, limiter


@pytest.mark.mockclock
async def test_transient_faults_are_retried() -> None:
    run, counters, limiter = retrier()
    tries = 0

    async def attempt() -> str:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise Transient("reset", slow_down=tries == 1)
        return "value"

    assert await run.run("read", b"k", attempt) == "value"
    assert (tries, counters.retries, counters.slow_downs) == (4, 3, 1)
    assert limiter.limit < 8


@pytest.mark.mockclock
async def test_the_deadline_is_over_all_attempts() -> None:
    run, counters, _ = retrier(10.0)

    async def attempt() -> str:
        await trio.sleep(0.5)
        raise Transient("the last word")

    started = trio.current_time()
    with pytest.raises(LakeUnavailable, match="the last word"):
        await run.run("read", b"k", attempt)
    assert trio.current_time() - started <= 10.0
    assert counters.retries >= 2


@pytest.mark.mockclock
async def test_an_attempt_that_never_ends_meets_the_deadline() -> None:
    run, _, limiter = retrier(3.0)
    started = trio.current_time()
    with pytest.raises(LakeUnavailable, match="no answer within 3 s"):
        await run.run("read", b"k", trio.sleep_forever)
    assert trio.current_time() - started == pytest.approx(3.0, abs=0.1)
    assert limiter.in_flight == 0


@pytest.mark.mockclock
async def test_permanent_errors_and_lies_are_bounded() -> None:
    run, _, _ = retrier()
    tries = 0

    async def denied() -> str:
        nonlocal tries
        tries += 1
        raise LakeDenied("read", b"k")

    with pytest.raises(LakeDenied):
        await run.run("read", b"k", denied)
    assert tries == 1

    async def lying() -> str:
        nonlocal tries
        tries += 1
        raise LakeProtocolError("read", b"k")

    with pytest.raises(LakeProtocolError):
        await run.run("read", b"k", lying)
    assert tries == 1 + 4


@pytest.mark.mockclock
async def test_a_caller_that_cancels_is_not_told_of_deadlines() -> None:
    run, _, limiter = retrier()
    with trio.move_on_after(1) as scope:
        await run.run("read", b"k", trio.sleep_forever)
    assert scope.cancelled_caught
    assert limiter.in_flight == 0
