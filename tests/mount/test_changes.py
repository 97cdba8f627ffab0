"""The lake changes under the mount: what is seen, when, and that versions never mix."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.mounting import Mount, wait_until

MIB = 1 << 20
Make = Callable[..., Mount]
Content = Callable[[int, int], bytes]


def replace(path: Path, data: bytes) -> None:
    """Overwrite as a store does: a new object, never a half-written one."""
    new = path.with_name(path.name + ".new-version")
    new.write_bytes(data)
    new.rename(path)


def test_refresh_shows_the_present_state_to_stat_read_and_mmap(
    mount: Make, lake: Path, content: Content
) -> None:
    (lake / "d").mkdir()
    (lake / "d" / "f").write_bytes(content(1, 2 * MIB))
    (lake / "d" / "gone").write_bytes(b"x")
    with mount("--metadata-ttl", "inf") as made:
        path = made.directory / "d" / "f"
        old_ino = path.stat().st_ino
        assert path.read_bytes() == content(1, 2 * MIB)
        assert (made.directory / "d" / "gone").exists()
        replace(lake / "d" / "f", content(2, 3 * MIB))
        (lake / "d" / "gone").unlink()
        (lake / "d" / "new").write_bytes(b"fresh")
        assert path.stat().st_size == 2 * MIB, "within the TTL the old version is what is promised"
        made.command("refresh", made.directory / "d")
        # The kernel is told by a thread of its own.
        wait_until(lambda: path.stat().st_size == 3 * MIB, "the new size")
        assert path.stat().st_ino != old_ino, "a new version is a new inode"
        assert path.read_bytes() == content(2, 3 * MIB)
        with open(path, "rb") as source, mmap.mmap(source.fileno(), 0, prot=mmap.PROT_READ) as view:
            assert view[:] == content(2, 3 * MIB)
        wait_until(lambda: not (made.directory / "d" / "gone").exists(), "the removal")
        assert (made.directory / "d" / "new").read_bytes() == b"fresh"
        assert sorted(os.listdir(made.directory / "d")) == ["f", "new"]


def test_past_the_ttl_changes_are_seen_without_asking(
    mount: Make, lake: Path, content: Content
) -> None:
    (lake / "f").write_bytes(content(1, 1000))
    with mount("--metadata-ttl", "1s", "--negative-ttl", "1s") as made:
        assert (made.directory / "f").read_bytes() == content(1, 1000)
        assert not (made.directory / "later").exists()
        replace(lake / "f", content(2, 2000))
        (lake / "later").write_bytes(b"now")
        wait_until(
            lambda: (made.directory / "f").read_bytes() == content(2, 2000), "the new version"
        )
        wait_until((made.directory / "later").exists, "the new file")


def test_an_open_handle_never_mixes_two_versions(mount: Make, lake: Path, content: Content) -> None:
    """Half of a file was read when it changes: the rest is ESTALE, not the new version's bytes."""
    old, new = content(1, 24 * MIB), content(2, 24 * MIB)
    (lake / "f").write_bytes(old)
    with mount("--link", "5,10,20,20") as made:
        fd = os.open(made.directory / "f", os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            assert os.pread(fd, 4096, 0) == old[:4096]
            replace(lake / "f", new)
            with pytest.raises(OSError) as caught:
                os.pread(fd, 4096, 16 * MIB)
            assert caught.value.errno == errno.ESTALE
        finally:
            os.close(fd)
        made.command("refresh", made.directory)
        wait_until(
            lambda: (made.directory / "f").read_bytes() == new, "the new version under the path"
        )


def test_a_whole_cached_version_outlives_its_object_for_open_handles(
    mount: Make, lake: Path, content: Content
) -> None:
    (lake / "f").write_bytes(content(1, 3 * MIB))
    with mount() as made:
        with open(made.directory / "f", "rb", buffering=0) as source:
            source.read()
            wait_until(
                lambda: os.getxattr(made.directory / "f", "user.tierfs.state") == b"cached",
                "a cached file",
            )
            (lake / "f").unlink()
            made.command("refresh", made.directory)
            os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.pread(source.fileno(), 3 * MIB, 0) == content(1, 3 * MIB)
            assert os.fstat(source.fileno()).st_size == 3 * MIB
        wait_until(lambda: not (made.directory / "f").exists(), "the removal")


def test_refresh_returns_when_the_kernel_has_forgotten_every_name(mount: Make, lake: Path) -> None:
    names = [f"{n:04}" for n in range(1500)]
    for name in names:
        (lake / name).write_bytes(b"old")
    with mount("--metadata-ttl", "inf") as made:
        for name in names:
            assert (made.directory / name).stat().st_size == 3
        for name in names:
            replace(lake / name, b"newer")
        made.command("refresh", made.directory)
        # The names announced last first: they are the ones that may lag behind.
        sizes = [(made.directory / name).stat().st_size for name in reversed(names)]
        assert sizes == [5] * len(names)


@pytest.mark.parametrize("mode", ["r+b", "wb"])
def test_what_others_have_replaced_is_written_over(mount: Make, lake: Path, mode: str) -> None:
    """open(2) looks the path up a second time, and no third."""
    (lake / "w").mkdir()
    (lake / "w" / "latest").write_bytes(b"first")
    # Long enough that the lake is not asked again, unless its bytes turn out to be gone.
    with mount("--write-back", "w/**", "--metadata-ttl", "30s" if mode == "r+b" else "0s") as made:
        path = made.directory / "w" / "latest"
        assert path.read_bytes() == b"first"
        made.command("evict", path)
        (lake / "w" / "next").write_bytes(b"second")
        (lake / "w" / "next").rename(lake / "w" / "latest")
        with path.open(mode) as file:
            file.write(b"SEC")
        assert path.read_bytes() == (b"SECond" if mode == "r+b" else b"SEC")
        made.command("flush", made.directory, "--wait")
        assert (lake / "w" / "latest").read_bytes() == path.read_bytes()
