"""What is fetched ahead of several jobs, in a cache that all of them share."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest

from bench.policy import traces
from bench.policy.simulator import Files, Simulator
from bench.policy.traces import Trace
from tierfs.readahead import policy
from tierfs.readahead.epochs import Class
from tierfs.readahead.policy import AdaptivePolicy, Incoming, Read
from tierfs.readahead.rules import AHEAD_MARGIN, Rule

OBJECTS = 2048
SHARE = 0.5
#: Objects looked at for one to fetch ahead, after each read.
LOOK = 16


class Watched(AdaptivePolicy):
    """Remembers what the last access was."""

    last: Read

    def accessed(self, ino: int, job: int = 0) -> Read:
        self.last = super().accessed(ino, job)
        return self.last


class Cost(NamedTuple):
    """For each read: what was fetched, and how much of it while somebody waited."""

    fetched: float
    missed: float


def cost(trace: Trace, *, ahead: bool) -> Cost:
    """Of the measured part of *trace*; with *ahead*, something is fetched ahead of the job after
    each read if the policy makes room for it."""
    assert trace.jobs is not None
    files = Files()
    watched = Watched(files, rng=random.Random(1))
    node = Simulator(trace.capacity(SHARE), files, watched)
    inos = sorted(set(trace.reads))
    at = dict.fromkeys(trace.jobs, 0)
    missed = filled = 0
    for n, (ino, job) in enumerate(zip(trace.reads, trace.jobs, strict=True)):
        measured = n >= trace.measured_from
        hit = node.read(ino, 1, job)
        missed += measured and not hit
        epochs = watched.last.epochs
        if not ahead or epochs is None or not epochs.read_before or watched.rule is not Rule.EPOCHS:
            continue
        for _ in range(LOOK):
            due = inos[at[job] % OBJECTS]
            at[job] += 1
            if epochs.class_of(due) is Class.DUE and due not in files:
                kept = node.keep(1, Incoming(due, ahead=True))
                filled += measured and kept
                break
    reads = len(trace.reads) - trace.measured_from
    return Cost((missed + filled) / reads, missed / reads)


def test_what_is_fetched_ahead_of_one_of_two_jobs_is_not_fetched_again_for_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trace = traces.two_jobs(OBJECTS, 1)
    without, with_it = cost(trace, ahead=False), cost(trace, ahead=True)
    assert without.fetched == pytest.approx(0.37, abs=0.01)
    assert with_it.fetched < without.fetched + 0.01
    assert with_it.missed < without.missed - 0.03
    # One job needs no such margin: whatever goes for its sake it has read in this epoch.
    monkeypatch.setattr(policy, "SHARED_AHEAD_MARGIN", AHEAD_MARGIN)
    assert cost(trace, ahead=True).fetched > without.fetched + 0.03


def test_the_first_fetched_ahead_in_an_epoch_take_the_place_of_what_was_just_read() -> None:
    """Whatever lies between them and the many that earlier epochs have read."""
    trace = traces.permutations(OBJECTS, 1)
    files = Files()
    watched = Watched(files, rng=random.Random(1))
    node = Simulator(trace.capacity(SHARE), files, watched)
    began = 0
    for n, ino in enumerate(trace.reads):
        node.read(ino, 1)
        epochs = watched.last.epochs
        began = n if watched.last.began else began
        if epochs is None or epochs.ended < 4 or n < began + 16:
            continue
        hits = [ino for ino in trace.reads[began:n] if ino in files]
        due = next(ino for ino in trace.reads[n:] if ino not in files)
        assert hits
        assert epochs.class_of(due) is Class.DUE
        assert node.keep(1, Incoming(due, ahead=True))
        return
    raise AssertionError("five epochs were not told apart")


def test_what_is_declined_leaves_what_is_spent_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room that nobody ahead of its reader is worth may be made for a reader all the same."""
    trace = traces.two_jobs(OBJECTS, 1)
    without = cost(trace, ahead=False)
    monkeypatch.setattr(policy, "SHARED_AHEAD_MARGIN", 1e9)
    assert cost(trace, ahead=True).fetched == pytest.approx(without.fetched, abs=0.01)
