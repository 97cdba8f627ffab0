"""A writer that notes what it was told (`tests.writeback.recording`) and dies of the first error.

``python -m tests.crash.mortal ROOT LOG SEED [large]`` saves checkpoints below ROOT, overwrites,
renames and removes files (with "large": also some that go up in parts), until it is told to end
(SIGTERM: after the change under way), or something fails: then it ends there, as if it had been
killed, and whether that was done nobody knows.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from tests.writeback.recording import Event, Recorder

#: The status of one that died of an error.
FAILED = 3
SIZES = (1, 1000, 100_000, 3_000_000)
LARGE = 11_000_000


def die_of(error: OSError) -> NoReturn:
    """End here, with a word about it."""
    print(f"writer: {error}", file=sys.stderr, flush=True)
    os._exit(FAILED)


class Mortal(Recorder):
    """A recorder that does not outlive an error."""

    @contextmanager
    def _call(self, event: Event) -> Iterator[None]:
        with super()._call(event):
            try:
                yield
            except OSError as error:
                die_of(error)


def write_until_told(root: Path, log: Path, seed: int, sizes: Sequence[int]) -> None:
    """See the module."""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    recorder, choose = Mortal(root, log), random.Random(seed)
    files: list[str] = []
    directories = [""]

    def new(name: str) -> None:
        recorder.write(name, recorder.unique(choose.choice(sizes)))

    number = 0
    while not told:
        number += 1
        kind = choose.choice(("new", "new", "save", "over", "rename", "unlink", "directory"))
        name = f"{choose.choice(directories)}{number}"
        try:
            if kind == "directory" and len(directories) < 5:
                recorder.mkdir(name)
                directories.append(f"{name}/")
            elif kind == "save":
                new(f"{name}.tmp")
                recorder.rename(f"{name}.tmp", name)
                files.append(name)
            elif kind == "new" or not files:
                new(name)
                files.append(name)
            elif kind == "over":
                new(choose.choice(files))
            else:
                old = files.pop(choose.randrange(len(files)))
                if kind == "unlink":
                    recorder.unlink(old)
                else:
                    recorder.rename(old, name)
                    files.append(name)
        except OSError as error:
            die_of(error)


if __name__ == "__main__":
    _, root, log, seed, *large = sys.argv
    write_until_told(Path(root), Path(log), int(seed), (*SIZES, LARGE) if large else SIZES)
