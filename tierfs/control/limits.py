"""What the control plane sets for its own process before it serves: descriptors and heaps."""

from __future__ import annotations

import contextlib
import ctypes
import resource

# <malloc.h>
_M_ARENA_MAX = -8
#: glibc gives threads heaps of their own, up to eight for each core, and each keeps what its
#: largest moment took. With 64 MiB of memory allowed and four large files read at a time, the
#: process had 77 MiB more than at rest with its default, 57 with this, and was no slower.
_HEAPS = 2


def raise_open_files() -> None:
    """Let this process have as many files open as it may: each object in use takes a descriptor,
    and the usual soft limit of 1,024 is made for select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def keep_few_heaps() -> None:
    """Let all threads share a few heaps, so that memory is bounded by what is in use. To be called
    before the first thread; nothing where malloc is not glibc's."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _HEAPS)
