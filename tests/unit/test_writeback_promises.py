"""Promises of `tierfs/SEMANTICS.md` about write-back directories that have no other test."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.writing import GID, PATIENCE_S, UID, Lake, World, world
from tierfs.control import wire
from tierfs.errors import InvalidRequest, NameTooLong, NoAttribute, ReadOnly, StagingFull
from tierfs.index.records import Kind
from tierfs.lake.protocol import LakeIdentity
from tierfs.lake.writing import Storage
from tierfs.writeback import contents, placer, uploads
from tierfs.writeback.tree import XATTRS_BYTES


async def create(mount: World, path: bytes, data: bytes) -> int:
    """A file that was written and not closed: its handle."""
    parent, name = await mount.at(path)
    _, fh = await mount.files.create(parent, name, 0o644, os.O_WRONLY, UID, GID)
    await mount.files.write(fh, 0, data)
    return fh


# ---- rules ---------------------------------------------------------------------------------------


async def test_rules_that_may_be_mistakes_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lake = Lake()
    lake.store(b"there/file", b"1")
    rules = ("there/**", "ckpt/7/*.pt", "*/**", "*.log")
    with caplog.at_level(logging.WARNING, "tierfs"):
        async with world(tmp_path, lake, *rules):
            with trio.fail_after(PATIENCE_S):
                while len(caplog.records) < 2:
                    await trio.sleep(0.01)
    missing, everything = [record.getMessage() for record in caplog.records]
    assert "ckpt/7/*.pt" in missing
    assert "there is no directory /ckpt/7" in missing
    assert "*/**" in everything
    assert "everything in this mount" in everything


async def test_objects_are_kept_as_their_rule_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files, in one request and in parts, links, directories, and what is copied for a rename or
    for its attributes."""
    monkeypatch.setattr(uploads, "PART_BYTES", 1 << 20)
    lake, kept = Lake(), Storage("STANDARD_IA", (("team", "ml"),), "key-1")
    rules = ("a/**,storage_class=STANDARD_IA,tags=team=ml,kms_key=key-1", "**,tags=x=y")
    async with world(tmp_path, lake, *rules) as mount:
        await mount.mkdir(b"a")
        await mount.mkdir(b"a/d")
        for name in (b"a/moved", b"a/changed", b"out"):
            await mount.write(name, name)
        await mount.write(b"a/large", bytes((2 << 20) + 17))
        await mount.files.make_link(*await mount.at(b"a/link"), b"d", UID, GID)
        assert await mount.flush()
        await mount.rename(b"a/moved", b"a/d/moved")
        await mount.rename(b"out", b"a/in")
        await mount.files.set_attributes(await mount.ino(b"a/changed"), {"mode": 0o600}, None)
        await mount.write(b"other", b"1")
        assert await mount.flush()
    paths = (b"a/d/", b"a/d/moved", b"a/changed", b"a/in", b"a/large", b"a/link")
    # The directory itself is what the second rule matches.
    others = dict.fromkeys((b"a/", b"other"), Storage(tags=(("x", "y"),)))
    assert lake.storage == {**dict.fromkeys(paths, kept), **others}


# ---- files ---------------------------------------------------------------------------------------


async def test_a_file_waits_for_who_still_has_it_open_for_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (contents, placer):
        monkeypatch.setattr(module, "WRITERS_S", 2 * PATIENCE_S)
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        fh = await create(mount, b"log", b"12345")
        # A duplicate of the descriptor is closed.
        await mount.files.flush(fh)
        await mount.files.write(fh, 5, b"67890")
        assert lake.history == []
        await mount.files.flush(fh)
        await mount.files.release(fh)
        with trio.fail_after(PATIENCE_S):
            assert await mount.flush()
    assert lake.contents() == {b"log": b"1234567890"}


async def test_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tierfs.writeback.placer.WRITERS_S", 0.01)
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        fh = await create(mount, b"log", b"12345")
        await mount.files.flush(fh)
        assert await mount.flush()
        assert lake.contents() == {b"log": b"12345"}
        await mount.files.write(fh, 5, b"67890")
        await mount.files.flush(fh)
        await mount.files.release(fh)
        assert await mount.flush()
    assert lake.history == [(b"log", b"12345"), (b"log", b"1234567890")]


@pytest.mark.parametrize("closed", ["on its way", "published", "handed over", "of the lake"])
@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_WRONLY | os.O_TRUNC])
async def test_what_was_written_since_the_last_close_is_dropped_by_a_kill(
    tmp_path: Path, closed: str, flags: int
) -> None:
    """Whatever keeps what was closed: this disk, or the lake."""
    lake = Lake()
    if closed == "of the lake":
        lake.store(b"latest", b"step-1")
    async with world(tmp_path, lake, publish=closed != "on its way") as mount:
        if closed != "of the lake":
            await mount.write(b"latest", b"step-1")
        if closed == "published":
            # In use, so that it is not handed over.
            await mount.files.open(await mount.ino(b"latest"), os.O_RDONLY)
        if closed != "on its way":
            assert await mount.flush()
        await mount.write(b"other", b"")
        fh = await mount.files.open(await mount.ino(b"latest"), flags)
        await mount.files.write(fh, 0, b"not closed")
    async with world(tmp_path, lake) as mount:
        assert await mount.read(b"latest") == b"step-1"
        assert await mount.flush()
        assert await mount.read(b"latest") == b"step-1"
        await mount.settled()
        # It is as any other file.
        await mount.write(b"latest", b"step-2")
        assert await mount.flush()
        assert mount.service.describe()["conflicts"] == []
    assert lake.keys[-1] == b"latest"
    assert lake.contents() == {b"latest": b"step-2", b"other": b""}


