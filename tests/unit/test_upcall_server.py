"""Upcalls: sessions, errors, and messages that are none. The front is played by the test."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from tests import caching
from tests.caching import MIB, WatchedLake, noise, ref_of
from tests.played_front import ARENA_AT, ARENA_BYTES, Played, play
from tierfs.cache.budget import Priority
from tierfs.cache.eviction import Victim
from tierfs.control import upcalls, wire
from tierfs.control.upcall_channel import UpcallChannel
from tierfs.control.upcalls import Rules, UpcallServer
from tierfs.control.wire import Ask, Command, Request
from tierfs.errors import (
    CacheFull,
    IntegrityError,
    LakeArchived,
    LakeDenied,
    LakeProtocolError,
    LakeUnavailable,
    NotFound,
    PreconditionFailed,
    StaleVersion,
    TierfsError,
)
from tierfs.front.native import EVICT_AT_ONCE, NativeFront
from tierfs.fs.errno import errno_of
from tierfs.index.cache import CacheBatch, CacheIndex
from tierfs.index.index import open_index
from tierfs.index.records import EXTENT_SIZE, BlockRecord, CachedFile, Kind, ObjectRef
from tierfs.index.schema import pack_object
from tierfs.lake.faulty import Fault, FaultKind, FaultyLake
from tierfs.lake.protocol import ChecksumKind, Lake, ObjectInfo, Source, Version
from tierfs.namespace import Absent, Attributes, Namespace
from tierfs.readahead.policy import AdaptivePolicy, EvictionPolicy, Incoming
from tierfs.readahead.rules import Rule

RULES = Rules(60.0, 5.0, 0, 0, 0o022, 64, 1 << 30, 0.1, b"/cache/lake")
SOURCE = Source(
    scheme="https",
    host="box",
    port=443,
    path="/bucket/",
    region="eu-west-1",
    access_key="AKIDEXAMPLE",
    secret_key="very-secret",
    token="some-token",
    headers=(("x-amz-server-side-encryption-customer-key", "customer-secret"),),
    ca_bundle="",
    connections=16,
    stall_s=15.0,
)


class OpenLake(WatchedLake):
    """A lake that others can read by themselves, as *known* says."""

    def __init__(self, known: Source | None) -> None:
        super().__init__()
        self.known = known
        self.error: Exception | None = None
        self.changed = trio.Event()

    async def source(self) -> Source | None:  # type: ignore[override]
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        return self.known

    async def source_changed(self) -> None:
        await self.changed.wait()
        self.changed = trio.Event()


class Scene:
    """A server with everything around it: the front is *played*, the lake in memory."""

    def __init__(
        self, played: Played, front: NativeFront, channel: UpcallChannel, server: UpcallServer
    ) -> None:
        self.played = played
        self.front = front
        self.channel = channel
        self.server = server
        self.sessions = 0


@asynccontextmanager
async def serving(
    directory: Path,
    lake: Lake | None = None,
    kind: type[UpcallChannel] = UpcallChannel,
    files: Sequence[tuple[int, int, int]] = (),
    policy: Callable[[CacheIndex], EvictionPolicy] = AdaptivePolicy,
    **namespace: Any,
) -> AsyncIterator[Scene]:
    """*files* are in the index: (ino, size, bytes present from the beginning)."""
    with play() as (played, upcall_fd, shared_fd):
        channel = kind(upcall_fd, shared_fd)
        try:
            async with open_index(directory, "lake") as index, trio.open_nursery() as nursery:
                await index.cache.commit(recorded(files))
                front = NativeFront(
                    index.cache,
                    directory,
                    nursery,
                    channel,
                    cache_size=None,
                    policy=policy(index.cache),
                )
                await front.start()
                names = {
                    "directory_mtime_ns": 7,
                    "object_known": lambda ino: None,
                    "detached_size": lambda ino: None,
                    **namespace,
                }
                server = UpcallServer(
                    channel,
                    cast(Namespace, SimpleNamespace(**names)),
                    front,
                    WatchedLake() if lake is None else lake,
                    RULES,
                    lambda: scene.__setattr__("sessions", scene.sessions + 1),
                )
                scene = Scene(played, front, channel, server)
                nursery.start_soon(server.run)
                assert (await played.hear())["kind"] == Command.READY
                yield scene
                nursery.cancel_scope.cancel()
        finally:
            channel.close()


def recorded(files: Sequence[tuple[int, int, int]]) -> CacheBatch:
    """What the front would have recorded of *files*."""
    batch = CacheBatch()
    for ino, size, present in files:
        whole = present == size
        batch.put_file(ino, CachedFile(bytes(16), size, 0, whole, False, bytes(8), 0, 0, ino))
        blocks = range(-(-present // MIB))
        batch.put_blocks(ino, {n: BlockRecord(min(MIB, present - n * MIB), 0, 0) for n in blocks})
    return batch


def record(info: ObjectInfo) -> bytes:
    return pack_object(ref_of(info))


def victims(tail: bytes) -> dict[int, list[tuple[int, int]]]:
    """What a message wants evicted: ino -> extents, none for a whole file."""
    found: dict[int, list[tuple[int, int]]] = {}
    while tail:
        ino, count = wire.VICTIM.unpack_from(tail)
        end = wire.VICTIM.size + count * wire.EXTENT.size
        assert ino not in found
        found[ino] = list(wire.EXTENT.iter_unpack(tail[wire.VICTIM.size : end]))
        tail = tail[end:]
    return found


# ---- sessions ----------------------------------------------------------------------------------


async def test_hello_carries_the_rules(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene:
        played = scene.played
        await played.raw(
            wire.pack_request(Request(Ask.START, 5, 0, 0, ARENA_AT, 0, 0, 0, ARENA_BYTES, b""))
        )
        hello = await played.hear()
        assert (hello["kind"], hello["session"]) == (Command.HELLO, 5)
        assert hello["tail"].endswith(b"/cache/lake")
        assert wire.RULES.unpack_from(hello["tail"]) == (
            *(60 * 10**9, 5 * 10**9, 7),
            *(0, 0, 0o022, 64),
            *(1 << 30, wire.UNLIMITED, 0.1, False),
        )
        assert scene.sessions == 1


async def test_the_next_front_is_told_the_limit_that_was_set_last(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene, trio.open_nursery() as nursery:
        played = scene.played
        await played.begin()
        nursery.start_soon(scene.front.resize, 5 << 30)
        resize = await played.hear()
        assert (resize["kind"], resize["tail"]) == (Command.RESIZE, wire.pack_limit(5 << 30))
        await played.say(Ask.DONE, resize["id"])
        await played.say(Ask.START, offset=ARENA_AT, arena_length=ARENA_BYTES)
        hello = await played.hear()
        assert wire.RULES.unpack_from(hello["tail"])[8] == 5 << 30


async def late_answer(directory: Path, kind: type[UpcallChannel]) -> bytes:
    """What is in the arena when a session has ended while it read, and the read goes on."""
    begun, go_on = trio.Event(), trio.Event()
    lake = WatchedLake()
    info = lake.store(b"a", b"late")

    async def before(_: caching.Request) -> None:
        begun.set()
        with trio.CancelScope(shield=True):
            await go_on.wait()  # Its last wait, which was over when the session ended.

    lake.before = before
    lake._read = lambda key, version: _at_once(lake, key)  # type: ignore[method-assign]
    async with serving(directory, lake, kind) as scene:
        await scene.played.begin()
        await scene.played.say(Ask.GET, 1, 77, size=4, arena_length=100, tail=record(info))
        await begun.wait()
        await scene.played.begin()
        go_on.set()
        await trio.testing.wait_all_tasks_blocked()
        return scene.played.arena(0, 4)


async def _at_once(lake: WatchedLake, key: bytes) -> tuple[ObjectInfo, bytes]:
    return lake._objects[key]


async def test_a_late_answer_does_not_touch_the_arena_of_the_next_session(tmp_path: Path) -> None:
    assert await late_answer(tmp_path, UpcallChannel) == bytes(4)


async def test_sabotage_without_the_session_it_does(tmp_path: Path) -> None:
    class Forgetful(UpcallChannel):
        def is_current(self, request: Request) -> bool:
            return True

    assert await late_answer(tmp_path, Forgetful) == b"late"


async def test_a_session_that_begins_while_answers_find_no_room(tmp_path: Path) -> None:
    lake = WatchedLake()
    info = lake.store(b"a", b"data")
    async with serving(tmp_path, lake) as scene:
        played, channel = scene.played, scene.channel
        await played.begin()
        while not channel._outgoing:
            channel.send(wire.pack_command(Command.STATS, 1, 0, bytes(4096)))
        await trio.testing.wait_all_tasks_blocked()
        # While the sender waits for room, there is room, and nothing more to send.
        played.drain()
        played.session += 1
        start = Request(Ask.START, played.session, 0, 0, ARENA_AT, 0, 0, 0, ARENA_BYTES, b"")
        channel.begin(start, b"", b"")
        assert not channel._outgoing
        await trio.testing.wait_all_tasks_blocked()
        assert (await played.hear())["kind"] == Command.HELLO
        assert (await played.hear())["kind"] == Command.SOURCE
        await played.ask(Ask.HEAD, 1, 77, tail=record(info))


async def test_messages_of_another_session_are_dropped(tmp_path: Path) -> None:
    lake = WatchedLake()
    info = lake.store(b"a", b"data")
    async with serving(tmp_path, lake) as scene:
        played = scene.played
        await played.begin()
        await played.say(Ask.HEAD, 1, 77, session=99, tail=record(info))
        await played.say(Ask.ACCESSES, session=99, tail=wire.ACCESS.pack(16, 0, 3, 0))
        await played.say(Ask.ACCESSES, tail=wire.ACCESS.pack(17, 0, 3, 0))
        await trio.testing.wait_all_tasks_blocked()
        assert lake.requests == []
        assert (scene.front.is_used(16), scene.front.is_used(17)) == (False, True)
        await played.begin()
        assert not scene.front.is_used(17)


async def test_accesses(tmp_path: Path) -> None:
    told = ((16, 0, 3, 0), (16, 0, 2, 0), (17, 0, 3, 0), (18, 8, 4, 4242))
    async with serving(tmp_path) as scene:
        front = scene.front
        read: list[tuple[int, ...]] = []
        front._accesses.add = lambda *one: read.append(one)  # type: ignore[method-assign]
        await scene.played.begin()
        tail = b"".join(wire.ACCESS.pack(*one) for one in told)
        await scene.played.say(Ask.ACCESSES, tail=tail)
        await trio.testing.wait_all_tasks_blocked()
        assert [front.is_used(ino) for ino in (16, 17, 18)] == [False, True, False]
        assert read == [(18, 8, 4242)]


async def test_what_is_no_message_is_logged_and_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path) as scene:
        await scene.played.begin()
        await scene.played.raw(b"nonsense")
        await scene.played.raw(struct.pack("<HHI", 9, 1, 8) + bytes(56))
        await scene.played.begin()
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 2


@pytest.mark.parametrize("complete", [False, True])
async def test_a_front_that_may_look_is_told_that_it_can(tmp_path: Path, complete: bool) -> None:
    found = Attributes(17, Kind.FILE, 0o644, 0, 0, 5, 0, 60.0)

    async def listed(ino: int, after_ino: int) -> bool:
        assert (ino, after_ino) == (16, 3)
        return complete

    async def readdir(ino: int, after_ino: int, limit: int) -> list[tuple[int, bytes, Attributes]]:
        assert (ino, after_ino, limit) == (16, 3, 9)
        return [(17, b"name", found)]

    async with serving(tmp_path, listed=listed, readdir=readdir) as scene:
        await scene.played.begin()
        place = {"arena_at": 64, "arena_length": 1000}
        for id_, uid in ((1, 0), (2, wire.MAY_LOOK)):
            answer = await scene.played.ask(
                Ask.READDIR, id_, 16, offset=3, size=9, uid=uid, **place
            )
            looks = uid and complete
            assert (answer["errno"], answer["count"]) == (0, wire.LISTED if looks else 1)


# ---- bytes -------------------------------------------------------------------------------------


async def test_bytes_are_in_the_arena_when_the_answer_comes(tmp_path: Path) -> None:
    lake = WatchedLake()
    data = noise(MIB + 5)
    info = lake.store_with(b"a", data, ChecksumKind.CRC32C)
    async with serving(tmp_path, lake) as scene:
        played = scene.played
        await played.begin()
        place = {"arena_at": 64, "arena_length": 2 * MIB, "tail": record(info)}
        whole = await played.ask(Ask.GET, 1, 77, size=len(data), uid=1, **place)
        assert (whole["errno"], whole["count"]) == (0, len(data))
        assert info.checksum is not None
        assert whole["tail"] == wire.pack_checksum(info.checksum)
        assert played.arena(64, len(data)) == data
        part = await played.ask(Ask.GET, 2, 77, offset=10, size=20, **place)
        assert (part["errno"], part["count"], part["tail"]) == (0, 20, b"")
        assert played.arena(64, 20) == data[10:30]
        assert [request.op for request in lake.requests] == ["get_whole", "get"]


async def test_a_whole_object_that_is_large_comes_as_a_range(tmp_path: Path) -> None:
    lake = WatchedLake()
    data = noise(9 * MIB)
    info = lake.store_with(b"a", data, ChecksumKind.CRC64NVME)
    async with serving(tmp_path, lake) as scene:
        await scene.played.begin()
        answer = await scene.played.ask(
            Ask.GET, 1, 77, size=len(data), uid=1, arena_length=len(data), tail=record(info)
        )
        assert (answer["count"], answer["tail"]) == (len(data), b"")
        assert [request.op for request in lake.requests] == ["get"]


async def test_an_object_without_a_checksum_brings_none(tmp_path: Path) -> None:
    lake = WatchedLake()
    info = lake.store_with(b"a", b"data", ChecksumKind.NONE)
    async with serving(tmp_path, lake) as scene:
        await scene.played.begin()
        where = {"size": 4, "arena_length": 4, "tail": record(info)}
        assert (await scene.played.ask(Ask.GET, 1, 77, uid=1, **where))["tail"] == b""
        head = await scene.played.ask(Ask.HEAD, 2, 77, tail=record(info))
        assert (head["errno"], head["tail"]) == (0, b"")


async def test_more_than_there_is_room_for_is_an_error(tmp_path: Path) -> None:
    lake = WatchedLake()
    info = lake.store(b"a", b"x" * 101)
    async with serving(tmp_path, lake) as scene:
        await scene.played.begin()
        answer = await scene.played.ask(
            Ask.GET, 1, 77, size=101, arena_length=100, tail=record(info)
        )
        assert answer["errno"] == errno.EINVAL
        assert scene.played.arena(0, 101) == bytes(101)


@pytest.mark.parametrize("whole", [0, 1])
async def test_a_short_body_never_reaches_the_front(tmp_path: Path, whole: int) -> None:
    lake = WatchedLake()
    info = lake.store(b"a", b"x" * 100)
    faulty = FaultyLake(lake, Fault(FaultKind.SHORT))
    async with serving(tmp_path, faulty) as scene:
        await scene.played.begin()
        answer = await scene.played.ask(
            Ask.GET, 1, 77, size=100, uid=whole, arena_length=100, tail=record(info)
        )
        assert (answer["errno"], answer["count"]) == (errno.EIO, 0)
        assert scene.played.arena(0, 100) == bytes(100)


async def test_a_head_tells_the_checksum_of_this_version_only(tmp_path: Path) -> None:
    lake = WatchedLake()
    info = lake.store_with(b"a", b"data", ChecksumKind.CRC64NVME)
    assert info.checksum is not None
    async with serving(tmp_path, lake) as scene:
        played = scene.played
        await played.begin()
        answer = await played.ask(Ask.HEAD, 1, 77, tail=record(info))
        assert (answer["errno"], answer["tail"]) == (0, wire.pack_checksum(info.checksum))
        # A listing tells no version id.
        with_id = replace(info, version=Version(info.version.etag, b"v1"))
        assert (await played.ask(Ask.HEAD, 2, 77, tail=record(with_id)))["errno"] == 0
        lake.store_with(b"a", b"other", ChecksumKind.CRC64NVME)
        answer = await played.ask(Ask.HEAD, 3, 77, tail=record(info))
        assert (answer["errno"], answer["tail"]) == (errno.ESTALE, b"")
        lake.remove(b"a")
        assert (await played.ask(Ask.HEAD, 4, 77, tail=record(info)))["errno"] == errno.ESTALE


@pytest.mark.parametrize("tail", [b"", b"\0" * 3])
@pytest.mark.parametrize("ask", [Ask.GET, Ask.HEAD])
async def test_what_is_no_object_is_refused(tmp_path: Path, ask: Ask, tail: bytes) -> None:
    async with serving(tmp_path) as scene:
        await scene.played.begin()
        answer = await scene.played.ask(ask, 1, 77, size=4, arena_length=4, tail=tail)
        assert answer["errno"] == errno.EINVAL


@pytest.mark.parametrize(
    ("error", "number", "ttl_ns"),
    [
        (Absent("look up", b"x", 5.0), errno.ENOENT, 5 * 10**9),
        (LakeUnavailable("look up", b"x", "no answer"), errno.EIO, 0),
        (ZeroDivisionError(), errno.EIO, 0),
    ],
)
async def test_errors_are_answers(
    tmp_path: Path,
    error: Exception,
    number: int,
    ttl_ns: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def lookup(parent: int, name: bytes) -> None:
        raise error

    async with serving(tmp_path, lookup=lookup) as scene:
        await scene.played.begin()
        answer = await scene.played.ask(Ask.LOOKUP, 1, 16, tail=b"x")
        assert (answer["errno"], answer["ttl_ns"]) == (number, ttl_ns)
        await scene.played.ask(Ask.LOOKUP, 2, 16, tail=b"x")  # The loop goes on.


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (PreconditionFailed("read", b"a"), errno.ESTALE),
        (NotFound("read", b"a"), errno.ESTALE),
        (LakeDenied("read", b"a"), errno.EACCES),
        (LakeArchived("read", b"a"), errno.ENODATA),
        (LakeUnavailable("read", b"a"), errno.EIO),
        (LakeProtocolError("read", b"a"), errno.EIO),
    ],
)
async def test_a_reader_fails_as_it_does_with_the_other_front(
    tmp_path: Path, error: TierfsError, number: int
) -> None:
    async def fail(_: caching.Request) -> None:
        raise error

    lake = WatchedLake()
    info = lake.store(b"object-16", b"data")
    lake.before = fail
    async with serving(tmp_path / "native", lake) as scene:
        await scene.played.begin()
        for id_, whole in enumerate((0, 1), 1):
            answer = await scene.played.ask(
                Ask.GET, id_, 16, size=4, uid=whole, arena_length=4, tail=record(info)
            )
            assert answer["errno"] == number
    if isinstance(error, NotFound):
        return  # No lake says so of a version: `Lake.get`.
    async with caching.rig(tmp_path / "python") as r:
        r.put(16, b"data")
        r.lake.before = fail
        with pytest.raises(TierfsError) as caught:
            await r.read(16)
        assert errno_of(caught.value) == number


# ---- room --------------------------------------------------------------------------------------


def lru(index: CacheIndex) -> EvictionPolicy:
    return AdaptivePolicy(index, rules=[Rule.LRU])


async def test_room_is_made_of_what_nobody_uses_or_has_pinned(tmp_path: Path) -> None:
    files = [(ino, MIB, MIB) for ino in range(16, 24)]
    async with serving(tmp_path, files=files, policy=lru) as scene:
        played = scene.played
        await played.begin()
        used = b"".join(wire.ACCESS.pack(ino, 0, 3, 0) for ino in (16, 17, 18))
        await played.say(Ask.ACCESSES, tail=used)
        await played.say(Ask.ACCESSES, tail=wire.ACCESS.pack(18, 0, 2, 0))
        scene.front.pin(19)
        scene.front.pin(19)
        scene.front.unpin(19)
        answer = await played.ask(Ask.ROOM, 1, 0, offset=1 << 40, size=100)
        assert victims(answer["tail"]) == {ino: [] for ino in (18, 20, 21, 22, 23)}
        scene.front.unpin(19)
        answer = await played.ask(Ask.ROOM, 2, 0, offset=1 << 40, size=100)
        assert 19 in victims(answer["tail"])
        # The oldest go first, and no more than are asked for.
        answer = await played.ask(Ask.ROOM, 3, 0, offset=2 * MIB, size=100)
        assert victims(answer["tail"]) == {18: [], 19: []}
        answer = await played.ask(Ask.ROOM, 4, 0, offset=1 << 40, size=1)
        assert victims(answer["tail"]) == {18: []}


async def test_room_takes_extents_of_an_incomplete_file(tmp_path: Path) -> None:
    async with serving(tmp_path, files=[(16, 100 * MIB, 40 * MIB)]) as scene:
        await scene.played.begin()
        answer = await scene.played.ask(Ask.ROOM, 1, 0, offset=9 * MIB, size=64)
        assert victims(answer["tail"]) == {16: [(0, EXTENT_SIZE), (EXTENT_SIZE, 2 * EXTENT_SIZE)]}


async def test_room_is_answered_in_one_message_however_much_is_wanted(tmp_path: Path) -> None:
    files = [(ino, 10, 10) for ino in range(16, 200)]
    async with serving(tmp_path, files=files) as scene:
        await scene.played.begin()
        answer = await scene.played.ask(Ask.ROOM, 1, 0, offset=1 << 60, size=0xFFFFFFFF)
        assert len(victims(answer["tail"])) == EVICT_AT_ONCE


class Choosy(AdaptivePolicy):
    """Has nothing evicted for the sake of inode 78."""

    def __init__(self, index: CacheIndex) -> None:
        super().__init__(index)
        self.asked: list[Incoming | None] = []

    def choose_victims(
        self,
        bytes_: int,
        most: int,
        in_use: Callable[[int], bool],
        incoming: Incoming | None = None,
    ) -> list[Victim] | None:
        self.asked.append(incoming)
        return None if incoming is not None and incoming.ino == 78 else [Victim(16)]


async def test_what_room_is_for_is_told_and_may_not_be_worth_it(tmp_path: Path) -> None:
    chosen: list[Choosy] = []

    def choosy(index: CacheIndex) -> EvictionPolicy:
        chosen.append(Choosy(index))
        return chosen[-1]

    async with serving(tmp_path, policy=choosy) as scene:
        played = scene.played
        await played.begin()
        for id_, (ino, uid, count) in enumerate(((0, 0, 0), (77, 1, 0), (78, 0, 1)), 1):
            answer = await played.ask(Ask.ROOM, id_, ino, offset=MIB, size=64, uid=uid)
            assert (answer["errno"], answer["count"]) == (0, count)
            assert victims(answer["tail"]) == ({} if count else {16: []})
    assert chosen[0].asked == [None, Incoming(77, ahead=True), Incoming(78, ahead=False)]


async def test_what_is_read_now_is_not_kept_for_what_this_epoch_has_not_read(
    tmp_path: Path,
) -> None:
    cached = range(16, 80)
    async with serving(tmp_path, files=[(ino, MIB, MIB) for ino in cached]) as scene:
        played = scene.played
        await played.begin()

        async def room_for(id_: int, ino: int, read: int) -> int:
            """How much goes for *ino*, in files, after *read* was read; -1: it is not worth any."""
            # In one go, as a front does.
            await played.say(Ask.ACCESSES, tail=wire.ACCESS.pack(read, 0, 4, 0))
            answer = await played.ask(Ask.ROOM, id_, ino, offset=MIB, size=64)
            return -1 if answer["count"] else len(victims(answer["tail"]))

        epoch = [*cached, *range(80, 144)]
        for order in (epoch, epoch[::-1][:20]):  # The second is begun only.
            tail = b"".join(wire.ACCESS.pack(ino, 0, 4, 0) for ino in order)
            await played.say(Ask.ACCESSES, tail=tail)
        assert await room_for(1, 100, read=100) == -1
        # One that will be read in this epoch is worth as much as those that are cached.
        assert await room_for(2, 90, read=101) == -1
        assert await room_for(3, 0, read=102) == 1
        # Those that were read go first.
        for ino in cached[8:]:
            await played.say(Ask.ACCESSES, tail=wire.ACCESS.pack(ino, 0, 4, 0))
        assert await room_for(4, 90, read=103) == 1


# ---- where the bytes are -----------------------------------------------------------------------


async def test_every_session_is_told_the_source(tmp_path: Path) -> None:
    async with serving(tmp_path, OpenLake(SOURCE)) as scene:
        for _ in range(2):
            await scene.played.begin()
            assert scene.played.source == wire.pack_source(SOURCE)
    async with serving(tmp_path) as scene:
        await scene.played.begin()
        assert scene.played.source == b""


async def test_a_source_that_changes_is_told_at_once(tmp_path: Path) -> None:
    lake = OpenLake(SOURCE)
    async with serving(tmp_path, lake) as scene:
        await scene.played.begin()
        lake.changed.set()
        await trio.testing.wait_all_tasks_blocked()  # The same as before: nothing to tell.
        renewed = replace(SOURCE, secret_key="another")
        lake.known = renewed
        lake.changed.set()
        told = await scene.played.hear()
        assert (told["kind"], told["id"]) == (Command.SOURCE, 0)
        assert told["tail"] == wire.pack_source(renewed)
        lake.known = None
        lake.changed.set()
        assert (await scene.played.hear())["tail"] == b""
        await scene.played.begin()
        assert scene.played.source == b""


async def test_credentials_that_expire_are_looked_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upcalls, "SOURCE_INTERVAL_S", 0.01)
    lake = OpenLake(SOURCE)
    async with serving(tmp_path, lake) as scene:
        await scene.played.begin()
        lake.known = replace(SOURCE, token="renewed")
        assert (await scene.played.hear())["tail"] == wire.pack_source(lake.known)


async def test_a_source_that_cannot_be_had_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(upcalls, "SOURCE_INTERVAL_S", 0.01)
    lake = OpenLake(SOURCE)
    async with serving(tmp_path, lake) as scene:
        lake.error = LakeDenied("no credentials found")
        await trio.sleep(0.1)
        await scene.played.begin()
        assert scene.played.source == wire.pack_source(SOURCE)
        lake.error, lake.known = None, replace(SOURCE, token="renewed")
        assert (await scene.played.hear())["tail"] == wire.pack_source(lake.known)
    assert [r.levelname for r in caplog.records] == ["WARNING"]  # Once.


async def test_a_source_too_long_for_a_message_is_none(tmp_path: Path) -> None:
    async with serving(tmp_path, OpenLake(replace(SOURCE, token="x" * 65_500))) as scene:
        await scene.played.begin()
        assert scene.played.source == b""


async def test_secrets_are_in_no_line_of_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    lake = OpenLake(SOURCE)
    async with serving(tmp_path, lake) as scene:
        await scene.played.begin()
        assert b"very-secret" in scene.played.source
        await scene.played.raw(scene.played.source)
        await scene.played.ask(Ask.GET, 1, 77, size=4, tail=b"\0")
        lake.known = replace(SOURCE, host="x" * 70_000)  # More than its length can say.
        lake.changed.set()
        await trio.testing.wait_all_tasks_blocked()
        shown = repr([scene.server, scene.channel, scene.front, lake.known])
    assert len(caplog.records) >= 2
    for text in (caplog.text, shown):
        for secret in ("AKIDEXAMPLE", "very-secret", "some-token", "customer-secret"):
            assert secret not in text


# ---- commands ----------------------------------------------------------------------------------

REF = ObjectRef(b"a", Version(b'"1"'), False, False)


async def test_commands_are_said_again_to_the_next_front(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene, trio.open_nursery() as nursery:
        played = scene.played
        await played.begin()
        nursery.start_soon(trio.to_thread.run_sync, scene.channel.forget_entry, 16, b"a.jpg")
        first = await played.hear()
        assert first["kind"] == Command.FORGET_ENTRY
        await played.begin()  # The front died before it could do so.
        again = await played.hear()
        assert (again["id"], again["tail"]) == (first["id"], first["tail"])
        # That the kernel knew nothing of it is no trouble.
        await played.say(Ask.DONE, again["id"], size=errno.ENOENT)


async def test_a_fetch_outlives_a_session(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene, trio.open_nursery() as nursery:
        played = scene.played
        fetched: list[int] = []

        async def fetch() -> None:
            fetched.append(await scene.front.fetch(77, REF, 5 * MIB + 1, None, Priority.WARM_UP))

        nursery.start_soon(fetch)
        await trio.testing.wait_all_tasks_blocked()
        seen = set()
        for _ in range(3):  # Begun before there was a front, which then died twice.
            await played.begin()
            told = await played.hear()
            assert told["kind"] == Command.FETCH
            seen.add((told["id"], told["tail"]))
        assert seen == {(told["id"], wire.pack_fetch(77, 0, 5 * MIB + 1, Priority.WARM_UP))}
        assert fetched == []
        await played.say(Ask.DONE, told["id"], tail=wire.FETCHED.pack(4 * MIB))
        await trio.testing.wait_all_tasks_blocked()
        assert fetched == [4 * MIB]
        await played.begin()
        await played.ask(Ask.ROOM, 1, 0)  # Nothing is said twice.


@pytest.mark.parametrize(
    ("number", "raised"),
    [
        (errno.ESTALE, StaleVersion),
        (errno.ENOSPC, CacheFull),
        (errno.EIO, LakeUnavailable),
        (errno.EACCES, LakeDenied),
        (errno.ENODATA, LakeArchived),
        (errno.EBADMSG, IntegrityError),
        (errno.EXDEV, TierfsError),
    ],
)
async def test_what_the_front_could_not_do_is_an_error(
    tmp_path: Path, number: int, raised: type[TierfsError]
) -> None:
    async with serving(tmp_path) as scene, trio.open_nursery() as nursery:
        await scene.played.begin()
        caught: list[TierfsError] = []

        async def fetch() -> None:
            with pytest.raises(raised) as error:
                await scene.front.fetch(77, REF, MIB, None, Priority.WARM_UP)
            caught.append(error.value)

        for reason in ("503 Slow Down, for 30 s", ""):
            nursery.start_soon(fetch)
            told = await scene.played.hear()
            await scene.played.say(Ask.DONE, told["id"], size=number, tail=reason.encode())
            await trio.testing.wait_all_tasks_blocked()
            assert type(caught[-1]) is raised
            assert caught[-1].hint == (reason or os.strerror(number))


async def test_the_front_says_what_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upcalls, "STATS_S", 60.0)  # However busy the machine is.
    said = (
        "features passthrough\nhits 3\nopens_passed_through 4\nused_bytes 5\nstreaming 1\n"
        "streaming_reason write: no space left\nlake_get_requests 6\nlake_bytes_read 7\n"
        "lake_retries 8\nlake_slow_downs 9\nopen_inodes 2\n"
    )
    async with serving(tmp_path) as scene, trio.open_nursery() as nursery:
        await scene.played.begin()
        details: list[dict[str, Any]] = []

        async def describe() -> None:
            details.append(await scene.server.describe())

        nursery.start_soon(describe)
        told = await scene.played.hear()
        assert told["kind"] == Command.STATS
        await scene.played.say(Ask.DONE, told["id"], tail=said.encode())
        await trio.testing.wait_all_tasks_blocked()
        assert details[0]["reads"] == "passed through"
        assert details[0]["open_inodes"] == 2
        stats = scene.front.stats()
        assert (stats["hits"], stats["used_bytes"]) == (7, 5)
        assert (stats["streaming"], stats["streaming_reason"]) == (True, "write: no space left")
        counters = scene.front.lake_counters()
        assert (counters.get_requests, counters.bytes_read) == (6, 7)
        assert (counters.retries, counters.slow_downs) == (8, 9)


# ---- what is open ------------------------------------------------------------------------------


async def test_a_file_in_use_is_known_after_it_lost_its_name(tmp_path: Path) -> None:
    def attributes(ino: int) -> None:
        raise NotFound("stat", f"inode {ino}")

    async def open_object(ino: int) -> None:
        raise StaleVersion("open", f"inode {ino}")

    shown: list[tuple[int, int]] = []

    def detached(ino: int, size: int) -> None:
        shown.append((ino, size))
        raise LakeUnavailable("show", "enough")

    names: dict[str, Any] = {
        "attributes": attributes,
        "open_object": open_object,
        "detached_size": {16: 5, 17: 6}.get,
        "detached_attributes": detached,
    }
    async with serving(tmp_path, **names) as scene:
        await scene.played.begin()
        await scene.played.say(Ask.ACCESSES, tail=wire.ACCESS.pack(16, 0, 3, 0))
        assert (await scene.played.ask(Ask.GETATTR, 1, 16))["errno"] == errno.EIO
        assert (await scene.played.ask(Ask.GETATTR, 2, 17))["errno"] == errno.ESTALE
        assert shown == [(16, 5)]
        xattr = await scene.played.ask(Ask.GETXATTR, 3, 16, tail=b"user.tierfs.etag")
        assert xattr["errno"] == errno.ESTALE
