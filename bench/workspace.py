"""Where measurements put their data: a private directory on a real disk."""

from __future__ import annotations

import os
import shutil
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
