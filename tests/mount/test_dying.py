"""A process that was killed, and does not end: a thread of it waits in the kernel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.mount.mounting import detach, wait_until
from tierfs.keeper.child import Child

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
