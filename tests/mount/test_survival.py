"""With a native front the death of a process is a pause, and no more (K10, K11; S1..S6)."""

from __future__ import annotations

import json
import mmap
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.bars import survival
from tests.mount.mounting import Mount, wait_until

Make = Callable[..., Mount]
Content = Callable[[int, int], bytes]

pytestmark = pytest.mark.parametrize("front", ["native"], indirect=True)


def replaced(made: Mount, role: str, pid: int) -> bool:
    """Whether another process has the *role* by now, and answers."""
    try:
        return made.pids().get(role) not in (None, pid)
    except AssertionError:
        return False  # The control plane is the one that answers.


def write_twenty(lake: Path, content: Content) -> None:
    """Twenty small files, f0 to f19."""
    for n in range(20):
        (lake / f"f{n}").write_bytes(content(n, 10_000))


def cache_twenty(made: Mount) -> None:
    """Have them listed, read and cached."""
    for name in sorted(os.listdir(made.directory)):
        (made.directory / name).read_bytes()
    wait_until(lambda: made.status()["cache"]["cached_files"] == 20, "all to be cached")


@pytest.mark.parametrize("role", ["front", "control"])
def test_what_is_open_goes_on_after_a_kill(
    mount: Make, lake: Path, content: Content, role: str
) -> None:
    small, large = content(1, 5000), content(2, 5 << 20)
    (lake / "small").write_bytes(small)
    (lake / "large").write_bytes(large)
    with mount("--metadata-ttl", "inf") as made:
        assert (made.directory / "small").read_bytes() == small
        wait_until(lambda: made.status()["cache"]["cached_files"] == 1, "a cached file")
        held = [os.open(made.directory / name, os.O_RDONLY) for name in ("small", "large")]
        view = mmap.mmap(held[0], 0, prot=mmap.PROT_READ)
        ino = os.fstat(held[1]).st_ino
        pid = made.pids()[role]
        os.kill(pid, signal.SIGKILL)
        assert os.pread(held[0], 5000, 0) == small
        assert os.pread(held[1], 1 << 20, 3 << 20) == large[3 << 20 : 4 << 20]
        assert view[:] == small
        assert (made.directory / "large").read_bytes() == large
        assert sorted(os.listdir(made.directory)) == ["large", "small"]
        assert os.stat(made.directory / "large").st_ino == ino
        wait_until(lambda: replaced(made, role, pid), f"another {role}")
        for fd in held:
            os.close(fd)
        view.close()
        details = made.status
        wait_until(lambda: details()["front_details"].get("open_inodes") == 0, "all to be closed")
        # Nor does the control plane keep what it opened for a read of the earlier front's.
        wait_until(lambda: made.status()["cache"]["open_handles"] == 0, "nothing to be held")
        assert made.status()["restarts"] == 1
        # Nobody but a service manager keeps the mount when its keeper dies.
        assert made.status()["outlives_keeper"] is False


def test_a_request_under_way_is_answered_by_the_successor(
    mount: Make, lake: Path, content: Content
) -> None:
    (lake / "f").write_bytes(content(3, 200_000))
    # A first byte after two seconds: the request waits in the lake when its front dies.
    with mount("--link", "2000,2001,100,100") as made:
        pid = made.pids()["front"]
        reader = os.fork()
        if reader == 0:
            try:
                ok = (made.directory / "f").read_bytes() == content(3, 200_000)
                os._exit(0 if ok else 1)
            finally:
                os._exit(2)
        time.sleep(1)
        os.kill(pid, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) == 0
        # What the front says of itself is asked for once a second.
        wait_until(
            lambda: made.status()["front_details"].get("replayed", 0) >= 1, "the replay to be told"
        )


def test_a_stopped_control_plane_holds_up_nothing_that_is_cached(
    mount: Make, lake: Path, content: Content
) -> None:
    write_twenty(lake, content)
    with mount("--metadata-ttl", "inf") as made:
        cache_twenty(made)
        control = made.pids()["control"]
        os.kill(control, signal.SIGSTOP)
        try:
            for n in range(20):
                assert (made.directory / f"f{n}").read_bytes() == content(n, 10_000)
            assert len(os.listdir(made.directory)) == 20
            assert not (made.directory / "absent").exists()
        finally:
            os.kill(control, signal.SIGCONT)


