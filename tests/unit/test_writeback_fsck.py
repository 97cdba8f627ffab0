"""``tierfs fsck``: each inconsistency of the table is found, repaired, and gone; no byte that was
acknowledged is; and what a kill leaves is none."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct
from typing import TypeVar

import lmdb
import pytest
import trio

from tests.caching import noise
from tests.kills import Images, WatchedLake
from tests.writing import GID, UID, Lake, World, world
from tierfs import cli
from tierfs.cli.fsck import CORRECTED, FAILED, FINE, LEFT, USAGE
from tierfs.errors import CacheBusy, IndexDamaged
from tierfs.index import damage, scan, schema
from tierfs.index.index import DirectoryLock
from tierfs.index.offline import DATABASES, open_offline
from tierfs.writeback import uploads
from tierfs.writeback.findings import Records, Trouble
from tierfs.writeback.fsck import LOST_AND_FOUND, fsck
from tierfs.writeback.journal import Staged
from tierfs.writeback.records import Flag

T = TypeVar("T")

U64 = Struct(">Q")
PAIR = Struct(">QQ")

#: What `written` leaves, by path.
FILES = {
    b"a": noise(1000, 1),
    b"d/b": noise(2000, 2),
    b"d/e/c": noise(3000, 3),
    b"held.tmp": noise(4000, 4),
}
#: What the log is to bring before FILES[b"a"].
FIRST_A = noise(500, 5)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake's directory with all of `FILES`, none of it in the lake yet; one was written over."""
    directory = tmp_path_factory.mktemp("template")

    async def write() -> None:
        async with world(directory, Lake(), publish=False) as mount:
            await mount.write(b"a", FIRST_A)
            await mount.mkdir(b"d")
            await mount.mkdir(b"d/e")
            for path, data in FILES.items():
                await mount.write(path, data)

    trio.run(write)
    return directory


@pytest.fixture
def written(template: Path, tmp_path: Path) -> Path:
    """A copy of `template`."""
    return Path(shutil.copytree(template, tmp_path / "cache" / "lake"))


def change(directory: Path, function: Callable[[Records], object]) -> None:
    """Do something to the journal by hand."""

    async def run() -> None:
        with open_offline(directory) as index:
            databases = {name: index.journal.database(name) for name in DATABASES}
            await index.journal.write(lambda txn: function(Records(txn, databases)))

    trio.run(run)


def asked(directory: Path, function: Callable[[Records], T]) -> T:
    """What *function* says of the journal."""
    with open_offline(directory) as index, index.journal.read() as txn:
        return function(Records(txn, {name: index.journal.database(name) for name in DATABASES}))


def of(work: Records, name: bytes) -> int:
    """The inode number of the node that has *name*."""
    return next(ino for ino, node in work.nodes() if node.name == name)


def staged(directory: Path, size: int) -> Path:
    """The staging file of *size* bytes."""
    return next(path for path in (directory / "staging").iterdir() if path.stat().st_size == size)


# ---- damage --------------------------------------------------------------------------------------


def journal_cut_short(directory: Path) -> None:
    data = directory / "journal" / "data.mdb"
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])


def journal_overwritten(directory: Path) -> None:
    data = directory / "journal" / "data.mdb"
    data.write_bytes(noise(data.stat().st_size, 9))


def journal_removed(directory: Path) -> None:
    shutil.rmtree(directory / "journal")


def node_mangled(directory: Path) -> None:
    change(directory, lambda work: work.put_row("nodes", U64.pack(of(work, b"held.tmp")), b"x"))


def closed_node_mangled(directory: Path) -> None:
    change(directory, lambda work: work.put_row("nodes", U64.pack(of(work, b"b")), b"x"))


def directory_mangled(directory: Path) -> None:
    change(directory, lambda work: work.put_row("nodes", U64.pack(of(work, b"d")), b"\xff" * 80))


