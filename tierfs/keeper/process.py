"""What a process that was just forked does before it becomes something else.

The keeper has no threads, so Python code between fork and exec is safe here.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Collection

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent dies: no child outlives its keeper (prctl(2))."""
    _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)


def close_all_but(keep: Collection[int]) -> None:
    """Close every descriptor above standard error that is not in *keep*."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, not paths.
        fd = int(name)
        if fd > 2 and fd not in keep:
            try:
                os.close(fd)
            except OSError:
                continue  # The descriptor of the listing itself.


def fill_standard_streams() -> None:
    """Open ``/dev/null`` where a standard stream is closed, so that no other file gets 0-2."""
    while True:
        fd = os.open("/dev/null", os.O_RDWR)
        if fd > 2:
            os.close(fd)
            return
        os.set_inheritable(fd, True)
