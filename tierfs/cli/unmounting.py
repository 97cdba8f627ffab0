"""Taking a mount down and seeing its daemon off; shared by ``tierfs umount`` and ``umount.tierfs``.

umount2(2) is called directly: umount(8) would call its helper, which is us. A mount that writes is
told of it first, and waits for the lake: `tierfs.writeback.leaving` has that conversation.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tierfs.config import resolve_mountpoint
from tierfs.control.client import Mount, call, mount_at
from tierfs.errors import MountError, TierfsError
from tierfs.keeper import keeper_pid, wait_until_gone, writes
from tierfs.units import human_size

# <sys/mount.h>
MNT_FORCE, MNT_DETACH, UMOUNT_NOFOLLOW = 1, 2, 8

#: A keeper drains its control plane before it ends; systemd's unit allows the same.
DAEMON_TIMEOUT_S = 90.0
#: How often a mount is tried again that its own keeper holds.
_AGAIN_S = 0.1
#: So long a mount that is in use by nobody who can be seen is asked again.
_UNSEEN_S = 5.0
#: A mount that is asked to leave says something much more often than that, or it hangs.
LEAVING_S = 30.0
#: How many of the processes that keep a mount busy are named.
NAMED_USERS = 5


def unmount(
    path: Path,
    *,
    lazy: bool = False,
    force: bool = False,
    discard: bool = False,
    runtime_dir: Path | None = None,
    timeout_s: float = DAEMON_TIMEOUT_S,
    progress: Callable[[dict[str, Any]], None] = lambda fields: None,
) -> Left:
    """Unmount what is mounted on *path* and wait until its keeper has ended; what is not in the
    lake by then, as far as that was waited for.

    *lazy* detaches at once and waits for nothing: files stay readable until they are closed.
    *force* aborts requests in flight, and does not wait for the lake. *discard* throws away what is
    not there, after the unmount. *progress* sees how much is on its way. Raises MountError: not a
    tierfs mount, busy (by whom), not permitted, or, after *timeout_s*, the mount still there
    elsewhere or the daemon still there; with *discard* also that the mount cannot be asked for
    that.
    """
    mountpoint = resolve_mountpoint(path)
    mount = mount_at(mountpoint)
    if mount is None:
        hint = "see tierfs status for what is mounted"
        raise MountError("nothing is mounted there", str(mountpoint), hint)
    if not mount.ours:
        hint = f"use umount {mountpoint}"
        raise MountError(f"a {mount.type} file system, not tierfs", str(mountpoint), hint)
    places = mount.state_dirs(runtime_dir)
    states = [state for state in places if keeper_pid(state) is not None]

    def detach() -> None:
        deadline = time.monotonic() + timeout_s
        _detach(mount, lazy=lazy, force=force, keepers=states, deadline=deadline)

    if lazy:
        detach()
        return Left()
    # Asked before the keeper takes its note away.
    writing = any(map(writes, states or places))
    conversation = _Conversation(mountpoint, detach, progress, timeout_s, writing=writing)
    left = conversation.hold(mount, runtime_dir, wait=not force, discard=discard)
    deadline = time.monotonic() + timeout_s
    for state in states:
        if not wait_until_gone(state, max(deadline - time.monotonic(), 0)):
            hint = f"it is still ending: pid {keeper_pid(state)}; see its log"
            raise MountError("unmounted, but the daemon has not ended", str(mountpoint), hint)
    return left


class Left(NamedTuple):
    """What an unmount has left on the disk, for the next mount."""

    changes: int = 0
    files: int = 0
    size_bytes: int = 0
    #: The same, of what was thrown away.
    discarded: tuple[int, int, int] | None = None
    #: The mount writes, and could not be asked.
    unknown: bool = False

    @property
    def incomplete(self) -> bool:
        """Whether something is, or may be, not in the lake."""
        return self.unknown or self.changes > 0

    def __str__(self) -> str:
        if self.unknown:
            return (
                "it could not be asked what is not in the lake: that stays on this disk, and goes"
                " on with the next mount"
            )
        return (
            f"{self.files:,} files ({human_size(self.size_bytes)}), {self.changes:,} changes in"
            " all, are not in the lake yet: they stay on this disk, and go on with the next mount"
        )


class _Conversation:
    """What is said with a mount while it is unmounted by *detach*: when it is ready, once. It ends
    within *patience_s* of that, or is still mounted elsewhere."""

    def __init__(
        self,
        mountpoint: Path,
        detach: Callable[[], None],
        progress: Callable[[dict[str, Any]], None],
        patience_s: float,
        *,
        writing: bool,
    ) -> None:
        self._mountpoint = mountpoint
        self._detach = detach
        self._progress = progress
        self._patience_s = patience_s
        self._writing = writing
        self._detached_s: float | None = None
        self._heard = False
        self._failure: MountError | None = None
        self._left = Left()

    def hold(self, mount: Mount, runtime_dir: Path | None, *, wait: bool, discard: bool) -> Left:
        """Unmount; *wait* for the lake before and after, or *discard* what it has not."""
        args = {"wait": wait, "discard": discard}
        try:
            call(
                mount, "unmount", args, progress=self._hear, runtime_dir=runtime_dir,
                timeout_s=LEAVING_S,
            )  # fmt: skip
        except TierfsError:
            if self._failure is not None:
                raise self._failure from None
            if discard and self._left.discarded is None:
                raise
            # It is dead, or hangs, or is of a version that does not know this: no matter.
            if self._writing and not self._heard:
                self._left = Left(unknown=True)
        if self._detached_s is None:
            self._detach()
        return self._left

    def _hear(self, fields: dict[str, Any]) -> None:
        if "unflushed_files" in fields:
            # The last word counts, also of a daemon that dies before the end.
            self._heard = True
            changes, files, size = _counted(fields, "unflushed_")
            gone = fields.get("discarded")
            discarded = None if gone is None else _counted(gone, "")
            self._left = Left(changes, files, size, discarded)
            self._progress(fields)
        if self._detached_s is None:
            if "ready" in fields:
                self._leave()
        elif (
            # Of a mount that does not say it, nobody knows.
            not fields.get("ending", True)
            and time.monotonic() - self._detached_s >= self._patience_s
        ):
            self._failure = MountError(
                "unmounted here, but still mounted or in use elsewhere",
                str(self._mountpoint),
                "look for it in /proc/*/mountinfo: a container or a service may hold a copy",
            )
            raise self._failure

    def _leave(self) -> None:
        try:
            self._detach()
        except MountError as error:
            self._failure = error
            raise
        self._detached_s = time.monotonic()


def _counted(fields: dict[str, Any], prefix: str) -> tuple[int, int, int]:
    """Changes, files and bytes, as a mount says them."""
    changes, files, size = (int(fields[prefix + name]) for name in ("changes", "files", "bytes"))
    return changes, files, size


def _detach(
    mount: Mount, *, lazy: bool, force: bool, keepers: Sequence[Path], deadline: float
) -> None:
    shown = str(mount.mountpoint)
    unseen = min(deadline, time.monotonic() + _UNSEEN_S)
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
        if names or time.monotonic() >= (deadline if busy else unseen):
            names = names or [user.shown for user in busy]
            by = "in use by " + ", ".join(names[:NAMED_USERS]) if names else "in use"
            more = f" and {len(names) - NAMED_USERS} more" if len(names) > NAMED_USERS else ""
            hint = f"end what uses it, or detach it: tierfs umount -l {shown}"
            raise MountError(f"cannot unmount: {by}{more}", shown, hint)
        # Its keeper has just made the mount (anew) and asks whether it answers, or whoever used it
        # ended before we looked; that passes.
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
