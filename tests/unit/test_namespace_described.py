"""What whoever wrote an object noted with it, and how it comes to be what a mount shows."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.namespaces import WatchedLake, World, read_all
from tierfs.errors import InvalidRequest, LakeProtocolError, LakeUnavailable
from tierfs.index.records import ROOT_INO, Kind
from tierfs.lake.content import crc64nvme_of
from tierfs.namespace import Attributes, Namespace
from tierfs.namespace import chains as chains_module
from tierfs.namespace.described import Described, described, within

FILE, LINK = stat.S_IFREG, stat.S_IFLNK
NS = 1_000_000_000


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"mode": str(FILE | 0o640), "uid": "7", "gid": "8"}, (Kind.FILE, 0o640, 7, 8, None)),
        ({"mode": "0100640"}, (Kind.FILE, 0o640, -1, -1, None)),
        ({"mode": str(LINK | 0o777)}, (Kind.SYMLINK, 0o777, -1, -1, None)),
        ({"mode": str(FILE)}, (Kind.FILE, stat.S_ISVTX, -1, -1, None)),
        ({"mtime": "12.5"}, (Kind.FILE, 0, -1, -1, 12 * NS + NS // 2)),
        ({"mtime": "-12.000000005"}, (Kind.FILE, 0, -1, -1, -12 * NS - 5)),
        ({"mtime": "1970-01-01T01:00:01.5+01:00"}, (Kind.FILE, 0, -1, -1, NS + NS // 2)),
        ({"mtime": "1970-01-01T00:00:01.123456789Z"}, (Kind.FILE, 0, -1, -1, NS + 123456789)),
        ({"mode": str(FILE | 0o600), "uid": "4294967295"}, (Kind.FILE, 0o600, -1, -1, None)),
        ({"mode": str(FILE | 0o600), "gid": "-3"}, (Kind.FILE, 0o600, -1, -1, None)),
        ({"mode": str(stat.S_IFDIR | 0o700)}, (Kind.FILE, 0o700, -1, -1, None)),
        *(({"mode": odd}, None) for odd in ("", "x", "9" * 12, "-1", "089", "٣", "999999")),
        *(({"mtime": odd}, None) for odd in ("", "x", "9" * 12, "1e9", "nan", "1.", "٣")),
        ({"mtime": "1970-01-01T00:00:01"}, None),
        ({"tierfs-id": "1-2"}, None),
        ({}, None),
        (None, None),
    ],
)
def test_what_is_noted(metadata: Mapping[str, str] | None, said: tuple[object, ...] | None) -> None:
    found = described(metadata, Kind.FILE)
    assert found == (None if said is None else Described(*said))  # type: ignore[arg-type]


def test_a_directory_stays_one() -> None:
    found = described({"mode": str(LINK | 0o755)}, Kind.DIRECTORY)
    assert found is not None
    assert (found.kind, found.mode) == (Kind.DIRECTORY, 0o755)


def test_where_it_is_asked_for() -> None:
    wanted = within([b"run", b"a/b"])
    assert all(map(wanted, (b"run", b"run/1", b"a/b")))
    assert not any(map(wanted, (b"", b"runs", b"a", b"a/bc")))
    assert within([b""])(b"anything")
    assert not within([])(b"")


async def put(
    lake: WatchedLake, key: bytes, body: bytes = b"x", *, mode: int = 0, **noted: str
) -> None:
    metadata = {**({"mode": str(mode)} if mode else {}), **noted}
    await lake.put(key, body, crc64nvme_of(body), metadata=metadata)


async def entries(namespace: Namespace, ino: int) -> dict[bytes, Attributes]:
    return {name: found for _, name, found in await read_all(namespace, ino)}


@pytest.mark.parametrize("listed", [True, False])
async def test_what_a_listing_or_a_look_up_shows(tmp_path: Path, *, listed: bool) -> None:
    lake = WatchedLake()
    await put(lake, b"run/file", mode=FILE | 0o600, uid="7", gid="8", mtime="5")
    await put(lake, b"run/link", b"file", mode=LINK | 0o777)
    await put(lake, b"run/dir/", b"", mode=stat.S_IFDIR | 0o700, uid="9", mtime="6")
    await put(lake, b"run/plain")
    await put(lake, b"data/file", mode=FILE | 0o600)
    world = World(tmp_path, lake)
    async with world.mount(described=within([b"run"])) as namespace:
        run, data = [(await namespace.lookup(ROOT_INO, name)).ino for name in (b"run", b"data")]
        if listed:
            found, others = await entries(namespace, run), await entries(namespace, data)
        else:
            names = (b"file", b"link", b"dir", b"plain")
            found = {name: await namespace.lookup(run, name) for name in names}
            others = {b"file": await namespace.lookup(data, b"file")}
        file, link, directory, plain = (
            found[name] for name in (b"file", b"link", b"dir", b"plain")
        )
        assert file[1:7] == (Kind.FILE, 0o600, 7, 8, 1, 5 * NS)
        assert link[1:6] == (Kind.SYMLINK, 0o777, 1000, 1001, 4)
        assert directory[1:7] == (Kind.DIRECTORY, 0o700, 9, 1001, 0, 6 * NS)
        assert plain[1:5] == (Kind.FILE, 0o644, 1000, 1001)
        assert others[b"file"].mode == 0o644
        assert await namespace.read_link(link.ino) == b"file"
        with pytest.raises(InvalidRequest):
            await namespace.read_link(file.ino)
    # The index knows it all, also where nobody asks any more.
    async with world.mount() as namespace:
        lake.asked.clear()
        again = await entries(namespace, run)
        assert {name: row[:7] for name, row in again.items() if name in found} == {
            name: row[:7] for name, row in found.items()
        }
        assert lake.asked == []


async def test_each_object_is_asked_for_once(tmp_path: Path) -> None:
    lake = WatchedLake()
    for n in range(5):
        await put(lake, b"run/%d" % n, mode=FILE | 0o600)
    await put(lake, b"run/none")
    await put(lake, b"run/d/f")
    async with World(tmp_path, lake).mount(ttl_s=0.0, described=within([b""])) as namespace:
        run = (await namespace.lookup(ROOT_INO, b"run")).ino
        for expected in (7, 0, 0):
            lake.asked.clear()
            await entries(namespace, run)
            assert [kind for kind, _ in lake.asked].count("head") == expected
        await put(lake, b"run/3", b"anew", mode=FILE | 0o640)
        lake.asked.clear()
        assert (await entries(namespace, run))[b"3"].mode == 0o640
        assert lake.asked.count(("head", b"run/3")) == 1
        assert [kind for kind, _ in lake.asked].count("head") == 1


async def test_what_the_index_knows_is_not_asked_for_by_the_next_mount(tmp_path: Path) -> None:
    lake = WatchedLake()
    for n in range(5):
        await put(lake, b"run/%d" % n, mode=FILE | 0o600)
    await put(lake, b"run/d/", b"", mode=stat.S_IFDIR | 0o700)
    world = World(tmp_path, lake)
    for heads in (6, 0):
        async with world.mount(ttl_s=0.0, described=within([b"run"])) as namespace:
            run = (await namespace.lookup(ROOT_INO, b"run")).ino
            lake.asked.clear()
            found = await entries(namespace, run)
            assert [kind for kind, _ in lake.asked].count("head") == heads
            assert {row.mode for row in found.values()} == {0o600, 0o700}


async def test_other_attributes_of_the_same_bytes_show(tmp_path: Path) -> None:
    """With the next listing where the lake's time tells, and at a refresh."""
    lake = WatchedLake()
    await put(lake, b"run/f", mode=FILE | 0o600)
    await put(lake, b"run/d/", b"", mode=stat.S_IFDIR | 0o700)
    async with World(tmp_path, lake).mount(ttl_s=0.0, described=within([b"run"])) as namespace:
        run = (await namespace.lookup(ROOT_INO, b"run")).ino
        before = await entries(namespace, run)
        await put(lake, b"run/f", mode=FILE | 0o640)
        await put(lake, b"run/d/", b"", mode=stat.S_IFDIR | 0o750)
        after = await entries(namespace, run)
        assert (after[b"f"].ino, after[b"f"].mode) == (before[b"f"].ino, 0o640)
        await namespace.refresh(b"run")
        after = await entries(namespace, run)
        assert (after[b"d"].ino, after[b"d"].mode) == (before[b"d"].ino, 0o750)
        # A file that becomes a link is another inode.
        await put(lake, b"run/f", mode=LINK | 0o777)
        after = await entries(namespace, run)
        assert after[b"f"].kind is Kind.SYMLINK
        assert after[b"f"].ino != before[b"f"].ino


