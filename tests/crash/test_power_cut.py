"""Power cuts of the whole disk, below a real mount: see `tests.crash.power_cuts`, and a disk that
keeps no promise, which must be found out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash import cut_disk
from tests.crash.cut_disk import SECTOR, Disk
from tests.mount.mounting import fuse_missing
from tierfs.front.program import native_front

ROOT = Path(__file__).parents[2]
MIB = 1 << 20


def cut(work: Path, front: str, cuts: int, *more: str) -> tuple[int, str]:
    """Exit status and what was said, of so many cuts."""
    if reason := fuse_missing():
        pytest.skip(reason)
    if front == "native" and native_front() is None:
        pytest.skip("the native front is not built: no Rust toolchain")
    argv = [sys.executable, "-m", "tests.crash.power_cuts", "--work", str(work), "--front", front]
    argv += ["--cuts", str(cuts), *more]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 2:
        pytest.skip(done.stderr)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("cuts", [2, pytest.param(50, marks=pytest.mark.long)])
@pytest.mark.parametrize("front", ["python", "native"])
def test_a_power_cut_loses_nothing_that_was_synced(tmp_path: Path, front: str, cuts: int) -> None:
    status, said = cut(tmp_path, front, cuts)
    print(said)
    assert status == 0, said


def test_sabotage_a_disk_that_only_says_that_it_flushes_is_found_out(tmp_path: Path) -> None:
    for seed in range(1, 6):
        status, said = cut(tmp_path, "python", 3, "--lies", "--seed", str(seed))
        # Such a disk may lose the file system too, and then there is nothing left to find out.
        if status != 3:
            break
    assert status == 1, said
    # By what is asked for, not by an accident.
    assert said.startswith(f"seed {seed}: "), said


def test_what_a_cut_leaves_of_a_disk(tmp_path: Path) -> None:
    disk = Disk(tmp_path, MIB)
    disk.write(0, b"a" * SECTOR)
    disk.flush()
    disk.write(SECTOR, b"b" * SECTOR)
    disk.write(0, b"c" * 4 * SECTOR)
    seen = set()
    for seed in range(200):
        assert disk.cut(seed)[0] == 2
        with (tmp_path / "left").open("rb") as file:
            seen.add(file.read(6 * SECTOR)[::SECTOR])
    # Each may be there or not, and the second in part; what was flushed stays where neither is.
    nothing, one, two = b"a\0\0\0\0\0", b"ab\0\0\0\0", b"cccc\0\0"
    torn = {b"c\0\0\0\0\0", b"cc\0\0\0\0", b"ccc\0\0\0", b"cb\0\0\0\0"}
    assert {nothing, one, two} <= seen <= {nothing, one, two} | torn
    assert seen & torn
    os.pwrite(disk.now, b"x", 0)
    disk.cut(0)
    left = (tmp_path / "left").read_bytes()
    disk.restore()
    assert os.pread(disk.now, MIB, 0) == left
    assert disk.cut(0) == (0, 0)


def test_a_copy_of_an_image_has_its_holes(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        file.truncate(64 * MIB)
        for at in (0, 5 * MIB + 17, 64 * MIB - 3):
            file.seek(at)
            file.write(b"abc")
    cut_disk._copy(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks * 512 < MIB
