"""How long does a remount take with 200,000 objects in the cache, and does it walk them?"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from bench.bars.harness import Result, Tierfs, make_small_files, median, spread
from bench.workspace import workspace

COUNT, SIZE, ROUNDS = 200_000, 1000, 5


def _directory_reads(trace: Path) -> int:
    """How many directories below ``objects/`` were opened to be listed, by strace's account."""
    return sum(
        "/objects" in line and "O_DIRECTORY" in line
        for line in trace.read_text(errors="replace").splitlines()
    )


def run() -> list[Result]:
    with workspace() as work:
        lake = work / "lake"
        names = make_small_files(lake, COUNT, SIZE)
        url = f"file://{lake}"
        options = ("--cache-size", "4G", "--metadata-ttl", "inf")
        subject = Tierfs(work, url, *options)
        try:
            begin = time.perf_counter()
            subject.command("warmup", str(subject.directory))
            filled = time.perf_counter() - begin
            cached = subject.status()["cache"]["cached_files"]
        finally:
            subject.stop()
        if cached != COUNT:
            raise RuntimeError(f"{cached} of {COUNT} objects are cached")
        ready: list[float] = []
        from_lake = 0
        for n in range(ROUNDS):
            begin = time.perf_counter()
            subject = Tierfs(work, url, *options)
            try:
                ready.append(time.perf_counter() - begin)
                wanted = (lake / names[n]).read_bytes()
                if (subject.directory / names[n]).read_bytes() != wanted:
                    raise RuntimeError(f"{names[n]}: wrong bytes")
                from_lake += subject.status()["lake_requests"]["get"]
            finally:
                subject.stop()
        trace = work / "trace"
        walked = -1
        if Path("/usr/bin/strace").exists():
            strace = ["strace", "-f", "-qq", "-e", "trace=open,openat", "-o", str(trace)]
            mount = [sys.executable, "-m", "tierfs.cli", "mount", url, str(subject.directory)]
            places = ["--cache", str(subject.cache), "--runtime-dir", str(subject.runtime)]
            tracer = subprocess.Popen(
                [*strace, *mount, *places, *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            deadline = time.monotonic() + 60
            while not os.path.ismount(subject.directory) and time.monotonic() < deadline:
                time.sleep(0.1)
            (subject.directory / names[0]).read_bytes()
            subject.stop()
            tracer.wait(timeout=60)
            walked = _directory_reads(trace)
    return [
        Result(
            "remount with 200,000 cached objects: ready < 2 s, first read from the cache, no walk",
            f"ready {spread(ready, '{:.2f}')} s, {from_lake} GETs, {walked} directories listed",
            median(ready) < 2 and from_lake == 0 and walked == 0,
            {"filling took": f"{filled:.0f} s ({COUNT / filled:.0f} files/s)"},
        )
    ]
