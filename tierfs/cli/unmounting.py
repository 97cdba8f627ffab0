"""Taking a mount down and seeing its daemon off; shared by ``tierfs umount`` and ``umount.tierfs``.

umount2(2) is called directly: umount(8) would call its helper, which is us.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tierfs.config import resolve_mountpoint
from tierfs.control.client import Mount, mount_at
from tierfs.errors import MountError
from tierfs.keeper import keeper_pid, wait_until_gone

# <sys/mount.h>
MNT_FORCE, MNT_DETACH, UMOUNT_NOFOLLOW = 1, 2, 8

#: A keeper drains its control plane before it ends; systemd's unit allows the same.
DAEMON_TIMEOUT_S = 90.0
#: How often a mount is tried again that its own keeper holds.
_AGAIN_S = 0.1
#: How many of the processes that keep a mount busy are named.
NAMED_USERS = 5


def unmount(
    path: Path,
    *,
    lazy: bool = False,
    force: bool = False,
    runtime_dir: Path | None = None,
    timeout_s: float = DAEMON_TIMEOUT_S,
) -> None:
    """Unmount what is mounted on *path* and wait until its keeper has ended.

    *lazy* detaches at once and waits for nothing: files stay readable until they are closed.
    *force* aborts requests in flight. Raises MountError: not a tierfs mount, busy (by whom), not
    permitted, or the daemon still there after *timeout_s*.
    """
    mountpoint = resolve_mountpoint(path)
    mount = mount_at(mountpoint)
    if mount is None:
        hint = "see tierfs status for what is mounted"
        raise MountError("nothing is mounted there", str(mountpoint), hint)
    if not mount.ours:
        hint = f"use umount {mountpoint}"
        raise MountError(f"a {mount.type} file system, not tierfs", str(mountpoint), hint)
    states = [state for state in mount.state_dirs(runtime_dir) if keeper_pid(state) is not None]
    deadline = time.monotonic() + timeout_s
    _detach(mount, lazy=lazy, force=force, keepers=states, deadline=deadline)
    if lazy:
        return
    for state in states:
        if not wait_until_gone(state, max(deadline - time.monotonic(), 0)):
            hint = f"it is still ending: pid {keeper_pid(state)}; see its log"
            raise MountError("unmounted, but the daemon has not ended", str(mountpoint), hint)


def _detach(
    mount: Mount, *, lazy: bool, force: bool, keepers: Sequence[Path], deadline: float
) -> None:
    shown = str(mount.mountpoint)
    while True:
        number = (
            _umount2(mount.mountpoint, lazy=lazy, force=force)
            if os.geteuid() == 0
            else _fusermount(mount.mountpoint, lazy=lazy)
        )
        if number == 0:
            return
        if number != errno.EBUSY:
            break
        busy = list(users(mount.mountpoint))
        own = {pid for pid in map(keeper_pid, keepers) if pid}
        names = [user.shown for user in busy if not own.intersection((user.pid, user.parent))]
        if names or not busy or time.monotonic() >= deadline:
            names = names or [user.shown for user in busy]
            by = "in use by " + ", ".join(names[:NAMED_USERS]) if names else "in use"
            more = f" and {len(names) - NAMED_USERS} more" if len(names) > NAMED_USERS else ""
            hint = f"end what uses it, or detach it: tierfs umount -l {shown}"
            raise MountError(f"cannot unmount: {by}{more}", shown, hint)
        # Its keeper has just made the mount (anew) and asks whether it answers; that passes.
        time.sleep(_AGAIN_S)
    if number == errno.EPERM:
        raise MountError("not allowed to unmount", shown, "ask root or the user who mounted it")
    raise MountError(f"cannot unmount: {os.strerror(number)}", shown, "see dmesg")


def _umount2(mountpoint: Path, *, lazy: bool, force: bool) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    flags = UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0) | (MNT_FORCE if force else 0)
    if libc.umount2(os.fsencode(mountpoint), flags) == 0:
        return 0
    return ctypes.get_errno()


def _fusermount(mountpoint: Path, *, lazy: bool) -> int:
    program = shutil.which("fusermount3")
    if program is None:
        raise MountError("fusermount3 is missing", str(mountpoint), "install the package fuse3")
    done = subprocess.run(
        [program, "-u", *(["-z"] if lazy else []), "--", os.fspath(mountpoint)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if done.returncode == 0:
        return 0
    return errno.EBUSY if b"busy" in done.stderr.lower() else errno.EPERM


class User(NamedTuple):
    """A process that keeps a mount busy."""

    pid: int
    parent: int
    name: str

    @property
    def shown(self) -> str:
        return f"{self.name} (pid {self.pid})"


def users(mountpoint: Path) -> Iterator[User]:
    """Processes with a working directory, root, open file or mapping below *mountpoint*.

    Reads links in /proc only: the mount itself is not asked. Sees what the caller may see.
    """
    top = os.fsencode(mountpoint)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and any(
            target == top or target.startswith(top + b"/") for target in _links(entry)
        ):
            yield User(int(entry.name), _parent(entry), _name(entry))


def _links(process: Path) -> Iterator[bytes]:
    for link in (process / "cwd", process / "root"):
        yield from _target(link)
    for directory in (process / "fd", process / "map_files"):
        try:
            links = list(directory.iterdir())
        except OSError:
            continue
        for link in links:
            yield from _target(link)


def _target(link: Path) -> Iterator[bytes]:
    try:
        yield os.readlink(os.fsencode(link))  # noqa: PTH115 - bytes, not a Path.
    except OSError:
        return


def _parent(process: Path) -> int:
    try:
        # The name before it may hold anything, brackets too.
        return int((process / "stat").read_bytes().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text("utf-8", "replace").strip()
    except OSError:
        return "a process"
