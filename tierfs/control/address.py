"""Socket addresses for paths of any length."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: unix(7): ``sun_path`` has 108 bytes, the last of which is zero.
MAX_ADDRESS_BYTES = 107


@contextmanager
def address_of(path: Path) -> Iterator[str]:
    """*path* to bind or to connect to; a longer one than an address may be goes by a descriptor of
    its directory. Raises OSError if there is no such directory."""
    if len(os.fsencode(path)) <= MAX_ADDRESS_BYTES:
        yield os.fspath(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
