"""The keeper's directory at run time: who keeps a mount point, and where its log is.

The directory (`Config.state_dir`) holds::

    keeper.pid     the keeper's pid; an exclusive flock(2) on it is the proof of life
    mount.json     mount point, mount, boot, lake, pid, log file, start, deaths of the control
                   plane, and whether the mount writes
    control.sock   the control plane's socket
    tierfs.log     the log of a keeper in the background, and tierfs.log.1 the one before

Invariant:

K4. Whoever holds the lock on ``keeper.pid`` *as it is linked now* is the only keeper of that mount
    point. A file without a lock is a leftover, whatever pid it names. The file is unlinked only by
    the holder of its lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tierfs.boot import boot_id
from tierfs.errors import MountError

_LEFTOVERS = ("control.sock", "mount.json", "mount.json.new")

_LOCK_S = 0.2

LOG_LIMIT_BYTES = 16 << 20
"""A log larger than this starts afresh; runtime directories usually are on tmpfs."""


def keeper_pid(directory: Path) -> int | None:
    """The pid of the live keeper of the runtime *directory*, or None. Waits for nothing."""
    try:
        fd = os.open(directory / "keeper.pid", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.read(fd, 32).strip()
        return int(text) if text.isdigit() else 0
    finally:
        os.close(fd)
    return None


def wait_until_gone(directory: Path, timeout_s: float) -> bool:
    """Wait until no keeper lives in *directory*; False if one still does after *timeout_s*."""
    deadline = time.monotonic() + timeout_s
    while keeper_pid(directory) is not None:
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def writes(directory: Path) -> bool:
    """Whether the mount of the runtime *directory* is one that writes, as its keeper, also one that
    was killed since, has noted."""
    return bool(_noted(directory).get("writes"))


def _noted(directory: Path) -> Mapping[str, Any]:
    """What the keeper of the runtime *directory* has noted (`Runtime.write_state`), if anything."""
    try:
        noted = json.loads((directory / "mount.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


class Runtime:
    """The runtime directory, held under its lock from `claim` to `release`."""

    def __init__(self, directory: Path, lock_fd: int) -> None:
        self.directory = directory
        self.log_file: Path | None = None
        self.lock_fd = lock_fd
        noted = _noted(directory)
        #: What an earlier keeper of this boot, which is dead, noted last and did not take back.
        self.left: Mapping[str, Any] = noted if noted.get("boot") == boot_id().hex() else {}

    @classmethod
    def claim(cls, directory: Path, mountpoint: str | bytes) -> Runtime:
        """Make *directory* and take its lock (K4); *mountpoint* is for the message.

        Waits up to `_LOCK_S` for those who only ask who holds it (`keeper_pid`).

        Raises:
            MountError: another keeper holds it, or the directory cannot be made.
        """
        root = os.geteuid() == 0
        try:
            # Any user may find root's control socket, which guards itself (mode 0600, SO_PEERCRED).
            directory.parent.mkdir(mode=0o755 if root else 0o700, parents=True, exist_ok=True)
            directory.mkdir(mode=0o755 if root else 0o700, exist_ok=True)
            _require_own(directory)
            runtime = cls(directory, _lock(directory / "keeper.pid", mountpoint))
            runtime._remove(_LEFTOVERS)
            return runtime
        except OSError as error:
            op = f"cannot use the runtime directory: {error.strerror}"
            hint = "choose another one with --runtime-dir"
            raise MountError(op, os.fspath(directory), hint) from error

    def write_pid(self) -> None:
        """Record this process as the keeper; called by the process that stays."""
        # With no room for it, the lock on the file says as much as the number in it.
        with contextlib.suppress(OSError):
            os.ftruncate(self.lock_fd, 0)
            os.pwrite(self.lock_fd, b"%d\n" % os.getpid(), 0)

    def write_state(self, state: Mapping[str, object]) -> None:
        """Replace ``mount.json`` in one step; a full disk leaves the old one."""
        scratch = self.directory / "mount.json.new"
        with contextlib.suppress(OSError):
            scratch.write_text(json.dumps(state) + "\n")
            scratch.replace(self.directory / "mount.json")

    def open_log(self) -> int:
        """Open ``tierfs.log`` for appending, the last run's set aside; the descriptor."""
        self.log_file = self.directory / "tierfs.log"
        with contextlib.suppress(FileNotFoundError):
            self.log_file.replace(self.directory / "tierfs.log.1")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return os.open(self.log_file, flags, 0o640)

    def bound_log(self) -> None:
        """Keep the log under `LOG_LIMIT_BYTES`.

        The control plane writes to the same open file, so the text is copied away and the file
        emptied; a line written in between is lost.
        """
        if self.log_file is None:
            return
        with contextlib.suppress(OSError):
            if self.log_file.stat().st_size > LOG_LIMIT_BYTES:
                shutil.copyfile(self.log_file, self.directory / "tierfs.log.1")
                os.truncate(self.log_file, 0)

    def close(self) -> None:
        """Drop this process's descriptor of the lock; a forked keeper keeps it held."""
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
            self.lock_fd = -1

    def release(self) -> None:
        """Remove what a mount leaves behind, except its log, and give up the lock."""
        self._remove((*_LEFTOVERS, "keeper.pid"))
        with contextlib.suppress(OSError):
            self.directory.rmdir()  # Not empty where a log stays for whoever asks why.
        self.close()

    def _remove(self, names: tuple[str, ...]) -> None:
        for name in names:
            with contextlib.suppress(OSError):
                (self.directory / name).unlink(missing_ok=True)


def _require_own(directory: Path) -> None:
    """A user's runtime directory may be under /tmp, where anybody could have made it before us."""
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise MountError(
            "the runtime directory belongs to somebody else or is writable for others",
            os.fspath(directory),
            "remove it, or choose another one with --runtime-dir",
        )


def _lock(path: Path, mountpoint: str | bytes) -> int:
    deadline = time.monotonic() + _LOCK_S
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(fd, 32).decode("ascii", "replace").strip()
            os.close(fd)
            if time.monotonic() < deadline:
                time.sleep(0.01)
                continue
            raise MountError(
                f"already kept by another tierfs, pid {pid}", mountpoint, "tierfs umount first"
            ) from None
        # The last keeper may have unlinked the file between our open and our lock.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), path.stat()):
                return fd
        os.close(fd)
