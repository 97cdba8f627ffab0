"""The server of upcalls: what a native front cannot answer by itself becomes a domain call here.

::

    socket --> _receive() --parse--> START: _begin()    a session; all handlers of the last one end
                                     tells:  at once     CLOSE, ACCESSES, VERIFIED, DONE
                                     asks:   a task      _handle() --> one domain call --> _answer()

The socket's other end is the front's, and both are held by the keeper too: a front that dies leaves
its messages, and its successor begins another session. The messages: `tierfs.control.wire`.

Invariants (U1 and U2 are in ``native/front/src/upcall/client.rs``):

U2. Nothing is written into the arena but by a handler of the present session, in the same plain
    stretch of code that sends its answer: a handler that was cancelled writes nothing.
U4. Nothing ends the loop but the end of the mount: what a handler raises becomes an errno, a
    message that cannot be read is logged and dropped.
U5. What changes the lake would be made exactly once, by (mount id, unique), in the transaction that
    makes it. This mount is read-only, so a change that is asked for again is refused again.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import trio

from tierfs.control import wire
from tierfs.control.wire import AccessKind, Ask, Command, Request
from tierfs.errors import InvalidRequest, StaleVersion, TierfsError
from tierfs.front.native import NativeFront
from tierfs.fs.errno import errno_of, is_quiet
from tierfs.fs.view import KIND_BITS, View
from tierfs.namespace import Absent, Attributes, Namespace

log = logging.getLogger(__name__)

#: How long `status` waits for the front's counters.
STATS_S = 1.0
#: Messages taken in a row before other tasks have their turn.
BURST = 32

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


class _Command:
    """A command that waits for the front's DONE."""

    __slots__ = ("answer", "done", "kind", "tail")

    def __init__(self, kind: Command, tail: bytes) -> None:
        self.kind = kind
        self.tail = tail
        self.done = trio.Event()
        self.answer = b""


