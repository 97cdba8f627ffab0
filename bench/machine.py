"""What machine a run was made on."""

from __future__ import annotations

import contextlib
import mmap
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

#: About what the caches of a quick run take.
_TOUCHED_BYTES = 6 << 30
_STEP_BYTES = 1 << 20
#: What differs from run to run on one and the same machine.
PASSING = ("first_touch_s_per_gib", "load_before")


def describe(work: Path) -> dict[str, Any]:
    """CPU, memory, kernel, and the file system and disk that *work* lies on. Writes to some of the
    memory that is free."""
    return {
        "cpu": _field(Path("/proc/cpuinfo"), "model name"),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "os": platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        "python": platform.python_version(),
        "file_system": _file_system(work),
        "load_before": os.getloadavg()[0],
        "first_touch_s_per_gib": round(_touch_memory(), 2),
    }


def _touch_memory() -> float:
    """Write to free memory, up to `_TOUCHED_BYTES` of it; seconds for each GiB.

    The memory of a virtual machine that has just started is its host's until somebody writes to it,
    and that may cost more than all else that a file system does: 3 s for each GiB were seen where
    the second touch took 0.06, and cold-seq with four files at 0.74 of the client before, 0.97
    after it. A client that goes through a buffer of its own pays nothing of it.
    """
    available = int(_field(Path("/proc/meminfo"), "MemAvailable").split()[0]) << 10
    # A container's own limit.
    with contextlib.suppress(OSError, ValueError):
        limit, used = (
            int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current")
        )
        available = min(available, max(limit - used, 0))
    steps = min(_TOUCHED_BYTES, available // 2) // _STEP_BYTES
    if not steps:
        return 0.0
    bytes_ = bytes([1]) * _STEP_BYTES
    began = time.monotonic()
    with mmap.mmap(-1, steps * _STEP_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        for n in range(steps):
            memory[n * _STEP_BYTES : (n + 1) * _STEP_BYTES] = bytes_
    return (time.monotonic() - began) / (steps * _STEP_BYTES) * (1 << 30)


class Cpus:
    """How busy all processors of the machine are together, whoever uses them, from now on."""

    def __init__(self) -> None:
        self._busy, self._all = _ticks()

    @property
    def busy_share(self) -> float:
        """Since this was made; 0 where no tick has passed."""
        busy, all_ = _ticks()
        return (busy - self._busy) / max(all_ - self._all, 1)


def _ticks() -> tuple[int, int]:
    """Clock ticks of all processors that somebody used, and all, since the boot."""
    # proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal; guests are in user.
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


def _field(path: Path, name: str) -> str:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def _file_system(work: Path) -> str:
    argv = ["findmnt", "--noheadings", "--output", "FSTYPE,SOURCE", "--target", str(work)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return " ".join(done.stdout.split()) or "unknown"
