"""Writing to a directory: what only a file system can get wrong."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import tierfs.lake.local_files
from tests.lake_conformance import listing
from tests.lake_writing_conformance import body_of, crc, file_of, put, store_part
from tierfs.errors import (
    IntegrityError,
    InvalidRequest,
    LakeDenied,
    LakeMissing,
    LakeUnavailable,
    NotFound,
    PreconditionFailed,
)
from tierfs.lake.local import LocalLake
from tierfs.lake.writing import ABSENT, Condition, Upload

INCOMING = ".tierfs-incoming"


@asynccontextmanager
async def lake_in(root: Path) -> AsyncIterator[LocalLake]:
    lake = LocalLake(os.fsencode(root))
    try:
        yield lake
    finally:
        await lake.aclose()


async def test_what_is_being_written_is_no_key(tmp_path: Path) -> None:
    async with lake_in(tmp_path) as lake:
        upload = await lake.begin_upload(b"f")
        await store_part(lake, upload, 1, b"x")
        inside = f"{INCOMING}/{upload.upload_id.decode()}/upload"
        assert (tmp_path / inside).exists()
        (tmp_path / "link").symlink_to(inside)
        await put(lake, b"g", b"x")
        found = await lake.list_page(b"", recursive=True)
        assert [entry.key for entry in found.objects] == [b"g"]
        assert await listing(lake) == ([b"g"], [])
        for key in (INCOMING, f"{INCOMING}/", inside, "link"):
            with pytest.raises(NotFound):
                await lake.head(key.encode())
        for prefix in (f"{INCOMING}/", os.path.dirname(inside) + "/"):
            assert await listing(lake, prefix.encode(), recursive=True) == ([], [])
        for key in (INCOMING, f"{INCOMING}/", f"{INCOMING}/f"):
            with pytest.raises(InvalidRequest):
                await put(lake, key.encode(), b"")
            await lake.delete(key.encode())
        assert [u.upload_id for u in await lake.list_uploads(b"")] == [upload.upload_id]


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    async with lake_in(tmp_path) as lake:
        await put(lake, b"f", b"x", ABSENT)
        with pytest.raises(PreconditionFailed):
            await put(lake, b"f", b"y", ABSENT)
        with pytest.raises(IntegrityError):
            await lake.put(b"f", b"y", crc(b"z"))
        upload = await lake.begin_upload(b"f")
        part = await store_part(lake, upload, 1, b"y")
        await lake.complete_upload(upload, [part], crc(b"y"), 1)
        upload = await lake.begin_upload(b"f")
        await store_part(lake, upload, 1, b"y")
        await lake.abort_upload(upload)
        assert list((tmp_path / INCOMING).iterdir()) == []
        assert (tmp_path / "f").stat().st_nlink == 1


async def test_what_killed_processes_left_goes_in_time(tmp_path: Path) -> None:
    incoming = tmp_path / INCOMING
    incoming.mkdir()
    old = time.time() - 2 * 24 * 3600
    for name in ("new-1", "new-2"):
        (incoming / name).write_bytes(b"x")
    os.utime(incoming / "new-1", (old, old))
    async with lake_in(tmp_path) as lake:
        await put(lake, b"f", b"x")
    assert [path.name for path in incoming.iterdir()] == ["new-2"]


async def test_links_are_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "f").write_bytes(b"precious")
    (root / "directory").symlink_to(outside)
    (root / "file").symlink_to(outside / "f")
    async with lake_in(root) as lake:
        for key in (b"directory/f", b"directory/new", b"directory/"):
            with pytest.raises(InvalidRequest):
                await put(lake, key, b"" if key.endswith(b"/") else b"x")
            await lake.delete(key)
        await put(lake, b"file", b"new")  # Replaces the link, not what it leads to.
        assert await body_of(lake, b"file") == b"new"
    assert (outside / "f").read_bytes() == b"precious"
    assert [path.name for path in outside.iterdir()] == ["f"]


async def test_two_processes_want_a_key_absent(tmp_path: Path) -> None:
    async with lake_in(tmp_path) as one, lake_in(tmp_path) as two:
        await put(one, b"f", b"one", ABSENT)
        with pytest.raises(PreconditionFailed):
            await put(two, b"f", b"two", ABSENT)


async def test_a_file_system_without_attributes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    monkeypatch.setattr(os, "getxattr", refuse)
    async with lake_in(tmp_path) as lake:
        written = await put(lake, b"f", b"x", metadata={"a": "b"})
        assert (await lake.head(b"f")).metadata is None
        await lake.copy(b"f", written.version, b"g")


async def test_a_file_system_that_cannot_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_more: object) -> int:
        raise OSError(errno.EXDEV, "not here")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    body = os.urandom((2 << 20) + 5)
    async with lake_in(tmp_path) as lake:
        written = await put(lake, b"f", body)
        await lake.copy(b"f", written.version, b"g")
        assert await body_of(lake, b"g") == body


async def test_errors_of_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with lake_in(tmp_path / "missing") as lake:
        with pytest.raises(LakeMissing):
            await put(lake, b"f", b"x")
        with pytest.raises(LakeMissing):
            await lake.list_uploads(b"")
    async with lake_in(tmp_path) as lake:
        for number, raised in (
            (errno.ENOSPC, LakeUnavailable),
            (errno.EROFS, LakeDenied),
            (errno.EACCES, LakeDenied),
        ):

            def fail(_fd: int, number: int = number) -> None:
                raise OSError(number, os.strerror(number))

            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", fail)
                with pytest.raises(raised):
                    await put(lake, b"f", b"x")
        with pytest.raises(NotFound):
            await lake.head(b"f")


async def test_what_is_acknowledged_was_synchronised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L5: the file before it gets its name, and every directory that got a new name. Seen to fail
    with any `os.fsync` of `LocalWriter.place` or `_make` left out."""
    synced: list[str] = []
    real = os.fsync

    def watched(fd: int) -> None:
        synced.append(os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), tmp_path))
        real(fd)

    monkeypatch.setattr(os, "fsync", watched)
    async with lake_in(tmp_path) as lake:
        await put(lake, b"d/e/f", b"x")
        private = [path for path in synced if path.startswith(f"{INCOMING}/new-")]
        assert len(private) == 1
        assert synced.index(private[0]) < synced.index("d/e")
        assert [path for path in synced if path not in private] == [".", ".", "d", "d/e"]
        synced.clear()
        # Directories that are there may be another's who has only just made them.
        await put(lake, b"d/e/g", b"x")
        assert [path for path in synced if "new-" not in path] == [".", "d", "d/e"]
        synced.clear()
        await lake.delete(b"d/e/f")
        assert synced == ["d/e"]


