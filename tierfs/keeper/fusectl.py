"""The kernel's own files about a FUSE connection: how many requests may wait, and how to end it.

They are in the file system ``fusectl``, which systemd mounts at ``/sys/fs/fuse/connections`` and
containers do without. Root needs no mount point for it: fsmount(2) gives one that hangs nowhere,
Linux 5.2.

Documentation: https://docs.kernel.org/filesystems/fuse.html#control-filesystem
"""

from __future__ import annotations

import ctypes
import os

_CONNECTIONS = "/sys/fs/fuse/connections"
# <asm-generic/unistd.h> and <sys/mount.h>
_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
_CLOEXEC, _CMD_CREATE = 1, 6

_libc = ctypes.CDLL(None, use_errno=True)


def open_file(device: str, name: str) -> int:
    """A descriptor, for writing, of the file *name* of the connection behind *device*
    (``major:minor``).

    Raises OSError: there is no ``fusectl`` here and we may not mount one, or the file is not ours.
    """
    path = f"{device.partition(':')[2]}/{name}"
    flags = os.O_WRONLY | os.O_CLOEXEC
    try:
        return os.open(f"{_CONNECTIONS}/{path}", flags)
    except FileNotFoundError:
        root = _mount_nowhere()
    try:
        return os.open(path, flags, dir_fd=root)
    finally:
        os.close(root)


def write(device: str, name: str, value: int) -> None:
    """Write *value* into that file. Raises as `open_file`."""
    fd = open_file(device, name)
    try:
        os.write(fd, b"%d" % value)
    finally:
        os.close(fd)


def _mount_nowhere() -> int:
    """The root of a ``fusectl`` that no path leads to. Raises OSError."""
    context = _call(_SYS_FSOPEN, b"fusectl", _CLOEXEC)
    try:
        _call(_SYS_FSCONFIG, context, _CMD_CREATE, None, None, 0)
        return _call(_SYS_FSMOUNT, context, _CLOEXEC, 0)
    finally:
        os.close(context)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), _CONNECTIONS)
    return result
