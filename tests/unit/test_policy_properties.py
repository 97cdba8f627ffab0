"""What holds of the eviction policy whatever is read: in the simulator, which asks it as the fronts
do."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.policy import rivals, traces
from bench.policy.kinds import KINDS
from bench.policy.simulator import Files, Simulator
from bench.policy.traces import Trace
from tierfs.cache.eviction import Victim
from tierfs.index.records import FIRST_INO
from tierfs.readahead.epochs import PAGE
from tierfs.readahead.ghosts import MOST_HELD
from tierfs.readahead.jobs import MOST_JOBS
from tierfs.readahead.policy import AdaptivePolicy, Incoming

# The same examples each time, as in tests/model.
LIMITS = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)
SEEDS = st.integers(0, 2**32)
INOS = st.integers(FIRST_INO, FIRST_INO + 150)
SHARES = st.sampled_from([0.05, 0.2, 0.5, 0.8])


@st.composite
def some_traces(draw: st.DrawFn) -> Trace:
    """Any kind, with few objects, of equal or of different sizes."""
    kind = KINDS[draw(st.sampled_from(sorted(KINDS)))]
    seed = draw(SEEDS)
    trace = kind.make(draw(st.integers(100, 200)), seed)
    return traces.with_lognormal_sizes(trace, seed) if draw(st.booleans()) else trace


def node(capacity: int, seed: int = 1) -> tuple[Simulator, AdaptivePolicy]:
    files = Files()
    policy = AdaptivePolicy(files, rng=random.Random(seed))
    return Simulator(capacity, files, policy), policy


@LIMITS
@given(trace=some_traces(), share=SHARES)
def test_there_is_never_more_than_fits(trace: Trace, share: float) -> None:
    simulator, _ = node(trace.capacity(share))
    for _ in trace.read_by(simulator):
        assert 0 <= simulator.files.bytes <= simulator.capacity


@LIMITS
@given(trace=some_traces(), share=SHARES, seed=SEEDS)
def test_a_seed_decides_everything(trace: Trace, share: float, seed: int) -> None:
    one, other = (list(trace.read_by(node(trace.capacity(share), seed)[0])) for _ in range(2))
    assert one == other


@LIMITS
@given(trace=some_traces(), share=SHARES)
def test_memory_is_that_of_the_known_objects(trace: Trace, share: float) -> None:
    simulator, policy = node(trace.capacity(share))
    for _ in trace.read_by(simulator):
        pass
    pages = {ino // PAGE for ino in trace.reads}
    assert 1 <= len(policy.jobs.all) <= MOST_JOBS
    for epochs in policy.jobs.all:
        assert set(epochs._pages) <= pages
    for ghost in policy._ghosts._ghosts.values():
        assert len(ghost.held) <= MOST_HELD


@LIMITS
@given(
    sizes=st.lists(st.integers(0, 50), max_size=120),
    reads=st.lists(st.integers(0, 150), max_size=300),
    bytes_=st.integers(1, 2000),
    most=st.integers(1, 64),
    used=st.sets(st.integers(0, 120), max_size=20),
    incoming=st.none() | st.builds(Incoming, INOS, st.booleans()),
    seed=SEEDS,
)
def test_victims_are_cached_and_not_in_use_and_distinct(
    sizes: list[int],
    reads: list[int],
    bytes_: int,
    most: int,
    used: set[int],
    incoming: Incoming | None,
    seed: int,
) -> None:
    files = Files()
    for number, size in enumerate(sizes):
        files.add(FIRST_INO + number, size)
    policy = AdaptivePolicy(files, rng=random.Random(seed))
    for number in reads:
        policy.accessed(FIRST_INO + number)
    in_use = {FIRST_INO + number for number in used}
    chosen = policy.choose_victims(bytes_, most, in_use.__contains__, incoming)
    inos = [victim.ino for victim in chosen or []]
    assert all(ino in files and ino not in in_use for ino in inos)
    assert len(set(inos)) == len(inos) <= most
    assert all(victim == Victim(victim.ino) for victim in chosen or [])


def test_enough_is_found_where_it_is() -> None:
    files = Files()
    for ino in range(FIRST_INO, FIRST_INO + 1000):
        files.add(ino, 10)
    policy = AdaptivePolicy(files, rng=random.Random(1))
    assert len(policy.choose_victims(635, 64, lambda _: False) or []) == 64


@LIMITS
@given(seed=SEEDS, every=st.integers(2, 40), share=st.sampled_from([0.1, 0.5]))
def test_what_is_asked_for_again_and_again_is_kept_at_last(
    seed: int, every: int, share: float
) -> None:
    rng = random.Random(seed)
    simulator, _ = node(int(400 * share))
    hits = []
    for number in range(4000):
        if number % every == 0:
            hits.append(simulator.read(FIRST_INO, 1))
        else:
            simulator.read(FIRST_INO + 1 + rng.randrange(400), 1)
    assert any(hits[-len(hits) // 2 :])


@LIMITS
@given(trace=some_traces(), share=SHARES)
def test_none_is_better_than_belady(trace: Trace, share: float) -> None:
    trace = Trace(trace.reads, 0, trace.data, trace.jobs)
    capacity = trace.capacity(share)
    least = sum(rivals.belady(trace.reads, capacity))
    for cache in [node(capacity)[0], *rivals.rivals(capacity).values()]:
        assert sum(not hit for hit in trace.read_by(cache)) >= least
