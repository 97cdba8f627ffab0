"""Listing a directory: pages of the lake become entries of the index, while readers already read.

One `Run` lists one directory once, in a task of its own, whoever waits for it. Readers go through
the index by inode number and take what the run has confirmed (`tierfs.namespace.readdir`)::

    start --> PARTIAL, page 1 --> PARTIAL, page n --> _sweep() --> COMPLETE          first listing
    start --> COMPLETE (old), page 1 ... page n   --> _sweep() --> COMPLETE          relisting
                 | error: readers get it; a first listing goes on from its token, if asked for
                 ` the directory lost its name: NotFound

What a page says is merged by `_merge`: names of one page are decided together, without waiting,
against everything decided before. The listing then vouches for all entries from its beginning on,
so that an unchanged directory costs reads and one write, however large it is.

Memory: a page, nine bytes for each entry that was there before a listing began, and a few names
that a page boundary separates from the directory that may hide them.
"""

from __future__ import annotations

import logging
from array import array
from collections import OrderedDict
from collections.abc import Sequence

import trio

from tierfs.errors import LakeUnavailable, TierfsError
from tierfs.index.journal_inodes import InodeAllocator
from tierfs.index.names import Names
from tierfs.index.records import (
    Dentry,
    Hidden,
    HiddenReason,
    Kind,
    Listing,
    ListingState,
)
from tierfs.lake.protocol import Lake, ObjectInfo
from tierfs.namespace.absence import Absences
from tierfs.namespace.attributes import Freshness, is_newer
from tierfs.namespace.entries import Entries
from tierfs.namespace.keys import PageNames, names_of
from tierfs.namespace.reconcile import Reconciler
from tierfs.namespace.run import Point, Run

_log = logging.getLogger(__name__)

