"""The first thing that a keeper does as another version of the package: see
`tierfs.keeper.handover`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tierfs.config import Config
from tierfs.errors import MountError, TierfsError
from tierfs.front.program import native_front
from tierfs.keeper.channel import Channel
from tierfs.keeper.child import Child
from tierfs.keeper.log import Log
from tierfs.keeper.mounting import Mount, MountSpec
from tierfs.keeper.native import NativeSupervisor
from tierfs.keeper.notify import Notifier
from tierfs.keeper.runtime import Runtime


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
    config = Config.from_json(state["config"], strict=False)
    spec = MountSpec.from_config(config)
    log = Log(spec.mountpoint, level=config.log_level)
    try:
        return _go_on(state, config, spec, log)
    except TierfsError as error:
        log.error(str(error))
        return 1


def _go_on(state: dict[str, list[int]], config: Config, spec: MountSpec, log: Log) -> int:
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
        notifier=Notifier.resume(*state["notifier"]),  # type: ignore[arg-type]
        front=program,
        fuse_mask=config.fuse_mask,
        memory=config.memory,
        channel=channel,
    )
    return supervisor.resume(
        Child(*state["control"]),
        Child(*state["front"]),
        started_s=float(state["started_s"]),  # type: ignore[arg-type]
        deaths=int(state["deaths"]),  # type: ignore[call-overload]
    )


if __name__ == "__main__":
    sys.exit(main())
