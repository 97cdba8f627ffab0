"""A process that was killed, and does not end: a thread of it waits in the kernel."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.processes import runs
from tests.mount.mounting import Mount, detach, wait_until
from tierfs.keeper.child import Child

# <asm-generic/unistd.h>
_SYS_PIDFD_GETFD = 438

#: A file system that is asked, and never answers.
SILENT = """
import sys, pyfuse3, trio
class Silent(pyfuse3.Operations):
    async def getattr(self, inode, ctx=None):
        print("asked", flush=True)
        await trio.sleep_forever()
pyfuse3.init(Silent(), sys.argv[1], set(pyfuse3.default_options))
print("mounted", flush=True)
trio.run(pyfuse3.main)
"""
#: A process one of whose threads asks.
ASKING = """
import os, sys, threading, time
threading.Thread(target=os.stat, args=(sys.argv[1],)).start()
time.sleep(1000)
"""


def test_what_can_die_only_when_its_successor_answers_is_as_good_as_dead(tmp_path: Path) -> None:
    directory = tmp_path / "silent"
    directory.mkdir()
    argv = [sys.executable, "-c", SILENT, str(directory)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as silent:
        try:
            assert silent.stdout is not None
            assert silent.stdout.readline() == "mounted\n"
            child = Child.start([sys.executable, "-c", ASKING, str(directory)], descriptors={})
            assert silent.stdout.readline() == "asked\n"
            assert not child.reap()
            os.kill(child.pid, signal.SIGKILL)
            wait_until(child.reap, "its end")
            assert child.lingers
            assert child.ending() == "was ended by SIGKILL"
            # The kernel still has it.
            assert os.waitpid(child.pid, os.WNOHANG) == (0, 0)
        finally:
            silent.kill()
            silent.wait()
            detach(directory)
    assert os.waitpid(child.pid, 0)[0] == child.pid
    child.close()


def test_how_a_process_ended_is_known_where_it_does_end() -> None:
    script = "import os, threading; threading.Thread(target=input).start(); os._exit(7)"
    child = Child.start([sys.executable, "-c", script], descriptors={})
    wait_until(child.reap, "its end")
    assert (child.status, child.lingers) == (7, False)
    child.close()


def test_a_mount_that_is_dead_and_does_not_say_so_is_mounted_again(
    mount: Callable[..., Mount], lake: Path
) -> None:
    """What is left of its processes holds the connection, and will not answer."""
    (lake / "a").write_bytes(b"here")
    with mount() as made:
        pids = made.pids()
        with held(pids["keeper"]):
            for pid in pids.values():
                os.kill(pid, signal.SIGKILL)
            for pid in pids.values():
                wait_until(lambda pid=pid: not runs(pid), f"process {pid} to end")
            again = made.start()
            assert again.returncode == 0, again.stderr
            assert "detached 1 dead mount" in made.log()
            assert (made.directory / "a").read_bytes() == b"here"


@contextmanager
def held(pid: int) -> Iterator[None]:
    """Hold the FUSE connection that process *pid* holds."""
    links = Path(f"/proc/{pid}/fd").iterdir()
    number = next(int(link.name) for link in links if os.readlink(link) == "/dev/fuse")
    process = os.pidfd_open(pid)
    try:
        fd = ctypes.CDLL(None, use_errno=True).syscall(_SYS_PIDFD_GETFD, process, number, 0)
        assert fd >= 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(process)
    try:
        yield
    finally:
        os.close(fd)
