"""The pyfuse3 front of a mount with write-back directories: as `Operations`, and the requests that
change something.

What no write-back rule matches is refused with EROFS, said once with the path, as on a mount that
has none. Facts of the kernel that this module rests on, besides F1..F4:

F5. With FUSE_ATOMIC_O_TRUNC, which libfuse negotiates, O_TRUNC comes with OPEN.
F6. Writes go through this kernel alone, so its pages of an inode are right whoever has it open.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any

import pyfuse3

from tierfs.front.python import PythonFront
from tierfs.fs.changes import Changes, NewAttributes
from tierfs.fs.operations import Operations, boundary, fill
from tierfs.namespace import Attributes
from tierfs.writeback.directories import WriteBack


class WritingOperations(Operations):
    """The request handlers of one mount that writes."""

    why_read_only = "no write-back rule matches it (option write_back)"

    def __init__(
        self, writeback: WriteBack, front: PythonFront, on_init: Callable[[], None]
    ) -> None:
        super().__init__(writeback.union, front, on_init)
        self._writeback = writeback
        self._changes = Changes(writeback, self._view)
        self._refusing = self._changes.refusing

    # ---- files -------------------------------------------------------------------------------

    @boundary
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        with self._refusing(parent_inode):
            attributes, fh = await self._writeback.create(
                parent_inode, name, mode & ~ctx.umask, flags, ctx.uid, ctx.gid
            )
        return pyfuse3.FileInfo(fh=fh, keep_cache=True), _filled(attributes)

    @boundary
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        with self._refusing(inode):
            fh = await self._writeback.open(inode, flags, ctx.pid)
        return pyfuse3.FileInfo(fh=fh, keep_cache=True)

    @boundary
    async def read(self, fh: int, off: int, size: int) -> bytes:
        return await self._writeback.read(fh, off, size)

    @boundary
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return await self._writeback.write(fh, off, buf)

    @boundary
    async def flush(self, fh: int) -> None:
        await self._writeback.flush(fh)

    @boundary
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._writeback.sync(fh, data_only=datasync)

    @boundary
    async def release(self, fh: int) -> None:
        await self._writeback.release(fh)

    # ---- names -------------------------------------------------------------------------------

    @boundary
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> Any:
        raise pyfuse3.FUSEError(errno.EPERM)

    @boundary
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        made = self._writeback.make_directory(
            parent_inode, name, mode & ~ctx.umask, ctx.uid, ctx.gid
        )
        with self._refusing(parent_inode):
            return _filled(await made)

    @boundary
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        with self._refusing(parent_inode):
            made = await self._writeback.make_link(parent_inode, name, target, ctx.uid, ctx.gid)
        return _filled(made)

    @boundary
    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        with self._refusing(parent_inode):
            await self._writeback.unlink(parent_inode, name)

    @boundary
    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        with self._refusing(parent_inode):
            await self._writeback.remove_directory(parent_inode, name)

    @boundary
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        with self._refusing(parent_inode_old):
            await self._writeback.rename(
                parent_inode_old, name_old, parent_inode_new, name_new, flags
            )

    @boundary
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> Any:
        raise pyfuse3.FUSEError(errno.EPERM)

    # ---- attributes --------------------------------------------------------------------------

    def _space(self) -> tuple[int, int]:
        # What can be written is what people and programs ask `df` for.
        return self._writeback.staging.room.space()

    @boundary
    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        new = NewAttributes(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            fh=fh,
        )
        return _filled(await self._changes.set_attributes(inode, new))

    @boundary
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        return await self._changes.xattr(inode, name, ctx.uid)

    @boundary
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        return self._writeback.xattrs(inode)

    @boundary
    async def setxattr(
        self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        await self._changes.set_xattr(inode, name, value)

    @boundary
    async def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._changes.set_xattr(inode, name, None)


def _filled(attributes: Attributes) -> pyfuse3.EntryAttributes:
    return fill(pyfuse3.EntryAttributes(), attributes)
