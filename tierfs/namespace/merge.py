"""What a page of a listing says, merged into what is known; and what no page said, swept out.

Plain calls, without waiting, against everything decided before (N4, N5). The listing then vouches
for all entries from its beginning on, so that an unchanged directory costs reads and one write,
however large it is.

An object ``a`` is hidden by a directory ``a/``, whose key comes later: there may be ``a!`` and
``a-b`` between them, a page's end, or the end of a chain's range. So an object is *held* until the
chain that has the place of ``a/`` has passed it; if that one was there first, the directory is
known already and hides the object.
"""

from __future__ import annotations

from collections.abc import Sequence

from tierfs.index.journal_inodes import InodeAllocator
from tierfs.index.names import Names
from tierfs.index.records import Dentry, Hidden, HiddenReason, Kind
from tierfs.lake.protocol import ObjectInfo
from tierfs.namespace.absence import Absences
from tierfs.namespace.attributes import Freshness, is_newer
from tierfs.namespace.described import Metadata
from tierfs.namespace.entries import GROUP_CHANGES, Entries
from tierfs.namespace.keys import PageNames
from tierfs.namespace.packed import NewFiles
from tierfs.namespace.reconcile import Reconciler
from tierfs.namespace.run import Chain, Held, Point, Run

#: Entries that a sweep removes between two waits.
SWEEP_ENTRIES = 1_000


class Merger:
    """Stateless but for what it is made of."""

    def __init__(
        self,
        names: Names,
        entries: Entries,
        reconciler: Reconciler,
        absences: Absences,
        freshness: Freshness,
        inodes: InodeAllocator,
    ) -> None:
        self._names = names
        self._entries = entries
        self._reconciler = reconciler
        self._absences = absences
        self._freshness = freshness
        self._inodes = inodes

    def merge(self, run: Run, chain: Chain, names: PageNames, asked_ns: int, point: Point) -> None:
        """Decide about every name of a page of *chain* (N5, N6), asked for at *asked_ns*, that can
        be had again from *point*; the chain already stands behind it."""
        if names.packed is not None and self._merge_new(run, chain, names, asked_ns, point):
            return
        directory = run.directory
        for key, reason in names.hidden:
            self._entries.put_hidden(Hidden(directory, key, reason))
        directories, files = names.directories, names.files
        decided = self._decide_held(run, names)
        now_ns = self._freshness.now_ns()
        shown = [*directories, *(name for name in files if name not in directories)]
        chain.entries += len(shown)
        shown += [name for name in decided if name not in directories]
        known = dict(zip(shown, self._entries.known_all(directory, shown), strict=True))
        for name, metadata in directories.items():
            self._merge_directory(run, name, known[name], metadata, asked_ns, now_ns)
        for name, held in decided.items():
            if name in directories:
                self._shadow(run, held.info)
            else:
                self._merge_file(run, name, known[name], held.info, held.asked_ns, now_ns)
        last = chain.at
        for name, info in files.items():
            if name in directories:
                self._shadow(run, info)
            elif info.key + b"/" > last and not run.passed(info.key + b"/"):
                chain.held[name] = Held(info, asked_ns, point)
            else:
                self._merge_file(run, name, known[name], info, asked_ns, now_ns)

    def _merge_new(
        self, run: Run, chain: Chain, names: PageNames, asked_ns: int, point: Point
    ) -> bool:
        """`merge` of a page of files of which nobody knows anything, all at once; False, with
        nothing done, if it is not one."""
        directory, files = run.directory, names.packed
        if (
            files is None
            or len(files) > GROUP_CHANGES
            or self._entries.announces(directory)
            or self._absences.any_of(directory, files.names())
            or self._entries.knows_any(directory, files)
        ):
            return False
        now_ns = self._freshness.now_ns()
        chain.entries += len(files)
        for name, held in self._decide_held(run, names).items():
            (entry,) = self._entries.known_all(directory, [name])
            self._merge_file(run, name, entry, held.info, held.asked_ns, now_ns)
        held_back = [n for n in files.open(chain.at) if not run.passed(files.info(n).key + b"/")]
        if count := len(files) - len(held_back):
            ino = self._inodes.next_ino(count)
            self._entries.put_new(NewFiles(files, directory, ino, asked_ns, held_back))
        for n in held_back:
            info = files.info(n)
            chain.held[info.key.rpartition(b"/")[2]] = Held(info, asked_ns, point)
        return True

    def _decide_held(self, run: Run, names: PageNames) -> dict[bytes, Held]:
        """Take what was held until now and can be decided by this page out of the chains."""
        decided = {}
        for chain in run.chains:
            for name, held in list(chain.held.items()):
                if names.has_file(name):
                    del chain.held[name]  # It is seen again.
                elif name in names.directories or run.passed(held.info.key + b"/"):
                    decided[name] = chain.held.pop(name)
        return decided

    def _merge_directory(
        self,
        run: Run,
        name: bytes,
        entry: Dentry | None,
        metadata: Metadata | None,
        asked_ns: int,
        now_ns: int,
    ) -> None:
        parent = run.directory
        if entry is None:
            if not self._vanished(parent, name, asked_ns, now_ns):
                self._reconciler.directory(parent, name, None, asked_ns, metadata=metadata)
            return
        run.mark(entry.ino)
        touch = self._must_touch(run, entry, now_ns)
        newer = is_newer(entry.checked_ns, asked_ns, now_ns)
        if entry.kind is Kind.DIRECTORY and (metadata is None or newer):
            if touch:
                self._entries.touch(parent, name, entry, asked_ns)
        elif not newer:
            before = self._entries.known(parent, name)
            self._reconciler.directory(
                parent, name, before, asked_ns, metadata=metadata, touch=touch
            )

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

    async def sweep(self, run: Run) -> None:
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
