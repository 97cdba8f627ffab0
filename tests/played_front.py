"""A native front that a test plays: the other end of the control plane's socket and memory."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
from collections.abc import Iterator
from typing import Any

import trio

from tierfs.control import wire
from tierfs.control.wire import Ask, Command, Request

ARENA_AT, ARENA_BYTES = 4096, 16 << 20
#: No answer takes so long, on whatever machine.
PATIENCE_S = 60.0


class Played:
    """The other end: sends requests, receives answers, looks into the arena."""

    def __init__(self, end: socket.socket, memory: mmap.mmap) -> None:
        self._plain = end
        self._end = trio.socket.from_stdlib_socket(end)
        self.memory = memory
        self.session = 0
        #: The tail of the last SOURCE.
        self.source = b""
        #: What SPACE said in this session: bytes in all, and free ones.
        self.space: tuple[int, ...] | None = None

    async def say(self, ask: Ask, id_: int = 0, ino: int = 0, **fields: Any) -> None:
        request = Request(ask, self.session, id_, ino, 0, 0, 0, 0, 0, b"")._replace(**fields)
        await self._end.send(wire.pack_request(request))

    async def ask(self, ask: Ask, id_: int, ino: int, **fields: Any) -> dict[str, Any]:
        """`say`, and the answer."""
        await self.say(ask, id_, ino, **fields)
        answer = await self.hear()
        assert (answer["kind"], answer["id"]) == (ask | 0x8000, id_)
        return answer

    async def raw(self, message: bytes) -> None:
        await self._end.send(message)

    async def begin(self) -> bytes:
        """Begin a session, and wait for HELLO, whose tail it is, and for SOURCE right after it."""
        self.session += 1
        self.space = None
        await self.say(Ask.START, offset=ARENA_AT, arena_length=ARENA_BYTES)
        while (hello := await self.hear())["kind"] != Command.HELLO:
            pass
        source = await self.hear()
        assert (source["kind"], source["session"], source["id"]) == (
            Command.SOURCE,
            self.session,
            0,
        )
        self.source = source["tail"]
        rules: bytes = hello["tail"]
        return rules

    async def hear(self) -> dict[str, Any]:
        """The next message; SPACE, which comes when it likes, is kept in `space`."""
        names = ("version", "kind", "length", "session", "id", "errno", "count", "ttl_ns")
        while True:
            with trio.fail_after(PATIENCE_S):
                message = await self._end.recv(wire.LONGEST)
            found = dict(zip(names, wire.ANSWER.unpack_from(message), strict=True))
            tail = message[wire.ANSWER.size :]
            if found["kind"] != Command.SPACE:
                return {**found, "tail": tail}
            if found["session"] == self.session:  # One may be of the session before.
                self.space = wire.SPACE.unpack(tail)

    def drain(self) -> None:
        """Throw away what has come, without letting anybody else run."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._plain.recv(wire.LONGEST)

    def arena(self, at: int, n: int) -> bytes:
        return self.memory[ARENA_AT + at : ARENA_AT + at + n]


@contextlib.contextmanager
def play() -> Iterator[tuple[Played, int, int]]:
    """A played front, and the control plane's descriptors of socket (whoever takes it closes it)
    and memory."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    shared_fd = os.memfd_create("test")
    os.ftruncate(shared_fd, ARENA_AT + ARENA_BYTES)
    memory = mmap.mmap(shared_fd, ARENA_AT + ARENA_BYTES)
    try:
        yield Played(theirs, memory), ours.detach(), shared_fd
    finally:
        memory.close()
        theirs.close()
        os.close(shared_fd)