def entry_mangled(directory: Path) -> None:
    def mangle(work: Records) -> None:
        lsn = next(lsn for lsn, entry in work.log() if entry.size == len(FIRST_A))
        work.put_row("log", U64.pack(lsn), b"?" * 200)

    change(directory, mangle)


def head_mangled(directory: Path) -> None:
    change(directory, lambda work: work.put_row("heads", b"k" * 16, b"short"))


def counter_lost(directory: Path) -> None:
    change(directory, lambda work: work.drop_row("state", b"lsn"))


def counter_mangled(directory: Path) -> None:
    change(directory, lambda work: work.put_row("state", b"lsn", b"7"))


def inodes_lost(directory: Path) -> None:
    change(directory, lambda work: work.put_next_ino(1))


def node_dropped(directory: Path) -> None:
    change(directory, lambda work: work.drop_node(of(work, b"held.tmp")))


def name_lost(directory: Path) -> None:
    def lose(work: Records) -> None:
        ino = of(work, b"a")
        node = work.node(ino)
        assert node is not None
        work.unlink(node.parent, node.name)

    change(directory, lose)


def child_lost(directory: Path) -> None:
    def lose(work: Records) -> None:
        ino = of(work, b"a")
        work.drop_row("children", PAIR.pack(1, ino))

    change(directory, lose)


def child_too_many(directory: Path) -> None:
    change(directory, lambda work: work.put_row("children", PAIR.pack(1, 4711), b"ghost"))


def name_of_another(directory: Path) -> None:
    change(
        directory,
        lambda work: work.put_row("entries", U64.pack(1) + b"alias", U64.pack(of(work, b"a"))),
    )


def directory_lost(directory: Path) -> None:
    def lose(work: Records) -> None:
        ino = of(work, b"d")
        node = work.node(ino)
        assert node is not None
        work.unlink(node.parent, node.name)
        work.drop_node(ino)

    change(directory, lose)


def circle(directory: Path) -> None:
    def move(work: Records) -> None:
        outer, inner = of(work, b"d"), of(work, b"e")
        node = work.node(outer)
        assert node is not None
        work.unlink(node.parent, node.name)
        work.put_node(outer, node._replace(parent=inner))
        work.link(inner, node.name, outer)

    change(directory, move)


def content_removed(directory: Path) -> None:
    staged(directory, 2000).unlink()


def frozen_content_removed(directory: Path) -> None:
    staged(directory, len(FIRST_A)).unlink()


def content_cut(directory: Path) -> None:
    staged(directory, 2000).write_bytes(FILES[b"d/b"][:100])


def content_longer_since_the_last_boot(directory: Path) -> None:
    present = staged(directory, 2000)
    present.write_bytes(present.read_bytes() + b"!")

    def age(work: Records) -> None:
        for lsn, entry in list(work.log()):
            if entry.path == b"d/b":
                work.put_entry(lsn, entry._replace(boot=bytes(8), synced=True))

    change(directory, age)


def frozen_content_longer(directory: Path) -> None:
    staged(directory, len(FIRST_A)).write_bytes(FIRST_A + b"!")


def held_content_removed(directory: Path) -> None:
    staged(directory, 4000).unlink()


def contents_lost(directory: Path) -> None:
    def lose(work: Records) -> None:
        for key, _ in list(work.rows("contents")):
            work.drop_row("contents", key)

    change(directory, lose)


def contents_too_many(directory: Path) -> None:
    change(directory, lambda work: work.put_row("contents", PAIR.pack(99, 3), U64.pack(2)))


def upload_lost(directory: Path) -> None:
    change(directory, lambda work: work.put_part(2, Staged(1, 10, 20, b"etag")))


def heads_lost(directory: Path) -> None:
    def lose(work: Records) -> None:
        for key, _ in list(work.rows("heads")):
            work.drop_row("heads", key)

    change(directory, lose)


def tail_lost(directory: Path) -> None:
    change(directory, lambda work: work.drop_row("state", b"tail\0"))


