"""What the control plane sets for its own process before it serves: descriptors, heaps, and when
Python looks for garbage."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource

# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
#: glibc gives threads heaps of their own, up to eight for each core, and each keeps what its
#: largest moment took. With 64 MiB of memory allowed and four large files read at a time, the
#: process had 77 MiB more than at rest with its default, 57 with this, and was no slower.
_HEAPS = 2
#: A buffer up to this size comes from a heap, and so much of a heap stays with the process when it
#: is free: the pages of one that is mapped for each part are made anew each time. A large cold file
#: took 1.93 s of CPU for each GiB with this, 2.5 with glibc's choice (medians of six, virtual
#: machine, where a fresh page is dear). The shares are of the memory that is allowed.
_KEPT_BYTES, _KEPT_SHARE = 128 << 20, 8
_BUFFER_BYTES, _BUFFER_SHARE = 32 << 20, 32
#: Objects made and not gone again at which Python looks for cycles among them. A page of a listing
#: makes some thousands that are no cycles: with Python's 700 the search was a quarter of the CPU
#: that a key took, with all that was loaded at the start among what was searched.
_YOUNG_OBJECTS = 10_000


def raise_open_files() -> None:
    """Let this process have as many files open as it may: each object in use takes a descriptor,
    and the usual soft limit of 1,024 is made for select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def set_up_heaps(memory: int) -> None:
    """Let all threads share a few heaps, and keep some of what is free in them, so that memory is
    bounded by *memory* (bytes, for buffers) and what is in use. To be called before the first
    thread; nothing where malloc is not glibc's."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _HEAPS)
        mallopt(_M_TRIM_THRESHOLD, min(_KEPT_BYTES, memory // _KEPT_SHARE))
        mallopt(_M_MMAP_THRESHOLD, min(_BUFFER_BYTES, memory // _BUFFER_SHARE))


def calm_collector() -> None:
    """Let Python's garbage collector leave out what is there already, and look less often for the
    rest: what is not needed any more goes by its reference count, cycles are few. To be called when
    everything is imported."""
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)


def trim_heaps() -> None:
    """Give back to the system what is free in the heaps; some milliseconds."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
