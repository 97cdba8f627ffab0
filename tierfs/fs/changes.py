"""What both fronts do with a request that changes something, or that write-back directories answer
in another way: domain functions, without FUSE, as `tierfs.fs.view` has for what is read."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tierfs.errors import AlreadyExists, NoAttribute, ReadOnly, Refused, Unsupported
from tierfs.fs.attributes import ETAG, PREFIX, STATE, VERSION_ID, XATTR_NAMES
from tierfs.fs.view import View
from tierfs.namespace import Attributes
from tierfs.writeback.directories import WriteBack

_USER = b"user."


class NewAttributes(NamedTuple):
    """What SETATTR sets; None: it stays. *fh*: through that handle."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    fh: int | None = None
    #: The file was written to by somebody else than its owner: set-user-ID and set-group-ID go.
    kill_ids: bool = False


class Changes:
    """Changes of one mount's write-back directories."""

    def __init__(self, writeback: WriteBack, view: View) -> None:
        self._writeback = writeback
        self._view = view

    @contextmanager
    def refusing(self, ino: int) -> Iterator[None]:
        """What no rule matches is refused in the body, and that is said once; *ino* is what was to
        be changed, or the directory."""
        try:
            yield
        except ReadOnly as error:
            self._view.refuse_change(ino, error.op)

    async def set_attributes(self, ino: int, new: NewAttributes) -> Attributes:
        """Set attributes of *ino*; what they are then."""
        with self.refusing(ino):
            if new.size is not None:
                await self._writeback.set_size(ino, new.size, new.fh)
            changes: dict[str, int] = {}
            if new.mode is not None:
                changes["mode"] = new.mode & 0o7777
            elif new.kill_ids:
                changes |= self._without_ids(ino)
            if new.uid is not None:
                changes["uid"] = new.uid
            if new.gid is not None:
                changes["gid"] = new.gid
            times_ns = None
            if new.mtime_ns is not None or new.atime_ns is not None:
                known_ns = self._view.attributes(ino).mtime_ns
                mtime_ns = known_ns if new.mtime_ns is None else new.mtime_ns
                times_ns = (mtime_ns if new.atime_ns is None else new.atime_ns, mtime_ns)
            if changes or times_ns is not None:
                await self._writeback.set_attributes(ino, changes, times_ns)
        return self._view.attributes(ino)

    def _without_ids(self, ino: int) -> dict[str, int]:
        mode = self._view.attributes(ino).mode
        gone = stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0)
        return {"mode": mode & ~gone} if mode & gone else {}

    async def xattr(self, ino: int, name: bytes, uid: int) -> bytes:
        """The extended attribute *name* for a caller with *uid*. Raises NoAttribute."""
        if name.startswith(PREFIX):
            state = self._writeback.state_of(ino)
            if state is None or name not in XATTR_NAMES:
                return await self._view.xattr(ino, name, uid)
            value: bytes | None = state if name == STATE else None
            if name in (ETAG, VERSION_ID):
                with_id = name == VERSION_ID
                version = await self._writeback.uploaded_version(ino, with_id=with_id)
                if version is not None:
                    value = version.version_id if with_id else version.etag
        else:
            value = self._writeback.xattr(ino, name)
        if value is None or (not value and name.startswith(PREFIX)):
            raise NoAttribute("getxattr", name)
        return value

    async def set_xattr(
        self, ino: int, name: bytes, value: bytes | None, *, create: bool = False,
        replace: bool = False,
    ) -> None:  # fmt: skip
        """Set an extended attribute, or remove it (None); *create*: only if it is not there,
        *replace*: only if it is."""
        if not name.startswith(_USER):
            raise Unsupported("set an extended attribute", name, "only user.* can be set")
        if name.startswith(PREFIX):
            raise Refused("set an extended attribute", name)
        known = self._writeback.xattr(ino, name)
        if create and known is not None:
            raise AlreadyExists("set an extended attribute", name)
        if replace and known is None:
            raise NoAttribute("set an extended attribute", name)
        with self.refusing(ino):
            await self._writeback.set_xattr(ino, name, value)
