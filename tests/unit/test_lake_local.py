"""LocalLake's own matters: links, odd files, tokens, names that are not text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tierfs.errors import LakeDenied, LakeMissing, NotFound, PreconditionFailed
from tierfs.lake.local import LocalLake


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    made.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "f").write_bytes(b"secret")
    return made


async def test_links(root: Path) -> None:
    (root / "d").mkdir()
    (root / "d" / "f").write_bytes(b"content")
    (root / "good").symlink_to("d/f")
    (root / "d" / "up").symlink_to("../good")
    (root / "escape").symlink_to("../secret")
    (root / "absolute").symlink_to(root.parent / "secret")
    (root / "dir").symlink_to("d")
    (root / "dangling").symlink_to("nothing")
    (root / "circle").symlink_to("circle")
    os.mkfifo(root / "fifo")
    lake = LocalLake(os.fsencode(root))
    page = await lake.list_page(b"")
    assert [o.key for o in page.objects] == [b"good"]
    assert page.prefixes == [b"d/"]
    hidden = [b"absolute", b"circle", b"dangling", b"dir", b"escape", b"fifo"]
    assert sorted(page.unlistable) == hidden
    whole = await lake.list_page(b"", recursive=True)
    assert sorted(o.key for o in whole.objects) == [b"d/f", b"d/up", b"good"]
    for key in (b"good", b"d/up", b"d/f"):
        found = await lake.head(key)
        assert await lake.get(key, found.version, 0, 7) == b"content"
    for key in (*hidden, b"dir/f", b"d"):
        with pytest.raises(NotFound):
            await lake.head(key)
    assert (await lake.list_page(b"dir/")).objects == []
    await lake.aclose()


async def test_a_directory_that_becomes_a_link_leads_nowhere(root: Path) -> None:
    (root / "d").mkdir()
    (root / "d" / "f").write_bytes(b"mine")
    lake = LocalLake(os.fsencode(root))
    version = (await lake.head(b"d/f")).version
    (root / "d").rename(root / "e")
    (root / "d").symlink_to(root.parent / "outside")
    with pytest.raises(NotFound):
        await lake.head(b"d/f")
    with pytest.raises(PreconditionFailed):
        await lake.get(b"d/f", version, 0, 4)
    assert (await lake.list_page(b"d/")).objects == []
    await lake.aclose()


async def test_names_are_bytes(root: Path) -> None:
    name = b"caf\xe9-\xff\n"
    (root / os.fsdecode(name)).write_bytes(b"x")
    (root / os.fsdecode(b"\xfe")).mkdir()
    (root / os.fsdecode(b"\xfe") / "f").write_bytes(b"y")
    lake = LocalLake(os.fsencode(root))
    page = await lake.list_page(b"")
    assert ([o.key for o in page.objects], page.prefixes) == ([name], [b"\xfe/"])
    assert (await lake.head(b"\xfe/f")).size == 1
    found = await lake.head(name)
    assert (await lake.get_whole(name, found.version, 1))[0] == b"x"
    await lake.aclose()


async def test_every_change_makes_another_version(root: Path) -> None:
    path = root / "f"
    path.write_bytes(b"0123456789")
    lake = LocalLake(os.fsencode(root))
    versions = [(await lake.head(b"f")).version]
    status = path.stat()
    path.write_bytes(b"abcdefghij")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    versions.append((await lake.head(b"f")).version)
    (root / "g").write_bytes(b"ABCDEFGHIJ")
    os.utime(root / "g", ns=(status.st_atime_ns, status.st_mtime_ns))
    (root / "g").rename(path)
    versions.append((await lake.head(b"f")).version)
    path.write_bytes(b"short")
    versions.append((await lake.head(b"f")).version)
    assert len(set(versions)) == 4
    for old in versions[:3]:
        with pytest.raises(PreconditionFailed):
            await lake.get(b"f", old, 0, 5)
    await lake.aclose()


async def test_a_change_in_mid_read_is_seen(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root / "f"
    path.write_bytes(b"0" * 100)
    lake = LocalLake(os.fsencode(root))
    version = (await lake.head(b"f")).version
    real = os.pread

    def pread(fd: int, length: int, offset: int) -> bytes:
        body = real(fd, length, offset)
        path.write_bytes(b"1" * 101)
        return body

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(PreconditionFailed):
        await lake.get(b"f", version, 0, 100)
    await lake.aclose()


async def test_many_listings_at_once_lose_nothing(root: Path) -> None:
    """More continuations than stay open: the forgotten ones go on all the same."""
    for n in range(30):
        (root / f"f{n}").write_bytes(b"")
    lake = LocalLake(os.fsencode(root))
    before = len(os.listdir("/proc/self/fd"))
    chains = [await lake.list_page(b"", max_keys=3) for _ in range(100)]
    assert len(os.listdir("/proc/self/fd")) - before <= 2 * 64
    for page in chains:
        found = [o.key for o in page.objects]
        while page.next_token is not None:
            page = await lake.list_page(b"", token=page.next_token, max_keys=7)
            found += [o.key for o in page.objects]
        assert sorted(found) == sorted(b"f%d" % n for n in range(30))
    await lake.aclose()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_the_root(root: Path) -> None:
    lake = LocalLake(os.fsencode(root))
    await lake.check()
    missing = LocalLake(os.fsencode(root / "nothing"))
    with pytest.raises(LakeMissing, match="does not exist"):
        await missing.check()
    with pytest.raises(LakeMissing):
        await missing.list_page(b"")
    (root / "file").write_bytes(b"")
    with pytest.raises(LakeMissing):
        await LocalLake(os.fsencode(root / "file")).check()
    link = root.parent / "link"
    link.symlink_to(root)
    assert LocalLake(os.fsencode(link)).identity == lake.identity
    await lake.aclose()


async def test_refused_by_permissions(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = LocalLake(os.fsencode(root))

    def refuse(*_arguments: object, **_options: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(LakeDenied, match="Permission denied"):
        await lake.head(b"f")
    monkeypatch.undo()
    await lake.aclose()


async def test_an_empty_directory_is_listed_as_its_own_marker(root: Path) -> None:
    (root / "empty").mkdir()
    (root / "full").mkdir()
    (root / "full" / "f").write_bytes(b"x")
    lake = LocalLake(os.fsencode(root))
    page = await lake.list_page(b"empty/")
    assert [(o.key, o.size) for o in page.objects] == [(b"empty/", 0)]
    assert [o.key for o in (await lake.list_page(b"full/")).objects] == [b"full/f"]
    assert (await lake.list_page(b"nothing/")).objects == []
    await lake.aclose()
