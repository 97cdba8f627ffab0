"""CPU and memory of processes, by /proc; cgroups; the page cache."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_CGROUPS = Path("/sys/fs/cgroup")
#: How long the kernel may take to let go of a cgroup whose processes have ended.
_REMOVE_S = 10.0


def cpu_s(pids: Sequence[int]) -> float:
    """User and system CPU seconds of *pids* since they started, of reaped children too.

    A process that has ended counts nothing: take the difference of two calls within its life.
    """
    total = 0.0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        # proc_pid_stat(5): utime, stime, cutime, cstime are fields 14 to 17.
        fields = text.rsplit(")", 1)[1].split()
        total += sum(int(field) for field in fields[11:15]) * _TICK_S
    return total


def memory_bytes(pids: Sequence[int]) -> int:
    """RssAnon + RssShmem of *pids* together."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        for line in text.splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += int(line.split()[1]) * 1024
    return total


def descendants(pid: int) -> list[int]:
    """*pid* and every process below it."""
    found, at = [pid], 0
    while at < len(found):
        try:
            for task in Path(f"/proc/{found[at]}/task").iterdir():
                found += [int(word) for word in (task / "children").read_text().split()]
        except OSError:
            pass
        at += 1
    return found


def drop_caches() -> None:
    """Drop the page cache of the whole machine (root only)."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


@contextmanager
def memory_cgroup(name: str, limit_bytes: int, parent: Path | None = None) -> Iterator[Path]:
    """A memory cgroup of version 1 or 2, whichever this machine has; below *parent* (a group with
    no process of its own), whose limit holds for all of its groups together. The page cache of what
    its processes read first counts. What is left in it at the end is killed."""
    if (_CGROUPS / "memory").is_dir():
        group, file = (parent or _CGROUPS / "memory") / name, "memory.limit_in_bytes"
    else:
        group, file = (parent or _CGROUPS) / name, "memory.max"
        if parent is not None:
            (parent / "cgroup.subtree_control").write_text("+memory")
    group.mkdir()
    try:
        (group / file).write_text(str(limit_bytes))
        yield group
    finally:
        _remove(group)


def inside(group: Path | None, argv: list[str]) -> list[str]:
    """The command that runs *argv* inside of the cgroup *group*; *argv* itself without one."""
    if group is None:
        return argv
    return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs"), *argv]


def _remove(group: Path) -> None:
    deadline = time.monotonic() + _REMOVE_S
    while True:
        for word in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(word), signal.SIGKILL)
        try:
            group.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def killed_for_memory(group: Path) -> int:
    """How many processes of *group* the kernel killed because a limit was reached."""
    for file in ("memory.oom_control", "memory.events"):
        if (group / file).exists():
            counts = dict(line.split() for line in (group / file).read_text().splitlines())
            return int(counts.get("oom_kill", 0))
    return 0


def peak_bytes(group: Path) -> int:
    """The most that *group* ever held, page cache included."""
    for file in ("memory.max_usage_in_bytes", "memory.peak"):
        if (group / file).exists():
            return int((group / file).read_text())
    return 0


def runs(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    # Behind the name, which may hold anything.
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def wait_for_end(pids: Sequence[int], timeout_s: float = 30) -> None:
    """Wait until all of *pids* have ended, whether or not anybody has taken notice: who that is of
    an orphan may take seconds. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while any(map(runs, pids)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {pids} do not end")
        time.sleep(0.01)
