"""The first thing that a keeper does as another version of the package: see
`tierfs.keeper.handover`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tierfs import mountinfo
from tierfs.config import Config
from tierfs.errors import MountError
from tierfs.front.program import native_front
from tierfs.keeper.channel import Channel
from tierfs.keeper.child import Child
from tierfs.keeper.log import Log
from tierfs.keeper.mounting import Mount, MountSpec
from tierfs.keeper.mountpoint import unmount
from tierfs.keeper.native import NativeSupervisor
from tierfs.keeper.notify import Notifier
from tierfs.keeper.runtime import Runtime
from tierfs.keeper.timing import Timing

#: How long a control plane may take to commit what it has.
END_S = 20.0


def _check() -> int:
    """The new package's part of it."""
    import tierfs.control.main  # noqa: F401 - that it can be imported is the question.

    program = native_front()
    if program is None:
        print("it has no native front", file=sys.stderr)
        return 1
    return subprocess.run([program, "--help"], stdout=subprocess.DEVNULL, check=False).returncode


def main(argv: Sequence[str] | None = None) -> int:
    """Go on with the mount that the state describes; the keeper's exit code."""
    parser = argparse.ArgumentParser(prog="tierfs-keeper")
    parser.add_argument("--state-fd", type=int)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.check:
        return _check()
    with os.fdopen(arguments.state_fd, "rb") as source:
        state = json.loads(source.read())
    log = Log("keeper")
    try:
        config = Config.from_json(state["config"], strict=False)
        spec = MountSpec.from_config(config)
        log = Log(spec.mountpoint, level=config.log_level)
        return _go_on(state, config, spec, log)
    except Exception as error:
        log.error(f"cannot go on: {error}")
        return _give_up(state)


def _give_up(state: dict[str, Any]) -> int:
    """Leave no dead mount behind. Of one that is gone already, which is an end like any other, the
    control plane commits what it has."""
    fuse_fd, mount_id, device = state["mount"]
    front, control = Child(*state["front"]), Child(*state["control"])
    entry = next(
        (e for e in mountinfo.mounts() if (e.mount_id, e.device) == (mount_id, device)), None
    )
    os.close(fuse_fd)
    front.kill()
    control.signal(signal.SIGTERM)
    if entry is not None:
        unmount(entry.mountpoint, lazily=True)
    deadline = time.monotonic() + END_S
    while not (control.reap() and front.reap()) and time.monotonic() < deadline:
        time.sleep(0.01)
    control.kill()
    directory, lock_fd, _ = state["runtime"]
    Runtime(Path(directory), lock_fd).release()
    return 0 if entry is None else 1


def _go_on(state: dict[str, Any], config: Config, spec: MountSpec, log: Log) -> int:
    directory, lock_fd, log_file = state["runtime"]
    runtime = Runtime(Path(str(directory)), lock_fd)
    runtime.log_file = Path(str(log_file)) if log_file else None
    channel = Channel(*state["channel"])
    descriptors = [state["mount"][0], lock_fd, *channel.descriptors]
    reports = [state["control"][1], state["front"][1]]
    for fd in (*descriptors, *reports):
        os.set_inheritable(fd, False)
    program = native_front()
    if program is None:
        raise MountError("the new package has no native front", "tierfs-front", "mount again")
    fuse_fd, mount_id, device = state["mount"]
    supervisor = NativeSupervisor(
        Mount.resume(spec, fuse_fd, mount_id, str(device)),
        runtime,
        config.to_json().encode(),
        log=log,
        notifier=Notifier.resume(*state["notifier"]),
        timing=Timing().of(config),
        writes=config.write_back is not None,
        front=program,
        fuse_mask=config.fuse_mask,
        memory=config.memory,
        channel=channel,
    )
    return supervisor.resume(
        Child(*state["control"]),
        Child(*state["front"]),
        started_s=float(state["started_s"]),
        deaths=int(state["deaths"]),
    )


if __name__ == "__main__":
    sys.exit(main())
