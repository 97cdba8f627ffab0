"""The names environment: what reads show after which writes, and that nothing leaks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.index_checks import names_findings
from tierfs.errors import InvalidRequest, NotFound
from tierfs.index import names_apply
from tierfs.index.environments import Environment
from tierfs.index.names import DATABASES, Names, NamesBatch
from tierfs.index.records import (
    ROOT_INO,
    Dentry,
    Hidden,
    HiddenReason,
    Inode,
    Kind,
    Listing,
    ListingState,
    ObjectRef,
)
from tierfs.lake.protocol import Version

REF = ObjectRef(b"some/key", Version(b'"etag"', b"v1"), False, True)


def open_env(path: Path) -> Environment:
    return Environment(path, name="names", databases=DATABASES, lake="file:///lake")


@pytest.fixture
def env(tmp_path: Path) -> Iterator[Environment]:
    env = open_env(tmp_path / "names")
    yield env
    env.close()


@pytest.fixture
def names(env: Environment) -> Names:
    return Names(env)


def directory(parent: int) -> Inode:
    return Inode(Kind.DIRECTORY, 0, -1, -1, 0, 0, parent)


def file(parent: int, size: int = 100) -> Inode:
    return Inode(Kind.FILE, 0, -1, -1, size, 7, parent)


def put_directory(batch: NamesBatch, parent: int, name: bytes, ino: int) -> None:
    batch.put_entry(parent, name, ino, directory(parent), None, 1)


def put_file(batch: NamesBatch, parent: int, name: bytes, ino: int, size: int = 100) -> None:
    batch.put_entry(parent, name, ino, file(parent, size), REF, 1)


async def tree(names: Names, files: int = 10) -> None:
    """Directory 20 with *files* files from 100 on, and 21 inside it with one file, 22."""
    batch = NamesBatch()
    put_directory(batch, ROOT_INO, b"dir", 20)
    for n in range(files):
        put_file(batch, 20, b"f%05d" % n, 100 + n)
    put_directory(batch, 20, b"sub", 21)
    put_file(batch, 21, b"deep", 22)
    batch.put_listing(21, Listing(ListingState.COMPLETE, 3, 1, 1, None))
    batch.put_hidden(Hidden(21, b"dir//x", HiddenReason.EMPTY_COMPONENT))
    await names.commit(batch)


async def test_everything_is_absent_at_first(names: Names) -> None:
    assert names.inode(ROOT_INO) is None
    assert names.dentry(ROOT_INO, b"x") is None
    assert names.dentries(ROOT_INO, [b"x", b"y"]) == [None, None]
    assert names.object(16) is None
    assert names.listing(ROOT_INO) == Listing(ListingState.NONE, 0, 0, 0, None)
    assert names.children(ROOT_INO, 0, 10) == []
    assert names.entries(ROOT_INO, b"", 10) == []
    assert list(names.child_inos(ROOT_INO)) == []
    assert names.hidden(10) == []
    assert names.hidden_counts() == {}
    assert (names.entry_count(), names.last_ino()) == (0, 0)
    assert names.state_get(b"k") is None


async def test_an_entry_is_seen_from_every_side(names: Names, env: Environment) -> None:
    await tree(names)
    assert names.inode(100) == file(20)
    assert names.object(100) == REF
    assert names.dentry(20, b"f00000") == Dentry(100, Kind.FILE, 1)
    assert names.dentries(20, [b"sub", b"no", b"f00003", b"sub"]) == [
        Dentry(21, Kind.DIRECTORY, 1),
        None,
        Dentry(103, Kind.FILE, 1),
        Dentry(21, Kind.DIRECTORY, 1),
    ]
    assert names.child_name(20, 103) == b"f00003"
    assert names.listing(21).state is ListingState.COMPLETE
    assert (names.entry_count(), names.last_ino()) == (13, 109)
    assert names_findings(env) == []


async def test_children_stream_in_the_order_of_inode_numbers(names: Names) -> None:
    await tree(names, files=25)
    batch = NamesBatch()
    put_file(batch, ROOT_INO, b"beside", 19)
    await names.commit(batch)
    seen = []
    after = 0
    while rows := names.children(20, after, 7):
        assert len(rows) <= 7
        seen += rows
        after = rows[-1][0]
    assert [ino for ino, _, _ in seen] == [21, *range(100, 125)]
    assert seen[0] == (21, b"sub", directory(20))
    assert seen[5] == (104, b"f00004", file(20))
    assert list(names.child_inos(20)) == [21, *range(100, 125)]
    assert names.children(20, 124, 7) == []


async def test_entries_stream_in_the_order_of_names(names: Names) -> None:
    await tree(names, files=10)
    rows = names.entries(20, b"f00007", 10)
    assert [name for name, _ in rows] == [b"f00008", b"f00009", b"sub"]
    assert names.entries(20, b"f00006", 1) == [(b"f00007", Dentry(107, Kind.FILE, 1))]


async def test_another_inode_replaces(names: Names, env: Environment) -> None:
    await tree(names)
    batch = NamesBatch()
    put_file(batch, 20, b"f00000", 500, size=7)  # A new version.
    put_file(batch, ROOT_INO, b"dir2", 501)
    put_directory(batch, ROOT_INO, b"dir2", 502)  # A file that became a directory.
    await names.commit(batch)
    assert (names.inode(100), names.object(100)) == (None, None)
    assert names.dentry(20, b"f00000") == Dentry(500, Kind.FILE, 1)
    assert names.child_name(20, 100) is None
    assert (names.inode(501), names.object(501)) == (None, None)
    assert names_findings(env) == []
    batch = NamesBatch()
    put_file(batch, ROOT_INO, b"dir", 600)  # And a directory that became a file.
    await names.commit(batch)
    assert names.inode(22) is None
    assert names_findings(env) == []


async def test_the_same_inode_is_updated(names: Names, env: Environment) -> None:
    await tree(names)
    batch = NamesBatch()
    batch.put_entry(20, b"f00000", 100, file(20, 5), None, 9)
    await names.commit(batch)
    assert names.inode(100) == file(20, 5)
    assert names.object(100) is None
    assert names.dentry(20, b"f00000") == Dentry(100, Kind.FILE, 9)
    assert names_findings(env) == []


async def test_an_inode_moves_with_its_subtree(names: Names, env: Environment) -> None:
    await tree(names)
    batch = NamesBatch()
    put_directory(batch, ROOT_INO, b"moved", 21)
    batch.remove_entry(ROOT_INO, b"dir")
    await names.commit(batch)
    assert names.dentry(21, b"deep") == Dentry(22, Kind.FILE, 1)
    assert names.children(ROOT_INO, 0, 10) == [(21, b"moved", directory(ROOT_INO))]
    assert names.entry_count() == 2
    assert names_findings(env) == []


async def test_removed_and_put_again_is_a_move(
    names: Names, env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tree(names)
    batch = NamesBatch()
    batch.remove_entry(20, b"sub")
    put_directory(batch, ROOT_INO, b"moved", 21)
    await names.commit(batch)
    assert names.dentry(21, b"deep") == Dentry(22, Kind.FILE, 1)
    assert names.listing(21).state is ListingState.NONE
    assert names_findings(env) == []
    with monkeypatch.context() as patch:
        patch.setattr(names_apply, "purge", lambda *_: False)
        batch = NamesBatch()
        batch.remove_entry(ROOT_INO, b"moved")
        await names.commit(batch)
    batch = NamesBatch()
    put_directory(batch, 20, b"back", 21)
    await names.commit(batch)
    await names.purge()
    assert names.dentry(21, b"deep") == Dentry(22, Kind.FILE, 1)
    assert names_findings(env) == []


async def test_removing_a_directory_removes_all_below(names: Names, env: Environment) -> None:
    await tree(names)
    batch = NamesBatch()
    batch.remove_entry(ROOT_INO, b"dir")
    batch.remove_entry(ROOT_INO, b"never was")
    await names.commit(batch)
    assert names.inode(20) is None
    assert names.inode(22) is None
    assert names.entry_count() == 0
    assert names.hidden_counts() == {}
    assert names_findings(env) == []


async def test_a_large_subtree_goes_in_slices(
    names: Names, env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names_apply, "PURGE_CHILDREN", 64)
    await tree(names, files=1000)
    batch = NamesBatch()
    batch.remove_entry(ROOT_INO, b"dir")
    await names.commit(batch)
    assert names.inode(20) is None
    await names.purge()
    assert names.entry_count() == 0
    assert names_findings(env) == []


async def test_without_purging_the_checks_find_the_leak(
    names: Names, env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names_apply, "purge", lambda *_: False)
    await tree(names)
    batch = NamesBatch()
    batch.remove_entry(ROOT_INO, b"dir")
    await names.commit(batch)
    assert any(finding.startswith("I2") for finding in names_findings(env))


async def test_a_purge_goes_on_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = open_env(tmp_path / "names")
    names = Names(env)
    await tree(names, files=300)
    with monkeypatch.context() as patch:
        patch.setattr(names_apply, "purge", lambda *_: False)
        batch = NamesBatch()
        batch.remove_entry(ROOT_INO, b"dir")
        await names.commit(batch)
    await env.aclose()
    env = open_env(tmp_path / "names")
    names = Names(env)
    await env.aclose()  # Which commits what is queued: the purge.
    env = open_env(tmp_path / "names")
    assert names_findings(env) == []
    assert Names(env).entry_count() == 0
    await env.aclose()


async def test_nothing_is_put_under_a_removed_directory(names: Names, env: Environment) -> None:
    """I2: a listing that ran while its directory was removed leaves nothing behind."""
    await tree(names)
    batch = NamesBatch()
    batch.remove_entry(ROOT_INO, b"dir")
    await names.commit(batch)
    late = [NamesBatch() for _ in range(5)]
    put_file(late[0], ROOT_INO, b"goes with it", 700)
    put_file(late[0], 20, b"late", 701)
    late[1].put_listing(20, Listing(ListingState.COMPLETE, 3, 1, 1, None))
    late[2].put_hidden(Hidden(20, b"dir//y", HiddenReason.EMPTY_COMPONENT))
    late[3].put_inode(100, file(20))
    late[4].put_object(100, REF)
    for batch in late:
        with pytest.raises(NotFound):
            await names.commit(batch)
    assert names.entry_count() == 0
    assert names_findings(env) == []


async def test_touch_moves_only_the_time(names: Names) -> None:
    await tree(names)
    batch = NamesBatch()
    batch.touch(20, b"sub", 99)
    batch.touch(20, b"never was", 99)
    await names.commit(batch)
    assert names.dentry(20, b"sub") == Dentry(21, Kind.DIRECTORY, 99)
    assert names.dentry(20, b"never was") is None


async def test_put_inode_keeps_the_place(names: Names, env: Environment) -> None:
    await tree(names)
    batch = NamesBatch()
    batch.put_inode(ROOT_INO, directory(ROOT_INO))
    batch.put_inode(100, file(12345, 1))
    batch.put_object(100, REF._replace(key=b"other"))
    await names.commit(batch)
    assert names.inode(100) == file(20, 1)
    assert names.object(100) == REF._replace(key=b"other")
    assert names_findings(env) == []


async def test_hidden_objects_are_counted(names: Names, env: Environment) -> None:
    batch = NamesBatch()
    put_directory(batch, ROOT_INO, b"dir", 20)
    for n in range(5):
        batch.put_hidden(Hidden(20, b"dir//%d" % n, HiddenReason.EMPTY_COMPONENT))
    batch.put_hidden(Hidden(20, b"dir//0", HiddenReason.EMPTY_COMPONENT))
    batch.put_hidden(Hidden(20, b"dir//1", HiddenReason.DOT_COMPONENT))
    batch.put_hidden(Hidden(ROOT_INO, b"x" * 1024, HiddenReason.NAME_TOO_LONG))
    await names.commit(batch)
    counts = {
        HiddenReason.EMPTY_COMPONENT: 4,
        HiddenReason.DOT_COMPONENT: 1,
        HiddenReason.NAME_TOO_LONG: 1,
    }
    assert names.hidden_counts() == counts
    assert names.hidden(1) == [Hidden(ROOT_INO, b"x" * 1024, HiddenReason.NAME_TOO_LONG)]
    assert len(names.hidden(100)) == 6
    batch = NamesBatch()
    batch.clear_hidden(20)
    batch.put_hidden(Hidden(20, b"dir//9", HiddenReason.UNLISTABLE))
    await names.commit(batch)
    assert names.hidden_counts() == {HiddenReason.NAME_TOO_LONG: 1, HiddenReason.UNLISTABLE: 1}
    assert names_findings(env) == []


@pytest.mark.parametrize("name", [b"", b"a/b", b"a\0b", b"n" * 256])
def test_names_that_no_directory_can_hold(name: bytes) -> None:
    with pytest.raises(InvalidRequest):
        put_file(NamesBatch(), ROOT_INO, name, 20)


def test_an_entry_and_its_inode_agree_on_the_parent() -> None:
    with pytest.raises(InvalidRequest):
        NamesBatch().put_entry(20, b"name", 30, file(21), REF, 1)


async def test_the_longest_names_and_any_bytes(names: Names, env: Environment) -> None:
    batch = NamesBatch()
    odd = [b"n" * 255, b"\xff\xfe", b"new\nline", b"..", b".", b" ", b"caf\xc3\xa9"]
    for n, name in enumerate(odd):
        put_file(batch, ROOT_INO, name, 20 + n)
    await names.commit(batch)
    assert [dentry.ino for dentry in names.dentries(ROOT_INO, odd) if dentry] == list(range(20, 27))
    assert names_findings(env) == []


async def test_a_batch_is_applied_whole_or_not_at_all(names: Names) -> None:
    batch = NamesBatch()
    put_file(batch, ROOT_INO, b"first", 20)
    put_file(batch, 999, b"second", 21)
    with pytest.raises(NotFound):
        await names.commit(batch)
    assert names.dentry(ROOT_INO, b"first") is None
    await names.commit(NamesBatch())


async def test_state(names: Names, env: Environment) -> None:
    await names.state_put(b"epoch", b"\0\1")
    assert names.state_get(b"epoch") == b"\0\1"
    for key in (b"", b"\0hidden\1"):
        with pytest.raises(InvalidRequest):
            await names.state_put(key, b"v")