async def test_attributes_are_told_though_what_was_written_is_dropped(tmp_path: Path) -> None:
    lake = Lake()
    lake.store(b"latest", b"step-1")
    async with world(tmp_path, lake, publish=False) as mount:
        ino = await mount.ino(b"latest")
        await mount.files.set_attributes(ino, {"mode": 0o600}, None)
        fh = await mount.files.open(ino, os.O_RDWR)
        await mount.files.write(fh, 0, b"not closed")
    async with world(tmp_path, lake) as mount:
        assert await mount.read(b"latest") == b"step-1"
        assert await mount.flush()
        assert await mount.read(b"latest") == b"step-1"
        assert mount.files.union.attributes(ino).mode == 0o600
    assert lake.contents() == {b"latest": b"step-1"}
    found = (await lake.head(b"latest")).metadata
    assert found is not None
    assert found["mode"] == str(0o100600)


async def test_what_was_published_and_not_handed_over_by_a_kill_is_fetched(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        await mount.write(b"a", b"1" * 10)
        # In use, so that it is not handed over.
        await mount.files.open(await mount.ino(b"a"), os.O_RDONLY)
        assert await mount.flush()
    gets = lake.counters.get_requests
    async with world(tmp_path, lake) as mount:
        await mount.settled()
        assert await mount.read(b"a") == b"1" * 10
    assert lake.counters.get_requests > gets


# ---- names ---------------------------------------------------------------------------------------


async def test_names_that_the_lake_cannot_hold_are_refused_when_they_are_made(
    tmp_path: Path,
) -> None:
    lake = Lake()
    lake.identity = LakeIdentity("s3", "", "bucket", "prefix/")
    async with world(tmp_path, lake) as mount:
        path = b""
        for _ in range(5):
            path += b"d" * 200
            await mount.mkdir(path)
            path += b"/"
        with pytest.raises(NameTooLong):
            await mount.write(path + b"f" * 50, b"1")
        with pytest.raises(NameTooLong):
            await mount.mkdir(path + b"d" * 50)
        await mount.write(b"short", b"1")
        with pytest.raises(NameTooLong):
            await mount.rename(b"short", path + b"f" * 50)
        for make in (mount.mkdir(b"\xff"), mount.write(b"\xff", b"1")):
            with pytest.raises(InvalidRequest, match="UTF-8"):
                await make
        assert await mount.flush()


async def test_a_rename_that_makes_a_path_below_it_too_long_is_refused(tmp_path: Path) -> None:
    lake = Lake()
    lake.identity = LakeIdentity("s3", "", "bucket", "prefix/")
    async with world(tmp_path, lake) as mount:
        path = b"a"
        await mount.mkdir(path)
        for _ in range(4):
            path += b"/" + b"d" * 240
            await mount.mkdir(path)
        with pytest.raises(NameTooLong):
            await mount.rename(b"a", b"b" * 100)
        assert await mount.names(b"") == [b"a"]
        assert await mount.names(b"a") == [b"d" * 240]
        assert await mount.flush()
    assert all(key.startswith(b"a/") for key in lake.keys)


async def test_a_directory_of_the_lake_stays_when_its_last_file_goes(tmp_path: Path) -> None:
    lake = Lake()
    lake.store(b"d/e/only", b"1")
    async with world(tmp_path, lake) as mount:
        await mount.unlink(b"d/e/only")
        assert await mount.names(b"d") == [b"e"]
        assert await mount.names(b"d/e") == []
        assert await mount.flush()
        assert await mount.kind(b"d/e") is Kind.DIRECTORY
        await mount.rmdir(b"d/e")
        assert await mount.flush()
        assert await mount.names(b"d") == []
    assert lake.history[:2] == [(b"d/e/", b""), (b"d/e/only", None)]


@pytest.mark.parametrize("left", ["nothing", "a temporary name", "what is open"])
async def test_a_directory_of_the_lake_stays_for_what_is_here_alone(
    tmp_path: Path, left: str
) -> None:
    lake = Lake()
    lake.store(b"run/50/only", b"1")
    async with world(tmp_path, lake) as mount:
        if left == "a temporary name":
            await mount.write(b"run/new.tmp", b"2")
        elif left == "what is open":
            await mount.files.create(*await mount.at(b"run/new"), 0o644, os.O_WRONLY, UID, GID)
        await mount.unlink(b"run/50/only")
        await mount.rmdir(b"run/50")
        assert await mount.flush()
    assert lake.contents() == {b"run/": b""}


async def test_a_directory_is_copied_before_anything_of_it_is_removed(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        await mount.mkdir(b"a")
        for name in (b"0", b"1", b"marker"):
            await mount.write(b"a/" + name, name)
        assert await mount.flush()
        lake.history.clear()
        await mount.rename(b"a", b"b")
        assert await mount.flush()
    assert [(key, content is None) for key, content in lake.history] == [
        (b"b/", False), (b"b/0", False), (b"b/1", False), (b"b/marker", False),
        (b"a/0", True), (b"a/1", True), (b"a/marker", True), (b"a/", True),
    ]  # fmt: skip


# ---- extended attributes -------------------------------------------------------------------------


async def test_extended_attributes_stay_on_this_node(tmp_path: Path) -> None:
    lake = Lake()
    lake.store(b"w/in-lake", b"1")
    lake.store(b"elsewhere", b"1")
    async with world(tmp_path, lake, "w/**") as mount:
        ours = await mount.write(b"w/ours", b"1")
        for ino in (ours, await mount.ino(b"w/in-lake"), await mount.ino(b"w")):
            await mount.files.set_xattr(ino, b"user.a", b"1")
            await mount.files.set_xattr(ino, b"user.a", b"2")
            await mount.files.set_xattr(ino, b"user.b", b"")
        with pytest.raises(ReadOnly):
            await mount.files.set_xattr(await mount.ino(b"elsewhere"), b"user.a", b"1")
        assert await mount.flush()
        await mount.rename(b"w/ours", b"w/renamed")
        assert await mount.flush()
    assert all(b"user" not in repr(info).encode() for info, _ in lake._objects.values())
    async with world(tmp_path, lake, "w/**") as mount:
        for name in (b"w/renamed", b"w/in-lake", b"w"):
            ino = await mount.ino(name)
            assert mount.files.xattrs(ino) == [b"user.a", b"user.b"]
            assert mount.files.xattr(ino, b"user.a") == b"2"
            await mount.files.set_xattr(ino, b"user.a", None)
            assert mount.files.xattr(ino, b"user.a") is None
            with pytest.raises(NoAttribute):
                await mount.files.set_xattr(ino, b"user.a", None)
        await mount.unlink(b"w/renamed")
        assert mount.files.xattrs(ours) == []


async def test_extended_attributes_have_a_limit(tmp_path: Path) -> None:
    """No list of names, and no value, is too long for a message to a native front."""
    assert XATTRS_BYTES + wire.ANSWER.size <= wire.LONGEST
    async with world(tmp_path, Lake()) as mount:
        ino = await mount.write(b"a", b"1")
        await mount.files.set_xattr(ino, b"user.a", bytes(XATTRS_BYTES - 100))
        with pytest.raises(StagingFull):
            await mount.files.set_xattr(ino, b"user.b", bytes(100))
        await mount.files.set_xattr(ino, b"user.a", bytes(XATTRS_BYTES - 7))
        with pytest.raises(StagingFull):
            await mount.files.set_xattr(ino, b"user.b", b"")
        assert mount.files.xattrs(ino) == [b"user.a"]


async def test_a_new_file_of_a_name_has_no_attributes_of_the_old_one(tmp_path: Path) -> None:
    async with world(tmp_path, Lake()) as mount:
        ino = await mount.write(b"a", b"1")
        await mount.files.set_xattr(ino, b"user.a", b"1")
        await mount.write(b"b", b"1")
        await mount.rename(b"b", b"a")
        assert mount.files.xattrs(await mount.ino(b"a")) == []
        assert mount.files.xattrs(ino) == []


async def test_a_directory_that_is_changed_while_it_is_handed_over_shows_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, Lake()) as mount:
        adopt, changed = mount.namespace.adopt, False

        async def after_a_change(parent: int, name: bytes, *rest: Any, **how: Any) -> None:
            nonlocal changed
            await adopt(parent, name, *rest, **how)
            if name == b"d" and not changed:
                changed = True
                await mount.write(b"d/f", b"x")

        monkeypatch.setattr(mount.namespace, "adopt", after_a_change)
        await mount.mkdir(b"d")
        ino = await mount.ino(b"d")
        await mount.files.set_attributes(ino, {}, (1, 1))
        assert await mount.flush()
        with trio.fail_after(PATIENCE_S):
            while mount.service.journal.node(ino) is not None:
                await trio.sleep(0.01)
        assert changed
        assert mount.files.union.attributes(ino).mtime_ns > 1


async def test_a_directory_that_was_handed_over_shows_when_it_was_changed(tmp_path: Path) -> None:
    async with world(tmp_path, Lake()) as mount:
        await mount.mkdir(b"d")
        ino = await mount.ino(b"d")
        await mount.files.set_attributes(ino, {}, (1, 1))
        assert await mount.flush()
        with trio.fail_after(PATIENCE_S):
            while mount.service.journal.node(ino) is not None:
                await trio.sleep(0.01)
        assert mount.files.union.attributes(ino).mtime_ns == 1
        for change in (mount.write(b"d/f", b"x"), mount.mkdir(b"d/e"), mount.unlink(b"d/f")):
            await change
            assert mount.files.union.attributes(ino).mtime_ns > 1
