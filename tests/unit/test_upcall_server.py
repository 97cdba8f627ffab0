"""Upcalls: sessions, errors, and messages that are none. The front is played by the test."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from tierfs.control import wire
from tierfs.control.upcall_channel import UpcallChannel
from tierfs.control.upcalls import Rules, UpcallServer
from tierfs.control.wire import Ask, Command, Request
from tierfs.errors import LakeUnavailable
from tierfs.front.native import NativeFront
from tierfs.namespace import Absent, Namespace

ARENA_AT, ARENA_BYTES = 4096, 4096
RULES = Rules(60.0, 5.0, 0, 0, 0o022, b"/cache/lake")

Reader = Callable[[int], Awaitable[bytes]]


class Played:
    """The other end: sends requests, receives answers, looks into the arena."""

    def __init__(self, end: socket.socket, memory: mmap.mmap) -> None:
        self._plain = end
        self._end = trio.socket.from_stdlib_socket(end)
        self.memory = memory
        self.session = 0

    async def say(self, ask: Ask, id_: int = 0, ino: int = 0, **fields: Any) -> None:
        request = Request(ask, self.session, id_, ino, 0, 0, 0, 0, 0, b"")._replace(**fields)
        await self._end.send(wire.pack_request(request))

    async def raw(self, message: bytes) -> None:
        await self._end.send(message)

    async def begin(self) -> None:
        """Begin a session, and wait for HELLO."""
        self.session += 1
        await self.say(Ask.START, offset=ARENA_AT, arena_length=ARENA_BYTES)
        while (await self.hear())["kind"] != Command.HELLO:
            pass

    async def hear(self) -> dict[str, Any]:
        """The next message."""
        with trio.fail_after(5):
            message = await self._end.recv(wire.LONGEST)
        names = ("version", "kind", "length", "session", "id", "errno", "count", "ttl_ns")
        found = dict(zip(names, wire.ANSWER.unpack_from(message), strict=True))
        return {**found, "tail": message[wire.ANSWER.size :]}

    def drain(self) -> None:
        """Throw away what has come, without letting anybody else run."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._plain.recv(wire.LONGEST)

    def arena(self, at: int, n: int) -> bytes:
        return self.memory[ARENA_AT + at : ARENA_AT + at + n]


