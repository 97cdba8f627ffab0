"""Write-back over a lake in memory: what is acknowledged, what is shown, what survives."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.writing import GID, PATIENCE_S, UID, Lake, World, world
from tierfs.errors import AlreadyExists, CrossRoot, NotEmpty, NotFound, ReadOnly, TierfsError
from tierfs.namespace import Absent
from tierfs.writeback import contents
from tierfs.writeback.journal import Work
from tierfs.writeback.records import Flag

MIB = 1 << 20


async def test_a_file_is_read_back_and_arrives(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        await mount.write(b"model.pt", b"weights")
        assert await mount.read(b"model.pt") == b"weights"
        assert await mount.flush()
        assert lake.contents() == {b"model.pt": b"weights"}
        assert await mount.read(b"model.pt") == b"weights"
        assert await mount.names(b"") == [b"model.pt"]


async def test_what_is_closed_survives_and_goes_on(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake, publish=False) as mount:
        await mount.mkdir(b"step-1")
        await mount.write(b"step-1/a", b"1" * 10)
        await mount.write(b"step-1/b", b"2" * 10)
    assert lake.contents() == {}
    async with world(tmp_path, lake) as mount:
        assert await mount.names(b"step-1") == [b"a", b"b"]
        assert await mount.read(b"step-1/a") == b"1" * 10
        assert await mount.flush()
    assert lake.contents() == {b"step-1/": b"", b"step-1/a": b"1" * 10, b"step-1/b": b"2" * 10}


async def test_what_no_rule_matches_is_read_only(tmp_path: Path) -> None:
    lake = Lake()
    lake.store(b"data/x", b"sample")
    async with world(tmp_path, lake, "checkpoints/**") as mount:
        with pytest.raises(ReadOnly):
            await mount.write(b"data/y", b"")
        with pytest.raises(ReadOnly):
            await mount.write(b"data/x", b"")
        with pytest.raises(ReadOnly):
            await mount.unlink(b"data/x")
        await mount.mkdir(b"checkpoints")
        await mount.write(b"checkpoints/y", b"1")
        with pytest.raises(ReadOnly):
            await mount.rename(b"checkpoints/y", b"data/y")
        assert await mount.flush()
    assert lake.contents() == {b"data/x": b"sample", b"checkpoints/": b"", b"checkpoints/y": b"1"}


async def test_nothing_gives_way_for_what_no_rule_matches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake()
    lake.store(b"data/x", b"sample")
    async with world(tmp_path, lake, "checkpoints/**") as mount:
        asked: list[int] = []

        async def wait(bytes_: int, *args: Any, **how: Any) -> None:
            asked.append(bytes_)

        monkeypatch.setattr(mount.files.staging.room, "wait", wait)
        ino = await mount.ino(b"data/x")
        with pytest.raises(ReadOnly):
            await mount.files.open(ino, os.O_RDWR)
        assert asked == []


async def test_an_overwritten_file_of_the_lake_keeps_its_number(tmp_path: Path) -> None:
    lake = Lake()
    lake.store(b"latest", b"step-1")
    async with world(tmp_path, lake) as mount:
        before = await mount.ino(b"latest")
        await mount.write(b"latest", b"step-2")
        assert await mount.ino(b"latest") == before
        assert await mount.read(b"latest") == b"step-2"
        assert await mount.flush()
        assert lake.contents() == {b"latest": b"step-2"}
        assert await mount.ino(b"latest") == before
        assert await mount.read(b"latest") == b"step-2"


async def test_a_part_of_a_lakes_file_is_written_over(tmp_path: Path) -> None:
    lake = Lake()
    lake.store(b"log", b"0123456789")
    async with world(tmp_path, lake) as mount:
        fh = await mount.files.open(await mount.ino(b"log"), os.O_RDWR)
        await mount.files.write(fh, 3, b"abc")
        assert await mount.files.read(fh, 0, 100) == b"012abc6789"
        await mount.files.flush(fh)
        await mount.files.release(fh)
        assert await mount.flush()
    assert lake.contents() == {b"log": b"012abc6789"}


async def test_a_lakes_file_that_is_opened_and_not_written_stays_the_lakes(tmp_path: Path) -> None:
    lake = Lake()
    lake.store(b"log", b"0123456789")
    version = (await lake.head(b"log")).version
    async with world(tmp_path, lake) as mount:
        fh = await mount.files.open(await mount.ino(b"log"), os.O_RDWR)
        await mount.files.flush(fh)
        await mount.files.release(fh)
        assert mount.service.describe()["nodes"] == 0
        assert await mount.read(b"log") == b"0123456789"
    assert (await lake.head(b"log")).version == version


async def test_closed_content_is_published_though_it_is_written_over(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake, publish=False) as mount:
        await mount.write(b"latest", b"step-1")
        await mount.write(b"other", b"x")
        await mount.write(b"latest", b"step-2")
        frozen = [path.name for path in (tmp_path / "staging").iterdir() if "." in path.name]
        assert len(frozen) == 1
    async with world(tmp_path, lake) as mount:
        assert await mount.flush()
    assert lake.history == [(b"latest", b"step-1"), (b"other", b"x"), (b"latest", b"step-2")]


async def test_overwrites_without_anything_in_between_collapse(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake, publish=False) as mount:
        for n in range(5):
            await mount.write(b"latest", b"step-%d" % n)
        assert mount.service.describe()["unflushed_changes"] == 1
        assert len(list((tmp_path / "staging").iterdir())) == 1
    async with world(tmp_path, lake) as mount:
        assert await mount.flush()
    assert lake.contents() == {b"latest": b"step-4"}


async def test_a_rename_of_what_was_overwritten_shows_nothing_older_beside_it(
    tmp_path: Path,
) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        await mount.write(b"a", b"old")
        assert await mount.flush()
    async with world(tmp_path, lake, publish=False) as mount:
        await mount.write(b"a", b"newer")
        await mount.rename(b"a", b"b")
    async with world(tmp_path, lake) as mount:
        assert await mount.flush()
    assert lake.history[1:] == [(b"a", b"newer"), (b"b", b"newer"), (b"a", None)]


async def test_a_held_name_is_in_the_lake_when_it_is_renamed(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        await mount.write(b".metadata.tmp", b"m")
        assert await mount.flush()
        assert lake.keys == []
        await mount.rename(b".metadata.tmp", b".metadata")
        assert await mount.flush()
        assert await mount.names(b"") == [b".metadata"]
    assert lake.keys == [b".metadata"]


async def test_a_held_directory_arrives_with_its_marker_last(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        tmp = b"7.orbax-checkpoint-tmp-1"
        await mount.mkdir(tmp)
        await mount.mkdir(tmp + b"/d")
        await mount.write(tmp + b"/d/0", b"0" * 100)
        await mount.write(tmp + b"/a", b"1" * 100)
        await mount.write(tmp + b"/commit_success", b"")
        await mount.rename(tmp, b"7")
        assert await mount.flush()
        assert await mount.read(b"7/d/0") == b"0" * 100
    assert lake.keys == [b"7/", b"7/d/", b"7/d/0", b"7/a", b"7/commit_success"]


async def test_a_rename_while_open_takes_its_place_at_the_close(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        _, fh = await mount.files.create(1, b".tmpAbCdEf", 0o600, os.O_RDWR | os.O_EXCL, 0, 0)
        await mount.files.write(fh, 0, b"tensors")
        await mount.rename(b".tmpAbCdEf", b"model.safetensors")
        await mount.write(b"earlier", b"1")
        await mount.files.write(fh, 7, b"...")
        await mount.files.flush(fh)
        await mount.files.release(fh)
        assert await mount.flush()
    assert lake.keys == [b"earlier", b"model.safetensors"]
    assert lake.contents()[b"model.safetensors"] == b"tensors..."


async def test_a_rename_after_publishing_is_a_copy_and_a_removal(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        await mount.write(b"a", b"content")
        ino = await mount.ino(b"a")
        assert await mount.flush()
        await mount.rename(b"a", b"b")
        assert await mount.names(b"") == [b"b"]
        assert await mount.read(b"b") == b"content"
        assert await mount.flush()
        assert lake.contents() == {b"b": b"content"}
        assert await mount.ino(b"b") == ino
        assert await mount.read(b"b") == b"content"
        assert await mount.names(b"") == [b"b"]


async def test_what_is_unlinked_is_gone_and_stays_gone(tmp_path: Path) -> None:
    lake = Lake()
    lake.store(b"old", b"1")
    async with world(tmp_path, lake) as mount:
        assert await mount.names(b"") == [b"old"]
        await mount.write(b"new", b"2")
        await mount.unlink(b"new")
        await mount.unlink(b"old")
        assert await mount.names(b"") == []
        with pytest.raises(Absent):
            await mount.ino(b"old")
        assert await mount.flush()
        assert lake.contents() == {}
        assert await mount.names(b"") == []
        assert mount.service.describe()["nodes"] == 0
        assert list((tmp_path / "staging").iterdir()) == []


async def test_an_unlinked_file_is_read_and_written_while_it_is_open(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        made, fh = await mount.files.create(1, b"scratch", 0o600, os.O_RDWR, 0, 0)
        await mount.files.write(fh, 0, b"abc")
        await mount.unlink(b"scratch")
        assert await mount.files.read(fh, 0, 10) == b"abc"
        assert mount.files.union.attributes(made.ino).size == 3
        await mount.files.flush(fh)
        await mount.files.release(fh)
        assert await mount.flush()
        assert list((tmp_path / "staging").iterdir()) == []
    assert lake.contents() == {}


class _Halting:
    """Stops the next change of the journal after it is decided and before anybody sees it."""

    def __init__(self, mount: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.decided, self.go_on = threading.Event(), threading.Event()
        change = mount.files.change
        monkeypatch.setattr(mount.files, "change", lambda *a, **how: self._halt(change, *a, **how))

    async def _halt(self, change: Any, function: Any, **how: Any) -> Any:
        def then_wait(work: Any) -> Any:
            done = function(work)
            if not self.decided.is_set():
                self.decided.set()
                self.go_on.wait()
            return done

        return await change(then_wait, **how)


async def test_an_open_file_is_known_to_be_to_whoever_removes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was opened before, and is written to, or it is not there."""
    async with world(tmp_path, Lake(), publish=False) as mount:
        ino = await mount.write(b"a", b"1")
        halting = _Halting(mount, monkeypatch)

        async def write_on() -> None:
            try:
                fh = await mount.files.open(ino, os.O_WRONLY)
            except TierfsError:
                return
            await mount.files.write(fh, 0, b"2")
            await mount.files.flush(fh)
            await mount.files.release(fh)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.unlink, b"a")
            await trio.to_thread.run_sync(halting.decided.wait, PATIENCE_S)
            nursery.start_soon(write_on)
            await trio.testing.wait_all_tasks_blocked(0.05)
            halting.go_on.set()
        assert await mount.names(b"") == []


