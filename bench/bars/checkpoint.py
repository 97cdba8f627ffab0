"""How long does training wait for a checkpoint, when is it in the lake, and how fast is it loaded?

Two GiB in eight shards, written and closed side by side, without an fsync and with one on both
sides; against the same on the local disk. Durable is when the last shard took effect in the lake,
by the lake's log, from the first close on; against the bare client's upload of as much. The same
node loads through the same mount, against the local disk; the other one through a fresh mount with
an empty cache, against the bare client. All pairs are neighbours in time, and take turns.
"""

from __future__ import annotations

import functools
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from bench import data, processes
from bench.arrival import Arrival
from bench.bars.harness import MIB, Result, fronts, median, spread
from bench.connections import fastest
from bench.lab import Lab
from bench.lakesim import lakesim
from bench.loadgen import File, Loadgen
from bench.subjects.base import Bucket, Mounted
from bench.subjects.tierfs import Tierfs
from bench.upload import Uploader
from bench.workspace import workspace

SHARDS, SHARD_BYTES = 8, 256 * MIB
ROUNDS = 5
#: Of what the local disk does, or the bare client; "return" by front.
RETURN = {"tierfs": 0.6, "tierfs-native": 0.95}
DURABLE, LOAD = 1.1, 0.95
#: Readers of one file, and how often its bytes may come from the lake.
READERS, ONCE = 8, 1.02
LIMIT_S = 300.0

#: What is measured: the front's figure over the other's.
RETURNED, RETURNED_SYNCED = "write and close, of local", "write, fsync and close, of local"
LANDED, LANDED_SYNCED = (
    "time to durable, of the client's",
    "time to durable, synced, of the client's",
)
SAME_NODE, ANOTHER_NODE = "load on the same node, of local", "load on another node, of the client"
FETCHED = f"bytes from the lake for {READERS} readers of one file"

T = TypeVar("T")
#: By what was measured, one for each round.
Ratios = dict[str, list[float]]


def run() -> list[Result]:
    results = []
    with workspace() as work, lakesim(seed=1) as server:
        lab = Lab(work, server, Loadgen(), "standard", False, 1)
        lab.create_bucket()
        client = _Client(lab)
        for front in fronts():
            ratios: Ratios = defaultdict(list)
            for n in range(ROUNDS):
                _round(lab, front, client, n, ratios)
            results += _judged(front.name, ratios)
    return results


def _judged(name: str, ratios: Ratios) -> list[Result]:
    def least(what: str, bar: float | None) -> Result:
        found = ratios[what]
        met = None if bar is None else median(found) >= bar
        return Result(f"{name}: {what}, at least {bar}", spread(found, "{:.2f}"), met)

    def most(what: str, bar: float) -> Result:
        found = ratios[what]
        return Result(
            f"{name}: {what}, at most {bar}", spread(found, "{:.2f}"), median(found) <= bar
        )

    load = LOAD if name == "tierfs-native" else None
    return [
        least(RETURNED, RETURN[name]),
        least(RETURNED_SYNCED, RETURN[name]),
        most(LANDED, DURABLE),
        most(LANDED_SYNCED, DURABLE),
        least(SAME_NODE, load),
        least(ANOTHER_NODE, load),
        most(FETCHED, ONCE),
    ]


class _Client:
    """What the link gives without a file system."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._bucket = lab.bucket("client/")
        self._uploader = Uploader(lab.loadgen, self._bucket, lab.seed)
        files = _files("sought")
        self._send = fastest(lambda n: self._sent_s(files, n))
        self._fetch = fastest(functools.partial(self._fetched_s, self._bucket, files))
        _remove(lab, self._bucket)

    def _sent_s(self, files: Sequence[File], connections: int) -> float:
        return self._uploader.send([files], connections)

    def sent_s(self, files: Sequence[File]) -> float:
        """How long an upload of *files* takes."""
        seconds = self._sent_s(files, self._send)
        _remove(self._lab, self._bucket)
        return seconds

    def _fetched_s(self, bucket: Bucket, files: Sequence[File], connections: int) -> float:
        objects = data.presigned(bucket, files)
        return float(self._lab.loadgen.get(self._lab.seed, objects, connections)["seconds"])

    def fetched_s(self, bucket: Bucket, files: Sequence[File]) -> float:
        """How long a download of *files* takes, whose bytes are checked."""
        return self._fetched_s(bucket, files, self._fetch)


def _files(name: str) -> list[File]:
    return [File(f"{name}/shard-{n}.bin", SHARD_BYTES) for n in range(SHARDS)]


def _round(lab: Lab, front: Tierfs, client: _Client, n: int, ratios: Ratios) -> None:
    bucket = lab.bucket(f"{front.name}/")
    # An empty prefix may be a mistake: it is not mounted unasked.
    data.put(bucket, [File("there", 1)], b"x")
    local = lab.work / "local"
    local.mkdir()
    try:
        with lab.place(front, writable=True) as place, front.mount(bucket, place) as mounted:
            for synced in (False, True):
                _save(lab, mounted, bucket, local, client, n, ratios, synced=synced)
            files = _files("plain")
            first, second = _turned((Mounted(local), mounted), n)
            taken = (_loaded_s(lab, first, files), _loaded_s(lab, second, files))
            there, ours = _turned(taken, n)
            ratios[SAME_NODE].append(there / ours)
        with lab.place(front) as place, front.mount(bucket, place) as mounted:
            ours = _loaded_s(lab, mounted, files)
            theirs = client.fetched_s(bucket, files)
            ratios[ANOTHER_NODE].append(theirs / ours)
        with lab.place(front) as place, front.mount(bucket, place) as mounted:
            before = lab.server.stats().bytes_out
            _loaded_s(lab, mounted, files[:1] * READERS)
            fetched = (lab.server.stats().bytes_out - before) / SHARD_BYTES
            ratios[FETCHED].append(fetched)
    finally:
        shutil.rmtree(local)
        _remove(lab, bucket)


def _save(
    lab: Lab,
    mounted: Mounted,
    bucket: Bucket,
    local: Path,
    client: _Client,
    n: int,
    ratios: Ratios,
    *,
    synced: bool,
) -> None:
    files = _files("synced" if synced else "plain")
    seconds = {}
    for root in _turned((local, mounted.directory), n):
        processes.drop_caches()
        arrival = Arrival(lab.server, bucket, files)
        answer = lab.loadgen.save(
            root, lab.seed, "torch-save", files, fsync=synced, limit_s=LIMIT_S
        )
        seconds[root] = answer["seconds"]
        if root != local:
            # Nothing else is measured before it is there.
            durable_s = (max(arrival.wait(LIMIT_S).values()) - answer["first_closed_ns"]) / 1e9
    returned = seconds[local] / seconds[mounted.directory]
    ratios[RETURNED_SYNCED if synced else RETURNED].append(returned)
    ratios[LANDED_SYNCED if synced else LANDED].append(durable_s / client.sent_s(files))


def _turned(pair: tuple[T, T], n: int) -> tuple[T, T]:
    """Who is first takes turns."""
    return (pair[1], pair[0]) if n % 2 else pair


def _loaded_s(lab: Lab, mounted: Mounted, files: Sequence[File]) -> float:
    processes.drop_caches()
    return float(lab.loadgen.sequential(mounted.directory, lab.seed, files)["seconds"])


def _remove(lab: Lab, bucket: Bucket) -> None:
    data.remove(bucket, lab.server.sizes(bucket.name, bucket.prefix))
