"""How long the keeper waits for what, and how many deaths it takes before it gives up."""

from __future__ import annotations

import dataclasses
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tierfs.config import Config


@dataclass(frozen=True)
class Timing:
    """Deadlines in seconds.

    The service's TimeoutStopSec must exceed ``drain_s + end_s``, or the service manager take a
    notice of that (EXTEND_TIMEOUT_USEC); its WatchdogSec ``watchdog_s + abort_s``: a keeper that is
    replacing its control plane is well.
    """

    watchdog_s: float = 30.0
    """Silence of a serving control plane that counts as death; it reports every half of it."""
    start_s: float = 120.0
    """Silence of a starting one: it may have an index to rebuild before it is ready."""
    pulse_s: float = 2.0
    """Meanwhile the keeper tells the service manager this often that it watches over the start: a
    control plane that waits for the lake is silent for longer than WatchdogSec."""
    answer_s: float = 30.0
    """From ``ready`` to an answered statvfs(3) on the mount point."""
    drain_s: float = 10.0
    """From SIGTERM until a mount in use is detached under its users; until then it is served."""
    stop_s: float = 30.0
    """From the unmount, when the control plane gets SIGTERM, until it is killed."""
    flush_s: float = 0.0
    """How much longer that is, where it brings what was written into the lake first."""
    abort_s: float = 2.0
    """From SIGABRT (which lets it dump its stacks) to SIGKILL."""
    backoff_first_s: float = 0.1
    backoff_most_s: float = 10.0
    automount_s: float = 2.5
    """The least age at which a keeper leaves its mount to the automount. systemd gives an automount
    up, and shows the empty directory, when it mounts more than 5 times in 10 s."""
    crash_window_s: float = 60.0
    crash_limit: int = 5
    """This many deaths within the window end the keeper."""

    def of(self, config: Config) -> Timing:
        """These deadlines for a mount with *config*."""
        if config.write_back is None:
            return self
        return dataclasses.replace(self, flush_s=config.unmount_flush)

    @property
    def end_s(self) -> float:
        """From the unmount until the control plane is killed."""
        return self.flush_s + self.stop_s


class Deaths:
    """How often the control plane died lately, and how long to wait before the next start."""

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self._recent: deque[float] = deque()
        self.total = 0

    def record(self, now_s: float, *, counts: bool = True) -> float | None:
        """A death at *now_s*; seconds to wait, or None when it is time to give up. One that does
        not count is only added to the total."""
        timing = self.timing
        self.total += 1
        if not counts:
            return 0.0
        self._recent.append(now_s)
        while self._recent[0] <= now_s - timing.crash_window_s:
            self._recent.popleft()
        if len(self._recent) >= timing.crash_limit:
            return None
        wait_s: float = timing.backoff_first_s * 4.0 ** (len(self._recent) - 1)
        return min(wait_s, timing.backoff_most_s)
