"""What a mount says of what it writes back: status, the line of a checkpoint, the alarm."""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from tests.writing import PATIENCE_S, Lake, world
from tierfs.cli import status
from tierfs.errors import LakeDenied, LakeUnavailable
from tierfs.lake.protocol import ObjectInfo, Version
from tierfs.metrics import METRICS, value_at
from tierfs.writeback import uploads, watch


class Gate:
    """For `Lake.before`: requests wait while it is shut."""

    def __init__(self) -> None:
        self.open = trio.Event()

    async def __call__(self, op: str, key: bytes) -> None:
        await self.open.wait()


async def test_status_says_how_much_waits_where_and_for_how_long(tmp_path: Path) -> None:
    lake = Lake()
    lake.before = gate = Gate()
    async with world(tmp_path, lake, "a/**", "b/**") as mount:
        await mount.mkdir(b"a")
        await mount.mkdir(b"b")
        await mount.write(b"a/1", b"1" * 100)
        await mount.write(b"a/2.tmp", b"2" * 50)
        await mount.write(b"b/1", b"3" * 1000)
        said = mount.service.describe()
        assert (said["unflushed_files"], said["unflushed_bytes"]) == (2, 1100)
        assert said["oldest_unflushed_path"] == "a/"
        assert said["oldest_unflushed_s"] > 0
        assert said["time_left_s"] is None
        assert (said["held_names"], said["frozen_roots"], said["late_roots"]) == (1, 0, 0)
        a, b = sorted(said["roots"], key=lambda root: root["root"])
        assert (a["root"], a["acknowledged_lsn"], a["durable_lsn"]) == ("/a", 3, 0)
        assert (b["root"], b["acknowledged_lsn"], b["durable_lsn"]) == ("/b", 5, 1)
        assert (a["unflushed_bytes"], b["unflushed_bytes"]) == (100, 1000)
        gate.open.set()
        assert await mount.flush()
        said = mount.service.describe()
        assert (said["unflushed_bytes"], said["time_left_s"]) == (0, 0.0)
        for root in said["roots"]:
            assert root["durable_lsn"] == root["acknowledged_lsn"]
            assert root["oldest_unflushed_s"] == 0


async def test_parts_that_the_lake_has_are_not_left_to_send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PART_BYTES", 1 << 20)
    lake = Lake()
    done = trio.Event()

    async def before(op: str, key: bytes) -> None:
        if op == "complete":
            await done.wait()

    lake.before = before
    async with world(tmp_path, lake) as mount:
        await mount.write(b"large", b"x" * (3 << 20))
        with trio.fail_after(PATIENCE_S):
            while mount.service.describe()["sent_ahead_bytes"] < 3 << 20:
                await trio.sleep(0.01)
        said = mount.service.describe()
        assert said["unflushed_bytes"] == 3 << 20
        assert said["time_left_s"] == 0
        done.set()
        assert await mount.flush()


async def test_every_number_of_writing_is_a_metric_with_a_value(tmp_path: Path) -> None:
    async with world(tmp_path, Lake()) as mount:
        await mount.write(b"a", b"a")
        await mount.flush()
        said = {"writing": mount.service.describe()}
        ours = [metric for metric in METRICS if metric.path.startswith("writing.")]
        assert len(ours) > 8
        for metric in ours:
            assert value_at(said, metric.path) is not None, metric.name
        assert value_at(said, "writing.bytes_uploaded") == 1


async def test_status_for_people_names_what_it_says_of_a_root(tmp_path: Path) -> None:
    lake = Lake()

    async def before(op: str, key: bytes) -> None:
        raise LakeDenied("write an object", key, "no such permission")

    lake.before = before
    async with world(tmp_path, lake) as mount:
        await mount.write(b"a", b"a" * 2048)
        assert not await mount.flush()
        text = status.render({"writing": mount.service.describe()})
    (line,) = [line for line in text.splitlines() if line.strip().startswith("-")]
    for part in ("/  ", "durable lsn 0", "unflushed 2.00 KiB", "failure write an object"):
        assert part in line


def lines(caplog: pytest.LogCaptureFixture, word: str) -> list[str]:
    return [text for text in caplog.messages if text.startswith(word)]


async def until(condition: Any) -> None:
    with trio.fail_after(PATIENCE_S):
        while not condition():
            await trio.sleep(0.05)


async def test_a_checkpoint_that_is_there_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOK_S", 0.05)
    lake, written = Lake(), trio.Event()

    async def before(op: str, key: bytes) -> None:
        # However slow this is: it is one checkpoint if nothing was quiet and durable in between.
        await written.wait()

    lake.before = before
    with caplog.at_level(logging.INFO, "tierfs"):
        async with world(tmp_path, lake, "runs/**") as mount:
            await mount.mkdir(b"runs")
            for name in (b"runs/1", b"runs/2", b"runs/latest.tmp"):
                await mount.write(name, b"x" * 100)
            await mount.rename(b"runs/latest.tmp", b"runs/latest")
            written.set()
            assert await mount.flush()
            await until(lambda: lines(caplog, "checkpoint"))
    (line,) = lines(caplog, "checkpoint")
    fields = dict(word.split("=") for word in line.split()[1:])
    assert (fields["root"], fields["files"], fields["bytes"]) == ("/runs", "3", "300")
    times = [float(fields[name]) for name in ("first_write", "last_close", "durable")]
    assert times == sorted(times)
    assert 0 <= float(fields["upload_start"]) <= float(fields["durable"])


