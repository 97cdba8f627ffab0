"""The keeper's log lines: ``tierfs[/mnt/lake]: warning: message`` on standard error.

Under systemd (``JOURNAL_STREAM`` names the very stream that standard error is) each line begins
with its syslog priority, ``<4>``, which journald takes off and stores.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from tierfs.errors import show

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3}
"""Level names of the configuration and their syslog priorities (syslog(3))."""


def is_journal(fd: int, environment: Mapping[str, str] | None = None) -> bool:
    """Whether *fd* is the stream to journald that ``JOURNAL_STREAM`` (``device:inode``) names."""
    environment = os.environ if environment is None else environment
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    if not (device.isdigit() and inode.isdigit()):
        return False
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (int(device), int(inode))


class Log:
    """Writes lines of at least one level to a file descriptor; never raises."""

    def __init__(self, subject: str | bytes, *, level: str = "info", fd: int = 2) -> None:
        self._subject = show(subject)
        self._least = PRIORITIES.get(level.lower(), PRIORITIES["info"])
        self._fd = fd
        self._journal = is_journal(fd)

    def write(self, level: str, message: str) -> None:
        """Write one line; characters that would break the line are escaped."""
        priority = PRIORITIES[level]
        if priority > self._least:
            return
        prefix = f"<{priority}>" if self._journal else ""
        line = f"{prefix}tierfs[{self._subject}]: {level}: {show(message)}\n"
        try:
            os.write(self._fd, line.encode("utf-8", "backslashreplace"))
        except OSError:
            return

    def debug(self, message: str) -> None:
        """A detail for whoever debugs the keeper."""
        self.write("debug", message)

    def info(self, message: str) -> None:
        """An ordinary event."""
        self.write("info", message)

    def warning(self, message: str) -> None:
        """Something went wrong and was dealt with."""
        self.write("warning", message)

    def error(self, message: str) -> None:
        """Something went wrong that a person must look at."""
        self.write("error", message)
