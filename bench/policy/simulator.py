"""A node without bytes: the cache that an eviction policy fills and empties.

Objects come whole and leave whole. A read of one that is not there is a miss; it is kept if there
is room, or if the policy makes room for it, and otherwise it was served and no more.
"""

from __future__ import annotations

import random

from tierfs.index.records import CachedFile, Extent
from tierfs.readahead.policy import EvictionPolicy, Incoming

#: Victims in one go, as the fronts ask.
MOST_VICTIMS = 64


class Files:
    """What is cached: a `tierfs.readahead.policy.FileSource` whose samples are uniform. All of it
    takes the same time however many there are."""

    def __init__(self) -> None:
        self._held: list[tuple[int, CachedFile]] = []
        self._place: dict[int, int] = {}
        self._records: dict[int, CachedFile] = {}
        self.bytes = 0

    def __contains__(self, ino: int) -> bool:
        return ino in self._place

    def __len__(self) -> int:
        return len(self._held)

    def add(self, ino: int, size: int) -> None:
        self._place[ino] = len(self._held)
        self._held.append((ino, self._record(size)))
        self.bytes += size

    def drop(self, ino: int) -> None:
        place, last = self._place.pop(ino), self._held.pop()
        if last[0] == ino:
            self.bytes -= last[1].size
            return
        self.bytes -= self._held[place][1].size
        self._held[place] = last
        self._place[last[0]] = place

    def sample_files(self, rng: random.Random, n: int) -> list[tuple[int, CachedFile]]:
        held, draw = self._held, rng.random
        count = len(held)
        return [held[int(draw() * count)] for _ in range(n)] if held else []

    def file(self, ino: int) -> CachedFile | None:
        place = self._place.get(ino)
        return None if place is None else self._held[place][1]

    def first_extents(self, ino: int, bytes_: int, most: int) -> list[Extent]:
        raise AssertionError("no file is incomplete here")

    def totals(self) -> tuple[int, int]:
        return len(self._held), self.bytes

    def _record(self, size: int) -> CachedFile:
        """One for all objects of a size."""
        record = self._records.get(size)
        if record is None:
            record = CachedFile(bytes(16), size, size, True, False, bytes(8), size, 0, 0)
            self._records[size] = record
        return record


class Simulator:
    """*files* in a cache of *capacity* bytes, under *policy*, which looks at them."""

    def __init__(self, capacity: int, files: Files, policy: EvictionPolicy) -> None:
        self.capacity = capacity
        self.files = files
        self.policy = policy
        #: Of all that was ever kept.
        self.written_bytes = 0

    def read(self, ino: int, size: int, job: int = 0) -> bool:
        """Whether *ino*, of *size* bytes, is there when *job* asks for it."""
        self.policy.accessed(ino, job)
        if ino in self.files:
            return True
        self.keep(size, Incoming(ino))
        return False

    def keep(self, size: int, incoming: Incoming) -> bool:
        """*incoming*, which is not there, comes. Whether it is kept."""
        if not self._make_room(size, incoming):
            return False
        self.files.add(incoming.ino, size)
        self.written_bytes += size
        return True

    def _make_room(self, size: int, incoming: Incoming) -> bool:
        if size > self.capacity:
            return False
        while (missing := self.files.bytes + size - self.capacity) > 0:
            victims = self.policy.choose_victims(missing, MOST_VICTIMS, _nobody, incoming)
            if not victims:
                return False
            for victim in victims:
                self.files.drop(victim.ino)
        return True


def _nobody(_: int) -> bool:
    """What is in use: nothing."""
    return False
