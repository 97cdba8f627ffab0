"""Does anybody notice when processes of a native mount are killed, 1000 times, during an epoch?

Readers that never retry read 20,000 files in random order and compare each byte: two with read(2),
one through mmap(2), and one walks the tree. Meanwhile the front or the control plane gets SIGKILL,
half of the time when at least two requests wait in the kernel.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import data
from bench.bars.harness import Result, Tierfs, make_small_files
from bench.lakesim import ACCESS_KEY, SECRET_KEY, Link, lakesim
from bench.subjects.base import Bucket
from bench.workspace import workspace
from tierfs import mountinfo

KILLS, FILES, FILE_BYTES = 1000, 20_000, 24_000
#: Files that are larger than a block, so that reads of parts of them are under way, too.
LARGE, LARGE_BYTES = 40, 3_000_000
#: A lake that is near, so that there is much to strike.
LINK = Link(2.0, 10.0, 500.0, 2000.0)
#: Between two kills.
PAUSE_S = (0.2, 1.0)
ROLES = ("front", "front", "control")
#: An operation that took longer is written down.
SLOW_S = 0.02

READER = """
import json, mmap, os, random, signal, sys, time
kind, root, lake, seed, slow_s = sys.argv[1:4] + [int(sys.argv[4]), float(sys.argv[5])]
names = sys.stdin.read().split("\\n")
choose = random.Random(seed)
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
signal.siginterrupt(signal.SIGTERM, False)
told = {"operations": 0, "errors": [], "wrong": 0, "slow": []}

