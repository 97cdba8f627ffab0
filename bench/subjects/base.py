"""What a file system under test is to the benchmark: mount, read, say what it cost, unmount."""

from __future__ import annotations

import abc
import enum
import subprocess
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from bench import processes


class CannotError(Exception):
    """The subject cannot do what the scenario asks; the text is its own error."""


@dataclass(frozen=True)
class Bucket:
    """An S3 bucket and the prefix of the data in it (``""`` or ending in ``/``)."""

    endpoint: str
    name: str
    prefix: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"

    def environment(self) -> dict[str, str]:
        """The variables that S3 clients read; no certificate bundle, loopback speaks plain HTTP."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@dataclass(frozen=True)
class Place:
    """Where a subject is mounted and what it may use. Its directories exist and are empty."""

    directory: Path
    cache: Path
    #: Logs, sockets, password files.
    scratch: Path
    #: None: as much as there is.
    cache_bytes: int | None = None
    #: What the subject may keep in memory, where it has an option for that.
    memory_bytes: int | None = None
    #: A memory cgroup (its directory) that all of the subject's processes are put into.
    cgroup: Path | None = None
    #: False: mounted for reading only.
    writable: bool = False

    def enter(self, argv: list[str]) -> list[str]:
        """*argv*, run inside of the cgroup."""
        return processes.inside(self.cgroup, argv)


class Mounted:
    """A subject that is mounted: what scenarios read, and the cost behind it."""

    def __init__(self, directory: Path, cache: Path | None = None) -> None:
        self.directory = directory
        self.cache = cache

    def pids(self) -> list[int]:
        """Its processes, now."""
        return []

    def cpu_s(self) -> float:
        """CPU seconds of its processes since they started, of children that have ended too."""
        return processes.cpu_s(self.pids())

    def memory_bytes(self) -> int:
        """RssAnon + RssShmem of its processes together, now."""
        return processes.memory_bytes(self.pids())

    def plan(self, paths: Sequence[str]) -> None:
        """Tell it that these files will be read next, in this order; relative to the directory.
        Raises CannotError where nobody listens."""
        raise CannotError("it is not told in which order files are read")

    def disk_bytes(self) -> int:
        """What its cache takes on disk."""
        if self.cache is None:
            return 0
        done = subprocess.run(
            ["du", "-s", "--block-size=1", str(self.cache)],
            capture_output=True,
            text=True,
            check=False,
        )
        return int(done.stdout.split()[0]) if done.stdout else 0


@dataclass(frozen=True)
class Settings:
    """How a subject is run, written so that one can argue with it."""

    #: The command, with the run's own places as placeholders.
    command: str
    #: The documentation that recommends these settings.
    source: str
    #: Each setting that is not self-evident, and why.
    notes: list[str] = field(default_factory=list)


class When(enum.Enum):
    """When a subject takes part without being named."""

    ALWAYS = "in every run"
    FULL = "in runs that are not quick"
    NAMED = "only if it is named"


class Subject(abc.ABC):
    """One row of the table."""

    name: str
    settings: Settings
    when = When.ALWAYS
    #: Whether each file is an object of its own name in the bucket, which others can read.
    plain_objects = True
    #: Whether the names that it has listed are known again after a remount of the same place.
    keeps_names = False

    @abc.abstractmethod
    def version(self) -> str:
        """What it says of itself. Raises CannotError if it is not on this machine."""

    @abc.abstractmethod
    def mount(self, bucket: Bucket, place: Place) -> AbstractContextManager[Mounted]:
        """Mount *bucket* on ``place.directory`` until the context ends; then nothing is left.

        Entering raises CannotError with the subject's words if it does not mount.
        """
