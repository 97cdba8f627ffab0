"""What the policy itself costs: CPU for each read, memory for each object."""

from __future__ import annotations

import itertools
import random
import sys
import time
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from bench.chapters import Grid
from bench.policy.simulator import MOST_VICTIMS, Files, Simulator
from tierfs.index.records import FIRST_INO
from tierfs.readahead.policy import AdaptivePolicy, Incoming

#: The cache holds so much of the data set.
SHARE = 0.5
#: Reads before those that are timed, in objects, and at most so many that are.
WARM_UP, MOST_READS = 2, 1_000_000
ZIPF = 0.9
#: Reads, and then what they missed, between two looks at the clock, which cost about as much.
BATCH = 64

#: What is read, and by which job.
Reads = Iterator[tuple[int, int]]


@dataclass(frozen=True)
class Cost:
    """Means of the timed reads, of CPU time."""

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
    accesses = choices = accessed_ns = choose_ns = 0
    while accesses < min(objects, MOST_READS):
        batch = list(itertools.islice(reads, BATCH))
        begin = time.thread_time_ns()
        for ino, job in batch:
            policy.accessed(ino, job)
        accessed_ns += time.thread_time_ns() - begin
        accesses += len(batch)
        missing = [ino for ino in dict.fromkeys(ino for ino, _ in batch) if ino not in files]
        if len(files) + len(missing) > node.capacity:
            begin = time.thread_time_ns()
            chosen = [policy.choose_victims(1, MOST_VICTIMS, _nobody, Incoming(n)) for n in missing]
            choose_ns += time.thread_time_ns() - begin
            choices += len(missing)
            for victim in {one.ino for victims in chosen for one in victims or []}:
                files.drop(victim)
            missing = [ino for ino, victims in zip(missing, chosen, strict=True) if victims]
        for ino in missing[: node.capacity - len(files)]:
            files.add(ino, 1)
    return Cost(
        what,
        str(policy.rule),
        accessed_ns / accesses / 1e3,
        choose_ns / max(choices, 1) / 1e3,
        choices / accesses,
        (accessed_ns + choose_ns) / accesses / 1e3,
        _memory(policy, files) / policy.jobs.known,
    )


def _nobody(_: int) -> bool:
    """What is in use: nothing."""
    return False


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