def whole(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        parts = []
        while data := os.read(fd, 1 << 17):
            parts.append(data)
        return b"".join(parts)
    finally:
        os.close(fd)

def mapped(path):
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        return bytes(view)

def walk():
    # One directory is one operation.
    found = 0
    for directory in sorted({os.path.dirname(name) for name in names}):
        found += len(timed(directory, lambda: os.listdir(f"{root}/{directory}")) or [])
        if stop:
            return
    told["wrong"] += found != len(names)

def read(name):
    got = timed(name, lambda: (mapped if kind == "mmap" else whole)(f"{root}/{name}"))
    with open(f"{lake}/{name}", "rb") as file:
        told["wrong"] += got is not None and got != file.read()

def timed(name, operation):
    begin = time.monotonic()
    try:
        return operation()
    except OSError as error:
        told["errors"].append(f"{kind} {name}: {error}")
    finally:
        taken = time.monotonic() - begin
        told["operations"] += 1
        if taken > slow_s:
            told["slow"].append((begin, taken))

print("ready", flush=True)
while not stop:
    if kind == "walk":
        walk()
        continue
    for name in choose.sample(names, len(names)):
        if stop:
            break
        read(name)
print(json.dumps(told), flush=True)
"""


@dataclass
class Outcome:
    """What the readers saw, and what was left."""

    kills: int = 0
    under_way: int = 0
    operations: int = 0
    wrong: int = 0
    errors: list[str] = field(default_factory=list)
    #: Of each kill: the longest that an operation took which it struck, beyond what is usual.
    pauses_s: list[float] = field(default_factory=list)
    replayed: int = 0
    open_files: int = 0
    memory_mb: tuple[float, float] = (0.0, 0.0)


def strike(work: Path, *, kills: int, files: int, seed: int = 1) -> Outcome:
    """Mount *files* small files (and some large ones), read, kill; what became of it."""
    lake = work / "lake"
    names = make_small_files(lake, files, FILE_BYTES, seed)
    (lake / "large").mkdir()
    for n in range(LARGE):
        name = f"large/{n:03}.bin"
        (lake / name).write_bytes(random.Random(n).randbytes(LARGE_BYTES))
        names.append(name)
    with lakesim(seed=seed) as server:
        bucket = Bucket(server.endpoint, "lake", "", ACCESS_KEY, SECRET_KEY)
        _upload(bucket, lake, names)
        server.configure(LINK)
        return _strike(work, bucket, lake, names, kills, seed)


def _upload(bucket: Bucket, lake: Path, names: list[str]) -> None:
    client = data.client(bucket)
    client.create_bucket(Bucket=bucket.name)

    def put(name: str) -> None:
        client.put_object(Bucket=bucket.name, Key=name, Body=(lake / name).read_bytes())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, names))


def _strike(
    work: Path, bucket: Bucket, lake: Path, names: list[str], kills: int, seed: int
) -> Outcome:
    options = ["--front", "native", "--metadata-ttl", "inf", "--cache-size", "8G"]
    options += ["--endpoint", bucket.endpoint]
    subject = Tierfs(work, f"s3://{bucket.name}", *options, env=bucket.environment())
    outcome = Outcome()
    readers = []
    try:
        before = subject.status()["memory_bytes"] / 1e6
        for n, kind in enumerate(("read", "read", "mmap", "walk")):
            readers.append(_reader(kind, subject, lake, names, seed * 10 + n))
        struck = _kill(subject, outcome, kills, random.Random(seed))
        told = [_ended(reader) for reader in readers]
        status = subject.status()
        outcome.memory_mb = before, status["memory_bytes"] / 1e6
        outcome.replayed = status["front_details"]["replayed"]
        outcome.open_files = status["front_details"]["open_inodes"]
    finally:
        for reader in readers:
            reader.kill()
            with reader:
                pass  # Closes its pipes and waits.
        subject.stop()
    for one in told:
        outcome.operations += one["operations"]
        outcome.wrong += one["wrong"]
        outcome.errors += one["errors"]
    slow = [tuple(pair) for one in told for pair in one["slow"]]
    outcome.pauses_s = [_longest(at, slow) for at in struck]
    return outcome


def _reader(
    kind: str, subject: Tierfs, lake: Path, names: list[str], seed: int
) -> subprocess.Popen[str]:
    reader = subprocess.Popen(
        [
            *(sys.executable, "-c", READER, kind, str(subject.directory), str(lake)),
            *(str(seed), str(SLOW_S)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdin is not None
    assert reader.stdout is not None
    reader.stdin.write("\n".join(names))
    reader.stdin.close()
    assert reader.stdout.readline() == "ready\n"
    return reader


def _ended(reader: subprocess.Popen[str]) -> dict[str, Any]:
    reader.send_signal(signal.SIGTERM)
    assert reader.stdout is not None
    told: dict[str, Any] = json.loads(reader.stdout.readline() or "null")
    return told


def _kill(subject: Tierfs, outcome: Outcome, kills: int, choose: random.Random) -> list[float]:
    entry = mountinfo.topmost(os.fsencode(subject.directory))
    assert entry is not None
    number = entry.device.partition(":")[2]
    (state,) = subject.runtime.glob("*/mount.json")
    with _connections(subject.runtime) as connections:
        return _kill_some(state, connections / number / "waiting", outcome, kills, choose)


@contextmanager
def _connections(scratch: Path) -> Iterator[Path]:
    """The kernel's files about FUSE connections, which are not mounted everywhere."""
    directory = scratch / "connections"
    directory.mkdir()
    subprocess.run(["mount", "-t", "fusectl", "none", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)
        directory.rmdir()


def _kill_some(
    state: Path, connection: Path, outcome: Outcome, kills: int, choose: random.Random
) -> list[float]:
    struck = []
    for n in range(kills):
        time.sleep(choose.uniform(*PAUSE_S))
        if n % 2:
            limit = time.monotonic() + 0.3
            while _waiting(connection) < 2 and time.monotonic() < limit:
                pass
        role = choose.choice(ROLES)
        pid = json.loads(state.read_text())["pids"].get(role)
        if pid is None:
            continue
        outcome.under_way += _waiting(connection) >= 2
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # Its successor is being started.
        struck.append(time.monotonic())
        outcome.kills += 1
        if sys.stderr.isatty():
            print(f"\r{n + 1}/{kills}", end="", file=sys.stderr)
    time.sleep(2)
    return struck


def _waiting(connection: Path) -> int:
    try:
        return int(connection.read_text())
    except (OSError, ValueError):
        return 0


def _longest(at: float, slow: list[tuple[float, float]]) -> float:
    return max((taken for begin, taken in slow if begin - 0.05 <= at <= begin + taken), default=0.0)


def run() -> list[Result]:
    with workspace() as work:
        outcome = strike(work, kills=KILLS, files=FILES)
    pauses = sorted(outcome.pauses_s)
    p99 = statistics.quantiles(pauses, n=100)[98] if len(pauses) > 1 else 0.0
    met = not outcome.errors and not outcome.wrong and p99 < 0.5 and pauses[-1] < 5
    met = met and outcome.kills >= KILLS * 0.9 and outcome.open_files == 0
    return [
        Result(
            f"{KILLS} x kill -9 of front or control plane: no error, no wrong byte, pause p99 <"
            " 0.5 s, max < 5 s",
            f"{outcome.kills} kills, {outcome.operations} reads: {len(outcome.errors)} errors,"
            f" {outcome.wrong} wrong, pause p99 {p99:.3f} s, max {pauses[-1]:.3f} s",
            met,
            {
                "kills with two or more requests waiting": outcome.under_way,
                "requests of the last front that its successor answered": outcome.replayed,
                "files open at the end": outcome.open_files,
                "memory before and after, MB": outcome.memory_mb,
                "first errors": outcome.errors[:5],
            },
        )
    ]
