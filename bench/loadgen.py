"""The compiled clients (``native/loadgen``): readers that are cheap and check every byte.

Each call runs one process, started before the clock; what it prints is returned as a dictionary. A
`Reader` is a process that goes on.
"""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench import processes

PROGRAM = Path(__file__).parents[1] / "native" / "target" / "release" / "loadgen"

#: The part of a multipart upload: what boto3 cuts files into by default.
PART_BYTES = 8 << 20

Writer = Literal["torch-save", "torch-dcp", "safetensors"]

#: Exit codes of the program.
_WRONG_BYTES, _FAILED = 3, 4
#: How long after its limit of time a reader may wait for what it has begun.
STUCK_S = 30.0
#: How long a reader that is wanted no more may take to end.
_END_S = 5.0


@dataclass(frozen=True)
class File:
    """One file of a data set; *path* is relative to its root."""

    path: str
    size: int


@dataclass(frozen=True)
class Range:
    """A part of a file: a member of a shard, a record."""

    path: str
    offset: int
    size: int


class WrongBytesError(Exception):
    """A reader got bytes that are not the file's: the run is worth nothing."""


class ReadFailedError(Exception):
    """A reader got an error from the file system or the server."""


class Loadgen:
    """Runs the program."""

    def __init__(self, program: Path = PROGRAM) -> None:
        self._program = program
        #: Killed, and not seen to end yet.
        self.abandoned: list[subprocess.Popen[str]] = []
        if not program.exists():
            raise SystemExit(f"bench: {program} is missing; run: make native")

    def generate(self, root: Path, seed: int, files: Iterable[File]) -> None:
        """Write data set files below *root*."""
        root.mkdir(parents=True, exist_ok=True)
        self._run("generate", root, seed, [], _rows(files))

    def sequential(self, root: Path, seed: int, files: Sequence[File]) -> dict[str, Any]:
        """One thread for each of *files*, all of one size; reads of 1 MiB."""
        (size,) = {file.size for file in files}
        arguments = ["--size", str(size), *(file.path for file in files)]
        return self._run("seq", root, seed, arguments)

    def small(
        self,
        root: Path,
        seed: int,
        samples: Sequence[File | Range],
        readers: int,
        *,
        times: bool = False,
        limit_s: float | None = None,
        rate: float | None = None,
        cgroup: Path | None = None,
    ) -> dict[str, Any]:
        """Open, read whole and close each file, in that order, by *readers* threads; or read
        each range from a file that stays open, if they are ranges. After *limit_s* no further one
        is begun; a reader that then waits for another `STUCK_S` has failed. With a *rate*, so many
        are begun in a second, each when its turn comes, or later if all readers are busy then.

        With *times*, ``times`` of the answer tells when each was read: its index, ns since 1970, ns
        that it took.
        """
        arguments = ["--readers", str(readers), *_mode(samples)]
        if times:
            arguments.append("--times")
        if limit_s is not None:
            arguments += ["--limit-s", str(limit_s)]
        if rate is not None:
            arguments += ["--rate", str(rate)]
        timeout_s = None if limit_s is None else limit_s + STUCK_S
        return self._run(
            "small", root, seed, arguments, _rows(samples), cgroup=cgroup, timeout_s=timeout_s
        )

    @contextmanager
    def reader(
        self,
        root: Path,
        seed: int,
        readers: int,
        *,
        ranges: bool = False,
        cgroup: Path | None = None,
    ) -> Iterator[Reader]:
        """One process with *readers* threads that reads files, or *ranges*, pass after pass."""
        arguments = ["--passes", "--times", "--readers", str(readers)]
        arguments += ["--mode", "ranges"] if ranges else []
        process = self._start(self._argv("small", root, seed, arguments, cgroup))
        try:
            yield Reader(process)
        finally:
            assert process.stdin is not None
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                process.stdin.close()
                process.wait(_END_S)
            self._abandon(process)

    def train(
        self,
        root: Path,
        seed: int,
        samples: Sequence[File | Range],
        *,
        workers: int,
        batch: int,
        step_ms: float,
        limit_s: float,
    ) -> dict[str, Any]:
        """One epoch of an accelerator that takes *step_ms* for each *batch*, fed by *workers* that
        read *samples* in that order, two batches ahead each. Limits are as with `small`."""
        arguments = ["--workers", str(workers), "--batch", str(batch), "--step-ms", str(step_ms)]
        arguments += ["--limit-s", str(limit_s), *_mode(samples)]
        return self._run(
            "train", root, seed, arguments, _rows(samples), timeout_s=limit_s + STUCK_S
        )

    def rand4k(
        self, root: Path, seed: int, file: File, readers: int, seconds: float
    ) -> dict[str, Any]:
        """Random aligned reads of 4 KiB, each page resident."""
        arguments = ["--readers", str(readers), "--seconds", str(seconds), "--warm"]
        arguments += ["--size", str(file.size), file.path]
        return self._run("rand4k", root, seed, arguments)

    def mmap(self, root: Path, seed: int, file: File, order: int) -> dict[str, Any]:
        """All tensors of a safetensors file, in random order, through a mapping."""
        arguments = ["--order-seed", str(order), "--size", str(file.size), file.path]
        return self._run("mmap", root, seed, arguments)

    def get(
        self, seed: int, objects: Iterable[tuple[File, str]], connections: int
    ) -> dict[str, Any]:
        """The bare client: each object with its URL."""
        rows = [f"{file.size}\t{file.path}\t{url}" for file, url in objects]
        return self._run("get", Path("/"), seed, ["--connections", str(connections)], rows)

    def put(self, seed: int, rows: Sequence[str], connections: int) -> dict[str, Any]:
        """The bare client: the objects and parts of *rows*, ``SIZE PATH URL`` or ``SIZE OFFSET PATH
        URL`` with tabs between; parts are of `PART_BYTES`. The ETags are in the order of rows."""
        arguments = ["--connections", str(connections), "--part", str(PART_BYTES)]
        return self._run("put", Path("/"), seed, arguments, rows)

    def save(
        self,
        root: Path,
        seed: int,
        writer: Writer,
        files: Iterable[File],
        *,
        fsync: bool = False,
        limit_s: float | None = None,
    ) -> dict[str, Any]:
        """Save *files*, a thread each, with the calls of *writer*; of torch-dcp the last one is the
        marker. With *fsync* every file is synced, also where the writer does not. ``started_ns``
        and ``first_closed_ns`` are a `time.time_ns`."""
        arguments = ["--writer", writer, *(["--fsync"] if fsync else [])]
        return self._run("ckpt", root, seed, arguments, _rows(files), timeout_s=limit_s)

    def create(
        self,
        root: Path,
        seed: int,
        files: Iterable[File],
        writers: int,
        *,
        limit_s: float | None = None,
    ) -> dict[str, Any]:
        """Create, write and close *files*, which are not there, by *writers* threads."""
        arguments = ["--writers", str(writers)]
        return self._run("create", root, seed, arguments, _rows(files), timeout_s=limit_s)

    def first(self, root: Path, seed: int, file: File, limit_s: float) -> dict[str, Any]:
        """Wait until *file* can be opened, and read it; ``first_byte_ns`` is a `time.time_ns`."""
        arguments = ["--size", str(file.size), "--limit-s", str(limit_s), file.path]
        return self._run("first", root, seed, arguments)

    def walk(self, directory: Path, timeout_s: float | None = None) -> dict[str, Any]:
        """List a tree recursively, as find(1) does: without a stat where readdir tells enough."""
        argv = [str(self._program), "walk", "--root", str(directory)]
        return self._finish(argv, "", timeout_s)

    def _run(
        self,
        command: str,
        root: Path,
        seed: int,
        arguments: Sequence[str],
        rows: Sequence[str] = (),
        *,
        cgroup: Path | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        argv = self._argv(command, root, seed, arguments, cgroup)
        return self._finish(argv, "\n".join(rows), timeout_s)

    def _argv(
        self, command: str, root: Path, seed: int, arguments: Sequence[str], cgroup: Path | None
    ) -> list[str]:
        argv = [str(self._program), command, "--root", str(root), "--seed", str(seed), *arguments]
        return processes.inside(cgroup, argv)

    def _start(self, argv: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _finish(self, argv: list[str], stdin: str, timeout_s: float | None) -> dict[str, Any]:
        process = self._start(argv)
        try:
            stdout, words = process.communicate(stdin, timeout_s)
        except subprocess.TimeoutExpired:
            self._abandon(process)
            raise ReadFailedError(f"not done after {timeout_s:g} s") from None
        except BaseException:
            self._abandon(process)
            raise
        _judge(process, words)
        answer: dict[str, Any] = json.loads(stdout)
        return answer

    def _abandon(self, process: subprocess.Popen[str]) -> None:
        """Kill *process* without waiting for its end: a reader whose request a file system has
        taken ends with that file system, not before."""
        process.kill()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self.abandoned = [one for one in (*self.abandoned, process) if one.poll() is None]


class Reader:
    """A process that goes on from pass to pass, as that of a training job does from epoch to epoch:
    who looks at processes sees one and the same. See `Loadgen.reader`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def read(
        self,
        samples: Sequence[File | Range],
        *,
        limit_s: float | None = None,
        rate: float | None = None,
    ) -> dict[str, Any]:
        """One pass; limits, *rate* and answer are those of `Loadgen.small` with times. Another one
        may follow unless it raises."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        first = "\t".join("" if value is None else str(value) for value in (limit_s, rate))
        with contextlib.suppress(BrokenPipeError):  # It has ended, and says why.
            stdin.write("\n".join([first, *_rows(samples), "", ""]))
            stdin.flush()
        timeout_s = None if limit_s is None else limit_s + STUCK_S
        if not select.select([stdout], [], [], timeout_s)[0]:
            self._process.kill()
            raise ReadFailedError(f"not done after {timeout_s:g} s")
        line = stdout.readline()
        if not line:
            assert self._process.stderr is not None
            words = self._process.stderr.read()
            self._process.wait()
            _judge(self._process, words)
            raise ReadFailedError("it has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _judge(process: subprocess.Popen[str], words: str) -> None:
    """Raise what the end of *process* means, which said *words*."""
    words = words.strip()
    if process.returncode == _WRONG_BYTES:
        raise WrongBytesError(words)
    if process.returncode == _FAILED or process.returncode < 0:
        raise ReadFailedError(words or f"ended by signal {-process.returncode}")
    if process.returncode:
        raise RuntimeError(f"{process.args!r}: {words}")


def _mode(samples: Sequence[File | Range]) -> list[str]:
    return ["--mode", "ranges"] if samples and isinstance(samples[0], Range) else []


def _rows(samples: Iterable[File | Range]) -> list[str]:
    # With its size known a file is first touched when the clock runs.
    return [
        f"{sample.offset}\t{sample.size}\t{sample.path}"
        if isinstance(sample, Range)
        else f"{sample.size}\t{sample.path}"
        for sample in samples
    ]
