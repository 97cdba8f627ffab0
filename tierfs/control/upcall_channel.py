"""The line to a native front: messages, sessions, the arena, and commands that wait for its word.

Both ends of the socket are held by the keeper too: a front that dies leaves its messages, and its
successor begins another session. What the messages mean is `tierfs.control.upcalls`' matter.

U2 (the front's half is in ``native/front/src/upcall/client.rs``). Nothing is written into the arena
but for a request of the present session (`put`), in the same plain stretch of code that sends its
answer.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import mmap
import os
import socket
from collections import deque
from collections.abc import Sequence

import trio

from tierfs.cache.budget import Priority
from tierfs.cache.eviction import Victim
from tierfs.control import wire
from tierfs.control.wire import Command, Request
from tierfs.errors import InvalidRequest, NotFound, StaleVersion
from tierfs.fs.errno import error_of

log = logging.getLogger(__name__)

#: Messages taken in a row before other tasks have their turn.
BURST = 32
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class SessionOver(Exception):
    """The session of a request has ended: nobody waits for its answer."""


class _Waiting:
    """A command that waits for the front's DONE."""

    __slots__ = ("answer", "done", "errno", "kind", "tail")

    def __init__(self, kind: Command, tail: bytes) -> None:
        self.kind = kind
        self.tail = tail
        self.done = trio.Event()
        self.answer = b""
        self.errno = 0


