"""A scene of the demonstration: a cache for half of the data, and what epochs take from the lake
with it, beside what they would take with a cache that keeps what was read last."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from pathlib import Path

from bench import processes
from bench.bars.harness import Tierfs
from bench.demo.epochs import lake_bytes, mounted_epoch, write_manifest
from bench.demo.reader import shuffled

EPOCHS = 4
#: Of a larger file, whether it is in the cache or not would decide what is counted.
LARGEST_BYTES = 1 << 20
#: For buffers: with the default they would hold a tenth of so little data.
MEMORY = "64M"


class Lru:
    """A cache of *limit_bytes* that keeps whole files, those that were read last."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._held: OrderedDict[str, int] = OrderedDict()
        self._bytes = 0
        #: All that was not there when it was read.
        self.fetched_bytes = 0

    def read(self, name: str, size: int) -> None:
        if name in self._held:
            self._held.move_to_end(name)
            return
        self.fetched_bytes += size
        self._held[name] = size
        self._bytes += size
        while self._bytes > self._limit:
            self._bytes -= self._held.popitem(last=False)[1]


def scene(
    work: Path, url: str, link: list[str], digests: dict[str, str], sizes: dict[str, int]
) -> None:
    """Some epochs over the files that have *digests* and *sizes*, and the table. What the kernel
    remembers of them is dropped before each, as there would be more than it has memory for."""
    names = [name for name, size in sizes.items() if size <= LARGEST_BYTES] or list(sizes)
    sizes = {name: sizes[name] for name in names}
    manifest = work / "manifest-half"
    write_manifest(manifest, {name: digests[name] for name in names})
    cache_bytes = sum(sizes.values()) // 2
    lru = Lru(cache_bytes)
    #: Until the end of each epoch; what is fetched between two counts for the second.
    fetched = [(0, 0)]
    options = ["--cache-size", f"{cache_bytes >> 10}K", "--memory", MEMORY, *link]
    subject = Tierfs(work, url, *options, cache=work / "half")
    try:
        for number in range(1, EPOCHS + 1):
            processes.drop_caches()
            title = f"cache of {cache_bytes / 1e6:.0f} MB, epoch {number}"
            mounted_epoch(subject, manifest, number, title)
            for name in shuffled(names, number):
                lru.read(name, sizes[name])
            fetched.append((lake_bytes(subject), lru.fetched_bytes))
    finally:
        subject.stop()
    total = sum(sizes.values())
    print(f"\n  {'from the lake':22}{'tierfs':>12}{'LRU would':>12}{'of the data':>24}")
    for number, (before, after) in enumerate(itertools.pairwise(fetched), 1):
        each = [now - earlier for now, earlier in zip(after, before, strict=True)]
        ours, theirs = (f"{bytes_ / 1e6:,.1f} MB" for bytes_ in each)
        shares = " and ".join(f"{bytes_ / total:.0%}" for bytes_ in each)
        print(f"  {f'epoch {number}':22}{ours:>12}{theirs:>12}{shares:>24}")
    print("  half of the data fits: an epoch in a new order cannot take less than the other half")
