"""The planner: fetches ahead of jobs that read data sets, with what the lake and the link have to
spare.

::

    accessed() --> policy (epochs, worth) --> Course (how far ahead)
                                                |
                       _fill():  the data set's files, onward from where the job reads
                                    --> what is not cached and worth it, in batches
                                    --> FrontPort.fill, behind everything that anybody waits for
                                    --> not worth keeping: a pause

Nothing is configured: a *data set* is the deepest directory under which nearly all of what a job
has read lately lies. In its first epoch everything that was never read is a candidate, later what
the last epoch has read and this one has not. Whether a file displaces another one in a full cache
is the policy's decision, at the moment when there is no room (`AdaptivePolicy.choose_victims`).

Which files come first does not matter where any may be next, so they are fetched in the order of
their directories, onward from what was read last: right, too, for who reads in that order.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from typing import Any

import trio

from tierfs.errors import TierfsError, show
from tierfs.front.port import FrontPort
from tierfs.index.records import ROOT_INO
from tierfs.namespace import Namespace, Walk, WalkEntry
from tierfs.readahead.course import Course
from tierfs.readahead.epochs import Class, Epochs
from tierfs.readahead.policy import AdaptivePolicy
from tierfs.readahead.rules import Rule

log = logging.getLogger(__name__)

#: A batch is at most so many files and, unless it is one, bytes; so many are under way.
BATCH_FILES = 32
BATCH_BYTES = 16 << 20
WIDTH = 4
#: Fetching ahead of an epoch that will not read a file with this probability is a waste.
LEAST_CHANCE = 0.8
#: Where nearly everything is in the cache there is nothing to look for.
LEAST_MISSING = 0.005
_MISSING_WEIGHT = 1 / 64
#: A job that has not read for so long has stopped.
IDLE_S = 30.0
#: After an error of the lake.
RETRY_S = 5.0
#: The directory of one in so many reads is noted, of the last so many of these.
_NOTE_EVERY = 4
_NOTED = 64
#: The part of them that lies in the data set.
_MOST = 0.9


class _Reading:
    """One job, and what is fetched ahead of it."""

    def __init__(self, epochs: Epochs) -> None:
        self.epochs = epochs
        self.course = Course()
        self.directories: deque[int] = deque(maxlen=_NOTED)
        #: The share of the last noted files that were not in the cache.
        self.missing = 0.0
        self.last_ino = 0
        self.last_read_s = 0.0
        #: The directory of the data set; 0: not known yet.
        self.top = 0
        #: Of its files those that were not looked at yet in this epoch: the next ones, last first,
        #: and where the others are.
        self.page: list[WalkEntry] = []
        self.walks: list[Walk] = []
        #: And those for which there was no room that was worth it.
        self.again: list[WalkEntry] = []
        #: There are none.
        self.exhausted = False
        self.restart = True


class Planner:
    """See the module. `run` it beside a front; `accessed` is told of every access. At most
    *bytes_per_s* are fetched ahead (None: what is to spare; 0: nothing)."""

    def __init__(
        self,
        namespace: Namespace,
        front: FrontPort,
        policy: AdaptivePolicy,
        *,
        bytes_per_s: int | None = None,
    ) -> None:
        self._namespace = namespace
        self._front = front
        self._policy = policy
        self._bytes_per_s = bytes_per_s
        #: When the next batch may begin.
        self._next_s = -math.inf
        self._readings: dict[int, _Reading] = {}
        self._work = trio.Event()

    # ---- what is read --------------------------------------------------------------------------

    def accessed(self, ino: int, job: int) -> None:
        """*job* reads *ino*. A plain call of microseconds."""
        epochs, began, ahead = self._policy.accessed(ino, job)
        if epochs is None:
            return  # Somebody looks around.
        reading = self._readings.get(id(epochs))
        if reading is None:
            reading = self._readings[id(epochs)] = _Reading(epochs)
        course = reading.course
        course.read(ino, ahead)
        reading.last_ino = ino
        if began:
            course.epoch_began()
            reading.restart = True
        if course.reads % _NOTE_EVERY == 0:
            parent = self._namespace.parent(ino)
            if parent is not None:
                reading.directories.append(parent)
            missing = not self._front.file_state(ino).cached_bytes
            reading.missing += (missing - reading.missing) * _MISSING_WEIGHT
            reading.last_read_s = trio.current_time()
            self._work.set()

    def describe(self) -> dict[str, Any]:
        """For `status`: by which rule files are kept and what each rule would miss, what became of
        the files fetched ahead, and of each job what it reads."""
        policy, ahead = self._policy, self._policy.ahead
        return {
            "rule": policy.rule.value,
            **{f"{rule.value}_miss_share": round(policy.misses[rule], 3) for rule in policy.misses},
            "ahead_bytes": ahead.bytes,
            "ahead_files": ahead.files,
            "ahead_used": ahead.used,
            "ahead_wasted": ahead.wasted,
            "jobs": [self._describe(reading) for reading in self._readings.values()],
        }

    def _describe(self, reading: _Reading) -> dict[str, Any]:
        epochs = reading.epochs
        cached = int(self._front.stats()["cached_files"])
        try:
            data_set = show(self._namespace.path_of(reading.top)) if reading.top else ""
        except TierfsError:
            data_set = ""
        return {
            "data_set": data_set,
            "epoch": epochs.ended + 1,
            "progress_share": round(epochs.progress, 3),
            "read": epochs.read_now,
            "known": epochs.known,
            "read_again_share": round(epochs.share_of_due(), 3) if epochs.read_before else None,
            "miss_share": round(reading.missing, 3),
            # Of a cache of this size, in any order that is not known before.
            "least_miss_share": round(max(0.0, 1 - cached / epochs.read_before), 3)
            if epochs.read_before
            else None,
            "in_order": reading.course.in_order,
        }

    # ---- fetching ahead ------------------------------------------------------------------------

    async def run(self) -> None:
        """Fetch ahead until cancelled."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            for reading in list(self._readings.values()):
                try:
                    await self._fill(reading)
                except* TierfsError as group:
                    log.info("fetching ahead pauses for %g s: %s", RETRY_S, group.exceptions[0])
                    await trio.sleep(RETRY_S)
                except* Exception:
                    # Whoever reads does without it.
                    log.exception("fetching ahead pauses for %g s: unexpected error", IDLE_S)
                    await trio.sleep(IDLE_S)

    async def _fill(self, reading: _Reading) -> None:
        if self._wanted_bytes(reading) <= 0:
            return
        self._find_data_set(reading)
        if reading.exhausted:
            return
        slots = trio.Semaphore(WIDTH)
        async with trio.open_nursery() as nursery:
            while (room := self._wanted_bytes(reading)) > 0:
                batch = await self._batch(reading, room)
                if not batch:
                    break
                for entry in batch:
                    self._policy.ahead.sent_for(entry.ino, entry.size)
                await self._keep_pace(sum(entry.size for entry in batch))
                await slots.acquire()
                nursery.start_soon(self._fetch, reading, batch, slots)

    def _wanted_bytes(self, reading: _Reading) -> int:
        """How many bytes are to be fetched ahead of this job now."""
        course, epochs, ahead = reading.course, reading.epochs, self._policy.ahead
        if self._bytes_per_s == 0 or course.paused or self._policy.rule is not Rule.EPOCHS:
            return 0
        if trio.current_time() - reading.last_read_s > IDLE_S:
            return 0
        if epochs.read_before and (
            reading.missing < LEAST_MISSING or epochs.chance(epochs.share_of_due()) < LEAST_CHANCE
        ):
            return 0
        mean = ahead.bytes // ahead.files if ahead.files else 0
        return course.allowed_bytes(mean) - ahead.waiting_bytes

    async def _keep_pace(self, bytes_: int) -> None:
        """Wait until the limit allows *bytes_* more."""
        if self._bytes_per_s:
            begin_s = max(self._next_s, trio.current_time())
            self._next_s = begin_s + bytes_ / self._bytes_per_s
            await trio.sleep_until(begin_s)

    def _find_data_set(self, reading: _Reading) -> None:
        """The deepest directory that nearly all directories read from lie in."""
        counts: Counter[int] = Counter()
        depths: dict[int, int] = {}
        for directory, times in Counter(reading.directories).items():
            above = [directory]
            while above[-1] != ROOT_INO:
                parent = self._namespace.parent(above[-1])
                if parent is None:
                    break  # It has lost its name.
                above.append(parent)
            for depth, ino in enumerate(reversed(above)):
                counts[ino] += times
                depths[ino] = depth
        needed = _MOST * len(reading.directories)
        inside = [ino for ino, times in counts.items() if times >= needed]
        top = max(inside, key=depths.__getitem__, default=0)
        if top != reading.top or reading.restart:
            reading.top, reading.restart = top, False
            starts = (reading.last_ino, 0) if top else ()
            reading.walks = [self._namespace.walk_from(top, after) for after in starts]
            reading.page, reading.again, reading.exhausted = [], [], not top

    async def _batch(self, reading: _Reading, room: int) -> list[WalkEntry]:
        """The next files to fetch, of *room* bytes or one more; none: there are no more in this
        epoch."""
        batch: list[WalkEntry] = []
        size = 0
        while len(batch) < BATCH_FILES and size < min(room, BATCH_BYTES):
            entry = await self._next_file(reading)
            if entry is None:
                break
            if self._is_wanted(reading, entry):
                batch.append(entry)
                size += entry.size
        reading.exhausted = not batch
        return batch

    async def _next_file(self, reading: _Reading) -> WalkEntry | None:
        """The data set's next file: onward from what was read last, then from the beginning."""
        while not reading.again and not reading.page:
            if not reading.walks:
                return None
            reading.page = (await reading.walks[0].page())[::-1]
            if not reading.page:
                reading.walks.pop(0)
        return reading.again.pop() if reading.again else reading.page.pop()

    def _is_wanted(self, reading: _Reading, entry: WalkEntry) -> bool:
        wanted = Class.DUE if reading.epochs.read_before else Class.NEVER
        return (
            entry.size > 0
            and reading.epochs.class_of(entry.ino) is wanted
            and entry.ino not in self._policy.ahead
            and not self._front.file_state(entry.ino).cached_bytes
        )

    async def _fetch(
        self, reading: _Reading, batch: list[WalkEntry], slots: trio.Semaphore
    ) -> None:
        ahead = self._policy.ahead
        again = False
        try:
            files = [(entry.ino, entry.reference, entry.size) for entry in batch]
            again = await self._front.fill(files) > 0
        except TierfsError as error:
            log.debug("fetch ahead: %s", error)
        finally:
            slots.release()
            left = [e for e in batch if not self._front.file_state(e.ino).cached_bytes]
            for entry in left:
                ahead.not_kept(entry.ino, entry.size)
        if left:
            reading.course.pause()
        if again:
            reading.again += left  # What would have to go for them now may be worth less soon.
            reading.exhausted = False
