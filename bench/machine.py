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
