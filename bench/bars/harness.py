"""What the bars share: a mount of the product, data, readers, medians with their spread."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.subjects import tierfs as subjects
from bench.subjects.base import Place
from bench.subjects.tierfs import TierfsMount
from tierfs.front.program import native_front

MIB = 1 << 20


@dataclass
class Result:
    """One row of the table: a bar, what was measured, and whether it was met."""

    bar: str
    measured: str
    met: bool | None
    details: dict[str, Any] = field(default_factory=dict)


class Tierfs(TierfsMount):
    """The product on any lake, mounted with its own command until `stop`."""

    def __init__(
        self,
        work: Path,
        url: str,
        *options: str,
        cache: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        place = Place(work / "tierfs-mnt", cache or work / "tierfs-cache", work)
        super().__init__(place, {**os.environ, **(env or {})})
        place.directory.mkdir(exist_ok=True)
        arguments = [url, str(self.directory), "--cache", str(place.cache), *options]
        self.command("mount", *arguments)

    def stop(self) -> None:
        """Unmount."""
        self.command("umount", str(self.directory))


def front_names() -> tuple[str, ...]:
    """The fronts that this machine has, as ``--front`` calls them."""
    return ("python", "native") if native_front() else ("python",)


def fronts() -> list[subjects.Tierfs]:
    """The same, as subjects of the benchmark."""
    known = {"python": subjects.Tierfs, "native": subjects.TierfsNative}
    return [known[name]() for name in front_names()]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float], form: str = "{:.0f}") -> str:
    """``median (min..max)``."""
    low, mid, high = (form.format(v) for v in (min(values), median(values), max(values)))
    return f"{mid} ({low}..{high})"


def make_small_files(root: Path, count: int, size: int, seed: int = 1) -> list[str]:
    """*count* seeded files of *size* bytes in directories of 500; returns their relative names."""
    names = []
    generator = random.Random(seed)
    for n in range(count):
        directory = root / f"{n // 500:04}"
        if n % 500 == 0:
            directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{n:06}.bin").write_bytes(generator.randbytes(size))
        names.append(f"{n // 500:04}/{n:06}.bin")
    return names


#: A reader process: names on standard input, reads each once, prints seconds, files and bytes.
READER = """
import os, sys, time
root = sys.argv[1]
names = sys.stdin.read().split("\\n")
total = 0
print("ready", flush=True)
sys.stdin.close()
with open(sys.argv[2]) as gate:
    gate.read()
begin = time.perf_counter()
for name in names:
    fd = os.open(f"{root}/{name}", os.O_RDONLY)
    while True:
        data = os.read(fd, 1 << 20)
        if not data:
            break
        total += len(data)
        if len(data) < 1 << 20:
            break
    os.close(fd)
print(time.perf_counter() - begin, len(names), total, flush=True)
"""


def read_files(directory: Path, names: Sequence[str], readers: int, work: Path) -> float:
    """Read *names* with that many processes, started together; returns the wall seconds."""
    gate = work / f"gate-{random.getrandbits(32)}"
    os.mkfifo(gate)
    processes = []
    for n in range(readers):
        process = subprocess.Popen(
            [sys.executable, "-c", READER, str(directory), str(gate)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n".join(names[n::readers]))
        process.stdin.close()
        processes.append(process)
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    # Opening a pipe for writing waits for one reader only; the end of file reaches all that opened
    # it.
    time.sleep(0.05)
    begin = time.perf_counter()
    os.close(os.open(gate, os.O_WRONLY))
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
        assert process.wait() == 0
    elapsed = time.perf_counter() - begin
    gate.unlink()
    return elapsed
