"""The directory entries as the namespace changes them: the index, plus what is on its way into it.

A commit takes as long as the disk takes to sync, and an answer of the lake that arrives meanwhile
has to be judged against what was already decided, not against what is already committed. So
decisions are plain calls on `Entries`, which knows both; and they are committed in the order in
which they were made::

    put, touch, remove --> open group --full--> waiting groups --_pump()--> Names.commit, on_change
     plain calls, overlay   joined by all        in order, one at a time     one sync, callers wake

Invariants:

E1. `known` is what the index will hold once everything decided so far is committed.
E2. Groups are committed in the order of decisions, one at a time. So inode numbers, which are taken
    from the allocator at the decision, become visible in ascending order: a reader that goes by
    inode number misses none.
E3. Nothing is decided below a directory that lost its name: `prefix_of` refuses first, in the same
    plain stretch of code. (A commit below one would fail, and with it its group.)
E4. *on_change* is called after the commit, for entries whose old meaning a kernel may still hold.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import trio

from tierfs.errors import CacheError, NotFound, TierfsError
from tierfs.index.names import Names, NamesBatch
from tierfs.index.records import (
    ROOT_INO,
    Dentry,
    Hidden,
    Inode,
    Kind,
    Listing,
    ObjectRef,
)
from tierfs.namespace.packed import NewFiles, PackedFiles

_log = logging.getLogger(__name__)

#: Called with (parent, name, the inode number it had; 0: it was absent).
OnChange = Callable[[int, bytes, int], None]

#: Changes that one group takes before the next is begun: about 2 ms of the writer's time.
GROUP_CHANGES = 4_000
#: Inodes that lost their name and are still remembered, for handles that are open on them.
DEPARTED_LIMIT = 4_096

ROOT = Inode(Kind.DIRECTORY, 0, -1, -1, 0, 0, ROOT_INO)


class Known(NamedTuple):
    """What is known of one name: its entry, its inode's record, and of a file where its bytes
    are."""

    dentry: Dentry
    inode: Inode
    ref: ObjectRef | None


class _Group:
    """Changes that are committed together. *names* are those decided in it, *new* those of whole
    pages."""

    __slots__ = ("batch", "changed", "changes", "done", "error", "names", "new")

    def __init__(self) -> None:
        self.batch = NamesBatch()
        self.names: set[tuple[int, bytes]] = set()
        self.new: list[NewFiles] = []
        self.changed: list[tuple[int, bytes, int]] = []
        self.changes = 0
        self.done = trio.Event()
        self.error: TierfsError | None = None


class Entries:
    """See the module. *spawn* runs the pump while there is something to commit."""

    def __init__(self, names: Names, spawn: trio.Nursery) -> None:
        self._names = names
        self._spawn = spawn
        self._pending: dict[tuple[int, bytes], tuple[_Group, Known | None]] = {}
        #: Pages of new files that are not committed yet, by directory. What was decided of one of
        #: their names since is in `_pending`.
        self._new: dict[int, list[NewFiles]] = {}
        self._open = _Group()
        self._waiting: deque[_Group] = deque()
        self._pumping = False
        self._departed: OrderedDict[int, Inode] = OrderedDict()
        #: Directories of which every new name is announced.
        self._announced: Counter[int] = Counter()
        self.on_change: OnChange | None = None
        #: Entries that appeared, changed or went away, since the mount.
        self.changes = 0

    # What is known.

    def inode(self, ino: int) -> Inode | None:
        """The committed record of *ino*; the root always has one."""
        return self._names.inode(ino) or (ROOT if ino == ROOT_INO else None)

    def departed(self, ino: int) -> Inode | None:
        """The record of an inode that lost its name not long ago."""
        return self._departed.get(ino)

    def known(self, parent: int, name: bytes) -> Known | None:
        """What *name* in *parent* is, undelayed by commits (E1)."""
        pending = self._pending.get((parent, name))
        if pending is not None:
            return pending[1]
        new = self._known_new(parent, name)
        if new is not None:
            return new
        dentry = self._names.dentry(parent, name)
        return None if dentry is None else self._complete(dentry)

    def known_all(self, parent: int, names: Sequence[bytes]) -> list[Dentry | None]:
        """The entries of `known` for each of *names*, in one go."""
        found = self._names.dentries(parent, names)
        if self._pending:
            for n, name in enumerate(names):
                pending = self._pending.get((parent, name))
                if pending is not None:
                    found[n] = pending[1].dentry if pending[1] is not None else None
        if parent in self._new:
            for n, name in enumerate(names):
                if found[n] is None and (parent, name) not in self._pending:
                    new = self._known_new(parent, name)
                    found[n] = None if new is None else new.dentry
        return found

    def knows_any(self, parent: int, files: PackedFiles) -> bool:
        """Whether anything is known of one of *files*, or was decided and not committed yet."""
        names = files.names()
        return (
            self._names.has_any(parent, names)
            or (bool(self._pending) and any((parent, name) in self._pending for name in names))
            or any(new.files.overlaps(files) for new in self._new.get(parent, ()))
        )

    def _known_new(self, parent: int, name: bytes) -> Known | None:
        for new in self._new.get(parent, ()):
            found = new.known(name)
            if found is not None:
                return Known(*found)
        return None

    def _complete(self, dentry: Dentry) -> Known | None:
        inode = self.inode(dentry.ino)
        if inode is None:
            return None
        ref = None if dentry.kind is Kind.DIRECTORY else self._names.object(dentry.ino)
        return Known(dentry, inode, ref)

    def path_of(self, ino: int) -> bytes:
        """The path of *ino* relative to the root (``b""``), by its parents' entries. Raises
        NotFound when it, or a directory above it, has lost its name, committed or not (E1)."""
        parts: list[bytes] = []
        while ino != ROOT_INO:
            inode = self._names.inode(ino)
            name = None if inode is None else self._names.child_name(inode.parent, ino)
            if inode is None or name is None:
                raise NotFound("find the path of an inode", str(ino))
            pending = self._pending.get((inode.parent, name))
            if pending is not None and (pending[1] is None or pending[1].dentry.ino != ino):
                raise NotFound("find the path of an inode", str(ino))
            parts.append(name)
            ino = inode.parent
        return b"/".join(reversed(parts))

    def prefix_of(self, directory: int) -> bytes:
        """The key prefix of *directory*: ``b""`` for the root, else ending in ``/``. Raises
        NotFound."""
        path = self.path_of(directory)
        return path + b"/" if path else b""

    # Decisions.

    def put(self, parent: int, name: bytes, known: Known, before: Known | None) -> None:
        """*name* is *known* from now on; it was *before*."""
        replaced = before is not None and before.dentry.ino != known.dentry.ino
        group = self._group(parent, name)
        dentry = known.dentry
        group.batch.put_entry(parent, name, dentry.ino, known.inode, known.ref, dentry.checked_ns)
        self._pending[parent, name] = (group, known)
        if before is not None and replaced:
            self._depart(before)
        self.changes += 1
        if before is not None:
            group.changed.append((parent, name, before.dentry.ino))

    def put_new(self, new: NewFiles) -> None:
        """What *new* says is so from now on; nothing was known of these names (`knows_any`)."""
        group = self._count(len(new))
        rows = new.files.rows(new.parent, new.ino, new.checked_ns, new.without)
        group.batch.put_page(new.parent, rows, len(new))
        group.new.append(new)
        self._new.setdefault(new.parent, []).append(new)
        self.changes += len(new)

    def touch(self, parent: int, name: bytes, dentry: Dentry, checked_ns: int) -> None:
        """*name* was confirmed at *checked_ns*. Nothing changes its meaning, so readers need not
        wait."""
        pending = self._pending.get((parent, name))
        if pending is not None:
            known = pending[1]
        else:
            known = self._known_new(parent, name) or self._complete(dentry)
        if known is None:
            return
        group = self._group(parent, name)
        group.batch.touch(parent, name, checked_ns)
        self._pending[parent, name] = (
            group,
            known._replace(dentry=dentry._replace(checked_ns=checked_ns)),
        )

    def remove(self, parent: int, name: bytes, before: Known) -> None:
        """*name*, which was *before*, is gone, with everything below it."""
        group = self._group(parent, name)
        group.batch.remove_entry(parent, name)
        self._pending[parent, name] = (group, None)
        self._depart(before)
        self.changes += 1
        group.changed.append((parent, name, before.dentry.ino))

    def appeared(self, parent: int, name: bytes) -> None:
        """*name*, put just now, is one that a kernel may hold as absent (E4)."""
        self._open.changed.append((parent, name, 0))

    @contextmanager
    def announcing(self, directory: int) -> Iterator[None]:
        """In the body, every name that appears in *directory* is one that a kernel may hold as
        absent: a listing that had all names has denied the others."""
        self._announced[directory] += 1
        try:
            yield
        finally:
            self._announced -= Counter({directory: 1})

    def announces(self, directory: int) -> bool:
        """Whether somebody is in `announcing`."""
        return directory in self._announced

    def put_listing(self, directory: int, listing: Listing) -> None:
        """Record how much of *directory* is known."""
        self._count().batch.put_listing(directory, listing)

    def put_hidden(self, hidden: Hidden) -> None:
        """Record an object that cannot be shown."""
        self._count().batch.put_hidden(hidden)

    def clear_hidden(self, directory: int) -> None:
        """Forget what *directory* hides, before what is put next."""
        self._count().batch.clear_hidden(directory)

    async def commit(self) -> None:
        """Wait until all decisions made so far are committed. Raises what the index raises."""
        group = self._open
        if not group.changes:
            if not self._waiting:
                await trio.lowlevel.checkpoint()
                return
            group = self._waiting[-1]
        await group.done.wait()
        if group.error is not None:
            raise group.error

    # Groups.

    def _group(self, parent: int, name: bytes) -> _Group:
        group = self._count()
        group.names.add((parent, name))
        return group

    def _count(self, changes: int = 1) -> _Group:
        """The group that takes the next *changes*; from now on it will be committed."""
        if self._open.changes >= GROUP_CHANGES:
            self._waiting.append(self._open)
            self._open = _Group()
        self._open.changes += changes
        if not self._pumping:
            self._pumping = True
            self._spawn.start_soon(self._pump)
        return self._open

    async def _pump(self) -> None:
        try:
            while self._waiting or self._open.changes:
                if not self._waiting:
                    self._waiting.append(self._open)
                    self._open = _Group()
                await self._commit(self._waiting[0])
        finally:
            self._pumping = False

    async def _commit(self, group: _Group) -> None:
        try:
            await self._names.commit(group.batch)
        except TierfsError as error:
            group.error = error
        except Exception:
            # A bug must not end the mount: those who wait get an error, the log the rest.
            _log.exception("names could not be committed: unexpected error")
            group.error = CacheError("commit names", "", "the log has the reason")
        except BaseException:
            group.error = CacheError("commit names", "", "the mount is ending")
            raise
        finally:
            self._waiting.popleft()
            for key in group.names:
                pending = self._pending.get(key)
                if pending is not None and pending[0] is group:
                    del self._pending[key]
            for new in group.new:
                pages = self._new[new.parent]
                pages.remove(new)
                if not pages:
                    del self._new[new.parent]
            group.done.set()
        if group.error is None and self.on_change is not None:
            for parent, name, ino in group.changed:
                try:
                    self.on_change(parent, name, ino)
                except Exception:
                    _log.exception("a change of a name could not be announced")

    def _depart(self, before: Known) -> None:
        if before.dentry.kind is not Kind.DIRECTORY:
            self._departed[before.dentry.ino] = before.inode
            if len(self._departed) > DEPARTED_LIMIT:
                self._departed.popitem(last=False)
