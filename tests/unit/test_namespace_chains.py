"""Large directories: several chains over split ranges, what they cost, and what they must not
lose."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.namespaces import WatchedLake, World, names_in, read_all, settle, splitting
from tierfs.errors import LakeUnavailable
from tierfs.index.records import ROOT_INO, HiddenReason, Kind, ListingState
from tierfs.lake.protocol import ListPage
from tierfs.namespace import Namespace
from tierfs.namespace.chains import POLICY


class DistantLake(WatchedLake):
    """Every page takes one round trip. Time is counted in round trips (`trips`), and goes on only
    when all that the answers set off has come to rest, so that it is always the same."""

    def __init__(self, page_size: int = 10) -> None:
        super().__init__(page_size)
        self.trips = 0
        self.in_flight = self.most_in_flight = 0
        self._answers = trio.Event()
        #: Pages that were asked for with a start, and those of them in which there was nothing.
        self.splits = self.empty = 0
        self.page = self._travel

    async def _travel(self, token: bytes | None, start_after: bytes) -> None:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self._answers.wait()
        finally:
            self.in_flight -= 1

    async def list_page(
        self,
        prefix: bytes,
        *,
        token: bytes | None = None,
        max_keys: int = 1000,
        recursive: bool = False,
        start_after: bytes = b"",
    ) -> ListPage:
        page = await super().list_page(
            prefix, token=token, max_keys=max_keys, recursive=recursive, start_after=start_after
        )
        if start_after:
            self.splits += 1
            self.empty += not page.objects and not page.prefixes
        return page

    @contextlib.asynccontextmanager
    async def travelling(self, namespace: Namespace) -> AsyncIterator[None]:
        async def clock() -> None:
            while True:
                await trio.testing.wait_all_tasks_blocked()
                busy = namespace._entries._pumping or namespace._listings._inodes._lock.locked()
                if busy or not self.in_flight:
                    await trio.sleep(0.000_5)
                    continue
                self.trips += 1
                self._answers.set()
                self._answers = trio.Event()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(clock)
            yield
            nursery.cancel_scope.cancel()


def numbers(count: int) -> list[bytes]:
    return [b"sample-%07d.jpg" % n for n in range(count)]


def hashes(count: int) -> list[bytes]:
    return sorted(hashlib.md5(b"%d" % n).hexdigest().encode() for n in range(count))


def lake_of(keys: list[bytes], page_size: int = 10) -> DistantLake:
    lake = DistantLake(page_size)
    for key in keys:
        lake.store(key, b"content")
    return lake


async def list_all(directory: Path, lake: DistantLake) -> list[bytes]:
    world = World(directory, lake)
    async with world.mount() as namespace, lake.travelling(namespace):
        found = await read_all(namespace, ROOT_INO)
        assert len({ino for ino, _, _ in found}) == len(found)
        assert namespace._listings._splitting.seats.value == POLICY.extra_chains
        listing = namespace._names.listing(ROOT_INO)
        assert (listing.state, listing.entries) == (ListingState.COMPLETE, len(found))
        return sorted(name for _, name, _ in found)


# What it gains, and what it costs.


@pytest.mark.parametrize("names", [numbers, hashes])
async def test_a_large_directory_is_listed_by_several_chains(
    tmp_path: Path, names: Callable[[int], list[bytes]]
) -> None:
    keys = names(2_000)
    lake = lake_of(keys)
    assert await list_all(tmp_path, lake) == keys
    # One chain takes 200 round trips.
    assert lake.trips < 60
    assert len(lake.asked) < 220
    assert lake.most_in_flight == POLICY.chains


async def test_its_first_page_answers_at_once(tmp_path: Path) -> None:
    lake = lake_of(numbers(2_000))
    async with World(tmp_path, lake).mount() as namespace, lake.travelling(namespace):
        assert len(await namespace.readdir(ROOT_INO, 0)) == 9
        assert lake.trips == 1


@pytest.mark.parametrize("count", [0, 1, 10, 11, 95, 100])
async def test_a_directory_of_ten_pages_costs_what_it_has(tmp_path: Path, count: int) -> None:
    keys = numbers(count)
    lake = lake_of(keys)
    assert await list_all(tmp_path, lake) == keys
    assert len(lake.asked) == max(1, -(-count // 10))
    assert lake.most_in_flight == 1


def clusters(*parts: tuple[bytes, int, int]) -> list[bytes]:
    """Numbers behind stems, each with a step."""
    return sorted(
        {stem + b"%06d" % (n * step) for stem, count, step in parts for n in range(count)}
    )


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param(clusters((b"p" * 200, 1_500, 1)), id="long common stem"),
        pytest.param(clusters((b"a", 1_300, 1), (b"z", 20, 9_999)), id="one giant stem"),
        pytest.param(clusters(*((b"%x" % n * 3, 90, n) for n in range(1, 16))), id="many stems"),
        pytest.param([b"%020d" % int(1.02**n) for n in range(400, 2_000)], id="exponents"),
        pytest.param(sorted(b"%d" % n for n in range(1_500)), id="without zeros"),
        pytest.param(sorted({b"a" * (n % 200) + b"%d" % n for n in range(1_500)}), id="lengths"),
        pytest.param(
            [bytes([0xC3, 0x80 + n // 40, 0xC4, 0x80 + n % 40]) for n in range(1_500)],
            id="not ascii",
        ),
        pytest.param([b"%06d/x" % n for n in range(1_500)], id="directories"),
        pytest.param(
            [b"%03d" % n for n in range(120)] + [b"9" * 100 + b"%06d" % n for n in range(1_400)],
            id="the rest behind one point",
        ),
    ],
)
async def test_names_that_do_not_split_cost_little(tmp_path: Path, keys: list[bytes]) -> None:
    lake = lake_of(keys)
    assert await list_all(tmp_path, lake) == [key.removesuffix(b"/x") for key in sorted(keys)]
    pages = -(-len(keys) // 10)
    assert len(lake.asked) <= pages + pages // 5
    assert lake.splits <= pages // 5
    assert lake.empty <= pages // 10


STEMS = st.text("abz059-._", max_size=4).map(str.encode)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    parts=st.lists(
        st.tuples(STEMS, st.integers(1, 400), st.sampled_from([1, 3, 100, 2_000])), min_size=1
    )
)
def test_any_names_are_listed_and_cost_little(
    parts: list[tuple[bytes, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    keys = clusters(*parts)

    async def run() -> None:
        lake = lake_of(keys)
        assert await list_all(tmp_path_factory.mktemp("names"), lake) == keys
        pages = -(-len(keys) // 10)
        assert len(lake.asked) <= pages + pages // 5

    trio.run(run)


async def test_splits_are_few_even_if_all_succeed(tmp_path: Path) -> None:
    keys = numbers(100)
    world, lake = small_world(tmp_path, *keys)
    starts = []

    async def count(token: bytes | None, start_after: bytes) -> None:
        starts.append(start_after)

    lake.page = count
    policy = splitting(*keys)._replace(probe_every=5)
    async with world.mount(listing=policy) as namespace:
        assert await names_in(namespace, ROOT_INO) == keys
        assert 0 < sum(map(bool, starts)) <= 20


async def test_a_lake_that_asks_for_less_gets_no_more_chains(tmp_path: Path) -> None:
    lake = lake_of(numbers(2_000))

    def complain(kind: str, key: bytes) -> None:
        if len(lake.asked) == 9:
            lake.counters.slow_downs += 1

    lake.before = complain
    assert await list_all(tmp_path, lake) == numbers(2_000)
    assert lake.most_in_flight == 1


async def test_all_directories_together_have_so_many_chains(tmp_path: Path) -> None:
    directories = [b"d%d/" % n for n in range(5)]
    lake = lake_of([directory + key for directory in directories for key in numbers(1_000)])
    async with World(tmp_path, lake).mount() as namespace, lake.travelling(namespace):
        inos = [ino for ino, _, _ in await read_all(namespace, ROOT_INO)]
        async with trio.open_nursery() as nursery:
            for ino in inos:
                nursery.start_soon(read_all, namespace, ino)
        assert namespace.entry_count() == 5_005
        assert namespace._listings._splitting.seats.value == POLICY.extra_chains
    assert lake.most_in_flight == len(directories) + POLICY.extra_chains


# What it must not lose.

TEN = [b"%d" % n for n in range(10)]


def small_world(directory: Path, *keys: bytes, page_size: int = 1) -> tuple[World, WatchedLake]:
    lake = WatchedLake(page_size)
    for key in keys:
        lake.store(key, b"content")
    return World(directory, lake), lake


@pytest.mark.parametrize("point", [b"a", b"a!", b"a!!", b"a-", b"a-b", b"a.", b"a0", b"A", b"b"])
@pytest.mark.parametrize("first", ["the object", "the directory", "both"])
@pytest.mark.parametrize("page_size", [1, 3])
async def test_a_directory_hides_its_object_across_a_split(
    tmp_path: Path, point: bytes, first: str, page_size: int
) -> None:
    """``a`` is before the point, ``a/`` after it, and either chain may be there first."""
    keys = [b"0", b"a", b"a!", b"a!!", b"a-b", b"a./x", b"a/x", b"a0", b"a1", b"b", b"c"]
    world, lake = small_world(tmp_path, *keys, page_size=page_size)
    waiting = trio.Event()

    async def order(token: bytes | None, start_after: bytes) -> None:
        tail = bool(start_after) or (token is not None and token > point)
        if tail and not start_after and first == "the object":
            await waiting.wait()
        if not tail and token is not None and first == "the directory":
            await waiting.wait()

    lake.page = order
    async with world.mount(listing=splitting(point)) as namespace:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_all, namespace, ROOT_INO)
            await trio.sleep(0.02)
            waiting.set()
        for _ in range(2):
            found = {name: shown.kind for _, name, shown in await read_all(namespace, ROOT_INO)}
            expected = {key.partition(b"/")[0]: Kind.FILE for key in keys}
            expected |= {b"a": Kind.DIRECTORY, b"a.": Kind.DIRECTORY}
            assert found == expected
            hidden = [(item.key, item.reason) for item in namespace.hidden(9)]
            assert hidden == [(b"a", HiddenReason.SHADOWED_BY_DIRECTORY)]
            world.clock.advance(61)
        assert world.changes == []


@pytest.mark.parametrize("failing", range(2, 11))
async def test_a_chain_that_fails_ends_the_listing_which_then_goes_on(
    tmp_path: Path, failing: int
) -> None:
    world, lake = small_world(tmp_path, *TEN)
    count = 0

    async def fail(token: bytes | None, start_after: bytes) -> None:
        nonlocal count
        count += 1
        if count == failing and not start_after:
            raise LakeUnavailable("list", b"")

    lake.page = fail
    async with world.mount(listing=splitting(b"3", b"6")) as namespace:
        found: list[bytes] = []
        after = errors = 0
        while True:
            try:
                batch = await namespace.readdir(ROOT_INO, after, 2)
            except LakeUnavailable:
                errors += 1
                assert namespace._names.listing(ROOT_INO).state is not ListingState.COMPLETE
                continue
            if not batch:
                break
            found += [name for _, name, _ in batch]
            after = batch[-1][0]
        assert errors <= 1
        assert sorted(found) == TEN
        assert namespace._names.listing(ROOT_INO).state is ListingState.COMPLETE


@pytest.mark.parametrize("stop", range(2, 13))
async def test_a_listing_cut_off_goes_on_without_a_gap(tmp_path: Path, stop: int) -> None:
    """The mount ends at any request, with chains ahead of the first gap."""
    world, lake = small_world(tmp_path, *TEN, b"2/x", b"5/x")
    asked = trio.Event()
    count = 0

    async def hold(token: bytes | None, start_after: bytes) -> None:
        nonlocal count
        count += 1
        # The first range waits from its second page on, so that the others are ahead.
        if count >= stop or (token is not None and token < b"3"):
            asked.set()
            await trio.sleep_forever()

    lake.page = hold
    async with world.mount(listing=splitting(b"3", b"6")) as namespace:
        namespace._listings.start(ROOT_INO)
        await asked.wait()
        await trio.sleep(0.02)
    lake.page = _now
    async with world.mount(listing=splitting(b"2", b"8")) as namespace:
        assert namespace._names.listing(ROOT_INO).state is not ListingState.COMPLETE
        assert await names_in(namespace, ROOT_INO) == TEN
        assert namespace.entry_count() == len(TEN)


@pytest.mark.parametrize(("stop", "shown"), [(b"a-b", 1), (b"a/x", 3)])
async def test_what_was_held_at_a_cut_is_seen_again(
    tmp_path: Path, stop: bytes, shown: int
) -> None:
    """The first range is done, the second is not; "a" and perhaps "a!" wait for it."""
    keys = [b"0", b"a", b"a!", b"a!!", b"a-b", b"a/x", b"b"]
    world, lake = small_world(tmp_path, *keys)

    async def hold(token: bytes | None, start_after: bytes) -> None:
        if token == stop:
            await trio.sleep_forever()

    lake.page = hold
    async with world.mount(listing=splitting(b"a!")) as namespace:
        namespace._listings.start(ROOT_INO)
        while namespace.entry_count() < shown:
            await trio.sleep(0.001)
    lake.page = _now
    lake.asked.clear()
    async with world.mount() as namespace:
        names = [b"0", b"a", b"a!", b"a!!", b"a-b", b"b"]
        assert await names_in(namespace, ROOT_INO) == names
        assert namespace.hidden_counts() == {HiddenReason.SHADOWED_BY_DIRECTORY: 1}
        assert len(lake.asked) < len(keys)


async def _now(token: bytes | None, start_after: bytes) -> None:
    pass


@pytest.mark.parametrize("slow", ["first", "last"])
async def test_nothing_is_swept_before_all_ranges_are_listed(tmp_path: Path, slow: str) -> None:
    world, lake = small_world(tmp_path, *TEN)
    async with world.mount(listing=splitting(b"3", b"6")) as namespace:
        before = {name: ino for ino, name, _ in await read_all(namespace, ROOT_INO)}
        lake.remove(b"1")
        lake.remove(b"8")
        world.clock.advance(61)
        gate = trio.Event()

        async def hold(token: bytes | None, start_after: bytes) -> None:
            if token is not None and (token < b"3" if slow == "first" else token > b"6"):
                await gate.wait()

        lake.page = hold
        async with trio.open_nursery() as nursery:
            nursery.start_soon(namespace.refresh, b"")
            await trio.sleep(0.05)
            assert namespace.entry_count() == 10
            assert world.changes == []
            gate.set()
        after = {name: ino for ino, name, _ in await read_all(namespace, ROOT_INO)}
        assert after == {name: before[name] for name in TEN if name not in (b"1", b"8")}


async def test_a_split_that_fails_changes_nothing(tmp_path: Path) -> None:
    world, lake = small_world(tmp_path, *TEN)

    async def fail(token: bytes | None, start_after: bytes) -> None:
        if start_after:
            raise LakeUnavailable("list", b"")

    lake.page = fail
    async with world.mount(listing=splitting(b"3", b"6")) as namespace:
        assert await names_in(namespace, ROOT_INO) == TEN
        assert len(lake.asked) == 11


async def test_a_split_that_gets_no_answer_holds_nobody_up(tmp_path: Path) -> None:
    world, lake = small_world(tmp_path, *TEN)

    async def stall(token: bytes | None, start_after: bytes) -> None:
        if start_after:
            await trio.sleep_forever()

    lake.page = stall
    async with world.mount(listing=splitting(b"3", b"6")) as namespace:
        with trio.fail_after(30):
            assert await names_in(namespace, ROOT_INO) == TEN
        await settle(namespace)
        assert namespace._listings._splitting.seats.value == POLICY.extra_chains


async def test_a_split_that_comes_too_late_is_dropped(tmp_path: Path) -> None:
    world, lake = small_world(tmp_path, *TEN)
    passed = trio.Event()

    async def late(token: bytes | None, start_after: bytes) -> None:
        if start_after:
            await passed.wait()
        elif token == b"6":
            passed.set()
            await trio.sleep(0.02)

    lake.page = late
    async with world.mount(listing=splitting(b"3")) as namespace:
        with trio.fail_after(30):
            assert await names_in(namespace, ROOT_INO) == TEN
        assert len(lake.asked) == 11


class Liar(WatchedLake):
    """Says that it lists in order, and does so for a while."""

    order: list[bytes]

    async def list_page(
        self,
        prefix: bytes,
        *,
        token: bytes | None = None,
        max_keys: int = 1000,
        recursive: bool = False,
        start_after: bytes = b"",
    ) -> ListPage:
        await self._enter("list", prefix)
        await self.page(token, start_after)
        keys = [key for key in self.order if key > start_after or not self.starts]
        at = keys.index(token) if token is not None else 0
        following = keys[at + 1] if at + 1 < len(keys) else None
        return ListPage([self._objects[keys[at]][0]], [], following)

    #: It knows of start-after.
    starts = True


@pytest.mark.parametrize("first", [True, False])
async def test_a_lake_out_of_order_is_listed_once_more_in_one_chain(
    tmp_path: Path, first: bool
) -> None:
    lake = Liar(1)
    for key in TEN:
        lake.store(key, b"content")
    lake.order = TEN
    async with World(tmp_path, lake).mount(ttl_s=0.0, listing=splitting(b"5")) as namespace:
        if not first:
            assert await names_in(namespace, ROOT_INO) == TEN
        # "4" comes when the first chain has ended at "5".
        lake.order = [b"0", b"1", b"2", b"3", b"5", b"4", b"6", b"8", b"7", b"9"]
        assert await names_in(namespace, ROOT_INO) == TEN
        assert namespace.entry_count() == 10
        lake.asked.clear()
        assert await names_in(namespace, ROOT_INO) == TEN
        assert len(lake.asked) == 10  # And so for good.


async def test_a_lake_out_of_order_that_fails_next_is_listed_from_the_beginning(
    tmp_path: Path,
) -> None:
    lake = Liar(1)
    for key in TEN:
        lake.store(key, b"content")
    lake.order = [b"0", b"1", b"2", b"3", b"5", b"4", b"6", b"8", b"7", b"9"]

    def fail(kind: str, key: bytes) -> None:
        if not splitting_state.possible:
            raise LakeUnavailable("list", b"")

    async def first_range_first(token: bytes | None, start_after: bytes) -> None:
        if token == b"8":
            while not namespace._names.listing(ROOT_INO).pages >= 5:
                await trio.sleep(0.001)

    lake.page = first_range_first
    async with World(tmp_path, lake).mount(listing=splitting(b"5")) as namespace:
        splitting_state = namespace._listings._splitting
        lake.before = fail
        with pytest.raises(LakeUnavailable):
            await read_all(namespace, ROOT_INO)
        lake.before = lambda kind, key: None
        assert await names_in(namespace, ROOT_INO) == TEN


async def test_a_lake_that_does_not_know_where_to_start(tmp_path: Path) -> None:
    lake = Liar(1)
    for key in TEN:
        lake.store(key, b"content")
    lake.order = TEN
    lake.starts = False
    async with World(tmp_path, lake).mount(ttl_s=0.0, listing=splitting(b"5")) as namespace:
        assert await names_in(namespace, ROOT_INO) == TEN
        assert len(lake.asked) == 11
        assert await names_in(namespace, ROOT_INO) == TEN
        assert len(lake.asked) == 21


async def test_a_lake_without_order_is_never_split(tmp_path: Path) -> None:
    world, lake = small_world(tmp_path, *TEN)
    lake.ordered = False
    async with world.mount(listing=splitting(b"4~")) as namespace:
        assert await names_in(namespace, ROOT_INO) == TEN
        assert len(lake.asked) == 10
