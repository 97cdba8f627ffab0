"""What training reads, and what else is read beside it, to try an eviction policy on.

Each generator takes how many objects there are and a seed, and says of itself what the data set is,
of which the cache holds a share. Where nothing else is said, all objects are it, the trace is
twelve times as long as they are many, and its second half is measured.
"""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from tierfs.index.records import FIRST_INO

EPOCHS = 12
#: A tar file's members, read one after the other.
SHARD = 100
#: Of the two jobs of different speed, the slower one's reads for each of the other's.
SLOWER = 0.6
#: How far jobs in the same order lag behind each other, as a part of the data set, and by how many
#: reads they stray from that.
LAG, STRAY = 0.005, 8.0
#: Which part of a data set is for validation.
VALIDATION = 0.05
#: Of the drifting curriculum, how much of it is new in each of its epochs.
DRIFT, DRIFT_EPOCHS = 0.1, 20
GROW_EPOCHS = 16
#: Of the files beside the data, one for so many objects, with so many reads for each read of those.
FILES_BESIDE, READS_BESIDE = 32, 0.2
#: The middle of the lognormal sizes, in bytes, and their sigma: 110 KB images are about the mean of
#: what is read most.
MEDIAN_BYTES, SIGMA = 66_000, 1.0


class Cache(Protocol):
    """Whatever answers reads."""

    def read(self, ino: int, size: int, job: int) -> bool:
        """Whether *ino*, of *size* bytes, was there when *job* asked for it."""


@dataclass(frozen=True)
class Trace:
    """Who reads what, in order."""

    #: Inode numbers.
    reads: Sequence[int]
    #: The first read that counts.
    measured_from: int
    #: How many objects the data set has.
    data: int
    #: Of each read, the name of its job; None: nobody knows.
    jobs: Sequence[int] | None = None
    #: Bytes of each object; None: 1.
    sizes: dict[int, int] | None = None

    def capacity(self, share: float) -> int:
        """The bytes of a cache for *share* of the data set."""
        size = 1.0 if self.sizes is None else statistics.fmean(self.sizes.values())
        return int(share * self.data * size)

    def read_by(self, cache: Cache) -> Iterator[bool]:
        """Of each read, whether it hit, as they are asked for."""
        return map(cache.read, self.reads, self.read_sizes(), self.jobs or itertools.repeat(0))

    def read_sizes(self) -> Iterable[int]:
        """Of each read, the bytes; endless."""
        if self.sizes is None:
            return itertools.repeat(1)
        return map(self.sizes.__getitem__, self.reads)


def with_lognormal_sizes(trace: Trace, seed: int) -> Trace:
    draw = random.Random(f"sizes {seed}").lognormvariate
    sizes = {ino: max(1, int(MEDIAN_BYTES * draw(0, SIGMA))) for ino in sorted(set(trace.reads))}
    return replace(trace, sizes=sizes)


# ---- one job -----------------------------------------------------------------------------------


def permutations(objects: int, seed: int) -> Trace:
    """All objects in a new random order each epoch."""
    return _trace(_epochs(random.Random(seed), _inos(objects), EPOCHS), objects)


def static(objects: int, seed: int) -> Trace:
    """The same half of twice as many objects in each epoch: a share that is this node's for good.
    The data set is that share."""
    rng = random.Random(seed)
    own = rng.sample(_inos(2 * objects), objects)
    return _trace(_epochs(rng, own, EPOCHS), objects)


def shards(objects: int, seed: int) -> Trace:
    """Tar files of 100 objects in random order, each from beginning to end."""
    firsts = _inos(objects - SHARD + 1)[::SHARD]
    order = _epochs(random.Random(seed), firsts, EPOCHS)
    return _trace(_flat(range(first, first + SHARD) for first in order), objects)


