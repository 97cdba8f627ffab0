"""Whose access it is: jobs found from processes, in a /proc that a test made and in this one."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tierfs.readahead.processes import (
    ANYBODY,
    MOST_PIDS,
    NOBODY,
    RECHECK_NS,
    JobNames,
    is_running,
)

SHELL, PYTHON, LAUNCHER = "bash", "python3.11", "slurmstepd"
SECOND = 1_000_000_000


class Processes:
    """A /proc with what `JobNames` reads of it, and a clock."""

    def __init__(self, directory: Path) -> None:
        self.proc = directory / "proc"
        self.programs = directory / "bin"
        self.programs.mkdir(parents=True)
        self.now_ns = 5 * SECOND
        self.names = JobNames(self.proc, lambda: self.now_ns)
        self.begin(1, 0, "init", started=0)

    def begin(
        self,
        pid: int,
        parent: int,
        program: str = PYTHON,
        *,
        started: int | None = None,
        group: str = "0::/user.slice",
        thread_of: int | None = None,
        name: str = "python3",
        session: int = 0,
    ) -> None:
        """A process begins, or a thread of one."""
        place = self.proc / str(pid)
        place.mkdir(parents=True)
        (self.programs / program).touch()
        (place / "exe").symlink_to(self.programs / program)
        began = 100 * pid if started is None else started
        fields = f"0 {session} " + " ".join(["0"] * 15)
        (place / "stat").write_text(f"{pid} ({name}) S {parent} {fields} {began} 0 0\n")
        (place / "status").write_text(
            f"Name:\t{name}\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t{thread_of or pid}\n"
            f"Ngid:\t0\nPid:\t{pid}\nPPid:\t{parent}\n"
        )
        (place / "cgroup").write_text(f"{group}\n")

    def end(self, pid: int) -> None:
        shutil.rmtree(self.proc / str(pid))

    def later(self) -> None:
        self.now_ns += RECHECK_NS


def test_workers_that_come_and_go_are_the_trainers_job(tmp_path: Path) -> None:
    made = Processes(tmp_path)
    made.begin(100, 1, SHELL)
    made.begin(200, 100)
    job = made.names.job_of(200)
    assert job > 0
    for epoch in range(3):
        for worker in range(300 + 10 * epoch, 304 + 10 * epoch):
            made.begin(worker, 200)
            assert made.names.job_of(worker) == job
            made.end(worker)
        made.later()
    assert made.names.job_of(200) == job


def test_ranks_of_one_launcher_are_one_job_and_another_launchers_are_not(tmp_path: Path) -> None:
    made = Processes(tmp_path)
    made.begin(100, 1, SHELL)
    for launcher in (200, 300):
        made.begin(launcher, 100)
        for rank in (launcher + 1, launcher + 2):
            made.begin(rank, launcher)
            made.begin(rank + 10, rank)
    first = {made.names.job_of(pid) for pid in (200, 201, 202, 211, 212)}
    second = {made.names.job_of(pid) for pid in (300, 301, 302, 311, 312)}
    assert len(first) == len(second) == 1
    assert first != second


def test_another_program_above_is_another_matter(tmp_path: Path) -> None:
    made = Processes(tmp_path)
    made.begin(100, 1, LAUNCHER)
    for rank in (200, 300):
        made.begin(rank, 100)
    assert made.names.job_of(200) != made.names.job_of(300)


def test_a_container_is_a_job_of_its_own(tmp_path: Path) -> None:
    made = Processes(tmp_path)
    made.begin(200, 1)
    for pid, group in ((301, "0::/job_1"), (302, "0::/job_2")):
        made.begin(pid, 200, group=group)
        made.begin(pid + 10, pid, group=group)
    jobs = [made.names.job_of(pid) for pid in (200, 301, 302)]
    assert len(set(jobs)) == 3
    assert [made.names.job_of(pid) for pid in (311, 312)] == jobs[1:]


def test_a_thread_is_its_process(tmp_path: Path) -> None:
    made = Processes(tmp_path)
    made.begin(100, 1, SHELL)
    made.begin(200, 100)
    made.begin(205, 100, thread_of=200, started=77777)
    assert made.names.job_of(205) == made.names.job_of(200)


def test_a_name_may_hold_anything(tmp_path: Path) -> None:
    made = Processes(tmp_path)
    made.begin(200, 1, name="a) S 9 (b c")
    made.begin(201, 200, name=") ) )")
    assert made.names.job_of(201) == made.names.job_of(200) > 0


def test_whoever_cannot_be_looked_at_is_nobody(tmp_path: Path) -> None:
    made = Processes(tmp_path)
    made.begin(200, 1)
    made.begin(201, 200)
    (made.proc / "201" / "exe").unlink()
    made.begin(202, 200)
    (made.proc / "202" / "stat").write_text("not what it should be")
    made.begin(203, 200)
    (made.proc / "203" / "cgroup").unlink()
    assert [made.names.job_of(pid) for pid in (0, -1)] == [ANYBODY] * 2
    assert [made.names.job_of(pid) for pid in (201, 202, 203, 999)] == [NOBODY] * 4


def test_of_another_users_processes_the_session_is_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Processes(tmp_path)
    for leader in (200, 300):
        made.begin(leader, 1, session=leader)
        made.begin(leader + 1, leader, session=leader)
    look = os.stat

    def refuse(path: str, **how: Any) -> os.stat_result:
        if str(path).endswith("/exe") and not str(path).endswith("/1/exe"):
            raise PermissionError(path)
        return look(path, **how)

    monkeypatch.setattr(os, "stat", refuse)
    jobs = [made.names.job_of(pid) for pid in (200, 201, 300, 301)]
    assert jobs[0] == jobs[1] > 0
    assert jobs[2] == jobs[3] > 0
    assert jobs[0] != jobs[2]


def test_what_was_known_stays_whose_it_was_when_it_has_ended(tmp_path: Path) -> None:
    """What it read is told a moment later."""
    made = Processes(tmp_path)
    made.begin(200, 1)
    made.begin(201, 200)
    job = made.names.job_of(201)
    made.end(201)
    made.later()
    assert made.names.job_of(201) == job


def test_parents_that_cannot_be_looked_at_are_not_gone_past(tmp_path: Path) -> None:
    made = Processes(tmp_path)
    made.begin(200, 1)
    for pid in (201, 301):
        made.begin(pid, 200)
        made.begin(pid + 10, pid)
    (made.proc / "200" / "cgroup").unlink()
    assert made.names.job_of(211) == made.names.job_of(201) > 0
    assert made.names.job_of(211) != made.names.job_of(311)


def test_a_pid_that_is_given_to_another_is_found_out_within_a_second(tmp_path: Path) -> None:
    made = Processes(tmp_path)
    made.begin(100, 1, SHELL)
    made.begin(200, 100, started=20)
    job = made.names.job_of(200)
    made.end(200)
    made.begin(200, 100, started=30)
    assert made.names.job_of(200) == job
    made.later()
    assert made.names.job_of(200) not in (ANYBODY, NOBODY, job)


def test_a_known_process_is_looked_at_once_a_second(tmp_path: Path) -> None:
    made = Processes(tmp_path)
    made.begin(200, 1)
    job = made.names.job_of(200)
    shutil.rmtree(made.proc)
    for _ in range(10):
        made.now_ns += RECHECK_NS // 10 - 1
        assert made.names.job_of(200) == job


def test_memory_is_bounded_and_who_reads_stays_known(tmp_path: Path) -> None:
    made = Processes(tmp_path)
    made.begin(200, 1)
    job = made.names.job_of(200)
    shutil.rmtree(made.proc)
    for pid in range(1000, 1000 + 2 * MOST_PIDS):
        assert made.names.job_of(pid) == NOBODY
        assert made.names.job_of(200) == job
    assert len(made.names._known) == MOST_PIDS


# ---- real processes -----------------------------------------------------------------------------

TRAINER = """
import os, sys
for line in sys.stdin:
    wake, end = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(end)
        os.read(wake, 1)
        os._exit(0)
    os.close(wake)
    print(pid, flush=True)
    sys.stdin.readline()
    os.close(end)
    os.waitpid(pid, 0)
    print("ended", flush=True)
"""


@contextlib.contextmanager
def trainer() -> Iterator[subprocess.Popen[str]]:
    """A process that forks a worker for each line, which ends at the next; a shell above it."""
    command = ["sh", "-c", '"$0" -c "$1"; :', sys.executable, TRAINER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def say(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def test_real_workers_are_their_trainers_job() -> None:
    names = JobNames()
    with trainer() as one, trainer() as other:
        jobs = {}
        for process in (one, other):
            found = set()
            for _ in range(3):
                found.add(names.job_of(int(say(process))))
                assert say(process) == "ended"
            assert len(found) == 1
            jobs[process] = found.pop()
        assert jobs[one] != jobs[other]
        assert 0 not in jobs.values()
        assert names.job_of(os.getpid()) not in (0, *jobs.values())


def test_a_real_thread_is_its_process() -> None:
    names = JobNames()
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(names.job_of(threading.get_native_id())))
    thread.start()
    thread.join()
    assert found == [names.job_of(os.getpid())]
    assert found != [0]


def test_a_job_runs_until_its_process_ends() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        job = JobNames().job_of(child.pid)
        assert is_running(job)
    finally:
        child.kill()
        child.wait()
    assert not is_running(job)
    assert not is_running(0)
