"""Which parts of a file have room on the disk: fallocate(2), whose modes Python's ``os`` lacks."""

from __future__ import annotations

import ctypes
import errno
import os

#: What a file system answers that cannot do this (fallocate(2)), and a kernel or sandbox without
#: the call.
UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS})

# <linux/falloc.h>
_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02

_libc = ctypes.CDLL(None, use_errno=True)


def punch_hole(fd: int, lo: int, hi: int) -> None:
    """Free the bytes ``[lo, hi)``: they read as zeros from now on, and the file keeps its size.

    Waits for the disk; for a worker thread. Raises OSError, with an errno of UNSUPPORTED where it
    cannot be done at all.
    """
    _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, lo, hi)


def set_aside(fd: int, lo: int, hi: int) -> None:
    """Give ``[lo, hi)`` room on the disk, also behind the end of the file, which keeps its size:
    writing there cannot fail for want of room.

    Waits for the disk; for a worker thread. Raises OSError as `punch_hole` does, ENOSPC among it.
    """
    _fallocate(fd, _KEEP_SIZE, lo, hi)


def _fallocate(fd: int, mode: int, lo: int, hi: int) -> None:
    try:
        fallocate = _libc.fallocate
    except AttributeError:
        raise OSError(errno.ENOSYS, "no fallocate here") from None
    arguments = ctypes.c_int(mode), ctypes.c_int64(lo), ctypes.c_int64(hi - lo)
    while fallocate(fd, *arguments) != 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
