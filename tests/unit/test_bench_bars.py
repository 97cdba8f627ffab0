"""What the bars make of what they saw."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import pytest

from bench import processes
from bench.bars import demand_latency
from bench.bars.look_around import ANYWAY_BYTES, Tree
from bench.data import Dataset
from bench.loadgen import File
from bench.machine import Cpus
from bench.subjects.base import Bucket
from tests.unit.test_bench_orders import FETCH, MS


def test_only_reads_that_had_to_ask_count_as_misses() -> None:
    files = [File(name, 1000) for name in ("a", "b", "c", "d")]
    bucket = Bucket("", "lake", "", "", "")
    dataset = Dataset("demand", 1, Path("/"), bucket, tuple(files))
    # The lake was asked for a at 10 ms.
    answer = {"times": [[0, 9 * MS, 32 * MS], [1, 9 * MS, 1 * MS], [2, 9 * MS, 40 * MS]]}
    found = demand_latency._misses(dataset, files, answer, [FETCH])
    assert list(found) == [32]
    # Somebody else had asked before, or will.
    for begin in (11, 2):
        answer = {"times": [[0, begin * MS, 3 * MS]]}
        assert not list(demand_latency._misses(dataset, files, answer, [FETCH]))


def test_a_ratio_lies_within_its_interval() -> None:
    draw = random.Random(1)
    alone = [draw.lognormvariate(3, 0.7) for _ in range(2000)]
    beside = [1.2 * value for value in alone]
    low, middle, high = demand_latency._ratio(alone, beside)
    assert low <= middle <= high
    assert middle == pytest.approx(1.2)
    assert high / low < 1.6


def test_a_small_tree_may_be_looked_at_for_64_mib() -> None:
    assert Tree(1000, 1000).limit_bytes == ANYWAY_BYTES
    assert Tree(1_000_000, 110_000).limit_bytes == 1_100_000_000


def test_processors_are_busy_while_somebody_computes() -> None:
    cpus = Cpus()
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    assert 0 < cpus.busy_share <= 1


def test_a_process_has_ended_whether_or_not_anybody_took_notice() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        with pytest.raises(TimeoutError):
            processes.wait_for_end([child.pid], timeout_s=0.05)
        child.kill()
        processes.wait_for_end([child.pid], timeout_s=10)
        assert Path(f"/proc/{child.pid}").exists()
