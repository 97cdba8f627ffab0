"""A scene of the demonstration: a cache for half of the data, and what epochs take from the lake
with it, beside what they would take with a cache that keeps what was read last."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from bench.bars.harness import Tierfs
from bench.demo.epochs import mounted_epoch, write_manifest
from bench.demo.reader import shuffled

#: Enough to see it, and few enough to be read so often.
MOST_FILES = 1200
EPOCHS = 4
#: Of a larger file, whether it is in the cache or not would decide what is counted.
LARGEST_BYTES = 1 << 20


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
    """Some epochs over the files that have *digests* and *sizes*, and the table."""
    names = [name for name, size in sizes.items() if size <= LARGEST_BYTES] or list(sizes)
    names = names[:: -(-len(names) // MOST_FILES)]
    sizes = {name: sizes[name] for name in names}
    manifest = work / "manifest-half"
    write_manifest(manifest, {name: digests[name] for name in names})
    cache_bytes = sum(sizes.values()) // 2
    lru = Lru(cache_bytes)
    rows = []
    subject = Tierfs(work, url, "--cache-size", f"{cache_bytes >> 10}K", *link, cache=work / "half")
    try:
        for number in range(1, EPOCHS + 1):
            title = f"cache of {cache_bytes / 1e6:.0f} MB, epoch {number}"
            row, _ = mounted_epoch(subject, manifest, number, title)
            before = lru.fetched_bytes
            for name in shuffled(names, number):
                lru.read(name, sizes[name])
            rows.append((row.lake_bytes, lru.fetched_bytes - before))
    finally:
        subject.stop()
    total = sum(sizes.values())
    print(f"\n  {'from the lake':22}{'tierfs':>12}{'LRU would':>12}{'of the data':>24}")
    for number, pair in enumerate(rows, 1):
        ours, theirs = (f"{bytes_ / 1e6:,.1f} MB" for bytes_ in pair)
        shares = " and ".join(f"{bytes_ / total:.0%}" for bytes_ in pair)
        print(f"  {f'epoch {number}':22}{ours:>12}{theirs:>12}{shares:>24}")
    print("  half of the data fits: an epoch in a new order cannot take less than the other half")
