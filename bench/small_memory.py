"""Do all mount tests pass in a cgroup of 512 MB, page cache of the test's own files included?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from bench.harness import Result

LIMIT_BYTES = 512_000_000
ROOT = Path("/sys/fs/cgroup")


def make_cgroup(name: str, limit_bytes: int) -> Path:
    """A memory cgroup with that limit, of version 1 or 2, whichever this machine has."""
    if (ROOT / "memory").is_dir():
        group, file = ROOT / "memory" / name, "memory.limit_in_bytes"
    else:
        group, file = ROOT / name, "memory.max"
    group.mkdir(exist_ok=True)
    (group / file).write_text(str(limit_bytes))
    return group


def peak_bytes(group: Path) -> int:
    """The most that the group ever held."""
    for file in ("memory.max_usage_in_bytes", "memory.peak"):
        if (group / file).exists():
            return int((group / file).read_text())
    return 0


def run() -> list[Result]:
    group = make_cgroup(f"tierfs-bench-{os.getpid()}", LIMIT_BYTES)
    try:
        join = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs")]
        suite = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/mount"]
        done = subprocess.run(
            [*join, *suite],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=False,
        )
        peak = peak_bytes(group)
    finally:
        group.rmdir()
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