async def test_what_is_opened_during_a_rename_does_not_change_what_was_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "WRITERS_S", 0.05)
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        ino = await mount.write(b"x.tmp", b"whole")
        at, going, go_on = mount.files._at, trio.Event(), trio.Event()

        async def halting(*args: Any) -> Any:
            going.set()
            await go_on.wait()
            return await at(*args)

        monkeypatch.setattr(mount.files, "_at", halting)

        async def write_on() -> None:
            fh = await mount.files.open(ino, os.O_WRONLY)
            await mount.files.write(fh, 0, b"longer, and not closed")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.rename, b"x.tmp", b"x")
            await going.wait()
            nursery.start_soon(write_on)
            await trio.testing.wait_all_tasks_blocked(0.05)
            go_on.set()
        with trio.fail_after(PATIENCE_S):
            assert await mount.flush()
        assert lake.contents() == {b"x": b"whole"}


async def test_directories(tmp_path: Path) -> None:
    lake = Lake()
    lake.store(b"in-lake/x", b"1")
    async with world(tmp_path, lake) as mount:
        await mount.mkdir(b"d")
        with pytest.raises(AlreadyExists):
            await mount.mkdir(b"d")
        with pytest.raises(AlreadyExists):
            await mount.mkdir(b"in-lake")
        await mount.write(b"d/x", b"1")
        with pytest.raises(NotEmpty):
            await mount.rmdir(b"d")
        with pytest.raises(NotEmpty):
            await mount.rmdir(b"in-lake")
        await mount.unlink(b"d/x")
        await mount.rmdir(b"d")
        await mount.unlink(b"in-lake/x")
        await mount.rmdir(b"in-lake")
        assert await mount.names(b"") == []
        assert await mount.flush()
        assert await mount.names(b"") == []
    assert lake.contents() == {}


