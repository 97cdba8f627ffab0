"""What is fetched ahead where the order of reads is known: what comes next in it, as far as
`ahead_bytes` go::

    position (of the plan)      cursor
       |<---- ahead_bytes ----->|
       |   cached, or on its    |  looked at when enough has been read
       |   way, or passed over  |  for a batch

The cursor only goes on, unless what it has passed found no room that was worth it; then it goes
back there, after a pause. How many bytes lie between the two is known from marks on the way.

Where nobody says how far, that is as far as room goes that is free or held by files without a known
read to come, and a little further. For that little, files go that are read later, and have to be
fetched again (Cao et al., SIGMETRICS 1995; Kimbrel et al., OSDI 1996: as late as does not stall).
With half of the cache, which was a fifth of the data set, 0.87 of that were fetched in an epoch
where 0.80 have to be; what went was the end of the epoch, and the link had to carry all of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import trio

from tierfs.errors import InvalidRequest
from tierfs.front.port import FrontPort
from tierfs.namespace import Namespace, WalkEntry
from tierfs.readahead.ahead import MOST_OWNERS
from tierfs.readahead.course import PAUSE_READS
from tierfs.readahead.plan import MOST_ENTRIES
from tierfs.readahead.policy import AdaptivePolicy

#: How far ahead to fetch, where nobody says so and the cache has no limit; else at most half of
#: that.
AHEAD_BYTES = 8 << 30
#: The part of it for which files go that are read later.
_DISPLACING_SHARE = 4
#: What the last look at a few files weighs.
_LOOK_WEIGHT = 1 / 8
#: Bytes, and the part of what is to be ahead, that are worth a batch.
_BATCH_BYTES = 4 << 20
_BATCH_SHARE = 16
#: Entries looked at in one go, some 10 us each.
_AT_ONCE = 64
#: There is a mark for each so-manieth part of what is fetched ahead.
_MARKS = 256


class Ordered:
    """The order that was told (a `tierfs.control.planner.Source`)."""

    def __init__(self, namespace: Namespace, front: FrontPort, policy: AdaptivePolicy) -> None:
        self._namespace = namespace
        self._front = front
        self._policy = policy
        self._plan = policy.plan
        self.number = MOST_OWNERS
        #: How many bytes from the position on are to be in the cache; None: what there is room
        #: for, see the module.
        self.ahead_bytes: int | None = None
        #: Names that were told and are no files.
        self._unknown = 0
        self._cursor = 0
        #: The bytes of all entries that the cursor has passed, and how many there were when it
        #: came to some positions.
        self._passed = 0
        self._marks: deque[tuple[int, int]] = deque()
        self._paused_until = 0
        #: How many bytes ahead it goes, when last asked.
        self._reach = 0
        #: Of what is cached, the share that is not known to be read again.
        self._spare = 0.0

    def told(self, inos: Sequence[int], unknown: int, *, append: bool) -> None:
        """See `tierfs.control.planner.Planner.order`."""
        plan = self._plan
        if not append:
            plan.clear()
            self._unknown = self._cursor = self._passed = self._paused_until = 0
            self._marks.clear()
            self._spare = 0.0
        if len(inos) > plan.room:
            raise InvalidRequest(
                "take in an order of reads",
                f"more than {MOST_ENTRIES:,} files",
                "append the rest when some of them have been read",
            )
        plan.append(inos)
        self._unknown += unknown

    def describe(self) -> dict[str, Any]:
        """What is known, and how it is followed."""
        plan = self._plan
        return {
            "entries": plan.entries,
            "position": plan.position,
            "hits": plan.hits,
            "unknown": self._unknown,
            "believed": plan.entries > 0 and plan.believed,
            "followed_share": round(plan.trust, 3) if plan.entries else None,
            "ahead_bytes": self._find_reach(),
        }

    # ---- what is fetched next ------------------------------------------------------------------

    def begin(self) -> bool:
        """Whether there is anything to look at, and enough of it."""
        if max(self._cursor, self._plan.position) >= self._plan.entries:
            return False
        self._look()
        return self.wanted_bytes() >= min(_BATCH_BYTES, self._reach // _BATCH_SHARE)

    def wanted_bytes(self) -> int:
        """How many bytes are to be looked at now."""
        if not self._plan.in_charge or self._policy.jobs.reads < self._paused_until:
            return 0
        self._reach = self._find_reach()
        return self._reach - self._ahead()

    async def batch(self, files: int, bytes_: int) -> list[WalkEntry]:
        """The next at most *files* that are to be fetched, of *bytes_* bytes or one more; none:
        there are no more for now."""
        self._look()
        batch: dict[int, WalkEntry] = {}
        size = 0
        while len(batch) < files and size < bytes_:
            end = self._passed + self.wanted_bytes()
            entries = self._plan.upcoming(self._cursor, _AT_ONCE)
            if not entries or self._passed >= end:
                break
            for at, ino in entries:
                entry = self._pass(at, ino)
                if entry is not None and ino not in batch and self._is_wanted(entry):
                    batch[ino] = entry
                    size += entry.size
                if len(batch) == files or size >= bytes_ or self._passed >= end:
                    break
            await trio.lowlevel.checkpoint()
        return list(batch.values())

    def put_back(self, files: list[WalkEntry]) -> None:
        """*files* were not worth what would have had to go. That is over when some are read."""
        uses = [use for use in (self._plan.next_use(file.ino) for file in files) if use is not None]
        first = min(uses, default=self._cursor)
        if first >= self._cursor:
            return
        self._cursor = first
        while self._marks:
            at, self._passed = self._marks.pop()
            if at <= first:
                self._cursor = at
                break

    def pause(self) -> None:
        """Want nothing for some reads."""
        self._paused_until = self._policy.jobs.reads + PAUSE_READS

    def _most_bytes(self) -> int:
        """As far as it ever goes."""
        if self.ahead_bytes is not None:
            return self.ahead_bytes
        limit = self._front.limit_bytes
        return AHEAD_BYTES if limit is None else limit // 2

    def _find_reach(self) -> int:
        """As far as it goes now."""
        most = self._most_bytes()
        limit = self._front.limit_bytes
        if self.ahead_bytes is not None or limit is None:
            return most
        cached = self._front.cached_bytes()
        room = limit - cached + int(self._spare * cached)
        return min(most, most // _DISPLACING_SHARE + max(0, room))

    def _look(self) -> None:
        """See what of the cache there is to spare."""
        self._spare += (self._policy.sample_spare() - self._spare) * _LOOK_WEIGHT

    def _ahead(self) -> int:
        """How many bytes lie between the position and the cursor: at most a mark's more."""
        position, marks = self._plan.position, self._marks
        if self._cursor <= position:
            self._cursor = position
            marks.clear()
            return 0
        while len(marks) > 1 and marks[1][0] <= position:
            marks.popleft()
        return self._passed - marks[0][1] if marks else 0

    def _pass(self, at: int, ino: int) -> WalkEntry | None:
        """The file that comes next, if it is one still. The cursor goes on."""
        if not self._marks or self._passed - self._marks[-1][1] >= self._most_bytes() // _MARKS:
            self._marks.append((at, self._passed))
        self._cursor = at + 1
        known = self._namespace.object_known(ino)
        if known is None:
            return None
        reference, size = known
        self._passed += size
        return WalkEntry(b"", ino, reference, size)

    def _is_wanted(self, entry: WalkEntry) -> bool:
        return (
            0 < entry.size <= self._most_bytes()
            and entry.ino not in self._policy.ahead
            and not self._front.file_state(entry.ino).cached_bytes
        )
