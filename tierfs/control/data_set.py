"""What is fetched ahead of a job that reads a data set in an order that nobody has told.

Nothing is configured: a *data set* is the deepest directory under which nearly all of what a job
has read lately lies. In its first epoch everything that was never read is a candidate, later what
the last epoch has read and this one has not.

Which files come first does not matter where any may be next, so they are fetched in the order of
their directories, onward from what was read last: right, too, for who reads in that order.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from tierfs.errors import TierfsError, show
from tierfs.front.port import FrontPort
from tierfs.index.records import ROOT_INO
from tierfs.namespace import Namespace, Walk, WalkEntry
from tierfs.readahead.ahead import Account
from tierfs.readahead.course import Course
from tierfs.readahead.epochs import Class, Epochs
from tierfs.readahead.policy import AdaptivePolicy
from tierfs.readahead.processes import ANYBODY
from tierfs.readahead.rules import Rule

#: Fetching ahead of an epoch that will not read a file with this probability is a waste.
LEAST_CHANCE = 0.8
#: Where nearly everything is in the cache there is nothing to look for.
LEAST_MISSING = 0.005
_MISSING_WEIGHT = 1 / 64
#: A job that has not read for so long has stopped.
IDLE_S = 30.0
#: Names of a job that are told apart: its ranks, as long as it is not known that they are one.
MOST_COURSES = 16
#: Epochs that are remembered after their end.
PAST = 32
#: The directory of one in so many reads is noted, of the last so many of these.
_NOTE_EVERY = 4
_NOTED = 64
#: The part of them that lies in the data set.
_MOST = 0.9


@dataclass(slots=True)
class _Tally:
    """What is counted of one epoch: reads, those of which it was noted whether they missed, those
    that did, and since when."""

    account: Account
    reads: int = 0
    noted: int = 0
    missed: int = 0
    #: Opens and reads that waited for the lake, how long together, and for how many bytes.
    stalls: int = 0
    stalled_ns: int = 0
    demanded_bytes: int = 0
    began_s: float = field(default_factory=time.time)
    before: Account = field(init=False)

    def __post_init__(self) -> None:
        self.before = replace(self.account)

    @property
    def wasted(self) -> int:
        """Files fetched ahead that left unread."""
        return self.account.wasted - self.before.wasted

    def describe_stalls(self) -> dict[str, Any]:
        """What waited in it until now."""
        return {
            "stalls": self.stalls,
            "stalled_s": round(self.stalled_ns / 1e9, 1),
            "demanded_bytes": self.demanded_bytes,
        }

    def describe(self) -> dict[str, Any]:
        """The epoch, which is over."""
        now, before = self.account, self.before
        return {
            "began": round(self.began_s),
            "lasted_s": round(time.time() - self.began_s, 1),
            "reads": self.reads,
            "miss_share": round(self.missed / self.noted, 3) if self.noted else None,
            **self.describe_stalls(),
            "ahead_bytes": now.bytes - before.bytes,
            "ahead_used": now.used - before.used,
            "ahead_wasted": self.wasted,
        }


class DataSet:
    """What one job reads (a `tierfs.control.planner.Source`)."""

    def __init__(
        self,
        namespace: Namespace,
        front: FrontPort,
        policy: AdaptivePolicy,
        epochs: Epochs,
        number: int,
    ) -> None:
        self.number = number
        self._namespace = namespace
        self._front = front
        self._policy = policy
        self._epochs = epochs
        #: Of the names under which it reads, the last one to read last; of that one.
        self._courses: OrderedDict[int, Course] = OrderedDict({ANYBODY: Course()})
        self._course = self._courses[ANYBODY]
        self._name = ANYBODY
        #: What was fetched ahead for it.
        self._ahead = policy.ahead.of(number)
        #: The epochs that have ended, the last one last, and what is counted of this one.
        self._past: deque[dict[str, Any]] = deque(maxlen=PAST)
        self._tally = _Tally(self._ahead)
        self._directories: deque[int] = deque(maxlen=_NOTED)
        #: The share of the last noted files that were not in the cache.
        self._missing = 0.0
        #: The mean size of the last noted ones, in bytes.
        self._mean_bytes = 0.0
        self._last_ino = 0
        self._last_read_s = 0.0
        #: The directory of the data set; 0: not known yet.
        self._top = 0
        #: Of its files those that were not looked at yet in this epoch: the next ones, last first,
        #: and where the others are.
        self._page: list[WalkEntry] = []
        self._walks: list[Walk] = []
        #: And those for which there was no room that was worth it.
        self._again: list[WalkEntry] = []
        #: There are none.
        self._exhausted = False
        self._restart = True

    def accessed(self, ino: int, name: int, began: bool, ahead: bool) -> bool:
        """The job, called *name*, reads *ino*, with which an epoch *began*, and which had been
        fetched *ahead*. Whether it may be time to fetch more."""
        if name != self._name:
            self._take_turn(name)
        course = self._course
        course.read(ino, ahead)
        self._last_ino = ino
        self._tally.reads += 1
        if began:
            course.epoch_began(self._tally.wasted)
            self._past.append({**self._tally.describe(), "least_miss_share": self._bound()})
            self._tally = _Tally(self._ahead)
            self._restart = True
        if course.reads % _NOTE_EVERY:
            return False
        parent = self._namespace.parent(ino)
        if parent is not None:
            self._directories.append(parent)
        missing = not self._front.file_state(ino).cached_bytes
        self._missing += (missing - self._missing) * _MISSING_WEIGHT
        self._tally.noted += 1
        self._tally.missed += missing
        known = self._namespace.object_known(ino)
        if known is not None:
            weight = _MISSING_WEIGHT if self._mean_bytes else 1.0
            self._mean_bytes += (known[1] - self._mean_bytes) * weight
        self._last_read_s = trio.current_time()
        return True

    def stalled(self, waited_ns: int, bytes_: int) -> None:
        """An open or a read of the job's has waited for so many bytes from the lake."""
        self._tally.stalls += 1
        self._tally.stalled_ns += waited_ns
        self._tally.demanded_bytes += bytes_

    def _take_turn(self, name: int) -> None:
        """Another one reads. Who comes after a job that has ended may go on with it, or only look
        around: what the other has proved does not count for it."""
        self._name = name
        self._course = self._courses.setdefault(name, Course())
        self._courses.move_to_end(name)
        if len(self._courses) > MOST_COURSES:
            self._courses.popitem(last=False)

    def _bound(self) -> float | None:
        """The least share of the reads that can miss in a cache of this size, whoever chooses what
        is in it, if the order of reads is not known before: that of the job's data for which its
        share of the cache has no room. None before one epoch has ended."""
        bytes_ = self._epochs.read_before * self._mean_bytes
        if not bytes_:
            return None
        limit = self._front.limit_bytes
        if limit is None:
            return 0.0
        return round(max(0.0, 1 - limit * self._policy.jobs.share_of(self._epochs) / bytes_), 3)

    def describe(self) -> dict[str, Any]:
        """For `status`."""
        epochs = self._epochs
        try:
            data_set = show(self._namespace.path_of(self._top)) if self._top else ""
        except TierfsError:
            data_set = ""
        return {
            "data_set": data_set,
            "epoch": epochs.ended + 1,
            "progress_share": round(epochs.progress, 3),
            "read": epochs.read_now,
            "known": epochs.known,
            "read_again_share": round(epochs.share_of_due(), 3) if epochs.read_before else None,
            "miss_share": round(self._missing, 3),
            "least_miss_share": self._bound(),
            **self._tally.describe_stalls(),
            "in_order": self._course.in_order,
            "ahead_bytes": self._ahead.bytes,
            "ahead_files": self._ahead.files,
            "ahead_used": self._ahead.used,
            "ahead_wasted": self._ahead.wasted,
            "past_epochs": list(self._past),
        }

    # ---- what is fetched next ------------------------------------------------------------------

    def begin(self) -> bool:
        """Find the data set, the deepest directory that nearly all directories read from lie in;
        whether there is anything in it to look at."""
        counts: Counter[int] = Counter()
        depths: dict[int, int] = {}
        for directory, times in Counter(self._directories).items():
            above = [directory]
            while above[-1] != ROOT_INO:
                parent = self._namespace.parent(above[-1])
                if parent is None:
                    break  # It has lost its name.
                above.append(parent)
            for depth, ino in enumerate(reversed(above)):
                counts[ino] += times
                depths[ino] = depth
        needed = _MOST * len(self._directories)
        inside = [ino for ino, times in counts.items() if times >= needed]
        top = max(inside, key=depths.__getitem__, default=0)
        if top != self._top or self._restart:
            self._top, self._restart = top, False
            starts = (self._last_ino, 0) if top else ()
            self._walks = [self._namespace.walk_from(top, after) for after in starts]
            self._page, self._again, self._exhausted = [], [], not top
        return not self._exhausted

    def wanted_bytes(self) -> int:
        """How many bytes are to be fetched now."""
        course, epochs, ahead = self._course, self._epochs, self._ahead
        if course.paused or self._policy.rule is not Rule.EPOCHS:
            return 0
        if trio.current_time() - self._last_read_s > IDLE_S:
            return 0
        if epochs.read_before and (
            self._missing < LEAST_MISSING or epochs.chance(epochs.share_of_due()) < LEAST_CHANCE
        ):
            return 0
        mean = ahead.bytes // ahead.files if ahead.files else 0
        return course.allowed_bytes(mean) - ahead.waiting_bytes

    async def batch(self, files: int, bytes_: int) -> list[WalkEntry]:
        """The next at most *files*, of *bytes_* bytes or one more; none: there are no more in this
        epoch."""
        batch: list[WalkEntry] = []
        size = 0
        while len(batch) < files and size < bytes_:
            entry = await self._next_file()
            if entry is None:
                break
            if self._is_wanted(entry):
                batch.append(entry)
                size += entry.size
        self._exhausted = not batch
        return batch

    def put_back(self, files: list[WalkEntry]) -> None:
        """*files* were not worth what would have had to go. That may be worth less soon."""
        self._again += files
        self._exhausted = False

    def pause(self) -> None:
        """Fetch nothing for some reads."""
        self._course.pause()

    async def _next_file(self) -> WalkEntry | None:
        """The data set's next file: onward from what was read last, then from the beginning."""
        while not self._again and not self._page:
            if not self._walks:
                return None
            self._page = (await self._walks[0].page())[::-1]
            if not self._page:
                self._walks.pop(0)
        return self._again.pop() if self._again else self._page.pop()

    def _is_wanted(self, entry: WalkEntry) -> bool:
        wanted = Class.DUE if self._epochs.read_before else Class.NEVER
        # The first bet on a data set is not lost on one large file of it.
        fits = self._epochs.read_before > 0 or entry.size <= self._course.allowed_bytes(0)
        return (
            entry.size > 0
            and fits
            and self._epochs.class_of(entry.ino) is wanted
            and entry.ino not in self._policy.ahead
            and not self._front.file_state(entry.ino).cached_bytes
        )