async def test_a_rename_does_not_leave_its_root(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake, "a/**", "b/**") as mount:
        await mount.mkdir(b"a")
        await mount.mkdir(b"b")
        await mount.write(b"a/x", b"1")
        with pytest.raises(CrossRoot):
            await mount.rename(b"a/x", b"b/x")
        assert await mount.flush()


async def test_a_large_file_goes_up_in_parts_and_is_cached_in_place(tmp_path: Path) -> None:
    lake = Lake()
    data = os.urandom(40 * MIB + 17)
    async with world(tmp_path, lake) as mount:
        await mount.write(b"big", data)
        assert await mount.flush()
        assert lake.contents() == {b"big": data}
        gets = lake.counters.get_requests
        assert await mount.read(b"big") == data
        assert lake.counters.get_requests == gets
        stats = mount.front.stats()
        assert stats["cached_bytes"] == len(data)
        assert list((tmp_path / "staging").iterdir()) == []


async def test_another_writers_version_is_never_overwritten(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake, publish=False) as mount:
        await mount.write(b"model", b"ours")
    lake.store(b"model", b"theirs")
    async with world(tmp_path, lake) as mount:
        assert await mount.flush()
        (aside,) = mount.service.describe()["conflicts"]
        assert await mount.read(b"model") == b"theirs"
    assert lake.contents() == {b"model": b"theirs", aside.encode(): b"ours"}


