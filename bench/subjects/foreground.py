"""Peers that run in the foreground, as our child: start, wait for an answer, unmount, see it end.

Whatever a peer does, no step waits for ever: a mount is only asked by child processes that can be
killed, and what does not unmount in time is detached and its processes killed by pid, which aborts
the FUSE connection.
"""

from __future__ import annotations

import abc
import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import processes
from bench.subjects.base import Bucket, CannotError, Mounted, Place, Subject
from tierfs import mountinfo

#: Asks for a name that no bucket has; a mount that answers has no such file.
_PROBE = 'LC_ALL=C stat "$0/.bench-absent" 2>&1 | grep -q "No such file"'
_POLL_S = 0.05
_VERSION_S = 30.0
_DETACH_S = 10.0
#: Variables of the caller that would change what a peer does: other credentials, settings, proxies.
#: A certificate bundle in AWS_CA_BUNDLE breaks rclone 1.60.
_FOREIGN = re.compile(
    r"AWS|RCLONE_|JFS_|META_PASSWORD|GOMEMLIMIT|GOGC|(ACCESS|SECRET)_KEY|.*_PROXY$", re.IGNORECASE
)


def binary(name: str) -> str:
    """The path of the program *name*, on the PATH or where ``go install`` puts it.

    Raises CannotError where there is none.
    """
    found = shutil.which(name) or shutil.which(name, path=str(Path.home() / "go/bin"))
    if found is None:
        raise CannotError(f"{name} is neither on the PATH nor in ~/go/bin")
    return found


def shown(
    arguments: Callable[[Bucket, Place], list[str]],
    cache_bytes: int | None = None,
    memory_bytes: int | None = None,
) -> str:
    """The command that *arguments* makes, with placeholders: what ``Settings.command`` says. The
    limits are examples."""
    bucket = Bucket("ENDPOINT", "BUCKET", "PREFIX/", "KEY", "SECRET", "REGION")
    place = Place(Path("MOUNTPOINT"), Path("CACHE"), Path("SCRATCH"), cache_bytes, memory_bytes)
    return shlex.join(arguments(bucket, place))


class Daemon(Mounted):
    """A mounted peer: its process and everything below it."""

    def __init__(self, directory: Path, cache: Path, pid: int) -> None:
        super().__init__(directory, cache)
        self._pid = pid

    def pids(self) -> list[int]:
        return [pid for pid in processes.descendants(self._pid) if Path(f"/proc/{pid}").exists()]


