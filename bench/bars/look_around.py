"""How much is fetched for somebody who only looks around: find, ls -R, and the beginning of some
files, in the order of the listing and at random?

Each looks at a tree of his own mount, as far as nobody knows yet. What is fetched of files beyond
what was asked for counts, until the lake is quiet; listings do not.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import data
from bench.bars.harness import MIB, Result, Tierfs
from bench.lakesim import ACCESS_KEY, SECRET_KEY, STANDARD_LINK, Lakesim, Objects, lakesim
from bench.subjects.base import Bucket
from bench.workspace import workspace

#: Of a large tree one part in a hundred may be fetched in vain, of any tree so much.
SHARE, ANYWAY_BYTES = 0.01, 64 * MIB
PER_DIRECTORY = 1000
#: What file(1) reads of a file, and of how many.
HEAD_BYTES, HEADS = 4096, 100
#: What is fetched ahead comes within this time, if at all.
STILL_S, LIMIT_S = 2.0, 60.0


@dataclass(frozen=True)
class Tree:
    """So many files of one size."""

    files: int
    file_bytes: int

    @property
    def limit_bytes(self) -> float:
        return max(ANYWAY_BYTES, SHARE * self.files * self.file_bytes)


#: The second has samples of the usual size, of which 64 MiB are one in 33.
TREES = (Tree(1_000_000, 20_000), Tree(20_000, 110_000))


def run() -> list[Result]:
    return [look(tree) for tree in TREES]


def look(tree: Tree) -> Result:
    """What looking at *tree* costs in each way."""
    objects = Objects("lake", tree.files, tree.file_bytes, fanout=PER_DIRECTORY)
    names = [objects.key(n) for n in range(tree.files)]
    looks: dict[str, Callable[[Path], int]] = {
        "find": lambda root: _list(["find", "."], root),
        "ls -R": lambda root: _list(["ls", "-R"], root),
        "the first files": lambda root: _heads(root, objects, names[:HEADS]),
        "files at random": lambda root: _heads(
            root, objects, random.Random(1).sample(names, HEADS)
        ),
    }
    beyond: dict[str, int] = {}
    with workspace() as work, lakesim(seed=1) as server:
        bucket = Bucket(server.endpoint, objects.bucket, "", ACCESS_KEY, SECRET_KEY)
        data.create_bucket(bucket)
        server.plant(objects)
        server.configure(STANDARD_LINK)
        for n, (what, look_at) in enumerate(looks.items()):
            options = ["--endpoint", bucket.endpoint, "--cache-size", "64G"]
            subject = Tierfs(
                work,
                f"s3://{bucket.name}",
                *options,
                cache=work / f"cache-{n}",
                env=bucket.environment(),
            )
            try:
                server.reset()
                asked = look_at(subject.directory)
                server.wait_until_quiet(STILL_S, LIMIT_S)
                beyond[what] = _fetched(server) - asked
            finally:
                subject.stop()
    return Result(
        f"a look at {tree.files:,} files of {tree.file_bytes / 1e3:.0f} KB fetches at most"
        f" {tree.limit_bytes / 1e6:.0f} MB more than it reads",
        f"{max(beyond.values()) / 1e6:.1f} MB",
        max(beyond.values()) <= tree.limit_bytes,
        {what: f"{bytes_ / 1e6:.1f} MB" for what, bytes_ in beyond.items()},
    )


def _list(command: Sequence[str], root: Path) -> int:
    """The bytes of files that a listing asks for: none."""
    subprocess.run(command, cwd=root, stdout=subprocess.DEVNULL, check=True)
    return 0


def _heads(root: Path, objects: Objects, names: Sequence[str]) -> int:
    """Read the beginning of files, and compare it; how many bytes that was."""
    asked = 0
    for name in names:
        fd = os.open(root / name, os.O_RDONLY)
        try:
            head = os.read(fd, HEAD_BYTES)
        finally:
            os.close(fd)
        if head != objects.body(name)[:HEAD_BYTES]:
            raise RuntimeError(f"{name}: wrong bytes")
        asked += len(head)
    return asked


def _fetched(server: Lakesim) -> int:
    return sum(one.bytes_out for one in server.log() if one.operation == "GetObject")
