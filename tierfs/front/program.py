"""Where the native front's program is, if it is on this machine."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

NAME = "tierfs-front"
#: In a source tree, where ``make native`` leaves it.
_BUILT = Path(__file__).resolve().parents[2] / "native" / "target" / "release" / NAME


def native_front() -> Path | None:
    """The program, or None: then `tierfs.fs.operations` is the front. A source tree's own comes
    before an installed one."""
    for path in (_BUILT, Path(sysconfig.get_path("scripts")) / NAME):
        if os.access(path, os.X_OK):
            return path
    return None
