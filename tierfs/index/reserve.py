"""Room on the disk that only the journal may use.

Whoever removes a file because the disk is full asks the journal to note it, and the journal may
need a page for that: without one of its own the full disk could not be emptied. So the pages that
come after the end of its file are set aside; it grows into them, and more are set aside behind.
LMDB uses again what it has freed, so that this is a few times in the life of a mount.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import lmdb

from tierfs.allocation import UNSUPPORTED, set_aside

#: Set aside behind the end of the journal's file. A change of a name or of a file takes about ten
#: pages, once: the next one finds those that it has left.
RESERVE_BYTES = 4 << 20


class Reserve:
    """The room behind the end of *env*'s file, RESERVE_BYTES of it or, while the disk is full, what
    is left of that."""

    def __init__(self, env: lmdb.Environment, path: Path) -> None:
        self._env = env
        self._file = path / "data.mdb"
        self._page = env.stat()["psize"]
        #: Up to where there is room for sure, or no use in asking for more.
        self._until: float = 0

    def keep_up(self) -> None:
        """Set aside what has been used up, once half of it has. For the thread that writes."""
        end = (self._env.info()["last_pgno"] + 1) * self._page
        if end + RESERVE_BYTES // 2 <= self._until:
            return
        try:
            fd = os.open(self._file, os.O_RDWR | os.O_CLOEXEC)
            try:
                set_aside(fd, end, end + RESERVE_BYTES)
            finally:
                os.close(fd)
        except OSError as error:
            # The disk is full, which is what the rest is for; or it cannot be done here at all.
            if error.errno in UNSUPPORTED:
                self._until = math.inf
            return
        self._until = end + RESERVE_BYTES