async def test_what_the_lake_does_not_tell_is_asked_for_again(tmp_path: Path) -> None:
    lake = WatchedLake()
    await put(lake, b"run/f", mode=FILE | 0o600)

    def refuse(kind: str, key: bytes) -> None:
        if kind == "head":
            raise LakeUnavailable("look up", key, "no answer")

    async with World(tmp_path, lake).mount(ttl_s=0.0, described=within([b"run"])) as namespace:
        run = (await namespace.lookup(ROOT_INO, b"run")).ino
        lake.before = refuse
        assert (await entries(namespace, run))[b"f"].mode == 0o644
        lake.before = lambda kind, key: None
        assert (await entries(namespace, run))[b"f"].mode == 0o600


async def test_of_a_large_directory_only_the_first_pages_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chains_module, "DESCRIBED_PAGES", 2)
    lake = WatchedLake(page_size=3)
    for n in range(9):
        await put(lake, b"run/%d" % n, mode=FILE | 0o600)
    async with World(tmp_path, lake).mount(described=within([b"run"])) as namespace:
        run = (await namespace.lookup(ROOT_INO, b"run")).ino
        found = await entries(namespace, run)
        assert [found[b"%d" % n].mode for n in range(9)] == [0o600] * 6 + [0o644] * 3


@pytest.mark.parametrize("target", [b"", b"a\0b", b"x" * 4096])
async def test_a_target_that_is_no_path_is_an_error(tmp_path: Path, target: bytes) -> None:
    lake = WatchedLake()
    await put(lake, b"run/link", target, mode=LINK | 0o777)
    async with World(tmp_path, lake).mount(described=within([b"run"])) as namespace:
        run = (await namespace.lookup(ROOT_INO, b"run")).ino
        link = await namespace.lookup(run, b"link")
        with pytest.raises(LakeProtocolError):
            await namespace.read_link(link.ino)
