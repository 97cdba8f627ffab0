"""The server of upcalls: what a native front cannot answer by itself becomes a domain call here.

::

    UpcallChannel.receive() --> START: _begin()    a session; all handlers of the last one end
                                tells:  at once     CLOSE, NOTE, ACCESSES, VERIFIED, DONE
                                asks:   a task      _handle() --> one domain call --> _answer()

Invariants (U1 and U3 are in ``native/front/src/upcall/client.rs``, U2 is in
`tierfs.control.upcall_channel`, too):

U4. Nothing ends the loop but the end of the mount: what a handler raises becomes an errno, a
    message that cannot be read is logged and dropped.
U5. What changes the lake would be made exactly once, by (mount id, unique), in the transaction that
    makes it. This mount is read-only, so a change that is asked for again is refused again.
U6. Handlers of an earlier session are cancelled. One whose last wait was over by then still runs,
    and is stopped by U2.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import trio

from tierfs.control import wire
from tierfs.control.upcall_channel import SessionOver, UpcallChannel
from tierfs.control.wire import AccessKind, Ask, Command, Request
from tierfs.errors import StaleVersion, TierfsError
from tierfs.front.native import NativeFront
from tierfs.fs.errno import errno_of, is_quiet
from tierfs.fs.view import KIND_BITS, View
from tierfs.namespace import Absent, Attributes, Namespace

log = logging.getLogger(__name__)

#: How long `status` waits for the front's counters.
STATS_S = 1.0

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
    lake_directory: bytes
    #: What the front was told not to ask the kernel for.
    fuse_mask: str = ""


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
        rules: Rules,
        on_session: Callable[[], None],
    ) -> None:
        self._channel = channel
        self._namespace = namespace
        self._front = front
        self._view = View(namespace, front)
        self._rules = rules
        self._on_session = on_session
        #: Handlers of this session.
        self._running: set[trio.CancelScope] = set()
        self._features: list[str] = []
        self._asks: dict[Ask, Callable[[Request], Awaitable[None]]] = {
            Ask.LOOKUP: self._lookup,
            Ask.GETATTR: self._getattr,
            Ask.CONFIRM: self._confirm,
            Ask.OPEN: self._open,
            Ask.READ: self._read,
            Ask.READDIR: self._readdir,
            Ask.GETXATTR: self._getxattr,
            Ask.CHANGE: self._change,
        }

    # ---- the loop ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._channel.send_outgoing)
            self._channel.send(wire.pack_command(Command.READY, 0, 0))
            while True:
                await self._take(await self._channel.receive(), nursery)

    async def _take(self, request: Request, nursery: trio.Nursery) -> None:
        if request.ask is Ask.START:
            await self._begin(request)
        elif not self._channel.is_current(request):
            return
        elif request.ask in self._asks:
            nursery.start_soon(self._handle, request)
        elif request.ask is Ask.CLOSE:
            await self._front.close_for(request.ino, request.size)
        elif request.ask is Ask.NOTE:
            self._front.note_for(request.ino, request.offset, request.size)
        elif request.ask is Ask.ACCESSES:
            self._accesses(request.tail)
        elif request.ask is Ask.VERIFIED:
            ctime_ns = int.from_bytes(request.offset.to_bytes(8, "little"), "little", signed=True)
            self._front.verified(request.ino, request.arena_at, ctime_ns)
        elif request.ask is Ask.DONE:
            self._channel.done(request)

    async def _begin(self, start: Request) -> None:
        """A front, or the same one anew, begins a session."""
        for scope in self._running:
            scope.cancel()  # U6
        self._running.clear()
        self._on_session()
        await self._front.begin_session()
        rules = self._rules
        hello = wire.pack_rules(
            ttl_s=rules.ttl_s,
            negative_ttl_s=rules.negative_ttl_s,
            directory_mtime_ns=self._namespace.directory_mtime_ns,
            uid=rules.uid,
            gid=rules.gid,
            umask=rules.umask,
            lake_directory=rules.lake_directory,
        )
        self._channel.begin(start, hello)

    async def _handle(self, request: Request) -> None:
        """One upcall, in a task of its own, which ends with its session."""
        if not self._channel.is_current(request):
            return
        with trio.CancelScope() as scope:
            self._running.add(scope)
            try:
                await self._asks[request.ask](request)
            except SessionOver:
                return
            except TierfsError as error:
                if not is_quiet(error):
                    log.warning("%s: %s", request.ask.name.lower(), error)
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
        self._channel.send(message)

    # ---- what is asked -------------------------------------------------------------------------

    async def _lookup(self, request: Request) -> None:
        try:
            found = await self._namespace.lookup(request.ino, request.tail)
        except Absent as absent:
            self._answer(request, errno=errno.ENOENT, ttl_s=absent.ttl_s)
        else:
            self._answer(request, ttl_s=found.ttl_s, tail=_pack(found))

    async def _getattr(self, request: Request) -> None:
        found = self._view.attributes(request.ino)
        self._answer(request, ttl_s=found.ttl_s, tail=_pack(found))

    async def _confirm(self, request: Request) -> None:
        await self._namespace.open_object(request.ino)
        self._answer(request)

    async def _open(self, request: Request) -> None:
        ref, size = await self._namespace.open_object(request.ino)
        await self._front.open_for(request.ino, ref, size)
        self._answer(request)

    async def _read(self, request: Request) -> None:
        ino = request.ino
        known = self._front.opened(ino) or self._namespace.object_known(ino)
        if known is None:
            raise StaleVersion("read", f"inode {ino}", "it changed in the lake; open it again")
        data = await self._front.read_for(ino, *known, request.offset, request.size)
        self._channel.put(request, data)
        self._answer(request, count=len(data))

    async def _readdir(self, request: Request) -> None:
        entries = await self._namespace.readdir(request.ino, request.offset, request.size)
        packed = b"".join(wire.pack_entry(_pack(found), name) for _, name, found in entries)
        self._channel.put(request, packed)
        ttl_s = min((found.ttl_s for _, _, found in entries), default=0.0)
        self._answer(request, count=len(entries), ttl_s=ttl_s)

    async def _getxattr(self, request: Request) -> None:
        value = await self._view.xattr(request.ino, request.tail, request.uid)
        self._answer(request, tail=value)

    async def _change(self, request: Request) -> None:
        self._view.refuse_change(request.ino, _CHANGES.get(request.size, "change"))  # U5

    # ---- what is told --------------------------------------------------------------------------

    def _accesses(self, tail: bytes) -> None:
        for ino, at_ns, kind in wire.accesses(tail):
            if kind is AccessKind.READ:
                self._front.accessed(ino, at_ns)
            elif kind is AccessKind.OPEN:
                self._front.used(ino)
            else:
                self._front.not_used(ino)

    # ---- what is said of it --------------------------------------------------------------------

    async def describe(self) -> dict[str, Any]:
        """What the front says of itself, or said last if it does not answer; see
        `tierfs.control.commands.Serving`."""
        with trio.move_on_after(STATS_S):
            answer = await self._channel.command(Command.STATS)
            lines = (line.partition(" ") for line in answer.decode("ascii", "replace").splitlines())
            said = {name: value for name, _, value in lines}
            self._features = list(filter(None, said.pop("features", "").split(",")))
            self._front.front_stats = {
                name: int(value) for name, value in said.items() if value.isdigit()
            }
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


def _pack(found: Attributes) -> bytes:
    return wire.pack_attributes(
        found.ino,
        found.size,
        found.mtime_ns,
        KIND_BITS[found.kind] | found.mode,
        found.uid,
        found.gid,
    )
