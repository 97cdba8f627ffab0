"""The mount table, ``/proc/self/mountinfo``, as proc(5) describes it.

Reading it sends no request to any file system: it answers where ``stat`` on a hung mount would not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MOUNTINFO = Path("/proc/self/mountinfo")
MOUNT_TYPE = b"fuse.tierfs"

_ESCAPE = re.compile(rb"\\([0-7]{3})")


class MountEntry(NamedTuple):
    """One row of the mount table."""

    mount_id: int
    parent_id: int
    device: str
    """``major:minor``, which also names the backing device info in ``/sys/class/bdi``."""
    mountpoint: bytes
    fs_type: bytes
    source: bytes
    owner: int = 0
    """The user id of whoever made it; of a FUSE mount only, 0 for others."""


def unescape(field: bytes) -> bytes:
    r"""Undo the kernel's ``\040`` escapes of blank, tab, newline, ``#`` and backslash."""
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field)


def parse(table: bytes) -> Iterator[MountEntry]:
    """Yield the rows of *table* in the order in which they were mounted."""
    for line in table.splitlines():
        left, separator, right = line.partition(b" - ")
        fields, tail = left.split(b" "), right.split(b" ")
        if not separator or len(fields) < 6 or len(tail) < 2:
            continue
        yield MountEntry(
            mount_id=int(fields[0]),
            parent_id=int(fields[1]),
            device=fields[2].decode("ascii"),
            mountpoint=unescape(fields[4]),
            fs_type=tail[0],
            source=unescape(tail[1]),
            owner=_owner(tail[2]) if len(tail) > 2 else 0,
        )


def _owner(super_options: bytes) -> int:
    for option in super_options.split(b","):
        name, _, value = option.partition(b"=")
        if name == b"user_id" and value.isdigit():
            return int(value)
    return 0


def mounts() -> list[MountEntry]:
    """The mount table of this process's mount namespace."""
    return list(parse(MOUNTINFO.read_bytes()))


def topmost(mountpoint: bytes, entries: list[MountEntry] | None = None) -> MountEntry | None:
    """The mount that a path walk to *mountpoint* ends in, or None where nothing is mounted."""
    found = [e for e in (mounts() if entries is None else entries) if e.mountpoint == mountpoint]
    covered = {e.parent_id for e in found}
    # Of mounts stacked on one directory the top is the parent of none of the others.
    return next((e for e in reversed(found) if e.mount_id not in covered), None)
