"""How a checkpoint came into the lake: when it was written, sent and durable, for each root;
whether something waits too long; how fast uploads go.

Pure: no lake, no disk, no loop; what time it is comes from a clock that is passed in. All of it is
in memory and small. After a restart an episode goes on with what the log has, whose entries know
when they were acknowledged: only the first write is then taken to be the first close.

Invariants:

E1. An episode of a root begins with the first change of it that arrives while there is none, and
    ends once: when everything of the root is in the lake, and it was quiet for `QUIET_S`.
E2. What is said of an episode is never negative: a clock that was set back shows as zeros.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from tierfs.writeback.records import Entry, Op

#: A root is idle when nothing of it has arrived for so long: shards are written one after another.
QUIET_S = 2.0
#: A file that is being written keeps an episode open, but not for longer than that: the log of a
#: run is open until its end.
WRITERS_S = 60.0
#: Files whose first write is remembered until they are in the lake.
REMEMBERED = 16_384
#: The rate of uploads is that of the last seconds.
RATE_WINDOW_S = 10.0


@dataclass
class Episode:
    """What came into the lake of one root between two times at which nothing was under way. Times
    are wall-clock nanoseconds. *changes* counts all, *files* and *size_bytes* those with
    content; *last_lsn* and *last_path* are those of what arrived last, which in a checkpoint is its
    marker.
    """

    root: bytes
    first_write_ns: int = 0
    last_close_ns: int = 0
    upload_start_ns: int = 0
    durable_ns: int = 0
    changes: int = 0
    files: int = 0
    size_bytes: int = 0
    last_lsn: int = 0
    last_path: bytes = b""

    @property
    def seconds(self) -> dict[str, float]:
        """Last close, upload start and durable, in seconds after the first write (E2)."""
        times = {
            "last_close": self.last_close_ns,
            "upload_start": self.upload_start_ns,
            "durable": self.durable_ns,
        }
        return {name: max(at - self.first_write_ns, 0) / 1e9 for name, at in times.items()}


class Episodes:
    """The episodes of one mount, by root. *now_ns* is wall-clock time."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._open: dict[bytes, Episode] = {}
        self._started_ns: dict[bytes, int] = {}
        #: When files that are not in the lake yet were first written to, by inode.
        self._first_ns: OrderedDict[int, int] = OrderedDict()

    @property
    def roots(self) -> list[bytes]:
        """Those of which something has arrived that was not told yet."""
        return list(self._open)

    def committed(self, ino: int, first_write_ns: int) -> None:
        """A file was closed that was first written to at *first_write_ns*."""
        self._first_ns.setdefault(ino, first_write_ns)
        if len(self._first_ns) > REMEMBERED:
            self._first_ns.popitem(last=False)

    def began(self, root: bytes) -> None:
        """A request to the lake for an entry of *root* is about to be sent."""
        self._started_ns.setdefault(root, self._now_ns())

    def published(self, root: bytes, lsn: int, entry: Entry) -> None:
        """The lake shows *entry*."""
        now_ns = self._now_ns()
        started_ns = self._started_ns.get(root, now_ns)
        first_ns = min(entry.begun_ns, self._first_ns.pop(entry.ino, entry.begun_ns))
        episode = self._open.get(root)
        if episode is None:
            episode = self._open[root] = Episode(root, first_ns, entry.begun_ns, started_ns)
        episode.first_write_ns = min(episode.first_write_ns, first_ns)
        episode.last_close_ns = max(episode.last_close_ns, entry.begun_ns)
        episode.durable_ns = now_ns
        episode.changes += 1
        if entry.op is Op.PUT:
            episode.files += 1
            episode.size_bytes += entry.size
        episode.last_lsn, episode.last_path = lsn, entry.path

    def end(self, root: bytes, *, writing: bool, at_once: bool = False) -> Episode | None:
        """The episode of *root*, of which everything is in the lake, if it is over (E1). *writing*:
        a file of it is being written; *at_once*: the mount ends."""
        episode = self._open.get(root)
        if episode is None:
            return None
        # However the clock was set meanwhile.
        idle_s = abs(self._now_ns() - episode.durable_ns) / 1e9
        if not at_once and idle_s < (WRITERS_S if writing else QUIET_S):
            return None
        self._started_ns.pop(root, None)
        return self._open.pop(root)


class Waiting(NamedTuple):
    """The change of a root that has waited longest for the lake: where, and since when (wall-clock
    nanoseconds)."""

    path: bytes
    since_ns: int


class Lateness:
    """Which roots have waited for longer than *most_s* seconds."""

    def __init__(self, most_s: float) -> None:
        self.most_s = most_s
        self._late: set[bytes] = set()

    def is_late(self, root: bytes) -> bool:
        """Whether *root* was late when it was looked at last."""
        return root in self._late

    def look(self, root: bytes, oldest: Waiting | None, now_ns: int) -> bool | None:
        """*oldest* waits of *root*, or nothing does. True: it is late from now on; False: it is no
        longer; None: nothing has changed about that."""
        late = oldest is not None and (now_ns - oldest.since_ns) / 1e9 > self.most_s
        if late == (root in self._late):
            return None
        if late:
            self._late.add(root)
        else:
            self._late.discard(root)
        return late


class Rate:
    """Bytes per second over the last `RATE_WINDOW_S`."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def sample(self, now_s: float, total_bytes: int) -> None:
        """*total_bytes* have been sent by *now_s*, which is monotonic."""
        self._samples.append((now_s, total_bytes))
        while len(self._samples) > 2 and self._samples[1][0] <= now_s - RATE_WINDOW_S:
            self._samples.popleft()

    @property
    def bytes_per_s(self) -> float:
        """The rate; 0 where nothing is known yet."""
        if len(self._samples) < 2:
            return 0.0
        (since_s, before), (now_s, total) = self._samples[0], self._samples[-1]
        return (total - before) / (now_s - since_s) if now_s > since_s else 0.0
