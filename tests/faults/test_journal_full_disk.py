"""A disk without a page left: what makes room on it is noted in the journal all the same."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.mount.mounting import detach
from tierfs.errors import CacheFull
from tierfs.index.environments import Environment
from tierfs.index.writer import Transaction

DISK_BYTES = 32 << 20
ROWS = 400


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A small disk."""
    directory, image = tmp_path / "disk", tmp_path / "image"
    directory.mkdir()
    if request.param == "tmpfs":
        how = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none"]
    else:
        with image.open("wb") as file:
            file.truncate(DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
        how = ["-o", "loop", str(image)]
    made = subprocess.run(["mount", *how, directory], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"no {request.param} can be mounted here: {made.stderr.strip()}")
    try:
        yield directory
    finally:
        detach(directory)


def fill(directory: Path) -> None:
    """Take every page that is left."""
    fd = os.open(directory / "filler", os.O_WRONLY | os.O_CREAT | os.O_DSYNC)
    try:
        for piece in (1 << 20, 4096):
            with suppress(OSError):
                while os.write(fd, bytes(piece)):
                    pass
    finally:
        os.close(fd)


async def put_rows(directory: Path, *, reserved: bool) -> int:
    """How many commits of a page or more an environment takes on a disk that was filled."""
    databases = ("things",)
    env = Environment(
        directory / "journal", name="journal", databases=databases, lake="l", reserved=reserved
    )
    things = env.database("things")

    def put(key: bytes, txn: Transaction) -> None:
        txn.put(key, bytes(4000), db=things)

    try:
        await env.write(functools.partial(put, b"first"))
        fill(directory)
        for n in range(ROWS):
            row = b"%d" % n
            try:
                await env.write(functools.partial(put, row))
            except CacheFull:
                return n
        return ROWS
    finally:
        await env.aclose()


async def test_a_full_disk_has_room_for_the_journal(disk: Path) -> None:
    assert await put_rows(disk, reserved=True) == ROWS


async def test_sabotage_without_room_of_its_own_the_journal_is_full_with_the_disk(
    disk: Path,
) -> None:
    assert await put_rows(disk, reserved=False) < 20
