"""The rules by which files are kept, as what each says a file is worth.

=========  ======================================  ====================================
rule       a file is worth                         is best for
=========  ======================================  ====================================
epochs     the reads to be expected of it while    training: it keeps what this epoch
           it is kept (`Epochs.density`)           has not read yet
frequency  how often it was read                   weighted sampling, indices
lru        how recently it was read                several jobs that follow each other
plan       how soon it is read, as was told        an order that is known (`Plan`)
=========  ======================================  ====================================

Frequency with admission is TinyLFU (Einziger, Friedman and Manes, ACM ToS 13(4), 2017).

The first three are learnt from what is read, and compared; the fourth is in charge while there is a
plan and reads go by it.

Where several jobs read, a file is worth to the node what it is to each job, in the measure of the
reads that are that job's.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from tierfs.readahead.epochs import NEVER
from tierfs.readahead.jobs import Jobs
from tierfs.readahead.plan import Plan

#: How much more than its victim a file must be worth to be kept, if it is asked for, and if not.
MARGIN = 1.05
AHEAD_MARGIN = 1.5
#: And where several jobs read. What is fetched ahead of one is fetched for a read that would have
#: fetched it anyway, and what goes for it is fetched again for another job's: with 1.5 two jobs in
#: a cache of half their data fetch 0.47 of what they read, with 5 the 0.37 that they do without
#: any fetching ahead, and stall on 0.32.
SHARED_AHEAD_MARGIN = 5.0
#: What a file is worth at least, in reads for each epoch, that a warm-up asked for: one read, soon.
WARM_DENSITY = 1.0
#: What a file is worth to the LRU rule that nobody has read since the start: less than any other.
NEVER_READ = -float(NEVER)


class Rule(enum.StrEnum):
    """Which one is in charge."""

    EPOCHS = "epochs"
    FREQUENCY = "frequency"
    LRU = "lru"
    PLAN = "plan"


#: Those that need no plan.
LEARNT = (Rule.EPOCHS, Rule.FREQUENCY, Rule.LRU)

#: What an inode number is worth.
Worth = Callable[[int], float]


def worths(jobs: Jobs, rule: Rule) -> Worth:
    """What *rule*, one of the `LEARNT`, says, of what *jobs* have read."""
    if rule is Rule.EPOCHS:
        return jobs.density
    if rule is Rule.FREQUENCY:
        return jobs.count
    return _by_recency(jobs)


def planned(plan: Plan, jobs: Jobs) -> Worth:
    """What `Rule.PLAN` says: the sooner a file is read the more it is worth, exactly, and any that
    the plan knows a read of is worth more than all others. These are worth what LRU says."""
    recency = _by_recency(jobs)

    def worth(ino: int) -> float:
        use = plan.next_use(ino)
        return recency(ino) if use is None else 1.0 / (1 + max(0, use - plan.position))

    return worth


def _by_recency(jobs: Jobs) -> Worth:
    return lambda ino: -jobs.age(ino)