def ranks(here: int, of: int, objects: int, seed: int) -> Trace:
    """What *here* of so many ranks read: another random share of the objects in each epoch."""
    rng = random.Random(seed)
    share = objects * here // of
    epochs = range(EPOCHS * of // here)
    return _trace(_flat(rng.sample(_inos(objects), share) for _ in epochs), objects)


def zipf(skew: float, objects: int, seed: int) -> Trace:
    """Draws with replacement, weighted by Zipf's law."""
    return _trace(_draws(random.Random(seed), _inos(objects), skew, EPOCHS * objects), objects)


def grow(objects: int, seed: int) -> Trace:
    """Of the objects by difficulty, 30 % in the first of sixteen epochs, all in the last; the data
    set is the mean of that. All but the first four epochs are measured."""
    rng = random.Random(seed)
    parts = [int(objects * (0.3 + 0.7 * n / (GROW_EPOCHS - 1))) for n in range(GROW_EPOCHS)]
    reads = _flat(_epochs(rng, _inos(part), 1) for part in parts)
    return _trace(reads, int(objects * 0.65), sum(parts[:4]))


def drift(objects: int, seed: int) -> Trace:
    """Twenty epochs, each with a tenth of its objects new and a tenth of the last one's gone. The
    data set is what one epoch reads. All but the first five are measured."""
    rng = random.Random(seed)
    window = int(objects / (1 + DRIFT * DRIFT_EPOCHS))
    firsts = [int(n * DRIFT * window) for n in range(DRIFT_EPOCHS)]
    reads = _flat(_epochs(rng, _inos(window, first), 1) for first in firsts)
    return _trace(reads, window, 5 * window)


def validation(objects: int, seed: int) -> Trace:
    """After each epoch over the other 95 % a fixed 5 %, in order."""
    rng = random.Random(seed)
    held_out = int(objects * VALIDATION)
    training = objects - held_out
    reads: list[int] = []
    for _ in range(EPOCHS):
        reads += [*_epochs(rng, _inos(training), 1), *_inos(held_out, training)]
    return _trace(reads, objects)


def scan(objects: int, _: int) -> Trace:
    """All objects in the same order each time."""
    return _trace([*_inos(objects)] * EPOCHS, objects)


def new_data(objects: int, seed: int) -> Trace:
    """Six epochs over one half of the objects, then six over the other. The data set is a half.
    The last five epochs are measured."""
    rng = random.Random(seed)
    half = objects // 2
    reads = _flat(_epochs(rng, _inos(half, first), 6) for first in (0, half))
    return _trace(reads, half, 7 * half)


def files_beside(objects: int, seed: int) -> Trace:
    """Permutations of the objects, and draws (Zipf 1.1) from a few files beside them, which belong
    to the data set."""
    rng = random.Random(seed)
    data = _epochs(rng, _inos(objects), EPOCHS)
    files = _inos(objects // FILES_BESIDE, objects)
    beside = _draws(rng, files, 1.1, int(len(data) * READS_BESIDE))
    at = [*range(len(data)), *(rng.random() * len(data) for _ in beside)]
    (reads,) = _by_time(at, [*data, *beside])
    return _trace(reads, objects + len(files))


def restarts(objects: int, seed: int) -> Trace:
    """Twenty epochs that end early, at 20 to 100 %, and begin anew in another order. The last ten
    are measured."""
    rng = random.Random(seed)
    parts = [rng.sample(_inos(objects), int(objects * rng.uniform(0.2, 1))) for _ in range(20)]
    return _trace(_flat(parts), objects, sum(map(len, parts[:10])))


def flip(objects: int, seed: int) -> Trace:
    """As many draws (Zipf 1.1) as five epochs have reads, then five permutations, then draws (Zipf
    0.9). All but the first third is measured."""
    rng = random.Random(seed)
    inos, draws = _inos(objects), 5 * objects
    before, after = (_draws(rng, inos, skew, draws) for skew in (1.1, 0.9))
    return _trace([*before, *_epochs(rng, inos, 5), *after], objects, draws)


# ---- several jobs ------------------------------------------------------------------------------


def two_jobs(objects: int, seed: int) -> Trace:
    """Two jobs, each in a random order of its own, one at 0.6 of the other's speed."""
    rng = random.Random(seed)
    at: list[float] = []
    reads: list[int] = []
    jobs: list[int] = []
    for job, speed in ((1, 1.0), (2, SLOWER)):
        number = int(objects * EPOCHS * speed)
        begin = rng.random() / 2
        at += [begin + n / speed for n in range(number)]
        reads += _epochs(rng, _inos(objects), -(-number // objects))[:number]
        jobs += [job] * number
    reads, jobs = _by_time(at, reads, jobs)
    return _trace(reads, objects, jobs=jobs)


def four_jobs(objects: int, seed: int, *, same: bool) -> Trace:
    """Four jobs, eight epochs each: in the *same* random order, each half a percent of the data set
    behind the one before; or in orders of their own."""
    rng = random.Random(seed)
    common = _epochs(rng, _inos(objects), 8)
    at: list[float] = []
    reads: list[int] = []
    jobs: list[int] = []
    for job in range(4):
        begin = job * LAG * objects
        at += [n + begin + rng.random() * STRAY for n in range(len(common))]
        reads += common if same else _epochs(rng, _inos(objects), 8)
        jobs += [1 + job] * len(common)
    reads, jobs = _by_time(at, reads, jobs)
    return _trace(reads, objects, jobs=jobs)


# ---- recorded ----------------------------------------------------------------------------------


def recorded(path: Path) -> Trace:
    """What a mount saw: of each access a line ``at_ns<TAB>ino<TAB>size<TAB>job``. The data set is
    whatever was read, the second half is measured. Sizes of 0 are unknown: as large as the mean of
    the others. Raises OSError, and ValueError for what is no such line."""
    rows: list[tuple[int, int, int, int]] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            at_ns, ino, size, job = map(int, line.split("\t"))
        except ValueError:
            raise ValueError(f"{path}, line {number}: not at_ns, ino, size, job: {line}") from None
        rows.append((at_ns, ino, size, job))
    if not rows:
        raise ValueError(f"{path}: nothing was read")
    rows.sort(key=lambda row: row[0])
    known = {ino: size for _, ino, size, _ in rows if size}
    inos = {ino for _, ino, _, _ in rows}
    sizes = None
    if known:
        mean = max(1, int(statistics.fmean(known.values())))
        sizes = {ino: known.get(ino, mean) for ino in inos}
    return Trace(
        [ino for _, ino, _, _ in rows],
        len(rows) // 2,
        len(inos),
        [job for _, _, _, job in rows],
        sizes,
    )


# ---- parts of them -----------------------------------------------------------------------------


def _inos(number: int, first: int = 0) -> range:
    """*number* objects from the *first* on."""
    return range(FIRST_INO + first, FIRST_INO + first + number)


def _flat(parts: Iterable[Iterable[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(parts))


def _trace(
    reads: list[int], data: int, measured_from: int | None = None, jobs: list[int] | None = None
) -> Trace:
    return Trace(reads, len(reads) // 2 if measured_from is None else measured_from, data, jobs)


def _epochs(rng: random.Random, objects: Sequence[int], epochs: int) -> list[int]:
    order = list(objects)
    reads: list[int] = []
    for _ in range(epochs):
        rng.shuffle(order)
        reads += order
    return reads


def _draws(rng: random.Random, objects: Sequence[int], skew: float, draws: int) -> list[int]:
    """With replacement; the object in place k of a random order has a weight of k ** -*skew*."""
    places = rng.sample(objects, len(objects))
    weights = itertools.accumulate(place**-skew for place in range(1, len(places) + 1))
    return rng.choices(places, cum_weights=list(weights), k=draws)


def _by_time(at: Sequence[float], *columns: Sequence[int]) -> list[list[int]]:
    """The columns in order of time."""
    order = sorted(range(len(at)), key=at.__getitem__)
    return [[column[n] for n in order] for column in columns]
