"""The cache is damaged behind the mount's back: readers get the right bytes all the same.

The twin at the end shows that these tests can fail: with verification switched off in the daemon
(by a ``sitecustomize`` that only this test puts on its path) wrong bytes do reach the reader.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.mounting import Mount, forget_pages, wait_until

MIB = 1 << 20
Make = Callable[..., Mount]
Content = Callable[[int, int], bytes]


def cached(made: Mount, name: str) -> Path:
    """Read *name* so that it is cached whole; returns its cache file."""
    path = made.directory / name
    path.read_bytes()
    wait_until(lambda: os.getxattr(path, "user.tierfs.state") == b"cached", f"{name} to be cached")
    return Path(os.fsdecode(os.getxattr(path, "user.tierfs.cache_path")))


def zero(a: Path, b: Path) -> None:
    with open(a, "r+b") as file:
        file.seek(MIB + 100)
        file.write(bytes(5000))


def truncate(a: Path, b: Path) -> None:
    os.truncate(a, MIB + 10)


def flip_one_bit(a: Path, b: Path) -> None:
    with open(a, "r+b") as file:
        file.seek(2 * MIB + 1)
        byte = file.read(1)[0]
        file.seek(2 * MIB + 1)
        file.write(bytes([byte ^ 4]))


def swap_blocks(a: Path, b: Path) -> None:
    data = bytearray(a.read_bytes())
    data[:MIB], data[MIB : 2 * MIB] = data[MIB : 2 * MIB], data[:MIB]
    with open(a, "r+b") as file:
        file.write(data)


def swap_files(a: Path, b: Path) -> None:
    a_data, b_data = a.read_bytes(), b.read_bytes()
    with open(a, "r+b") as first, open(b, "r+b") as second:
        first.write(b_data)
        second.write(a_data)


def remove(a: Path, b: Path) -> None:
    a.unlink()


DAMAGE = [zero, truncate, flip_one_bit, swap_blocks, swap_files, remove]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("remounted", [False, True], ids=["live", "remounted"])
def test_damage_is_never_served(
    damage: Callable[[Path, Path], None],
    remounted: bool,
    mount: Make,
    lake: Path,
    content: Content,
) -> None:
    for n, name in enumerate(("a", "b")):
        (lake / name).write_bytes(content(n, 3 * MIB))
    with mount() as made:
        files = [cached(made, name) for name in ("a", "b")]
        if remounted:
            made.umount()
            damage(*files)
            assert made.start().returncode == 0
        else:
            damage(*files)
        for n, name in enumerate(("a", "b")):
            forget_pages(made.directory / name)
            assert (made.directory / name).read_bytes() == content(n, 3 * MIB)
        status = made.status()["cache"]
        if damage is not remove:
            assert status["bad_blocks"] >= 1
        # What was bad has been replaced: the next reader needs no lake.
        before = made.lake_gets()
        wait_until(
            lambda: os.getxattr(made.directory / "a", "user.tierfs.state") == b"cached",
            "the repair",
        )
        forget_pages(made.directory / "a")
        assert (made.directory / "a").read_bytes() == content(0, 3 * MIB)
        assert made.lake_gets() == before


@pytest.mark.parametrize("front", ["python"], indirect=True)  # The other one's is cache/copy.rs.
def test_sabotage_without_verification_damage_reaches_the_reader(
    mount: Make, lake: Path, content: Content, tmp_path: Path
) -> None:
    (lake / "a").write_bytes(content(0, 3 * MIB))
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import tierfs.cache.reader as reader\nreader.intact = lambda *_: True\n"
    )
    with mount(env={"PYTHONPATH": f"{hook}:{Path.cwd()}"}) as made:
        flip_one_bit(cached(made, "a"), Path())
        forget_pages(made.directory / "a")
        assert (made.directory / "a").read_bytes() != content(0, 3 * MIB)
