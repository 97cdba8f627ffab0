"""Write-back directories whose files the kernel reads and writes by itself: the test is the kernel,
and writes to the staging files."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import threading
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from tests.writing import GID, PATIENCE_S, UID, Lake, World, world
from tierfs.cache.blocks import checksum_of
from tierfs.cache.space import DiskSpace
from tierfs.control import handed, wire
from tierfs.control.handed import Answer, HandedOver
from tierfs.control.wire import Ask, Request
from tierfs.errors import StagingFull
from tierfs.fs.changes import Changes
from tierfs.fs.view import View
from tierfs.index.records import ROOT_INO
from tierfs.lake.protocol import ChecksumKind
from tierfs.lake.writing import Written
from tierfs.writeback import by_front, contents, journal, passed, publisher
from tierfs.writeback.holds import Holds
from tierfs.writeback.journal import Work
from tierfs.writeback.passed import PassedThrough
from tierfs.writeback.reading import OpenHandle
from tierfs.writeback.records import Flag
from tierfs.writeback.staging import Staging

MOUNT, ANOTHER = b"0" * 16, b"1" * 16
RW = os.O_RDWR


class Kernel:
    """Requests and bytes of one mount. Numbers of requests are even, as the kernel's are."""

    def __init__(self, world: World, mount: bytes) -> None:
        files = world.files
        assert isinstance(files, PassedThrough)
        self.world, self.files = world, files
        view = View(files.union, world.front, lambda ino: None)
        changes = Changes(files, view)
        self.handed = HandedOver(files, world.service.journal, changes, mount)

    def path(self, ino: int) -> Path:
        return self.files.staging.path(ino)

    async def ask(self, opcode: int, unique: int, ino: int, body: bytes) -> Answer:
        tail = wire.CALLER.pack(GID, 4242) + body
        request = Request(Ask.CHANGE, 1, 1, ino, unique, opcode, UID, 0, 0, tail)
        return await self.handed.act(request)

    async def mkdir(self, unique: int, name: bytes) -> Answer:
        return await self.ask(9, unique, ROOT_INO, struct.pack("=II", 0o755, 0) + name + b"\0")

    async def create(self, unique: int, name: bytes, data: bytes = b"") -> int:
        """A new file with *data*, open; its inode number."""
        body = struct.pack("=IIII", RW | os.O_CREAT | os.O_EXCL, 0o644, 0o022, 0) + name + b"\0"
        answer = await self.ask(35, unique, ROOT_INO, body)
        assert (answer.errno, answer.count) == (0, 1), os.strerror(answer.errno)
        ino: int = wire.ATTRIBUTES.unpack(answer.tail)[0]
        self.write(ino, data)
        return ino

    async def open(self, unique: int, ino: int, flags: int) -> Answer:
        return await self.ask(14, unique, ino, struct.pack("=II", flags, 0))

    def write(self, ino: int, data: bytes, at: int = 0) -> None:
        """Through whatever handle there is: its backing file."""
        with open(self.path(ino), "r+b") as file:
            os.pwrite(file.fileno(), data, at)

    async def close(self, unique: int, ino: int, *, flush: int = 1000) -> None:
        await self.ask(25, unique + flush, ino, b"")
        await self.released(unique)

    async def released(self, unique: int) -> None:
        left = self.handed.released(unique)
        if left is not None:
            await left()

    async def unlink(self, unique: int, name: bytes) -> Answer:
        return await self.ask(10, unique, ROOT_INO, name + b"\0")

    async def save(self, unique: int, name: bytes, data: bytes) -> int:
        ino = await self.create(unique, name, data)
        await self.close(unique, ino)
        return ino


@contextlib.asynccontextmanager
async def kernel(
    directory: Path,
    lake: Lake,
    *rules: str,
    mount: bytes = MOUNT,
    in_use: Collection[int] = (),
    **how: Any,
) -> AsyncIterator[Kernel]:
    async with world(
        directory, lake, *rules, directories=PassedThrough, mount=mount, in_use=in_use, **how
    ) as made:
        yield Kernel(made, mount)


async def test_what_is_written_past_us_is_published_at_its_close(tmp_path: Path) -> None:
    lake = Lake()
    async with kernel(tmp_path, lake) as k:
        await k.save(2, b"a", b"one")
        assert await k.world.flush()
    assert lake.contents() == {b"a": b"one"}


async def test_a_close_without_a_change_is_no_commit_point(tmp_path: Path) -> None:
    async with kernel(tmp_path, Lake(), publish=False) as k:
        ino = await k.save(2, b"a", b"one")
        lsn = k.world.service.journal.read(lambda work: work.next_lsn())
        await k.open(4, ino, RW)
        await k.close(4, ino)
        assert k.world.service.journal.read(lambda work: work.next_lsn()) == lsn
        await k.open(6, ino, RW)
        k.write(ino, b"ONE")  # The same length: only its times tell.
        await k.close(6, ino)
        assert k.world.service.journal.read(lambda work: work.next_lsn()) == lsn + 1


