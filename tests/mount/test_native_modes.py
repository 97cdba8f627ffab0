"""A native front where it cannot do its best: slower, right, and said in the status."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest

from tests.mount.mounting import Mount, detach, forget_pages, wait_until

Make = Callable[..., Mount]
Content = Callable[[int, int], bytes]

pytestmark = pytest.mark.parametrize("front", ["native"], indirect=True)

MIB = 1 << 20


@contextmanager
def mounted(directory: Path, *arguments: str) -> Iterator[Path]:
    """A file system for the cache, mounted with mount(8)."""
    directory.mkdir()
    subprocess.run(["mount", *arguments, directory], check=True)
    try:
        yield directory
    finally:
        detach(directory)


def details(made: Mount) -> dict[str, object]:
    found: dict[str, object] = made.status()["front_details"]
    return found


def cache_all(made: Mount, names: list[str]) -> None:
    for name in names:
        (made.directory / name).read_bytes()
    wait_until(
        lambda: (
            made.status()["cache"]["cached_bytes"]
            == sum((made.directory / name).stat().st_size for name in names)
        ),
        "all to be cached",
    )


def read_again(made: Mount, lake: Path, names: list[str]) -> None:
    for name in names:
        forget_pages(made.directory / name)
        assert (made.directory / name).read_bytes() == (lake / name).read_bytes()


@pytest.fixture
def names(lake: Path, content: Content) -> list[str]:
    sizes = {"empty": 0, "one": 1, "small": 100_000, "block": MIB, "large": 5 * MIB + 17}
    for n, (name, size) in enumerate(sizes.items()):
        (lake / name).write_bytes(content(n, size))
    return list(sizes)


def test_whole_files_pass_through(mount: Make, lake: Path, names: list[str]) -> None:
    with mount() as made:
        cache_all(made, names)
        read_again(made, lake, names)
        found = details(made)
        assert found["reads"] == "passed through"
        assert int(str(found["opens_passed_through"])) >= len(names) - 1  # Not the empty one.
        assert found["passthrough_refused"] == 0


def test_without_passthrough_reads_are_copied_and_it_is_said(
    mount: Make, lake: Path, names: list[str]
) -> None:
    with mount("--fuse-mask", "passthrough") as made:
        cache_all(made, names)
        read_again(made, lake, names)
        found = details(made)
        assert found["reads"] == "copied: fuse_mask switches passthrough off"
        assert found["opens_passed_through"] == 0
        assert int(str(found["hits"])) > 0


def test_without_any_feature(mount: Make, lake: Path, names: list[str]) -> None:
    features = (
        "passthrough,readdirplus,parallel_dirops,async_read,async_dio,max_pages,handle_killpriv_v2"
    )
    with mount("--fuse-mask", features) as made:
        cache_all(made, names)
        read_again(made, lake, names)
        assert sorted(os.listdir(made.directory)) == sorted(names)
        assert details(made)["features"] == []


def test_a_cache_in_memory(mount: Make, lake: Path, names: list[str], tmp_path: Path) -> None:
    with mounted(tmp_path / "tmpfs", "-t", "tmpfs", "none") as cache:
        with mount(cache=cache / "cache") as made:
            cache_all(made, names)
            read_again(made, lake, names)
            assert details(made)["reads"] == "passed through"
        with mount("--fuse-mask", "passthrough", cache=cache / "cache") as made:
            read_again(made, lake, names)


def test_a_cache_on_an_overlay(mount: Make, lake: Path, names: list[str], tmp_path: Path) -> None:
    for directory in ("lower", "upper", "work"):
        (tmp_path / directory).mkdir()
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    overlay = mounted(tmp_path / "overlay", "-t", "overlay", "-o", options, "none")
    with overlay as cache, mount(cache=cache / "cache") as made:
        cache_all(made, names)
        read_again(made, lake, names)
        assert str(details(made)["reads"]).startswith(("passed through", "copied"))


def test_a_truncated_cache_file(mount: Make, lake: Path, names: list[str]) -> None:
    with mount() as made:
        cache_all(made, names)
        for path in made.cache.glob("*/objects/*/*/*"):
            os.truncate(path, path.stat().st_size // 2)
        read_again(made, lake, names)
        cache_all(made, names)
        read_again(made, lake, names)


def test_records_that_are_no_records(mount: Make, lake: Path, names: list[str]) -> None:
    with mount() as made:
        cache_all(made, names)
    (index,) = made.cache.glob("*/cache")
    with lmdb.Environment(str(index), max_dbs=16, lib_version=0) as env:
        files = env.open_db(b"files")
        with env.begin(write=True, db=files) as txn:
            for n, (key, value) in enumerate(list(txn.cursor())):
                # Of another identity, and of another size.
                other = b"\xff" * 16 + value[16:], value[:16] + value[24:] + b"8 bytes!"
                txn.put(key, other[n % 2])
    with mount() as made:
        read_again(made, lake, names)
        read_again(made, lake, names)


def test_a_large_cold_file_is_read_ahead(mount: Make, lake: Path) -> None:
    """Also while most of its reads are answered by the front, from what came ahead of them."""
    size = 256 * MIB
    with open(lake / "f", "wb") as file:
        file.truncate(size)
    with mount("--link", "20,30,90,400") as made:
        with open(made.directory / "f", "rb", buffering=0) as file:
            while file.read(MIB):
                time.sleep(0.004)  # A reader that is slower than what comes ahead of it.
        assert made.lake_gets() < 120, made.lake_gets()
        assert made.lake_bytes() < size + 4 * MIB


def test_more_open_files_than_descriptors(mount: Make, lake: Path, content: Content) -> None:
    names = [f"f{n}" for n in range(120)]
    for n, name in enumerate(names):
        (lake / name).write_bytes(content(n, 3000))
    made = mount()
    made.prefix = ["prlimit", "--nofile=96:96"]
    with made:
        cache_all(made, names)
        # What passes through takes none of the front's.
        held = [os.open(made.directory / name, os.O_RDONLY) for name in names]
        try:
            for n, fd in enumerate(held):
                assert os.pread(fd, 4000, 0) == content(n, 3000)
        finally:
            for fd in held:
                os.close(fd)
