"""The keeper's loop for a native front: two processes on one mount, each replaced when it dies.

The mount outlives both. ``/dev/fuse``, the memory with the requests that are not answered yet, and
both ends of the socket between the two are the keeper's; so a death is a pause (invariants S1..S6
in ``native/front/src/shared.rs``, U1..U6 in `tierfs.control.upcalls`).

States of the whole are those of `tierfs.keeper.supervise`; with this front the arrows are::

    (mounted) --_launch--> STARTING: control plane --"ready": _launch_front--> STARTING: front
                                                                                     |
        .--- one of them dies: _replace_soon, _restart_control or _launch_front      | "ready"
        v                                                                            v
     SERVING <------------------------- _on_probe ------------------------------- ANSWERING

Invariants, beside K1..K9:

K10. Of each role at most one process lives: a successor starts when its predecessor has been
     reaped. A thread of a dying front can still take a request.
K11. A death by SIGKILL is made good at once, and counts for nothing: somebody, or the kernel for
     want of memory, ended the process. Before it was ready it counts for a tenth. Other deaths
     count, and too many of them end the mount, because the next one would die of the same.
K12. A spare control plane waits, with everything imported and nothing open, for the one that serves
     to die: to import it takes Python half a second, for which readers would wait. One that has
     not imported everything yet is further than one that would begin now. It is started `SPARE_S`
     after the first one is ready, or after its predecessor took over, and is not kept where memory
     is scarce (`SPARE_MEMORY_BYTES`).
"""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path

from tierfs.errors import MountError
from tierfs.keeper import handover, stored
from tierfs.keeper.channel import Channel
from tierfs.keeper.child import Child, parse_error
from tierfs.keeper.signals import hold_signals, let_signals
from tierfs.keeper.supervise import State, Supervisor
from tierfs.keeper.timing import Deaths

#: A spare is made when a start is over, which it would slow down; one that takes over needs less.
SPARE_S = 0.3
#: Where less is allowed for buffers, the 40 MB of a spare are too many.
SPARE_MEMORY_BYTES = 256 << 20
#: So many kills of a process that is not ready weigh as much as one crash (K11).
KILLS_FOR_A_CRASH = 10
#: What messages call a process.
ROLE_WORDS = {"control": "control plane", "front": "native front"}