async def test_what_was_closed_is_kept_before_it_can_be_written_over(tmp_path: Path) -> None:
    """D4: the lake shows both, in their order."""
    lake = Lake()
    async with kernel(tmp_path, lake, publish=False) as k:
        ino = await k.save(2, b"a", b"one")
        await k.save(4, b"between", b"")
        await k.open(6, ino, RW)
        k.write(ino, b"two")
        await k.close(6, ino)
    async with kernel(tmp_path, lake) as k:
        assert await k.world.flush()
    changes = [content for key, content in lake.history if key == b"a"]
    assert changes == [b"one", b"two"]


def no_clones(*args: object) -> None:
    """As FICLONE on most file systems."""
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


async def test_an_open_waits_for_the_room_of_the_copy_while_that_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tierfs.writeback.staging.fcntl.ioctl", no_clones)
    lake, go_on, size = Lake(), trio.Event(), 300_000

    async def before(op: str, key: bytes) -> None:
        await go_on.wait()

    lake.before = before
    async with kernel(tmp_path, lake, staging_size=400_000) as k:
        ino = await k.save(2, b"a", bytes(size))
        await k.open(4, ino, os.O_RDONLY)
        room = k.world.service.room
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(k.open, 6, ino, RW)
                while not room.waiting:
                    await trio.sleep(0.01)
                go_on.set()
            assert room.account.used_bytes <= 400_000
            k.write(ino, b"new")
            await k.close(6, ino)
            assert await k.world.flush()
        assert room.refused == 0
    assert [content for _, content in lake.history] == [bytes(size), b"new" + bytes(size - 3)]


async def test_what_is_open_and_finds_no_room_for_its_copy_is_published_when_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tierfs.writeback.staging.fcntl.ioctl", no_clones)
    monkeypatch.setattr(contents, "WRITERS_S", 0.01)
    monkeypatch.setattr(publisher, "FIRST_PAUSE_S", 0.001)
    copy, refused = os.copy_file_range, 0

    def full(*args: Any) -> int:
        nonlocal refused
        if refused < 3:
            refused += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return copy(*args)

    monkeypatch.setattr("tierfs.writeback.staging.os.copy_file_range", full)
    lake = Lake()
    async with kernel(tmp_path, lake) as k:
        ino = await k.create(2, b"a", b"one")
        await k.ask(25, 4, ino, b"")
        with trio.fail_after(PATIENCE_S):
            assert await k.world.flush()
    assert refused == 3
    assert lake.contents() == {b"a": b"one"}


async def test_sabotage_without_keeping_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*args: object, **how: object) -> None:
        pass

    monkeypatch.setattr(PassedThrough, "_before_writing", nothing)
    with pytest.raises(AssertionError):
        await test_what_was_closed_is_kept_before_it_can_be_written_over(tmp_path)


async def test_what_is_kept_is_not_kept_again_by_the_next_control_plane(tmp_path: Path) -> None:
    """T3: what was closed and is kept is not replaced by what was never closed."""
    lake = Lake()
    async with kernel(tmp_path, lake, publish=False) as k:
        ino = await k.save(2, b"a", b"closed")
        await k.save(4, b"between", b"")
        await k.open(6, ino, RW)
        k.write(ino, b"OPEN..")
    async with kernel(tmp_path, lake, publish=False, in_use=[ino]) as k:
        await k.handed.restore([OpenHandle(ino, 6, True)])
        await k.open(8, ino, RW)
        await k.close(8, ino)
        await k.close(6, ino)
    async with kernel(tmp_path, lake) as k:
        assert await k.world.flush()
    assert [content for key, content in lake.history if key == b"a"] == [b"closed", b"OPEN.."]


async def test_what_is_kept_for_a_publisher_is_not_kept_again(tmp_path: Path) -> None:
    """T3: as above, where it was kept because somebody reads it."""
    async with kernel(tmp_path, Lake(), publish=False) as k:
        ino = await k.create(2, b"a", b"closed")
        await k.ask(25, 4, ino, b"")
        node = k.world.service.journal.node(ino)
        assert node is not None
        os.close(await k.files.open_content(ino, node.content))
        k.write(ino, b"OPEN..")
        await k.open(6, ino, RW)
        assert k.files.staging.frozen_path(ino, node.content).read_bytes() == b"closed"


async def full(*args: object, **how: object) -> None:
    """Of `Staging`: no room for a copy."""
    raise StagingFull("keep what was closed", "a test")


