"""Requests of the kernel's that the native front hands over: taken apart, acted on once, answered.

The tails of CHANGE are the kernel's own structs (``include/uapi/linux/fuse.h``), in this machine's
byte order, behind the caller's group and process.

Invariants:

U7. A request is acted on once, by its number on this mount, though a front that dies has it handed
    over again: while it is under way its second asker waits for the first one's answer, which is
    remembered for as long as it may be asked for.
U8. What a dead control plane had done is in its journal, in the transaction that did it
    (`Decisions.decide`); the next one answers from there. Everything else may be done twice.
U9. Who goes away does not take back what was begun: a change runs to its end, whatever becomes of
    the upcall that it came with.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import trio

from tierfs.control import wire
from tierfs.control.wire import Request
from tierfs.errors import InvalidRequest, TierfsError
from tierfs.fs.changes import Changes, NewAttributes
from tierfs.fs.errno import errno_of, is_quiet
from tierfs.fs.view import KIND_BITS
from tierfs.index.records import ObjectRef
from tierfs.index.schema import pack_object
from tierfs.namespace import Attributes
from tierfs.writeback.decisions import Asked, asked
from tierfs.writeback.journal import MOST_REPLIES, Journal
from tierfs.writeback.passed import PassedThrough, Renumbered
from tierfs.writeback.reading import OpenHandle

log = logging.getLogger(__name__)

_SETATTR = struct.Struct("=IIQQQQQQIIIIIIII")
_TWO = struct.Struct("=II")
_CREATE = struct.Struct("=IIII")
_RENAME = struct.Struct("=Q")
_RENAME2 = struct.Struct("=QII")
_FSYNC = struct.Struct("=QII")
_MODE, _UID, _GID, _SIZE, _ATIME, _MTIME, _FH = (1 << n for n in range(7))
_ATIME_NOW, _MTIME_NOW, _KILL_IDS = 1 << 7, 1 << 8, 1 << 11
_FSYNC_DATA_ONLY = 1
_OPEN_KILL_IDS = 1
_XATTR_CREATE, _XATTR_REPLACE = 1, 2
#: How long a kernel may believe what it is told of a file that was just made: it would ask at once,
#: to see whether who made it may open it. What is written since changes that for the kernel, too;
#: only stores through a mapping are not seen by it.
CREATED_TTL_S = 0.1
#: Counts in the answer to OPEN; see ``native/front/src/upcall/wire.rs``.
_LAKES, _STAGED, _LAKES_AS_TOLD = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Answer:
    """What the front is told."""

    errno: int = 0
    count: int = 0
    ttl_s: float = 0.0
    tail: bytes = b""


_DONE = Answer()


class _Once:
    """A request that is, or was, acted on."""

    __slots__ = ("answer", "done")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer = _DONE


class HandedOver:
    """Acts on what the front hands over, on the mount known by *mount* (16 bytes)."""

    def __init__(
        self, directories: PassedThrough, journal: Journal, changes: Changes, mount: bytes
    ) -> None:
        self._directories = directories
        self._changes = changes
        self._mount = mount
        self._journal = journal
        #: What earlier control planes of this mount had done (U8).
        self._before: dict[int, int] = journal.read(lambda work: work.replies(mount))
        self._asked: OrderedDict[int, _Once] = OrderedDict()
        self._under_way: set[int] = set()
        directories.waiting = self._under_way
        self._acts: dict[int, Callable[[Request, bytes], Awaitable[Answer]]] = {
            4: self._setattr,
            6: self._symlink,
            8: self._not_permitted,
            9: self._mkdir,
            10: self._unlink,
            11: self._rmdir,
            12: self._rename,
            13: self._not_permitted,
            14: self._open,
            20: self._fsync,
            21: self._setxattr,
            24: self._removexattr,
            25: self._flush,
            35: self._create,
            45: self._rename2,
        }

    async def act(self, request: Request) -> Answer:
        """Act on *request*, if nobody has; its answer (U7). Cancelling does not end it (U9)."""
        unique = request.offset
        once = self._asked.get(unique)
        if once is None:
            once = self._asked[unique] = _Once()
            self._under_way.add(unique)
            if len(self._asked) > MOST_REPLIES:
                self._forget_oldest()
            await self._act(request, once)
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await once.done.wait()
        return once.answer

    def _forget_oldest(self) -> None:
        """Of what was answered: others may wait for the lake for long."""
        for unique, once in self._asked.items():
            if once.done.is_set():
                del self._asked[unique]
                return

    async def _act(self, request: Request, once: _Once) -> None:
        token = asked.set(Asked(self._mount, request.offset))
        try:
            with trio.CancelScope(shield=True):
                once.answer = await self._answer(request)
        finally:
            asked.reset(token)
            self._under_way.discard(request.offset)
            once.done.set()

    async def _answer(self, request: Request) -> Answer:
        act = self._acts.get(request.size)
        if act is None or len(request.tail) < wire.CALLER.size:
            return Answer(errno.EOPNOTSUPP)
        try:
            return await act(request, request.tail[wire.CALLER.size :])
        except struct.error:
            return Answer(errno.EINVAL)
        except TierfsError as error:
            if not (is_quiet(error) or isinstance(error, Renumbered)):
                log.warning("opcode %d: %s", request.size, error)
            return Answer(errno_of(error))
        except Exception:
            log.exception("opcode %d: unexpected error, answered EIO", request.size)
            return Answer(errno.EIO)

    # ---- handles -------------------------------------------------------------------------------

    async def _create(self, request: Request, body: bytes) -> Answer:
        flags, mode, umask, _ = _CREATE.unpack_from(body)
        (name,) = _names(body[_CREATE.size :], 1)
        made = self._before.get(request.offset)
        if made is not None:
            await self._directories.open(made, os.O_RDWR, fh=request.offset)
            return _of(self._directories.union.attributes(made))
        gid, _ = wire.CALLER.unpack_from(request.tail)
        with self._changes.refusing(request.ino):
            attributes, _ = await self._directories.create(
                request.ino, name, mode & ~umask, flags, request.uid, gid, fh=request.offset
            )
        return _of(attributes._replace(ttl_s=CREATED_TTL_S), count=_STAGED)

    async def _open(self, request: Request, body: bytes) -> Answer:
        flags, open_flags = _TWO.unpack_from(body)
        _, pid = wire.CALLER.unpack_from(request.tail)
        with self._changes.refusing(request.ino):
            opened = await self._directories.open(request.ino, flags, pid, fh=request.offset)
        if opened:
            if open_flags & _OPEN_KILL_IDS:
                await self._changes.set_attributes(request.ino, NewAttributes(kill_ids=True))
            return Answer(count=_STAGED)
        known = self._directories.union.object_of(request.ino)
        if known is None or self._journal.node(request.ino) is None:
            return Answer(count=_LAKES)
        return self._told(request.ino, known[0])

    def _told(self, ino: int, ref: ObjectRef) -> Answer:
        attributes = _of(self._directories.union.attributes(ino))
        return replace(attributes, count=_LAKES_AS_TOLD, tail=attributes.tail + pack_object(ref))

    async def _flush(self, request: Request, body: bytes) -> Answer:
        await self._directories.flush_file(request.ino)
        return _DONE

    async def _fsync(self, request: Request, body: bytes) -> Answer:
        _, flags, _ = _FSYNC.unpack_from(body)
        data_only = bool(flags & _FSYNC_DATA_ONLY)
        await self._directories.sync_file(request.ino, data_only=data_only)
        return _DONE

    def released(self, unique: int) -> Callable[[], Awaitable[None]] | None:
        """The front has closed the handle that the request *unique* opened. What is left to be
        done for that, if anything is."""
        return self._directories.release_at_once(unique)

    async def restore(self, handles: list[OpenHandle]) -> None:
        """Take up what an earlier control plane gave out."""
        await self._directories.restore(handle for handle in handles if handle.ino)

    async def reconcile(self, handles: list[OpenHandle]) -> None:
        """The front has these handles, and no others; see `wire.OpenHandle`."""
        open_ = {handle.unique for handle in handles if handle.ino}
        under_way = {handle.unique for handle in handles if not handle.ino}
        await self._directories.reconcile(open_, under_way)

    # ---- names ---------------------------------------------------------------------------------

    def _is_done(self, request: Request) -> bool:
        return request.offset in self._before

    async def _arrived(self, request: Request) -> None:
        """What an earlier control plane had done is in the lake, where its rule says so."""
        await self._directories.arrive_again(request.ino)

    async def _mkdir(self, request: Request, body: bytes) -> Answer:
        mode, umask = _TWO.unpack_from(body)
        (name,) = _names(body[_TWO.size :], 1)
        gid, _ = wire.CALLER.unpack_from(request.tail)
        if self._is_done(request):
            return await self._made(request)
        with self._changes.refusing(request.ino):
            return _of(
                await self._directories.make_directory(
                    request.ino, name, mode & ~umask, request.uid, gid
                )
            )

    async def _symlink(self, request: Request, body: bytes) -> Answer:
        name, target = _names(body, 2)
        gid, _ = wire.CALLER.unpack_from(request.tail)
        if self._is_done(request):
            return await self._made(request)
        with self._changes.refusing(request.ino):
            return _of(
                await self._directories.make_link(request.ino, name, target, request.uid, gid)
            )

    async def _made(self, request: Request) -> Answer:
        await self._arrived(request)
        return _of(self._directories.union.attributes(self._before[request.offset]))

    async def _unlink(self, request: Request, body: bytes) -> Answer:
        (name,) = _names(body, 1)
        if self._is_done(request):
            await self._arrived(request)
        else:
            with self._changes.refusing(request.ino):
                await self._directories.unlink(request.ino, name)
        return _DONE

    async def _rmdir(self, request: Request, body: bytes) -> Answer:
        (name,) = _names(body, 1)
        if self._is_done(request):
            await self._arrived(request)
        else:
            with self._changes.refusing(request.ino):
                await self._directories.remove_directory(request.ino, name)
        return _DONE

    async def _rename(self, request: Request, body: bytes) -> Answer:
        (parent,) = _RENAME.unpack_from(body)
        return await self._move(request, parent, 0, body[_RENAME.size :])

    async def _rename2(self, request: Request, body: bytes) -> Answer:
        parent, flags, _ = _RENAME2.unpack_from(body)
        return await self._move(request, parent, flags, body[_RENAME2.size :])

    async def _move(self, request: Request, parent: int, flags: int, rest: bytes) -> Answer:
        old, new = _names(rest, 2)
        if self._is_done(request):
            await self._arrived(request)
        else:
            with self._changes.refusing(request.ino):
                await self._directories.rename(request.ino, old, parent, new, flags)
        return _DONE

    async def _not_permitted(self, request: Request, body: bytes) -> Answer:
        return Answer(errno.EPERM)

    # ---- attributes ----------------------------------------------------------------------------

    async def _setattr(self, request: Request, body: bytes) -> Answer:
        valid, _, fh, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _ = (
            _SETATTR.unpack_from(body)
        )
        now_ns = time.time_ns()

        def time_of(bit: int, now_bit: int, seconds: int, nanoseconds: int) -> int | None:
            if not valid & bit:
                return None
            if valid & now_bit:
                return now_ns
            # The kernel writes a time before 1970 as the same 64 bits.
            whole = seconds - (1 << 64) if seconds >> 63 else seconds
            return whole * 1_000_000_000 + nanoseconds

        new = NewAttributes(
            mode=mode if valid & _MODE else None,
            uid=uid if valid & _UID else None,
            gid=gid if valid & _GID else None,
            size=size if valid & _SIZE else None,
            atime_ns=time_of(_ATIME, _ATIME_NOW, atime, atime_ns),
            mtime_ns=time_of(_MTIME, _MTIME_NOW, mtime, mtime_ns),
            fh=fh if valid & _FH else None,
            # Nothing at all is set where somebody else wrote through the page cache.
            kill_ids=bool(valid & _KILL_IDS) or not valid,
        )
        return _of(await self._changes.set_attributes(request.ino, new))

    async def _setxattr(self, request: Request, body: bytes) -> Answer:
        size, flags = _TWO.unpack_from(body)
        name, _, value = body[_TWO.size :].partition(b"\0")
        if len(value) < size:
            return Answer(errno.EINVAL)
        if not self._is_done(request):
            await self._changes.set_xattr(
                request.ino,
                name,
                value[:size],
                create=bool(flags & _XATTR_CREATE),
                replace=bool(flags & _XATTR_REPLACE),
            )
        return _DONE

    async def _removexattr(self, request: Request, body: bytes) -> Answer:
        (name,) = _names(body, 1)
        if not self._is_done(request):
            await self._changes.set_xattr(request.ino, name, None)
        return _DONE


def _names(body: bytes, count: int) -> list[bytes]:
    """The first *count* strings that end with a zero byte. Raises InvalidRequest."""
    parts = body.split(b"\0")
    if len(parts) <= count:
        raise InvalidRequest("read a request", "", "a name has no end")
    return parts[:count]


def _of(found: Attributes, *, count: int = 0) -> Answer:
    packed = wire.pack_attributes(
        found.ino, found.size, found.mtime_ns, KIND_BITS[found.kind] | found.mode, found.uid,
        found.gid,
    )  # fmt: skip
    return Answer(count=count, ttl_s=found.ttl_s, tail=packed)
