"""Where a run happens: its server, its data, its directories, and what is counted while it runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import data, metrics, processes
from bench.data import Dataset
from bench.lakesim import ACCESS_KEY, SECRET_KEY, STANDARD_LINK, Lakesim, Link, Objects
from bench.loadgen import File, Loadgen
from bench.results import Metric
from bench.subjects.base import Bucket, Mounted, Place, Subject
from bench.subjects.local import Local
from tierfs import mountinfo

BUCKET = "bench"
LINKS = {"standard": STANDARD_LINK, "none": Link()}
MIB = 1 << 20
#: How often the memory of a subject is looked at.
_SAMPLE_S = 0.1


@dataclass
class Cost:
    """What an operation cost beside its time."""

    cpu_s: float = 0.0
    lake_requests: int = 0
    lake_bytes: int = 0
    lake_bytes_sent: int = 0
    memory_bytes: int = 0
    #: False for the local file system, which is nobody's process.
    counted: bool = True

    def figures(self, variant: str = "") -> dict[Metric, float]:
        """As figures that every scenario shows beside its own."""
        if not self.counted:
            return {}
        return {
            metrics.lake_requests(variant): self.lake_requests,
            metrics.lake_bytes(variant): self.lake_bytes / 1e6,
            metrics.memory(variant): self.memory_bytes / 1e6,
        }


def bytes_read(answer: dict[str, Any], cost: Cost, variant: str = "") -> dict[Metric, float]:
    """The figures of a client that read bytes: throughput, and what they cost."""
    figures = {metrics.throughput(variant): answer["bytes"] / answer["seconds"] / 1e6}
    if cost.counted:
        figures[metrics.cpu_s_per_gib(variant)] = cost.cpu_s / (answer["bytes"] / 2**30)
    return figures | cost.figures(variant)


def files_read(answer: dict[str, Any], cost: Cost, variant: str = "") -> dict[Metric, float]:
    """The figures of a client that read whole files: rate, latencies, and what they cost."""
    figures = {metrics.files_per_s(variant): answer["files"] / answer["seconds"]}
    for which in ("p50", "p99"):
        figures[metrics.latency_us(which, variant)] = answer["latency_us"][which]
    if cost.counted:
        figures[metrics.cpu_us_per("file", variant)] = cost.cpu_s / answer["files"] * 1e6
    return figures | cost.figures(variant)


@dataclass
class Lab:
    """One run's world. *link* is one of `LINKS`."""

    work: Path
    server: Lakesim
    loadgen: Loadgen
    link: str
    quick: bool
    seed: int
    _datasets: dict[str, Dataset] = field(default_factory=dict)
    _places: int = 0

    def bucket(self, prefix: str) -> Bucket:
        """The run's bucket, seen from *prefix*."""
        return Bucket(self.server.endpoint, BUCKET, prefix, ACCESS_KEY, SECRET_KEY)

    def create_bucket(self) -> None:
        """Make the bucket that everything is in, and turn the link on."""
        data.create_bucket(self.bucket(""))
        self.server.configure(LINKS[self.link])

    @contextmanager
    def with_link(self, link: Link) -> Iterator[None]:
        """Another link than that of the run."""
        self.server.configure(link)
        try:
            yield
        finally:
            self.server.configure(LINKS[self.link])

    def without_link(self) -> AbstractContextManager[None]:
        """The bare server, for what is not measured."""
        return self.with_link(Link())

    def dataset(self, name: str, files: tuple[File, ...]) -> Dataset:
        """Make a data set, on the local disk and in the bucket, unless it was made before."""
        if name not in self._datasets:
            made = Dataset(
                name, self.seed, self.work / "data" / name, self.bucket(f"{name}/"), files
            )
            with self.without_link():
                data.make(self.loadgen, made)
            self._datasets[name] = made
        return self._datasets[name]

    def empty_files(self, name: str, count: int, per_directory: int) -> Dataset:
        """A data set of *count* empty files, made in the server without uploads."""
        if name not in self._datasets:
            bucket = self.bucket(f"{name}/")
            objects = Objects(
                BUCKET, count, 0, prefix=bucket.prefix, suffix=".jpg", fanout=per_directory
            )
            self.server.plant(objects)
            paths = [objects.key(n).removeprefix(bucket.prefix) for n in range(count)]
            root = self.work / "data" / name
            files = tuple(File(path, 0) for path in paths)
            self.loadgen.generate(root, self.seed, files)
            self._datasets[name] = Dataset(name, self.seed, root, bucket, files)
        return self._datasets[name]

    @contextmanager
    def mounted(
        self,
        subject: Subject,
        dataset: Dataset,
        *,
        cache_bytes: int | None = None,
        memory_bytes: int | None = None,
        cgroup: Path | None = None,
    ) -> Iterator[Mounted]:
        """*dataset* as *subject* shows it, freshly mounted with an empty cache. Nothing of it is
        left afterwards."""
        if isinstance(subject, Local):
            yield Mounted(dataset.root)
            return
        with (
            self.place(
                subject, cache_bytes=cache_bytes, memory_bytes=memory_bytes, cgroup=cgroup
            ) as place,
            subject.mount(dataset.bucket, place) as mounted,
        ):
            yield mounted

    @contextmanager
    def place(
        self,
        subject: Subject,
        *,
        cache_bytes: int | None = None,
        memory_bytes: int | None = None,
        cgroup: Path | None = None,
        writable: bool = False,
    ) -> Iterator[Place]:
        """An empty place for *subject*, whose cache is kept from one of its mounts to the next.
        Nothing of it is left afterwards."""
        self._places += 1
        root = self.work / f"{subject.name}-{self._places}"
        place = Place(
            root / "mnt",
            root / "cache",
            root / "scratch",
            cache_bytes=cache_bytes,
            memory_bytes=memory_bytes,
            cgroup=cgroup,
            writable=writable,
        )
        for directory in (place.directory, place.cache, place.scratch):
            directory.mkdir(parents=True)
        try:
            yield place
        finally:
            # Of a subject that did not unmount: removing its place must not remove what it shows.
            while mountinfo.topmost(os.fsencode(place.directory)) is not None:
                subprocess.run(["umount", "-l", str(place.directory)], check=True)
            shutil.rmtree(root, ignore_errors=True)

    @contextmanager
    def cost(self, mounted: Mounted) -> Iterator[Cost]:
        """What the body costs: CPU of the subject, requests at the server, memory on the way."""
        cost = Cost(counted=bool(mounted.pids()))
        before = self.server.stats()
        cpu_before = mounted.cpu_s()
        stop = threading.Event()
        watcher = threading.Thread(target=_watch, args=(mounted, cost, stop))
        watcher.start()
        try:
            yield cost
        finally:
            stop.set()
            watcher.join()
        cost.cpu_s = mounted.cpu_s() - cpu_before
        after = self.server.stats()
        cost.lake_requests = after.requests - before.requests
        cost.lake_bytes = after.bytes_out - before.bytes_out
        cost.lake_bytes_sent = after.bytes_in - before.bytes_in


def _watch(mounted: Mounted, cost: Cost, stop: threading.Event) -> None:
    pids = mounted.pids()
    while True:
        cost.memory_bytes = max(cost.memory_bytes, processes.memory_bytes(pids))
        if stop.wait(_SAMPLE_S):
            return