async def test_an_open_that_fails_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with kernel(tmp_path, Lake(), publish=False) as k:
        ino = await k.save(2, b"a", b"one")
        with monkeypatch.context() as no_room:
            no_room.setattr(Staging, "freeze", full)
            open_files = len(os.listdir("/proc/self/fd"))
            assert (await k.open(4, ino, RW)).errno == errno.ENOSPC
            assert len(os.listdir("/proc/self/fd")) == open_files
        assert not k.files.in_use(ino)
        assert (await k.open(6, ino, RW)).count == 1


async def test_a_close_that_is_a_commit_point_does_not_fail_for_the_copy_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is closed is told of, whether or not a copy of it finds room beside."""
    lake = Lake()
    async with kernel(tmp_path, lake) as k:
        monkeypatch.setattr(Staging, "keep", full)
        ino = await k.create(2, b"a", b"one")
        await k.open(4, ino, RW)
        told: list[int] = []
        k.files.committed = lambda ino, since_ns: told.append(ino)
        assert (await k.ask(25, 6, ino, b"")).errno == 0
        assert told == [ino]
        await k.released(4)
        await k.released(2)
        assert await k.world.flush()
    assert lake.contents()[b"a"] == b"one"


async def test_a_reader_goes_on_with_its_file_and_an_upload_with_what_was_closed(
    tmp_path: Path,
) -> None:
    """D5: the file that a reader has is the one that is written to, so the upload gets a copy."""
    lake = Lake()
    large = os.urandom(40 << 20)
    begun, go_on = trio.Event(), trio.Event()

    async def hold(op: str, key: bytes) -> None:
        if op == "part":
            begun.set()
            await go_on.wait()

    lake.before = hold
    async with kernel(tmp_path, lake) as k:
        ino = await k.save(2, b"large", large)
        await begun.wait()
        await k.open(4, ino, os.O_RDONLY)
        with k.path(ino).open("rb") as reader:
            await k.open(6, ino, RW)
            k.write(ino, b"written over", at=20 << 20)
            assert os.pread(reader.fileno(), 12, 20 << 20) == b"written over"
            await k.save(8, b"after", b"")
            go_on.set()
            await k.close(6, ino)
            await k.released(4)
        assert await k.world.flush()
    first, second = [content for key, content in lake.history if key == b"large"]
    assert first == large
    assert second == large[: 20 << 20] + b"written over" + large[(20 << 20) + 12 :]


async def test_a_file_of_the_lakes_is_written_to_under_another_number(tmp_path: Path) -> None:
    """D6, and it is the lake's again where nobody comes for it."""
    lake = Lake()
    await lake.put(b"old", b"lake's", checksum_of(ChecksumKind.CRC64NVME, b"lake's"), metadata={})
    async with kernel(tmp_path, lake) as k:
        number = await k.world.ino(b"old")
        answer = await k.open(2, number, RW)
        assert answer.errno == errno.ESTALE
        another = await k.world.ino(b"old")
        assert another != number
        assert (await k.open(4, another, RW)).count == 1
        k.write(another, b"OURS")
        await k.close(4, another)
        assert await k.world.flush()
        assert lake.contents()[b"old"] == b"OURS's"
        assert (await k.open(6, number, os.O_RDONLY)).count == 0  # Who has it reads on.


async def test_who_comes_late_with_the_old_number_looks_the_path_up_again(tmp_path: Path) -> None:
    """D6: the lake's file has another number by now, under which it was written to."""
    lake = Lake()
    await lake.put(b"old", b"lake's", checksum_of(ChecksumKind.CRC64NVME, b"lake's"), metadata={})
    async with kernel(tmp_path, lake, publish=False) as k:
        number = await k.world.ino(b"old")
        assert (await k.open(2, number, RW)).errno == errno.ESTALE
        another = await k.world.ino(b"old")
        assert (await k.open(4, another, RW)).count == 1
        k.write(another, b"OURS")
        await k.close(4, another)
        assert (await k.open(6, number, RW)).errno == errno.ESTALE
        assert await k.world.ino(b"old") == another
        assert k.path(another).read_bytes() == b"OURS's"
    async with kernel(tmp_path, lake) as k:
        assert await k.world.flush()
    assert lake.contents()[b"old"] == b"OURS's"