#: What is done, and what is found of it first.
DAMAGE: dict[Callable[[Path], None], Trouble] = {
    journal_cut_short: Trouble.JOURNAL,
    journal_overwritten: Trouble.JOURNAL,
    journal_removed: Trouble.JOURNAL,
    node_mangled: Trouble.RECORD,
    closed_node_mangled: Trouble.RECORD,
    directory_mangled: Trouble.RECORD,
    entry_mangled: Trouble.RECORD,
    head_mangled: Trouble.RECORD,
    counter_lost: Trouble.LSN,
    counter_mangled: Trouble.RECORD,
    inodes_lost: Trouble.INODE,
    node_dropped: Trouble.DANGLING,
    name_lost: Trouble.DISAGREE,
    child_lost: Trouble.DISAGREE,
    child_too_many: Trouble.DISAGREE,
    name_of_another: Trouble.DISAGREE,
    directory_lost: Trouble.HOMELESS,
    circle: Trouble.HOMELESS,
    content_removed: Trouble.CONTENT,
    frozen_content_removed: Trouble.CONTENT,
    content_cut: Trouble.LENGTH,
    content_longer_since_the_last_boot: Trouble.LENGTH,
    frozen_content_longer: Trouble.LENGTH,
    held_content_removed: Trouble.FILE,
    contents_lost: Trouble.COUNT,
    contents_too_many: Trouble.COUNT,
    upload_lost: Trouble.PARTS,
    heads_lost: Trouble.HEAD,
    tail_lost: Trouble.TAIL,
}


