"""The keeper's loop for a native front: two processes on one mount, each replaced when it dies.

The mount outlives both. ``/dev/fuse``, the memory with the requests that are not answered yet, and
both ends of the socket between the two are the keeper's; so a death is a pause (invariants S1..S6
in ``native/front/src/shared.rs``, U1..U5 in `tierfs.control.upcalls`).

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
"""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import time
from pathlib import Path

from tierfs.errors import MountError
from tierfs.keeper.child import Child, parse_error
from tierfs.keeper.supervise import State, Supervisor
from tierfs.keeper.timing import Deaths

#: Bytes that either end of the upcall socket may have queued: some thousands of messages.
SOCKET_BYTES = 4 << 20


#: So many kills of a process that is not ready weigh as much as one crash (K11).
KILLS_FOR_A_CRASH = 10


class NativeSupervisor(Supervisor):
    """As `Supervisor`, with a front of its own. *front* is the program; *fuse_mask* names what the
    kernel is not to be asked for."""

    def __init__(self, *args: object, front: Path, fuse_mask: str, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._front_program = front
        self._fuse_mask = fuse_mask
        self._front: Child | None = None
        self._ready: dict[str, bool] = {"control": False, "front": False}
        self._front_reason = ""
        limit = self._timing.crash_limit * KILLS_FOR_A_CRASH
        self._kills = Deaths(dataclasses.replace(self._timing, crash_limit=limit))
        self._shared_fd = os.memfd_create("tierfs-front", os.MFD_CLOEXEC)
        ours, theirs = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC
        )
        for end in (ours, theirs):
            for force, plain in (
                (_SO_SNDBUFFORCE, socket.SO_SNDBUF),
                (_SO_RCVBUFFORCE, socket.SO_RCVBUF),
            ):
                try:
                    end.setsockopt(socket.SOL_SOCKET, force, SOCKET_BYTES)
                except PermissionError:
                    end.setsockopt(socket.SOL_SOCKET, plain, SOCKET_BYTES)
        self._control_end, self._front_end = ours.detach(), theirs.detach()

    # The loop.

    def _children(self) -> list[Child]:
        return [child for child in (self._child, self._front) if child is not None]

    def _on_timer(self, name: str) -> None:
        if name == "front silence":
            limit = self._timing.watchdog_s if self._ready["front"] else self._timing.start_s
            self._abort_front(f"said nothing for {limit:g} s")
        elif name == "front kill" and self._front is not None:
            self._front.kill()
        elif name == "restart control":
            self._restart_control()
        elif name == "restart front":
            self._launch_front()
        elif name == "silence" and self._state is State.SERVING:
            limit = self._timing.watchdog_s if self._ready["control"] else self._timing.start_s
            self._abort_control(f"said nothing for {limit:g} s")
        else:
            super()._on_timer(name)

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
        self._state = State.STARTING
        self._connected = True
        self._report = None
        self._start_control()
        self._after("pulse", self._timing.pulse_s)
        self._record()

    def _start_control(self) -> None:
        self._ready["control"] = False
        self._reason = ""
        self._child = Child.start(
            self._argv,
            config=self._config,
            descriptors={"--upcall-fd": self._control_end, "--shared-fd": self._shared_fd},
        )
        self._log.debug(f"control plane started (pid {self._child.pid})")
        self._after("silence", self._timing.start_s)

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
                "--shared-fd": self._shared_fd,
                "--upcall-fd": self._front_end,
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
        else:
            self._on_control_line(line)

    def _on_control_line(self, line: str) -> None:
        error = parse_error(line)
        if error is not None:
            self._report = error
            return
        self._heard("silence", self._ready["control"] or line == "ready")
        if line == "ready" and not self._ready["control"]:
            self._ready["control"] = True
            if self._front is None and self._state is State.STARTING:
                self._launch_front()
            elif self._state is State.SERVING:
                self._log.info("the control plane is back")

    def _on_front_line(self, line: str) -> None:
        self._heard("front silence", self._ready["front"] or line == "ready")
        if line != "ready" or self._ready["front"]:
            return
        self._ready["front"] = True
        if self._state is State.STARTING:
            self._state = State.ANSWERING
            self._after("answer", self._timing.answer_s)
            self._probe_pid = self._mount.start_probe()

    def _heard(self, timer: str, ready: bool) -> None:
        if self._state in (State.STARTING, State.ANSWERING, State.SERVING):
            self._after(timer, self._timing.watchdog_s if ready else self._timing.start_s)
        self._notifier.watchdog()
        if self._state is State.SERVING:
            self._runtime.bound_log()

    # Dying.

    def _on_child_end(self, child: Child) -> None:
        role = "front" if child is self._front else "control"
        self._read_report(child)
        child.close()
        if role == "front":
            self._front = None
            self._timers.pop("front silence", None)
        else:
            self._child = None
            self._timers.pop("silence", None)
        if self._state is State.STOPPING or not self._mount.present:
            self._on_end_of_serving(role)
        elif self._answered:
            self._replace_soon(role, child)
        else:
            words = "control plane" if role == "control" else "native front"
            reason = self._reason or self._front_reason or child.ending()
            error = MountError(f"the {words} failed to start", reason, self._where)
            self._give_up(self._report or error)

    def _on_end_of_serving(self, role: str) -> None:
        """The mount is gone, or going: the control plane, which commits what it has, is last."""
        if self._child is None:
            message = "stopped" if self._state is State.STOPPING else "unmounted"
            self._end(message, 0)
        elif role == "front":
            self._child.signal(signal.SIGTERM)
            self._after("kill", self._timing.stop_s)

    def _replace_soon(self, role: str, child: Child) -> None:
        reason = (self._reason if role == "control" else self._front_reason) or child.ending()
        if self._report is not None and role == "control":
            reason = str(self._report)
            self._report = None
        killed = child.status == -signal.SIGKILL
        deaths = self._kills if killed else self._deaths
        wait_s = deaths.record(time.monotonic(), counts=not (killed and self._ready[role]))  # K11
        words = "control plane" if role == "control" else "native front"
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

    # The end.

    def _finish(self, code: int) -> None:
        front, self._front = self._front, None
        if front is not None:
            front.kill()
            front.close()
            self._doomed_children.append(front)
        super()._finish(code)
        for fd in (self._shared_fd, self._control_end, self._front_end):
            os.close(fd)

    @property
    def _death_count(self) -> int:
        """See `Supervisor._death_count`."""
        return self._deaths.total + self._kills.total

    @property
    def _pids(self) -> dict[str, int]:
        """See `Supervisor._pids`."""
        pids = {"control": self._child, "front": self._front}
        return {role: child.pid for role, child in pids.items() if child is not None}


# <asm-generic/socket.h>
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