async def test_what_is_written_while_an_old_number_is_copied_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above; the other one closes while the bytes are on their way."""
    lake = Lake()
    await lake.put(b"old", b"lake's", checksum_of(ChecksumKind.CRC64NVME, b"lake's"), metadata={})
    async with kernel(tmp_path, lake, publish=False) as k:
        number = await k.world.ino(b"old")
        copy, held, go_on = k.files._copy_in, trio.Event(), trio.Event()

        async def slow(*args: Any) -> None:
            held.set()
            await go_on.wait()
            await copy(*args)

        async with trio.open_nursery() as nursery:
            monkeypatch.setattr(k.files, "_copy_in", slow)
            nursery.start_soon(k.open, 2, number, RW)
            await held.wait()
            # Another one replaces it meanwhile.
            ino = await k.create(4, b"new", b"OURS")
            await k.close(4, ino)
            body = struct.pack("=Q", ROOT_INO) + b"new\0old\0"
            assert (await k.ask(12, 6, ROOT_INO, body)).errno == 0
            go_on.set()
        assert await k.world.ino(b"old") == ino
        assert list(k.path(0).parent.iterdir()) == [k.path(ino)]
    async with kernel(tmp_path, lake) as k:
        assert await k.world.flush()
    assert lake.contents()[b"old"] == b"OURS"


async def handed_over(k: Kernel, ino: int) -> None:
    """Wait until *ino* is the lake's alone."""
    with trio.fail_after(PATIENCE_S):
        while k.files.journal.node(ino) is not None or k.path(ino).exists():
            await trio.sleep(0.005)


async def test_what_was_copied_for_nobody_is_the_lakes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the number that the kernel was told of, with all that it had."""
    monkeypatch.setattr("tierfs.writeback.passed.TAKEN_S", 0.01)
    lake = Lake()
    lake.store(b"old", b"lake's")
    async with kernel(tmp_path, lake) as k, trio.open_nursery() as nursery:
        number = await k.world.ino(b"old")
        await k.files.set_xattr(number, b"user.kept", b"1")
        nursery.start_soon(k.files.expire)
        assert (await k.open(2, number, RW)).errno == errno.ESTALE
        another = await k.world.ino(b"old")
        await handed_over(k, another)
        assert await k.world.ino(b"old") == another
        assert k.files.xattr(another, b"user.kept") == b"1"
        nursery.cancel_scope.cancel()
    assert lake.history == []


async def test_what_was_copied_is_there_for_whoever_an_earlier_process_told_of_it(
    tmp_path: Path,
) -> None:
    """open(2) looks the path up again once: a second ESTALE is the caller's."""
    lake = Lake()
    lake.store(b"old", b"lake's")
    async with kernel(tmp_path, lake) as k:
        assert (await k.open(2, await k.world.ino(b"old"), RW)).errno == errno.ESTALE
        number = await k.world.ino(b"old")
    async with kernel(tmp_path, lake) as k:
        assert (await k.open(4, number, RW)).count == 1
        k.write(number, b"OURS")
        await k.close(4, number)
        assert await k.world.flush()
    assert lake.contents() == {b"old": b"OURS's"}


@pytest.mark.parametrize("mount", [MOUNT, ANOTHER])
async def test_what_an_earlier_process_copied_for_nobody_is_the_lakes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mount: bytes
) -> None:
    monkeypatch.setattr("tierfs.writeback.passed.TAKEN_S", 0.01)
    lake = Lake()
    lake.store(b"old", b"lake's")
    async with kernel(tmp_path, lake) as k:
        assert (await k.open(2, await k.world.ino(b"old"), RW)).errno == errno.ESTALE
        number = await k.world.ino(b"old")
    async with kernel(tmp_path, lake, mount=mount) as k, trio.open_nursery() as nursery:
        # Who may have written to it on another mount is gone, and so is what was written.
        assert k.path(number).exists() == (mount == MOUNT)
        nursery.start_soon(k.files.expire)
        await handed_over(k, number)
        nursery.cancel_scope.cancel()
    assert lake.history == []


