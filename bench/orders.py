"""In which order training reads its samples: what the samplers of data loaders do, as lists.

All of it follows from a seed and the number of the epoch, so every subject is asked for the same.
Samples are any objects; their place in *samples* is their index.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

#: Of `weighted`: a skew that rewards a cache for keeping what is frequent; of 4,096 samples an
#: epoch reads 1,500 different ones.
ZIPF = 0.9


def epoch(samples: Sequence[T], seed: int, number: int) -> list[T]:
    """Each sample once, in an order of this epoch alone (``torch.utils.data.RandomSampler``)."""
    order = list(samples)
    random.Random(f"epoch {seed} {number}").shuffle(order)
    return order


def rank(samples: Sequence[T], seed: int, number: int, which: int, ranks: int) -> list[T]:
    """What rank *which* of *ranks* reads in an epoch: every *ranks*-th of the order that all of
    them shuffle alike (``torch.utils.data.DistributedSampler`` after ``set_epoch``). Together the
    ranks read each sample once."""
    return epoch(samples, seed, number)[which::ranks]


def weighted(samples: Sequence[T], seed: int, number: int) -> list[T]:
    """As many draws as there are samples, with replacement (``WeightedRandomSampler``).

    The weights are those of Zipf's law, 1 / place ** `ZIPF`, over places that *seed* gives to the
    samples for all epochs: of 4,096 samples the most frequent tenth gets about two thirds of the
    draws.
    """
    weights = itertools.accumulate(place**-ZIPF for place in range(1, len(samples) + 1))
    draw = random.Random(f"weighted {seed} {number}")
    return draw.choices(places(samples, seed), cum_weights=list(weights), k=len(samples))


def places(samples: Sequence[T], seed: int) -> list[T]:
    """The samples of `weighted` by their weight, the most frequent first."""
    return epoch(samples, seed, -1)


def streams(
    shards: Sequence[Sequence[T]], readers: int, seed: int, number: int, *, run: int = 1
) -> list[T]:
    """The shards in a new order, dealt to *readers*, each of which reads its own ones from
    beginning to end (WebDataset, TFRecord): *run* i of the list, of so many elements, is for reader
    i modulo *readers*.

    What a reader has more than another one, because the shards cannot be dealt evenly, is left
    out: the others would have ended.
    """
    order = epoch(shards, seed, number)
    own = [list(itertools.chain.from_iterable(order[n::readers])) for n in range(readers)]
    runs = ([one[at : at + run] for at in range(0, len(one) - run + 1, run)] for one in own)
    turns = zip(*runs, strict=False)
    return list(itertools.chain.from_iterable(itertools.chain.from_iterable(turns)))
