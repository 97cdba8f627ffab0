"""Whom to evict, and what is not worth evicting anybody for: the seam between the cache and whoever
understands the workload.

`EvictionPolicy` is all that a front asks; `AdaptivePolicy` answers. It goes by one of several rules
(`Rule`), each of which says what a file is worth; victims are the least of a random sample of what
is cached (8 make an LRU that is within a hundredth of the exact one's misses). A
file that is to come is kept only if it is worth more than what would go for it: otherwise it is
served and not kept, which is what makes shuffled epochs cheap. Under every rule a file that is read
now was just read, so by `Rule.EPOCHS` it is worth least of all until the epoch ends, and the cache
keeps what this epoch has not read yet.

Which rule is in charge is decided by small caches of a sample of the objects, one for each
(`tierfs.readahead.ghosts`). Where somebody has told the order of reads (`tierfs.readahead.plan`),
and reads go by it, that decides: what goes is what is read last or not at all, and what is to come
is kept if it is read sooner (Belady, IBM Systems Journal 5(2), 1966, with bypass).

A complete file leaves whole; of an incomplete one only as many extents as are needed, so that room
for 8 MiB does not cost the 300 GB of a shard that was read by half. They leave from its beginning:
when a block was fetched or read is not known, but whoever reads a file in order has passed the
beginning, and goes on where the rest of it lies.

The rules, the numbers behind them and what is possible at all: ``python -m bench policy``.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from tierfs.cache.eviction import Victim
from tierfs.index.records import CachedFile, Extent
from tierfs.readahead.ahead import Ahead
from tierfs.readahead.epochs import Epochs
from tierfs.readahead.ghosts import Ghosts
from tierfs.readahead.jobs import Jobs
from tierfs.readahead.plan import Plan
from tierfs.readahead.rules import (
    AHEAD_MARGIN,
    LEARNT,
    MARGIN,
    NEVER_READ,
    SHARED_AHEAD_MARGIN,
    WARM_DENSITY,
    Rule,
    Worth,
    planned,
    worths,
)
from tierfs.readahead.vain import Vain

#: Files to a sample, and samples to a search unless the first one has what is worth little enough:
#: what one job has left behind is rare soon after an epoch's beginning. What several have is not
#: looked for (`_choose_spent`), and one sample will do for the rest.
SAMPLES = 8
SEARCH_SAMPLES = 2
#: Samples without a single usable victim, after which everything is taken to be in use.
PATIENCE = 8
#: More than asked for goes in one go, to spare a commit for each small file: so many bytes, but at
#: most this part of what is cached. Not where several jobs read: whoever takes that room has not
#: shown to be worth what went for it (two jobs: 0.46 fetched in place of 0.37).
BATCH_BYTES = 8 << 20
BATCH_SHARE = 256
#: Files that are spent and are remembered, and that are looked at for one choice.
MOST_SPENT = 16384
LOOK_BACK = 64
#: Of these, that may not go now.
MOST_KEPT = 8


class FileSource(Protocol):
    """Where samples come from; `tierfs.index.cache.CacheIndex` is one."""

    def sample_files(self, rng: random.Random, n: int) -> list[tuple[int, CachedFile]]:
        """Up to *n* random files with their inode numbers; repetitions are possible."""

    def file(self, ino: int) -> CachedFile | None:
        """What is cached of *ino*, or None."""

    def first_extents(self, ino: int, bytes_: int, most: int) -> list[Extent]:
        """The first extents of a file that hold anything, until together they hold *bytes_* or
        there are *most*."""

    def totals(self) -> tuple[int, ...]:
        """How many files are in the cache, their bytes, and other sums of them."""


class Incoming(NamedTuple):
    """What room is wanted for. *ahead*: nobody waits for it yet. *warm_up*: nor for that, but
    somebody has asked for it."""

    ino: int
    ahead: bool = False
    warm_up: bool = False


class Read(NamedTuple):
    """What an access was: of which job (None: of none), whether an epoch of it began with that, and
    whether the file had been fetched ahead for it."""

    epochs: Epochs | None
    began: bool
    ahead: bool


class EvictionPolicy(Protocol):
    """Chooses what leaves the cache. Plain calls on the trio thread; none may block for long."""

    def accessed(self, ino: int, job: int = 0) -> Read:
        """An access of *ino* began: an open run of its file, by *job* (0: whoever it was)."""

    def choose_victims(
        self,
        bytes_: int,
        most: int,
        in_use: Callable[[int], bool],
        incoming: Incoming | None = None,
    ) -> list[Victim] | None:
        """Victims of together at least *bytes_* bytes whose eviction costs least, or less if there
        is no more: distinct files, whole or extents of them, together at most *most*. None for
        which *in_use* says true. They may be a few more than needed.

        With *incoming* only what is worth less than that, and None if there is nothing like that
        to be found: it is not to be kept. To a warm-up all is worth less but what warm-ups have
        asked for and nobody has read: they do not undo what they did.
        """


class AdaptivePolicy:
    """Goes by the rule that has shown itself to be best, of those of *rules* that are `LEARNT`; by
    the `plan` where there is one that reads go by."""

    def __init__(
        self,
        source: FileSource,
        *,
        rules: Sequence[Rule] = LEARNT,
        rng: random.Random | None = None,
        alive: Callable[[int], bool] = lambda job: True,
    ) -> None:
        self._source = source
        self._rng = rng or random.Random()
        self.jobs = Jobs(alive)
        #: Files fetched before they were asked for.
        self.ahead = Ahead()
        #: What is known of the reads to come.
        self.plan = Plan()
        self._worths = {rule: worths(self.jobs, rule) for rule in rules if rule in LEARNT}
        self._ghosts = Ghosts(self._worths, self._rng)
        #: The last answer but for what is rare, made once.
        self._usual = Read(None, False, False)
        self._vain = {rule: Vain() for rule in self._worths}
        self._worths[Rule.PLAN] = planned(self.plan, self.jobs)
        #: What was read lately and no job is still to read in its epoch, nor anybody by the plan,
        #: the longest ago first: the next to go, which a sample would hardly find while few are.
        self._spent: deque[int] = deque(maxlen=MOST_SPENT)

    @property
    def rule(self) -> Rule:
        """The one in charge."""
        return Rule.PLAN if self.plan.in_charge else self._ghosts.best

    @property
    def misses(self) -> dict[Rule, float]:
        """Of each rule, which share of the last reads it would have missed, as far as known."""
        return self._ghosts.misses

    def accessed(self, ino: int, job: int = 0) -> Read:
        epochs, began = self.jobs.read(ino, job)
        if began:
            # Nearly all of that is due again. Looked at one by one it would be in the way of the
            # first that are fetched ahead in this epoch.
            self._spent = deque(filter(self.jobs.is_spent, self._spent), MOST_SPENT)
        if self._ghosts.watches(ino):
            self._ghosts.read(ino, self._source.totals()[0], self.jobs.epoch_reads)
        if not self.jobs.several or self.plan.in_charge or self.jobs.is_spent(ino):
            self._spent.append(ino)
        if self.plan.entries:
            self.plan.accessed(ino)
        ahead = self.ahead.read(ino)
        if began or ahead or epochs is not self._usual.epochs:
            self._usual = Read(epochs, False, False)
            return Read(epochs, began, ahead)
        return self._usual

    def sample_spare(self) -> float:
        """Of a few cached files, the share that the plan knows no read of."""
        files = self._source.sample_files(self._rng, SAMPLES)
        spare = sum(self.plan.next_use(ino) is None for ino, _ in files)
        return spare / len(files) if files else 0.0

    def choose_victims(
        self,
        bytes_: int,
        most: int,
        in_use: Callable[[int], bool],
        incoming: Incoming | None = None,
    ) -> list[Victim] | None:
        if incoming is None or not incoming.warm_up:
            return self._choose(bytes_, most, in_use, incoming)
        is_warm = self.ahead.is_warm
        return self._choose(bytes_, most, lambda ino: in_use(ino) or is_warm(ino), None) or None

    def _choose(
        self,
        bytes_: int,
        most: int,
        in_use: Callable[[int], bool],
        incoming: Incoming | None,
    ) -> list[Victim] | None:
        rule = self.rule
        worth, limit = self._worths[rule], float("inf")
        if rule is Rule.EPOCHS and self.ahead.warm:
            worth = self._worth_when_warm
        if incoming is not None and rule is Rule.PLAN:
            limit = worth(incoming.ino)  # Known, not expected: there is nothing to be careful of.
        elif incoming is not None and rule is not Rule.LRU:
            limit = worth(incoming.ino) / self._margin(incoming)
        chosen: dict[int, Victim] = {}
        missing = bytes_
        if rule is not Rule.EPOCHS or not self.jobs.several:
            missing = max(missing, self._batch_bytes())
        if incoming is not None and self._is_due(rule, incoming):
            missing -= self._choose_spent(worth, missing, most, in_use, limit, chosen)
        vain = self._vain.get(rule)
        if not chosen and vain is not None and vain.again(limit):
            return None
        fruitless = 0
        while missing > 0 and len(chosen) < most and fruitless < PATIENCE:
            # What is known of the future is worth looking for.
            enough = float("-inf") if rule is Rule.PLAN else limit
            found = self._search(worth, enough, in_use, chosen)
            if found is None:
                fruitless += 1
                continue
            fruitless = 0
            value, ino, file = found
            if vain is not None:
                vain.note(value, limit)
            if value >= limit:
                if not chosen:
                    return None
                break
            if missing < file.present_bytes < file.size:
                extents = self._source.first_extents(ino, missing, most - len(chosen))
                chosen[ino] = Victim(ino, tuple(extents))
                break
            chosen[ino] = Victim(ino)
            # An empty record frees its file's own block; count it so that the loop ends.
            missing -= max(file.present_bytes, 1)
        for ino in chosen:
            self.ahead.evicted(ino)
        return list(chosen.values())

    def _batch_bytes(self) -> int:
        _, present_bytes, *_ = self._source.totals()
        return min(BATCH_BYTES, present_bytes // BATCH_SHARE)

    def _margin(self, incoming: Incoming) -> float:
        """How much more than its victim *incoming* has to be worth."""
        if not incoming.ahead:
            return MARGIN
        return SHARED_AHEAD_MARGIN if self.jobs.several else AHEAD_MARGIN

    def _worth_when_warm(self, ino: int) -> float:
        density = self.jobs.density(ino)
        return max(density, WARM_DENSITY) if self.ahead.is_warm(ino) else density

    def _search(
        self,
        worth: Worth,
        enough: float,
        in_use: Callable[[int], bool],
        chosen: dict[int, Victim],
    ) -> tuple[float, int, CachedFile] | None:
        """The worth of what is worth least of some files that may go, and it: of those of one
        sample, if one is worth less than *enough*. Of those that nobody has read since the start it
        is the one that was used longest ago by the index."""
        least: tuple[float, int, CachedFile] | None = None
        for _ in range(1 if self.jobs.several else SEARCH_SAMPLES):
            for ino, file in self._source.sample_files(self._rng, SAMPLES):
                value = worth(ino)
                if least is not None and value >= least[0]:
                    older = value <= NEVER_READ and file.last_used_s < least[2].last_used_s
                    if value > least[0] or not older:
                        continue
                if ino not in chosen and not in_use(ino):
                    least = (value, ino, file)
            if least is not None and least[0] < enough:
                break
        return least

    def _is_due(self, rule: Rule, incoming: Incoming) -> bool:
        """Whether *incoming* may be worth more than what is spent."""
        if rule is not Rule.EPOCHS:
            return rule is Rule.PLAN
        return incoming.ahead or (self.jobs.several and not self.jobs.is_spent(incoming.ino))

    def _is_spent(self, ino: int) -> bool:
        if self.plan.in_charge:
            return self.plan.next_use(ino) is None and not self.ahead.is_warm(ino)
        return self.jobs.is_spent(ino)

    def _choose_spent(
        self,
        worth: Worth,
        bytes_: int,
        most: int,
        in_use: Callable[[int], bool],
        limit: float,
        chosen: dict[int, Victim],
    ) -> int:
        """Choose whole files of those that are spent and worth less than *limit*; their bytes."""
        found = kept = 0
        for _ in range(min(len(self._spent), LOOK_BACK)):
            if found >= bytes_ or len(chosen) == most or kept == MOST_KEPT:
                break
            ino = self._spent.popleft()
            if ino in chosen or not self._is_spent(ino):
                continue
            file = self._source.file(ino)
            if file is None or file.present_bytes < file.size:
                continue
            if worth(ino) < limit and not in_use(ino):
                chosen[ino] = Victim(ino)
                found += max(file.present_bytes, 1)
            else:
                # Later, or for something that is worth more.
                self._spent.append(ino)
                kept += 1
        return found
