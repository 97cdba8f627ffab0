"""The traces that a run tries, by name, and what to hold a policy against on each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from bench.policy import traces
from bench.policy.traces import Trace

#: Caches of so large a part of the data set are tried.
SHARES = (0.2, 0.5, 0.8)


@dataclass(frozen=True)
class Kind:
    """One of them, with how many objects and with which seed it pleases."""

    what: str
    make: Callable[[int, int], Trace]
    #: Misses for each read at each of `SHARES` that were reached on it by a prototype of the same
    #: rules, with exact lists in place of samples (64,000 objects, one seed).
    aim: tuple[float, float, float]


def _nameless(make: Callable[[int, int], Trace]) -> Callable[[int, int], Trace]:
    return lambda objects, seed: replace(make(objects, seed), jobs=None)


#: What nobody can beat who does not know the order (1 - c).
_BEST = (0.80, 0.50, 0.20)
_same = partial(traces.four_jobs, same=True)
_own = partial(traces.four_jobs, same=False)

KINDS = {
    "permutations": Kind("each epoch in a new random order", traces.permutations, _BEST),
    "static": Kind("the same, of a share that is the node's for good", traces.static, _BEST),
    "shards": Kind("tar files in random order, each in sequence", traces.shards, _BEST),
    "1-of-2-ranks": Kind("each epoch a fresh random half", partial(traces.ranks, 1, 2), _BEST),
    "1-of-8-ranks": Kind("each epoch a fresh eighth", partial(traces.ranks, 1, 8), _BEST),
    "1-of-64-ranks": Kind("each epoch a fresh 64th", partial(traces.ranks, 1, 64), _BEST),
    "8-of-16-ranks": Kind("what eight local ranks read", partial(traces.ranks, 8, 16), _BEST),
    "zipf-0.9": Kind("weighted draws, Zipf 0.9", partial(traces.zipf, 0.9), (0.251, 0.126, 0.044)),
    "zipf-1.1": Kind("weighted draws, Zipf 1.1", partial(traces.zipf, 1.1), (0.097, 0.048, 0.031)),
    "grow": Kind("a curriculum that grows from 30 %", traces.grow, (0.825, 0.563, 0.313)),
    "drift": Kind("a curriculum, a tenth new each epoch", traces.drift, (0.855, 0.605, 0.358)),
    "two-jobs": Kind("two jobs, one at 0.6 of the speed", _nameless(traces.two_jobs), _BEST),
    "two-jobs-named": Kind("the same, told apart", traces.two_jobs, (0.666, 0.366, 0.137)),
    "same-order": Kind(
        "four jobs in one order, 0.5 % apart", _nameless(_same), (0.244, 0.208, 0.133)
    ),
    "same-order-named": Kind("the same, told apart", _same, (0.212, 0.131, 0.051)),
    "four-jobs": Kind("four jobs in orders of their own", _nameless(_own), _BEST),
    "four-jobs-named": Kind("the same, told apart", _own, (0.685, 0.366, 0.121)),
    "validation": Kind("permutations, a fixed set between", traces.validation, _BEST),
    "scan": Kind("the same order each time", traces.scan, (0.8, 0.5, 0.213)),
    "new-data": Kind("another data set from the middle on", traces.new_data, (0.8, 0.5, 0.205)),
    "files-beside": Kind("permutations, Zipf beside", traces.files_beside, (0.687, 0.429, 0.17)),
    "restarts": Kind("epochs that end early", traces.restarts, _BEST),
    "flip": Kind("Zipf 1.1, permutations, Zipf 0.9", traces.flip, (0.565, 0.346, 0.169)),
}
