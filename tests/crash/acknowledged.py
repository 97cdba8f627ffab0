"""A writer that may die with all that it writes to, and what it was told by then.

``python -m tests.crash.acknowledged ROOT LOG SEED FIRST`` changes files below ROOT until it is
killed, and notes each change in LOG before it begins and when it is acknowledged. `Model` reads
that, and says what has to be there.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATHS = [f"{directory}/{name}" for directory in ("a", "b") for name in ("0", "1", "2", "marker")]
SIZES = (0, 5, 4096, 100_000, 1_500_000)
#: Files of the lake that are read while others are written, beside ROOT: name and size.
DATA = {str(n): 100_000 + n * 300_000 for n in range(8)}


class Wrong(Exception):
    """What must not be."""


def content(number: int, size: int) -> bytes:
    """Of file version *number*."""
    return random.Random(number).randbytes(size)


def data(name: str) -> bytes:
    """Of a file of the lake."""
    return content(-int(name) - 1, DATA[name])


def write_for_ever(root: Path, log: Path, seed: int, first: int) -> None:
    """See the module. Versions are numbered from *first*."""
    choose = random.Random(seed)
    number = first
    with log.open("a", buffering=1) as notes:
        while True:
            number += 1
            name = choose.choice(list(DATA))
            assert (root.parent / "data" / name).read_bytes() == data(name)
            path, other = choose.sample(PATHS, 2)
            how = choose.choice(["place", "place", "rename", "rename", "unlink", "move"])
            if how in ("unlink", "move") and not (root / path).exists():
                how = "place"
            size, synced = choose.choice(SIZES), choose.random() < 0.6
            note = {"n": number, "how": how, "path": path, "other": other, "size": size}
            notes.write(json.dumps({**note, "synced": synced}) + "\n")
            if how == "unlink":
                (root / path).unlink()
            elif how == "move":
                (root / path).rename(root / other)
            else:
                target = root / (path if how == "place" else f"{path}.tmp")
                with target.open("wb", buffering=0) as file:
                    file.write(content(number, size))
                    if synced:
                        os.fsync(file.fileno())
                if how == "rename":
                    target.rename(root / path)
            notes.write(json.dumps({"done": number}) + "\n")


@dataclass(frozen=True)
class Version:
    """Bytes that somebody has closed a file with."""

    number: int
    size: int
    synced: bool

    @property
    def bytes(self) -> bytes:
        return content(self.number, self.size)


@dataclass
class Model:
    """What was acknowledged. *promised*: what was closed and not synced is as sure as the rest."""

    promised: bool
    files: dict[str, Version] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    #: Of each path all that was ever closed, or moved, under it.
    ever: dict[str, list[Version]] = field(default_factory=dict)
    #: Changes in all.
    changes: int = 0

    def read(self, log: Path) -> None:
        """Take in what *log* says."""
        lines = [json.loads(line) for line in log.read_bytes().split(b"\n") if line.endswith(b"}")]
        done = {line["done"] for line in lines if "done" in line}
        for line in lines:
            if "how" in line:
                self._take(line, line["n"] in done)

    def _take(self, line: dict[str, Any], done: bool) -> None:
        path, other = line["path"], line["other"]
        self.changes += done
        if line["how"] in ("place", "rename"):
            version = Version(line["n"], line["size"], line["synced"])
            self.ever.setdefault(path, []).append(version)
            self._set(path, version, done)
        elif line["how"] == "unlink":
            self._set(path, None, done)
        else:
            moved = self.files.get(path)
            if moved is not None:
                self.ever.setdefault(other, []).append(moved)
            self._set(other, moved, done)
            # With what is lost goes its move: the lake keeps what it has at the old name.
            self._set(path, None, done and moved is not None and self._is_sure(moved))

    def _set(self, path: str, version: Version | None, done: bool) -> None:
        """What is at *path* from now on; not known if it is not *done*."""
        self.files.pop(path, None)
        self.gone.discard(path)
        if done and version is None:
            self.gone.add(path)
        elif done and version is not None:
            self.files[path] = version

    def _is_sure(self, version: Version) -> bool:
        return version.synced or self.promised

    @property
    def sure(self) -> dict[str, Version]:
        """The files that have to be there."""
        return {path: each for path, each in self.files.items() if self._is_sure(each)}

    def forget(self, paths: Iterable[str]) -> None:
        """*paths* were removed."""
        for path in paths:
            self._set(path, None, done=True)

    @property
    def unsure(self) -> list[str]:
        """Paths of which nobody knows what has to be there."""
        return [path for path in PATHS if path not in self.sure and path not in self.gone]

    # ---- what must be ----------------------------------------------------------------------------

    def judge_node(self, root: Path) -> None:
        """What is sure is there, what was removed is not, and the lake's files are what they are.
        Raises Wrong."""
        for path, version in self.sure.items():
            try:
                found = (root / path).read_bytes()
            except OSError as error:
                raise Wrong(f"{path}, {version}, is lost: {error}") from None
            if found != version.bytes:
                raise Wrong(f"{path}, {version}, has other bytes: {len(found)}")
        for path in self.gone:
            if (root / path).exists():
                raise Wrong(f"{path} was removed, and is there")
        for name in DATA:
            if (root.parent / "data" / name).read_bytes() != data(name):
                raise Wrong(f"data/{name} has other bytes than in the lake")

    def judge_lake(self, lake: Path) -> None:
        """All that it shows was closed like that. Raises Wrong."""
        for path in PATHS:
            file = lake / path
            if file.exists():
                found = file.read_bytes()
                if all(found != version.bytes for version in self.ever.get(path, [])):
                    raise Wrong(f"{path} in the lake was never closed so: {len(found)} bytes")
        for file in lake.rglob("*.tmp"):
            raise Wrong(f"{file.name} is in the lake")

    def judge_flushed(self, lake: Path) -> None:
        """What is sure has arrived, and what was removed has gone. Raises Wrong."""
        for path, version in self.sure.items():
            file = lake / path
            if not (file.exists() and file.read_bytes() == version.bytes):
                raise Wrong(f"{path}, {version}, is not in the lake")
        for path in self.gone:
            if (lake / path).exists():
                raise Wrong(f"{path} was removed, and is in the lake")


if __name__ == "__main__":
    _, root, log, seed, first = sys.argv
    write_for_ever(Path(root), Path(log), int(seed), int(first))
