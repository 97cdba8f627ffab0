"""What every measurement shares: mounts, data, CPU and memory of processes, rounds and medians.

The machines are shared and noisy. So subjects alternate round by round, each figure is a median,
and its spread is printed beside it; a ratio is the median of the ratios of neighbouring rounds.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MIB = 1 << 20
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass
class Result:
    """One row of the table: a bar, what was measured, and whether it was met."""

    bar: str
    measured: str
    met: bool | None
    details: dict[str, Any] = field(default_factory=dict)


@contextmanager
def workspace(base: Path | None = None) -> Iterator[Path]:
    """A private directory on a real disk (``TIERFS_BENCH_DIR``, else the temporary directory)."""
    root = base or Path(os.environ.get("TIERFS_BENCH_DIR", tempfile.gettempdir()))
    path = Path(tempfile.mkdtemp(prefix="tierfs-bench-", dir=root))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class Subject:
    """A file system under test: a directory to read, and the processes behind it."""

    name = "local"

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def pids(self) -> list[int]:
        return []

    def stop(self) -> None:
        """Take it down again."""


class Tierfs(Subject):
    """The product, mounted with its own command."""

    name = "tierfs"

    def __init__(
        self,
        work: Path,
        url: str,
        *options: str,
        cache: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        super().__init__(work / "tierfs-mnt")
        self.cache = cache or work / "tierfs-cache"
        self.runtime = work / "tierfs-run"
        self._env = {**os.environ, **(env or {})}
        self.directory.mkdir(exist_ok=True)
        self._command("mount", url, str(self.directory), "--cache", str(self.cache), *options)

    def _command(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "tierfs.cli", *arguments, "--runtime-dir", str(self.runtime)],
            capture_output=True,
            text=True,
            env=self._env,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"tierfs {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def command(self, name: str, *arguments: str) -> str:
        return self._command(name, *arguments)

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._command("status", str(self.directory), "--json"))
        return answer

    def pids(self) -> list[int]:
        return list(self.status()["pids"].values())

    def stop(self) -> None:
        self._command("umount", str(self.directory))


class Rclone(Subject):
    """rclone as its own documentation recommends for repeated reads: the full VFS cache."""

    name = "rclone"

    def __init__(self, work: Path, lake: Path, binary: str) -> None:
        super().__init__(work / "rclone-mnt")
        self.directory.mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            [
                binary,
                "mount",
                str(lake),
                str(self.directory),
                "--vfs-cache-mode=full",
                f"--cache-dir={work / 'rclone-cache'}",
                "--read-only",
                "--dir-cache-time=1h",
                "--config=/dev/null",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={k: v for k, v in os.environ.items() if k != "AWS_CA_BUNDLE"},
        )
        wait_for(lambda: os.path.ismount(self.directory), "rclone's mount")

    def pids(self) -> list[int]:
        return [self._process.pid]

    def stop(self) -> None:
        subprocess.run(["umount", self.directory], check=False)
        self._process.wait(timeout=30)


def rclone_binary() -> str | None:
    """A current rclone on the PATH or where ``go install`` puts it, or None."""
    return shutil.which("rclone") or shutil.which("rclone", path=str(Path.home() / "go/bin"))


@contextmanager
def contenders(work: Path, lake: Path) -> Iterator[list[Subject]]:
    """The lake's own directory, tierfs, and rclone if it is there: all over the same files."""
    subjects: list[Subject] = [Subject(lake)]
    try:
        subjects.append(Tierfs(work, f"file://{lake}", "--cache-size", "4G"))
        binary = rclone_binary()
        if binary:
            subjects.append(Rclone(work, lake, binary))
        yield subjects
    finally:
        for subject in subjects:
            subject.stop()


def against(
    bar: str, rates: dict[str, list[float]], peer: str, times: float, form: str = "{:.2f}"
) -> list[Result]:
    """The row that compares tierfs with *peer*, round by round; none where *peer* did not run."""
    if peer not in rates:
        return []
    ratios = [ours / theirs for ours, theirs in zip(rates["tierfs"], rates[peer], strict=True)]
    return [Result(bar, f"{spread(ratios, form)} x {peer}", median(ratios) >= times)]


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(0.02)


def cpu_s(pids: Sequence[int]) -> float:
    """User and system CPU seconds of *pids* since they started."""
    total = 0.0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) * _TICK_S
    return total


def memory_bytes(pids: Sequence[int]) -> int:
    """RssAnon + RssShmem of *pids* together."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += int(line.split()[1]) * 1024
    return total


def drop_caches() -> None:
    """Drop the page cache of the whole machine (root only)."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


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
