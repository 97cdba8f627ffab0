"""The keeper's loop: one control plane at a time, started, watched, replaced, and ended.

States of `Supervisor`, and the methods behind the arrows::

                 _launch            "ready"                    _on_probe: it answered
    (mounted) -----------> STARTING ----------------> ANSWERING ---------------------> SERVING
                              ^  |                        |                              |
                      _relaunch  `------------------------+---- _on_child_end -----------+
                              |                                        |
                              |                                     _died
                              `----- BACKOFF <-------------------------+
                                        |                              |  too often, or the first
                                        |      _stop (SIGTERM)         |  start failed
        any state ------------------------------> STOPPING            _finish
                                                      `---- _on_child_end ----> ENDED

Invariants:

K5. Every way out of `run` ends in `_finish`: child dead, ``/dev/fuse`` closed, mount detached. A
    FUSE mount that nobody answers hangs `df` for everybody.
K6. A dead mount stays in the mount table until the fresh one takes its place: its users get
    ENOTCONN, where an empty directory would let them believe that their data is gone.
K7. A mount that somebody took away is not made again: `run` ends with 0.
K8. The loop only waits in `poll`, with a deadline for everything that is expected of a child.
K9. A mount on an automount is not made again here: an access in the gap would start a mount
    command, which the keeper's lock refuses, and for which the keeper's mount(2) waits in vain.
"""

from __future__ import annotations

import enum
import errno
import os
import select
import signal
import time
from collections.abc import Callable, Sequence

from tierfs.boot import boot_id
from tierfs.errors import MountError, TierfsError
from tierfs.keeper.child import CONTROL_ARGV, Child, parse_error
from tierfs.keeper.log import Log
from tierfs.keeper.mounting import Mount, make_mount
from tierfs.keeper.notify import Notifier
from tierfs.keeper.runtime import Runtime
from tierfs.keeper.signals import SignalPipe
from tierfs.keeper.timing import Deaths, Timing

#: How often it is looked whether a child has ended without its end being told (`Child.reap`).
_LOOK_S = 1.0
#: What the service manager is told instead of "for ever".
LONGEST_S = 10 * 365 * 86400.0
_READ_MASK = select.POLLIN | select.POLLHUP | select.POLLERR


class State(enum.Enum):
    """Where the supervisor is; see the module's diagram."""

    STARTING = "starting"
    ANSWERING = "checking that the mount answers"
    SERVING = "serving"
    BACKOFF = "waiting before the control plane is started again"
    STOPPING = "stopping"
    ENDED = "ended"


