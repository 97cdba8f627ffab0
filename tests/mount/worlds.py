"""A private mount namespace in which an ordinary user can run the product from this checkout."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

CLONE_NEWNS = 0x00020000
REPOSITORY = Path(__file__).parents[2]


def in_child(work: Callable[[], None]) -> None:
    """Run *work* in a forked child, which may leave this process's namespaces. It must end well."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def enter_user_world(tmp_path: Path) -> Path:
    """Leave for a mount namespace with a ``/dev/fuse`` that everybody may open, as udev makes it.

    Nothing on the way to the interpreter and the checkout is closed to others there. Returns
    *tmp_path* under a name that every user can reach. Nothing changes outside of the namespace.
    """
    assert ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    device = tmp_path / "fuse"
    os.mknod(device, 0o020666, os.makedev(10, 229))
    device.chmod(0o666)
    subprocess.run(["mount", "--bind", device, "/dev/fuse"], check=True)
    # pytest's own directories are for their owner alone.
    tmp_path.chmod(0o755)
    subprocess.run(["mount", "--bind", tmp_path, "/mnt"], check=True)
    _let_everybody_reach(Path(sys.base_prefix), Path(sys.prefix), REPOSITORY)
    return Path("/mnt")


def _let_everybody_reach(*directories: Path) -> None:
    """Put passable directories over the closed ones (such as ``/root``) on the way to these."""
    # Parents first: a virtual environment may be inside of the checkout.
    held = {path: os.open(path, os.O_PATH) for path in sorted(directories)}
    closed = set()
    for path in directories:
        closed.update([p for p in reversed(path.parents) if not p.stat().st_mode & 0o001][:1])
    for directory in closed:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", directory], check=True)
    for path, fd in held.items():
        if not path.exists():
            path.mkdir(parents=True)
            source = f"/proc/{os.getpid()}/fd/{fd}"
            subprocess.run(["mount", "-c", "--bind", source, path], check=True)
        os.close(fd)