def test_a_front_needs_no_control_plane_to_take_over(
    mount: Make, lake: Path, content: Content
) -> None:
    write_twenty(lake, content)
    with mount("--metadata-ttl", "inf") as made:
        cache_twenty(made)
        pids = made.pids()
        os.kill(pids["control"], signal.SIGSTOP)
        try:
            os.kill(pids["front"], signal.SIGKILL)
            for n in range(20):
                assert (made.directory / f"f{n}").read_bytes() == content(n, 10_000)
            assert len(os.listdir(made.directory)) == 20
        finally:
            os.kill(pids["control"], signal.SIGCONT)
        wait_until(lambda: replaced(made, "front", pids["front"]), "another front")
        assert made.pids()["control"] == pids["control"]


def test_many_dead_fronts_leave_the_index_readable(
    mount: Make, lake: Path, content: Content
) -> None:
    """Each front has a score of readers in LMDB, which has room for 512, the dead ones among
    them."""
    (lake / "f").write_bytes(content(1, 5000))
    with mount("--metadata-ttl", "inf") as made, ThreadPoolExecutor(16) as readers:
        for _ in range(80):
            # All workers of the front have work, and their readers with it.
            list(readers.map(lambda _: os.listdir(made.directory), range(64)))
            (state,) = made.runtime.glob("*/mount.json")
            pid = json.loads(state.read_text())["pids"]["front"]
            os.kill(pid, signal.SIGKILL)
            assert (made.directory / "f").read_bytes() == content(1, 5000)
            wait_until(
                lambda pid=pid, state=state: (
                    json.loads(state.read_text())["pids"].get("front", pid) != pid
                ),
                "another front",
            )
        assert (made.directory / "f").read_bytes() == content(1, 5000)
        wait_until(
            lambda: made.status()["front_details"].get("index_errors") == 0, "no error of the index"
        )


def test_kills_at_random_are_not_seen_by_readers(tmp_path: Path, front: str) -> None:
    outcome = survival.strike(tmp_path, kills=25, files=600)
    assert not outcome.errors
    assert outcome.wrong == 0
    assert outcome.kills >= 20
    assert outcome.open_files == 0


def test_the_package_is_upgraded_under_a_live_mount(
    mount: Make, lake: Path, content: Content
) -> None:
    (lake / "f").write_bytes(content(4, 3 << 20))
    with mount() as made:
        held = os.open(made.directory / "f", os.O_RDONLY)
        assert os.pread(held, 1000, 0) == content(4, 3 << 20)[:1000]
        before = made.pids()
        assert "serves as" in made.command("reexec", made.directory).stdout
        after = made.pids()
        assert after["keeper"] == before["keeper"]
        assert {role for role in ("front", "control") if after[role] != before[role]} == {
            "front",
            "control",
        }
        assert os.pread(held, 1 << 20, 2 << 20) == content(4, 3 << 20)[2 << 20 :]
        os.close(held)
        # A second time: what the new keeper wrote down is as good as what the first one did.
        made.command("reexec", made.directory)
        assert (made.directory / "f").read_bytes() == content(4, 3 << 20)


def test_a_package_that_does_not_start_leaves_the_mount_as_it_is(
    mount: Make, lake: Path, content: Content, tmp_path: Path
) -> None:
    (lake / "f").write_bytes(content(5, 1000))
    (tmp_path / "hook").mkdir()
    hook = tmp_path / "hook" / "sitecustomize.py"
    hook.write_text("")
    with mount(env={"PYTHONPATH": f"{hook.parent}:{os.getcwd()}"}) as made:
        before = made.pids()
        hook.write_text(
            "import os, sys\n"
            "if '--check' in sys.argv:\n"
            "    os.write(2, b'this one is broken')\n"
            "    os._exit(3)\n"
        )
        os.kill(before["keeper"], signal.SIGUSR2)
        wait_until(lambda: "this one is broken" in made.log(), "the refusal")
        # A spare may have been made meanwhile, as in any other mount.
        assert before.items() <= made.pids().items()
        assert (made.directory / "f").read_bytes() == content(5, 1000)