class ForegroundPeer(Subject):
    """A peer whose process stays our child for as long as it is mounted."""

    #: How long a mount may take until it answers.
    start_s = 60.0
    #: How long an unmounted peer may take to end by itself.
    stop_s = 15.0
    #: Lines of its log that say less than the line before them.
    empty_words = re.compile(r"\s*$")

    @staticmethod
    @abc.abstractmethod
    def arguments(bucket: Bucket, place: Place) -> list[str]:
        """The command that mounts; its first word is the program's name. No credentials."""

    def prepare(self, bucket: Bucket, place: Place, environment: dict[str, str]) -> None:
        """What must be done before each mount. Raises CannotError."""
        del bucket, place, environment

    def environment(self, bucket: Bucket, place: Place) -> dict[str, str]:
        """The variables of the peer's processes. Its home is the scratch directory, so that
        nobody's own settings take part. Those in Go learn the limit of memory as Go's own
        documentation advises where it is fixed (go.dev/doc/gc-guide, Memory limit)."""
        mine = {name: value for name, value in os.environ.items() if not _FOREIGN.match(name)}
        if place.memory_bytes is not None:
            mine["GOMEMLIMIT"] = f"{place.memory_bytes}B"
        return mine | bucket.environment() | {"HOME": str(place.scratch)}

    def version(self) -> str:
        name = self.arguments(_NOWHERE, _NO_PLACE)[0]
        try:
            done = subprocess.run(
                [binary(name), "--version"],
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=_VERSION_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CannotError(f"{name} --version: {error}") from None
        found = re.search(r"(\d+\.\d+[\w.+-]*)", done.stdout + done.stderr)
        if done.returncode or found is None:
            raise CannotError(f"{name} --version: {done.stdout}{done.stderr}".strip())
        return found[1]

    @contextmanager
    def mount(self, bucket: Bucket, place: Place) -> Iterator[Mounted]:
        environment = self.environment(bucket, place)
        program, *options = self.arguments(bucket, place)
        argv = [binary(program), *options]
        self.prepare(bucket, place, environment)
        log = place.scratch / f"{self.name}.log"
        log.unlink(missing_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                place.enter(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                # An interrupt from the terminal is the benchmark's: it unmounts first.
                start_new_session=True,
            )
        mounting = _Mounting(process, Path(os.path.realpath(place.directory)))
        try:
            mounting.wait(self.start_s)
            yield Daemon(place.directory, place.cache, process.pid)
        except _NoMount as error:
            mounting.stop(0)
            said = self.last_words(log.read_text(errors="replace"))
            said = said or self.explain(bucket, place, environment)
            raise CannotError(f"{error}: {said}" if said else str(error)) from None
        finally:
            mounting.stop(self.stop_s)

    def explain(self, bucket: Bucket, place: Place, environment: dict[str, str]) -> str:
        """Why it does not mount, asked in another way; for a peer whose log does not say."""
        del bucket, place, environment
        return ""

    def last_words(self, log: str) -> str:
        """The last line of *log* that says something."""
        lines = (line.strip() for line in reversed(log.splitlines()))
        return next((line for line in lines if not self.empty_words.match(line)), "")

    def run(self, argv: list[str], environment: dict[str, str], timeout_s: float) -> None:
        """Run one of the peer's own tools to its end. Raises CannotError with its last words."""
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=environment,
                umask=0o077,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CannotError(f"{self.name} {argv[1]} took over {timeout_s:g} s") from None
        if done.returncode:
            said = self.last_words(done.stdout)
            raise CannotError(said or f"{self.name} {argv[1]} ended with {done.returncode}")


class _NoMount(Exception):
    """The peer did not come to answer; the text says how that was seen."""


class _Mounting:
    """A mount point, the process that serves it, and the children that ask it."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        self._process = process
        self._directory = directory
        self._stuck: list[subprocess.Popen[bytes]] = []

    def wait(self, timeout_s: float) -> None:
        """Wait until the mount answers for a name that is not there, which takes a request to the
        bucket. Raises _NoMount."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise _NoMount(f"it ended with status {self._process.returncode}")
            if is_mounted(self._directory):
                if self._succeeds(["sh", "-c", _PROBE, str(self._directory)], deadline):
                    return
                if time.monotonic() < deadline and self._process.poll() is None:
                    raise _NoMount("the mount answers with errors")
            time.sleep(_POLL_S)
        raise _NoMount(f"no answer within {timeout_s:g} s")

    def stop(self, timeout_s: float) -> None:
        """Unmount and wait for the end of every process; detach and kill after *timeout_s*.

        Raises subprocess.TimeoutExpired if even a killed process does not end.
        """
        alive = self._process.poll() is None
        pids = processes.descendants(self._process.pid) if alive else []
        started = {pid: _started(pid) for pid in pids}
        deadline = time.monotonic() + timeout_s
        while is_mounted(self._directory) and time.monotonic() < deadline:
            if not self._umount(deadline):
                time.sleep(_POLL_S)
        if is_mounted(self._directory):
            self._umount(deadline + _DETACH_S, "-l")
        while time.monotonic() < deadline and any(map(_started, pids)):
            time.sleep(_POLL_S)
        for pid, then in started.items():
            if then is not None and _started(pid) == then:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait(_DETACH_S)
        if is_mounted(self._directory):
            self._umount(time.monotonic() + _DETACH_S, "-l")
        for child in self._stuck:
            child.wait(_DETACH_S)

    def _umount(self, deadline: float, *options: str) -> bool:
        return self._succeeds(["umount", *options, str(self._directory)], deadline)

    def _succeeds(self, argv: list[str], deadline: float) -> bool:
        """Whether *argv* succeeds before *deadline*.

        A child whose request the peer has read cannot be killed before the peer ends: it is waited
        for then.
        """
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return child.wait(max(deadline - time.monotonic(), 0.1)) == 0
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            self._stuck.append(child)
            return False


def is_mounted(directory: Path) -> bool:
    """Whether anything is mounted on *directory*; waits for no file system."""
    return mountinfo.topmost(os.fsencode(directory)) is not None


def _started(pid: int) -> str | None:
    """When *pid* started, in clock ticks since boot (it tells a process from a later one with its
    number); None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


_NOWHERE = Bucket("", "", "", "", "")
_NO_PLACE = Place(Path(), Path(), Path())
