"""The policy simulator: its traces are what they say, and its bounds are bounds."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import policy
from bench.policy import measuring, report, rivals, traces
from bench.policy.kinds import KINDS, SHARES
from bench.policy.measuring import Misses, Row
from bench.policy.report import Finding
from bench.policy.simulator import Files
from bench.policy.traces import Trace
from tierfs.index.records import FIRST_INO

OBJECTS = 600


def make(name: str, seed: int = 1) -> Trace:
    return KINDS[name].make(OBJECTS, seed)


def parts(trace: Trace, length: int) -> list[list[int]]:
    reads = list(trace.reads)
    return [reads[at : at + length] for at in range(0, len(reads), length)]


# ---- traces ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_a_seed_makes_a_trace(name: str) -> None:
    assert make(name) == make(name)
    assert 0 < make(name).measured_from < len(make(name).reads)
    assert min(make(name).reads) >= FIRST_INO
    assert name == "scan" or make(name) != make(name, 2)


@pytest.mark.parametrize("name", ["permutations", "static", "shards", "scan", "validation"])
def test_an_epoch_is_all_of_the_data_set(name: str) -> None:
    epochs = parts(make(name), OBJECTS)
    assert len(epochs) == traces.EPOCHS
    assert {frozenset(epoch) for epoch in epochs} == {frozenset(epochs[0])}
    assert len(set(epochs[0])) == make(name).data == OBJECTS
    assert (epochs[0] == epochs[1]) is (name == "scan")


def test_a_static_share_is_a_part_of_a_larger_data_set() -> None:
    reads = make("static").reads
    assert max(reads) - min(reads) > 1.8 * OBJECTS


def test_a_shard_is_read_in_sequence() -> None:
    for shard in parts(make("shards"), traces.SHARD):
        assert shard == list(range(shard[0], shard[0] + traces.SHARD))
        assert (shard[0] - FIRST_INO) % traces.SHARD == 0


@pytest.mark.parametrize(("here", "of"), [(1, 2), (1, 8), (8, 16)])
def test_a_rank_reads_another_share_each_epoch(here: int, of: int) -> None:
    share = OBJECTS * here // of
    trace = traces.ranks(here, of, OBJECTS, 1)
    epochs = parts(trace, share)
    assert len(trace.reads) == traces.EPOCHS * OBJECTS
    assert all(len(set(epoch)) == share for epoch in epochs)
    again = [len(set(a) & set(b)) / share for a, b in itertools.pairwise(epochs)]
    assert sum(again) / len(again) == pytest.approx(here / of, abs=0.05)


def test_draws_follow_the_weights() -> None:
    reads = Counter(make("zipf-0.9").reads)
    total = sum(place**-0.9 for place in range(1, OBJECTS + 1))
    (_, most), *_ = reads.most_common(1)
    expected = traces.EPOCHS * OBJECTS / total
    assert most == pytest.approx(expected, abs=5 * expected**0.5)


def test_curricula_move() -> None:
    drift = make("drift")
    epochs = [set(epoch) for epoch in parts(drift, drift.data)]
    assert len(epochs) == traces.DRIFT_EPOCHS
    assert len(epochs[0] & epochs[1]) == pytest.approx(0.9 * drift.data, abs=1)
    assert not epochs[0] & epochs[11]
    assert len(set(make("grow").reads)) == OBJECTS
    assert len(set(list(make("grow").reads)[: int(0.3 * OBJECTS)])) == int(0.3 * OBJECTS)


def test_jobs_have_orders_and_speeds_of_their_own() -> None:
    trace = make("two-jobs-named")
    assert trace.jobs is not None
    fast, slow = (
        [ino for ino, job in zip(trace.reads, trace.jobs, strict=True) if job == name]
        for name in (1, 2)
    )
    assert len(slow) == pytest.approx(traces.SLOWER * len(fast), abs=1)
    for own in (fast, slow):
        assert len(set(own[:OBJECTS])) == OBJECTS
    assert fast[:OBJECTS] != slow[:OBJECTS]
    # They read at the same time, not one after the other.
    assert set(list(trace.jobs)[: OBJECTS // 10]) == {1, 2}


@pytest.mark.parametrize(("name", "same"), [("same-order-named", True), ("four-jobs-named", False)])
def test_jobs_may_have_one_order(name: str, *, same: bool) -> None:
    trace = make(name)
    assert trace.jobs is not None
    own: dict[int, list[int]] = {job: [] for job in range(1, 5)}
    for ino, job in zip(trace.reads, trace.jobs, strict=True):
        own[job].append(ino)
    assert len({len(reads) for reads in own.values()}) == 1
    # But for what overtakes by a few reads.
    near = [
        sum(a in other[max(0, at - 9) : at + 10] for at, a in enumerate(own[1][:OBJECTS]))
        for other in (own[2], own[3], own[4])
    ]
    assert all((number > 0.99 * OBJECTS) is same for number in near)


@pytest.mark.parametrize("name", [name for name in KINDS if f"{name}-named" in KINDS])
def test_the_same_jobs_with_and_without_names(name: str) -> None:
    assert make(name).jobs is None
    assert make(name).reads == make(f"{name}-named").reads


def test_another_data_set_has_nothing_of_the_first() -> None:
    trace = make("new-data")
    middle = len(trace.reads) // 2
    assert not set(trace.reads[:middle]) & set(trace.reads[middle:])
    assert trace.measured_from == middle + trace.data == 7 * OBJECTS // 2


def test_files_beside_the_data_are_read_all_the_time() -> None:
    trace = make("files-beside")
    beside = [ino - FIRST_INO >= OBJECTS for ino in trace.reads]
    assert sum(beside) / (len(beside) - sum(beside)) == pytest.approx(0.2, abs=0.001)
    middle = len(beside) // 2
    assert sum(beside[:middle]) == pytest.approx(sum(beside[middle:]), rel=0.1)


def test_a_capacity_is_a_share_of_the_data_set() -> None:
    trace = make("drift")
    assert trace.capacity(0.5) == int(0.5 * trace.data)
    sized = traces.with_lognormal_sizes(trace, 1)
    assert sized.sizes is not None
    mean = sum(sized.sizes.values()) / len(sized.sizes)
    assert sized.capacity(0.5) == pytest.approx(0.5 * trace.data * mean, abs=1)
    assert max(sized.sizes.values()) > 4 * mean


def test_accesses_that_a_mount_recorded(tmp_path: Path) -> None:
    path = tmp_path / "accesses"
    path.write_text("20\t17\t300\t5\n10\t16\t100\t0\n30\t18\t0\t5\n40\t16\t100\t0\n")
    trace = traces.recorded(path)
    assert trace == Trace([16, 17, 18, 16], 2, 3, [0, 5, 5, 0], {16: 100, 17: 300, 18: 200})
    path.write_text("10\t16\t0\t0\n")
    assert traces.recorded(path).sizes is None
    path.write_text("10\t16\t0\t0\n10\t16\n")
    with pytest.raises(ValueError, match="line 2"):
        traces.recorded(path)


# ---- caches ------------------------------------------------------------------------------------


def fewest_misses(reads: list[int], capacity: int) -> int:
    """By trying everything."""
    fewest = {frozenset[int](): 0}
    for ino in reads:
        after: dict[frozenset[int], int] = {}
        for held, misses in fewest.items():
            choices = [held]
            if ino not in held:
                misses += 1
                choices += [held - {victim} | {ino} for victim in held]
                if len(held) < capacity:
                    choices.append(held | {ino})
            for choice in choices:
                if len(choice) <= capacity:
                    after[choice] = min(misses, after.get(choice, misses))
        fewest = after
    return min(fewest.values())


@settings(max_examples=200, deadline=None, derandomize=True)
@given(reads=st.lists(st.integers(0, 5), max_size=14), capacity=st.integers(0, 4))
def test_belady_misses_as_little_as_can_be(reads: list[int], capacity: int) -> None:
    assert sum(rivals.belady(reads, capacity)) == fewest_misses(reads, capacity)


def test_a_cache_that_never_evicts_keeps_what_came_first() -> None:
    cache = rivals.NeverEvict(10)
    asked = [(1, 6), (2, 6), (3, 4), (4, 1), (1, 6), (2, 6), (3, 4)]
    assert [cache.read(ino, size, 0) for ino, size in asked] == [False] * 4 + [True, False, True]


def test_lru_is_what_it_says() -> None:
    pytest.importorskip("libcachesim")
    rng = random.Random(1)
    reads = [rng.randrange(FIRST_INO, FIRST_INO + 60) for _ in range(2000)]
    held: list[int] = []
    expected = []
    for ino in reads:
        expected.append(ino in held)
        held = [ino, *(other for other in held if other != ino)][:20]
    cache = rivals.rivals(20)["LRU"]
    assert [cache.read(ino, 1, 0) for ino in reads] == expected


def test_without_the_library_there_are_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    assert list(rivals.rivals(9)) == ["never-evict"]
    monkeypatch.setattr("importlib.import_module", missing)
    assert list(rivals.rivals(100)) == ["never-evict"]
    assert not rivals.is_complete()


def test_samples_are_uniform_after_whatever_left() -> None:
    files = Files()
    for ino in range(40):
        files.add(ino, ino)
    for ino in range(0, 40, 2):
        files.drop(ino)
    assert files.totals() == (20, sum(range(1, 40, 2)))
    drawn = Counter(ino for ino, _ in files.sample_files(random.Random(1), 20_000))
    assert sorted(drawn) == list(range(1, 40, 2))
    assert all(number == pytest.approx(1000, abs=160) for number in drawn.values())
    assert {ino: file.size for ino, file in files.sample_files(random.Random(1), 99)}[39] == 39


# ---- what comes out ----------------------------------------------------------------------------


def test_only_the_second_half_counts() -> None:
    # A cache for all: every object misses once, in the first half.
    trace = traces.permutations(OBJECTS, 1)
    row = measuring.measure(trace, 1.0, 1)
    assert {name: misses.reads for name, misses in row.misses.items()} == dict.fromkeys(
        row.misses, 0.0
    )
    assert row.written == 0.0


def test_what_nobody_can_beat() -> None:
    row = measuring.measure(traces.permutations(OBJECTS, 1), 0.5, 1)
    assert row.misses["Belady"].reads == pytest.approx(0.5, abs=0.01)
    assert row.misses["never-evict"].reads == pytest.approx(0.5, abs=0.001)
    assert row.misses["tierfs"].reads == pytest.approx(0.5, abs=0.02)


def test_bytes_count_where_sizes_differ() -> None:
    sizes = {1: 10, 2: 30}
    trace = Trace([1, 2, 1, 2], 2, 2, None, sizes)
    row = measuring.measure(trace, 0.5, 1)
    # Room for 20 bytes: the larger one can never be kept.
    assert row.misses["never-evict"] == Misses(0.5, 0.75)
    assert "Belady" not in row.misses


def test_it_says_where_it_is_worse_than_it_should_be() -> None:
    def finding(*misses: float) -> Finding:
        rows = [Row(0.5, {"tierfs": Misses(value, value)}) for value in misses]
        return Finding("some", 0.5, 0.5, rows)

    assert not finding(0.51, 0.9, 0.4).too_many
    assert finding(0.53, 0.9, 0.4).too_many
    (row,) = report.grid([finding(0.51)], bytes_too=False).rows
    assert row[:3] == ("some", "0.5", "-")
    assert "0.510" in row


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    argv = ["permutations", "drift", "--objects", "600", "--processes", "1", "--json", str(out)]
    assert policy.main(argv) in (0, 1)
    said = capsys.readouterr()
    assert "permutations" in said.out
    assert "2 of 2: drift" in said.err
    found = json.loads(out.read_text())["traces"]
    assert [(one["trace"], one["share"]) for one in found] == [
        (name, share) for name in ("permutations", "drift") for share in SHARES
    ]
    with pytest.raises(SystemExit) as ended:
        policy.main(["nothing"])
    assert ended.value.code == 2


def test_the_command_replays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "accesses"
    lines = partial(map, "{0}\t{0}\t5\t0\n".format)
    path.write_text("".join(lines([*range(16, 56), *range(16, 56)])))
    assert policy.main(["--replay", str(path)]) == 0
    assert "accesses" in capsys.readouterr().out
    assert policy.main(["--cost", "--objects", "300"]) == 0
    assert "bytes/object" in capsys.readouterr().out
