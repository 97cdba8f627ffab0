"""The facade of `tierfs.namespace`: what a front and the control plane call."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable

import trio

from tierfs.clock import Clock
from tierfs.errors import (
    InvalidRequest,
    LakeProtocolError,
    NotFound,
    PreconditionFailed,
    StaleVersion,
    TierfsError,
)
from tierfs.index.journal_inodes import InodeAllocator
from tierfs.index.names import Names
from tierfs.index.records import (
    ROOT_INO,
    Dentry,
    Hidden,
    HiddenReason,
    Inode,
    Kind,
    Listing,
    ListingState,
    ObjectRef,
)
from tierfs.lake.protocol import Lake
from tierfs.namespace import keys
from tierfs.namespace.absence import Absences
from tierfs.namespace.ahead import Ahead
from tierfs.namespace.attributes import Attributes, Freshness, Presenter
from tierfs.namespace.chains import POLICY, Policy
from tierfs.namespace.described import Describer
from tierfs.namespace.entries import Entries, Known, OnChange
from tierfs.namespace.listing import Listings
from tierfs.namespace.lookup import RELIST_PAGES, Lookups
from tierfs.namespace.readdir import BATCH, Reader
from tierfs.namespace.reconcile import Reconciler
from tierfs.namespace.refresh import Refresher
from tierfs.namespace.walk import Walk, WalkEntry, walk

#: The first change of what is in a directory counts for so long.
TOUCH_NS = 1_000_000_000
_DIRECTORY_MTIME = b"namespace/directory_mtime_ns"
#: PATH_MAX of Linux, without the zero byte at the end.
LONGEST_TARGET = 4095
#: Targets of links that are remembered.
TARGETS = 1_024


class Namespace:
    """The lake as a tree of inodes (invariants N1..N8 in `tierfs.namespace`).

    *ttl_s* and *negative_ttl_s*: how long what the lake said is believed (``inf``: for ever).
    *spawn* runs listings and commits: it must outlive every call, and is cancelled to stop.
    *relist_pages*: a directory of at most so many pages is relisted past its TTL; 0: none is, nor
    looked into with the first question about a name in it. *listing*: when and how widely large
    directories are listed in several chains. *described*: in which directories, by their paths, it
    is asked what whoever wrote an object noted with it.
    """

    def __init__(
        self,
        names: Names,
        inodes: InodeAllocator,
        lake: Lake,
        clock: Clock,
        *,
        uid: int,
        gid: int,
        umask: int,
        ttl_s: float,
        negative_ttl_s: float,
        spawn: trio.Nursery,
        relist_pages: int = RELIST_PAGES,
        listing: Policy = POLICY,
        described: Callable[[bytes], bool] = lambda path: False,
    ) -> None:
        self._names = names
        self._lake = lake
        self._targets: OrderedDict[int, bytes] = OrderedDict()
        self._freshness = Freshness(clock, ttl_s, negative_ttl_s)
        self._presenter = Presenter(uid, gid, umask, _directory_mtime_ns(names, clock, spawn))
        self._entries = Entries(names, spawn)
        self._absences = absences = Absences()
        self._reconciler = reconciler = Reconciler(self._entries, absences, inodes)
        describer = Describer(lake, described)
        self._listings = Listings(
            names,
            self._entries,
            lake,
            inodes,
            reconciler,
            absences,
            self._freshness,
            describer,
            spawn,
            listing,
        )
        self._lookups = Lookups(
            names,
            self._entries,
            self._listings,
            lake,
            inodes,
            reconciler,
            absences,
            self._freshness,
            self._presenter,
            describer,
            relist_pages,
        )
        self._reader = Reader(
            names,
            self._entries,
            self._listings,
            self._freshness,
            self._presenter,
            Ahead(names, self._listings, spawn),
        )
        self._refresher = Refresher(
            names, self._entries, self._listings, self._lookups, absences, describer
        )
        #: As `lookup`, from the index alone: None means that it is not known or not fresh. Never
        #: waits.
        self.lookup_cached = self._lookups.lookup_cached
        #: As `open_object`, from the index alone: None means that it takes more. Never waits.
        self.object_cached = self._lookups.object_cached

    @property
    def on_change(self) -> OnChange | None:
        """Called on trio's thread as ``(parent, name, ino)`` when a name lost the meaning that a
        kernel may hold: *ino* is the inode it had, 0 if it was absent. It must not wait."""
        return self._entries.on_change

    @on_change.setter
    def on_change(self, callback: OnChange | None) -> None:
        self._entries.on_change = callback

    @property
    def directory_mtime_ns(self) -> int:
        """The time that directories show."""
        return self._presenter.directory_mtime_ns

    # Names and attributes.

    async def lookup(self, parent: int, name: bytes) -> Attributes:
        """What *name* in directory *parent* is; asks the lake when nothing fresh is known.

        Raises Absent (with the time for which that may be kept), NameTooLong, NotADirectory,
        NotFound (*parent* is gone), and the lake's errors as they are.
        """
        return await self._lookups.lookup(parent, name)

    async def resolve(self, path: bytes) -> Attributes:
        """What *path*, relative to the root, is: `lookup` for each of its components, with its
        errors. ``b""`` is the root; ``..`` is an InvalidRequest."""
        found = self.attributes(ROOT_INO)
        for name in keys.components(path):
            found = await self.lookup(found.ino, name)
        return found

    def attributes(self, ino: int) -> Attributes:
        """The attributes of *ino*, from the index: an inode is one version, so they never grow
        stale. Raises NotFound when it lost its name. Never waits."""
        inode = self._names.inode(ino)
        if inode is None:
            if ino != ROOT_INO:
                raise NotFound("stat", f"inode {ino}")
            inode = Inode(Kind.DIRECTORY, 0, -1, -1, 0, 0, ROOT_INO)
        return self._presenter.show(ino, inode, self._freshness.ttl_s)

    async def getattr(self, ino: int) -> Attributes:
        """As `attributes`. A checkpoint, but asks nobody."""
        found = self.attributes(ino)
        await trio.lowlevel.checkpoint()
        return found

    def known(self, parent: int, name: bytes) -> Dentry | None:
        """The entry *name* of directory *parent*, from the index alone and however old; None when
        there is none. Never waits."""
        return self._names.dentry(parent, name)

    def detached_attributes(self, ino: int, size: int) -> Attributes:
        """The attributes of a file that lost its name while it is open, *size* bytes long. Never
        waits."""
        inode = self._entries.departed(ino) or Inode(Kind.FILE, 0, -1, -1, size, 0, ROOT_INO)
        return self._presenter.show(ino, inode._replace(size=size), self._freshness.ttl_s)

    def detached_size(self, ino: int) -> int | None:
        """The size of a file that lost its name not long ago, or None. Never waits."""
        inode = self._entries.departed(ino)
        return None if inode is None else inode.size

    def path_of(self, ino: int) -> bytes:
        """The path of *ino* relative to the root. Raises NotFound when it lost its name. Never
        waits."""
        return self._entries.path_of(ino)

    # Directories.

    def parent(self, ino: int) -> int | None:
        """The directory that *ino* is in, or None when it lost its name. Never waits."""
        inode = self._names.inode(ino)
        return None if inode is None else inode.parent

    async def readdir(
        self, ino: int, after_ino: int, limit: int = BATCH
    ) -> list[tuple[int, bytes, Attributes]]:
        """Up to *limit* entries of directory *ino* with inode numbers over *after_ino*, in their
        order: ``(ino, name, attributes)``. An empty list is the end.

        With *after_ino* 0 a directory that is not freshly listed is listed first; waits for as much
        of that as gives one entry. Raises NotFound, NotADirectory, and what ended the listing: a
        directory is never silently short (N6).
        """
        return await self._reader.readdir(ino, after_ino, limit)

    async def listed(self, ino: int, after_ino: int) -> bool:
        """Whether the index has all of directory *ino*, and is believed, so that a reader at
        *after_ino* may go on in it. Lists it as `readdir` does, and waits for the first page of
        that at most. Raises NotFound and NotADirectory.
        """
        return await self._reader.listed(ino, after_ino)

    def walk(self, ino: int) -> AsyncIterator[WalkEntry]:
        """Every file below *ino* (or itself, if it is a file), listing as needed; waits for that.

        A directory that vanishes meanwhile is passed over. Raises NotFound if *ino* does, and the
        lake's errors. Memory: one position for each level.
        """
        return walk(self._names, self._entries, self._reader, ino)

    def walk_from(self, ino: int, after: int = 0) -> Walk:
        """As `walk`, by pages, for who goes on now and then; with *after*, a file below *ino*:
        those that come after that one."""
        return Walk(self._names, self._entries, self._reader, ino, after)

    # Files.

    async def open_object(self, ino: int) -> tuple[ObjectRef, int]:
        """Where the bytes of file *ino* are, and how many; asks the lake past the TTL.

        Raises StaleVersion when the name has another inode by now (look the path up again: it is in
        place), NotFound when it is gone, IsADirectory, and the lake's errors.
        """
        return await self._lookups.open_object(ino)

    def object_known(self, ino: int) -> tuple[ObjectRef, int] | None:
        """As `open_object`, from the index alone and however old; None when it is not there. For
        files that are open already. Never waits."""
        inode, ref = self._names.inode(ino), self._names.object(ino)
        return None if inode is None or ref is None else (ref, inode.size)

    async def read_link(self, ino: int) -> bytes:
        """The target of the symbolic link *ino*: what is in its object, asked for once as long as
        it is among the last `TARGETS`. Raises InvalidRequest for anything else, NotFound,
        StaleVersion, and the lake's errors."""
        target = self._targets.get(ino)
        if target is not None:
            self._targets.move_to_end(ino)
            await trio.lowlevel.checkpoint()
            return target
        inode, ref = self._names.inode(ino), self._names.object(ino)
        if inode is None or ref is None:
            raise NotFound("read a link", f"inode {ino}")
        if inode.kind is not Kind.SYMLINK:
            raise InvalidRequest("read a link", f"inode {ino}", "it is none")
        if not 0 < inode.size <= LONGEST_TARGET:
            raise LakeProtocolError("a link's target is no path", ref.key)
        try:
            target = bytes(await self._lake.get(ref.key, ref.version, 0, inode.size))
        except (NotFound, PreconditionFailed) as error:
            raise StaleVersion("read a link", ref.key, "it changed in the lake") from error
        if b"\0" in target:
            raise LakeProtocolError("a link's target is no path", ref.key)
        self._targets[ino] = target
        if len(self._targets) > TARGETS:
            self._targets.popitem(last=False)
        return target

    # What a writer of this mount has changed in the lake.

    async def adopt(
        self,
        parent: int,
        name: bytes,
        ino: int,
        inode: Inode,
        ref: ObjectRef | None,
        *,
        complete: bool = False,
    ) -> None:
        """*name* in *parent* is *ino*: its writer has just put it into the lake, and says what it
        is; of a directory also whether all that the lake has in it is known (*complete*). Waits for
        the commit. Raises NotFound when *parent* has lost its name."""
        self._entries.prefix_of(parent)
        before = self._entries.known(parent, name)
        dentry = Dentry(ino, inode.kind, self._freshness.now_ns())
        if complete:
            self._remove_all(ino)
        self._absences.discard(parent, name)
        self._entries.put(parent, name, Known(dentry, inode, ref), before)
        if complete:
            listing = Listing(ListingState.COMPLETE, dentry.checked_ns, 1, 0, None)
            self._entries.put_listing(ino, listing)
        await self._entries.commit()

    def _remove_all(self, directory: int) -> None:
        """What is known in *directory* is from under an older name of it."""
        after = b""
        while rows := self._names.entries(directory, after, BATCH):
            for name, _ in rows:
                known = self._entries.known(directory, name)
                if known is not None:
                    self._entries.remove(directory, name, known)
            after = rows[-1][0]

    def is_own(self, ino: int) -> bool:
        """Whether *ino* was put into the lake by a writer of this mount (`adopt`)."""
        inode = self._names.inode(ino)
        return inode is not None and inode.mode != 0

    async def touched(self, directory: int) -> None:
        """A writer of this mount has changed what is in *directory*: if it is one of ours, that was
        now. Of changes within a second the first counts, because the commit waits for the disk."""
        inode = self._names.inode(directory)
        now_ns = self._freshness.now_ns()
        if inode is None or not inode.mode or 0 <= now_ns - inode.mtime_ns < TOUCH_NS:
            return
        name = self._names.child_name(inode.parent, directory)
        before = None if name is None else self._entries.known(inode.parent, name)
        if name is None or before is None or before.dentry.ino != directory:
            return
        known = before._replace(inode=before.inode._replace(mtime_ns=now_ns))
        # No kernel believes another time: it asks after each change of its own.
        self._entries.put(inode.parent, name, known, None)
        await self._entries.commit()

    async def vanished(self, parent: int, name: bytes) -> None:
        """*name* in *parent* was just removed from the lake. Waits for the commit."""
        before = self._entries.known(parent, name)
        self._reconciler.absent(parent, name, before, self._freshness.now_ns())
        await self._entries.commit()

    # Freshness.

    async def refresh(self, target: int | bytes) -> int:
        """Show the lake's present state of a path or inode and of all known below it, whatever the
        TTL; returns how many names appeared, changed or vanished. Prefer a path: one that was
        absent so far has no inode. Waits for the listings; raises as `lookup` and `readdir`."""
        return await self._refresher.refresh(target)

    # Reports.

    def hidden(self, limit: int) -> list[Hidden]:
        """Up to *limit* objects that cannot be shown, with the reasons."""
        return self._names.hidden(limit)

    def hidden_counts(self) -> dict[HiddenReason, int]:
        """How many objects are known that cannot be shown, by reason."""
        return self._names.hidden_counts()

    def entry_count(self) -> int:
        """How many directory entries are known."""
        return self._names.entry_count()

    @property
    def listings_running(self) -> int:
        """How many directories are being listed (a gauge)."""
        return len(self._listings)


def _directory_mtime_ns(names: Names, clock: Clock, spawn: trio.Nursery) -> int:
    """The time that directories show: when this index first served a mount. It survives remounts,
    so that incremental tools do not see a changed tree; a rebuilt index shows a new one."""
    stored = names.state_get(_DIRECTORY_MTIME)
    if stored is not None and len(stored) == 8:
        return int.from_bytes(stored, "little")
    now_ns = clock.now_ns()

    async def store() -> None:
        try:
            await names.state_put(_DIRECTORY_MTIME, now_ns.to_bytes(8, "little"))
        except TierfsError:
            return  # The next mount tries again; only the directories' time is at stake.

    spawn.start_soon(store)
    return now_ns