@pytest.mark.parametrize("upload_id", [b"../..", b"upload-1", b"", b"upload-" + b"0" * 32])
async def test_uploads_that_never_were(tmp_path: Path, upload_id: bytes) -> None:
    upload = Upload(b"f", upload_id, 0)
    async with lake_in(tmp_path) as lake:
        with pytest.raises(NotFound):
            await lake.list_parts(upload)
        await lake.abort_upload(upload)


async def test_a_part_is_one_of_its_key(tmp_path: Path) -> None:
    async with lake_in(tmp_path) as lake:
        upload = await lake.begin_upload(b"f")
        with pytest.raises(NotFound):
            await lake.list_parts(Upload(b"g", upload.upload_id, 0))


async def test_a_version_of_a_directory(tmp_path: Path) -> None:
    async with lake_in(tmp_path) as lake:
        there = await put(lake, b"d/", b"")
        await put(lake, b"e/", b"")
        with pytest.raises(PreconditionFailed):
            await lake.delete(b"e/", condition=Condition(version=there.version))
        with pytest.raises(PreconditionFailed):
            await put(lake, b"e/", b"", Condition(version=there.version))
        with pytest.raises(PreconditionFailed):
            await put(lake, b"missing/", b"", Condition(version=there.version))
        await lake.delete(b"d/", condition=Condition(version=there.version))
        assert await listing(lake) == ([], [b"e/"])


async def test_a_source_that_shrinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tierfs.lake.local_files, "_copy_range", lambda *_: 0)
    async with lake_in(tmp_path) as lake:
        written = await put(lake, b"f", b"x")
        with pytest.raises(LakeUnavailable):
            await lake.copy(b"f", written.version, b"g")


async def test_files_get_the_usual_permissions(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        async with lake_in(tmp_path) as lake:
            with file_of(b"x") as content:
                await lake.put(b"d/f", content, crc(b"x"))
    finally:
        os.umask(mask)
    assert (tmp_path / "d/f").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / INCOMING).stat().st_mode & 0o777 == 0o700
