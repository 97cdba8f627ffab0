"""Listing a directory: pages of the lake become entries of the index, while readers already read.

One `Run` lists one directory once, in a task of its own, whoever waits for it. Readers go through
the index by inode number and take what the run has confirmed (`tierfs.namespace.readdir`)::

    start --> PARTIAL, page 1 --> PARTIAL, page n --> sweep() --> COMPLETE           first listing
    start --> COMPLETE (old), page 1 ... page n   --> sweep() --> COMPLETE           relisting
                 | error: readers get it; a first listing goes on from its token, if asked for
                 ` the directory lost its name: NotFound

The pages are asked for in `tierfs.namespace.chains`, several at a time where a directory is large,
and merged by `tierfs.namespace.merge`.

Memory: a page for each chain, nine bytes for each entry that was there before a listing began, and
a few names that the end of a page separates from the directory that may hide them.
"""

from __future__ import annotations

import logging
from array import array
from collections import OrderedDict

import trio

from tierfs.errors import LakeUnavailable, TierfsError
from tierfs.index.journal_inodes import InodeAllocator
from tierfs.index.names import Names
from tierfs.index.records import ListingState
from tierfs.lake.protocol import Lake
from tierfs.namespace.absence import Absences
from tierfs.namespace.attributes import Freshness
from tierfs.namespace.chains import Chains, Policy, Splitting
from tierfs.namespace.described import Describer
from tierfs.namespace.entries import Entries
from tierfs.namespace.merge import Merger
from tierfs.namespace.reconcile import Reconciler
from tierfs.namespace.run import Run

_log = logging.getLogger(__name__)

#: Listings begun because of look-ups that run at a time; those that someone waits for are not
#: limited.
BACKGROUND_LISTINGS = 8
#: A partial listing goes on from its token for so long; after that it begins anew.
RESUME_S = 3600.0
#: Directories remembered because their last listing failed.
FAILED_LIMIT = 1_024


class Listings:
    """The listings that run, one for each directory at most. *spawn* is where they run."""

    def __init__(
        self,
        names: Names,
        entries: Entries,
        lake: Lake,
        inodes: InodeAllocator,
        reconciler: Reconciler,
        absences: Absences,
        freshness: Freshness,
        describer: Describer,
        spawn: trio.Nursery,
        policy: Policy,
    ) -> None:
        self._names = names
        self._entries = entries
        self._lake = lake
        self._inodes = inodes
        self._merger = Merger(names, entries, reconciler, absences, freshness, inodes)
        self._splitting = Splitting(lake.ordered, policy)
        self._freshness = freshness
        self._describer = describer
        self._spawn = spawn
        self._running: dict[int, Run] = {}
        self._background = 0
        self._failed: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._running)

    def current(self, directory: int) -> Run | None:
        """The listing of *directory* that is going on."""
        return self._running.get(directory)

    def failed(self, directory: int) -> bool:
        """Whether the last listing of *directory* ended in an error."""
        return directory in self._failed

    def start(self, directory: int, *, anew: bool = False) -> Run:
        """List *directory*, or join who does. *anew*: do not go on with a partial listing."""
        run = self._running.get(directory)
        if run is None:
            run = self._running[directory] = self._begin(directory, anew)
            self._spawn.start_soon(self._run, run)
        run.peeks = False
        return run

    def start_in_background(self, directory: int, *, peeks: bool = False) -> bool:
        """List *directory*, or with *peeks* the first page of it, without anyone waiting; False if
        enough such listings are going on."""
        run = self._running.get(directory)
        if run is not None:
            run.peeks = run.peeks and peeks
            return True
        if self._background >= BACKGROUND_LISTINGS:
            return False
        run = self._running[directory] = self._begin(directory, False)
        run.peeks = peeks
        self._background += 1
        self._spawn.start_soon(self._run_in_background, run)
        return True

    async def look_into(self, directory: int) -> None:
        """List the first page of *directory*, if nothing is known of it, or that was all and is not
        believed any more, and nobody lists it; wait for that page. What is wrong is for who comes
        to read it."""
        if directory in self._running or not self._is_unknown(directory):
            return
        run = self._running[directory] = self._begin(directory, False)
        run.peeks = True
        self._spawn.start_soon(self._run, run)
        await run.progress()

    def _is_unknown(self, directory: int) -> bool:
        record = self._names.listing(directory)
        if record.state is ListingState.COMPLETE and record.pages <= 1:
            return self._freshness.left_s(record.checked_ns, self._freshness.now_ns()) <= 0.0
        return record.state is ListingState.NONE

    async def run(self, directory: int, *, since_now: bool = False) -> None:
        """List *directory* and wait for the end; raises what ended it.

        A listing that is going on will do, unless it must have begun *since_now*, or began so long
        ago that nobody would believe it.
        """
        run = self._running.get(directory)
        if run is not None and (since_now or self._is_old(run)):
            while not run.ended:
                await run.progress()
        run = self.start(directory, anew=since_now)
        while not run.ended:
            await run.progress()
        if run.error is not None:
            raise run.error

    def _is_old(self, run: Run) -> bool:
        now_ns = self._freshness.now_ns()
        return self._freshness.ttl_s > 0 and self._freshness.left_s(run.begun_ns, now_ns) <= 0.0

    def _begin(self, directory: int, anew: bool) -> Run:
        record = self._names.listing(directory)
        now_ns = self._freshness.now_ns()
        age_ns = now_ns - record.checked_ns
        if (
            record.state is ListingState.PARTIAL
            and record.token is not None
            and not anew
            and (self._freshness.forever or 0 <= age_ns <= RESUME_S * 1_000_000_000)
            # What a look into it has brought is of no use once it is not believed any more.
            and (record.pages > 1 or self._freshness.left_s(record.checked_ns, now_ns) > 0.0)
        ):
            run = Run(directory, record.checked_ns, first=True, before=array("Q"))
            run.resume(record)
            return run
        return self._begin_anew(directory, record.state is not ListingState.COMPLETE)

    def _begin_anew(self, directory: int, first: bool) -> Run:
        before = self._names.child_inos(directory)
        return Run(directory, self._freshness.now_ns(), first=first, before=before)

    async def _run_in_background(self, run: Run) -> None:
        try:
            await self._run(run)
        finally:
            self._background -= 1

    async def _run(self, run: Run) -> None:
        directory = run.directory
        self._failed.pop(directory, None)
        try:
            await self._list(run)
        except TierfsError as error:
            run.error = error
        except Exception:
            _log.exception("listing inode %d: unexpected error", directory)
            run.error = LakeUnavailable("list a directory", f"inode {directory}", "see the log")
        except BaseException:
            run.error = LakeUnavailable("list a directory", f"inode {directory}", "unmounting")
            raise
        finally:
            if run.error is not None:
                self._failed[directory] = None
                if len(self._failed) > FAILED_LIMIT:
                    self._failed.popitem(last=False)
            del self._running[directory]
            run.ended = True
            run.advance()

    async def _list(self, run: Run) -> None:
        chains = Chains(
            run,
            self._lake,
            self._entries,
            self._inodes,
            self._merger,
            self._freshness,
            self._describer,
            self._splitting,
        )
        await chains.list()
        if not run.listed:
            return  # That it was looked into is recorded.
        await self._merger.sweep(run)
        self._entries.prefix_of(run.directory)  # E3: it may have lost its name meanwhile.
        self._entries.put_listing(run.directory, run.record(ListingState.COMPLETE))
        await self._entries.commit()