async def test_what_was_left_half_written_is_no_copy_however_often_the_next_mount_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake()
    lake.store(b"old", b"lake's")
    async with kernel(tmp_path, lake) as k:
        number = await open_by_path(k, 2, b"old")
        k.write(number, b"TORN")

    async def killed(*args: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr("tierfs.writeback.service.recover", killed)
        with pytest.RaisesGroup(RuntimeError, flatten_subgroups=True, allow_unwrapped=True):
            async with kernel(tmp_path, lake, mount=ANOTHER):
                pass
    async with kernel(tmp_path, lake, mount=ANOTHER) as k:
        await handed_over(k, number)
    assert lake.contents() == {b"old": b"lake's"}


async def open_by_path(k: Kernel, unique: int, path: bytes, flags: int = RW) -> int:
    """As open(2) does: with another look at the path after ESTALE, and no third. The inode."""
    for attempt in range(2):
        ino = await k.world.ino(path)
        answer = await k.open(unique + 2 * attempt, ino, flags)
        if not answer.errno:
            assert answer.count == 1
            return ino
        assert answer.errno == errno.ESTALE
    raise AssertionError("ESTALE from open(2)")


@pytest.mark.parametrize("ttl_s", [0.0, 60.0])
async def test_a_newer_version_is_written_to_at_the_second_look(
    tmp_path: Path, ttl_s: float
) -> None:
    """The kernel knows the number of what another writer has replaced."""
    lake = Lake()
    lake.store(b"old", b"lake's")
    async with kernel(tmp_path, lake, ttl_s=ttl_s) as k:
        number = await k.world.ino(b"old")
        lake.store(b"old", b"newer")
        assert (await k.open(2, number, RW)).errno == errno.ESTALE
        another = await k.world.ino(b"old")
        assert (await k.open(4, another, RW)).count == 1
        k.write(another, b"OURS")
        await k.close(4, another)
        assert await k.world.flush()
    assert lake.contents() == {b"old": b"OURSr"}


async def test_what_has_become_old_is_made_ready_for_all_who_come(tmp_path: Path) -> None:
    """The second one finds it made ready, and takes nothing from the first."""
    lake = Lake()
    lake.store(b"old", b"lake's")
    async with kernel(tmp_path, lake, ttl_s=0.0) as k:
        number = await k.world.ino(b"old")
        lake.store(b"old", b"newer")
        for unique in (2, 4):
            assert (await k.open(unique, number, RW)).errno == errno.ESTALE
        another = await k.world.ino(b"old")
        assert list(k.files._copied) == [another]
        assert (await k.open(6, another, RW)).count == 1


async def test_a_link_in_the_place_of_a_file_stays_a_link(tmp_path: Path) -> None:
    lake = Lake()
    lake.store(b"old", b"lake's")
    async with kernel(tmp_path / "this", lake, ttl_s=0.0, described=lambda path: True) as k:
        number = await k.world.ino(b"old")
        async with world(tmp_path / "other", lake) as other:
            await other.unlink(b"old")
            await other.files.make_link(*await other.at(b"old"), b"there", UID, GID)
            assert await other.flush()
        assert (await k.open(2, number, RW)).errno == errno.ESTALE
        found = await k.world.ino(b"old")
        assert await k.files.union.read_link(found) == b"there"


@pytest.mark.parametrize("flags", [RW, RW | os.O_TRUNC])
async def test_a_number_that_the_kernel_knows_stays_a_files(tmp_path: Path, flags: int) -> None:
    """It may be asked for it at once after it was closed unwritten, and open it no third time."""
    lake = Lake()
    lake.store(b"old", b"lake's")
    async with kernel(tmp_path, lake) as k:
        known = await open_by_path(k, 2, b"old")
        await k.close(4, known)
        answer = await k.open(6, known, flags)
        if answer.errno:
            assert answer.errno == errno.ESTALE
            known = await open_by_path(k, 8, b"old", flags)
        k.write(known, b"OURS")
        for unique in (6, 8, 10):
            await k.close(unique, known, flush=1000 + unique)
        assert await k.world.flush()
    ours = b"OURS" if flags & os.O_TRUNC else b"OURS's"
    assert lake.contents() == {b"old": ours}


@pytest.mark.parametrize("change", ["renamed", "attributes"])
async def test_what_is_changed_twice_is_opened_between_the_two(tmp_path: Path, change: str) -> None:
    """Its bytes are where the first change has put them."""

    class Halting(Lake):
        copies = 0
        gate = trio.Event()

        async def copy(self, *args: Any, **how: Any) -> Written:
            self.copies += 1
            if self.copies == 2:
                await self.gate.wait()
            return await super().copy(*args, **how)

    lake = Halting()
    lake.store(b"a", b"weights")
    async with kernel(tmp_path, lake) as k:
        path = b"a"
        if change == "renamed":
            await k.world.rename(b"a", b"b")
            await k.world.rename(b"b", b"c")
            path = b"c"
        else:
            ino = await k.world.ino(b"a")
            await k.files.set_attributes(ino, {"mode": 0o600}, None)
            await k.files.set_attributes(ino, {}, (10**18, 10**18))
        with trio.fail_after(PATIENCE_S):
            while lake.copies < 2:
                await trio.sleep(0.005)
        ino = await open_by_path(k, 2, path)
        assert k.path(ino).read_bytes() == b"weights"
        lake.gate.set()
        assert await k.world.flush()
        await k.close(4, ino)
    assert lake.contents() == {path: b"weights"}


async def test_what_is_copied_is_not_handed_over_before_who_wants_it_comes(
    tmp_path: Path,
) -> None:
    lake = Lake()
    lake.store(b"a", b"weights")
    async with kernel(tmp_path, lake) as k:
        ino = await k.world.ino(b"a")
        await k.files.set_attributes(ino, {"mode": 0o600}, None)
        assert (await k.open(2, ino, RW)).errno == errno.ESTALE
        assert await k.world.flush()
        await k.world.service._adopter.adopt_all()
        assert (await k.open(4, await k.world.ino(b"a"), RW)).count == 1


async def test_a_request_is_acted_on_once(tmp_path: Path) -> None:
    """U7, also while the first one is under way."""
    async with kernel(tmp_path, Lake(), publish=False) as k:
        answers: list[Answer] = []

        async def ask() -> None:
            answers.append(await k.mkdir(2, b"d"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
        answers.append(await k.mkdir(2, b"d"))
        assert [answer.errno for answer in answers] == [0, 0, 0]
        assert len({answer.tail for answer in answers}) == 1
        assert (await k.mkdir(4, b"d")).errno == errno.EEXIST


async def test_who_goes_away_does_not_take_back_what_was_begun(tmp_path: Path) -> None:
    """U9; and is not answered."""
    async with kernel(tmp_path, Lake(), publish=False) as k:
        answers: list[Answer] = []

        async def ask() -> None:
            answers.append(await k.mkdir(2, b"d"))

        with held() as hold:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(k.files.journal.change, hold)
                nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
                hold.go_on.set()
        assert not answers
        await ask()
        assert (answers[0].errno, await k.world.names(b"")) == (0, [b"d"])


class Hold:
    """A change that does nothing until it is told to go on."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, work: Work) -> None:
        self.begun.set()
        assert self.go_on.wait(PATIENCE_S)

    async def is_reached(self) -> None:
        assert await trio.to_thread.run_sync(self.begun.wait, PATIENCE_S)


@contextlib.contextmanager
def held() -> Iterator[Hold]:
    hold = Hold()
    try:
        yield hold
    finally:
        hold.go_on.set()


async def test_a_close_is_over_when_it_is_told(tmp_path: Path) -> None:
    """So that room is free for whoever removes the file right after it."""
    async with kernel(tmp_path, Lake(), publish=False) as k:
        ino = await k.create(2, b"a", b"one")
        await k.ask(25, 1002, ino, b"")
        assert k.handed.released(2) is None
        assert not k.files.in_use(ino)
        assert k.handed.released(2) is None  # Told again.
        await k.unlink(4, b"a")
        assert not k.path(ino).exists()


async def test_a_close_that_is_a_commit_point_comes_before_what_is_asked_next(
    tmp_path: Path,
) -> None:
    async with kernel(tmp_path, Lake(), publish=False) as k:
        ino = await k.create(2, b"a", b"one")
        left = k.handed.released(2)
        assert left is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(k.unlink, 4, b"a")
            await trio.testing.wait_all_tasks_blocked()
            assert k.files.in_use(ino)
            await left()
            assert k.files.state_of(ino) == b"closed"
        assert not k.path(ino).exists()


async def test_a_close_that_is_a_commit_point_is_left_to_be_done(tmp_path: Path) -> None:
    async with kernel(tmp_path, Lake(), publish=False) as k:
        ino = await k.create(2, b"a", b"one")
        left = k.handed.released(2)
        assert left is not None
        assert k.files.in_use(ino)
        await left()
        assert not k.files.in_use(ino)
        assert k.files.state_of(ino) == b"closed"


@pytest.mark.parametrize("waits", [True, False])
async def test_what_was_decided_because_a_file_was_open_is_seen_by_who_closes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    """Decided, and not committed yet. Sabotage: closed without a look at who holds it, the file
    stays for ever."""
    if not waits:
        monkeypatch.setattr(Holds, "is_held", lambda self, key: False)
    async with kernel(tmp_path, Lake(), publish=False) as k:
        ino = await k.create(2, b"a", b"one")
        await k.ask(25, 1002, ino, b"")
        change = k.files.journal.change
        with held() as before, held() as after:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(change, before)
                await before.is_reached()
                nursery.start_soon(k.unlink, 4, b"a")
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(change, after)
                await trio.testing.wait_all_tasks_blocked()
                before.go_on.set()
                await after.is_reached()
                left = k.handed.released(2)
                after.go_on.set()
                if left is not None:
                    await left()
        assert (k.files.journal.node(ino) is None) == waits
        assert k.path(ino).exists() != waits


async def test_a_request_that_waits_is_not_forgotten_for_those_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handed, "MOST_REPLIES", 4)
    monkeypatch.setattr(journal, "MOST_REPLIES", 4)
    async with kernel(tmp_path, Lake(), publish=False) as k:
        arrive, go_on, waiting = k.files.arrive, trio.Event(), trio.Event()

        async def slowly(told: Any) -> None:
            if not waiting.is_set():
                waiting.set()
                await go_on.wait()
            await arrive(told)

        monkeypatch.setattr(k.files, "arrive", slowly)
        answers: list[Answer] = []

        async def ask() -> None:
            answers.append(await k.mkdir(2, b"d"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await waiting.wait()
            for n in range(10):
                assert (await k.mkdir(4 + 2 * n, b"%d" % n)).errno == 0
            # Nor would the next control plane do it again.
            known = k.world.service.journal.read(lambda work: work.replies(MOUNT))
            assert 2 in known
            assert len(known) <= 5
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            go_on.set()
        assert [answer.errno for answer in answers] == [0, 0]
        assert len(k.handed._asked) <= 5


@pytest.mark.parametrize("fine", [True, False])
async def test_what_may_be_written_in_the_same_tick_is_not_known_to_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fine: bool
) -> None:
    """By a clock that does not tell one write from the next."""
    monkeypatch.setattr(passed, "_FINE_TIMES", fine)
    monkeypatch.setattr(passed, "RACY_NS", 1 << 60)
    async with kernel(tmp_path, Lake(), publish=False) as k:
        ino = await k.create(2, b"f", b"written")
        await k.files.sync_file(ino, data_only=True)
        await k.close(2, ino)
        node = k.files.journal.node(ino)
        assert node is not None
        assert bool(node.flags & Flag.SYNCED) == fine


class Evicting:
    """A front that has files of 10 bytes, and evicts two at a time; some are in use."""

    def __init__(self, files: int, free: int) -> None:
        self.files, self.free = files, free

    async def evict_some(self, bytes_: int) -> int:
        gone = min(2, self.files)
        self.files -= gone
        self.free += 10 * gone
        return 10 * gone

    def cached_bytes(self) -> int:
        return 10 * self.files


@pytest.mark.parametrize(("wanted", "left"), [(5, 10), (75, 6), (1000, 0)])
async def test_what_is_cached_gives_way_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: int, left: int
) -> None:
    front = Evicting(10, 40)
    monkeypatch.setattr(by_front, "disk_space_of", lambda _: DiskSpace(1000, front.free))
    disk = by_front.SharedDisk(cast(Any, front), tmp_path, 0.0)
    assert disk.left_to_write() == 140
    assert await disk.give_way(wanted) == (wanted <= 140)
    assert front.files == left
    assert disk.left_to_write() == 140


async def die_and_ask_again(tmp_path: Path, mount: bytes = MOUNT) -> tuple[list[int], set[int]]:
    """A control plane makes a directory and a file and dies; errnos, and the numbers of the file,
    of asking for the same on *mount*."""
    lake = Lake()
    async with kernel(tmp_path, lake, publish=False) as k:
        assert (await k.mkdir(2, b"d")).errno == 0
        ino = await k.create(4, b"f", b"written")
    body = struct.pack("=IIII", RW | os.O_CREAT | os.O_EXCL, 0o644, 0o022, 0) + b"f\0"
    async with kernel(tmp_path, lake, mount=mount, in_use=[ino], publish=False) as k:
        again = await k.mkdir(2, b"d")
        file = await k.ask(35, 4, ROOT_INO, body)
        numbers = {ino}
        if not file.errno:
            numbers.add(wire.ATTRIBUTES.unpack(file.tail)[0])
            await k.close(4, ino)
            assert k.files.union.attributes(ino).size == 7
        return [again.errno, file.errno], numbers


async def test_a_request_that_a_dead_control_plane_did_is_not_done_again(tmp_path: Path) -> None:
    """U8."""
    errnos, numbers = await die_and_ask_again(tmp_path)
    assert errnos == [0, 0]
    assert len(numbers) == 1


async def test_extended_attributes_are_not_set_or_removed_twice_either(tmp_path: Path) -> None:
    lake, create = Lake(), 1

    async def ask(k: Kernel, ino: int) -> list[int]:
        made = struct.pack("=II", 1, create) + b"user.made\0x"
        answers = [await k.ask(21, 1002, ino, made), await k.ask(24, 1004, ino, b"user.gone\0")]
        return [answer.errno for answer in answers]

    async with kernel(tmp_path, lake, publish=False) as k:
        ino = await k.save(2, b"a", b"one")
        gone = struct.pack("=II", 1, create) + b"user.gone\0x"
        assert (await k.ask(21, 1000, ino, gone)).errno == 0
        assert await ask(k, ino) == [0, 0]
    async with kernel(tmp_path, lake, publish=False) as k:
        assert await ask(k, ino) == [0, 0]
        assert k.files.xattrs(ino) == [b"user.made"]
    async with kernel(tmp_path, lake, mount=ANOTHER, publish=False) as k:
        assert await ask(k, ino) == [errno.EEXIST, errno.ENODATA]


async def test_what_a_dead_control_plane_did_is_waited_for_all_the_same(tmp_path: Path) -> None:
    """Where the rule says so."""
    lake, rule = Lake(), "**,durability=lake"
    async with kernel(tmp_path, lake, rule, publish=False) as k:
        assert (await k.mkdir(2, b"d")).errno == 0
    assert lake.contents() == {}
    shown, go_on, answers = trio.Event(), trio.Event(), list[Answer]()

    async def slowly(op: str, key: bytes) -> None:
        shown.set()
        await go_on.wait()

    lake.before = slowly
    async with kernel(tmp_path, lake, rule) as k, trio.open_nursery() as nursery:

        async def ask() -> None:
            answers.append(await k.mkdir(2, b"d"))

        nursery.start_soon(ask)
        await shown.wait()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert answers == []
        go_on.set()
    assert [answer.errno for answer in answers] == [0]
    assert lake.contents() == {b"d/": b""}


async def test_requests_of_another_mount_are_others(tmp_path: Path) -> None:
    errnos, _ = await die_and_ask_again(tmp_path, ANOTHER)
    assert errnos == [errno.EEXIST, errno.EEXIST]


async def test_sabotage_without_a_record_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Work, "put_reply", lambda *_, **__: None)
    assert (await die_and_ask_again(tmp_path))[0] == [errno.EEXIST, errno.EEXIST]


async def test_handles_outlive_the_control_plane(tmp_path: Path) -> None:
    """D7: what they wrote is published when they are closed, and what is gone counts no more."""
    lake = Lake()
    async with kernel(tmp_path, lake) as k:
        kept = await k.create(2, b"kept", b"one")
        gone = await k.create(4, b"gone", b"closed by a process that died with its front")
    k_handles = [OpenHandle(kept, 2, True), OpenHandle(gone, 4, True)]
    async with kernel(tmp_path, lake, in_use=[kept, gone]) as k:
        await k.handed.restore(k_handles)
        k.write(kept, b" two", at=3)
        await k.handed.reconcile([k_handles[0], OpenHandle(0, 6, False)])
        assert k.files.open_handles == 1
        await k.close(2, kept)
        assert await k.world.flush()
    assert lake.contents()[b"kept"] == b"one two"


async def test_a_close_of_a_handle_that_nobody_told_of_is_a_commit_point(tmp_path: Path) -> None:
    lake = Lake()
    async with kernel(tmp_path, lake, publish=False) as k:
        ino = await k.create(2, b"a", b"written")
        old = await k.save(4, b"old", b"closed")
    async with kernel(tmp_path, lake, in_use=[ino, old]) as k:
        k.write(old, b"OPEN..")
        for inode in (ino, old):
            assert (await k.ask(25, 6 + inode * 2, inode, b"")).errno == 0
            assert not k.files.in_use(inode)
        assert (await k.ask(25, 4242, ROOT_INO, b"")).errno == 0
        assert await k.world.flush()
    assert lake.contents() == {b"a": b"written", b"old": b"OPEN.."}


async def test_what_is_open_is_left_as_it_is_at_the_start(tmp_path: Path) -> None:
    """Recovery puts what was closed in the place of what was not, but not under who has it open."""
    async with kernel(tmp_path, Lake(), publish=False) as k:
        ino = await k.save(2, b"a", b"closed")
        await k.open(4, ino, RW)
        k.write(ino, b"OPEN..")
    async with kernel(tmp_path, Lake(), publish=False, in_use=[ino]) as k:
        assert k.path(ino).read_bytes() == b"OPEN.."
    async with kernel(tmp_path, Lake(), publish=False) as k:
        assert k.path(ino).read_bytes() == b"closed"


@pytest.mark.parametrize(
    ("opcode", "body"),
    [(9, b""), (9, b"\0" * 8 + b"no end"), (12, b"\0" * 8 + b"one\0"), (21, b"x"), (4, b"short")],
)
async def test_a_request_that_is_none_is_refused(tmp_path: Path, opcode: int, body: bytes) -> None:
    async with kernel(tmp_path, Lake(), publish=False) as k:
        assert (await k.ask(opcode, 2, ROOT_INO, body)).errno == errno.EINVAL


async def test_set_user_id_goes_with_anothers_write(tmp_path: Path) -> None:
    """SETATTR with nothing set is what the kernel sends then."""
    async with kernel(tmp_path, Lake(), publish=False) as k:
        ino = await k.save(2, b"a", b"x")
        mode = struct.pack("=IIQQQQQQIIIIIIII", 1, 0, *[0] * 6, 0, 0, 0, 0o6755, 0, 0, 0, 0)
        assert (await k.ask(4, 4, ino, mode)).errno == 0
        nothing = struct.pack("=IIQQQQQQIIIIIIII", *[0] * 16)
        assert (await k.ask(4, 6, ino, nothing)).errno == 0
        assert k.files.union.attributes(ino).mode == 0o755
