"""A run that was cut off goes on where it was, and with nothing that was measured otherwise."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from bench.results import Better, Metric, Run
from bench.run import _resumed, main

FIGURE = Metric("throughput", "MB/s", Better.HIGHER, headline=True)


def a_run(
    started: str = "2026-01-01T00:00:00+00:00", differing: dict[str, Any] | None = None
) -> Run:
    parts: dict[str, Any] = {
        "options": {"seed": 1},
        "machine": {"cpus": 2, "load_before": 0.5},
        "versions": {"tierfs": "0.1.0 (abc)"},
        "settings": {"tierfs": {"notes": ("a",)}},
    }
    return Run(started, **(parts | (differing or {})))


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    """What a run leaves that was cut off after its first scenario."""
    run = a_run()
    run.scenarios["warm-seq"] = {"question": "how fast?"}
    run.record("warm-seq", "tierfs", 0, {FIGURE: 300.0})
    run.write(tmp_path / "run.json.partial")
    return tmp_path / "run.json.partial"


def test_what_was_measured_is_kept(partial: Path) -> None:
    later = a_run("2026-01-02T00:00:00+00:00", {"machine": {"cpus": 2, "load_before": 0.1}})
    gone_on_with = _resumed(argparse.ArgumentParser(), partial, later)
    assert list(gone_on_with.scenarios) == ["warm-seq"]
    found = gone_on_with.find("warm-seq", "tierfs", FIGURE)
    assert found is not None
    assert found.values == [300.0]
    assert gone_on_with.started == a_run().started
    assert gone_on_with.options["resumed"] == [later.started]
    assert gone_on_with.machine["load_before"] == 0.5
    gone_on_with.write(partial)
    again = _resumed(argparse.ArgumentParser(), partial, a_run("2026-01-03T00:00:00+00:00"))
    assert again.options["resumed"] == [later.started, "2026-01-03T00:00:00+00:00"]


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("options", {"seed": 2}),
        ("machine", {"cpus": 64, "load_before": 0.5}),
        ("versions", {"tierfs": "0.1.0 (def)"}),
        ("settings", {"tierfs": {"notes": ("b",)}}),
    ],
)
def test_what_was_measured_otherwise_is_refused(
    partial: Path, capsys: pytest.CaptureFixture[str], part: str, other: dict[str, object]
) -> None:
    with pytest.raises(SystemExit):
        _resumed(argparse.ArgumentParser(), partial, a_run(differing={part: other}))
    said = capsys.readouterr().err
    assert f"other {part} ({next(iter(other))})" in said
    assert "without --resume" in said


def test_nothing_to_go_on_with_is_a_beginning(tmp_path: Path) -> None:
    run = a_run()
    assert _resumed(argparse.ArgumentParser(), tmp_path / "none.partial", run) is run


def test_what_is_no_record_is_refused(partial: Path, capsys: pytest.CaptureFixture[str]) -> None:
    partial.write_text("{}")
    with pytest.raises(SystemExit):
        _resumed(argparse.ArgumentParser(), partial, a_run())
    assert str(partial) in capsys.readouterr().err


def test_there_is_no_going_on_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["warm-seq", "--subjects", "local", "--resume"])
    assert "--json" in capsys.readouterr().err