class NativeSupervisor(Supervisor):
    """As `Supervisor`, with a front of its own. *front* is the program; *fuse_mask* names what the
    kernel is not to be asked for; *memory* is what the mount may use for buffers, in bytes;
    *channel* is an earlier keeper's, and *goes_on* says that its mount was served before."""

    def __init__(
        self,
        *args: object,
        front: Path,
        fuse_mask: str,
        memory: int,
        channel: Channel | None = None,
        goes_on: bool = False,
        **kwargs: object,
    ) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._keeps_spare = memory >= SPARE_MEMORY_BYTES
        self._spare: Child | None = None
        self._spare_go = -1
        self._front_program = front
        self._fuse_mask = fuse_mask
        self._front: Child | None = None
        self._ready: dict[str, bool] = {"control": False, "front": False}
        self._front_reason = ""
        self._resumes = False
        limit = self._timing.crash_limit * KILLS_FOR_A_CRASH
        self._kills = Deaths(dataclasses.replace(self._timing, crash_limit=limit))
        self._channel = channel or Channel.make()
        #: The mount was served before, by another keeper: its users are worth more than one try.
        self._answered = goes_on
        #: Processes that are to be replaced by those of another version.
        self._renewed: list[str] = []

    # The loop.

    def _children(self) -> list[Child]:
        children = (self._child, self._front, self._spare)
        return [child for child in children if child is not None]

    def _on_timer(self, name: str) -> None:
        if name == "front silence":
            limit = self._timing.watchdog_s if self._ready["front"] else self._timing.start_s
            self._abort_front(f"said nothing for {limit:g} s")
        elif name == "front kill" and self._front is not None:
            self._front.kill()
        elif name in ("restart control", "restart front"):
            self._restart(name)
        elif name == "spare":
            self._start_spare()
        elif name == "renew":
            self._renew()
        elif name == "silence" and self._state is State.SERVING:
            limit = self._timing.watchdog_s if self._ready["control"] else self._timing.start_s
            self._abort_control(f"said nothing for {limit:g} s")
        else:
            super()._on_timer(name)

    def _restart(self, name: str) -> None:
        try:
            if name == "restart control":
                self._restart_control()
            else:
                self._launch_front()
        except OSError as error:
            # Want of memory or processes: it counts as a death, so that there is an end to it.
            wait_s = self._deaths.record(time.monotonic())
            self._log.error(f"cannot {name}: {error}")
            if wait_s is None:
                self._give_up(MountError(f"cannot {name}", str(error), self._where))
            else:
                self._after(name, wait_s)

    def _abort_front(self, reason: str) -> None:
        self._front_reason = reason
        self._log.error(f"the front {reason}: killing it")
        if self._front is not None:
            # It may hang in the kernel, where only a kill is heard, if anything.
            self._front.kill()

    def _abort_control(self, reason: str) -> None:
        self._reason = reason
        self._log.error(f"the control plane {reason}: killing it")
        if self._child is not None:
            self._child.signal(signal.SIGABRT)
            self._after("kill", self._timing.abort_s)

    # Starting.

    def _launch(self) -> None:
        self._connected = True
        self._report = None
        if self._resumes:
            self._state = State.SERVING
            for timer in ("silence", "front silence"):
                self._after(timer, self._timing.watchdog_s)
            self._after("renew", 0)
            self._record()
            return
        stored.leave(self._notifier, self._mount, self._channel)
        self._state = State.STARTING
        self._start_control()
        self._after("pulse", self._timing.pulse_s)
        self._record()

    def _start_control(self) -> None:
        self._ready["control"] = False
        self._reason = ""
        if self._spare is not None:
            self._child, self._spare = self._spare, None
            self._tell_spare(b"go\n")
            self._after("spare", SPARE_S)
        else:
            self._child = Child.start(
                self._argv, config=self._config, descriptors=self._control_descriptors()
            )
        self._log.debug(f"control plane started (pid {self._child.pid})")
        self._after("silence", self._timing.start_s)

    def _control_descriptors(self) -> dict[str, int]:
        return {"--upcall-fd": self._channel.control_fd, "--shared-fd": self._channel.shared_fd}

    def _start_spare(self) -> None:
        """See K12."""
        if self._spare is not None:
            return
        if self._state is not State.SERVING:
            self._after("spare", SPARE_S)
            return
        wait_fd, self._spare_go = os.pipe()
        try:
            self._spare = Child.start(
                self._argv,
                config=self._config,
                descriptors={**self._control_descriptors(), "--standby-fd": wait_fd},
            )
        except OSError as error:
            self._log.warning(f"no spare control plane: {error}")
            os.close(self._spare_go)
            self._spare_go = -1
        finally:
            os.close(wait_fd)
        self._record()

    def _tell_spare(self, word: bytes) -> None:
        """Say what it waits for; nothing: it ends."""
        try:
            os.write(self._spare_go, word)
        except BrokenPipeError:
            pass  # It is dead already, which shows when it is reaped.
        finally:
            os.close(self._spare_go)
            self._spare_go = -1

    def _end_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            self._tell_spare(b"")
            spare.kill()
            spare.close()
            deadline = time.monotonic() + self._timing.abort_s
            while not spare.reap() and time.monotonic() < deadline:
                time.sleep(0.005)

    def _launch_front(self) -> None:
        self._ready["front"] = False
        self._front_reason = ""
        mountpoint = os.fsdecode(self._mount.spec.mountpoint)
        argv = [str(self._front_program), "--mountpoint", mountpoint]
        if self._fuse_mask:
            argv += ["--fuse-mask", self._fuse_mask]
        self._front = Child.start(
            argv,
            descriptors={
                "--fuse-fd": self._mount.fuse_fd,
                "--shared-fd": self._channel.shared_fd,
                "--upcall-fd": self._channel.front_fd,
            },
        )
        self._log.debug(f"front started (pid {self._front.pid})")
        self._after("front silence", self._timing.start_s)
        self._record()

    def _restart_control(self) -> None:
        if not self._mount.present:
            self._end("unmounted", 0)  # K7
            return
        self._start_control()
        self._record()

    def _on_child_line(self, child: Child, line: str) -> None:
        if child is self._front:
            self._on_front_line(line)
        elif child is not self._spare:
            self._on_control_line(line)

    def _on_control_line(self, line: str) -> None:
        error = parse_error(line)
        if error is not None:
            self._report = error
            return
        self._heard("silence", self._ready["control"] or line == "ready")
        if line == "ready" and not self._ready["control"]:
            self._ready["control"] = True
            if self._keeps_spare:
                self._after("spare", SPARE_S)
            if self._front is None and self._state is State.STARTING:
                self._launch_front()
            elif self._state is State.SERVING:
                self._log.info("the control plane is back")
                if self._renewed:
                    self._after("renew", 0)

    def _on_front_line(self, line: str) -> None:
        self._heard("front silence", self._ready["front"] or line == "ready")
        if line != "ready" or self._ready["front"]:
            return
        self._ready["front"] = True
        if self._state is State.STARTING:
            self._state = State.ANSWERING
            self._after("answer", self._timing.answer_s)
            self._probe_pid = self._mount.start_probe()

    # Dying.

    def _on_child_end(self, child: Child) -> None:
        if child is self._spare:
            self._on_spare_end(child)
            return
        role = "front" if child is self._front else "control"
        self._read_report(child)
        child.close()
        if role == "front":
            self._front = None
            for timer in ("front silence", "front kill"):
                self._timers.pop(timer, None)
        else:
            self._child = None
            for timer in ("silence", "kill"):
                self._timers.pop(timer, None)
        if self._state is State.STOPPING or not self._mount.present:
            self._on_end_of_serving(role)
        elif not self._connected:
            where = self._mount.spec.mountpoint
            self._give_up(MountError("the connection was aborted", where, "mount again"))
        elif role in self._renewed:
            self._renewed.remove(role)
            self._log.info(f"the {role} is replaced by that of the package that is installed now")
            self._on_timer(f"restart {role}")
        elif self._answered:
            self._replace_soon(role, child)
        else:
            words = ROLE_WORDS[role]
            reason = self._reason or self._front_reason or child.ending()
            error = MountError(f"the {words} failed to start", reason, self._where)
            self._give_up(self._report or error)

    def _on_spare_end(self, child: Child) -> None:
        """Nobody needed it; another one is made with the next control plane."""
        child.close()
        self._spare = None
        self._tell_spare(b"")
        self._log.debug(f"the spare control plane {child.ending()}")

    def _on_end_of_serving(self, role: str) -> None:
        """The mount is gone, or going. Both commit what they have, the front at the kernel's word,
        the control plane at ours."""
        if self._child is None and self._front is None:
            message = "stopped" if self._state is State.STOPPING else "unmounted"
            self._end(message, 0)
        elif role == "front":
            self._tell_to_end()
            self._after("kill", self._timing.end_s)
        else:
            # What was detached under its users goes on with nobody: they get an error.
            self._after("front kill", 0 if self._connected else self._timing.stop_s)

    def _replace_soon(self, role: str, child: Child) -> None:
        reason = (self._reason if role == "control" else self._front_reason) or child.ending()
        if self._report is not None and role == "control":
            reason = str(self._report)
            self._report = None
        killed = child.status == -signal.SIGKILL
        deaths = self._kills if killed else self._deaths
        wait_s = deaths.record(time.monotonic(), counts=not (killed and self._ready[role]))  # K11
        words = ROLE_WORDS[role]
        self._log.error(f"the {words} died: {reason}; a pause for those who wait for it")
        self._notifier.watchdog()
        if wait_s is None:
            timing = deaths.timing
            op = f"the {words} died {timing.crash_limit} times in {timing.crash_window_s:g} s"
            self._give_up(MountError(op, reason, f"unmounted; {self._where}, then mount again"))
        elif killed and self._ready[role]:
            self._on_timer(f"restart {role}")
        elif killed:
            self._after(f"restart {role}", self._timing.backoff_first_s)
        else:
            self._after(f"restart {role}", wait_s)
        self._record()

    def _on_disconnect(self) -> None:
        super()._on_disconnect()
        self._timers.pop("front silence", None)
        if self._front is not None:
            self._after("front kill", self._timing.stop_s)

    # Another version.

    def _reexec(self) -> None:
        """Become the keeper of the package that is installed now, if it would start."""
        if self._state is not State.SERVING or self._child is None or self._front is None:
            self._log.warning("not upgraded now: a process is being replaced; try again")
            return
        why = handover.check()
        if why:
            self._log.error(f"not upgraded: the installed package does not start: {why}")
            return
        self._end_spare()
        hold_signals()
        if self._pending_stop(self._signals):
            let_signals()
            self._stop("SIGTERM")
            return
        self._log.info("going on as the package that is installed now")
        try:
            handover.leave(self.state_to_resume(), keep=self._descriptors_to_keep())
        except OSError as error:
            let_signals()
            self._log.error(f"not upgraded: {error}")

    def state_to_resume(self) -> dict[str, object]:
        """What `tierfs.keeper.resume` needs to make another one of this."""
        assert self._child is not None
        assert self._front is not None
        return {
            "config": self._config.decode(),
            "mount": [self._mount.fuse_fd, self._mount.mount_id, self._mount.device],
            "runtime": [
                str(self._runtime.directory),
                self._runtime.lock_fd,
                str(self._runtime.log_file) if self._runtime.log_file else None,
            ],
            "channel": self._channel.descriptors,
            "control": [self._child.pid, self._child.report_fd],
            "front": [self._front.pid, self._front.report_fd],
            "notifier": [self._notifier.address, self._notifier.watchdog_s],
            "started_s": self._started_s,
            "deaths": self._death_count,
        }

    def _descriptors_to_keep(self) -> tuple[int, ...]:
        assert self._child is not None
        assert self._front is not None
        reports = (self._child.report_fd, self._front.report_fd)
        return (
            self._mount.fuse_fd,
            self._runtime.lock_fd,
            *self._channel.descriptors,
            *reports,
        )

    def resume(self, control: Child, front: Child, *, started_s: float, deaths: int) -> int:
        """As `run`, from where another program of this process left off: both processes are there,
        and are replaced, one after the other."""
        self._child, self._front = control, front
        self._ready = {"control": True, "front": True}
        self._started_s = started_s
        self._deaths.total = deaths
        self._answered = True
        self._resumes = True
        self._renewed = ["control", "front"]
        return self.run()

    def _renew(self) -> None:
        """Replace the next process: the control plane first, which may commit what it has."""
        if "control" in self._renewed and self._child is not None:
            if self._timing.flush_s:
                # The mount goes on, and with it what is on its way into the lake.
                self._child.signal(signal.SIGUSR1)
            self._child.signal(signal.SIGTERM)
            self._after("kill", self._timing.stop_s)
        elif "front" in self._renewed and self._front is not None:
            self._front.kill()

    # The end.

    def _finish(self, code: int) -> None:
        front, self._front = self._front, None
        if front is not None:
            front.kill()
            front.close()
            self._doomed_children.append(front)
        self._end_spare()
        stored.discard(self._notifier)
        super()._finish(code)
        for fd in self._channel.descriptors:
            os.close(fd)

    @property
    def _outlives_us(self) -> bool:
        """See `Supervisor._outlives_us`, and `tierfs.keeper.stored`."""
        return self._notifier.enabled

    @property
    def _death_count(self) -> int:
        """See `Supervisor._death_count`."""
        return self._deaths.total + self._kills.total

    @property
    def _pids(self) -> dict[str, int]:
        """See `Supervisor._pids`."""
        pids = {"control": self._child, "front": self._front, "spare": self._spare}
        return {role: child.pid for role, child in pids.items() if child is not None}
