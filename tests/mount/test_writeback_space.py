"""A mount with write-back directories on a disk that is too small for what is written: writers are
slowed down, wait, or are told that it is full; what was acknowledged arrives."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.mount.mounting import Mount, detach

Make = Callable[..., Mount]
Content = Callable[[int, int], bytes]

MIB = 1 << 20
DISK_BYTES = 96 * MIB
FILE_BYTES = 3 * MIB
#: A third of a second for each object: 9 MiB/s.
SLOW = "330,400,90,400"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk."""
    directory = tmp_path / "disk"
    directory.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", directory], check=True
    )
    try:
        yield directory
    finally:
        detach(directory)


@pytest.fixture
def mounted(mount: Make, disk: Path) -> Iterator[Mount]:
    with mount("--write-back", "w/**", "--link", SLOW, cache=disk / "cache") as made:
        (made.directory / "w").mkdir()
        yield made


def write(path: Path, data: bytes) -> int:
    """Write and close a file; the errno with which that failed, or 0."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    except OSError as error:
        return error.errno or -1
    failed = 0
    try:
        at = 0
        while at < len(data):
            at += os.write(fd, data[at : at + MIB])
    except OSError as error:
        failed = error.errno or -1
    try:
        os.close(fd)
    except OSError as error:
        failed = failed or error.errno or -1
    return failed


def fill(path: Path, by: list[int]) -> None:
    """Write until nothing more fits: the share that stays free is gone, too."""
    with path.open("wb", buffering=0) as file:
        for size in by:
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass


def judge(made: Mount, lake: Path, acknowledged: dict[str, bytes]) -> None:
    """All that was acknowledged is in the lake, and nothing else."""
    made.command("flush", made.directory / "w", "--wait")
    assert {path.name for path in (lake / "w").iterdir()} == set(acknowledged)
    for name, data in acknowledged.items():
        assert (lake / "w" / name).read_bytes() == data, name


def test_all_arrives_through_a_disk_that_is_smaller_than_it(
    mounted: Mount, lake: Path, content: Content, front: str
) -> None:
    # With the native one, what is open has to find its room in what stays free (`min_free`).
    writers = 4 if front == "python" else 2
    budget = os.statvfs(mounted.directory)
    assert DISK_BYTES * 0.8 < budget.f_blocks * budget.f_frsize < DISK_BYTES * 0.9
    acknowledged: dict[str, bytes] = {}
    lowest = [budget.f_bavail]
    done = threading.Event()

    # Made before, so that they are written as fast as they can be.
    contents = [content(n, FILE_BYTES) for n in range(2 * DISK_BYTES // FILE_BYTES)]

    def one(n: int) -> None:
        assert write(mounted.directory / "w" / str(n), contents[n]) == 0
        acknowledged[str(n)] = contents[n]

    def watch() -> None:
        while not done.wait(0.05):
            lowest.append(os.statvfs(mounted.directory).f_bavail)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(writers) as pool:
            list(pool.map(one, range(len(contents))))
    finally:
        done.set()
        watcher.join()
    # `df` told how full it was, and the log that writers were held up for that: slowed down, unless
    # it was full before the first upload was done, which tells their speed.
    assert min(lowest) < 0.4 * budget.f_blocks
    assert "A faster link to the lake makes room sooner" in mounted.log()
    judge(mounted, lake, acknowledged)
    staging = mounted.status()["writing"]["staging"]
    assert (staging["waiting_writers"], staging["refused_writes"]) == (0, 0)


def test_what_stays_open_fills_it_and_its_writer_is_told(
    mounted: Mount, lake: Path, content: Content, front: str
) -> None:
    acknowledged = {}
    for n in range(4):
        acknowledged[str(n)] = content(n, FILE_BYTES)
        assert write(mounted.directory / "w" / str(n), acknowledged[str(n)]) == 0
    assert write(mounted.directory / "w" / "endless", bytes(2 * DISK_BYTES)) == errno.ENOSPC
    if front == "python":
        # With the native one the kernel's writes are the disk's to refuse.
        assert "writers get ENOSPC" in mounted.log()
    (mounted.directory / "w" / "endless").unlink()
    # There is room again, once the upload that was about to begin has closed it.
    acknowledged["last"] = content(9, FILE_BYTES)
    deadline = time.monotonic() + 2.0
    while write(mounted.directory / "w" / "last", acknowledged["last"]) == errno.ENOSPC:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    judge(mounted, lake, acknowledged)


@pytest.mark.parametrize(
    "by",
    [
        pytest.param([MIB], id="and-leave-a-little-for-the-journal"),
        # Then nothing can be told to have arrived, which is waited for.
        pytest.param([MIB, 4096], id="to-the-last-page", marks=pytest.mark.long),
    ],
)
def test_a_disk_that_others_fill_under_load(
    mounted: Mount, lake: Path, disk: Path, content: Content, by: list[int]
) -> None:
    acknowledged: dict[str, bytes] = {}
    errors: set[int] = set()
    full = threading.Event()

    def one(n: int) -> None:
        if n == 12:
            fill(disk / "others", by)
            full.set()
        data = content(n, FILE_BYTES)
        failed = write(mounted.directory / "w" / str(n), data)
        if failed:
            errors.add(failed)
        else:
            acknowledged[str(n)] = data

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(20)))
    assert full.is_set()
    # Whether any writer comes too early for what is cached to have given way is chance.
    assert errors <= {errno.ENOSPC}
    # Changes of names need a little room in the journal: they are made, or there is none.
    for n in range(20):
        name = mounted.directory / "w" / f"d{n}"
        for change in (name.mkdir, name.rmdir):
            try:
                change()
            except FileNotFoundError:
                pass
            except OSError as error:
                errors.add(error.errno or -1)
    assert errors <= {errno.ENOSPC}
    control = mounted.pids()["control"]
    (disk / "others").unlink()
    for name in (mounted.directory / "w").iterdir():
        if name.is_dir():
            name.rmdir()
        elif name.name not in acknowledged:
            name.unlink()
    data = content(99, FILE_BYTES)
    assert write(mounted.directory / "w" / "99", data) == 0
    acknowledged["99"] = data
    judge(mounted, lake, acknowledged)
    # It was the same process all the time.
    assert mounted.pids()["control"] == control
