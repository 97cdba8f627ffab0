"""Real mounts for tests: made by the product's own command, always unmounted, never left behind."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import processes
from tierfs import mountinfo
from tierfs.keeper import fusectl

MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def fuse_missing() -> str | None:
    """Why no FUSE mount can be made here, or None."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse cannot be opened: {error.strerror}"
    return None if os.geteuid() == 0 else "mount tests run as root"


def tierfs(
    *arguments: str | Path,
    env: dict[str, str] | None = None,
    timeout_s: float = 60,
    prefix: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run the ``tierfs`` command, behind *prefix*, and return what it said."""
    return subprocess.run(
        [*prefix, sys.executable, "-m", "tierfs.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        check=False,
    )


def detach(directory: Path) -> None:
    """Take whatever is mounted on *directory* away at once, dead or alive."""
    while _is_mounted(directory):
        if _libc.umount2(os.fsencode(directory), MNT_DETACH) != 0:
            return


def cut_off(directory: Path) -> None:
    """End the connection of what is mounted on *directory*, of whose processes one that was killed
    may not end before that, and take it away. Whoever waits for it gets an error."""
    entry = mountinfo.topmost(os.fsencode(directory))
    if entry is not None:
        fusectl.write(entry.device, "abort", 1)
    detach(directory)


def _is_mounted(directory: Path) -> bool:
    return mountinfo.topmost(os.fsencode(directory)) is not None


def wait_until(condition: Any, what: str, timeout_s: float = 20.0) -> None:
    """Poll *condition* until it holds; fails the test with *what* was awaited."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(0.01)


def forget_pages(path: Path) -> None:
    """Drop the page cache of one file, so that the next read reaches the mount's processes."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


@dataclass
class Mount:
    """One mount of the product. Use as a context manager; leaving unmounts, whatever happened."""

    url: str
    directory: Path
    cache: Path
    runtime: Path
    options: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    #: A program that runs the mount command, with its arguments.
    prefix: list[str] = field(default_factory=list)

    def start(self) -> subprocess.CompletedProcess[str]:
        if not _is_mounted(self.directory):  # What is there may not answer.
            self.directory.mkdir(exist_ok=True)
        return tierfs(
            "mount",
            self.url,
            self.directory,
            "--cache",
            self.cache,
            "--runtime-dir",
            self.runtime,
            *self.options,
            env=self.env,
            prefix=self.prefix,
        )

    def __enter__(self) -> Mount:
        result = self.start()
        if result.returncode != 0:
            detach(self.directory)
            raise AssertionError(f"mount failed: {result.stdout}{result.stderr}{self.log()}")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            print(self.log())  # pytest shows it beside the failure.
        try:
            pids = self.pids()
        except AssertionError:
            pids = {}
        try:
            self.umount()
        finally:
            detach(self.directory)
            if kind is not None:
                # What failed may be its end: nobody waits for that, and nobody else would end it.
                for pid in users(self.runtime):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            for pid in pids.values():
                wait_until(lambda pid=pid: not processes.runs(pid), f"process {pid} to end")

    def umount(self) -> None:
        if _is_mounted(self.directory):
            result = tierfs("umount", self.directory, "--runtime-dir", self.runtime)
            assert result.returncode == 0, result.stderr + self.log()

    def kill(self) -> None:
        """End it with all its processes, whatever state they are in."""
        with contextlib.suppress(AssertionError):
            for pid in self.pids().values():
                os.kill(pid, signal.SIGKILL)
        cut_off(self.directory)

    def command(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """A live command, which must succeed."""
        result = tierfs(*arguments, "--runtime-dir", self.runtime)
        assert result.returncode == 0, f"{arguments}: {result.stdout}{result.stderr}{self.log()}"
        return result

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.command("status", self.directory, "--json").stdout)
        return answer

    def pids(self) -> dict[str, int]:
        pids: dict[str, int] = self.status()["pids"]
        return pids

    def log(self) -> str:
        """What the daemon logged (its runtime directory's log file)."""
        return "".join(path.read_text() for path in self.runtime.glob("*/tierfs.log"))

    def lake_bytes(self) -> int:
        """Payload bytes that came from the lake since this mount was made."""
        return int(self.status()["lake_requests"]["bytes_read"])

    def lake_gets(self) -> int:
        return int(self.status()["lake_requests"]["get"])


def users(directory: Path) -> list[int]:
    """The processes that have a file below *directory* open."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if link.readlink().is_relative_to(directory):
                found.add(int(link.parts[2]))
    return sorted(found)
