"""What the control plane tells its keeper: one line at a time on a pipe.

=================  ==========================================================================
``ready``          the kernel has been answered: the mount can be used
``alive``          the event loop turns; sent at twice the watchdog's frequency
``error {json}``   why the control plane cannot serve: fields op, subject, hint; it exits then
``stopping``       a drain has begun
=================  ==========================================================================

A keeper that is gone closes the pipe; the control plane is killed with it (PDEATHSIG), so a failed
write is nobody's concern.
"""

from __future__ import annotations

import contextlib
import json
import os

from tierfs.errors import TierfsError, show


class Reporter:
    """The writing end of the report pipe."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_blocking(fd, False)

    def ready(self) -> None:
        self._line("ready")

    def alive(self) -> None:
        self._line("alive")

    def stopping(self) -> None:
        self._line("stopping")

    def error(self, error: TierfsError) -> None:
        """The one line that the person who mounts will read."""
        fields = {
            "kind": type(error).__name__,
            "op": error.op,
            "subject": show(error.subject),
            "hint": error.hint,
        }
        self._line("error " + json.dumps(fields))

    def _line(self, text: str) -> None:
        # Lines are shorter than PIPE_BUF, so each arrives whole or not at all. A full pipe means
        # that the keeper does not read: it will notice the missing ``alive`` by itself.
        with contextlib.suppress(OSError):
            os.write(self._fd, text.encode() + b"\n")
