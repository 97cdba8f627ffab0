"""What write-back does when the lake refuses, does not answer, or answers and is not heard; when
the disk is full; and after a power cut."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.caching import noise
from tests.kills import WatchedLake, raises_assertion
from tests.writing import GID, PATIENCE_S, UID, Lake, World, world
from tierfs.errors import (
    IntegrityError,
    LakeDenied,
    LakeUnavailable,
    PreconditionFailed,
    StagingFull,
)
from tierfs.index.records import ROOT_INO
from tierfs.lake.content import Outgoing, crc64nvme_of
from tierfs.lake.local import LocalLake
from tierfs.lake.writing import Content, Upload, Written
from tierfs.writeback import placer, publisher, service, uploads
from tierfs.writeback.placer import Placer
from tierfs.writeback.records import Entry
from tierfs.writeback.staging import Live, Staging

MIB = 1 << 20


@pytest.fixture(autouse=True)
def no_time_to_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses between attempts, and parts of 1 MiB."""
    monkeypatch.setattr(publisher, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(publisher, "LAST_PAUSE_S", 0.002)
    monkeypatch.setattr(uploads, "PART_BYTES", MIB)


def refusing(*keys: bytes) -> Callable[[str, bytes], Awaitable[None]]:
    """For `Lake.before`."""

    async def before(op: str, key: bytes) -> None:
        if key in keys:
            raise LakeDenied("write an object", key, "no such permission")

    return before


async def flush(mount: World, action: str = "", *, path: bytes = b"") -> dict[str, Any]:
    """What a flush that waits says in the end."""

    async def told(fields: dict[str, object]) -> None:
        pass

    return await mount.service.flush(path, wait=True, action=action, told=told)


def root_of(mount: World, name: str = "/") -> dict[str, Any]:
    """What is said of a root."""
    roots = mount.service.describe()["roots"]
    (found,) = [root for root in roots if root["root"] == name]
    return dict(found)


# ---- refused for good ----------------------------------------------------------------------------


async def test_what_is_refused_freezes_its_root_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lake = Lake()
    lake.before = refusing(b"b")
    async with world(tmp_path, lake) as mount:
        for name in (b"a", b"b", b"c"):
            await mount.write(name, name * 10)
        with caplog.at_level(logging.ERROR, "tierfs"):
            assert not await mount.flush()
        assert lake.contents() == {b"a": b"a" * 10}
        said = root_of(mount)
        assert "no such permission" in said["failure"]
        assert said["failed_path"] == "b"
        assert said["durable_lsn"] == 1
        (record,) = [found for found in caplog.records if found.levelno == logging.ERROR]
        assert "tierfs flush --retry" in record.getMessage()
        # Everything can be read and written as before.
        await mount.write(b"d", b"d" * 10)
        for name in (b"a", b"b", b"c", b"d"):
            assert await mount.read(name) == name * 10
    # A new start changes nothing about it,
    async with world(tmp_path, lake) as mount:
        assert not await mount.flush()
        for field in ("failure", "failed_path", "durable_lsn"):
            assert root_of(mount)[field] == said[field]
        assert await mount.names(b"") == [b"a", b"b", b"c", b"d"]
        assert await mount.read(b"c") == b"c" * 10
        # nor does trying again, as long as it is refused.
        assert not (await flush(mount, "retry"))["durable"]
        lake.before = None
        answer = await flush(mount, "retry")
        assert (answer["thawed"], answer["durable"]) == (1, True)
        assert root_of(mount)["failure"] is None
    assert lake.keys == [b"a", b"b", b"c", b"d"]


async def test_what_is_given_up_by_hand_is_left_out(tmp_path: Path) -> None:
    lake = Lake()
    lake.before = refusing(b"b")
    async with world(tmp_path, lake) as mount:
        for name in (b"a", b"b", b"c"):
            await mount.write(name, name * 10)
        assert not await mount.flush()
        answer = await flush(mount, "skip")
        assert (answer["thawed"], answer["durable"]) == (1, True)
        assert answer["unflushed_changes"] == 0
    assert lake.keys == [b"a", b"c"]


async def test_what_was_given_up_is_counted_until_it_is_written_again_or_removed(
    tmp_path: Path,
) -> None:
    lake = Lake()
    lake.before = refusing(b"b")
    async with world(tmp_path, lake) as mount:
        await mount.write(b"a.tmp", b"held")
        for again in (True, False):
            assert mount.service.describe()["given_up"] == 0
            await mount.write(b"b", b"b" * 10)
            assert not await mount.flush()
            assert mount.service.describe()["given_up"] == 0
            assert (await flush(mount, "skip"))["given_up"] == 1
            assert mount.service.room.account.used_bytes > 0
            lake.before = None
            if again:
                await mount.write(b"b", b"B" * 10)
            else:
                await mount.unlink(b"b")
            assert await mount.flush()
            lake.before = refusing(b"b")
        assert mount.service.describe()["given_up"] == 0


async def test_what_was_given_up_can_be_written_again(tmp_path: Path) -> None:
    lake = Lake()
    lake.store(b"b", b"before")
    lake.before = refusing(b"b")
    async with world(tmp_path, lake) as mount:
        await mount.write(b"b", b"refused")
        assert not await mount.flush()
        await flush(mount, "skip")
        lake.before = None
        await mount.write(b"b", b"taken")
        assert await mount.flush()
        assert mount.service.describe()["conflicts"] == []
        assert await mount.read(b"b") == b"taken"
    assert lake.contents() == {b"b": b"taken"}


async def test_other_roots_go_on(tmp_path: Path) -> None:
    lake = Lake()
    lake.before = refusing(b"x/1")
    async with world(tmp_path, lake, "x/**", "y/**") as mount:
        for root in (b"x", b"y"):
            await mount.mkdir(root)
            for name in (b"/1", b"/2"):
                await mount.write(root + name, root)
        assert not await mount.flush()
        assert (await flush(mount, path=b"y"))["durable"]
        assert root_of(mount, "/x")["failure"]
        assert root_of(mount, "/y")["failure"] is None
    assert [key for key in lake.keys if not key.endswith(b"/")] == [b"y/1", b"y/2"]


async def test_bytes_that_never_arrive_whole_are_tried_three_times(tmp_path: Path) -> None:
    lake = Lake()
    attempts = 0

    async def damaged(op: str, key: bytes) -> None:
        nonlocal attempts
        attempts += 1
        raise IntegrityError("write an object", key, "another checksum")

    lake.before = damaged
    async with world(tmp_path, lake) as mount:
        await mount.write(b"a", b"1")
        assert not await mount.flush()
        assert "another checksum" in root_of(mount)["failure"]
    assert attempts == 3


class FlippingLake(Lake):
    """What it receives has a flipped bit, the first time for each key. As S3 does, it compares the
    checksum that came with it, unless not *compares*."""

    def __init__(self, *, compares: bool) -> None:
        super().__init__()
        self._compares = compares
        self.flipped: set[bytes] = set()

    def _received(self, key: bytes, content: Content, crc64nvme: int) -> bytes:
        with Outgoing(content) as outgoing:
            body = outgoing.whole()
        if body and key not in self.flipped:
            self.flipped.add(key)
            body = bytes([body[0] ^ 1]) + body[1:]
        if self._compares and crc64nvme_of(body) != crc64nvme:
            raise IntegrityError("write an object", key, "another checksum")
        return body


async def bits_flip(tmp_path: Path, lake: FlippingLake) -> None:
    """Whatever is damaged on its way, what is in the lake is what was closed."""
    files = {b"small": noise(1000, 1), b"large": noise(2 * MIB + 17, 2)}
    async with world(tmp_path, lake) as mount:
        for name, data in files.items():
            await mount.write(name, data)
        assert await mount.flush()
    assert lake.flipped == files.keys()
    assert lake.contents() == files
    assert lake.history == list(files.items())


async def test_what_is_damaged_on_its_way_is_refused_and_sent_again(tmp_path: Path) -> None:
    await bits_flip(tmp_path, FlippingLake(compares=True))


async def test_sabotage_without_the_checksum_it_is_in_the_lake(tmp_path: Path) -> None:
    with raises_assertion():
        await bits_flip(tmp_path, FlippingLake(compares=False))


# ---- trouble that passes -------------------------------------------------------------------------


async def everything(mount: World) -> None:
    """One change of each kind that is a request of its own."""
    await mount.mkdir(b"d")
    await mount.write(b"d/small", b"1" * 10)
    await mount.write(b"large", noise(2 * MIB + 17, 1))
    await mount.files.make_link(ROOT_INO, b"link", b"d/small", UID, GID)
    assert await mount.flush()
    await mount.rename(b"large", b"moved")
    await mount.files.set_attributes(await mount.ino(b"d/small"), {"mode": 0o600}, None)
    await mount.unlink(b"link")
    assert await mount.flush()


#: What the lake has seen of `everything`, in order.
EVERYTHING = [
    (b"d/", b""),
    (b"d/small", b"1" * 10),
    (b"large", noise(2 * MIB + 17, 1)),
    (b"link", b"d/small"),
    (b"moved", noise(2 * MIB + 17, 1)),
    (b"large", None),
    (b"d/small", b"1" * 10),
    (b"link", None),
]


async def test_what_is_not_available_is_tried_until_it_is_and_arrives_once(tmp_path: Path) -> None:
    lake = WatchedLake()
    left: Counter[tuple[str, bytes]] = Counter()

    async def before(op: str, key: bytes) -> None:
        left[op, key] += 1
        if left[op, key] <= 3:
            raise LakeUnavailable("change an object", key, "503")

    lake.before = before
    async with world(tmp_path, lake) as mount:
        await everything(mount)
        assert mount.service.describe()["conflicts"] == []
    assert lake.changes() == EVERYTHING


async def lose_answers(tmp_path: Path, request: str) -> None:
    """Each *request* takes effect, and its answer does not arrive, once for each key."""
    lake = WatchedLake()
    lost: set[str] = set()

    def point(what: str) -> None:
        if what.startswith(f"after {request} ") and what not in lost:
            lost.add(what)
            raise LakeUnavailable("change an object", "", "the connection was reset")

    lake.point = point
    async with world(tmp_path, lake) as mount:
        with trio.fail_after(PATIENCE_S):
            await everything(mount)
        assert mount.service.describe()["conflicts"] == []
    assert lost
    assert lake.changes() == EVERYTHING


@pytest.mark.parametrize("what", ["put", "put_part", "complete_upload", "copy", "delete"])
async def test_a_lost_answer_is_looked_up_and_nothing_is_done_twice(
    tmp_path: Path, what: str
) -> None:
    await lose_answers(tmp_path, what)


@pytest.mark.parametrize("what", ["put", "complete_upload", "copy"])
async def test_sabotage_without_a_look_at_the_lake_it_is_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async def nothing(placer: Placer, lsn: int, entry: Entry) -> bytes | None:
        return None

    monkeypatch.setattr(Placer, "_settled", nothing)
    with raises_assertion():
        await lose_answers(tmp_path, what)


async def test_an_upload_that_the_lake_gave_up_begins_anew(tmp_path: Path) -> None:
    lake = WatchedLake()
    gone = 0

    def point(what: str) -> None:
        nonlocal gone
        if what == "before complete_upload large" and gone < 2:
            gone += 1
            lake._uploads.clear()

    lake.point = point
    data = noise(2 * MIB + 17, 1)
    async with world(tmp_path, lake) as mount:
        await mount.write(b"large", data)
        assert await mount.flush()
    assert gone == 2
    assert lake.history == [(b"large", data)]
    assert lake._uploads == {}


# ---- the power -----------------------------------------------------------------------------------


async def test_what_a_power_cut_may_have_taken_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake()
    async with world(tmp_path, lake, publish=False) as mount:
        await mount.mkdir(b"d")
        await mount.write(b"d/weights", b"1" * 10)
        await mount.write(b"latest", b"d")
    monkeypatch.setattr(service, "boot_id", lambda: b"12345678")
    async with world(tmp_path, lake) as mount:
        assert not await mount.flush()
        said = root_of(mount)
        assert said["failed_path"] == "d/weights"
        assert "power cut" in said["failure"]
        assert "--skip" in said["failure"]
        assert await mount.read(b"d/weights") == b"1" * 10
        assert lake.history == [(b"d/", b"")]
        # Whoever writes it again has no need of what it was.
        await mount.write(b"d/weights", b"2" * 11)
        await flush(mount, "skip")
        assert not await mount.flush()
        assert root_of(mount)["failed_path"] == "latest"
        assert (await flush(mount, "skip"))["durable"]
    assert lake.contents() == {b"d/": b"", b"d/weights": b"2" * 11}


async def synced_file(mount: World, path: bytes, data: bytes) -> None:
    """As `World.write`, with an ``fsync`` before the close."""
    parent, name = await mount.at(path)
    _, fh = await mount.files.create(parent, name, 0o644, os.O_WRONLY, UID, GID)
    await mount.files.write(fh, 0, data)
    await mount.files.sync(fh, data_only=False)
    await mount.files.flush(fh)
    await mount.files.release(fh)


async def test_what_was_synced_is_published_after_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake()
    async with world(tmp_path, lake, publish=False) as mount:
        await synced_file(mount, b"weights", b"1" * 10)
        await synced_file(mount, b"latest.tmp", b"weights")
        await mount.rename(b"latest.tmp", b"latest")
    monkeypatch.setattr(service, "boot_id", lambda: b"12345678")
    async with world(tmp_path, lake) as mount:
        assert await mount.flush(), root_of(mount)["failure"]
    assert lake.history == [(b"weights", b"1" * 10), (b"latest", b"weights")]


async def test_what_was_written_after_the_sync_is_not_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake()
    async with world(tmp_path, lake, publish=False) as mount:
        _, fh = await mount.files.create(ROOT_INO, b"a", 0o644, os.O_WRONLY, UID, GID)
        await mount.files.write(fh, 0, b"1" * 10)
        await mount.files.sync(fh, data_only=True)
        await mount.files.write(fh, 10, b"2" * 10)
        await mount.files.flush(fh)
        await mount.files.release(fh)
    monkeypatch.setattr(service, "boot_id", lambda: b"12345678")
    async with world(tmp_path, lake) as mount:
        assert not await mount.flush()
    assert lake.history == []


async def test_what_was_written_during_the_sync_is_not_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, begun, go_on, fsync = Lake(), threading.Event(), threading.Event(), os.fsync

    def slow(fd: int) -> None:
        begun.set()
        go_on.wait(10)
        fsync(fd)

    async with world(tmp_path, lake, publish=False) as mount:
        _, fh = await mount.files.create(ROOT_INO, b"a", 0o644, os.O_WRONLY, UID, GID)
        await mount.files.write(fh, 0, b"1" * 10)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", slow)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(mount.files.sync, fh, data_only=False))
                await trio.to_thread.run_sync(begun.wait)
                await mount.files.write(fh, 10, b"2" * 10)
                go_on.set()
        await mount.files.flush(fh)
        await mount.files.release(fh)
    monkeypatch.setattr(service, "boot_id", lambda: b"12345678")
    async with world(tmp_path, lake) as mount:
        assert not await mount.flush()
    assert lake.history == []


@pytest.mark.parametrize("old", [b"latest.tmp", b"latest-1"])
async def test_a_rename_after_a_power_cut_makes_nothing_certain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bytes
) -> None:
    lake = Lake()
    async with world(tmp_path, lake, publish=False) as mount:
        await mount.write(old, b"step-1")
    monkeypatch.setattr(service, "boot_id", lambda: b"12345678")
    async with world(tmp_path, lake, publish=False) as mount:
        await mount.rename(old, b"latest")
    # Nor does another start during the same boot.
    async with world(tmp_path, lake) as mount:
        assert not await mount.flush()
        assert "power cut" in root_of(mount)["failure"]
        assert lake.history == []
        await mount.write(b"latest", b"step-2")
        assert (await flush(mount, "skip"))["durable"]
    assert lake.history == [(b"latest", b"step-2")]


