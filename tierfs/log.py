"""Logging of the long-running processes: one line an event, to stderr, never a flood.

Format ``tierfs[MOUNT]: LEVEL: message``; under journald (``JOURNAL_STREAM`` names our stderr) each
line starts with its syslog priority, so that ``journalctl -p warning`` works. The keeper writes its
few lines in the same form without this module, because it imports nothing that can be spared.
"""

from __future__ import annotations

import logging
import os
import sys
import time

_PRIORITY = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


class _LineFormatter(logging.Formatter):
    def __init__(self, subject: str, journal: bool) -> None:
        super().__init__(f"tierfs[{subject}]: %(levelname)s: %(message)s")
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        record.levelname = record.levelname.lower()
        text = super().format(record)
        if not self._journal:
            return text
        priority = f"<{_PRIORITY.get(record.levelno, 6)}>"
        return "\n".join(priority + line for line in text.split("\n"))


class RateLimit(logging.Filter):
    """Lets *burst* lines of one call site through per *period_s*; the next that passes says how
    many did not.

    A lake that is down makes every read of every worker fail: the log must say so, once, and then
    count.
    """

    def __init__(self, burst: int = 10, period_s: float = 60.0) -> None:
        super().__init__()
        self._burst = burst
        self._period_s = period_s
        # (path, line) -> (window start, passed, suppressed); bounded by the number of call sites.
        self._sites: dict[tuple[str, int], tuple[float, int, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        site = (record.pathname, record.lineno)
        start, passed, suppressed = self._sites.get(site, (now, 0, 0))
        if now - start >= self._period_s:
            if suppressed:
                record.msg = f"{record.msg} [{suppressed} similar lines were left out]"
            start, passed, suppressed = now, 0, 0
        if passed >= self._burst:
            self._sites[site] = (start, passed, suppressed + 1)
            return False
        self._sites[site] = (start, passed + 1, suppressed)
        return True


def _stderr_is_journal() -> bool:
    stream = os.environ.get("JOURNAL_STREAM", "")
    try:
        stat = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return stream == f"{stat.st_dev}:{stat.st_ino}"


def set_up(subject: str, level: str) -> None:
    """Send ``tierfs``'s log lines of the mount *subject* to stderr, from *level* up.

    *level* is ``debug``, ``info``, ``warning`` or ``error``.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_LineFormatter(subject, _stderr_is_journal()))
    handler.addFilter(RateLimit())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("tierfs").setLevel(level.upper())
