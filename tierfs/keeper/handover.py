"""A keeper becomes that of another version of the package, under a live mount.

`leave` is the last thing that the old program does: it writes down what it keeps and replaces
itself (execve(2)), so that pid, lock, descriptors and children stay. `tierfs.keeper.resume` is the
first thing of the new one, which then replaces the children, one after the other. Readers see a
pause. Before, `check` has asked the new package, in a process of its own, whether it would start.

The state is JSON in a memfd. Whoever changes it has to read what the last version wrote.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from tierfs.keeper.child import child_environment

#: How long the new package may take to say that it would start.
CHECK_S = 20.0
_RESUME = (sys.executable, "-m", "tierfs.keeper.resume")


def check() -> str:
    """Why the package that is installed now would not start; "" if it would."""
    try:
        done = subprocess.run(
            [*_RESUME, "--check"],
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CHECK_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {CHECK_S:g} s"
    except OSError as error:
        return str(error)
    if done.returncode == 0:
        return ""
    words = (done.stderr or done.stdout).strip().splitlines()
    return words[-1] if words else f"exit code {done.returncode}"


def leave(state: dict[str, object], *, keep: Sequence[int]) -> None:
    """Replace this program, which keeps the descriptors *keep*. Returns only by an OSError.

    The caller holds the signals (`tierfs.keeper.signals.hold_signals`), and the new program lets
    them when it can take them.
    """
    state_fd = os.memfd_create("tierfs-keeper", 0)
    os.write(state_fd, json.dumps(state).encode())
    os.lseek(state_fd, 0, os.SEEK_SET)
    for fd in keep:
        os.set_inheritable(fd, True)
    try:
        os.execve(sys.executable, [*_RESUME, "--state-fd", str(state_fd)], child_environment())
    finally:
        os.close(state_fd)
        for fd in keep:
            os.set_inheritable(fd, False)
