"""What a trace costs in a cache of some size, under each policy."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.policy import rivals
from bench.policy.simulator import Files, Simulator
from bench.policy.traces import Trace
from tierfs.readahead.policy import AdaptivePolicy

TIERFS = "tierfs"
BELADY = "Belady"
#: In the order of the table.
SUBJECTS = [BELADY, *rivals.NAMES, TIERFS]
#: Reads between two looks at which rule is in charge, which is decided less often than that.
_LOOK = 512
_ALL = itertools.repeat(1)


@dataclass(frozen=True)
class Misses:
    """Of the measured part, for each read, and for each byte that was read."""

    reads: float
    bytes: float


@dataclass
class Row:
    """One trace with one seed, in a cache of *share* of its data set."""

    share: float
    #: Of each of `SUBJECTS` that could be measured.
    misses: dict[str, Misses] = field(default_factory=dict)
    #: What tierfs wrote to the cache, for each byte that was read.
    written: float = 0.0
    #: How often another rule took over during the measured part, and which one was the last.
    switches: int = 0
    rule: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(trace: Trace, share: float, seed: int) -> Row:
    """All of them. The *seed* is that of tierfs's samples."""
    row = Row(share)
    capacity = trace.capacity(share)
    if trace.sizes is None:
        row.misses[BELADY] = _misses(trace, rivals.belady(trace.reads, capacity))
    for name, cache in rivals.rivals(capacity).items():
        row.misses[name] = _misses(trace, bytearray(not hit for hit in trace.read_by(cache)))
    _measure_tierfs(trace, capacity, seed, row)
    return row


def _measure_tierfs(trace: Trace, capacity: int, seed: int, row: Row) -> None:
    files = Files()
    policy = AdaptivePolicy(files, rng=random.Random(seed))
    node = Simulator(capacity, files, policy)
    hits = trace.read_by(node)
    missed = bytearray(not hit for hit in itertools.islice(hits, trace.measured_from))
    written_before = node.written_bytes
    rule = policy.rule
    for some in _batches(hits, _LOOK):
        missed += bytearray(not hit for hit in some)
        row.switches += policy.rule is not rule
        rule = policy.rule
    row.misses[TIERFS] = _misses(trace, missed)
    row.written = (node.written_bytes - written_before) / _bytes(trace, _ALL)
    row.rule = str(rule)


def _misses(trace: Trace, missed: bytearray) -> Misses:
    counted = memoryview(missed)[trace.measured_from :]
    return Misses(sum(counted) / len(counted), _bytes(trace, missed) / _bytes(trace, _ALL))


def _bytes(trace: Trace, of: Iterable[int]) -> int:
    """Of the measured reads those that *of* says 1 of; it says something of each read."""
    sizes = itertools.islice(trace.read_sizes(), trace.measured_from, len(trace.reads))
    return sum(itertools.compress(sizes, itertools.islice(of, trace.measured_from, None)))


def _batches(hits: Iterator[bool], size: int) -> Iterator[list[bool]]:
    while batch := list(itertools.islice(hits, size)):
        yield batch