#: Listings begun because of look-ups that run at a time; those that someone waits for are not
#: limited.
BACKGROUND_LISTINGS = 4
#: A partial listing goes on from its token for so long; after that it begins anew.
RESUME_S = 3600.0
#: Directories remembered because their last listing failed.
FAILED_LIMIT = 1_024
#: Entries that a sweep removes between two waits.
SWEEP_ENTRIES = 1_000


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
        spawn: trio.Nursery,
    ) -> None:
        self._names = names
        self._entries = entries
        self._lake = lake
        self._inodes = inodes
        self._reconciler = reconciler
        self._absences = absences
        self._freshness = freshness
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
        return run

    def start_in_background(self, directory: int) -> bool:
        """List *directory* without anyone waiting; False if enough such listings are going on."""
        if directory in self._running:
            return True
        if self._background >= BACKGROUND_LISTINGS:
            return False
        run = self._running[directory] = self._begin(directory, False)
        self._background += 1
        self._spawn.start_soon(self._run_in_background, run)
        return True

    async def run(self, directory: int, *, since_now: bool = False) -> None:
        """List *directory* and wait for the end; raises what ended it.

        A listing that is going on will do, unless it must have begun *since_now*.
        """
        if since_now:
            run = self._running.get(directory)
            while run is not None and not run.ended:
                await run.progress()
        run = self.start(directory, anew=since_now)
        while not run.ended:
            await run.progress()
        if run.error is not None:
            raise run.error

    def _begin(self, directory: int, anew: bool) -> Run:
        record = self._names.listing(directory)
        now_ns = self._freshness.now_ns()
        age_ns = now_ns - record.checked_ns
        if (
            record.state is ListingState.PARTIAL
            and record.token is not None
            and not anew
            and (self._freshness.forever or 0 <= age_ns <= RESUME_S * 1_000_000_000)
        ):
            run = Run(directory, record.checked_ns, first=True, before=array("Q"))
            run.resumed = True
            run.token, run.pages, run.entries = record.token, record.pages, record.entries
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
        fresh = not run.resumed
        while True:
            asked_ns = self._freshness.now_ns()
            point = run.point
            prefix = self._entries.prefix_of(run.directory)
            page = await self._lake.list_page(prefix, token=run.token)
            names = names_of(prefix, page)
            await self._inodes.ensure(len(names.files) + len(names.directories) + len(run.held))
            self._entries.prefix_of(run.directory)  # It may have lost its name meanwhile.
            if fresh:
                self._entries.clear_hidden(run.directory)
                fresh = False
            last = page.next_token is None
            self._merge(run, names, asked_ns, None if last else point)
            run.pages += 1
            run.token = page.next_token
            if last:
                break
            if run.first:
                self._record(run, ListingState.PARTIAL)
            await self._entries.commit()
            run.advance()
        await self._sweep(run)
        self._record(run, ListingState.COMPLETE)
        await self._entries.commit()

    def _record(self, run: Run, state: ListingState) -> None:
        token, pages, entries = run.point
        if run.held:
            # What is held is in no table: go on from before the oldest of it.
            token, pages, entries = next(iter(run.held.values()))[1]
        self._entries.put_listing(
            run.directory, Listing(state, run.begun_ns, pages, entries, token)
        )

    # Merging.

    def _merge(self, run: Run, names: PageNames, asked_ns: int, point: Point | None) -> None:
        """Decide about every name of one page (N5, N6), which can be had again from *point*; None:
        it is the last."""
        directory = run.directory
        for key, reason in names.hidden:
            self._entries.put_hidden(Hidden(directory, key, reason))
        held, run.held = run.held, {}
        files = names.files
        if held:
            files = {name: info for name, (info, _) in held.items()} | files
        now_ns = self._freshness.now_ns()
        shown = [*names.directories, *(name for name in files if name not in names.directories)]
        known = dict(zip(shown, self._entries.known_all(directory, shown), strict=True))
        for name in names.directories:
            self._merge_directory(run, name, known[name], asked_ns, now_ns)
        for name, info in files.items():
            if name in names.directories:
                self._shadow(run, info)
            elif point is not None and info.key + b"/" > names.last:
                # ``a`` came, ``a/`` would be on a page still to come: do not show a file that may
                # have to become a directory, nor the reverse.
                run.held[name] = (info, held[name][1] if name in held else point)
            else:
                self._merge_file(run, name, known[name], info, asked_ns, now_ns)

    def _merge_directory(
        self, run: Run, name: bytes, entry: Dentry | None, asked_ns: int, now_ns: int
    ) -> None:
        parent = run.directory
        run.entries += 1
        if entry is None:
            if not self._vanished(parent, name, asked_ns, now_ns):
                self._reconciler.directory(parent, name, None, asked_ns)
            return
        run.mark(entry.ino)
        if entry.kind is Kind.DIRECTORY:
            if self._must_touch(run, entry, now_ns):
                self._entries.touch(parent, name, entry, asked_ns)
        elif not is_newer(entry.checked_ns, asked_ns, now_ns):
            before = self._entries.known(parent, name)
            self._reconciler.directory(parent, name, before, asked_ns)

    def _merge_file(
        self,
        run: Run,
        name: bytes,
        entry: Dentry | None,
        info: ObjectInfo,
        asked_ns: int,
        now_ns: int,
    ) -> None:
        parent = run.directory
        run.entries += 1
        if entry is None:
            if not self._vanished(parent, name, asked_ns, now_ns):
                self._reconciler.file(parent, name, None, info, asked_ns)
            return
        in_time = is_newer(entry.checked_ns, run.since_ns, now_ns)
        if entry.kind is Kind.DIRECTORY and (
            in_time or (run.confirms(entry.ino) and not run.resumed)
        ):
            # The directory was confirmed since this listing began: it hides the object.
            run.mark(entry.ino)
            self._shadow(run, info)
            return
        run.mark(entry.ino)
        if is_newer(entry.checked_ns, asked_ns, now_ns):
            return
        before = self._entries.known(parent, name)
        touch = self._must_touch(run, entry, now_ns)
        self._reconciler.file(parent, name, before, info, asked_ns, touch=touch)

    def _shadow(self, run: Run, info: ObjectInfo) -> None:
        self._entries.put_hidden(
            Hidden(run.directory, info.key, HiddenReason.SHADOWED_BY_DIRECTORY)
        )

    def _vanished(self, parent: int, name: bytes, asked_ns: int, now_ns: int) -> bool:
        """Whether *name* was seen to be absent after the page was asked for."""
        checked_ns = self._absences.get(parent, name)
        return checked_ns is not None and is_newer(checked_ns, asked_ns, now_ns)

    def _must_touch(self, run: Run, entry: Dentry, now_ns: int) -> bool:
        """A first listing may go on in another process, which tells by the time what it has
        seen."""
        return run.first and not run.begun_ns <= entry.checked_ns <= now_ns

    # Sweeping.

    async def _sweep(self, run: Run) -> None:
        """Remove the entries that were there before and are not in the listing, unless a look-up
        confirmed them since it began."""
        now_ns = self._freshness.now_ns()
        removed = 0
        if run.resumed:
            after = b""
            while rows := self._names.entries(run.directory, after, SWEEP_ENTRIES):
                after = rows[-1][0]
                self._remove_stale(run, rows, now_ns)
                await self._entries.commit()
            return
        at = 0
        while (unseen := run.unseen(at)) is not None:
            at = unseen[0] + 1
            name = self._names.child_name(run.directory, unseen[1])
            entry = None if name is None else self._names.dentry(run.directory, name)
            if name is not None and entry is not None and entry.ino == unseen[1]:
                self._remove_stale(run, [(name, entry)], now_ns)
                removed += 1
                if removed % SWEEP_ENTRIES == 0:
                    await self._entries.commit()

    def _remove_stale(self, run: Run, rows: Sequence[tuple[bytes, Dentry]], now_ns: int) -> None:
        for name, entry in rows:
            known = self._entries.known(run.directory, name)
            if (
                known is not None
                and known.dentry.ino == entry.ino
                and not is_newer(known.dentry.checked_ns, run.since_ns, now_ns)
            ):
                self._entries.remove(run.directory, name, known)