class UpcallChannel:
    """One front at a time. *socket_fd* and *shared_fd* are inherited from the keeper."""

    def __init__(self, socket_fd: int, shared_fd: int) -> None:
        self._socket = socket.socket(fileno=socket_fd)
        self._socket.setblocking(False)
        self._shared_fd = shared_fd
        self._arena: mmap.mmap | None = None
        self._arena_at = 0
        self._outgoing: deque[bytes] = deque()
        self._sendable = trio.Event()
        self._commands: dict[int, _Waiting] = {}
        self._next_command = 1
        self._in_a_row = 0
        self._token = trio.lowlevel.current_trio_token()
        #: Of the last START; 0 before the first.
        self.session = 0

    def close(self) -> None:
        """Close this end of the socket, and the memory."""
        self._socket.close()
        if self._arena is not None:
            self._arena.close()

    # ---- in ------------------------------------------------------------------------------------

    async def receive(self) -> Request:
        """The next message; those that are none are logged and dropped. Raises StaleVersion when
        the keeper is gone."""
        while True:
            try:
                message = self._socket.recv(wire.LONGEST)
            except BlockingIOError:
                self._in_a_row = 0
                await trio.lowlevel.wait_readable(self._socket)
                continue
            if not message:
                raise StaleVersion("serve a front", "upcalls", "the keeper is gone")
            self._in_a_row += 1
            if self._in_a_row >= BURST:
                self._in_a_row = 0
                await trio.lowlevel.checkpoint()
            try:
                return wire.parse_request(message)
            except InvalidRequest as error:
                log.warning("%s", error)

    def begin(self, start: Request, hello: bytes, source: bytes) -> None:
        """A front, or the same one anew, begins a session. It is told *hello*, the *source* of the
        lake's bytes, and everything that the last one was told and has not done."""
        self.session = start.session
        self._outgoing.clear()
        if self._arena is None:
            # Mapped from the file's beginning, because an offset would have to be of whole pages.
            self._arena = mmap.mmap(self._shared_fd, os.fstat(self._shared_fd).st_size)
        self._arena_at = start.offset
        self.send(wire.pack_command(Command.HELLO, self.session, 0, hello))
        self.tell_source(source)
        for id_, command in self._commands.items():
            self.send(wire.pack_command(command.kind, self.session, id_, command.tail))

    def is_current(self, request: Request) -> bool:
        """Whether *request* is of the present session."""
        return request.session == self.session

    def done(self, request: Request) -> None:
        """The front has carried out a command."""
        command = self._commands.pop(request.id, None)
        if command is not None:
            command.answer = request.tail
            command.errno = request.size
            command.done.set()

    # ---- out -----------------------------------------------------------------------------------

    def send(self, message: bytes) -> None:
        """Send a message, now or when there is room. Does not wait."""
        if self._outgoing or not self._sent(message):
            self._outgoing.append(message)
            self._sendable.set()

    def _sent(self, message: bytes) -> bool:
        try:
            self._socket.send(message, _FLAGS)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ENOBUFS):
                return False
            raise
        return True

    async def send_outgoing(self) -> None:
        """Send what found no room, until cancelled."""
        while True:
            await self._sendable.wait()
            self._sendable = trio.Event()
            while self._outgoing:
                await trio.lowlevel.wait_writable(self._socket)
                # Another session may have begun meanwhile, with nothing to send.
                if self._outgoing and self._sent(self._outgoing[0]):
                    self._outgoing.popleft()

    def put(self, request: Request, data: bytes | bytearray | memoryview) -> None:
        """Put *data* where the request has room for it. The answer is to follow without waiting
        (U2). Raises SessionOver, InvalidRequest."""
        if not self.is_current(request):
            raise SessionOver
        if self._arena is None or len(data) > request.arena_length:
            raise InvalidRequest("answer a front", f"{len(data)} bytes", "there is no room for it")
        at = self._arena_at + request.arena_at
        self._arena[at : at + len(data)] = data

    # ---- commands ------------------------------------------------------------------------------

    async def command(self, kind: Command, tail: bytes = b"") -> bytes:
        """Tell the front, or the next one, and wait until it is done; its answer. Raises what the
        front says went wrong."""
        id_, command = self._next_command, _Waiting(kind, tail)
        self._next_command += 1
        self._commands[id_] = command
        try:
            if self.session:
                self.send(wire.pack_command(kind, self.session, id_, tail))
            await command.done.wait()
        finally:
            self._commands.pop(id_, None)
        if command.errno:
            reason = command.answer.decode("utf-8", "replace")
            raise error_of(command.errno, f"{kind.name.lower()} in the native front", reason)
        return command.answer

    async def fetch(self, ino: int, lo: int, hi: int, priority: Priority) -> int:
        """See `tierfs.front.native.Orders`."""
        answer = await self.command(Command.FETCH, wire.pack_fetch(ino, lo, hi, priority))
        return wire.unpack(wire.FETCHED, answer)[0]

    async def fill(self, inos: Sequence[int]) -> int:
        """See `tierfs.front.native.Orders`."""
        answer = await self.command(Command.FILL, wire.pack_fill(inos))
        return wire.unpack(wire.FILLED, answer)[0]

    async def evict(self, victims: Sequence[Victim]) -> tuple[int, int]:
        """See `tierfs.front.native.Orders`."""
        answer = await self.command(Command.EVICT, wire.pack_victims(victims))
        files, freed = wire.unpack(wire.EVICTED, answer)
        return files, freed

    async def adopt(self, ino: int, size: int, identity: bytes, crc64nvme: int) -> None:
        """See `tierfs.front.native.Orders`."""
        await self.command(Command.ADOPT, wire.pack_adopt(ino, size, identity, crc64nvme))

    async def renamed(self, ino: int, old: bytes, new: bytes) -> None:
        """See `tierfs.front.native.Orders`."""
        await self.command(Command.RENAMED, wire.pack_renamed(ino, old, new))

    async def invalidate(self, ino: int) -> None:
        """See `tierfs.front.native.Orders`."""
        await self.command(Command.INVALIDATE, wire.PARENT.pack(ino))

    async def resize(self, limit_bytes: int | None) -> None:
        """See `tierfs.front.native.Orders`."""
        await self.command(Command.RESIZE, wire.pack_limit(limit_bytes))

    def tell_source(self, source: bytes) -> None:
        """Tell the front of this session, if there is one, where the lake's bytes come from."""
        if self.session:
            self.send(wire.pack_command(Command.SOURCE, self.session, 0, source))

    def tell_space(self, total_bytes: int, free_bytes: int) -> None:
        """Tell the front of this session, if there is one, what `df` is to show."""
        if self.session:
            tail = wire.SPACE.pack(total_bytes, free_bytes)
            self.send(wire.pack_command(Command.SPACE, self.session, 0, tail))

    def forget_entry(self, parent: int, name: bytes) -> None:
        """Have the kernel forget a name. For threads: waits for it."""
        self._from_thread(Command.FORGET_ENTRY, wire.PARENT.pack(parent) + name)

    def forget_content(self, ino: int) -> None:
        """Have the kernel forget what it keeps of a file. For threads: waits for it."""
        self._from_thread(Command.FORGET_CONTENT, wire.PARENT.pack(ino))

    def _from_thread(self, kind: Command, tail: bytes) -> None:
        # At the end of the mount nobody is left to be told. What the kernel does not know it has
        # forgotten.
        with contextlib.suppress(trio.RunFinishedError, trio.Cancelled, NotFound):
            trio.from_thread.run(self.command, kind, tail, trio_token=self._token)
