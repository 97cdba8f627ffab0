"""Where measurements put their data: a private directory on a real disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def default_workspace() -> Path:
    """``TIERFS_BENCH_DIR``, else the temporary directory."""
    return Path(os.environ.get("TIERFS_BENCH_DIR", tempfile.gettempdir()))


@contextmanager
def workspace(base: Path | None = None) -> Iterator[Path]:
    """A private directory below *base* (the default one); it goes with everything in it."""
    path = Path(tempfile.mkdtemp(prefix="tierfs-bench-", dir=base or default_workspace()))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def fresh_disk(bytes_: int) -> Iterator[Path]:
    """A private directory on an ext4 of its own, of *bytes_*, in a file of the default workspace.

    For what makes or removes thousands of files again and again: ext4 makes new ones slowly (0.3 to
    0.5 ms) for minutes after so many were removed, because it looks for inodes that were not.
    """
    with workspace() as path:
        image, directory = path / "disk", path / "mnt"
        directory.mkdir()
        with image.open("wb") as file:
            file.truncate(bytes_)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(directory)], check=True)
        try:
            yield directory
        finally:
            subprocess.run(["umount", "-l", str(directory)], check=True)
