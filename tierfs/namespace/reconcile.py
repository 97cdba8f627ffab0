"""What the lake said, held against what is known: the decisions about one name.

Plain calls: whoever got an answer from the lake makes sure of inode numbers
(`InodeAllocator.ensure`), decides here without waiting, and then waits for the commit (N4 in
`tierfs.namespace`).
"""

from __future__ import annotations

from tierfs.index.journal_inodes import InodeAllocator
from tierfs.index.records import Dentry, Inode, Kind
from tierfs.lake.protocol import ObjectInfo, Version
from tierfs.namespace.absence import Absences
from tierfs.namespace.described import Described, Metadata, described
from tierfs.namespace.entries import Entries, Known
from tierfs.namespace.packed import inode_of, ref_of

#: A HEAD tells the time in whole seconds (RFC 9110, Last-Modified), some listings in milliseconds:
#: the first one seen is kept, so that an unchanged file never shows another time.
_SECOND_NS = 1_000_000_000


def same_version(known: Version, found: Version) -> bool:
    """Whether both name one content. Listings do not tell version ids, so an id counts only against
    another id."""
    if known.etag != found.etag:
        return False
    return not known.version_id or not found.version_id or known.version_id == found.version_id


class Reconciler:
    """Applies answers of the lake to `Entries`. *checked_ns* is always when the answer was asked
    for."""

    def __init__(self, entries: Entries, absences: Absences, inodes: InodeAllocator) -> None:
        self._entries = entries
        self._absences = absences
        self._inodes = inodes

    def directory(
        self,
        parent: int,
        name: bytes,
        before: Known | None,
        checked_ns: int,
        *,
        metadata: Metadata | None = None,
        touch: bool = True,
    ) -> None:
        """*name* is a directory, with whose marker *metadata* is noted. One that was a directory
        stays the same inode (N2). *touch* as for `file`."""
        told = described(metadata, Kind.DIRECTORY)
        if before is not None and before.dentry.kind is Kind.DIRECTORY:
            inode = before.inode if told is None else _told(before.inode, told)
            if before.inode.mode:
                # What has changed in it since, by this mount, is no news for the marker.
                inode = inode._replace(mtime_ns=max(inode.mtime_ns, before.inode.mtime_ns))
            if inode != before.inode:
                dentry = before.dentry._replace(checked_ns=checked_ns)
                self._put(parent, name, Known(dentry, inode, None), before)
            elif touch:
                self._entries.touch(parent, name, before.dentry, checked_ns)
            return
        inode = Inode(Kind.DIRECTORY, 0, -1, -1, 0, 0, parent)
        if told is not None:
            inode = _told(inode, told)
        dentry = Dentry(self._inodes.next_ino(), Kind.DIRECTORY, checked_ns)
        self._put(parent, name, Known(dentry, inode, None), before)

    def file(
        self,
        parent: int,
        name: bytes,
        before: Known | None,
        info: ObjectInfo,
        checked_ns: int,
        *,
        touch: bool = True,
    ) -> None:
        """*name* is the object *info*, a file or a symbolic link. The same version stays the same
        inode, another is a new one (N2).

        Without *touch* an unchanged entry is not written: its directory's listing will vouch for
        it.
        """
        told = described(info.metadata, Kind.FILE)
        inode = inode_of(info, parent)
        if told is not None:
            inode = _told(inode, told)
        if (
            before is not None
            and before.ref is not None
            and before.inode.size == info.size
            and (told is None or before.dentry.kind is inode.kind)
            and same_version(before.ref.version, info.version)
        ):
            old = before.inode
            # The version as first seen is kept: the cache knows the object's bytes by it.
            ref = before.ref._replace(
                archived=info.archived,
                has_checksum=info.has_checksum or before.ref.has_checksum,
            )
            if told is not None:
                changed = inode != old
            else:
                # What has a mode of its own was written by this mount, or told of by who wrote it,
                # and so is its time.
                mtime_ns = old.mtime_ns if old.mode else info.mtime_ns
                changed = old.mtime_ns // _SECOND_NS != mtime_ns // _SECOND_NS
                inode = old._replace(mtime_ns=mtime_ns)
            if changed or ref != before.ref:
                dentry = before.dentry._replace(checked_ns=checked_ns)
                self._put(parent, name, Known(dentry, inode, ref), before)
            elif touch:
                self._entries.touch(parent, name, before.dentry, checked_ns)
            return
        dentry = Dentry(self._inodes.next_ino(), inode.kind, checked_ns)
        self._put(parent, name, Known(dentry, inode, ref_of(info)), before)

    def absent(self, parent: int, name: bytes, before: Known | None, checked_ns: int) -> None:
        """*name* is not in the lake."""
        self._absences.put(parent, name, checked_ns)
        if before is not None:
            self._entries.remove(parent, name, before)

    def _put(self, parent: int, name: bytes, known: Known, before: Known | None) -> None:
        self._entries.put(parent, name, known, before)
        denied = self._absences.discard(parent, name)
        if before is None and (denied or self._entries.announces(parent)):
            self._entries.appeared(parent, name)


def _told(inode: Inode, told: Described) -> Inode:
    """*inode*, with what whoever wrote it noted."""
    inode = inode._replace(kind=told.kind)
    if told.mode:
        inode = inode._replace(mode=told.mode, uid=told.uid, gid=told.gid)
    return inode if told.mtime_ns is None else inode._replace(mtime_ns=told.mtime_ns)
