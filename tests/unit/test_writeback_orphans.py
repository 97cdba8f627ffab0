"""Multipart uploads that nobody goes on with: those of ours are dropped, and no others."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.caching import noise
from tests.lake_writing_conformance import store_part
from tests.writing import PATIENCE_S, Lake, World, world
from tierfs.errors import LakeUnavailable
from tierfs.lake.writing import Upload, Written
from tierfs.writeback import publisher, uploads
from tierfs.writeback.orphans import AGE_NS, WINDOW_NS, Orphans

MIB = 1 << 20
DATA = noise(2 * MIB + 17, 1)


@pytest.fixture(autouse=True)
def no_time_to_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(uploads, "PART_BYTES", MIB)


class LosingLake(Lake):
    """Begins uploads, and does not answer the first *lost* times: by an error, or never."""

    def __init__(self, lost: int, *, hangs: bool = False) -> None:
        super().__init__()
        self._lost, self._hangs = lost, hangs
        self.hanging = trio.Event()

    async def begin_upload(self, key: bytes, **how: Any) -> Upload:
        upload = await super().begin_upload(key, **how)
        if self._lost:
            self._lost -= 1
            if self._hangs:
                self.hanging.set()
                await trio.sleep_forever()
            raise LakeUnavailable("begin an upload", key, "no answer")
        return upload


def orphans(mount: World, lake: Lake, *, days: float) -> Orphans:
    """As they are that many days later."""
    later_ns = int(days * AGE_NS)
    return Orphans(lake, mount.files.journal, now_ns=lambda: time.time_ns() + later_ns)


async def test_what_a_kill_leaves_in_the_lake_is_dropped_when_it_is_old(tmp_path: Path) -> None:
    """It dies twice between the lake's answer and the note of it."""
    lake = LosingLake(2, hangs=True)
    for life in range(2):
        lake.hanging = trio.Event()
        async with world(tmp_path, lake) as mount:
            if life == 0:
                await mount.write(b"a", DATA)
            with trio.fail_after(PATIENCE_S):
                await lake.hanging.wait()
    async with world(tmp_path, lake) as mount:
        assert await mount.flush()
        assert len(await lake.list_uploads(b"")) == 2
        assert await orphans(mount, lake, days=0.9).sweep() == 0
        assert await orphans(mount, lake, days=1.1).sweep() == 2
        assert await lake.list_uploads(b"") == []
        # What came of them is known, and nobody asks again.
        lists = lake.counters.list_requests
        assert await orphans(mount, lake, days=1.1).sweep() == 0
        assert lake.counters.list_requests == lists
    assert lake.history == [(b"a", DATA)]


async def test_what_a_lost_answer_leaves_is_dropped_too(tmp_path: Path) -> None:
    lake = LosingLake(1)
    async with world(tmp_path, lake) as mount:
        await mount.write(b"a", DATA)
        assert await mount.flush()
        assert await orphans(mount, lake, days=2).sweep() == 1
    assert await lake.list_uploads(b"") == []


async def test_an_answer_that_is_noted_leaves_no_question(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        await mount.write(b"a", DATA)
        assert await mount.flush()
        lists = lake.counters.list_requests
        await orphans(mount, lake, days=2).sweep()
        assert lake.counters.list_requests == lists


async def test_what_may_be_another_writers_is_left_alone(tmp_path: Path) -> None:
    lake = LosingLake(1, hangs=True)
    async with world(tmp_path, lake) as mount:
        await mount.write(b"a", DATA)
        with trio.fail_after(PATIENCE_S):
            await lake.hanging.wait()
    # Of the same key, at the same time, and under way.
    busy = await lake.begin_upload(b"a")
    await store_part(lake, busy, 1, b"theirs")
    # Of the same key, at another time.
    other = await lake.begin_upload(b"a")
    late = Upload(b"a", other.upload_id, other.began_ns + 2 * WINDOW_NS)
    lake._uploads[other.upload_id].upload = late
    # Of a key that begins with ours.
    longer = await lake.begin_upload(b"a-longer")
    async with world(tmp_path, lake) as mount:
        assert await mount.flush()
        assert await orphans(mount, lake, days=2).sweep() == 1
    left = {upload.upload_id for upload in await lake.list_uploads(b"")}
    assert left == {busy.upload_id, other.upload_id, longer.upload_id}


async def test_what_the_journal_knows_is_left_alone(tmp_path: Path) -> None:
    """The upload is known, begun, and has no part yet; and there is a question from before."""
    lake = LosingLake(1)

    async def no_parts(op: str, key: bytes) -> None:
        if op == "part":
            raise LakeUnavailable("store a part", key, "not now")

    lake.before = no_parts
    async with world(tmp_path, lake) as mount:
        await mount.write(b"a", DATA)
        with trio.fail_after(PATIENCE_S):
            while not mount.files.journal.read(lambda work: work.upload_ids(b"a")):
                await trio.sleep(0.001)
        assert await orphans(mount, lake, days=2).sweep() == 1
        lake.before = None
        assert await mount.flush()
    assert lake.history == [(b"a", DATA)]


async def test_trouble_with_the_lake_leaves_it_for_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = LosingLake(1)

    async def refused(prefix: bytes) -> list[Upload]:
        raise LakeUnavailable("list uploads", prefix, "not now")

    async with world(tmp_path, lake) as mount:
        await mount.write(b"a", DATA)
        assert await mount.flush()
        with monkeypatch.context() as patch:
            patch.setattr(lake, "list_uploads", refused)
            assert await orphans(mount, lake, days=2).sweep() == 0
        assert await orphans(mount, lake, days=2).sweep() == 1


async def test_an_upload_that_is_dropped_under_way_is_begun_anew(tmp_path: Path) -> None:
    """By another node that takes it for nobody's, by an operator, by a lifecycle rule."""
    lake = Lake()
    dropped = False

    async def drop(op: str, key: bytes) -> None:
        nonlocal dropped
        if op == "part" and not dropped:
            dropped = True
            lake._uploads.clear()

    lake.before = drop
    async with world(tmp_path, lake) as mount:
        await mount.write(b"a", DATA)
        assert await mount.flush()
    assert dropped
    assert lake.history == [(b"a", DATA)]


class KeepingLake(Lake):
    """Completes an upload, keeps it nevertheless, and does not answer: once."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = b""

    async def complete_upload(self, upload: Upload, *args: Any, **how: Any) -> Written:
        uploading = self._uploads[upload.upload_id]
        written = await super().complete_upload(upload, *args, **how)
        if self.kept:
            return written
        self.kept = upload.upload_id
        self._uploads[upload.upload_id] = uploading
        raise LakeUnavailable("complete an upload", upload.key, "no answer")


async def test_an_upload_whose_object_was_found_is_dropped(tmp_path: Path) -> None:
    lake = KeepingLake()
    async with world(tmp_path, lake) as mount:
        await mount.write(b"a", DATA)
        assert await mount.flush()
        assert lake.kept

        def known() -> bool:
            return bool(mount.files.journal.read(lambda work: work.abandoned()))

        with trio.fail_after(PATIENCE_S):
            while await lake.list_uploads(b"") or known():
                await trio.sleep(0.005)
    assert lake.history == [(b"a", DATA)]