def everything(directory: Path) -> dict[str, bytes]:
    """All that is on the disk but what opening a database leaves, by path."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name not in ("lock.mdb", "unclean", "lock", "data.mdb")
    }


def kept(directory: Path) -> set[bytes]:
    """The contents of all staging files, and of what is in lost+found."""
    lost = directory / LOST_AND_FOUND
    return {
        path.read_bytes()
        for place in (directory / "staging", lost)
        if place.exists()
        for path in place.iterdir()
    }


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_it_is_found_repaired_and_gone(
    written: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    damage(written)
    before, contents = everything(written), kept(written)
    assert run(written, "-n", "--json") == LEFT
    (report,) = json.loads(capsys.readouterr().out)
    assert {found["trouble"] for found in report["found"]} == {DAMAGE[damage].value}
    assert not any(found["repaired"] for found in report["found"])
    assert everything(written) == before
    assert run(written, "-y", "--json") == CORRECTED
    (report,) = json.loads(capsys.readouterr().out)
    assert all(found["repaired"] for found in report["found"])
    assert DAMAGE[damage].value in (written / LOST_AND_FOUND / "NOTES").read_text()
    assert contents <= kept(written)
    assert run(written) == FINE
    assert "clean" in capsys.readouterr().out
    trio.run(nothing_wrong_arrives, written)


def run(directory: Path, *flags: str) -> int:
    return cli.main(["fsck", *flags, str(directory)])


async def nothing_wrong_arrives(directory: Path) -> None:
    """It mounts, and what it had is in the lake, or kept."""
    contents, lake = kept(directory), Lake()
    async with world(directory, lake) as mount:
        if not await mount.flush():
            await retry(mount)
        assert {data for data in lake.contents().values() if data} <= {*FILES.values(), FIRST_A}
        assert contents <= {*kept(directory), *(data for _, data in lake.history if data)}
    assert not (await fsck(directory, repair=False)).found


async def test_a_record_that_makes_no_sense_is_no_mount(written: Path) -> None:
    await trio.to_thread.run_sync(node_mangled, written)
    with pytest.RaisesGroup(pytest.RaisesExc(IndexDamaged, match="tierfs fsck")):
        async with world(written, Lake()):
            pass


@pytest.mark.parametrize("frozen", [None, b"seven!!!" + b"no such permission", b"short"])
async def test_a_change_that_cannot_be_read_stops_all_roots(
    tmp_path: Path, frozen: bytes | None
) -> None:
    """Also the one whose only changes it was, and none of them elsewhere than it is stopped."""
    lake = Lake()
    async with world(tmp_path, lake, "a/**", "b/**", publish=False) as mount:
        for name in (b"a", b"b"):
            await mount.mkdir(name)
            await mount.write(name + b"/1", name)

    def mangle(work: Records) -> None:
        for lsn, entry in list(work.log()):
            if entry.root == b"b":
                work.put_row("log", U64.pack(lsn), b"?" * 200)
        if frozen:
            work.put_row("state", b"frozen\0a", frozen)

    await trio.to_thread.run_sync(change, tmp_path, mangle)
    await fsck(tmp_path, repair=True)
    assert not (await fsck(tmp_path, repair=False)).found
    stopped = await trio.to_thread.run_sync(
        asked, tmp_path, lambda work: {root: work.frozen(root) for root in (b"a", b"b")}
    )
    here, there = stopped[b"a"], stopped[b"b"]
    assert here is not None
    assert there is not None
    assert b"fsck" in there[1]
    if frozen and len(frozen) > 8:
        assert here == (U64.unpack(b"seven!!!")[0], b"no such permission")
    else:
        assert b"fsck" in here[1]
    async with world(tmp_path, lake, "a/**", "b/**") as mount:
        assert not await mount.flush()
        assert lake.history == []
        await retry(mount)
        # Nothing brings b/1 any more; its bytes are kept.
        assert lake.contents()[b"a/1"] == b"a"
        assert b"b" in kept(tmp_path)


async def retry(mount: World) -> None:
    """Go on with what is frozen, until nothing is."""

    async def told(fields: dict[str, object]) -> None:
        pass

    for _ in range(10):
        answer = await mount.service.flush(b"", wait=True, action="retry", told=told)
        if answer["durable"]:
            return
    raise AssertionError("it does not go on")


async def test_what_the_log_brings_needs_no_node(written: Path) -> None:
    await trio.to_thread.run_sync(closed_node_mangled, written)
    assert not (await fsck(written, repair=True)).moved
    lake = Lake()
    async with world(written, lake) as mount:
        assert await mount.flush()
    assert lake.contents()[b"d/b"] == FILES[b"d/b"]


async def test_what_a_file_became_since_it_was_closed_needs_its_node(written: Path) -> None:
    def content(work: Records) -> int:
        return next(entry.content for _, entry in work.log() if entry.path == b"d/b")

    present = staged(written, len(FILES[b"d/b"]))
    frozen = f"{present.name}.{await trio.to_thread.run_sync(asked, written, content)}"
    shutil.copy(present, present.with_name(frozen))
    present.write_bytes(b"since then")
    await trio.to_thread.run_sync(closed_node_mangled, written)
    (moved,) = (await fsck(written, repair=True)).moved
    assert Path(moved).read_bytes() == b"since then"
    lake = Lake()
    async with world(written, lake) as mount:
        assert await mount.flush()
    assert lake.contents()[b"d/b"] == FILES[b"d/b"]


async def test_a_change_that_is_gone_stops_what_comes_after_it(written: Path) -> None:
    frozen_content_removed(written)
    await fsck(written, repair=True)
    lake = Lake()
    async with world(written, lake) as mount:
        assert not await mount.flush()
        assert lake.history == []
        (root,) = mount.service.describe()["roots"]
        assert "fsck" in root["failure"]
        await retry(mount)
    assert lake.contents()[b"d/b"] == FILES[b"d/b"]


@pytest.mark.parametrize("renamed", ["before it is written", "while it is written"])
async def test_what_was_written_since_under_another_name_is_kept(
    tmp_path: Path, renamed: str
) -> None:
    """What was closed is damaged, but not the file that it has become, which was never closed."""
    lake, closed, since = Lake(), noise(500, 1), noise(700, 2)
    lake.store(b"a", b"before")
    async with world(tmp_path, lake, publish=False) as mount:
        await mount.write(b"a", closed)
        await mount.write(b"other", b"other")
        if renamed == "before it is written":
            await mount.rename(b"a", b"b")
            await mount.files.set_attributes(await mount.ino(b"b"), {"mode": 0o600}, None)
            fh = await mount.files.open(await mount.ino(b"b"), os.O_WRONLY)
            await mount.files.write(fh, 0, since)
        else:
            fh = await mount.files.open(await mount.ino(b"a"), os.O_WRONLY)
            await mount.files.write(fh, 0, since)
            await mount.rename(b"a", b"b")
    await trio.to_thread.run_sync(staged(tmp_path, len(closed)).write_bytes, closed + b"!")
    report = await fsck(tmp_path, repair=True)
    assert {finding.trouble for finding in report.found} == {Trouble.LENGTH}
    assert [Path(path).read_bytes() for path in report.moved] == [closed + b"!"]
    async with world(tmp_path, lake) as mount:
        assert not await mount.flush()
        assert lake.history == []
        assert await mount.read(b"b") == since
        await retry(mount)
        assert await mount.read(b"b") == since
        assert b"b" not in lake.contents()
        assert mount.service.describe()["never_closed"] == 1
        fh = await mount.files.open(await mount.ino(b"b"), os.O_WRONLY)
        await mount.files.flush(fh)
        await mount.files.release(fh)
        assert await mount.flush()
        assert mount.service.describe()["conflicts"] == []
    assert lake.contents().pop(b"b") == since


@pytest.mark.parametrize("directory", [False, True])
async def test_what_is_gone_is_gone_under_its_other_names(
    tmp_path: Path, *, directory: bool
) -> None:
    """What the lake has at its first one is not taken for it."""
    lake, closed = Lake(), noise(500, 1)
    lake.store(b"d/a", b"before")
    async with world(tmp_path, lake, publish=False) as mount:
        await mount.write(b"d/a", closed)
        await mount.write(b"other", b"other")
        await mount.rename(*((b"d", b"e") if directory else (b"d/a", b"d/b")))
    await trio.to_thread.run_sync(staged(tmp_path, len(closed)).unlink)
    report = await fsck(tmp_path, repair=True)
    assert {finding.trouble for finding in report.found} == {Trouble.CONTENT, Trouble.FILE}
    async with world(tmp_path, lake) as mount:
        assert not await mount.flush()
        await retry(mount)
        assert mount.service.describe()["conflicts"] == []
        await mount.namespace.refresh(b"")
        assert await mount.names(b"d") == [b"a"]
        assert not directory or await mount.names(b"e") == []
    files = {key: data for key, data in lake.contents().items() if not key.endswith(b"/")}
    assert files == {b"other": b"other", b"d/a": b"before"}


async def test_what_is_in_a_directory_that_has_no_name_arrives_by_its_path(written: Path) -> None:
    def unlink(work: Records) -> None:
        ino = of(work, b"d")
        node = work.node(ino)
        assert node is not None
        work.put_node(ino, node.marked(Flag.UNLINKED))

    await trio.to_thread.run_sync(change, written, unlink)
    staged(written, len(FILES[b"d/e/c"])).unlink()
    await fsck(written, repair=True)
    assert not (await fsck(written, repair=False)).found
    async with world(written, lake := Lake()) as mount:
        await retry(mount)
    assert lake.contents()[b"d/b"] == FILES[b"d/b"]


@pytest.mark.parametrize("damage", [content_cut, node_mangled, frozen_content_longer])
async def test_a_repair_that_is_cut_off_is_gone_on_with(
    written: Path, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between what it moves and what it writes to the journal."""
    await trio.to_thread.run_sync(damage, written)
    contents = kept(written)

    def cut_off(*args: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("tierfs.writeback.fsck._mend", cut_off)
        with pytest.raises(RuntimeError):
            await fsck(written, repair=True)
    assert contents <= kept(written)
    assert not (await fsck(written, repair=True)).left
    assert not (await fsck(written, repair=False)).found
    assert contents <= kept(written)


async def test_without_room_for_the_note_nothing_is_changed(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await trio.to_thread.run_sync(content_cut, written)
    (written / LOST_AND_FOUND).write_bytes(b"in the way")
    before = everything(written)
    assert await trio.to_thread.run_sync(run, written, "-y") == FAILED
    assert "File exists" in capsys.readouterr().err
    assert everything(written) == before


async def test_what_names_forgets_arrives_by_its_path(tmp_path: Path) -> None:
    """Files wait in a directory of the lake, and ``names/``, which can be deleted, is."""
    lake = Lake()
    async with world(tmp_path, lake) as mount:
        await mount.mkdir(b"d")
        await mount.write(b"d/old", b"old")
        assert await mount.flush()
        await mount.settled()
    async with world(tmp_path, lake, publish=False) as mount:
        await mount.write(b"d/new", b"new")
        await mount.write(b"d/held.tmp", b"held")
        await mount.files.make_link(*await mount.at(b"d/link"), b"new", UID, GID)
    shutil.rmtree(tmp_path / "names")
    report = await fsck(tmp_path, repair=True)
    assert {finding.trouble for finding in report.found} == {Trouble.HOMELESS}
    assert {Path(path).read_bytes() for path in report.moved} == {b"held"}
    async with world(tmp_path, lake) as mount:
        assert await mount.flush()
        assert await mount.read(b"d/new") == b"new"
    assert lake.contents()[b"d/link"] == b"new"


# ---- no inconsistency ----------------------------------------------------------------------------


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(uploads, "PART_BYTES", 1 << 20)
    yield
    for images in set(Images.running):
        images.stop()


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("publish", [False, True])
async def test_what_a_kill_leaves_is_clean(tmp_path: Path, *, publish: bool) -> None:
    lake = WatchedLake()
    (tmp_path / "images").mkdir()
    images = Images(tmp_path / "cache", lake, tmp_path / "images")
    async with world(tmp_path / "cache", lake, publish=publish) as mount:
        script = images.script
        await script.mkdir(mount, b"d")
        await script.write(mount, b"d/large", noise((2 << 20) + 5, 1))
        await script.write(mount, b"latest", b"1")
        await script.write(mount, b"d/x", b"x")
        await script.write(mount, b"latest", b"22")
        await script.write(mount, b"d/y.tmp", b"yyy")
        await script.rename(mount, b"d/y.tmp", b"d/y")
        await script.rename(mount, b"d/x", b"d/z")
        await script.rename(mount, b"d", b"e")
        await script.symlink(mount, b"latest", b"link")
        await script.unlink(mount, b"e/z")
        await script.write(mount, b"e/large", noise((2 << 20) + 6, 2))
        if publish:
            assert await mount.flush()
        images.stop()
    assert len(images.taken) > 15
    for image in images.taken:
        report = await fsck(image.directory, repair=False)
        assert not report.found, f"{image.point}: {report.found}"
        shutil.rmtree(image.directory)


async def test_what_a_kill_leaves_is_counted_and_left_to_the_next_mount(written: Path) -> None:
    for name in ("00000000000000ff", "00000000000000ff.3", "00000000000000fe.new"):
        (written / "staging" / name).write_bytes(b"")
    report = await fsck(written, repair=True)
    assert (report.found, report.leftovers) == ([], 3)
    assert (written / "staging" / "00000000000000fe.new").exists()
    async with world(written, Lake(), publish=False):
        pass
    assert (await fsck(written, repair=False)).leftovers == 0


async def test_a_file_that_was_written_on_after_a_close_is_no_inconsistency(written: Path) -> None:
    """Through another descriptor of the handle, which a native front is not told of."""
    grown = FILES[b"d/b"] + b"written on"
    staged(written, len(FILES[b"d/b"])).write_bytes(grown)
    report = await fsck(written, repair=True)
    assert (report.found, report.moved) == ([], [])
    assert grown in kept(written)


async def test_an_unlinked_file_is_no_inconsistency(written: Path) -> None:
    def unlink(work: Records) -> None:
        ino = of(work, b"held.tmp")
        node = work.node(ino)
        assert node is not None
        work.unlink(node.parent, node.name)
        work.put_node(ino, node.marked(Flag.UNLINKED))

    await trio.to_thread.run_sync(change, written, unlink)
    assert not (await fsck(written, repair=False)).found


# ---- the command ---------------------------------------------------------------------------------


def test_what_is_mounted_is_refused(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = DirectoryLock(written)
    try:
        with pytest.raises(CacheBusy):
            trio.run(lambda: fsck(written, repair=True))
        assert run(written.parent) == FAILED
        assert re.search(r"process \d+ has the same lake mounted", capsys.readouterr().err)
    finally:
        lock.release()


def out_of_memory(directory: Path, patch: pytest.MonkeyPatch) -> None:
    script = directory.parent.parent / "scan.py"
    text = Path(scan.__file__).read_text()
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))\n"
    script.write_text(text.replace("import lmdb\n", limit + "import lmdb\n", 1))
    patch.setattr(damage, "_SCAN", script)


def oom_killed(directory: Path, patch: pytest.MonkeyPatch) -> None:
    script = directory.parent.parent / "scan.py"
    script.write_text("import os\nos.kill(os.getpid(), 9)")
    patch.setattr(damage, "_SCAN", script)


def no_python(directory: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(damage, "_SCAN", directory / "no_such_script.py")


def another_version(directory: Path, patch: pytest.MonkeyPatch) -> None:
    rewrite_meta(directory, "journal", schema.FORMAT_VERSIONS["journal"] + 1)


def another_name(directory: Path, patch: pytest.MonkeyPatch) -> None:
    rewrite_meta(directory, "cache", schema.FORMAT_VERSIONS["journal"])


def rewrite_meta(directory: Path, name: str, version: int) -> None:
    with lmdb.Environment(str(directory / "journal"), max_dbs=16, lib_version=0) as raw:
        meta = raw.open_db(b"meta")
        with raw.begin(write=True) as txn:
            txn.put(schema.META_KEY, schema.pack_meta(name, "lake", 0, version=version), db=meta)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (out_of_memory, "Cannot allocate memory"),
        (oom_killed, "status -9"),
        (no_python, "No such file"),
        (another_version, "format version"),
        (another_name, "it is 'cache'"),
    ],
)
def test_a_journal_that_cannot_be_judged_stays_where_it_is(
    written: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    what: Callable[[Path, pytest.MonkeyPatch], None],
    says: str,
) -> None:
    what(written, monkeypatch)
    before = everything(written)
    assert run(written, "-y") == FAILED
    assert says in capsys.readouterr().err
    assert everything(written) == before


def test_all_lakes_of_a_cache_are_checked(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(written, written.parent / "other")
    content_removed(written.parent / "other")
    assert run(written.parent) == LEFT
    text = capsys.readouterr().out
    assert str(written) in text
    assert "content that is gone: d/b" in text
    assert "tierfs fsck -y repairs it" in text


@pytest.mark.parametrize("argv", [[], ["-n", "-y", "x"], ["--jsn", "x"], ["x", "y"]])
def test_asked_wrongly(argv: list[str]) -> None:
    assert cli.main(["fsck", *argv]) == USAGE


def test_where_there_is_no_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == FAILED
    assert run(tmp_path / "missing") == FAILED
    assert "no lake has been cached there" in capsys.readouterr().err


def test_the_table_has_a_row_for_each_kind() -> None:
    text = Path(fsck.__globals__["__file__"]).with_name("README.md").read_text()
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert rows[1:] == [trouble.value for trouble in Trouble]
