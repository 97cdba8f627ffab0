"""The control plane, and a native front, as the keeper sees them: a process, and a pipe on which it
reports.

A child inherits some descriptors besides the standard streams, named on its command line: those it
is to work with, such as ``--fuse-fd`` (``/dev/fuse``), ``--config-fd`` (a memfd with the
configuration as JSON: none of it shows in argv or the environment) and ``--report-fd``, on which it
writes lines::

    ready           it serves the mount
    alive           at least every half watchdog interval
    stopping        it took SIGTERM and drains
    error {json}    why it cannot serve: kind, op, subject, hint
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tierfs.errors import MountError, TierfsError
from tierfs.keeper.process import close_all_but, die_with_parent

CONTROL_ARGV = (sys.executable, "-m", "tierfs.control")

_LINE_LIMIT_BYTES = 64 << 10
#: How long the threads of a process that ends may take for it. Nobody tells when that is over.
LINGER_S = 0.3


class Child:
    """One such process."""

    def __init__(self, pid: int, report_fd: int) -> None:
        self.pid = pid
        self.report_fd = report_fd
        self.status: int | None = None
        """Exit code, or minus the signal that ended it; None while it lives."""
        self.lingers = False
        """It has a status, and is still to be waited for."""
        self._dying_since = math.inf
        self._partial = b""

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        *,
        descriptors: Mapping[str, int],
        config: bytes | None = None,
    ) -> Child:
        """Fork and exec *argv*, with the numbers of *descriptors* appended behind their flags, and
        those of a memfd with *config* and of the report pipe.

        Raises:
            OSError: no process or descriptor to be had.
        """
        given = dict(descriptors)
        report_read, report_write = os.pipe()
        os.set_blocking(report_read, False)
        given["--report-fd"] = report_write
        config_fd = -1
        try:
            if config is not None:
                config_fd = given["--config-fd"] = os.memfd_create("tierfs-config")
                _write_all(config_fd, config)
                os.lseek(config_fd, 0, os.SEEK_SET)
            command = [*argv]
            for flag, fd in given.items():
                command += [flag, str(fd)]
            pid = os.fork()
        except OSError:
            os.close(report_read)
            raise
        else:
            if pid == 0:
                _become(command, tuple(given.values()))
            return cls(pid, report_read)
        finally:
            if config_fd >= 0:
                os.close(config_fd)
            os.close(report_write)

    def lines(self) -> list[str]:
        """The whole lines that arrived since the last call; does not wait."""
        try:
            data = os.read(self.report_fd, _LINE_LIMIT_BYTES) if self.report_fd >= 0 else b""
        except BlockingIOError:
            return []
        if not data:
            self.close()
        *whole, self._partial = (self._partial + data).split(b"\n")
        self._partial = self._partial[:_LINE_LIMIT_BYTES]
        return [line.decode("utf-8", "replace") for line in whole]

    def reap(self) -> bool:
        """Whether the process has ended; then `status` says how. Does not wait.

        A thread that has told the kernel to forget a name waits there for whoever changes something
        in that directory through the mount, and no signal ends that. Is it the process's successor
        who is to answer them, a process that was killed does not end before it has one. So one
        whose main thread has ended, and the others have not for `LINGER_S`, has ended: none of them
        does anything again.
        """
        if self.status is None:
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None:
                # While the pid is not reaped it is nobody else's, nor is the group of that number.
                self.kill()
                self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            elif self._has_died_in_part():
                self.kill()
                self.status = -signal.SIGKILL
                self.lingers = True
        return self.status is not None

    def _has_died_in_part(self) -> bool:
        """Whether the main thread ended long ago."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_bytes()
        except OSError:
            return False
        # Behind the name, in which there may be anything.
        if stat.rpartition(b")")[2].split()[0] != b"Z":
            self._dying_since = math.inf
            return False
        now = time.monotonic()
        self._dying_since = min(self._dying_since, now)
        return now - self._dying_since >= LINGER_S

    def signal(self, number: signal.Signals) -> None:
        """Send *number* unless the process was reaped (its pid may be somebody else's by then)."""
        if self.status is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL the process and all helpers of its own that are in its process group."""
        if self.status is not None:
            return
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self.signal(signal.SIGKILL)

    def close(self) -> None:
        """Close the report pipe."""
        if self.report_fd >= 0:
            os.close(self.report_fd)
            self.report_fd = -1

    def ending(self) -> str:
        """How the process ended, in words."""
        if self.status is None:
            return "did not end"
        if self.status >= 0:
            return f"exited with {self.status}"
        try:
            return f"was ended by {signal.Signals(-self.status).name}"
        except ValueError:
            return f"was ended by signal {-self.status}"


def parse_error(line: str) -> TierfsError | None:
    """The error of an ``error {json}`` line, or None if *line* is not one."""
    word, _, text = line.partition(" ")
    if word != "error":
        return None
    try:
        report = json.loads(text)
        return MountError(
            str(report["op"]), str(report.get("subject", "")), str(report.get("hint", ""))
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return MountError(text or "the control plane reported an error without words")


def child_environment() -> dict[str, str]:
    """Our environment, with this very package importable for ``-m tierfs.control``.

    The service manager's variables are gone from it already (`Notifier`).
    """
    environment = dict(os.environ)
    root = Path(__file__).resolve().parents[2]
    if root.name not in ("site-packages", "dist-packages"):
        # Started from a source tree: the child's working directory is another one.
        paths = [str(root), *filter(None, [environment.get("PYTHONPATH", "")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    return environment


def _become(command: Sequence[str], keep: Sequence[int]) -> None:
    """In the forked child: shed the keeper's state and exec. Never returns."""
    try:
        signal.set_wakeup_fd(-1)
        die_with_parent()
        # A ^C at the terminal is for the keeper alone, which then asks the child to drain.
        os.setpgid(0, 0)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        close_all_but(keep)
        for fd in keep:
            os.set_inheritable(fd, True)
        os.execve(command[0], list(command), child_environment())
    except BaseException as error:
        os.write(2, f"tierfs: cannot start {command[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
