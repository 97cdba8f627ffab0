"""Reading through a real mount: what unmodified programs see."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.mount.mounting import Mount, forget_pages, wait_until

MIB = 1 << 20
Make = Callable[..., Mount]
Content = Callable[[int, int], bytes]

#: Around every size at which something changes: empty, one byte, a page, a block, several, and a
#: tail.
SIZES = [0, 1, 4095, 4096, 4097, 110 * 1024, MIB - 1, MIB, MIB + 1, 5 * MIB + 17]


def test_every_size_reads_back_exactly_cold_and_warm(
    mount: Make, lake: Path, content: Content
) -> None:
    for size in SIZES:
        (lake / f"f{size}").write_bytes(content(size, size))
    with mount() as made:
        for _ in range(2):
            for size in SIZES:
                path = made.directory / f"f{size}"
                assert path.stat().st_size == size
                assert path.read_bytes() == content(size, size)
        assert sorted(os.listdir(made.directory)) == sorted(f"f{size}" for size in SIZES)


def test_second_read_needs_no_byte_from_the_lake(mount: Make, lake: Path, content: Content) -> None:
    (lake / "big").write_bytes(content(1, 9 * MIB + 5))
    with mount() as made:
        assert (made.directory / "big").read_bytes() == content(1, 9 * MIB + 5)
        wait_until(
            lambda: os.getxattr(made.directory / "big", "user.tierfs.state") == b"cached",
            "the file to be cached whole",
        )
        before = made.lake_gets()
        forget_pages(made.directory / "big")
        assert (made.directory / "big").read_bytes() == content(1, 9 * MIB + 5)
        assert made.lake_gets() == before


def test_cache_survives_a_remount(mount: Make, lake: Path, content: Content) -> None:
    names = [f"d{n % 3}/s{n:03}" for n in range(60)]
    for n, name in enumerate(names):
        (lake / name).parent.mkdir(exist_ok=True)
        (lake / name).write_bytes(content(n, 5000 + n))
    inodes = {}
    with mount() as made:
        for n, name in enumerate(names):
            assert (made.directory / name).read_bytes() == content(n, 5000 + n)
            inodes[name] = (made.directory / name).stat().st_ino
        made.umount()
    with mount() as made:
        for n, name in enumerate(names):
            assert (made.directory / name).read_bytes() == content(n, 5000 + n)
            assert (made.directory / name).stat().st_ino == inodes[name]
        assert made.lake_bytes() == 0


def test_random_pread_mmap_and_sendfile_agree(mount: Make, lake: Path, content: Content) -> None:
    data = content(7, 6 * MIB + 123)
    (lake / "blob").write_bytes(data)
    with mount() as made, open(made.directory / "blob", "rb") as source:
        for offset in (0, 5 * MIB, 17, 3 * MIB - 3, len(data) - 10, len(data) + 5):
            assert os.pread(source.fileno(), 10_000, offset) == data[offset : offset + 10_000]
        with mmap.mmap(source.fileno(), 0, prot=mmap.PROT_READ) as view:
            assert view[4 * MIB - 5 : 4 * MIB + 5] == data[4 * MIB - 5 : 4 * MIB + 5]
            assert hashlib.sha256(view).digest() == hashlib.sha256(data).digest()
        with open(made.directory.parent / "out", "wb") as sink:
            position = 0
            while sent := os.sendfile(sink.fileno(), source.fileno(), position, MIB):
                position += sent
    assert (lake.parent / "out").read_bytes() == data


def test_random_small_reads_fetch_little_more_than_they_ask(
    mount: Make, lake: Path, content: Content
) -> None:
    """No over-read: 40 reads of 4 KiB spread over 64 MiB must not fetch the file."""
    size = 64 * MIB
    with open(lake / "tokens", "wb") as out:
        for n in range(64):
            out.write(content(n, MIB))
    with mount() as made, open(made.directory / "tokens", "rb", buffering=0) as source:
        os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        asked = 0
        for n in range(40):
            offset = (n * 7919 * 4096 * 13) % (size - 4096) // 4096 * 4096
            block = content(offset // MIB, MIB)
            assert os.pread(source.fileno(), 4096, offset) == block[offset % MIB :][:4096]
            asked += 4096
        assert made.lake_bytes() <= 1.1 * asked


def test_many_readers_of_one_file_fetch_it_once(mount: Make, lake: Path, content: Content) -> None:
    data = content(3, 12 * MIB)
    (lake / "shared").write_bytes(data)
    with mount("--link", "5,10,90,400") as made:
        with ThreadPoolExecutor(8) as pool:
            digests = pool.map(
                lambda _: hashlib.sha256((made.directory / "shared").read_bytes()).hexdigest(),
                range(8),
            )
            assert set(digests) == {hashlib.sha256(data).hexdigest()}
        # The kernel may split what two of them read ahead, so that the first piece looks like a
        # read of its own; that much is fetched again, once, and no more.
        assert len(data) <= made.lake_bytes() < len(data) + 2 * MIB


def test_unmodified_tools_see_a_tree(mount: Make, lake: Path, content: Content) -> None:
    for n in range(300):
        (lake / f"class{n % 7}").mkdir(exist_ok=True)
        (lake / f"class{n % 7}" / f"{n:05}.bin").write_bytes(content(n, 100 + n))
    with mount() as made:
        for path in (made.directory, lake):
            listing = subprocess.run(
                ["find", ".", "-type", "f", "-printf", "%P %s\n"],
                cwd=path,
                capture_output=True,
                check=True,
            ).stdout
            if path == made.directory:
                ours = sorted(listing.splitlines())
        assert ours == sorted(listing.splitlines())
        subprocess.run(["diff", "-r", lake, made.directory], check=True)
        names = subprocess.run(["ls", "-a", made.directory], capture_output=True, check=True).stdout
        assert names.split()[:2] == [b".", b".."]


def test_a_directory_of_many_entries_streams_completely(mount: Make, lake: Path) -> None:
    wanted = {f"{n:06}" for n in range(5000)}
    for name in wanted:
        (lake / name).touch()
    with mount() as made:
        assert set(os.listdir(made.directory)) == wanted
        assert len(os.listdir(made.directory)) == len(wanted)


def test_absent_names_and_wrong_kinds(mount: Make, lake: Path) -> None:
    (lake / "d").mkdir()
    (lake / "d" / "f").write_bytes(b"x")
    with mount() as made:
        root = made.directory
        for path, number in (
            (root / "none", errno.ENOENT),
            (root / "d" / "f" / "g", errno.ENOTDIR),
            (root / ("n" * 256), errno.ENAMETOOLONG),
        ):
            with pytest.raises(OSError) as caught:
                path.stat()
            assert caught.value.errno == number
        with pytest.raises(IsADirectoryError):
            (root / "d").read_bytes()


WRITES: dict[str, Callable[[Path], object]] = {
    "create": lambda root: (root / "new").write_bytes(b"x"),
    "overwrite": lambda root: (root / "f").write_bytes(b"x"),
    "append": lambda root: open(root / "f", "ab").close(),
    "truncate": lambda root: os.truncate(root / "f", 0),
    "mkdir": lambda root: (root / "newdir").mkdir(),
    "rmdir": lambda root: (root / "d").rmdir(),
    "unlink": lambda root: (root / "f").unlink(),
    "rename": lambda root: (root / "f").rename(root / "g"),
    "symlink": lambda root: (root / "s").symlink_to("f"),
    "link": lambda root: os.link(root / "f", root / "h"),
    "chmod": lambda root: (root / "f").chmod(0o600),
    "utimes": lambda root: os.utime(root / "f", (1, 1)),
    "setxattr": lambda root: os.setxattr(root / "f", "user.x", b"1"),
    "mkfifo": lambda root: os.mkfifo(root / "fifo"),
}


def test_every_write_is_erofs_and_said_once(mount: Make, lake: Path) -> None:
    (lake / "f").write_bytes(b"content")
    (lake / "d").mkdir()
    (lake / "d" / "x").write_bytes(b"y")
    with mount() as made:
        for name, write in WRITES.items():
            with pytest.raises(OSError) as caught:
                write(made.directory)
            assert caught.value.errno == errno.EROFS, name
        assert (made.directory / "f").read_bytes() == b"content"
        assert made.log().count("refused with EROFS") == 1
        assert made.log().count("warning") == 1, "once a mount, not once a write"
    assert sorted(os.listdir(lake)) == ["d", "f"]


def test_extended_attributes_tell_and_stay_hidden(
    mount: Make, lake: Path, content: Content
) -> None:
    (lake / "f").write_bytes(content(1, 3 * MIB))
    with mount() as made:
        path = made.directory / "f"
        assert os.getxattr(path, "user.tierfs.state") == b"lake"
        assert os.getxattr(path, "user.tierfs.etag")
        path.read_bytes()
        wait_until(lambda: os.getxattr(path, "user.tierfs.state") == b"cached", "a cached file")
        assert os.getxattr(path, "user.tierfs.cached_bytes") == str(3 * MIB).encode()
        assert Path(os.fsdecode(os.getxattr(path, "user.tierfs.cache_path"))).is_file()
        assert os.listxattr(path) == []
        with pytest.raises(OSError, match="No data"):
            os.getxattr(path, "user.other")


def test_statfs_and_du(mount: Make, lake: Path, content: Content) -> None:
    (lake / "f").write_bytes(content(1, 3 * MIB))
    with mount() as made:
        space = os.statvfs(made.directory)
        assert space.f_bavail * space.f_frsize == 1 << 50
        assert space.f_namemax == 255
        out = subprocess.run(["du", "-sb", made.directory], capture_output=True, check=True).stdout
        assert int(out.split()[0]) >= 3 * MIB
