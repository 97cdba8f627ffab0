"""Where the native front's program is, if it is on this machine."""

from __future__ import annotations

import os
from pathlib import Path

#: In the package, where an installation with a Rust toolchain puts it.
_INSTALLED = Path(__file__).resolve().parent / "bin" / "tierfs-front"
#: In a source tree, where ``make native`` leaves it.
_BUILT = Path(__file__).resolve().parents[2] / "native" / "target" / "release" / "tierfs-front"


def native_front() -> Path | None:
    """The program, or None: then `tierfs.fs.operations` is the front."""
    for path in (_INSTALLED, _BUILT):
        if os.access(path, os.X_OK):
            return path
    return None
