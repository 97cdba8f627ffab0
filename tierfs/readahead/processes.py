"""Whose access it is: the job that a thread or process belongs to, as a number.

A training job is many processes. A launcher starts ranks, and these start workers that load data
and come and go with each epoch; all of them run the same program, as a rule an interpreter. So from
a process it goes up, from parent to parent, as long as the parent runs the same program
(``/proc/PID/exe`` is the same file) in the same cgroup, because containers and the jobs of a
cluster's scheduler are jobs of their own. The topmost process that is reached so is the job; its
pid together with the time at which it was started is the number.

Where the program may not be looked at (a process of another user's, and no CAP_SYS_PTRACE), the
session stands for it, which a scheduler or a login begins.

What that cannot see: ranks that each have a parent of their own, or a shell, between them and what
started them all are as many jobs; and jobs that one interpreter starts, such as the notebooks of
one server, are one.

A look at /proc costs 80 us, with a parent or two. So what was found is kept: a process that is
known costs 0.2 us, and once a second 10 us more, to see that its pid is not another's by now.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

#: Threads and processes remembered, some 200 bytes each.
MOST_PIDS = 4096
#: How long a pid is believed to be the same process still.
RECHECK_NS = 1_000_000_000
#: From parent to parent so often at most.
MOST_LEVELS = 32
#: Somebody, nobody knows who: in no place that has pids here, as all are then.
ANYBODY = 0
#: It has ended before anybody looked, as those do that read one file: no training job.
NOBODY = -1
#: A pid is less than this power of two (PID_MAX_LIMIT, linux/threads.h).
_PID_BITS = 22


class _Known:
    __slots__ = ("checked_ns", "job", "started")

    def __init__(self, started: int, job: int) -> None:
        self.started = started
        self.job = job
        self.checked_ns = 0


class JobNames:
    """Job numbers by pid. *proc* is where proc(5) is, for the pid namespace of the mount; *now_ns*
    is a clock that never goes back. Plain calls on one thread."""

    def __init__(
        self, proc: Path = Path("/proc"), now_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._proc = os.fspath(proc)
        self._now_ns = now_ns
        #: The least recently asked for first.
        self._known: OrderedDict[int, _Known] = OrderedDict()

    def job_of(self, pid: int) -> int:
        """The number of the job that a thread or process belongs to; ANYBODY where FUSE gives no
        pid, NOBODY if it is gone and was not seen while it was there. Never raises."""
        if pid <= 0:
            return ANYBODY
        now_ns = self._now_ns()
        known = self._known.get(pid)
        if known is None or now_ns - known.checked_ns >= RECHECK_NS:
            known = self._look_at(pid, known)
            known.checked_ns = now_ns
        self._known.move_to_end(pid)
        return known.job

    def _look_at(self, pid: int, known: _Known | None) -> _Known:
        try:
            _, started = self._stat(pid)
        except (OSError, ValueError):
            if known is not None:
                return known  # What it read before its end is told a moment later.
            started = 0
        if known is None or known.started != started:
            known = self._known[pid] = _Known(started, self._find(pid))
            if len(self._known) > MOST_PIDS:
                self._known.popitem(last=False)
        return known

    def _find(self, pid: int) -> int:
        try:
            pid = self._process_of(pid)
            parent, started = self._stat(pid)
            program, group = self._program(pid), self._group(pid)
        except (OSError, ValueError):
            return NOBODY
        for _ in range(MOST_LEVELS):
            try:
                if self._program(parent) != program or self._group(parent) != group:
                    break
                above, began = self._stat(parent)
            except (OSError, ValueError):
                break
            pid, parent, started = parent, above, began
        return started << _PID_BITS | pid

    def _read(self, pid: int, name: str) -> bytes:
        fd = os.open(f"{self._proc}/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 65536)
        finally:
            os.close(fd)

    def _process_of(self, pid: int) -> int:
        """The process of a thread, whose own parent is not that but its parent."""
        _, _, rest = self._read(pid, "status").partition(b"\nTgid:")
        return int(rest.split(maxsplit=1)[0]) if rest else pid

    def _stat(self, pid: int) -> tuple[int, int]:
        """(parent, start in clock ticks since the boot): fields 4 and 22 of ``/proc/PID/stat``."""
        return _parent_and_start(self._read(pid, "stat"))

    def _program(self, pid: int) -> tuple[int, int]:
        try:
            status = os.stat(f"{self._proc}/{pid}/exe")  # noqa: PTH116 - a Path costs more.
        except PermissionError:
            return -1, _session(self._read(pid, "stat"))
        return status.st_dev, status.st_ino

    def _group(self, pid: int) -> bytes:
        return self._read(pid, "cgroup")


def _parent_and_start(stat: bytes) -> tuple[int, int]:
    """The parent and the start in the content of ``/proc/PID/stat``. Raises ValueError."""
    fields = _fields(stat)
    return int(fields[1]), int(fields[19])


def _session(stat: bytes) -> int:
    """The session in it: field 6."""
    return int(_fields(stat)[3])


def _fields(stat: bytes) -> list[bytes]:
    """Those behind field 2, which is a name, in brackets, with anything in it."""
    _, found, rest = stat.rpartition(b")")
    fields = rest.split()
    if not found or len(fields) < 20:
        raise ValueError("it is cut off")
    return fields


def is_running(job: int, proc: Path = Path("/proc")) -> bool:
    """Whether the process that a job's number stands for is there. 10 us."""
    try:
        stat = (proc / str(job & ((1 << _PID_BITS) - 1)) / "stat").read_bytes()
        return _parent_and_start(stat)[1] == job >> _PID_BITS
    except (OSError, ValueError):
        return False
