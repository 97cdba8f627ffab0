"""Locks by what they are about."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tierfs.writeback.holds import Holds, Lock


async def test_one_at_a_time_in_the_order_of_their_coming() -> None:
    holds, order = Holds(), list[int]()

    async def hold(n: int) -> None:
        async with holds.hold("a"):
            order.append(n)
            await trio.testing.wait_all_tasks_blocked()
            order.append(n)

    async with trio.open_nursery() as nursery:
        for n in range(3):
            nursery.start_soon(hold, n)
            await trio.testing.wait_all_tasks_blocked()
    assert order == [0, 0, 1, 1, 2, 2]
    assert not holds.is_held("a")


async def test_what_nobody_holds_takes_no_turn() -> None:
    holds, lock = Holds(), Lock()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await trio.lowlevel.checkpoint()
        before = turns
        async with holds.hold("a", "b"), lock:
            assert holds.is_held("a")
            assert lock._holds.is_held(None)
        assert turns == before
        nursery.cancel_scope.cancel()
    assert not holds._held
    assert not lock._holds._held


async def test_several_are_taken_in_one_order() -> None:
    holds, done = Holds(), 0

    async def hold(*keys: object) -> None:
        nonlocal done
        for _ in range(50):
            async with holds.hold(*keys):
                await trio.lowlevel.checkpoint()
        done += 1

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for keys in (("a", "b"), ("b", "a"), (1, "a", (2, b"x")), ((2, b"x"), 1, 1)):
                nursery.start_soon(hold, *keys)
    assert done == 4
    assert not holds._held


async def test_who_gives_up_waiting_holds_nothing() -> None:
    holds = Holds()
    async with holds.hold("b"):
        with trio.move_on_after(0.01) as scope:
            async with holds.hold("a", "b"):
                raise AssertionError("it is held by another")
        assert scope.cancelled_caught
        assert not holds.is_held("a")
    assert not holds._held
    with pytest.raises(ZeroDivisionError):
        async with holds.hold("a", "b"):
            raise ZeroDivisionError
    assert not holds._held


async def test_what_is_given_to_who_is_cancelled_then_is_given_on() -> None:
    holds, got = Holds(), list[str]()

    async def first() -> None:
        async with holds.hold("a"):
            await trio.sleep_forever()

    async def second(scope: trio.CancelScope) -> None:
        with scope:
            async with holds.hold("a"):
                got.append("second")
                await trio.sleep_forever()

    async def third() -> None:
        async with holds.hold("a"):
            got.append("third")

    async with trio.open_nursery() as nursery:
        scopes = trio.CancelScope(), trio.CancelScope()

        async def cancelled_first() -> None:
            with scopes[0]:
                await first()

        nursery.start_soon(cancelled_first)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(second, scopes[1])
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(third)
        await trio.testing.wait_all_tasks_blocked()
        for scope in scopes:
            scope.cancel()
    assert got[-1] == "third"
    assert not holds._held
