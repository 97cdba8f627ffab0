"""The server of upcalls: what a native front cannot answer by itself becomes a domain call here.

::

    UpcallChannel.receive() --> START: _begin()    a session; all handlers of the last one end
                                tells:  at once     ACCESSES, DONE, HANDLES, RELEASED
                                asks:   a task      _handle() --> one domain call --> _answer()

Where there are write-back directories, nothing is served before the front has said which handles
are open (HANDLES): what is open is left as it is when the journal and the disk are made to agree.

The front fills the cache. Where it can read the lake by itself it is told how (`Lake.source`), at
the beginning of each session and whenever that changes; otherwise it asks for bytes here.

Invariants (U1 and U3 are in ``native/front/src/upcall/client.rs``, U2 is in
`tierfs.control.upcall_channel`, too):

U4. Nothing ends the loop but the end of the mount: what a handler raises becomes an errno, a
    message that cannot be read is logged and dropped.
U5. What changes something is done once: U7, U8 in `tierfs.control.handed`. On a mount without
    write-back directories it is refused, however often it is asked for.
U6. Handlers of an earlier session are cancelled. One whose last wait was over by then still runs,
    and is stopped by U2.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
from collections.abc import Awaitable, Callable
from errno import E2BIG
from typing import Any, NamedTuple

import trio

from tierfs.cache.completion import same_version
from tierfs.cache.fetch import WHOLE_OBJECT_BYTES
from tierfs.control import wire
from tierfs.control.handed import HandedOver
from tierfs.control.upcall_channel import SessionOver, UpcallChannel
from tierfs.control.wire import AccessKind, Ask, Command, Request
from tierfs.errors import (
    InvalidRequest,
    LakeProtocolError,
    NotFound,
    PreconditionFailed,
    StaleVersion,
    TierfsError,
)
from tierfs.front.native import NativeFront
from tierfs.fs.changes import Changes
from tierfs.fs.errno import errno_of, is_quiet
from tierfs.fs.view import KIND_BITS, Names, Opened, View
from tierfs.index.records import ObjectRef
from tierfs.index.schema import unpack_object
from tierfs.lake.protocol import Body, Checksum, ChecksumKind, Lake
from tierfs.namespace import Absent, Attributes, Namespace
from tierfs.readahead.policy import Incoming
from tierfs.writeback.passed import PassedThrough
from tierfs.writeback.reading import OpenHandle
from tierfs.writeback.room import Space
from tierfs.writeback.service import WriteBackService

log = logging.getLogger(__name__)

#: How long `status` waits for the front's counters.
STATS_S = 1.0
#: How often it is looked whether the front needs other credentials. Those that expire are renewed
#: ten minutes or more before they do.
SOURCE_INTERVAL_S = 30.0
#: How often it is looked whether `df` has to show something else.
SPACE_INTERVAL_S = 0.5
#: How long the first session may wait for the lake's whereabouts; until they are known, the front
#: asks for bytes here.
SOURCE_S = 1.0

#: What a change was, for the one line of the log. Opcodes are FUSE's (<linux/fuse.h>).
_CHANGES = {
    4: "change attributes",
    6: "make a symbolic link",
    8: "create a node",
    9: "make a directory",
    10: "remove a file",
    11: "remove a directory",
    12: "rename",
    13: "make a hard link",
    14: "open for writing",
    16: "write",
    21: "set an extended attribute",
    24: "remove an extended attribute",
    35: "create a file",
    43: "allocate space",
    45: "rename",
    47: "copy a range",
    51: "create a temporary file",
}


class Rules(NamedTuple):
    """What the front has to know to show the index as this process does."""

    ttl_s: float
    negative_ttl_s: float
    uid: int
    gid: int
    umask: int
    max_requests: int
    memory: int
    min_free: float
    lake_directory: bytes
    #: What the front was told not to ask the kernel for.
    fuse_mask: str = ""


class Writing(NamedTuple):
    """The write-back directories of a mount, what the mount is known by (16 bytes), and where what
    outlives the serving of it runs."""

    service: WriteBackService
    directories: PassedThrough
    mount: bytes
    background: trio.Nursery


class UpcallServer:
    """Serves the front at the other end of *channel*. *on_session* is called when another front, or
    the same one anew, begins a session: the last one may be dead."""

    #: Of this front, for `tierfs.control.commands.Serving`.
    name = "native"
    #: The front keeps no directory handles.
    open_directories = 0

    def __init__(
        self,
        channel: UpcallChannel,
        namespace: Namespace,
        front: NativeFront,
        lake: Lake,
        rules: Rules,
        on_session: Callable[[], None],
        writing: Writing | None = None,
    ) -> None:
        self._channel = channel
        self._namespace = namespace
        self._names: Names = namespace if writing is None else writing.directories.union
        self._front = front
        self._lake = lake
        self._view = View(self._names, front, self._opened)
        self._writing = writing
        self._changes: Changes | None = None
        self._handed: HandedOver | None = None
        if writing is not None:
            self._view = View(
                self._names, front, self._opened,
                why_read_only="no write-back rule matches it (option write_back)",
            )  # fmt: skip
            self._changes = Changes(writing.directories, self._view)
        #: What the front has said of its handles, so far.
        self._handles: list[OpenHandle] = []
        #: Set once what is written back can be served.
        self._ready = trio.Event()
        #: Held by the session that sees to that.
        self._meeting = trio.Lock()
        self._nursery: trio.Nursery | None = None
        self._rules = rules
        self._on_session = on_session
        #: Handlers of this session.
        self._running: set[trio.CancelScope] = set()
        self._features: list[str] = []
        #: The tail of SOURCE: secret.
        self._source = b""
        self._source_missing = False
        self._asks: dict[Ask, Callable[[Request], Awaitable[None]]] = {
            Ask.LOOKUP: self._lookup,
            Ask.GETATTR: self._getattr,
            Ask.CONFIRM: self._confirm,
            Ask.ROOM: self._room,
            Ask.GET: self._get,
            Ask.HEAD: self._head,
            Ask.READDIR: self._readdir,
            Ask.GETXATTR: self._getxattr,
            Ask.CHANGE: self._change,
            Ask.READLINK: self._readlink,
            Ask.LISTXATTR: self._listxattr,
        }

    # ---- the loop ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until cancelled."""
        with trio.move_on_after(SOURCE_S):
            await self._look_for_source()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if self._writing is None:
                self._ready.set()
            nursery.start_soon(self._channel.send_outgoing)
            nursery.start_soon(self._follow_source)
            self._channel.send(wire.pack_command(Command.READY, 0, 0))
            while True:
                request = await self._channel.receive()
                self._take(request, nursery)
                if request.ask is Ask.ACCESSES:
                    await trio.lowlevel.checkpoint()  # Whoever waits comes before the next of them.

    def _take(self, request: Request, nursery: trio.Nursery) -> None:
        if request.ask is Ask.START:
            self._begin(request)
        elif not self._channel.is_current(request):
            return
        elif request.ask in self._asks:
            nursery.start_soon(self._handle, request)
        elif request.ask is Ask.ACCESSES:
            self._accesses(request.tail)
        elif request.ask is Ask.DONE:
            self._channel.done(request)
        elif request.ask is Ask.RELEASED:
            self._take_released(request.offset, nursery)
        elif request.ask is Ask.HANDLES:
            self._handles += wire.handles(request.tail)
            if request.size:
                handles, self._handles = self._handles, []
                nursery.start_soon(self._meet, request, handles)

    def _begin(self, start: Request) -> None:
        """A front, or the same one anew, begins a session."""
        for scope in self._running:
            scope.cancel()  # U6
        self._running.clear()
        self._handles.clear()
        self._on_session()
        self._front.begin_session()
        rules = self._rules
        hello = wire.pack_rules(
            ttl_s=rules.ttl_s,
            negative_ttl_s=rules.negative_ttl_s,
            directory_mtime_ns=self._namespace.directory_mtime_ns,
            uid=rules.uid,
            gid=rules.gid,
            umask=rules.umask,
            max_requests=rules.max_requests,
            memory=rules.memory,
            cache_limit=self._front.limit_bytes,
            min_free=rules.min_free,
            writes=self._writing is not None,
            lake_directory=rules.lake_directory,
        )
        self._channel.begin(start, hello, self._source)

    async def _handle(self, request: Request) -> None:
        """One upcall, in a task of its own, which ends with its session."""
        if not self._channel.is_current(request):
            return
        with trio.CancelScope() as scope:
            self._running.add(scope)
            try:
                await self._ready.wait()
                await self._asks[request.ask](request)
            except SessionOver:
                return
            except TierfsError as error:
                if not is_quiet(error):
                    # The front says what it could not compare, and compares it another time.
                    level = logging.DEBUG if request.ask is Ask.HEAD else logging.WARNING
                    log.log(level, "%s: %s", request.ask.name.lower(), error)
                self._answer(request, errno=errno_of(error))
            except Exception:
                log.exception("%s: unexpected error, answered EIO", request.ask.name.lower())
                self._answer(request, errno=errno.EIO)  # U4
            finally:
                self._running.discard(scope)

    def _answer(
        self,
        request: Request,
        *,
        errno: int = 0,
        count: int = 0,
        ttl_s: float = 0.0,
        tail: bytes = b"",
    ) -> None:
        message = wire.pack_answer(request, errno=errno, count=count, ttl_s=ttl_s, tail=tail)
        if len(message) > wire.LONGEST:
            # The front would not understand what it got of it, and whoever asked would wait on.
            log.warning("%s: an answer of %d bytes", request.ask.name.lower(), len(message))
            message = wire.pack_answer(request, errno=E2BIG)
        self._channel.send(message)

    # ---- what is written back ------------------------------------------------------------------

    async def _meet(self, last: Request, handles: list[OpenHandle]) -> None:
        """The front of a session that begins has *handles*, as it has said with *last*."""
        if self._writing is None:
            return
        if not self._ready.is_set():
            async with self._meeting:
                await self._start(self._writing, last, handles)
        # Nothing waits in between: what this front opens from now on is not closed with the rest.
        if self._handed is not None and self._channel.is_current(last):
            await self._handed.reconcile(handles)

    async def _start(self, writing: Writing, last: Request, handles: list[OpenHandle]) -> None:
        """Serve what is written back, once. A front that dies meanwhile is followed by one with
        other handles, which takes its turn here, and is the one that is served."""
        if self._changes is None or self._nursery is None or not self._channel.is_current(last):
            return
        if self._handed is None:
            open_ = {handle.ino for handle in handles if handle.ino}
            await writing.service.start(writing.background, mount=writing.mount, in_use=open_)
            self._nursery.start_soon(writing.directories.expire)
            self._nursery.start_soon(self._follow_space, writing)
            self._handed = HandedOver(
                writing.directories, writing.service.journal, self._changes, writing.mount
            )
        if not self._ready.is_set():
            await self._handed.restore(handles)
            if self._channel.is_current(last):
                self._ready.set()

    async def _follow_space(self, writing: Writing) -> None:
        """What there is room for, as far as a front has to know it to answer `df`."""
        told: tuple[int, Space] | None = None
        while True:
            now = self._channel.session, writing.directories.staging.room.space()
            if now != told:
                self._channel.tell_space(*now[1])
                told = now
            await trio.sleep(SPACE_INTERVAL_S)

    def _take_released(self, unique: int, nursery: trio.Nursery) -> None:
        """At once, as far as it goes: whoever asks for something next finds it closed."""
        if not self._ready.is_set():
            nursery.start_soon(self._released, unique)
        elif (left := self._release(unique)) is not None:
            nursery.start_soon(self._finish, left)

    async def _released(self, unique: int) -> None:
        await self._ready.wait()
        left = self._release(unique)
        if left is not None:
            await self._finish(left)

    def _release(self, unique: int) -> Callable[[], Awaitable[None]] | None:
        try:
            return None if self._handed is None else self._handed.released(unique)
        except Exception:
            log.exception("a handle is closed with an error")
            return None

    async def _finish(self, release: Callable[[], Awaitable[None]]) -> None:
        try:
            await release()
        except Exception:
            log.exception("a handle is closed with an error")

    async def _change(self, request: Request) -> None:
        if self._handed is None:
            self._view.refuse_change(request.ino, _CHANGES.get(request.size, "change"))
            return
        answer = await self._handed.act(request)
        self._answer(
            request, errno=answer.errno, count=answer.count, ttl_s=answer.ttl_s, tail=answer.tail
        )

    async def _readlink(self, request: Request) -> None:
        self._answer(request, tail=await self._names.read_link(request.ino))

    async def _listxattr(self, request: Request) -> None:
        names = [] if self._writing is None else self._writing.directories.xattrs(request.ino)
        self._answer(request, tail=b"".join(name + b"\0" for name in names))

    # ---- what is asked -------------------------------------------------------------------------

    async def _lookup(self, request: Request) -> None:
        try:
            found = await self._names.lookup(request.ino, request.tail)
        except Absent as absent:
            self._answer(request, errno=errno.ENOENT, ttl_s=absent.ttl_s)
        else:
            self._answer(request, ttl_s=found.ttl_s, tail=_pack(found))

    async def _getattr(self, request: Request) -> None:
        found = self._view.attributes(request.ino)
        self._answer(request, ttl_s=found.ttl_s, tail=_pack(found))

    async def _confirm(self, request: Request) -> None:
        await self._names.open_object(request.ino)
        self._answer(request)

    async def _room(self, request: Request) -> None:
        incoming = None
        if request.ino:
            incoming = Incoming(
                request.ino,
                ahead=request.uid == wire.ROOM_AHEAD,
                warm_up=request.uid == wire.ROOM_WARM_UP,
            )
        victims = self._front.choose_victims(request.offset, request.size, incoming)
        if victims is None:
            self._answer(request, count=wire.DECLINED)
        else:
            self._answer(request, tail=wire.pack_victims(victims))

    async def _get(self, request: Request) -> None:
        ref, whole = _object_of(request), bool(request.uid)
        data: Body
        checksum: Checksum | None = None
        try:
            if whole and request.size <= WHOLE_OBJECT_BYTES:
                data, checksum = await self._lake.get_whole(
                    ref.key, ref.version, request.size, checksum=ref.has_checksum
                )
            else:
                data = await self._lake.get(ref.key, ref.version, request.offset, request.size)
        except (NotFound, PreconditionFailed) as error:
            raise _changed(ref) from error
        if len(data) != request.size:
            raise LakeProtocolError(
                "read from the lake",
                ref.key,
                f"{len(data)} bytes came where {request.size} were asked for",
            )
        self._channel.put(request, data)
        self._answer(request, count=len(data), tail=_pack_checksum(checksum))

    async def _head(self, request: Request) -> None:
        ref = _object_of(request)
        try:
            info = await self._lake.head(ref.key, checksum=True)
        except NotFound as error:
            raise _changed(ref) from error
        if not same_version(ref.version, info.version):
            raise _changed(ref)
        self._answer(request, tail=_pack_checksum(info.checksum))

    async def _readdir(self, request: Request) -> None:
        may_look = request.uid == wire.MAY_LOOK
        if may_look and await self._names.listed(request.ino, request.offset):
            self._answer(request, count=wire.LISTED)
            return
        entries = await self._names.readdir(request.ino, request.offset, request.size)
        packed = b"".join(wire.pack_entry(_pack(found), name) for _, name, found in entries)
        self._channel.put(request, packed)
        ttl_s = min((found.ttl_s for _, _, found in entries), default=0.0)
        self._answer(request, count=len(entries), ttl_s=ttl_s)

    async def _getxattr(self, request: Request) -> None:
        source = self._view if self._changes is None else self._changes
        value = await source.xattr(request.ino, request.tail, request.uid)
        self._answer(request, tail=value)

    # ---- what is told --------------------------------------------------------------------------

    def _accesses(self, tail: bytes) -> None:
        for ino, at_ns, kind, pid in wire.accesses(tail):
            if kind is AccessKind.READ:
                self._front.accessed(ino, at_ns, pid)
            elif kind is AccessKind.STALL:
                bytes_, waited_ns = ino, at_ns
                self._front.stalled(pid, waited_ns, bytes_)
            elif kind is AccessKind.OPEN:
                self._front.used(ino)
            else:
                self._front.not_used(ino)

    def _opened(self, ino: int) -> Opened | None:
        """What the front has *ino* open as, if it has; see `View`."""
        if not self._front.is_used(ino):
            return None
        known = self._namespace.object_known(ino)
        if known is not None:
            return Opened(*known)
        size = self._namespace.detached_size(ino)
        return None if size is None else Opened(None, size)

    # ---- where the bytes are -------------------------------------------------------------------

    async def _follow_source(self) -> None:
        while True:
            with trio.move_on_after(SOURCE_INTERVAL_S):
                await self._lake.source_changed()
            await self._look_for_source()

    async def _look_for_source(self) -> None:
        """Ask where the lake's bytes are, and tell the front if that is news."""
        try:
            source = wire.pack_source(await self._lake.source())
        except Exception as error:
            # The front goes on with what it has, and asks here for what it is refused.
            if not self._source_missing:
                log.warning("where the lake's bytes are cannot be told the front: %s", error)
            self._source_missing = True
            return
        self._source_missing = False
        if len(source) > wire.LONGEST - wire.ANSWER.size:
            source = b""
        if source != self._source:
            self._source = source
            self._channel.tell_source(source)

    # ---- what is said of it --------------------------------------------------------------------

    async def describe(self) -> dict[str, Any]:
        """What the front says of itself, or said last if it does not answer; see
        `tierfs.control.commands.Serving`."""
        with trio.move_on_after(STATS_S):
            answer = await self._channel.command(Command.STATS)
            lines = answer.decode("utf-8", "replace").split("\n")
            said = {name: value for name, _, value in (line.partition(" ") for line in lines)}
            self._features = list(filter(None, said.pop("features", "").split(",")))
            self._front.heard(said)
        return {"reads": self._reads(), "features": self._features, **self._front.front_stats}

    def _reads(self) -> str:
        """How whole cached files are read, and why not in the best way."""
        if "passthrough" not in self._features:
            if "passthrough" in self._rules.fuse_mask.split(","):
                return "copied: fuse_mask switches passthrough off"
            return "copied: this kernel passes no reads through (Linux 6.9 does)"
        refused = self._front.front_stats.get("passthrough_errno", 0)
        if refused:
            return f"copied, some or all: the kernel refused passthrough: {os.strerror(refused)}"
        return "passed through"


def _object_of(request: Request) -> ObjectRef:
    """The object that a request is about. Raises InvalidRequest."""
    try:
        return unpack_object(request.tail)
    except struct.error:
        raise InvalidRequest("read a message of the front", "an object's record") from None


def _changed(ref: ObjectRef) -> StaleVersion:
    return StaleVersion("read", ref.key, "it changed in the lake; open it again")


def _pack_checksum(checksum: Checksum | None) -> bytes:
    """A checksum as the tail of an answer; empty: there is none."""
    if checksum is None or checksum.kind is ChecksumKind.NONE:
        return b""
    return wire.pack_checksum(checksum)


def _pack(found: Attributes) -> bytes:
    return wire.pack_attributes(
        found.ino,
        found.size,
        found.mtime_ns,
        KIND_BITS[found.kind] | found.mode,
        found.uid,
        found.gid,
    )