async def test_what_waits_too_long_is_an_error_once_and_its_end_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOK_S", 0.02)
    monkeypatch.setattr(watch, "LATE_FIRST_S", 0.02)
    lake = Lake()
    lake.before = gate = Gate()
    with caplog.at_level(logging.WARNING, "tierfs"):
        async with world(tmp_path, lake, "runs/**", max_unflushed_age_s=0.1) as mount:
            await mount.mkdir(b"runs")
            await mount.write(b"runs/1", b"x")
            await until(lambda: mount.service.describe()["late_roots"])
            (root,) = mount.service.describe()["roots"]
            assert root["late"]
            await trio.sleep(0.2)
            (said,) = lines(caplog, "/runs: runs/ has waited")
            assert "max_unflushed_age" in said
            gate.open.set()
            await until(lambda: not mount.service.describe()["late_roots"])
            assert len(lines(caplog, "/runs: nothing of it waits too long")) == 1
            assert sum(record.name == watch.__name__ for record in caplog.records) == 2


async def test_what_is_late_because_it_is_frozen_says_the_remedy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Looked for by hand, below.
    monkeypatch.setattr(watch, "LATE_FIRST_S", 1e6)
    monkeypatch.setattr(watch, "LATE_LAST_S", 1e6)
    lake = Lake()

    async def before(op: str, key: bytes) -> None:
        raise LakeDenied("write an object", key, "no such permission")

    lake.before = before
    async with world(tmp_path, lake, max_unflushed_age_s=1e-9) as mount:
        await mount.write(b"1", b"x")
        assert not await mount.flush()
        assert mount.service._publisher is not None
        mount.service._watch.look_for_late(mount.service._publisher)
    (said,) = lines(caplog, "/: 1 has waited")
    assert "no such permission" in said
    assert "tierfs flush --retry" in said


async def test_an_outage_is_no_failure_of_a_root(tmp_path: Path) -> None:
    lake = Lake()

    async def before(op: str, key: bytes) -> None:
        raise LakeUnavailable("write an object", key, "no answer")

    lake.before = before
    async with world(tmp_path, lake) as mount:
        await mount.write(b"1", b"x")
        await trio.sleep(0.1)
        said = mount.service.describe()
        assert (said["frozen_roots"], said["unflushed_files"]) == (0, 1)


async def test_extended_attributes_of_what_is_uploaded_name_its_version(tmp_path: Path) -> None:
    pytest.importorskip("pyfuse3")
    import pyfuse3

    from tierfs.fs.writing import WritingOperations

    lake = Versioned()
    lake.before = gate = Gate()
    async with world(tmp_path, lake) as mount:
        operations = WritingOperations(mount.files, mount.front, on_init=lambda: None)
        who: Any = SimpleNamespace(uid=0, gid=0, pid=1, umask=0)

        async def xattr(name: str) -> bytes | int:
            try:
                return bytes(await operations.getxattr(ino, b"user.tierfs." + name.encode(), who))
            except pyfuse3.FUSEError as error:
                return int(error.errno)

        ino = await mount.write(b"a", b"one")
        fh = await mount.files.open(ino, os.O_RDONLY)
        assert await xattr("state") == b"closed"
        assert [await xattr("etag"), await xattr("version_id")] == [errno.ENODATA] * 2
        gate.open.set()
        assert await mount.flush()
        # It is open, so it is not handed over.
        assert await xattr("state") == b"uploaded"
        version = (await lake.head(b"a")).version
        assert await xattr("etag") == version.etag
        assert await xattr("version_id") == version.version_id == b"v7"
        assert await xattr("cached_bytes") == errno.ENODATA
        # Another writer's version is not this file's.
        lake.store(b"a", b"another")
        assert await xattr("etag") == version.etag
        assert await xattr("version_id") == errno.ENODATA
        writer = await mount.files.open(ino, os.O_WRONLY)
        await mount.files.write(writer, 0, b"two")
        assert await xattr("state") == b"open"
        assert [await xattr("etag"), await xattr("version_id")] == [errno.ENODATA] * 2
        await mount.files.release(writer)
        await mount.files.release(fh)


class Versioned(Lake):
    """A lake that tells version ids when it is asked."""

    async def head(self, key: bytes, *, checksum: bool = False) -> ObjectInfo:
        found = await super().head(key, checksum=checksum)
        return replace(found, version=Version(found.version.etag, b"v7"))
