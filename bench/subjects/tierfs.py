"""The product, mounted with its own command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import processes
from bench.subjects.base import Bucket, CannotError, Mounted, Place, Settings, Subject, When
from tierfs.front.program import native_front

#: A warm-up of very many objects takes long; nothing takes longer than this.
_LONGEST_S = 3600


_COMMAND = (
    "tierfs mount s3://BUCKET/PREFIX DIR --endpoint URL --cache DIR --cache-size SIZE"
    " --metadata-ttl 10m [--memory SIZE] [--write-back '**']"
)
_NOTES = [
    "everything else is the default",
    "metadata-ttl 10m: as long as the peers are told to keep metadata",
    "write-back of everything where checkpoints are written",
]


class TierfsMount(Mounted):
    """A tierfs mount, which tells its own processes."""

    def __init__(self, place: Place, environment: dict[str, str]) -> None:
        super().__init__(place.directory, place.cache)
        self.runtime = place.scratch / "run"
        self._environment = environment
        self._pids: list[int] = []

    def command(self, name: str, *arguments: str, enter: Place | None = None) -> str:
        """Run ``tierfs NAME``. Raises CannotError with its words if it fails."""
        argv = [sys.executable, "-m", "tierfs.cli", name, *arguments]
        argv += ["--runtime-dir", str(self.runtime)]
        done = subprocess.run(
            argv if enter is None else enter.enter(argv),
            capture_output=True,
            text=True,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            timeout=_LONGEST_S,
            check=False,
        )
        if done.returncode:
            raise CannotError(f"tierfs {name}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.command("status", str(self.directory), "--json"))
        return answer

    def plan(self, paths: Sequence[str]) -> None:
        order = self.runtime.with_name("order")
        order.write_text("".join(f"{path}\n" for path in paths))
        self.command("plan", str(self.directory), str(order))

    def pids(self) -> list[int]:
        if not all(Path(f"/proc/{pid}").exists() for pid in self._pids) or not self._pids:
            self._pids = list(self.status()["pids"].values())
        return self._pids


class Tierfs(Subject):
    """The pyfuse3 front and its control plane."""

    name = "tierfs"
    keeps_names = True
    #: More options of ``tierfs mount``.
    options: tuple[str, ...] = ("--front", "python")
    settings = Settings(
        f"{_COMMAND} --front python",
        "docs/configuration.md",
        _NOTES,
    )

    def version(self) -> str:
        argv = [sys.executable, "-m", "tierfs.cli", "--version"]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()
        return f"{done.stdout.split()[-1]} ({commit})" if commit else done.stdout.split()[-1]

    @contextmanager
    def mount(self, bucket: Bucket, place: Place) -> Iterator[TierfsMount]:
        mounted = TierfsMount(place, {**os.environ, **bucket.environment()})
        options = ["--endpoint", bucket.endpoint, "--cache", str(place.cache)]
        options += ["--metadata-ttl", "10m", *self.options]
        if place.writable:
            options += ["--write-back", "**"]
        if place.cache_bytes is not None:
            options += ["--cache-size", f"{place.cache_bytes >> 10}K"]
        if place.memory_bytes is not None:
            options += ["--memory", f"{place.memory_bytes >> 10}K"]
        url = f"s3://{bucket.name}/{bucket.prefix}".rstrip("/")
        mounted.command("mount", url, str(place.directory), *options, enter=place)
        try:
            yield mounted
        finally:
            try:
                pids = mounted.pids()
            except CannotError:
                # It has ended, or was killed; its mount is there until it is taken down.
                pids = []
            mounted.command("umount", str(place.directory))
            processes.wait_for_end(pids)


class TierfsNative(Tierfs):
    """The native front, with the same control plane."""

    name = "tierfs-native"
    when = When.FULL
    options: tuple[str, ...] = ("--front", "native")
    settings = Settings(f"{_COMMAND} --front native", "docs/configuration.md", _NOTES)

    def version(self) -> str:
        if native_front() is None:
            raise CannotError("there is no native front on this machine")
        return super().version()


class TierfsCopying(TierfsNative):
    """The native front where the kernel does not pass reads through: Linux before 6.9."""

    name = "tierfs-copying"
    when = When.NAMED
    options: tuple[str, ...] = ("--front", "native", "--fuse-mask", "passthrough")
    settings = Settings(
        f"{_COMMAND} --front native --fuse-mask passthrough",
        "docs/configuration.md",
        [*_NOTES, "fuse-mask passthrough: as on Ubuntu 22.04 and 24.04 and on Debian 12"],
    )


class TierfsLru(TierfsNative):
    """As `TierfsNative`, with a cache that keeps what was read last."""

    name = "tierfs-lru"
    when = When.NAMED
    options: tuple[str, ...] = ("--front", "native", "--policy", "lru")
    settings = Settings(
        f"{_COMMAND} --front native --policy lru",
        "docs/configuration.md",
        [*_NOTES, "policy lru: to see what the others of its rules are worth, and cost"],
    )