class FakeFront:
    """As much of `NativeFront` as the server asks."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.sessions = 0
        self.told: list[tuple[Any, ...]] = []
        self.front_stats: dict[str, int] = {}

    async def begin_session(self) -> None:
        self.sessions += 1

    def opened(self, ino: int) -> tuple[object, int]:
        return object(), 100

    async def read_for(self, ino: int, ref: object, size: int, offset: int, n: int) -> bytes:
        return await self._reader(ino)

    def verified(self, *what: int) -> None:
        self.told.append(("verified", *what))

    def note_for(self, ino: int, offset: int, size: int) -> None:
        self.told.append(("note", ino, offset, size))

    def used(self, ino: int) -> None:
        self.told.append(("used", ino))

    def not_used(self, ino: int) -> None:
        self.told.append(("not used", ino))

    def accessed(self, ino: int, at_ns: int) -> None:
        self.told.append(("accessed", ino, at_ns))


async def no_reader(ino: int) -> bytes:
    raise AssertionError("nothing is read here")


@asynccontextmanager
async def serving(
    reader: Reader = no_reader,
    kind: type[UpcallChannel] = UpcallChannel,
    lookup: Callable[[int, bytes], Awaitable[Any]] | None = None,
) -> AsyncIterator[tuple[Played, FakeFront, UpcallChannel]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    shared_fd = os.memfd_create("test")
    os.ftruncate(shared_fd, ARENA_AT + ARENA_BYTES)
    front = FakeFront(reader)
    namespace = SimpleNamespace(directory_mtime_ns=7, lookup=lookup)
    channel = kind(ours.detach(), shared_fd)
    server = UpcallServer(
        channel,
        cast(Namespace, namespace),
        cast(NativeFront, front),
        RULES,
        lambda: front.told.append(("session",)),
    )
    memory = mmap.mmap(shared_fd, ARENA_AT + ARENA_BYTES)
    theirs.setblocking(False)
    played = Played(theirs, memory)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            assert (await played.hear())["kind"] == Command.READY
            yield played, front, channel
            nursery.cancel_scope.cancel()
    finally:
        memory.close()
        theirs.close()
        channel.close()
        os.close(shared_fd)


async def test_hello_carries_the_rules() -> None:
    async with serving() as (played, front, _):
        await played.raw(
            wire.pack_request(Request(Ask.START, 5, 0, 0, ARENA_AT, 0, 0, 0, ARENA_BYTES, b""))
        )
        hello = await played.hear()
        assert (hello["kind"], hello["session"]) == (Command.HELLO, 5)
        assert hello["tail"].endswith(b"/cache/lake")
        assert wire.RULES.unpack_from(hello["tail"])[:3] == (60 * 10**9, 5 * 10**9, 7)
        assert front.sessions == 1
        assert front.told == [("session",)]


async def test_bytes_are_in_the_arena_when_the_answer_comes() -> None:
    async def read(ino: int) -> bytes:
        return b"%d" % ino

    async with serving(read) as (played, _, _):
        await played.begin()
        await played.say(Ask.READ, 1, 77, size=100, arena_at=64, arena_length=100)
        answer = await played.hear()
        assert (answer["id"], answer["errno"], answer["count"]) == (1, 0, 2)
        assert played.arena(64, 2) == b"77"


async def test_more_than_there_is_room_for_is_an_error() -> None:
    async def read(ino: int) -> bytes:
        return b"x" * 101

    async with serving(read) as (played, _, _):
        await played.begin()
        await played.say(Ask.READ, 1, 77, size=100, arena_length=100)
        assert (await played.hear())["errno"] == errno.EINVAL
        assert played.arena(0, 100) == bytes(100)


async def late_answer(kind: type[UpcallChannel]) -> bytes:
    """What is in the arena when a session has ended while it read, and the read goes on."""
    begun, go_on = trio.Event(), trio.Event()

    async def read(ino: int) -> bytes:
        begun.set()
        with trio.CancelScope(shield=True):
            await go_on.wait()  # Its last wait, which was over when the session ended.
        return b"late"

    async with serving(read, kind) as (played, _, _):
        await played.begin()
        await played.say(Ask.READ, 1, 77, size=100, arena_length=100)
        await begun.wait()
        await played.begin()
        go_on.set()
        await trio.testing.wait_all_tasks_blocked()
        return played.arena(0, 4)


async def test_a_late_answer_does_not_touch_the_arena_of_the_next_session() -> None:
    assert await late_answer(UpcallChannel) == bytes(4)


async def test_sabotage_without_the_session_it_does() -> None:
    class Forgetful(UpcallChannel):
        def is_current(self, request: Request) -> bool:
            return True

    assert await late_answer(Forgetful) == b"late"


async def test_a_session_that_begins_while_answers_find_no_room() -> None:
    async def read(ino: int) -> bytes:
        return b""

    async with serving(read) as (played, _, channel):
        await played.begin()
        while not channel._outgoing:
            channel.send(wire.pack_command(Command.STATS, 1, 0, bytes(4096)))
        await trio.testing.wait_all_tasks_blocked()
        # While the sender waits for room, there is room, and nothing more to send.
        played.drain()
        played.session += 1
        start = Request(Ask.START, played.session, 0, 0, ARENA_AT, 0, 0, 0, ARENA_BYTES, b"")
        channel.begin(start, b"")
        assert not channel._outgoing
        await trio.testing.wait_all_tasks_blocked()
        assert (await played.hear())["kind"] == Command.HELLO
        await played.say(Ask.READ, 1, 77)
        assert (await played.hear())["id"] == 1


async def test_messages_of_another_session_are_dropped() -> None:
    async with serving() as (played, front, _):
        await played.begin()
        await played.say(Ask.READ, 1, 77, session=99)
        await played.say(Ask.VERIFIED, 0, 77, session=99)
        await played.say(Ask.VERIFIED, 0, 78, offset=(1 << 64) - 5, arena_at=1000)
        await played.say(Ask.NOTE, 0, 79, offset=4096, size=100)
        await trio.testing.wait_all_tasks_blocked()
        assert front.told[1:] == [("verified", 78, 1000, -5), ("note", 79, 4096, 100)]


async def test_accesses() -> None:
    tail = b"".join(
        wire.ACCESS.pack(*one) for one in ((16, 0, 3), (16, 0, 2), (17, 0, 3), (18, 8, 4))
    )
    async with serving() as (played, front, _):
        await played.begin()
        await played.say(Ask.ACCESSES, tail=tail)
        await trio.testing.wait_all_tasks_blocked()
        assert front.told[1:] == [
            ("used", 16),
            ("not used", 16),
            ("used", 17),
            ("accessed", 18, 8),
        ]


@pytest.mark.parametrize(
    ("error", "number", "ttl_ns"),
    [
        (Absent("look up", b"x", 5.0), errno.ENOENT, 5 * 10**9),
        (LakeUnavailable("look up", b"x", "no answer"), errno.EIO, 0),
        (ZeroDivisionError(), errno.EIO, 0),
    ],
)
async def test_errors_are_answers(
    error: Exception, number: int, ttl_ns: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def lookup(parent: int, name: bytes) -> None:
        raise error

    async with serving(lookup=lookup) as (played, _, _):
        await played.begin()
        await played.say(Ask.LOOKUP, 1, 16, tail=b"x")
        answer = await played.hear()
        assert (answer["errno"], answer["ttl_ns"]) == (number, ttl_ns)
        await played.say(Ask.LOOKUP, 2, 16, tail=b"x")
        assert (await played.hear())["id"] == 2  # The loop goes on.


async def test_what_is_no_message_is_logged_and_dropped(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as (played, _, _):
        await played.begin()
        await played.raw(b"nonsense")
        await played.raw(struct.pack("<HHI", 9, 1, 8) + bytes(56))
        await played.begin()
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 2


async def test_commands_are_said_again_to_the_next_front() -> None:
    async with serving() as (played, _, channel):
        await played.begin()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, channel.forget_entry, 16, b"a.jpg")
            first = await played.hear()
            assert first["kind"] == Command.FORGET_ENTRY
            await played.begin()  # The front died before it could do so.
            again = await played.hear()
            assert (again["id"], again["tail"]) == (first["id"], first["tail"])
            await played.say(Ask.DONE, again["id"])
