"""The judge of the order of markers, on names that a file gets back: what is seen there may be what
it was before it was renamed away, or what it is again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.writeback.made_up import PREFIX, Log
from tests.writeback.markers import check_markers
from tests.writeback.recording import Recorder
from tests.writeback.states import History


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)


def kinds(log: Log, recorder: Recorder) -> set[str]:
    history = History(recorder.events, PREFIX)
    return {violation.kind for violation in check_markers(log.requests, history)}


def away_and_back(recorder: Recorder, *between: str) -> None:
    """A file of two bytes is renamed over one of one byte, and back."""
    recorder.write("b", bytes(1))
    recorder.write("a", bytes(2))
    for number, name in enumerate(between, 3):
        recorder.write(name, bytes(number))
    recorder.rename("a", "b")
    recorder.rename("b", "a")


def test_a_name_that_a_file_gets_back_is_judged_by_either_time(recorder: Recorder) -> None:
    away_and_back(recorder)
    assert kinds(Log().put("b", 1).put("a", 2).delete("b"), recorder) == set()


def test_what_took_the_name_meanwhile_need_not_be_seen(recorder: Recorder) -> None:
    recorder.write("a", bytes(1))
    recorder.rename("a", "b")
    recorder.write("a", bytes(2))
    recorder.rename("b", "a")
    assert kinds(Log().put("b", 1).put("a", 1).delete("b"), recorder) == set()


def test_all_before_that_has_to_be_there(recorder: Recorder) -> None:
    away_and_back(recorder, "c")
    assert kinds(Log().put("b", 1).put("a", 2).put("c", 3).delete("b"), recorder) == set()
    assert "order" in kinds(Log().put("b", 1).put("a", 2).delete("b").put("c", 3), recorder)


def test_a_marker_between_the_two_shows_that_it_is_away(recorder: Recorder) -> None:
    recorder.write("a", bytes(1))
    recorder.rename("a", "b")
    recorder.write("latest", bytes(2))
    recorder.rename("b", "a")
    right = Log().put("b", 1).put("latest", 2).put("a", 1).delete("b")
    assert kinds(right, recorder) == set()
    assert "order" in kinds(Log().put("a", 1).put("latest", 2), recorder)
