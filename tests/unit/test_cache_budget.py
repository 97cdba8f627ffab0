"""The memory budget: order, shares, promotion, and that nothing is lost."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tierfs.cache.budget import LEAST_TICKET_BYTES, SHARES, Budget, Priority, Ticket

MIB = 1 << 20
DEMAND, AHEAD, WARM, FILL = Priority


def granted(*tickets: Ticket) -> list[bool]:
    return [ticket.granted.is_set() for ticket in tickets]


def test_demand_goes_first_then_read_ahead_then_warm_up_then_fills() -> None:
    budget = Budget(4 * MIB)
    holder = budget.ticket(4 * MIB, DEMAND)
    fill = budget.ticket(MIB, FILL)
    warm = budget.ticket(MIB, WARM)
    ahead = budget.ticket(MIB, AHEAD)
    demand = budget.ticket(4 * MIB, DEMAND)
    assert granted(holder, fill, warm, ahead, demand) == [True, False, False, False, False]
    budget.release(holder)
    assert granted(fill, warm, ahead, demand) == [False, False, False, True]
    budget.release(demand)
    assert granted(fill, warm, ahead) == [False, True, True]
    budget.release(warm)
    budget.release(ahead)
    assert granted(fill) == [True]


def test_first_come_first_served_within_a_priority() -> None:
    budget = Budget(4 * MIB)
    holder = budget.ticket(3 * MIB, DEMAND)
    large = budget.ticket(4 * MIB, DEMAND)
    small = budget.ticket(MIB, DEMAND)
    assert granted(large, small) == [False, False]
    budget.release(holder)
    assert granted(large, small) == [True, False]


@pytest.mark.parametrize(("priority", "most"), [(AHEAD, 12), (WARM, 8), (FILL, 6)])
def test_low_priorities_leave_memory_for_demand(priority: Priority, most: int) -> None:
    budget = Budget(16 * MIB)
    low = [budget.ticket(MIB, priority) for _ in range(16)]
    assert sum(granted(*low)) == most
    assert all(granted(*(budget.ticket(MIB, DEMAND) for _ in range(16 - most))))


@pytest.mark.parametrize(("priority", "most"), [(AHEAD, 7), (WARM, 6), (FILL, 2)])
def test_low_priorities_leave_connections_for_demand(priority: Priority, most: int) -> None:
    budget = Budget(1 << 40, max_requests=8)
    low = [budget.ticket(1, priority) for _ in range(16)]
    assert sum(granted(*low)) == most
    assert all(granted(*(budget.ticket(1, DEMAND) for _ in range(16))))


def test_a_request_larger_than_the_budget_goes_alone() -> None:
    budget = Budget(MIB)
    small = budget.ticket(MIB // 2, DEMAND)
    large = budget.ticket(8 * MIB, DEMAND)
    assert granted(large) == [False]
    budget.release(small)
    assert granted(large) == [True]
    after = budget.ticket(1, DEMAND)
    assert granted(after) == [False]
    budget.release(large)
    assert granted(after) == [True]


def test_promotion_takes_a_waiting_ticket_past_read_ahead() -> None:
    budget = Budget(4 * MIB)
    holder = budget.ticket(4 * MIB, DEMAND)
    first, second = budget.ticket(2 * MIB, AHEAD), budget.ticket(2 * MIB, AHEAD)
    budget.promote(second, DEMAND)
    budget.release(holder)
    assert granted(first, second) == [False, True]


def test_fills_go_beside_demand_in_a_number_of_their_own() -> None:
    budget = Budget(1 << 30, max_requests=16)
    demand = [budget.ticket(1, DEMAND) for _ in range(4)]
    fills = [budget.ticket(1, FILL) for _ in range(5)]
    assert granted(*fills) == [True] * 4 + [False]
    # Whoever waits for one makes it demand, and room for the next.
    budget.promote(fills[0], DEMAND)
    assert granted(fills[4]) == [False]  # That many requests are enough.
    budget.release(demand[0])
    assert granted(fills[4]) == [True]
    budget.release(fills[0])
    assert granted(budget.ticket(1, FILL)) == [False]


def test_where_demand_is_enough_nothing_is_filled() -> None:
    budget = Budget(1 << 30, max_requests=16)
    assert all(granted(*(budget.ticket(1, DEMAND) for _ in range(8))))
    assert granted(budget.ticket(1, FILL)) == [False]


def test_a_tiny_request_is_not_free() -> None:
    budget = Budget(MIB)
    budget.ticket(1, DEMAND)
    assert budget.used_bytes == LEAST_TICKET_BYTES


async def test_a_cancelled_waiter_leaves_the_queue() -> None:
    budget = Budget(MIB)
    holder = budget.ticket(MIB, DEMAND)
    with trio.CancelScope() as scope:
        ticket = budget.ticket(MIB, DEMAND)
        try:
            scope.cancel()
            await budget.wait(ticket)
        finally:
            budget.release(ticket)
    assert budget.waiting == 0
    behind = budget.ticket(MIB, DEMAND)
    budget.release(holder)
    assert granted(behind) == [True]


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.sampled_from(["ask", "release", "promote"]), st.integers(0, 12)), max_size=60
    )
)
def test_the_account_is_right_after_any_sequence(steps: list[tuple[str, int]]) -> None:
    budget = Budget(8 * MIB)
    live: list[Ticket] = []
    for what, n in steps:
        if what == "ask":
            live.append(budget.ticket((n + 1) * MIB, Priority(n % 4)))
        elif live and what == "release":
            budget.release(live.pop(n % len(live)))
        elif live:
            budget.promote(live[n % len(live)], DEMAND)
        held = [ticket for ticket in live if ticket.granted.is_set()]
        assert budget.used_bytes == sum(ticket.bytes for ticket in held)
        assert budget.used_bytes <= 8 * MIB * max(SHARES) or len(held) == 1
        # Somebody is always served.
        assert held or not live
    for ticket in live:
        budget.release(ticket)
    assert (budget.used_bytes, budget.holders, budget.waiting) == (0, 0, 0)
