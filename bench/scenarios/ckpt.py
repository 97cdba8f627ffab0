"""ckpt: a checkpoint is saved as the frameworks save it, becomes durable, and is loaded back."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench import data, metrics, processes
from bench.arrival import Arrival
from bench.connections import CONNECTIONS, fastest
from bench.lab import Lab
from bench.loadgen import PART_BYTES, File, Writer
from bench.results import Better, Metric
from bench.scenarios.base import Attempts, Measure, Scenario
from bench.subjects.base import Bucket, Mounted, Subject
from bench.subjects.client import Client
from bench.subjects.local import Local
from bench.upload import Uploader

RANKS = 4
MARKER_BYTES = 1483
#: For one save to return, and for it to be durable then; nobody waits longer.
LIMIT_S = 300.0
#: Of each file of the older checkpoint that a save replaces.
_OLDER = b"an older checkpoint\n"
#: Connections that read back what is in the lake.
_VERIFIERS = 8


@dataclass(frozen=True)
class Save:
    """One checkpoint and whose calls save it."""

    writer: Writer
    #: What a load reads.
    shards: tuple[File, ...]
    #: Written when all shards are closed, where the framework has one.
    marker: tuple[File, ...] = ()

    @property
    def files(self) -> tuple[File, ...]:
        return self.shards + self.marker

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)


def saves(size: int) -> dict[str, Save]:
    """By variant; *size* bytes each."""
    ranks = tuple(File(f"dcp/__{n}_0.distcp", size // RANKS) for n in range(RANKS))
    marker = (File("dcp/.metadata", MARKER_BYTES),)
    return {
        "torch.save": Save("torch-save", (File("torch/latest.pt", size),)),
        "torch DCP": Save("torch-dcp", ranks, marker),
        "safetensors": Save("safetensors", (File("weights/model.safetensors", size),)),
    }


class Ckpt(Scenario):
    """How long does training wait while a checkpoint is saved, when is it durable in the lake, and
    how fast is it loaded back, on the same node and on another?

    Each round replaces an older checkpoint through a fresh mount, with the calls of torch.save,
    of torch DCP with 4 ranks, and of safetensors, as strace shows them. Both times begin with the
    first call. Durable is when the last version of the last file took effect in the lake, by the
    lake's clock; every byte is then read back from there. The same node loads through the same
    mount with the page cache dropped, the other one through a second mount with an empty cache.
    No cache has a limit.

    local is the disk without a lake; "synced" is its save with an fsync of each file. The bare
    client sends and fetches parts of 8 MiB, the marker last, with the number of connections that
    was fastest for it.
    """

    name = "ckpt"
    expected_s = 120.0
    patience_s = 60.0

    def rounds(self, quick: bool) -> int:
        return 3 if quick else 7

    def sizes(self, quick: bool) -> dict[str, Any]:
        return {
            "checkpoint_bytes": self._size(quick),
            "ranks of torch DCP": RANKS,
            "client": CONNECTIONS,
            "client_part_bytes": PART_BYTES,
        }

    def _size(self, quick: bool) -> int:
        return 256 << 20 if quick else 1 << 30

    def prepare(self, lab: Lab) -> None:
        self._saves = saves(self._size(lab.quick))

    @contextmanager
    def session(self, lab: Lab, subject: Subject) -> Iterator[Measure]:
        if isinstance(subject, Local):
            yield lambda n: self._local(lab, subject, n)
        elif isinstance(subject, Client):
            bucket = lab.bucket("ckpt-client/")
            try:
                yield self._client(lab, bucket)
            finally:
                data.remove(bucket, lab.server.sizes(bucket.name, bucket.prefix))
        else:
            attempts = Attempts(self._saves)
            yield lambda n: attempts.result(self._round(lab, subject, n, attempts))

    def _round(self, lab: Lab, subject: Subject, n: int, attempts: Attempts) -> dict[Metric, float]:
        figures: dict[Metric, float] = {}
        if not attempts.left:
            return figures
        bucket = lab.bucket(f"ckpt-{subject.name}/")
        for save in self._saves.values():
            data.put(bucket, save.files, _OLDER)
        try:
            with (
                lab.place(subject, writable=True) as place,
                subject.mount(bucket, place) as mounted,
            ):
                for variant in attempts.left:
                    with attempts.trying(variant):
                        if subject.plain_objects:
                            figures |= self._durable(lab, mounted, bucket, variant)
                        else:
                            figures |= self._returned(lab, mounted, variant)
                        figures |= self._load(lab, mounted, variant, n, "same node")
            if subject.plain_objects and attempts.left:
                with (
                    lab.place(subject) as place,
                    subject.mount(bucket, place) as mounted,
                ):
                    for variant in attempts.left:
                        with attempts.trying(variant):
                            figures |= self._load(lab, mounted, variant, n, "another node")
        finally:
            data.remove(bucket, lab.server.sizes(bucket.name, bucket.prefix))
        return figures

    def _returned(
        self, lab: Lab, mounted: Mounted, variant: str, *, fsync: bool = False
    ) -> dict[Metric, float]:
        save = self._saves[variant]
        processes.drop_caches()
        answer = lab.loadgen.save(
            mounted.directory, lab.seed, save.writer, save.files, fsync=fsync, limit_s=LIMIT_S
        )
        if fsync:
            synced = Metric("time to return, synced", "s", Better.LOWER, variant)
            return {synced: answer["seconds"]}
        return _times("return", variant, answer["seconds"], save)

    def _durable(
        self, lab: Lab, mounted: Mounted, bucket: Bucket, variant: str
    ) -> dict[Metric, float]:
        save = self._saves[variant]
        processes.drop_caches()
        arrival = Arrival(lab.server, bucket, save.files)
        with lab.cost(mounted) as cost:
            answer = lab.loadgen.save(
                mounted.directory, lab.seed, save.writer, save.files, limit_s=LIMIT_S
            )
            made_ns = arrival.wait(LIMIT_S)
        lab.loadgen.get(lab.seed, data.presigned(bucket, save.files), _VERIFIERS)
        durable_s = (max(made_ns.values()) - answer["started_ns"]) / 1e9
        figures = _times("return", variant, answer["seconds"], save)
        figures |= _times("durable", variant, durable_s, save)
        if save.marker:
            last_ns = max(made_ns[file.path] for file in save.shards)
            early_s = max(last_ns - made_ns[save.marker[0].path], 0) / 1e9
            figures[Metric("marker ahead of its shards", "s", Better.LOWER, variant)] = early_s
        if cost.counted:
            figures[metrics.cpu_s_per_gib(variant)] = cost.cpu_s / (save.bytes / 2**30)
            figures[metrics.lake_bytes_sent(variant)] = cost.lake_bytes_sent / 1e6
        return figures | cost.figures(variant)

    def _load(
        self, lab: Lab, mounted: Mounted, variant: str, n: int, where: str
    ) -> dict[Metric, float]:
        save = self._saves[variant]
        processes.drop_caches()
        if save.writer == "safetensors":
            answer = lab.loadgen.mmap(mounted.directory, lab.seed, save.shards[0], n)
        else:
            answer = lab.loadgen.sequential(mounted.directory, lab.seed, save.shards)
        return {_loaded(where, variant): answer["bytes"] / answer["seconds"] / 1e6}

    def _local(self, lab: Lab, subject: Subject, n: int) -> dict[Metric, float]:
        figures: dict[Metric, float] = {}
        with lab.place(subject) as place:
            mounted = Mounted(place.directory)
            for variant, save in self._saves.items():
                for file in save.files:
                    older = place.directory / file.path
                    older.parent.mkdir(exist_ok=True)
                    older.write_bytes(_OLDER)
                figures |= self._returned(lab, mounted, variant)
                figures |= self._load(lab, mounted, variant, n, "same node")
                figures |= self._returned(lab, mounted, variant, fsync=True)
        return figures

    def _client(self, lab: Lab, bucket: Bucket) -> Measure:
        uploader = Uploader(lab.loadgen, bucket, lab.seed)

        def send(variant: str, connections: int) -> float:
            save = self._saves[variant]
            return uploader.send([wave for wave in (save.shards, save.marker) if wave], connections)

        def fetch(variant: str, connections: int) -> float:
            objects = data.presigned(bucket, self._saves[variant].files)
            return float(lab.loadgen.get(lab.seed, objects, connections)["seconds"])

        best = {
            (what, variant): fastest(functools.partial(what, variant))
            for variant in self._saves
            for what in (send, fetch)
        }

        def measure(n: int) -> dict[Metric, float]:
            figures: dict[Metric, float] = {}
            for variant, save in self._saves.items():
                sent_s, fetched_s = (what(variant, best[what, variant]) for what in (send, fetch))
                figures |= _times("durable", variant, sent_s, save)
                figures[_loaded("another node", variant)] = save.bytes / fetched_s / 1e6
            return figures

        return measure


def _times(until: str, variant: str, seconds: float, save: Save) -> dict[Metric, float]:
    return {
        Metric(f"time to {until}", "s", Better.LOWER, variant, headline=True): seconds,
        Metric(f"rate to {until}", "MB/s", Better.HIGHER, variant): save.bytes / seconds / 1e6,
    }


def _loaded(where: str, variant: str) -> Metric:
    return Metric(f"load on {where}", "MB/s", Better.HIGHER, variant, headline=True)
