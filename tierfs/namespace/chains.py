"""The requests of one listing: one chain of pages, and more of them where a directory is large.

A chain gives a page for each round trip, whatever the lake could give. So the keys of a directory
that is past its first pages are split into ranges, with a chain for each::

    list() --> _follow(first chain) --page--> _took() --> merged, PARTIAL, commit, readers wake
                    | _spread(): a chain is free, and a range is worth splitting at a point
                    v
               _probe(range, point): a page that starts after the point
                    |- keys of the range: they and what follows are a new chain's --> _follow(it)
                    |- none: the range ends at the point                   (a wasted request)
                    `- the range's own chain was there first, or an error: nothing (wasted, too)

A point is a guess (`tierfs.namespace.split`), so that nothing depends on it: a range is cut only
when the page behind the point is there. A chain drops what comes after its range's end, and a
listing that fails goes on from the first range that is not done (`Run.record`).

What splitting may cost is bounded, whatever the names are: one request in `Policy.probe_every` at
most asks for a split, and the next has to wait while `Policy.waste_every` pages have not been seen
for each that gave nothing. A split costs at most one request, the part of a page before its point.
So a directory takes at most a fifth more requests than by one chain, and one of up to
`Policy.after_pages` takes the same.

Only a lake that lists in the order of its keys can be split. One that says so and does not is found
out by the pages, and is listed by one chain from then on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import trio

from tierfs.errors import LakeError
from tierfs.index.journal_inodes import InodeAllocator
from tierfs.index.records import ListingState
from tierfs.lake.protocol import Lake
from tierfs.namespace.attributes import Freshness
from tierfs.namespace.described import Describer
from tierfs.namespace.entries import Entries
from tierfs.namespace.keys import MAX_NAME_BYTES, PageNames, max_key_bytes, names_of
from tierfs.namespace.merge import Merger
from tierfs.namespace.run import Chain, Run
from tierfs.namespace.split import Scale, Split, sample_of, scale_of

#: Of a directory with more pages what is noted with the objects of the others is not asked for:
#: that would take a hundred times as long as the listing.
DESCRIBED_PAGES = 4


class Policy(NamedTuple):
    """When and how widely a directory is split. Counts are of pages and requests."""

    #: Pages before the first split. Directories of up to so many are relisted for a look-up
    #: (`tierfs.namespace.lookup.RELIST_PAGES`), so they have to stay cheap.
    after_pages: int = 10
    #: Chains of one directory. A page of 1,000 names takes about 20 ms of the processor, so a few
    #: chains keep it busy at the latencies of a region, eight at 150 ms.
    chains: int = 8
    #: Chains beyond the first one, of all directories together: a quarter of the connections that
    #: there are by default, so that reads, which queue for the same ones, find most of them free.
    extra_chains: int = 16
    #: A range in which fewer pages are expected is left to its chain.
    least_pages: int = 4
    #: Pages for each request that tries a split.
    probe_every: int = 5
    #: Pages for each request that gave nothing.
    waste_every: int = 10
    #: Reads the names of a page as numbers; tests take another.
    scale_of: Callable[[Sequence[bytes]], Scale | None] = scale_of


POLICY = Policy()


class Splitting:
    """What the listings of a mount have in common: the chains there may be, and whether the lake
    can be split at all."""

    def __init__(self, ordered: bool, policy: Policy) -> None:
        self.policy = policy
        self.possible = ordered
        self.seats = trio.Semaphore(policy.extra_chains, max_value=policy.extra_chains)


class _Answer(NamedTuple):
    """A page, with the time when it was asked for."""

    asked_ns: int
    prefix: bytes
    names: PageNames
    token: bytes | None


class _OutOfOrderError(Exception):
    """Pages of a directory that was split are not in the order of their keys."""


class Chains:
    """Lists the directory of *run*. For one `list`."""

    def __init__(
        self,
        run: Run,
        lake: Lake,
        entries: Entries,
        inodes: InodeAllocator,
        merger: Merger,
        freshness: Freshness,
        describer: Describer,
        splitting: Splitting,
    ) -> None:
        self._run = run
        self._lake = lake
        self._entries = entries
        self._inodes = inodes
        self._merger = merger
        self._freshness = freshness
        self._describer = describer
        self._splitting = splitting
        self._policy = splitting.policy
        self._max_key_bytes = max_key_bytes(lake.identity)
        self._slow_downs = lake.counters.slow_downs
        #: What the directory hides is recorded anew, from its first page on.
        self._fresh = not run.resumed
        #: This directory may be split.
        self._may_split = splitting.possible
        self._has_split = False
        #: Pages that gave something, requests that gave nothing, splits tried, and being tried.
        self._useful = self._wasted = self._probes = self._probing = 0
        self._failure: Exception | None = None

    async def list(self) -> None:
        """List every range, or what a look into it takes (`Run.peeks`). Raises NotFound when the
        directory loses its name, the lake's errors, and the index's."""
        try:
            await self._list()
            while not (self._run.listed or self._run.peeks):
                await self._list()  # Somebody came who needs the rest.
        except _OutOfOrderError:
            # What came after a range's end may have been before it: once more, in one chain.
            self._splitting.possible = self._may_split = self._has_split = False
            self._run.begin_again()
            if self._run.first:
                # On disk before anything can fail: the record that it replaces skips something.
                self._entries.prefix_of(self._run.directory)  # E3
                self._record()
                await self._entries.commit()
            await self._list()

    async def _list(self) -> None:
        self._failure = None
        async with trio.open_nursery() as nursery:
            await self._guard(nursery, self._follow(self._run.chains[0], nursery))
        if self._failure is not None:
            raise self._failure

    async def _guard(self, nursery: trio.Nursery, task: Awaitable[None]) -> None:
        """Await *task*; its error, or the end of the listing, ends the others."""
        try:
            await task
        except Exception as error:
            self._failure = self._failure or error
            nursery.cancel_scope.cancel()
        else:
            if self._run.listed:
                nursery.cancel_scope.cancel()  # Splits that are still being tried.

    # Pages.

    async def _follow(self, chain: Chain, nursery: trio.Nursery) -> None:
        """List what is left of *chain*'s range."""
        while not chain.done and not (self._run.peeks and chain.pages):
            await self._took(chain, await self._ask(chain.token), nursery)

    async def _ask(self, token: bytes | None, start_after: bytes = b"") -> _Answer:
        """One page, and inode numbers for all that it may bring. There is no checkpoint after the
        directory was seen to have its name still (N4)."""
        directory = self._run.directory
        asked_ns = self._freshness.now_ns()
        prefix = self._entries.prefix_of(directory)
        page = await self._lake.list_page(prefix, token=token, start_after=start_after)
        names = names_of(prefix, page)
        if sum(chain.pages for chain in self._run.chains) < DESCRIBED_PAGES:
            await self._describer.describe(
                prefix, names, lambda name: self._entries.known(directory, name)
            )
        await self._inodes.ensure(self._needed(names))
        while self._inodes.available < self._needed(names):
            await self._inodes.ensure(self._needed(names))  # Other chains held more meanwhile.
        self._entries.prefix_of(directory)
        return _Answer(asked_ns, prefix, names, page.next_token)

    def _needed(self, names: PageNames) -> int:
        held = sum(len(chain.held) for chain in self._run.chains)
        return names.file_count + len(names.directories) + held

    async def _took(self, chain: Chain, answer: _Answer, nursery: trio.Nursery) -> None:
        """Take a page, try further splits, and wait until the page is committed."""
        self._take(chain, answer)
        run = self._run
        if run.listed:
            return  # The sweep comes first.
        if run.first:
            self._record()
        self._spread(nursery)
        await self._entries.commit()
        run.advance()

    def _take(self, chain: Chain, answer: _Answer) -> None:
        """Merge a page of *chain*, but for what is beyond its range."""
        names = answer.names
        if names.first and names.first < chain.at:
            if self._has_split:
                raise _OutOfOrderError
            self._may_split = False
        if self._fresh:
            self._entries.clear_hidden(self._run.directory)
            self._fresh = False
        point = chain.point
        chain.again, chain.token = chain.token, answer.token
        chain.done = answer.token is None
        if chain.end is not None and names.last >= chain.end:
            names.cut(answer.prefix, chain.end)
            chain.done = True
        chain.at = names.last or chain.at
        chain.pages += 1
        self._count(bool(names))
        self._merger.merge(self._run, chain, names, answer.asked_ns, point)
        self._run.join()
        if self._may_split and self._useful >= self._policy.after_pages:
            shown = [*sample_of(names.file_names()), *sample_of(list(names.directories))]
            chain.scale = self._policy.scale_of(sorted(shown))

    def _count(self, useful: bool) -> None:
        if useful:
            self._useful += 1
        else:
            self._wasted += 1

    def _record(self) -> None:
        self._entries.put_listing(self._run.directory, self._run.record(ListingState.PARTIAL))

    # Splits.

    def _spread(self, nursery: trio.Nursery) -> None:
        """Try splits while that may be, the widest range first."""
        while self._may_probe():
            found = self._widest()
            if found is None:
                return
            chain, point = found
            chain.probed = True
            self._probes += 1
            self._probing += 1
            self._splitting.seats.acquire_nowait()
            nursery.start_soon(self._guard, nursery, self._probe(chain, point, nursery))

    def _may_probe(self) -> bool:
        policy = self._policy
        if not self._may_split or self._useful < policy.after_pages:
            return False
        if self._lake.counters.slow_downs != self._slow_downs:
            return False  # The lake asked for fewer requests since this listing began.
        at_work = self._probing + sum(not chain.done for chain in self._run.chains)
        return (
            at_work < policy.chains
            and self._splitting.seats.value > 0
            and self._probes < self._useful // policy.probe_every
            and (self._wasted + self._probing + 1) * policy.waste_every <= self._useful
        )

    def _widest(self) -> tuple[Chain, bytes] | None:
        """The range in which most pages are expected, and the key to split it at."""
        prefix = self._entries.prefix_of(self._run.directory)
        best: tuple[Chain, Split] | None = None
        for chain in self._run.chains:
            if chain.done or chain.probed or chain.scale is None:
                continue
            at = chain.at[len(prefix) :]
            end = None if chain.end is None else chain.end[len(prefix) :]
            split = chain.scale.split(at, end, max(chain.reach, self._policy.after_pages))
            if (
                split is not None
                and split.pages >= self._policy.least_pages
                and len(split.point) <= MAX_NAME_BYTES
                and len(prefix) + len(split.point) <= self._max_key_bytes
                and (best is None or split.pages > best[1].pages)
            ):
                best = (chain, split)
        return None if best is None else (best[0], prefix + best[1].point)

    async def _probe(self, chain: Chain, point: bytes, nursery: trio.Nursery) -> None:
        """Ask for what comes after *point* in *chain*'s range, and list it if there is anything."""
        try:
            try:
                answer = await self._ask(None, point)
            except LakeError:
                # The range is still its chain's: if the lake is ill that will say so.
                self._may_split = False
                return
            finally:
                chain.probed = False
                self._probing -= 1
            rest = self._split(chain, point, answer)
            if rest is None:
                self._wasted += 1
                self._spread(nursery)
                return
            await self._took(rest, answer, nursery)
            await self._follow(rest, nursery)
        finally:
            self._splitting.seats.release()

    def _split(self, chain: Chain, point: bytes, answer: _Answer) -> Chain | None:
        """The chain of what follows *point*, of which *answer* is the first page; None if there is
        nothing that *chain* would not have by itself."""
        names = answer.names
        if names.first and names.first <= point:
            self._splitting.possible = self._may_split = False  # It starts where it likes.
            return None
        if chain.done or chain.at >= point:
            return None
        empty = not names.first and answer.token is None
        if empty or (chain.end is not None and names.first > chain.end):
            chain.end = point
            return None
        self._has_split = True
        return self._run.split(chain, point, max(chain.reach, self._policy.after_pages) * 2)
