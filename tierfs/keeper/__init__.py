"""The keeper: makes a mount and keeps it served. Standard library only, no threads.

`run` keeps a mount in the foreground (a service, a container, ``--foreground``); `spawn` leaves a
keeper in the background and returns when the mount answers. Role by role:

    mounting, mountpoint  mount(2) or fusermount3; what is on the directory already, dead mounts
    child                 the control plane as a process, and its reports
    supervise, timing     the loop: start, watch, restart, drain, give up
    native, channel       the same for a native front: two processes, and a mount that outlives them
    handover, resume      another version of the package takes over under a live mount
    stored                what outlives the keeper itself, with the service manager
    runtime               the lock of one mount point, its log and state files
    notify, log           the service manager, log lines
    signals, process      signals as events, what a forked process does first
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from tierfs.config import Config
from tierfs.errors import MountError, TierfsError
from tierfs.front.program import native_front
from tierfs.keeper.channel import Channel
from tierfs.keeper.child import CONTROL_ARGV
from tierfs.keeper.log import Log
from tierfs.keeper.mounting import Mount, MountSpec, make_mount
from tierfs.keeper.mountpoint import clear_mountpoint
from tierfs.keeper.native import NativeSupervisor
from tierfs.keeper.notify import Notifier
from tierfs.keeper.process import close_all_but, fill_standard_streams
from tierfs.keeper.runtime import Runtime, keeper_pid, wait_until_gone, writes
from tierfs.keeper.signals import hold_signals, let_signals
from tierfs.keeper.stored import Stored
from tierfs.keeper.supervise import Supervisor
from tierfs.keeper.timing import Timing

__all__ = ["Timing", "keeper_pid", "run", "spawn", "wait_until_gone", "writes"]


#: What the native front asks of the kernel (FUSE 7.31).
OLDEST_LINUX = (5, 4)


class _Keeper:
    """A claimed mount point with a mount on it that waits for its control plane."""

    mount: Mount

    def __init__(self, config: Config, stored: Stored | None = None) -> None:
        """Claim, clean, mount; or go on with a mount that an earlier keeper left *stored*.

        Raises:
            MountError: as `Runtime.claim`, `clear_mountpoint` and `make_mount`.
        """
        self._config = config
        self._channel: Channel | None = None
        self._notifier = Notifier()
        stored = stored or Stored({})
        left: tuple[Mount, Channel] | None = None
        spec = MountSpec.from_config(config)
        try:
            self._front, self._why_python = _choose_front(config)
            if self._front is not None:
                left = stored.resume(spec)
        finally:
            stored.give_up(self._notifier)
        self.runtime = Runtime.claim(config.state_dir, spec.mountpoint)
        try:
            self.resumed = left is not None
            self.stale = 0
            hold_signals()
            if left is not None:
                self.mount, self._channel = left
            else:
                self.stale = clear_mountpoint(
                    spec.mountpoint, nonempty=spec.nonempty, orphan=self._orphan()
                )
                self.mount = make_mount(spec)
        except BaseException:
            self.runtime.release()
            let_signals()
            raise

    def _orphan(self) -> object:
        """Mount id and device that an earlier keeper has left behind; None if the service manager
        may hold them for the next start of a service, which this is not."""
        left = self.runtime.left
        if left.get("outlives_keeper") and not self._notifier.enabled:
            return None
        return left.get("mount")

    def supervise(
        self,
        control_argv: Sequence[str],
        timing: Timing | None,
        on_answer: Callable[[], None] = lambda: None,
    ) -> tuple[int, TierfsError | None]:
        """Serve until the end: exit code, and the reason when it is not 0."""
        log = Log(self.mount.spec.mountpoint, level=self._config.log_level)
        if self.resumed:
            log.warning("an earlier keeper died: going on with its mount")
        if self.stale:
            log.warning(f"detached {self.stale} dead mount(s) of an earlier run")
        if self._why_python:
            log.info(f"the Python front serves: {self._why_python}")
        self.runtime.write_pid()
        kind: Callable[..., Supervisor] = Supervisor
        if self._front is not None:
            kind = functools.partial(
                NativeSupervisor,
                front=self._front,
                fuse_mask=self._config.fuse_mask,
                memory=self._config.memory,
                channel=self._channel,
                goes_on=self.resumed,
            )
        supervisor = kind(
            self.mount,
            self.runtime,
            self._config.to_json().encode(),
            log=log,
            notifier=self._notifier,
            on_answer=on_answer,
            control_argv=control_argv,
            timing=(timing or Timing()).of(self._config),
            writes=self._config.write_back is not None,
        )
        return supervisor.run(), supervisor.error


def _choose_front(config: Config) -> tuple[Path | None, str]:
    """The program of the native front, or None for the Python one, and why it is that one where
    *config* leaves the choice.

    Raises:
        MountError: *config* asks for a native front, and this machine can have none.
    """
    if config.front == "python":
        return None, ""
    if config.write_back is not None and config.front == "auto":
        return None, "the native front serves write-back directories only if it is asked for"
    program = native_front()
    if program is None:
        what = "there is no native front on this machine"
        hint = "install tierfs where there is a Rust toolchain, or mount with --front python"
    elif _linux() < OLDEST_LINUX:
        what = f"Linux {platform.release()} is too old for the native front"
        hint = "it needs {}.{}; mount with --front python".format(*OLDEST_LINUX)
    else:
        return program, ""
    if config.front == "native":
        raise MountError(what, "tierfs-front", hint)
    return None, f"{what} ({hint})"


def _linux() -> tuple[int, ...]:
    numbers = re.match(r"(\d+)\.(\d+)", platform.release())
    return tuple(map(int, numbers.groups())) if numbers else OLDEST_LINUX


def run(
    config: Config,
    *,
    control_argv: Sequence[str] = CONTROL_ARGV,
    timing: Timing | None = None,
) -> int:
    """Mount and keep in this process until it is unmounted or told to stop; the exit code.

    Waits for as long as the mount lives. Errors are one line on standard error and a 1.
    """
    stored = Stored.take(os.environ)
    fill_standard_streams()
    try:
        keeper = _Keeper(config, stored)
    except TierfsError as error:
        print(f"tierfs: {error}", file=sys.stderr)
        return 1
    code, _ = keeper.supervise(control_argv, timing)
    return code


def spawn(
    config: Config,
    *,
    control_argv: Sequence[str] = CONTROL_ARGV,
    timing: Timing | None = None,
) -> int:
    """Leave a keeper in the background and return when the mount answers: 0, or 1 with one line of
    error on standard error.

    The mount is made in this process, before the keeper leaves its process group: under an
    automount that is the group which the kernel lets pass. The caller must have no other threads,
    for the keeper is a fork of it. The keeper logs to ``tierfs.log`` in its runtime directory.
    """
    if threading.active_count() != 1:
        raise RuntimeError("a keeper cannot be forked from a process with threads")
    fill_standard_streams()
    try:
        keeper = _Keeper(config)
    except TierfsError as error:
        print(f"tierfs: {error}", file=sys.stderr)
        return 1
    sys.stdout.flush()
    sys.stderr.flush()
    answer_read, answer_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _leave(keeper, answer_write, control_argv, timing)
    os.close(answer_write)
    keeper.mount.close()
    keeper.runtime.close()
    os.waitpid(pid, 0)
    return _await_answer(answer_read)


def _await_answer(answer_fd: int) -> int:
    """Read what the keeper says: its pid, then ``ok`` or the error."""
    with os.fdopen(answer_fd, encoding="utf-8", errors="replace") as answers:
        pid = 0
        try:
            pid = int(answers.readline().strip() or 0)
            let_signals()
            answer = answers.readline().strip()
        except KeyboardInterrupt:
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            raise
    if answer == "ok":
        return 0
    print(f"tierfs: {answer or 'the keeper ended without a word'}", file=sys.stderr)
    return 1


def _leave(
    keeper: _Keeper, answer_fd: int, control_argv: Sequence[str], timing: Timing | None
) -> None:
    """In the forked process: become the daemon and keep the mount. Never returns."""
    code = 1
    try:
        os.setsid()
        if os.fork():
            os._exit(0)  # A process that leads no session cannot get a terminal.
        os.chdir("/")
        os.umask(0o022)
        log_fd = keeper.runtime.open_log()
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.dup2(log_fd, 2)
        close_all_but((*keeper.mount.descriptors, keeper.runtime.lock_fd, answer_fd))
        os.write(answer_fd, b"%d\n" % os.getpid())

        def say(answer: str) -> None:
            nonlocal answer_fd
            if answer_fd >= 0:
                with contextlib.suppress(BrokenPipeError):
                    os.write(answer_fd, answer.encode("utf-8", "backslashreplace") + b"\n")
                os.close(answer_fd)
                answer_fd = -1

        code, error = keeper.supervise(control_argv, timing, on_answer=lambda: say("ok"))
        say(str(error) if error else "unmounted before it answered")
    finally:
        os._exit(code)
