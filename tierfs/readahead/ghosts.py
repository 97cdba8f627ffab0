"""Which rule is best for what is being read: a small cache for each, of a sample of the objects.

An object is in the sample by its inode number, so of the sampled ones every read is seen. A ghost
holds as large a part of the sample as the cache does of all objects, keeps no bytes, and goes by
its rule as the cache would if that were in charge. The one that misses least is in charge; where
it hardly matters it is `Rule.EPOCHS`, which writes least to the NVMe.

Objects count as equally large here. Memory: some 150 bytes for each sampled object that a ghost
holds, and at most `MOST_HELD` of them.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Mapping

from tierfs.readahead.rules import MARGIN, Rule, Worth
from tierfs.readahead.vain import Vain

#: One of so many objects is in the sample.
SAMPLED = 32
MOST_HELD = 16384
#: Of what a ghost holds, so many are looked at for a victim: more than by the policy, which knows
#: without looking what all jobs have read.
_SAMPLES = 32
#: How much better a rule must be to take over, and how much the epochs rule may be worse; both are
#: at most such a part of what is missed.
_HYSTERESIS = 0.01
_BONUS = 0.01
_MOST_PART = 0.1
#: Sampled reads before the first decision, and between two.
_FIRST = 128
_BETWEEN = 32
#: Misses are averages of so many sampled reads at least, or of an epoch of all jobs: within one a
#: rule that keeps what comes last does well at its beginning, and then badly.
_LEAST_WINDOW = 256

_SPREAD = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


class _Ghost:
    """A cache without bytes, of equally large objects, which holds what is *worth* most."""

    __slots__ = ("held", "misses", "place", "vain", "worth")

    def __init__(self, worth: Worth) -> None:
        self.worth = worth
        self.held: list[int] = []
        self.place: dict[int, int] = {}
        self.vain = Vain()
        self.misses = 1.0

    def read(self, ino: int, capacity: int, rng: random.Random) -> bool:
        """Whether *ino* is held; if not, it is held from now on, if it is worth that."""
        if ino in self.place:
            return True
        while len(self.held) > capacity:
            self._drop(self.held[rng.randrange(len(self.held))])
        if len(self.held) == capacity:
            limit = self.worth(ino) / MARGIN
            if self.vain.again(limit):
                return False
            held = self.held
            drawn = [held[int(rng.random() * capacity)] for _ in range(_SAMPLES)]
            values = [*map(self.worth, drawn)]
            least = min(values)
            self.vain.note(least, limit)
            if least >= limit:
                return False
            victim = drawn[values.index(least)]
            self._drop(victim)
        self.place[ino] = len(self.held)
        self.held.append(ino)
        return False

    def _drop(self, ino: int) -> None:
        place, last = self.place.pop(ino), self.held.pop()
        if last != ino:
            self.held[place] = last
            self.place[last] = place


class _Recent:
    """The same of what was read last, which needs no samples."""

    __slots__ = ("held", "misses")

    def __init__(self) -> None:
        self.held: OrderedDict[int, None] = OrderedDict()
        self.misses = 1.0

    def read(self, ino: int, capacity: int, rng: random.Random) -> bool:
        """Whether *ino* is held; it is from now on."""
        held = ino in self.held
        self.held[ino] = None
        self.held.move_to_end(ino)
        while len(self.held) > capacity:
            self.held.popitem(last=False)
        return held


class Ghosts:
    """One for each rule of *worths*."""

    def __init__(self, worths: Mapping[Rule, Worth], rng: random.Random) -> None:
        self._ghosts = {
            rule: _Recent() if rule is Rule.LRU else _Ghost(worth) for rule, worth in worths.items()
        }
        self._rng = rng
        self._reads = 0
        #: The rule in charge.
        self.best = next(iter(worths))

    @property
    def misses(self) -> dict[Rule, float]:
        """Of each rule, which share of the last reads it would have missed."""
        return {rule: ghost.misses for rule, ghost in self._ghosts.items()}

    def watches(self, ino: int) -> bool:
        """Whether *ino* is in the sample, and there is anything to compare."""
        return len(self._ghosts) > 1 and ((ino * _SPREAD & _WORD) >> 32) % SAMPLED == 0

    def read(self, ino: int, cached: int, epoch: int) -> None:
        """*ino*, of the sample, was read, which is known to its rules; *cached* objects are in the
        cache, and some *epoch* reads are one of all jobs."""
        capacity = min(max(cached // SAMPLED, 1), MOST_HELD)
        self._reads += 1
        window = max(_LEAST_WINDOW, epoch // SAMPLED)
        weight = 1.0 / min(self._reads, window)
        for ghost in self._ghosts.values():
            missed = not ghost.read(ino, capacity, self._rng)
            ghost.misses += (missed - ghost.misses) * weight
        if self._reads >= _FIRST and self._reads % _BETWEEN == 0:
            self._decide()

    def _decide(self) -> None:
        most = _MOST_PART * self._ghosts[self.best].misses
        bonus = min(_BONUS, most)
        costs = {
            rule: ghost.misses - (bonus if rule is Rule.EPOCHS else 0.0)
            for rule, ghost in self._ghosts.items()
        }
        best = min(costs, key=costs.__getitem__)
        if costs[self.best] - costs[best] > min(_HYSTERESIS, most):
            self.best = best
