"""What a writer did and was told: the history that the lake has to show, in this order.

A `Recorder` makes the calls and notes each before and after. In a file, if it is given one, so that
a writer that gets killed leaves its history; `load` reads it. One recorder is one sequence: several
threads or processes that write at once have no order that could be judged.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

EventKind = Literal["open", "close", "rename", "unlink", "mkdir", "rmdir", "symlink"]


class Content(NamedTuple):
    """A version of a file, as an object store knows it: the MD5 is the ETag of an object that was
    put in one piece."""

    size: int
    md5: str

    @classmethod
    def of(cls, data: bytes | bytearray) -> Content:
        return cls(len(data), hashlib.md5(data, usedforsecurity=False).hexdigest())


@dataclass(frozen=True)
class Event:
    """One call. Paths are relative to the root and never begin or end with a slash.

    *file* tells open files apart, whatever they are called by now. A close has the *content* that
    the file then had, and is the *last* if nobody else has it open for writing. Times are
    `time.time_ns`; *acknowledged_ns* is None if the call never returned.
    """

    kind: EventKind
    path: str
    target: str | None = None
    file: int | None = None
    content: Content | None = None
    last: bool = True
    started_ns: int = 0
    acknowledged_ns: int | None = 0

    def __str__(self) -> str:
        more = [f"to {self.target!r}"] if self.target is not None else []
        more += [f"with {self.content.size} bytes"] if self.content is not None else []
        return " ".join([self.kind, repr(self.path), *more])


@dataclass
class _Open:
    """A file that is open for writing: what is in it, and by how many descriptors."""

    number: int
    data: bytearray
    writers: int = 0


@dataclass
class Handle:
    """A descriptor for writing. Everything written through it is remembered."""

    fd: int
    path: str
    _open: _Open = field(repr=False)

    def write(self, data: bytes, offset: int | None = None) -> None:
        """At *offset*, or at the end."""
        content = self._open.data
        at = len(content) if offset is None else offset
        assert os.pwrite(self.fd, data, at) == len(data)
        content.extend(bytes(max(0, at - len(content))))
        content[at : at + len(data)] = data

    def truncate(self, size: int) -> None:
        os.ftruncate(self.fd, size)
        content = self._open.data
        del content[size:]
        content.extend(bytes(size - len(content)))


def bytes_of(size: int) -> bytes:
    """What a recorder gives for a file of that size (`Recorder.unique`)."""
    return random.Random(size).randbytes(size)


class Recorder:
    """Does things in *root*, and keeps what was done in *events* and, as it happens, in *log*."""

    def __init__(self, root: Path, log: Path | None = None) -> None:
        self.root = root
        self.events: list[Event] = []
        self._open: dict[tuple[int, int], _Open] = {}
        self._files = 0
        self._sizes: set[int] = set()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._log = None if log is None else os.open(log, flags, 0o644)

    def close(self) -> None:
        if self._log is not None:
            os.close(self._log)
            self._log = None

    def unique(self, at_least: int = 0) -> bytes:
        """Bytes of a length that this recorder has not given before: the log of the lake tells
        versions apart by their sizes."""
        size = at_least
        while size in self._sizes:
            size += 1
        self._sizes.add(size)
        return bytes_of(size)

    def write(self, path: str, data: bytes) -> None:
        """A file from scratch, in place, as `open(path, "wb")` does it."""
        with self.open(path) as handle:
            handle.write(data)

    @contextmanager
    def open(
        self, path: str, flags: int = os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode: int = 0o644
    ) -> Iterator[Handle]:
        """A file that may be written until the context ends, which closes it."""
        assert flags & os.O_ACCMODE == os.O_RDWR
        fd = os.open(self.root / path, flags, mode)
        found = os.fstat(fd)
        key = (found.st_dev, found.st_ino)
        opened = self._open.get(key)
        if opened is None:
            self._files += 1
            data = bytearray(os.pread(fd, found.st_size, 0))
            opened = self._open[key] = _Open(self._files, data)
        elif flags & os.O_TRUNC:
            opened.data.clear()
        opened.writers += 1
        now = time.time_ns()
        event = Event("open", path, file=opened.number, started_ns=now, acknowledged_ns=now)
        self._note(event)
        try:
            yield Handle(fd, path, opened)
        finally:
            self._close(fd, path, key)

    def _close(self, fd: int, path: str, key: tuple[int, int]) -> None:
        opened = self._open[key]
        opened.writers -= 1
        last = opened.writers == 0
        if last:
            del self._open[key]
        content = Content.of(opened.data)
        with self._call(Event("close", path, None, opened.number, content, last)):
            os.close(fd)

    def rename(self, source: str, target: str) -> None:
        with self._call(Event("rename", source, target)):
            os.rename(self.root / source, self.root / target)

    def unlink(self, path: str) -> None:
        with self._call(Event("unlink", path)):
            os.unlink(self.root / path)

    def mkdir(self, path: str) -> None:
        with self._call(Event("mkdir", path)):
            os.mkdir(self.root / path)

    def rmdir(self, path: str) -> None:
        with self._call(Event("rmdir", path)):
            os.rmdir(self.root / path)

    def symlink(self, text: str, path: str) -> None:
        with self._call(Event("symlink", path, text)):
            os.symlink(text, self.root / path)

    @contextmanager
    def _call(self, event: Event) -> Iterator[None]:
        """Notes *event*, which happens meanwhile. One that fails has not happened."""
        begun = replace(event, started_ns=time.time_ns(), acknowledged_ns=None)
        self._write({"begun": asdict(begun)})
        try:
            yield
        except OSError:
            self._write({"failed": True})
            raise
        self.events.append(replace(begun, acknowledged_ns=time.time_ns()))
        self._write({"acknowledged_ns": self.events[-1].acknowledged_ns})

    def _note(self, event: Event) -> None:
        self.events.append(event)
        self._write({"begun": asdict(event)})
        self._write({"acknowledged_ns": event.acknowledged_ns})

    def _write(self, line: dict[str, Any]) -> None:
        if self._log is not None:
            os.write(self._log, json.dumps(line).encode() + b"\n")


def load(log: Path) -> list[Event]:
    """The events of a recorder's *log*. The last may be one that was never acknowledged."""
    events: list[Event] = []
    for line in log.read_bytes().splitlines():
        entry = json.loads(line)
        if "begun" in entry:
            fields = entry["begun"]
            content = fields.pop("content")
            events.append(Event(**fields, content=None if content is None else Content(*content)))
        elif "failed" in entry:
            events.pop()
        else:
            events[-1] = replace(events[-1], acknowledged_ns=entry["acknowledged_ns"])
    return events
