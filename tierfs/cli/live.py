"""What the commands to a live mount share: which mount, which paths on it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tierfs.control.client import Mount, find_mount, mounts
from tierfs.errors import MountError


def by_mount(paths: Iterable[Path]) -> dict[Mount, list[str]]:
    """*paths* sorted by the mount they are on, each as the socket wants it: relative to the mount.

    Names that are no UTF-8 travel as surrogate escapes. Raises MountError for a path on no mount.
    """
    groups: dict[Mount, list[str]] = {}
    for path in paths:
        mount, below = find_mount(path)
        groups.setdefault(mount, []).append(os.fsdecode(below))
    return groups


def our_mounts() -> list[Mount]:
    """Every tierfs mount that this process sees."""
    return list({mount.mountpoint: mount for mount in mounts() if mount.ours}.values())


def the_mount(path: Path | None) -> Mount:
    """The mount that *path* is on, or without one the only mount there is."""
    if path is not None:
        return find_mount(path)[0]
    found = our_mounts()
    if not found:
        raise MountError("nothing is mounted", "", "see tierfs mount --help")
    if len(found) > 1:
        hint = "name one of " + ", ".join(str(mount.mountpoint) for mount in found)
        raise MountError("several lakes are mounted", "", hint)
    return found[0]
