"""The directory that is mounted on: whether what is there answers, and making room for a mount.

Nothing here waits on a mounted file system (K2 of `tierfs.keeper.mounting`): liveness is asked by a
child process with a deadline, the rest reads the mount table.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import signal
import subprocess
import time

from tierfs import mountinfo
from tierfs.errors import MountError
from tierfs.keeper import fusectl
from tierfs.keeper.process import close_all_but, die_with_parent

PROBE_S = 5.0
"""How long a mount that is there already may take to answer before it counts as hung."""

FUSERMOUNT_S = 30.0
"""How long ``fusermount3`` may take."""

# <sys/mount.h>
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8

_libc = ctypes.CDLL(None, use_errno=True)


def unmount(mountpoint: bytes, *, lazily: bool) -> bool:
    """umount2(2), or ``fusermount3 -u`` for a user. False if busy or not allowed."""
    if os.geteuid() == 0:
        flags = UMOUNT_NOFOLLOW | (MNT_DETACH if lazily else 0)
        return int(_libc.umount2(mountpoint, flags)) == 0
    program = shutil.which("fusermount3")
    if program is None:
        return False
    argv = [program, "-u", "-q", *(["-z"] if lazily else []), "--", os.fsdecode(mountpoint)]
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=FUSERMOUNT_S, check=False
        )
        return done.returncode == 0
    return False


def start_probe(target: bytes | int) -> int:
    """Start a child that asks *target* (a mount point, or a descriptor of its root) for an answer;
    its pid. It exits with 0 or the errno.

    It asks by statvfs(3), which the kernel always passes on: stat(2) on a dead mount succeeds as
    long as the attributes of its root are cached. The child holds no ``/dev/fuse``, so that it
    cannot keep alive what it waits for.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.set_wakeup_fd(-1)
        die_with_parent()
        close_all_but((target,) if isinstance(target, int) else ())
        os.statvfs(target)
        os._exit(0)
    except OSError as error:
        # A daemon that says that it has no STATFS has answered.
        os._exit(0 if error.errno == errno.ENOSYS else error.errno or errno.EIO)
    finally:
        os._exit(errno.EIO)


def probe(mountpoint: bytes, timeout_s: float = PROBE_S) -> int:
    """0 if *mountpoint* answers, the errno if it does not, ETIMEDOUT if nothing comes in time."""
    pid = start_probe(mountpoint)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    # A request that the dead daemon had read already is not killable: do not wait for the child.
    os.waitpid(pid, os.WNOHANG)
    return errno.ETIMEDOUT


def clear_mountpoint(
    mountpoint: bytes,
    *,
    nonempty: bool = False,
    orphan: object = None,
    probe_s: float = PROBE_S,
) -> int:
    """Make sure that *mountpoint* is a directory, empty unless *nonempty*, with no live mount.

    Detaches dead mounts of our own and returns how many. Waits up to *probe_s* for an answer of a
    mount that is there. The *orphan*, a mount id and a device, has lost its keeper: if it does not
    answer it is dead, though a process that was killed and waits for the mount itself cannot end
    and keeps it from saying so. Such a mount is cut off.

    Raises:
        MountError: what is there is alive, foreign, hung, not a directory, or not empty.
    """
    stale = 0
    while (entry := mountinfo.topmost(mountpoint)) is not None:
        if entry.fs_type == b"autofs":
            # Opening the directory would wait for the very mount that we are about to make.
            return stale
        if entry.fs_type != mountinfo.MOUNT_TYPE:
            kind = entry.fs_type.decode("ascii", "replace")
            raise MountError(
                f"a {kind} file system is mounted there already",
                mountpoint,
                "unmount it, or choose another directory",
            )
        answer = probe(mountpoint, probe_s)
        if answer == errno.ECONNABORTED:
            continue  # Its last process ended while it was asked: it is dead by now.
        if answer == errno.ETIMEDOUT and orphan == [entry.mount_id, entry.device]:
            orphan = None  # It is tried once.
            # Where that is not allowed, it is said of the mount what is said of others.
            with contextlib.suppress(OSError):
                if mountinfo.topmost(mountpoint) == entry:
                    fusectl.write(entry.device, "abort", 1)
            continue
        if answer == errno.ETIMEDOUT:
            raise MountError(
                "a tierfs mount that does not answer is there already",
                mountpoint,
                "detach it with 'umount -l', or kill its daemon, then mount again",
            )
        if answer != errno.ENOTCONN:
            raise MountError(
                "already mounted", mountpoint, "unmount it first: tierfs umount DIRECTORY"
            )
        if not unmount(mountpoint, lazily=True):
            raise MountError(
                "a dead tierfs mount cannot be detached", mountpoint, "run: umount -l, as root"
            )
        stale += 1
    _require_directory(mountpoint, nonempty)
    return stale


def _require_directory(mountpoint: bytes, nonempty: bool) -> None:
    try:
        with os.scandir(mountpoint) as entries:
            filled = next(entries, None) is not None
    except FileNotFoundError:
        hint = "create it: mkdir -p DIRECTORY"
        raise MountError("the mount point does not exist", mountpoint, hint) from None
    except NotADirectoryError:
        hint = "choose a directory"
        raise MountError("the mount point is not a directory", mountpoint, hint) from None
    except OSError as error:
        hint = "choose a directory that you may read"
        op = f"the mount point cannot be read: {error.strerror}"
        raise MountError(op, mountpoint, hint) from error
    if filled and not nonempty:
        hint = "its files would be hidden; choose another, or allow it with nonempty"
        raise MountError("the mount point is not empty", mountpoint, hint)
