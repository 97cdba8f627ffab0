"""What the policy itself costs: CPU for each read, memory for each object."""

from __future__ import annotations

import itertools
import random
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from bench.chapters import Grid
from bench.policy.simulator import Files, Simulator
from tierfs.cache.eviction import Victim
from tierfs.index.records import FIRST_INO
from tierfs.readahead.policy import AdaptivePolicy, Incoming, Read

#: The cache holds so much of the data set.
SHARE = 0.5
#: Reads before those that are timed, in objects, and at most so many that are.
WARM_UP, MOST_READS = 2, 1_000_000
ZIPF = 0.9

#: What is read, and by which job.
Reads = Iterator[tuple[int, int]]


@dataclass(frozen=True)
class Cost:
    """Means of the timed reads, of CPU time, without what the clock itself takes."""

    what: str
    rule: str
    accessed_us: float
    #: Of one call, and calls for each read.
    choose_us: float
    choices: float
    #: Both together, for each read.
    read_us: float
    #: What the policy holds in memory, for each object that was read.
    object_bytes: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class _Timed:
    """A policy and the CPU time that its calls took."""

    def __init__(self, policy: AdaptivePolicy) -> None:
        self._policy = policy
        self._clock_ns = _clock_ns()
        self.accesses = self.choices = 0
        self.accessed_ns = self.choose_ns = 0.0

    def accessed(self, ino: int, job: int = 0) -> Read:
        begin = time.thread_time_ns()
        read = self._policy.accessed(ino, job)
        self.accessed_ns += time.thread_time_ns() - begin - self._clock_ns
        self.accesses += 1
        return read

    def choose_victims(
        self,
        bytes_: int,
        most: int,
        in_use: Callable[[int], bool],
        incoming: Incoming | None = None,
    ) -> list[Victim] | None:
        begin = time.thread_time_ns()
        chosen = self._policy.choose_victims(bytes_, most, in_use, incoming)
        self.choose_ns += time.thread_time_ns() - begin - self._clock_ns
        self.choices += 1
        return chosen


def _clock_ns() -> float:
    """What two looks at the clock measure."""
    looks = [time.thread_time_ns() for _ in range(10_001)]
    return (looks[-1] - looks[0]) / 10_000


def measure(objects: int, seed: int) -> Iterator[Cost]:
    """Of each kind of reading."""
    inos = range(FIRST_INO, FIRST_INO + objects)
    for what, warm_up, reads in (
        ("a first epoch", 0, _orders(random.Random(seed), inos, 1)),
        ("permutations", WARM_UP, _orders(random.Random(seed), inos, 1)),
        ("two jobs, named", WARM_UP, _orders(random.Random(seed), inos, 2)),
        ("draws, Zipf 0.9", WARM_UP, _draws(random.Random(seed), inos)),
    ):
        yield _cost(what, reads, objects, warm_up, seed)


def grid(costs: list[Cost]) -> Grid:
    headers = (
        "reads",
        "rule",
        "accessed, us",
        "choose_victims, us",
        "calls/read",
        "all, us/read",
        "bytes/object",
    )
    rows = [
        (
            cost.what,
            cost.rule,
            f"{cost.accessed_us:.2f}",
            f"{cost.choose_us:.2f}",
            f"{cost.choices:.3f}",
            f"{cost.read_us:.2f}",
            f"{cost.object_bytes:.1f}",
        )
        for cost in costs
    ]
    return Grid(headers, tuple(rows))


def _cost(what: str, reads: Reads, objects: int, warm_up: int, seed: int) -> Cost:
    files = Files()
    policy = AdaptivePolicy(files, rng=random.Random(seed))
    node = Simulator(int(SHARE * objects), files, policy)
    for ino, job in itertools.islice(reads, warm_up * objects):
        node.read(ino, 1, job)
    node.policy = timed = _Timed(policy)
    for ino, job in itertools.islice(reads, min(objects, MOST_READS)):
        node.read(ino, 1, job)
    return Cost(
        what,
        str(policy.rule),
        timed.accessed_ns / timed.accesses / 1e3,
        timed.choose_ns / max(timed.choices, 1) / 1e3,
        timed.choices / timed.accesses,
        (timed.accessed_ns + timed.choose_ns) / timed.accesses / 1e3,
        _memory(policy, files) / policy.jobs.known,
    )


def _orders(rng: random.Random, inos: range, jobs: int) -> Reads:
    """*jobs*, in turns, each through one random order after the other."""
    orders = [list(inos) for _ in range(jobs)]
    while True:
        for order in orders:
            rng.shuffle(order)
        for together in zip(*orders, strict=True):
            for name, ino in enumerate(together, 1):
                yield ino, name


def _draws(rng: random.Random, inos: range) -> Reads:
    places = rng.sample(inos, len(inos))
    weights = list(itertools.accumulate(place**-ZIPF for place in range(1, len(inos) + 1)))
    while True:
        for ino in rng.choices(places, cum_weights=weights, k=4096):
            yield ino, 1


def _memory(policy: AdaptivePolicy, files: Files) -> int:
    """The bytes of everything that *policy* holds on to, but what it chooses from."""
    seen = {id(files)}
    left: list[object] = [policy]
    total = 0
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, type) or callable(one):
            continue
        seen.add(id(one))
        total += sys.getsizeof(one)
        if isinstance(one, dict):
            left += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set | frozenset | deque):
            left += one
        elif not isinstance(one, str | bytes | bytearray | array | int | float):
            left += getattr(one, "__dict__", {}).values()
            slots = getattr(type(one), "__slots__", ())
            left += [getattr(one, name) for name in slots if hasattr(one, name)]
    return total