async def test_attributes_travel(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        ino = await mount.write(b"a", b"1", mode=0o640)
        when = 1_600_000_000_123_456_789
        await mount.files.set_attributes(ino, {"mode": 0o600}, (when, when))
        assert await mount.flush()
        found = (await lake.head(b"a")).metadata
        assert found is not None
        assert found["mode"] == str(0o100600)
        assert found["mtime"] == "1600000000.123456789"
        shown_ = mount.files.union.attributes(ino)
        assert (shown_.mode, shown_.mtime_ns, shown_.uid) == (0o600, when, 1000)
        await mount.files.set_attributes(ino, {"mode": 0o444}, None)
        assert await mount.flush()
        found = (await lake.head(b"a")).metadata
        assert found is not None
        assert found["mode"] == str(0o100444)
        assert await mount.read(b"a") == b"1"


async def test_symbolic_links(tmp_path: Path) -> None:
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        made = await mount.files.make_link(1, b"latest", b"step-7", 0, 0)
        assert await mount.files.union.read_link(made.ino) == b"step-7"
        assert await mount.flush()
        assert await mount.files.union.read_link(await mount.ino(b"latest")) == b"step-7"
    assert lake.contents() == {b"latest": b"step-7"}
    found = (await lake.head(b"latest")).metadata
    assert found is not None
    assert int(found["mode"]) & 0o170000 == 0o120000


@pytest.mark.parametrize("again", ["replaced", "removed"])
async def test_a_link_that_is_gone_before_its_turn_was_what_it_was(
    tmp_path: Path, again: str
) -> None:
    lake = Lake()
    async with world(tmp_path, lake, publish=False) as mount:
        await mount.files.make_link(1, b"latest", b"step-1", UID, GID)
        await mount.write(b"between", b"1")
        if again == "replaced":
            await mount.files.make_link(1, b"new", b"step-2", UID, GID)
            await mount.rename(b"new", b"latest")
        else:
            await mount.unlink(b"latest")
    seen: list[Mapping[str, str] | None] = []

    async def look(op: str, key: bytes) -> None:
        if key == b"between":
            seen.append((await lake.head(b"latest")).metadata)

    lake.before = look
    async with world(tmp_path, lake) as mount:
        assert await mount.flush()
    shown = [content for key, content in lake.history if key == b"latest"]
    assert shown == [b"step-1", b"step-2" if again == "replaced" else None]
    (metadata,) = seen
    assert metadata is not None
    assert stat.S_ISLNK(int(metadata["mode"]))


async def test_a_link_whose_target_nobody_noted_is_never_an_empty_one(tmp_path: Path) -> None:
    """As a journal has it that was written before entries had targets."""
    lake = Lake()
    async with world(tmp_path, lake, publish=False) as mount:
        await mount.files.make_link(1, b"there", b"step-1", UID, GID)
        await mount.files.make_link(1, b"gone", b"step-1", UID, GID)
        await mount.write(b"between", b"1")
        await mount.unlink(b"gone")

        def forget(work: Work) -> None:
            for lsn, entry in list(work.log()):
                work.put_entry(lsn, entry._replace(target=b""))

        await mount.files.journal.change(forget)
    async with world(tmp_path, lake) as mount:
        assert not await mount.flush()
        (root,) = mount.service.describe()["roots"]
        assert root["failed_path"] == "gone"
        assert "--skip" in root["failure"]
    assert lake.contents() == {b"there": b"step-1"}


async def test_nodes_are_looked_at_slice_by_slice(tmp_path: Path) -> None:
    async with world(tmp_path, Lake(), publish=False) as mount:
        inos = [await mount.write(b"%d" % n, b"") for n in range(10)]
        chosen = inos[1::3]

        def mark(work: Work) -> None:
            for ino in chosen:
                node = work.node(ino)
                assert node is not None
                work.put_node(ino, node.marked(Flag.FRESH))

        await mount.files.journal.change(mark)

        def look(work: Work) -> tuple[list[int], int]:
            found: list[int] = []
            at: int | None = 0
            slices = 0
            while at is not None:
                some, at = work.flagged(Flag.FRESH, at, 4)
                found += some
                slices += 1
            return found, slices

        assert mount.files.journal.read(look) == (chosen, 4)


async def test_what_is_not_there_is_not_there(tmp_path: Path) -> None:
    async with world(tmp_path, Lake()) as mount:
        with pytest.raises(NotFound):
            await mount.unlink(b"x")
        with pytest.raises(NotFound):
            await mount.rename(b"x", b"y")
        with pytest.raises(NotFound):
            await mount.rmdir(b"x")


@pytest.mark.parametrize("directory", [b"new", b"in-lake"])
async def test_who_has_a_removed_directory_open_sees_what_it_is_given(
    tmp_path: Path, directory: bytes
) -> None:
    lake = Lake()
    lake.store(b"in-lake/", b"")
    async with world(tmp_path, lake, publish=False) as mount:
        await mount.mkdir(b"new")
        ino = await mount.ino(directory)
        await mount.rmdir(directory)
        for mode in (0o700, 0o711):
            await mount.files.set_attributes(ino, {"mode": mode}, (10**18, 10**18))
            found = mount.files.union.attributes(ino)
            assert (found.mode, found.mtime_ns) == (mode, 10**18)
