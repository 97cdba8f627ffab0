"""Giving a part of a file back to its file system: fallocate(2) with FALLOC_FL_PUNCH_HOLE, which
Python's ``os`` lacks."""

from __future__ import annotations

import ctypes
import errno
import os

from tierfs.index.records import Extent

#: What a file system answers that cannot do this (fallocate(2)), and a kernel or sandbox without
#: the call.
UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS})

# <linux/falloc.h>
_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02

_libc = ctypes.CDLL(None, use_errno=True)


def punch_hole(fd: int, extent: Extent) -> None:
    """Free the bytes of *extent*: they read as zeros from now on, and the file keeps its size.

    Waits for the disk; for a worker thread. Raises OSError, with an errno of UNSUPPORTED where it
    cannot be done at all.
    """
    lo, hi = extent
    try:
        fallocate = _libc.fallocate
    except AttributeError:
        raise OSError(errno.ENOSYS, "no fallocate here") from None
    mode = ctypes.c_int(_PUNCH_HOLE | _KEEP_SIZE)
    while fallocate(fd, mode, ctypes.c_int64(lo), ctypes.c_int64(hi - lo)) != 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
