"""``tierfs reexec``: upgrade the package under a live mount."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from tierfs.cli.arguments import Parser, add_runtime_dir
from tierfs.cli.live import the_mount
from tierfs.control.client import call
from tierfs.errors import MountError, TierfsError

EXAMPLES = """\
  /opt/tierfs/bin/pip install . && tierfs reexec /mnt/lake
"""
#: How long the new processes may take to be there.
TIMEOUT_S = 60.0


def run(argv: Sequence[str]) -> int:
    """Have the processes of a mount replaced by those of the installed package."""
    parser = Parser(
        "reexec",
        "Replace the processes of a mount by those of the package that is installed now. What is\n"
        "open stays open, readers see a pause. Needs the native front. Returns when they serve.",
        EXAMPLES,
    )
    parser.add_argument("path", nargs="?", type=Path, metavar="PATH")
    add_runtime_dir(parser)
    arguments = parser.parse(argv)
    mount = the_mount(arguments.path)

    def status() -> dict[str, dict[str, int]]:
        answer: dict[str, dict[str, int]] = call(
            mount, "status", runtime_dir=arguments.runtime_dir, timeout_s=5.0
        )
        return answer

    before = status()
    if before.get("front") != "native":  # type: ignore[comparison-overlap]
        raise MountError(
            "this front is not replaced under a mount",
            str(mount.mountpoint),
            "unmount and mount again; --front native can be upgraded",
        )
    os.kill(before["pids"]["keeper"], signal.SIGUSR2)
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        time.sleep(0.1)
        try:
            now = status()
        except TierfsError:
            continue  # The control plane is being replaced.
        if all(now["pids"].get(role) != before["pids"][role] for role in ("control", "front")):
            print(f"{mount.mountpoint}: serves as {now['version']}")
            return 0
    raise MountError("the processes were not replaced", str(mount.mountpoint), "see its log")
