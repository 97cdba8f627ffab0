"""What machine a run was made on."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any


def describe(work: Path) -> dict[str, Any]:
    """CPU, memory, kernel, and the file system and disk that *work* lies on."""
    return {
        "cpu": _field(Path("/proc/cpuinfo"), "model name"),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "os": platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        "python": platform.python_version(),
        "file_system": _file_system(work),
        "load_before": os.getloadavg()[0],
    }


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
