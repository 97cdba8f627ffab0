"""How much memory do all processes take after listing 1,000,000 keys and reading 1,000 files?"""

from __future__ import annotations

import random
import subprocess
import time

from bench.bars.harness import Result, Tierfs, read_files
from bench.processes import cpu_s, memory_bytes
from bench.workspace import workspace

DIRECTORIES, FILES, READ, SIZE = 1000, 1000, 1000, 110_000
LIMIT_BYTES = 250_000_000


def run() -> list[Result]:
    with workspace() as work:
        lake = work / "lake"
        data = random.Random(1).randbytes(SIZE)
        for d in range(DIRECTORIES):
            (lake / f"{d:04}").mkdir(parents=True)
            for n in range(FILES):
                (lake / f"{d:04}" / f"sample-{n:05}.jpg").touch()
        names = [f"{d:04}/sample-{d % FILES:05}.jpg" for d in range(DIRECTORIES)][:READ]
        for name in names:
            (lake / name).write_bytes(data)
        subject = Tierfs(work, f"file://{lake}", "--cache-size", "4G", "--metadata-ttl", "inf")
        try:
            pids = subject.pids()
            fresh = memory_bytes(pids)
            before, begin = cpu_s(pids), time.perf_counter()
            out = subprocess.run(
                ["find", subject.directory, "-type", "f"], capture_output=True, check=True
            ).stdout
            seconds, spent = time.perf_counter() - begin, cpu_s(pids) - before
            assert out.count(b"\n") == DIRECTORIES * FILES
            listed = memory_bytes(pids)
            read_files(subject.directory, names, 4, work)
            used = memory_bytes(pids)
        finally:
            subject.stop()
    keys = DIRECTORIES * FILES
    return [
        Result(
            "memory after listing 1,000,000 keys and reading 1,000 < 250 MB",
            f"{used / 1e6:.0f} MB",
            used < LIMIT_BYTES,
            {
                "fresh mount": f"{fresh / 1e6:.0f} MB",
                "after listing": f"{listed / 1e6:.0f} MB",
                "listing": f"{seconds:.0f} s, {spent / keys * 1e6:.0f} us of CPU a key",
            },
        )
    ]