class UpcallServer:
    """Serves one front at a time. *socket_fd* and *shared_fd* are inherited from the keeper."""

    #: Of this front, for `tierfs.control.commands.Serving`.
    name = "native"
    #: The front keeps no directory handles.
    open_directories = 0

    def __init__(
        self,
        socket_fd: int,
        shared_fd: int,
        namespace: Namespace,
        front: NativeFront,
        rules: Rules,
    ) -> None:
        self._socket = socket.socket(fileno=socket_fd)
        self._socket.setblocking(False)
        self._shared_fd = shared_fd
        self._namespace = namespace
        self._front = front
        self._view = View(namespace, front)
        self._rules = rules
        self._arena: mmap.mmap | None = None
        self._arena_at = 0
        self._session = 0
        #: Handlers of this session.
        self._running: set[trio.CancelScope] = set()
        self._outgoing: deque[bytes] = deque()
        self._sendable = trio.Event()
        self._commands: dict[int, _Command] = {}
        self._next_command = 1
        self._features: list[str] = []
        self._token = trio.lowlevel.current_trio_token()
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
            nursery.start_soon(self._send_outgoing)
            self._send(wire.pack_command(Command.READY, 0, 0))
            await self._receive(nursery)

    async def _receive(self, nursery: trio.Nursery) -> None:
        in_a_row = 0
        while True:
            try:
                message = self._socket.recv(wire.LONGEST)
            except BlockingIOError:
                in_a_row = 0
                await trio.lowlevel.wait_readable(self._socket)
                continue
            if not message:
                raise StaleVersion("serve a front", "upcalls", "the keeper is gone")
            try:
                request = wire.parse_request(message)
            except InvalidRequest as error:
                log.warning("%s", error)  # U4
                continue
            await self._take(request, nursery)
            in_a_row += 1
            if in_a_row >= BURST:
                in_a_row = 0
                await trio.lowlevel.checkpoint()

    async def _take(self, request: Request, nursery: trio.Nursery) -> None:
        if request.ask is Ask.START:
            await self._begin(request)
        elif request.session != self._session:
            return
        elif request.ask in self._asks:
            nursery.start_soon(self._handle, request)
        elif request.ask is Ask.CLOSE:
            await self._front.close_for(request.ino, request.size)
        elif request.ask is Ask.ACCESSES:
            self._accesses(request.tail)
        elif request.ask is Ask.VERIFIED:
            ctime_ns = int.from_bytes(request.offset.to_bytes(8, "little"), "little", signed=True)
            self._front.verified(request.ino, request.arena_at, ctime_ns)
        elif request.ask is Ask.DONE:
            command = self._commands.pop(request.id, None)
            if command is not None:
                command.answer = request.tail
                command.done.set()

    async def _begin(self, start: Request) -> None:
        """A front, or the same one anew, begins a session."""
        self._session = start.session
        for scope in self._running:
            scope.cancel()
        self._running.clear()
        self._outgoing.clear()
        if self._arena is None:
            # Mapped from the file's beginning, because an offset would have to be of whole pages.
            length = os.fstat(self._shared_fd).st_size
            self._arena = mmap.mmap(self._shared_fd, length)
        self._arena_at = start.offset
        await self._front.begin_session()
        rules = self._rules
        tail = wire.pack_rules(
            ttl_s=rules.ttl_s,
            negative_ttl_s=rules.negative_ttl_s,
            directory_mtime_ns=self._namespace.directory_mtime_ns,
            uid=rules.uid,
            gid=rules.gid,
            umask=rules.umask,
            lake_directory=rules.lake_directory,
        )
        self._send(wire.pack_command(Command.HELLO, self._session, 0, tail))
        for id_, command in self._commands.items():
            self._send(wire.pack_command(command.kind, self._session, id_, command.tail))

    async def _handle(self, request: Request) -> None:
        """One upcall, in a task of its own, which ends with its session."""
        if request.session != self._session:
            return
        with trio.CancelScope() as scope:
            self._running.add(scope)
            try:
                await self._asks[request.ask](request)
            except TierfsError as error:
                if not is_quiet(error):
                    log.warning("%s: %s", request.ask.name.lower(), error)
                self._answer(request, errno=errno_of(error))
            except Exception:
                log.exception("%s: unexpected error, answered EIO", request.ask.name.lower())
                self._answer(request, errno=errno.EIO)  # U4
            finally:
                self._running.discard(scope)

    # ---- sending -------------------------------------------------------------------------------

    def _answer(
        self,
        request: Request,
        *,
        errno: int = 0,
        count: int = 0,
        ttl_s: float = 0.0,
        tail: bytes = b"",
    ) -> None:
        self._send(wire.pack_answer(request, errno=errno, count=count, ttl_s=ttl_s, tail=tail))

    def _send(self, message: bytes) -> None:
        if not self._outgoing:
            try:
                self._socket.send(message, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                return
            except BlockingIOError:
                pass
        self._outgoing.append(message)
        self._sendable.set()

    async def _send_outgoing(self) -> None:
        while True:
            await self._sendable.wait()
            self._sendable = trio.Event()
            while self._outgoing:
                await trio.lowlevel.wait_writable(self._socket)
                try:
                    self._socket.send(self._outgoing[0], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                except BlockingIOError:
                    continue
                self._outgoing.popleft()

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
        self._put(request, data)
        self._answer(request, count=len(data))

    async def _readdir(self, request: Request) -> None:
        entries = await self._namespace.readdir(request.ino, request.offset, request.size)
        packed = b"".join(wire.pack_entry(_pack(found), name) for _, name, found in entries)
        self._put(request, packed)
        ttl_s = min((found.ttl_s for _, _, found in entries), default=0.0)
        self._answer(request, count=len(entries), ttl_s=ttl_s)

    async def _getxattr(self, request: Request) -> None:
        value = await self._view.xattr(request.ino, request.tail, request.uid)
        self._answer(request, tail=value)

    async def _change(self, request: Request) -> None:
        self._view.refuse_change(request.ino, _CHANGES.get(request.size, "change"))  # U5

    def _put(self, request: Request, data: bytes | bytearray | memoryview) -> None:
        """Put *data* where the request has room for it. The answer follows without waiting (U2)."""
        if self._arena is None or len(data) > request.arena_length:
            raise InvalidRequest("answer a front", f"{len(data)} bytes", "there is no room for it")
        at = self._arena_at + request.arena_at
        self._arena[at : at + len(data)] = data

    # ---- what is told --------------------------------------------------------------------------

    def _accesses(self, tail: bytes) -> None:
        for ino, at_ns, kind in wire.accesses(tail):
            if kind is AccessKind.RELEASED:
                self._front.not_used(ino)
                continue
            if kind is not AccessKind.READ:
                self._front.used(ino)
            if kind is not AccessKind.OPEN:
                self._front.accessed(ino, at_ns)

    # ---- what the front is told ----------------------------------------------------------------

    async def _command(self, kind: Command, tail: bytes = b"") -> bytes:
        """Tell the front, or the next one, and wait until it is done; its answer."""
        id_, command = self._next_command, _Command(kind, tail)
        self._next_command += 1
        self._commands[id_] = command
        try:
            if self._session:
                self._send(wire.pack_command(kind, self._session, id_, tail))
            await command.done.wait()
        finally:
            self._commands.pop(id_, None)
        return command.answer

    def forget_entry(self, parent: int, name: bytes) -> None:
        """Have the kernel forget a name. For threads: waits for it."""
        self._from_thread(Command.FORGET_ENTRY, wire.PARENT.pack(parent) + name)

    def forget_content(self, ino: int) -> None:
        """Have the kernel forget what it keeps of a file. For threads: waits for it."""
        self._from_thread(Command.FORGET_CONTENT, wire.PARENT.pack(ino))

    def _from_thread(self, kind: Command, tail: bytes) -> None:
        trio.from_thread.run(self._command, kind, tail, trio_token=self._token)

    async def describe(self) -> dict[str, Any]:
        """What the front says of itself, or said last if it does not answer; see
        `tierfs.control.commands.Serving`."""
        with trio.move_on_after(STATS_S):
            answer = await self._command(Command.STATS)
            lines = (line.partition(" ") for line in answer.decode("ascii", "replace").splitlines())
            said = {name: value for name, _, value in lines}
            self._features = list(filter(None, said.pop("features", "").split(",")))
            self._front.front_stats = {
                name: int(value) for name, value in said.items() if value.isdigit()
            }
        return {"features": self._features, **self._front.front_stats}


def _pack(found: Attributes) -> bytes:
    return wire.pack_attributes(
        found.ino,
        found.size,
        found.mtime_ns,
        KIND_BITS[found.kind] | found.mode,
        found.uid,
        found.gid,
    )
