"""Large files whose parts are sent before their turn: what the lake is told of them, what is known
of them after a reboot, and parts that it does not have after all."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.caching import noise
from tests.kills import WatchedLake
from tests.unit.test_writeback_failures import flush, no_time_to_lose, root_of
from tests.writing import PATIENCE_S, Lake, World, world
from tierfs.cache.blocks import checksum_of
from tierfs.errors import IntegrityError, LakeUnavailable
from tierfs.lake.protocol import ChecksumKind, ObjectInfo
from tierfs.lake.writing import AS_USUAL, FileRange, Part, Upload, Written
from tierfs.writeback import service
from tierfs.writeback.records import State
from tierfs.writeback.uploads import Content, Uploads

__all__ = ["no_time_to_lose"]

MIB = 1 << 20
DATA = noise(2 * MIB + 17, 1)


class HeldLake(Lake):
    """The object ``first`` waits until it is let through; *came* is set when it is there, *asked*
    when an upload is asked for, *sending* when a part is. Answers to *unanswered* requests wait,
    too."""

    def __init__(self, *unanswered: str) -> None:
        super().__init__()
        self.asked, self.sending, self.go_on = trio.Event(), trio.Event(), trio.Event()
        self.came = trio.Event()
        self._unanswered = unanswered
        self.before = self._hold

    async def _hold(self, op: str, key: bytes) -> None:
        if key == b"first":
            self.came.set()  # Known to be on the disk.
            await self.go_on.wait()

    async def begin_upload(self, *args: Any, **how: Any) -> Upload:
        upload = await super().begin_upload(*args, **how)
        self.asked.set()
        if "begin" in self._unanswered:
            await self.go_on.wait()
        return upload

    async def put_part(
        self, upload: Upload, number: int, content: FileRange, crc64nvme: int
    ) -> Part:
        part = await super().put_part(upload, number, content, crc64nvme)
        self.sending.set()
        if "part" in self._unanswered:
            await self.go_on.wait()
        return part


async def send_ahead(mount: World, lake: HeldLake, event: trio.Event) -> int:
    """A large file whose turn has not come; its inode number."""
    await mount.write(b"first", b"1")
    ino = await mount.write(b"large", DATA)
    with trio.fail_after(PATIENCE_S):
        await lake.came.wait()
        await event.wait()
    (state,) = mount.files.journal.read(
        lambda work: [entry.state for _, entry in work.log() if entry.path == b"large"]
    )
    assert state is State.PENDING
    return ino


# ---- attributes ----------------------------------------------------------------------------------


async def modes(lake: Lake) -> str:
    found = (await lake.head(b"large")).metadata
    assert found is not None
    return found["mode"]


@pytest.mark.parametrize("unanswered", ["begin", "part"])
async def test_attributes_that_an_upload_was_begun_without_arrive(
    tmp_path: Path, unanswered: str
) -> None:
    lake = HeldLake(unanswered)
    async with world(tmp_path, lake) as mount:
        event = lake.asked if unanswered == "begin" else lake.sending
        ino = await send_ahead(mount, lake, event)
        await mount.files.set_attributes(ino, {"mode": 0o600}, None)
        lake.go_on.set()
        assert await mount.flush()
        assert mount.files.union.attributes(ino).mode == 0o600
    assert await modes(lake) == str(0o100600)
    assert lake.contents() == {b"first": b"1", b"large": DATA}


async def test_attributes_that_are_changed_before_an_upload_is_asked_for_go_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the last moment."""
    lake, begin = HeldLake(), Uploads._begin
    change: Callable[[], Awaitable[None]]

    async def begin_later(*args: Any) -> Any:
        await change()
        return await begin(*args)

    monkeypatch.setattr(Uploads, "_begin", begin_later)
    async with world(tmp_path, lake) as mount:

        async def change() -> None:
            ino = await mount.ino(b"large")
            await mount.files.set_attributes(ino, {"mode": 0o600}, None)

        await send_ahead(mount, lake, lake.asked)
        lake.go_on.set()
        assert await mount.flush()
    assert await modes(lake) == str(0o100600)
    assert lake.keys == [b"first", b"large"]


