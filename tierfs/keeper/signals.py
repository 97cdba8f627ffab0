"""Signals as events of the keeper's loop (the self-pipe trick); none is lost before it runs."""

from __future__ import annotations

import os
import signal
from types import TracebackType
from typing import Any

_HELD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
_HANDLED = (*_HELD, signal.SIGCHLD)


def hold_signals() -> None:
    """Keep pending what asks a keeper for something.

    Between mount(2) and the keeper's handlers it would end the process and leave a dead mount.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)


def let_signals() -> None:
    """Deliver what `hold_signals` kept, and what comes."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)


class SignalPipe:
    """While entered, SIGTERM, SIGINT, SIGHUP, SIGUSR2 and SIGCHLD only make `fd` readable; see
    `arrived`."""

    def __enter__(self) -> SignalPipe:
        self.fd, self._write_fd = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write_fd, False)
        self._handlers: dict[int, Any] = {n: signal.signal(n, _note) for n in _HANDLED}
        # A full pipe wakes the loop as well, so a number that found no room is no loss.
        self._wakeup_fd = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        let_signals()
        return self

    def arrived(self) -> list[signal.Signals]:
        """The signals since the last call; does not wait."""
        try:
            return [signal.Signals(number) for number in os.read(self.fd, 4096)]
        except BlockingIOError:
            return []

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.set_wakeup_fd(self._wakeup_fd)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self.fd)
        os.close(self._write_fd)


def _note(_number: int, _frame: object) -> None:
    """A handler that does nothing: the number arrives through the pipe."""