class Supervisor:
    """Keeps one mount served until it is unmounted or told to stop."""

    def __init__(
        self,
        mount: Mount,
        runtime: Runtime,
        config: bytes,
        *,
        log: Log,
        notifier: Notifier,
        on_answer: Callable[[], None] = lambda: None,
        control_argv: Sequence[str] = CONTROL_ARGV,
        timing: Timing | None = None,
        writes: bool = False,
    ) -> None:
        """*config* is what each control plane is handed; *on_answer* runs when the mount first
        answers; *writes* is noted for those who unmount."""
        self._mount = mount
        self._runtime = runtime
        self._config = config
        self._log = log
        self._notifier = notifier
        self._on_answer = on_answer
        self._argv = control_argv
        self._timing = timing or Timing()
        self._writes = writes
        self._deaths = Deaths(self._timing)
        self._state = State.STARTING
        self._child: Child | None = None
        self._probe_pid = 0
        self._doomed: list[int] = []
        self._doomed_children: list[Child] = []
        self._answered = False
        self._limits_told = False
        self._told_to_end = 0
        self._hurried = False
        self._connected = True
        self._timers: dict[str, float] = {}
        self._exit_code = 0
        self._started_s = time.time()
        self._began_s = time.monotonic()
        self._report: TierfsError | None = None
        self._reason = ""
        self.error: TierfsError | None = None
        """Why `run` returned other than 0."""

    def run(self) -> int:
        """Supervise until the end; the keeper's exit code. Waits for that long."""
        with SignalPipe() as signals:
            self._signals = signals
            try:
                self._launch()
                while self._state is not State.ENDED:
                    self._turn(signals)
            except OSError as error:
                self._give_up(MountError("the keeper failed", str(error), self._where))
            finally:
                self._finish(self._exit_code or (0 if self._state is State.ENDED else 1))
        return self._exit_code

    # The loop.

    def _turn(self, signals: SignalPipe) -> None:
        """Wait for one round of events and handle them."""
        poller = select.poll()
        poller.register(signals.fd, select.POLLIN)
        children = self._children()
        for child in children:
            if child.report_fd >= 0:
                poller.register(child.report_fd, select.POLLIN)
        if self._connected and self._mount.fuse_fd >= 0:
            # With an empty mask /dev/fuse reports only that the connection has ended (POLLERR).
            poller.register(self._mount.fuse_fd, 0)
        now = time.monotonic()
        due = min([now + (_LOOK_S if children else 3600.0), *self._timers.values()])
        events = dict(poller.poll(max(0.0, due - now) * 1000 + 1))
        for child in children:
            if events.get(child.report_fd, 0) & _READ_MASK:
                self._read_report(child)
        if self._connected and events.get(self._mount.fuse_fd, 0):
            self._on_disconnect()
        self._reap_probes()
        for child in children:
            if child.reap():
                if child.lingers:
                    self._doomed.append(child.pid)
                self._on_child_end(child)
        for number in signals.arrived():
            self._on_signal(number)
        now = time.monotonic()
        for name in [name for name, at in self._timers.items() if at <= now]:
            if self._timers.pop(name, None) is not None:
                self._on_timer(name)

    def _children(self) -> list[Child]:
        """The processes that are watched."""
        return [] if self._child is None else [self._child]

    def _after(self, name: str, seconds: float) -> None:
        self._timers[name] = time.monotonic() + seconds

    def _on_timer(self, name: str) -> None:
        timing = self._timing
        if name == "silence":
            limit = timing.watchdog_s if self._state is State.SERVING else timing.start_s
            self._abort_child(f"said nothing for {limit:g} s")
        elif name == "answer":
            self._abort_child(f"did not answer on the mount point within {timing.answer_s:g} s")
        elif name == "backoff":
            self._relaunch()
        elif name == "pulse" and self._state in (State.STARTING, State.ANSWERING):
            self._notifier.watchdog()
            self._after("pulse", self._timing.pulse_s)
        elif name == "unmount":
            self._try_unmount(lazily=False)
        elif name == "drain":
            self._log.warning("still in use after the drain deadline: detaching it")
            self._try_unmount(lazily=True)
        elif name == "kill" and self._child is not None:
            self._log.warning(f"killing the control plane (pid {self._child.pid})")
            self._child.kill()

    def _on_signal(self, number: signal.Signals) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stop(number.name)
        elif number == signal.SIGHUP:
            self._log.info("SIGHUP ignored: options change with a new mount")
        elif number == signal.SIGUSR2:
            self._reexec()

    def _reexec(self) -> None:
        """Go on as the package that is installed now. This front cannot take over a session."""
        self._log.warning("SIGUSR2 ignored: the Python front is upgraded by a new mount")

    # Starting.

    def _launch(self) -> None:
        self._state = State.STARTING
        self._connected = True
        self._report = None
        self._reason = ""
        self._child = Child.start(
            self._argv, config=self._config, descriptors={"--fuse-fd": self._mount.fuse_fd}
        )
        self._log.debug(f"control plane started (pid {self._child.pid})")
        self._after("silence", self._timing.start_s)
        self._after("pulse", self._timing.pulse_s)
        self._record()

    def _relaunch(self) -> None:
        if not self._mount.present:
            self._end("unmounted", 0)  # K7
            return
        if self._mount.automounted:  # K9
            where = self._mount.spec.mountpoint
            self._give_up(MountError("left to the automount", where, "an access mounts it again"))
            return
        try:
            if not self._mount.unmount(lazily=True):
                raise MountError(
                    "the dead mount cannot be detached",
                    self._mount.spec.mountpoint,
                    "another file system covers it; run umount -l",
                )
            self._mount = make_mount(self._mount.spec)  # K6
        except MountError as error:
            self._give_up(error)
            return
        self._launch()

    def _read_report(self, child: Child) -> None:
        for line in child.lines():
            self._on_child_line(child, line)

    def _on_child_line(self, child: Child, line: str) -> None:
        error = parse_error(line)
        if error is not None:
            self._report = error
            return
        self._heard("silence", self._state is State.SERVING)
        if line == "ready" and self._state is State.STARTING:
            self._state = State.ANSWERING
            self._after("answer", self._timing.answer_s)
            self._probe_pid = self._mount.start_probe()

    def _heard(self, timer: str, ready: bool) -> None:
        if self._state in (State.STARTING, State.ANSWERING, State.SERVING):
            self._after(timer, self._timing.watchdog_s if ready else self._timing.start_s)
        self._notifier.watchdog()
        if self._state in (State.STARTING, State.ANSWERING):
            self._notifier.send(EXTEND_TIMEOUT_USEC=int(self._timing.start_s * 1e6))
        if self._state is State.SERVING:
            self._runtime.bound_log()

    def _reap_probes(self) -> None:
        self._doomed = [pid for pid in self._doomed if not os.waitpid(pid, os.WNOHANG)[0]]
        done, status = os.waitpid(self._probe_pid, os.WNOHANG) if self._probe_pid else (0, 0)
        if not done:
            return
        self._probe_pid = 0
        if self._state is State.ANSWERING:
            self._on_probe(os.waitstatus_to_exitcode(status))

    def _on_probe(self, answer: int) -> None:
        self._timers.pop("answer", None)
        if answer:
            why = os.strerror(answer) if answer > 0 else "the check was killed"
            self._abort_child(f"does not answer on the mount point: {why}")
            return
        # Only now: the answer to INIT, which the probe waited for, sets the limit anew.
        raised = self._mount.raise_read_ahead(), self._mount.raise_background()
        if not all(raised) and not self._limits_told:
            self._limits_told = True
            if not raised[0]:
                self._log.debug("read_ahead_kb cannot be raised: reads come in 128 KiB pieces")
            if not raised[1]:
                self._log.debug("max_background cannot be raised: 12 buffered reads at a time")
        self._state = State.SERVING
        self._after("silence", self._timing.watchdog_s)
        self._notifier.send(READY=1, MAINPID=os.getpid(), STATUS=f"serving {self._source}")
        self._log.info(f"serving {self._source}" + (" again" if self._answered else ""))
        self._record()
        if not self._answered:
            self._answered = True
            self._on_answer()

    # Dying.

    def _abort_child(self, reason: str) -> None:
        """Treat a child that lives but does not work as dead, and make it so."""
        self._reason = reason
        self._timers.clear()
        self._log.error(f"the control plane {reason}: killing it")
        self._notifier.watchdog()
        if self._child is not None:
            self._child.signal(signal.SIGABRT)
            self._after("kill", self._timing.abort_s)

    def _on_child_end(self, child: Child) -> None:
        self._read_report(child)
        child.close()
        self._child = None
        self._timers.clear()
        self._kill_probe()
        self._mount.close()
        self._mount.abort()
        if self._state is State.STOPPING:
            self._end("stopped", 0)
        elif not self._mount.present:
            if child.status:
                self._log.warning(f"the control plane {child.ending()} while it was unmounted")
            self._end("unmounted", 0)  # K7
        else:
            self._died(child)

    def _died(self, child: Child) -> None:
        reason = self._reason or child.ending()
        if self._report is not None:
            reason = str(self._report)
        if not self._answered:
            self._give_up(
                self._report or MountError("the control plane failed to start", reason, self._where)
            )
            return
        wait_s = self._deaths.record(time.monotonic())
        self._log.error(f"the control plane died: {reason}; open files are lost (ENOTCONN)")
        timing = self._timing
        if wait_s is None:
            op = f"the control plane died {timing.crash_limit} times in {timing.crash_window_s:g} s"
            self._give_up(MountError(op, reason, f"unmounted; {self._where}, then mount again"))
            return
        if self._mount.automounted:
            wait_s = self._began_s + timing.automount_s - time.monotonic()
        self._state = State.BACKOFF
        self._after("backoff", wait_s)
        self._notifier.send(STATUS=f"control plane died ({reason}), restarting")
        self._notifier.watchdog()
        self._record()

    def _pending_stop(self, signals: SignalPipe) -> bool:
        """Whether somebody has asked for the end since the last turn."""
        arrived = signals.arrived()
        return signal.SIGTERM in arrived or signal.SIGINT in arrived

    def _on_disconnect(self) -> None:
        """The connection ended, by umount(2) or an abort: the child should end by itself."""
        self._connected = False
        self._timers.pop("silence", None)
        self._timers.pop("answer", None)
        self._after("kill", self._timing.end_s)

    # Stopping.

    def _stop(self, name: str) -> None:
        """Drain and unmount; a second signal does not wait for anybody."""
        hurry = self._state is State.STOPPING
        self._state = State.STOPPING
        self._timers.clear()
        self._log.info(f"{name}: " + ("stopping at once" if hurry else "draining"))
        self._notifier.send(STOPPING=1, STATUS="unmounting", **self._extension())
        child = self._child
        if child is None:
            self._end("stopped", 0)
        elif hurry and self._flushes(child):
            # It says what stays, and ends; a third signal kills it.
            self._hurried = True
            self._after("kill", self._timing.stop_s)
            child.signal(signal.SIGUSR1)
        elif hurry or not self._answered:
            self._mount.unmount(lazily=True)
            child.kill()
        else:
            # The child goes on serving who still reads; SIGTERM would end its loop.
            self._after("drain", self._timing.drain_s)
            self._try_unmount(lazily=False)

    def _flushes(self, child: Child) -> bool:
        """Whether *child* may be waiting for the lake, with the mount gone; SIGUSR1 ends that."""
        told = self._told_to_end == child.pid or not self._connected
        return self._timing.flush_s > 0 and told and not self._hurried

    def _extension(self) -> dict[str, int]:
        """How long the service manager is to wait for the end, whatever TimeoutStopSec says."""
        if not self._timing.flush_s:
            return {}
        most_s = self._timing.drain_s + self._timing.end_s + self._timing.abort_s
        return {"EXTEND_TIMEOUT_USEC": int(min(most_s, LONGEST_S) * 1e6)}

    def _tell_to_end(self) -> None:
        """Have the control plane end, once: a second SIGTERM would strike it while it commits."""
        if self._child is not None and self._told_to_end != self._child.pid:
            self._told_to_end = self._child.pid
            self._child.signal(signal.SIGTERM)

    def _try_unmount(self, *, lazily: bool) -> None:
        if self._mount.unmount(lazily=lazily) or lazily:
            self._timers.pop("unmount", None)
            self._timers.pop("drain", None)
            self._after("kill", self._timing.end_s)
            self._tell_to_end()
        else:
            self._after("unmount", min(0.25, self._timing.drain_s / 4))

    # The end.

    def _give_up(self, error: TierfsError) -> None:
        self.error = error
        self._notifier.send(STATUS=str(error), ERRNO=errno.EIO)
        self._end(str(error), 1)

    def _end(self, message: str, code: int) -> None:
        (self._log.error if code else self._log.info)(message)
        self._exit_code = code
        self._state = State.ENDED

    def _finish(self, code: int) -> None:
        """Leave nothing behind (K5)."""
        self._exit_code = code
        self._state = State.ENDED
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.close()
            self._doomed_children.append(child)
        self._kill_probe()
        self._mount.close()
        self._mount.abort()
        if not self._mount.unmount(lazily=True):
            self._log.error("the dead mount is covered by another one: umount both")
            self._exit_code = self._exit_code or 1
        deadline = time.monotonic() + self._timing.abort_s
        while time.monotonic() < deadline and not all(c.reap() for c in self._doomed_children):
            time.sleep(0.005)
        self._runtime.release()

    def _kill_probe(self) -> None:
        if self._probe_pid:
            os.kill(self._probe_pid, signal.SIGKILL)
            # Not waited for: until the connection is cut it may sit in an unkillable wait.
            self._doomed.append(self._probe_pid)
            self._probe_pid = 0

    @property
    def _source(self) -> str:
        return self._mount.spec.source

    @property
    def _where(self) -> str:
        log_file = self._runtime.log_file
        return f"see {log_file}" if log_file else "see the log"

    @property
    def _outlives_us(self) -> bool:
        """Whether the mount goes on when this very process dies."""
        return False

    @property
    def _death_count(self) -> int:
        """How many processes have died so far."""
        return self._deaths.total

    @property
    def _pids(self) -> dict[str, int]:
        """Processes that the control plane does not know of, by role."""
        return {}

    def _record(self) -> None:
        """Tell `tierfs status` what the control plane cannot know."""
        log_file = self._runtime.log_file
        self._runtime.write_state(
            {
                "pid": os.getpid(),
                "mountpoint": os.fsdecode(self._mount.spec.mountpoint),
                "mount": [self._mount.mount_id, self._mount.device],
                "boot": boot_id().hex(),
                "source": self._source,
                "state": self._state.value,
                "log": str(log_file) if log_file else None,
                "started": self._started_s,
                "deaths": self._death_count,
                "pids": self._pids,
                "outlives_keeper": self._outlives_us,
                "writes": self._writes,
            }
        )