async def test_an_upload_that_was_begun_for_what_is_gone_by_then_goes(tmp_path: Path) -> None:
    """Though nothing else happens that could be a reason to look."""

    class Late(HeldLake):
        answer = trio.Event()

        async def begin_upload(self, *args: Any, **how: Any) -> Upload:
            upload = await super().begin_upload(*args, **how)
            await self.answer.wait()
            return upload

    lake = Late()
    async with world(tmp_path, lake) as mount:
        await send_ahead(mount, lake, lake.asked)
        await mount.unlink(b"large")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(lake._uploads) == 1
        lake.answer.set()
        with trio.fail_after(PATIENCE_S):
            while lake._uploads:
                await trio.sleep(0.01)


@pytest.mark.parametrize("size", [17, 2 * MIB + 17])
@pytest.mark.parametrize("over", [False, True])
async def test_what_is_stored_with_other_bytes_is_overwritten(
    tmp_path: Path, size: int, over: bool
) -> None:
    """And not taken for ours because it is called so."""

    class StoringOthers(Lake):
        wrong = 1

        def _written(self, key: bytes, body: bytes, etag: bytes, crc: int, *rest: Any) -> Written:
            if not self.wrong:
                return super()._written(key, body, etag, crc, *rest)
            self.wrong -= 1
            body = bytes([body[0] ^ 1]) + body[1:]
            found = checksum_of(ChecksumKind.CRC64NVME, body)
            super()._written(key, body, b'"other"', found, *rest)
            raise IntegrityError("write an object", key, "the lake stored other bytes")

    lake, data = StoringOthers(), noise(size, 3)
    if over:
        lake.store(b"a", b"before")
    async with world(tmp_path, lake) as mount:
        await mount.write(b"a", data)
        assert await mount.flush()
        assert mount.service.describe()["conflicts"] == []
    assert lake.contents() == {b"a": data}


# ---- what is known to be on the disk -------------------------------------------------------------


@pytest.mark.parametrize("renamed", [False, True])
async def test_what_was_sent_ahead_is_published_after_a_reboot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: bool
) -> None:
    lake, name = HeldLake(), b"renamed" if renamed else b"large"
    async with world(tmp_path, lake) as mount:
        await send_ahead(mount, lake, lake.sending)
    monkeypatch.setattr(service, "boot_id", lambda: b"12345678")
    lake.go_on.set()
    async with world(tmp_path, lake, publish=False) as mount:
        if renamed:
            await mount.rename(b"large", name)
    async with world(tmp_path, lake) as mount:
        assert await mount.flush(), root_of(mount)["failure"]
    assert lake.history == [(b"first", b"1"), (name, DATA)]


# ---- parts that the lake does not have -----------------------------------------------------------


def forgetting(lake: WatchedLake, times: int) -> list[str]:
    """*lake* forgets the parts that it has, so often; what is noted each time."""
    forgotten: list[str] = []

    def point(what: str) -> None:
        if what == "before complete_upload large" and len(forgotten) < times:
            forgotten.append(what)
            for uploading in lake._uploads.values():
                uploading.parts.clear()

    lake.point = point
    return forgotten


async def test_parts_that_the_lake_has_not_are_sent_again(tmp_path: Path) -> None:
    lake = WatchedLake()
    forgotten = forgetting(lake, 2)
    async with world(tmp_path, lake) as mount:
        await mount.write(b"large", DATA)
        assert await mount.flush(), root_of(mount)["failure"]
    assert len(forgotten) == 2
    assert lake.history == [(b"large", DATA)]
    assert lake._uploads == {}


