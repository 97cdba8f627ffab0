"""Upcalls where there are write-back directories: how the serving of them begins, whoever dies
meanwhile, and answers that are too long. The front is played by the test."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import trio
import trio.testing

from tests.played_front import PATIENCE_S, Played, play
from tests.writing import GID, UID, Lake, world
from tierfs.control import wire
from tierfs.control.upcall_channel import UpcallChannel
from tierfs.control.upcalls import Rules, UpcallServer, Writing
from tierfs.control.wire import Ask, Command
from tierfs.front.native import NativeFront
from tierfs.index.records import ROOT_INO
from tierfs.writeback.passed import PassedThrough

RULES = Rules(60.0, 5.0, 0, 0, 0o022, 64, 1 << 30, 0.1, b"/cache/lake")


class Front(SimpleNamespace):
    """What the server says to its own side of the front."""

    limit_bytes = None

    def begin_session(self) -> None:
        pass


class Service:
    """A service that starts when it is let go on, and counts how often."""

    def __init__(self, journal: Any) -> None:
        self.journal = journal
        self.started: list[set[int]] = []
        self.go_on = trio.Event()

    async def start(
        self, spawn: trio.Nursery, *, mount: bytes, in_use: Collection[int] = ()
    ) -> None:
        self.started.append(set(in_use))
        await self.go_on.wait()


class Scene:
    def __init__(self, played: Played, service: Service, files: PassedThrough) -> None:
        self.played = played
        self.service = service
        self.files = files

    async def meet(self, *handles: tuple[int, int, int]) -> None:
        """A front begins a session with *handles*: ino, unique, whether it writes."""
        await self.played.begin()
        tail = b"".join(wire.HANDLE.pack(*handle) for handle in handles)
        await self.played.say(Ask.HANDLES, size=1, tail=tail)
        await trio.testing.wait_all_tasks_blocked(0.02)


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[Scene]:
    with play() as (played, upcall_fd, shared_fd):
        channel = UpcallChannel(upcall_fd, shared_fd)
        try:
            async with (
                world(directory, Lake(), publish=False, directories=PassedThrough) as made,
                trio.open_nursery() as nursery,
            ):
                files = made.files
                assert isinstance(files, PassedThrough)
                service = Service(made.service.journal)
                server = UpcallServer(
                    channel, made.namespace, cast(NativeFront, Front()), Lake(), RULES,
                    lambda: None, Writing(cast(Any, service), files, bytes(16), nursery),
                )  # fmt: skip
                nursery.start_soon(server.run)
                assert (await played.hear())["kind"] == Command.READY
                yield Scene(played, service, files)
                nursery.cancel_scope.cancel()
        finally:
            channel.close()


async def make(files: PassedThrough, name: bytes, fh: int = 0) -> int:
    """A new file; it stays open with *fh*."""
    made, opened = await files.create(ROOT_INO, name, 0o644, 0, UID, GID, fh=fh)
    if not fh:
        await files.flush_file(made.ino)
        await files.release(opened)
    return made.ino


async def test_a_front_that_dies_while_it_is_started_starts_nothing_twice(tmp_path: Path) -> None:
    """And what is open is what the one that is there says."""
    async with serving(tmp_path) as scene:
        first, second = await make(scene.files, b"first"), await make(scene.files, b"second")
        await scene.meet((first, 2, 1), (second, 4, 1))
        await scene.meet((second, 4, 1))
        await scene.played.say(Ask.GETATTR, 1, second)
        scene.service.go_on.set()
        answer = await scene.played.hear()
        assert (answer["kind"], answer["errno"]) == (Ask.GETATTR | 0x8000, 0)
        assert scene.service.started == [{first, second}]
        with trio.fail_after(PATIENCE_S):
            # What the front does not say any more is closed, which is a commit, after the answer.
            while scene.files.in_use(first):
                await trio.sleep(0.01)
        assert scene.files.in_use(second)
        assert scene.files.open_handles == 1


async def test_an_answer_that_is_too_long_is_an_error(tmp_path: Path) -> None:
    """The front would wait for the rest of it."""
    async with serving(tmp_path) as scene:
        scene.service.go_on.set()
        ino = await make(scene.files, b"a")
        journal = scene.service.journal
        for n in range(300):
            name = b"user.%0240d" % n
            await journal.change(lambda work, name=name: work.put_xattr(ino, name, b""))
        await scene.meet()
        assert (await scene.played.ask(Ask.LISTXATTR, 1, ino))["errno"] == errno.E2BIG
        assert (await scene.played.ask(Ask.GETATTR, 2, ino))["errno"] == 0


async def test_each_front_is_told_what_df_is_to_show(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene:
        scene.service.go_on.set()
        ino = await make(scene.files, b"a")
        for unique in (1, 2):
            await scene.meet()
            with trio.fail_after(PATIENCE_S):
                while scene.played.space is None:
                    await scene.played.ask(Ask.GETATTR, unique, ino)
            total_bytes, free_bytes = scene.played.space
            space = scene.files.staging.room.space()
            # Others use the disk as well.
            assert abs(total_bytes - space.total_bytes) < space.total_bytes / 10
            assert 0 < free_bytes <= total_bytes
