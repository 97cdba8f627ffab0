"""Do all mount tests pass in a cgroup of 512 MB, page cache of the test's own files included?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from bench import processes
from bench.bars.harness import Result

LIMIT_BYTES = 512_000_000


def run() -> list[Result]:
    with processes.memory_cgroup(f"tierfs-bench-{os.getpid()}", LIMIT_BYTES) as group:
        suite = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/mount"]
        done = subprocess.run(
            processes.inside(group, suite),
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
        peak = processes.peak_bytes(group)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-200:]
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    return [
        Result(
            "the mount tests pass in a 512 MB cgroup",
            last,
            done.returncode == 0,
            {"peak, page cache included": f"{peak / 1e6:.0f} MB", "failures": failed or "none"},
        )
    ]