# ---- the disk ------------------------------------------------------------------------------------


def full(*args: Any) -> int:
    """As a system call on a disk without room."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_full_disk_is_the_writers_to_hear_of_and_costs_nothing_else(
    tmp_path: Path, size: int
) -> None:
    lake = Lake()
    async with world(tmp_path, lake, publish=False) as mount:
        await mount.write(b"before", b"1")
        _, fh = await mount.files.create(ROOT_INO, b"a", 0o644, os.O_WRONLY, UID, GID)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tierfs.writeback.staging.os.pwrite", full)
            with pytest.raises(StagingFull, match="free space there"):
                await mount.files.write(fh, 0, bytes(size))
        # There is room again.
        assert await mount.files.write(fh, 0, b"2" * size) == size
        await mount.files.flush(fh)
        await mount.files.release(fh)
    async with world(tmp_path, lake) as mount:
        assert await mount.flush()
    assert lake.history == [(b"before", b"1"), (b"a", b"2" * size)]


async def test_without_room_for_a_copy_what_was_closed_stays_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake()
    async with world(tmp_path, lake, publish=False) as mount:
        await mount.write(b"latest", b"step-1")
        await mount.write(b"other", b"x")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Staging, "_copy", full)
            fh = await mount.files.open(await mount.ino(b"latest"), os.O_WRONLY)
            with pytest.raises(StagingFull):
                await mount.files.write(fh, 5, b"2")
            await mount.files.flush(fh)
            await mount.files.release(fh)
        assert await mount.read(b"latest") == b"step-1"
        fh = await mount.files.open(await mount.ino(b"latest"), os.O_WRONLY)
        await mount.files.write(fh, 5, b"3")
        await mount.files.flush(fh)
        await mount.files.release(fh)
    async with world(tmp_path, lake) as mount:
        assert await mount.read(b"latest") == b"step-3"
        assert await mount.flush()
        assert await mount.read(b"latest") == b"step-3"
    assert lake.history == [(b"latest", b"step-1"), (b"other", b"x"), (b"latest", b"step-3")]
    assert list((tmp_path / "staging").iterdir()) == []


# ---- writing over what is on its way -------------------------------------------------------------


async def write_over_what_is_on_its_way(tmp_path: Path, *, large: bool) -> None:
    """A file is written over, at its full length, while the request with its content waits."""
    lake, under_way, go_on = Lake(), trio.Event(), trio.Event()

    async def before(op: str, key: bytes) -> None:
        under_way.set()
        await go_on.wait()

    lake.before = before
    size = 2 * MIB + 17 if large else 100
    first, second = noise(size, 1), noise(size, 2)
    async with world(tmp_path, lake) as mount:
        await mount.write(b"latest", first)
        with trio.fail_after(PATIENCE_S):
            await under_way.wait()
        fh = await mount.files.open(await mount.ino(b"latest"), os.O_RDWR)
        for at in range(0, size, MIB):
            await mount.files.write(fh, at, second[at : at + MIB])
        await mount.files.flush(fh)
        assert await mount.files.read(fh, 0, size) == second
        await mount.files.release(fh)
        go_on.set()
        assert await mount.flush()
        assert await mount.read(b"latest") == second
        assert mount.service.describe()["conflicts"] == []
    assert [content == first for _, content in lake.history] == [True, False]
    assert lake.history[1] == (b"latest", second)


@pytest.mark.parametrize("large", [False, True])
async def test_what_is_on_its_way_is_what_was_closed(tmp_path: Path, large: bool) -> None:
    await write_over_what_is_on_its_way(tmp_path, large=large)


@pytest.mark.parametrize("large", [False, True])
async def test_sabotage_without_the_freeze_it_is_what_was_written_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    async def nothing(staging: Staging, live: Live, content: int, *, empty: bool) -> None:
        pass

    monkeypatch.setattr(Staging, "freeze", nothing)
    with raises_assertion():
        await write_over_what_is_on_its_way(tmp_path, large=large)


# ---- file systems without extended attributes ----------------------------------------------------


class Forgetful(LocalLake):
    """A directory whose first answer to each change is not heard; another writer is first with
    ``theirs``."""

    def __init__(self, root: Path) -> None:
        super().__init__(os.fsencode(root))
        self._directory = root
        self._heard: set[bytes] = set()

    def _answer(self, key: bytes) -> None:
        if key not in self._heard:
            self._heard.add(key)
            raise LakeUnavailable("write an object", key, "no answer")

    async def put(self, key: bytes, *args: Any, **how: Any) -> Written:
        if key == b"theirs":
            (self._directory / "theirs").write_bytes(b"them")
        written = await super().put(key, *args, **how)
        self._answer(key)
        return written

    async def complete_upload(self, upload: Upload, *args: Any, **how: Any) -> Written:
        written = await super().complete_upload(upload, *args, **how)
        self._answer(upload.key)
        return written


async def test_where_no_file_says_whose_it_is_its_bytes_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    monkeypatch.setattr(os, "getxattr", refuse)
    monkeypatch.setattr(placer, "COMPARED_BYTES", MIB)
    (tmp_path / "lake").mkdir()
    lake = Forgetful(tmp_path / "lake")
    files = {b"small": b"x", b"empty": b"", b"large": noise(3 * MIB + 17, 1)}
    async with world(tmp_path, lake) as mount:
        for name, data in files.items():
            await mount.write(name, data)
        await mount.files.make_link(ROOT_INO, b"link", b"small", UID, GID)
        assert await mount.flush()
        assert mount.service.describe()["conflicts"] == []
        # Another one's is still known.
        await mount.write(b"theirs", b"ours")
        assert await mount.flush()
        (aside,) = mount.service.describe()["conflicts"]
    await lake.aclose()
    there = {os.fsencode(path.name): path for path in (tmp_path / "lake").iterdir()}
    for name, data in (files | {b"theirs": b"them", aside.encode(): b"ours"}).items():
        assert there[name].read_bytes() == data
    (record,) = [found for found in caplog.records if "extended attributes" in found.getMessage()]
    assert record.levelno == logging.WARNING


# ---- a request that was given up arrives later ---------------------------------------------------


class LateLake(Lake):
    """The first request to delete *key* is not answered, and arrives when `arrive` is called."""

    def __init__(self, key: bytes) -> None:
        super().__init__()
        self._key = key
        self._how: dict[str, Any] | None = None

    async def delete(self, key: bytes, **how: Any) -> None:
        if key == self._key and self._how is None:
            self._how = how
            raise LakeUnavailable("delete an object", key, "no answer")
        await super().delete(key, **how)

    async def arrive(self) -> None:
        assert self._how is not None
        with contextlib.suppress(PreconditionFailed):
            await super().delete(self._key, **self._how)


@pytest.mark.parametrize("rename", [False, True])
async def test_a_removal_that_arrives_late_takes_nothing_of_what_was_written_since(
    tmp_path: Path, *, rename: bool
) -> None:
    lake = LateLake(b"a")
    async with world(tmp_path, lake) as mount:
        await mount.write(b"a", b"old")
        assert await mount.flush()
        if rename:
            await mount.rename(b"a", b"b")
        else:
            await mount.unlink(b"a")
        assert await mount.flush()
        assert b"a" not in lake.contents()
        await mount.write(b"a", b"new")
        assert await mount.flush()
        await lake.arrive()
    assert lake.contents() == {b"a": b"new", **({b"b": b"old"} if rename else {})}


async def test_what_another_writer_has_changed_is_removed_as_it_is(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        await mount.write(b"a", b"ours")
        assert await mount.flush()
        lake.store(b"a", b"theirs")
        await mount.unlink(b"a")
        assert await mount.flush()
    assert lake.contents() == {}
