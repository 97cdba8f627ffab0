"""How fast is the second ``find`` over 100,000 entries in 100 directories?"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from bench.harness import Result, Subject, Tierfs, cpu_s, median, spread, workspace

DIRECTORIES, FILES, ROUNDS = 100, 1000, 7


def find(directory: Path) -> float:
    """Seconds of one ``find``."""
    begin = time.perf_counter()
    out = subprocess.run(["find", directory, "-type", "f"], capture_output=True, check=True).stdout
    assert out.count(b"\n") == DIRECTORIES * FILES
    return time.perf_counter() - begin


def run() -> list[Result]:
    with workspace() as work:
        lake = work / "lake"
        for d in range(DIRECTORIES):
            (lake / f"{d:03}").mkdir(parents=True)
            for n in range(FILES):
                (lake / f"{d:03}" / f"sample-{n:05}.jpg").touch()
        subject = Tierfs(work, f"file://{lake}", "--cache-size", "1G", "--metadata-ttl", "10m")
        try:
            pids = subject.pids()
            before = cpu_s(pids)
            first = find(subject.directory)
            first_cpu = cpu_s(pids) - before
            seconds = [find(subject.directory) for _ in range(ROUNDS)]
            local = [find(Subject(lake).directory) for _ in range(ROUNDS)]
        finally:
            subject.stop()
    entries = DIRECTORIES * FILES
    rates = [entries / s for s in seconds]
    return [
        Result(
            "second find over 100,000 entries >= 50,000 entries/s",
            f"{spread(rates)} entries/s",
            median(rates) >= 50_000,
            {
                "first find, s": f"{first:.2f}",
                "first find, daemon CPU us/entry": f"{first_cpu / entries * 1e6:.0f}",
                "local entries/s": spread([entries / s for s in local]),
            },
        )
    ]
