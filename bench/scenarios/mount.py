"""mount: from the mount command to the first byte."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

from bench import metrics, processes
from bench.lab import BUCKET, Lab
from bench.lakesim import Objects
from bench.loadgen import File
from bench.results import Better, Metric
from bench.scenarios.base import Attempts, Measure, Scenario
from bench.subjects.base import Bucket, CannotError, Place, Subject

FILE = File("first.bin", 64 << 10)
#: Where the other entries are: behind the file, so that whoever looks at the first key of a bucket
#: when it mounts finds the same one, whatever the number of entries.
TREE = "tree/"
PER_DIRECTORY = 1000
#: Other sizes of the index, separated by commas.
ENTRIES = "TIERFS_BENCH_MOUNT_ENTRIES"
#: Nobody waits longer for the first byte.
LIMIT_S = 120.0
#: For the reader to be there, waiting, before the clock starts.
_READER_S = 0.3


class Mount(Scenario):
    """How long does it take from the mount command to the first byte of a small file, with 0 and
    1,000,000 entries in the index that is kept on disk (quick: 0 and 100,000)?

    Before, not measured, a first mount of the same place has read the file and, where the subject
    keeps what it has listed, walked the whole bucket. Then each round mounts again with all page
    caches dropped, as after a boot, the program's own files included: what its start takes counts.
    A reader tries to open the file every millisecond from before the mount command on.

    TIERFS_BENCH_MOUNT_ENTRIES=0,10000000 asks for other sizes: ten million take the server 2 GB of
    memory, and a subject that keeps its listing ten minutes to make it.
    """

    name = "mount"
    expected_s = 60.0

    def rounds(self, quick: bool) -> int:
        return 5 if quick else 11

    def sizes(self, quick: bool) -> dict[str, Any]:
        return {"entries": self._counts(quick), "file_bytes": FILE.size}

    def _counts(self, quick: bool) -> list[int]:
        asked = os.environ.get(ENTRIES)
        if asked:
            return [int(word) for word in asked.split(",")]
        return [0, 100_000] if quick else [0, 1_000_000]

    def prepare(self, lab: Lab) -> None:
        #: Number of entries beside the file, and their bucket, by variant.
        self._lakes: dict[str, tuple[int, Bucket]] = {}
        for count in self._counts(lab.quick):
            bucket = lab.dataset(f"mount-{count}", (FILE,)).bucket
            if count:
                lab.server.plant(
                    Objects(BUCKET, count, 0, prefix=bucket.prefix + TREE, fanout=PER_DIRECTORY)
                )
            self._lakes[f"{count:,} entries"] = count, bucket

    @contextmanager
    def session(self, lab: Lab, subject: Subject) -> Iterator[Measure]:
        attempts = Attempts(self._lakes)
        with ExitStack() as stack:
            places: dict[str, Place] = {}
            for variant in attempts.left:
                place = stack.enter_context(lab.place(subject, cache_bytes=1 << 30))
                # Who cannot mount the first one cannot do the scenario.
                with attempts.trying(variant) if places else nullcontext():
                    self._learn(lab, subject, variant, place)
                places[variant] = place

            def measure(n: int) -> dict[Metric, float]:
                figures: dict[Metric, float] = {}
                for variant in attempts.left:
                    with attempts.trying(variant):
                        figures |= self._mount(lab, subject, variant, places[variant])
                return attempts.result(figures)

            yield measure

    def _learn(self, lab: Lab, subject: Subject, variant: str, place: Place) -> None:
        count, bucket = self._lakes[variant]
        with lab.without_link(), subject.mount(bucket, place) as mounted:
            if subject.keeps_names:
                answer = lab.loadgen.walk(mounted.directory)
                files = answer["entries"] - (answer["directories"] - 1)
                if files != count + 1:
                    raise CannotError(f"shows {files} of {count + 1} files")
            lab.loadgen.first(mounted.directory, lab.seed, FILE, LIMIT_S)

    def _mount(self, lab: Lab, subject: Subject, variant: str, place: Place) -> dict[Metric, float]:
        _, bucket = self._lakes[variant]
        with ThreadPoolExecutor(1) as reader:
            reading = reader.submit(lab.loadgen.first, place.directory, lab.seed, FILE, LIMIT_S)
            time.sleep(_READER_S)
            processes.drop_caches()
            before = lab.server.stats()
            begin_ns = time.time_ns()
            with subject.mount(bucket, place) as mounted:
                seconds = (reading.result()["first_byte_ns"] - begin_ns) / 1e9
                requests = lab.server.stats().requests - before.requests
                spent_s, memory = mounted.cpu_s(), mounted.memory_bytes()
                disk = mounted.disk_bytes()
        first = Metric("time to first byte", "s", Better.LOWER, variant, headline=True)
        return {
            first: seconds,
            metrics.lake_requests(variant): requests,
            Metric("daemon CPU", "s", Better.LOWER, variant): spent_s,
            metrics.memory(variant): memory / 1e6,
            metrics.disk(variant): disk / 1e6,
        }
