"""What two runs have in common: noise is none of it, a real change all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import compare
from bench.compare import Verdict
from bench.results import Cannot, Run
from tests.bench_runs import MEMORY, SPACE, THROUGHPUT, build_run


def changes(before: Run, after: Run) -> set[tuple[str, str, str, Verdict]]:
    return {
        (d.scenario, d.subject, str(d.metric), d.verdict)
        for d in compare.differences(before, after)
        if d.verdict is not Verdict.SAME
    }


def run_compare(tmp_path: Path, before: Run, after: Run, *options: str) -> int:
    before.write(tmp_path / "a.json")
    after.write(tmp_path / "b.json")
    return compare.main([str(tmp_path / "a.json"), str(tmp_path / "b.json"), *options])


def test_a_run_is_the_same_as_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = build_run()
    assert changes(run, run) == set()
    assert run_compare(tmp_path, run, run) == 0
    assert f"{len(run.series)} figures compared: {len(run.series)} unchanged" in (
        capsys.readouterr().out
    )


def test_noise_is_no_change() -> None:
    seeds = range(20)
    found = [
        change
        for seed in seeds
        for change in changes(
            build_run(seed=seed, noise=0.1), build_run(seed=seed + 100, noise=0.1)
        )
    ]
    figures = len(build_run().series) * len(seeds)
    assert len(found) < 0.01 * figures


def test_another_machine_changes_what_is_local_only() -> None:
    found = changes(build_run(), build_run(seed=2, machine=0.5))
    assert {(subject, verdict) for _, subject, _, verdict in found} == {("local", Verdict.WORSE)}


def test_a_real_change_is_found_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = build_run(), build_run(seed=2, speed={"tierfs": 0.85})
    worse = {
        ("warm-seq", "tierfs", "throughput", Verdict.WORSE),
        ("warm-seq", "tierfs", "throughput, 4 readers", Verdict.WORSE),
        ("warm-seq", "tierfs", "daemon CPU", Verdict.WORSE),
        ("warm-rand4k", "tierfs", "latency", Verdict.WORSE),
    }
    assert changes(before, after) == worse
    assert changes(after, before) == {(*change[:3], Verdict.BETTER) for change in worse}
    assert run_compare(tmp_path, before, after) == 1
    out = capsys.readouterr().out
    assert "\nworse:\n" in out
    assert "rclone" not in out
    assert max(map(len, out.splitlines())) <= 120 + len(str(tmp_path))
    assert run_compare(tmp_path, after, before) == 0
    assert "\nbetter:\n" in capsys.readouterr().out


def test_a_peer_that_got_worse_is_shown_and_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_compare(tmp_path, build_run(), build_run(speed={"rclone": 0.2})) == 0
    assert "rclone" in capsys.readouterr().out


def test_what_has_no_ratio_is_judged_as_it_is() -> None:
    found = changes(build_run(), build_run(seed=2, memory=130e6))
    assert ("warm-seq", "tierfs", "memory", Verdict.WORSE) in found


def test_a_sure_change_of_less_than_the_threshold_is_none() -> None:
    before, after = build_run(noise=0.001), build_run(noise=0.001, memory=104e6)
    assert changes(before, after) == set()
    assert changes(before, build_run(noise=0.001, memory=107e6)) != set()


def test_two_rounds_are_no_evidence() -> None:
    found = changes(build_run(rounds=2), build_run(rounds=2, speed={"tierfs": 0.5}))
    assert {verdict for *_, verdict in found} == {Verdict.UNSURE}


def test_a_fact_is_neither_better_nor_worse() -> None:
    before, after = build_run(), build_run()
    series = after.find("warm-seq", "tierfs", SPACE)
    assert series is not None
    series.values = [2 * value for value in series.values]
    assert changes(before, after) == {("warm-seq", "tierfs", "space on disk", Verdict.CHANGED)}


def test_what_tierfs_cannot_do_any_more_is_worse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = build_run(), build_run()
    after.series = [s for s in after.series if (s.scenario, s.subject) != ("warm-seq", "tierfs")]
    assert run_compare(tmp_path, before, after) == 0, "it may not have been asked to"
    after.cannot.append(Cannot("warm-seq", "tierfs", "Transport endpoint is not connected"))
    capsys.readouterr()
    assert run_compare(tmp_path, before, after) == 1
    out = capsys.readouterr().out
    assert "cannot any more:\n  warm-seq, tierfs: Transport endpoint" in out
    assert run_compare(tmp_path, after, before) == 0
    assert "could not before:\n  warm-seq, tierfs" in capsys.readouterr().out


def test_all_shows_what_has_not_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = build_run()
    assert run_compare(tmp_path, run, run, "--all") == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("geesefs" in line for line in lines) == sum(
        series.subject == "geesefs" for series in run.series
    )


def test_it_says_what_else_was_different(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = build_run(), build_run()
    after.machine["cpu"] = "another"
    after.scenarios["warm-seq"]["files"] = 9
    run_compare(tmp_path, before, after)
    out = capsys.readouterr().out
    assert "machines differ: cpu\n" in out
    assert "scenarios differ: warm-seq\n" in out
    assert "versions differ" not in out


def test_runs_that_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = build_run(), build_run(seed=2, machine=3.0)
    assert run_compare(tmp_path, *runs, "--agree", "25") == 0
    assert "20 of 20 ratios agree within 25 %" in capsys.readouterr().out


def test_runs_that_do_not_agree_on_one_ratio(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = build_run(), build_run()
    series = after.find("warm-seq", "rclone", THROUGHPUT)
    assert series is not None
    series.values = [1.5 * value for value in series.values]
    assert run_compare(tmp_path, before, after, "--agree", "25") == 1
    out = capsys.readouterr().out
    assert "19 of 20 ratios agree" in out
    assert sum("rclone" in line for line in out.splitlines()) == 1
    assert run_compare(tmp_path, before, after, "--agree", "60") == 0
    assert run_compare(tmp_path, after, before, "--agree", "25") == 1


def test_a_ratio_that_a_run_does_not_stand_by_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calm, wild = build_run(), build_run(seed=2, noise=0.8)
    both = compare.agreement(calm, wild, 0.25)
    assert both.doubted > 0
    assert both.compared + both.doubted == 20
    run_compare(tmp_path, calm, wild, "--agree", "25")
    assert f"{both.doubted} more are left out" in capsys.readouterr().out


def test_agreement_wants_something_to_agree_on(tmp_path: Path) -> None:
    empty = Run("", {}, {}, {}, {})
    assert run_compare(tmp_path, build_run(), empty, "--agree", "25") == 1
    alone = Run("", {}, {}, {}, {})
    alone.record("warm-seq", "tierfs", 0, {MEMORY: 1})
    assert run_compare(tmp_path, alone, alone, "--agree", "25") == 1


@pytest.mark.parametrize("text", [None, "", "[]", '{"schema": 99}'])
def test_what_cannot_be_read_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None
) -> None:
    build_run().write(tmp_path / "a.json")
    if text is not None:
        (tmp_path / "b.json").write_text(text)
    assert compare.main([str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "b.json" in captured.err