@pytest.mark.parametrize("remounted", [False, True])
async def test_parts_that_never_are_there_freeze_their_root_until_it_is_tried_again(
    tmp_path: Path, remounted: bool
) -> None:
    lake = WatchedLake()
    forgotten = forgetting(lake, 3)
    async with world(tmp_path, lake) as mount:
        await mount.write(b"large", DATA)
        assert not await mount.flush()
        assert "no such part" in root_of(mount)["failure"]
        assert len(forgotten) == 3
        if not remounted:
            assert (await flush(mount, "retry"))["durable"]
    async with world(tmp_path, lake) as mount:
        if remounted:
            assert not await mount.flush()
            assert (await flush(mount, "retry"))["durable"]
    assert lake.history == [(b"large", DATA)]


@pytest.mark.parametrize("begun_anew", [False, True])
async def test_a_part_that_arrives_after_its_upload_was_dropped_is_not_noted(
    tmp_path: Path, begun_anew: bool
) -> None:
    """Nor taken for one of the upload that was begun instead."""
    lake, file, lsn = HeldLake("part"), tmp_path / "file", 99
    file.write_bytes(DATA[:MIB])
    fd = os.open(file, os.O_RDONLY)
    content = Content(5, lsn, fd, MIB)
    async with world(tmp_path / "cache", lake, publish=False) as mount:
        journal = mount.files.journal
        uploads = Uploads(lake, journal)
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(uploads.send_parts, content, b"large", dict, AS_USUAL)
                await lake.sending.wait()
                await uploads.start_over(lsn)
                if begun_anew:
                    await journal.change(lambda work: work.put_upload(lsn, b"large", b"2", MIB))
                lake.go_on.set()
        assert journal.read(lambda work: work.parts(lsn)) == []
        expected = [(lsn, b"large", b"2")] if begun_anew else []
        assert journal.read(lambda work: work.abandoned()) == expected
    content.close()


# ---- a lake that does not answer while an upload is given up -------------------------------------


def silent_about_aborts(lake: WatchedLake, times: int) -> list[str]:
    """*lake* does not answer to the first requests to end an upload; what was asked."""
    asked: list[str] = []

    def point(what: str) -> None:
        if what == "before abort_upload large":
            asked.append(what)
            if len(asked) <= times:
                raise LakeUnavailable("end an upload", b"large")

    lake.point = point
    return asked


async def test_an_upload_that_nothing_needs_is_ended_as_soon_as_the_lake_answers(
    tmp_path: Path,
) -> None:
    """Though nothing else happens."""
    lake = WatchedLake()
    asked = silent_about_aborts(lake, 3)
    sent, go_on = trio.Event(), trio.Event()

    async def before(op: str, key: bytes) -> None:
        if key == b"first":
            await go_on.wait()
        if op == "part":
            sent.set()

    lake.before = before
    async with world(tmp_path, lake) as mount:
        await mount.write(b"first", b"1")
        await mount.write(b"large", DATA)
        with trio.fail_after(PATIENCE_S):
            await sent.wait()
            await mount.unlink(b"large")
            while lake._uploads:
                await trio.sleep(0.005)
        assert len(asked) > 3
        go_on.set()
        assert await mount.flush()
    assert lake.history == [(b"first", b"1")]


class UnheardLake(WatchedLake):
    """The first answer to a completion is not heard, and the first look after that is damaged."""

    unheard = damaged = False

    async def complete_upload(self, *args: Any, **how: Any) -> Written:
        if not self.unheard:
            self.unheard = True
            raise LakeUnavailable("complete an upload", args[0].key)
        return await super().complete_upload(*args, **how)

    async def head(self, key: bytes, **how: Any) -> ObjectInfo:
        if self.unheard and not self.damaged:
            self.damaged = True
            raise IntegrityError("look at an object", key, "this is no answer")
        return await super().head(key, **how)


async def test_what_is_sent_anew_waits_for_a_silent_lake(tmp_path: Path) -> None:
    """Which has to hear first that the old upload is of no use."""
    lake = UnheardLake()
    asked = silent_about_aborts(lake, 2)
    async with world(tmp_path, lake) as mount:
        await mount.write(b"large", DATA)
        assert await mount.flush(), root_of(mount)["failure"]
        assert (lake.damaged, len(asked)) == (True, 3)
    assert lake.history == [(b"large", DATA)]
    assert lake._uploads == {}
