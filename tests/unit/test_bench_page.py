"""A run as a page and as Markdown: every figure is there, and nothing from elsewhere."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import bench
from bench import figures, page, performance, plot, table
from bench.results import Run
from tests.bench_runs import LATENCY, THROUGHPUT, build_run


class Elements(HTMLParser):
    """What a browser would make of a page: its elements, and its text without markup."""

    #: Elements that have no end.
    VOID = ("meta", "br", "path", "use", "rect")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def run() -> Run:
    return build_run(speed={"tierfs-native": 1.01})


@pytest.fixture(scope="module")
def html_text(run: Run) -> str:
    return page.render(run)


@pytest.fixture(scope="module")
def elements(html_text: str) -> Elements:
    return Elements(html_text)


def shown(run: Run, scenario: str, metric: Any) -> figures.Scale:
    return figures.scale(
        metric.unit,
        [s.median for s in run.series if (s.scenario, s.metric) == (scenario, metric)],
    )


def test_every_figure_is_on_the_page(run: Run, elements: Elements) -> None:
    text = re.sub(r"\s+", " ", elements.text)
    for series in run.series:
        scale = shown(run, series.scenario, series.metric)
        rounds = " ".join(scale.text(value) for value in series.values)
        assert rounds in text
        assert scale.spread(series) in text


def test_every_headline_has_a_chart_with_a_text_alternative(run: Run, elements: Elements) -> None:
    labels = [attrs["aria-label"] or "" for tag, attrs in elements.found if tag == "svg"]
    # The summary; three headlines; CPU and memory of one scenario.
    assert len(labels) == 6
    for scenario, metric in (("warm-seq", THROUGHPUT), ("warm-rand4k", LATENCY)):
        label = next(one for one in labels if one.startswith(f"{scenario}: {metric.name}, "))
        scale = shown(run, scenario, metric)
        for subject in run.subjects(scenario):
            series = run.find(scenario, subject, metric)
            assert series is not None
            assert f"{subject} {scale.spread(series)}" in label
    assert any("s3fs cannot" in label for label in labels)


def test_the_page_needs_nothing_from_elsewhere(html_text: str, elements: Elements) -> None:
    loading = {"script", "link", "img", "iframe", "object", "embed", "image", "video", "audio"}
    identifiers = [attrs["id"] for _, attrs in elements.found if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))
    for tag, attrs in elements.found:
        assert tag not in loading
        assert not {"src", "srcset", "background", "action", "poster"} & set(attrs)
        for name in ("href", "xlink:href"):
            target = attrs.get(name) or "#summary"
            if tag == "a" and not target.startswith("#"):
                continue  # A link to documentation, followed by nobody but a reader.
            assert target.startswith("#")
            assert target[1:] in identifiers
    assert set(re.findall(r"url\((.)", html_text)) <= {"#"}
    assert "@import" not in html_text
    policy = [attrs.get("content") for _, attrs in elements.found if "http-equiv" in attrs]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_charts_take_their_colours_from_the_page(html_text: str) -> None:
    drawings = "".join(re.findall(r"<svg.*?</svg>", html_text, flags=re.DOTALL))
    assert re.findall(r"(?:fill|stroke): (#\w+)", drawings) == []
    for variable in set(re.findall(r"var\((--\w+)\)", drawings)):
        # Light, dark, and paper.
        assert html_text.count(f"{variable}: #") == 3


def test_settings_and_errors_are_there_and_markup_in_them_is_text(elements: Elements) -> None:
    for words in (
        "juicefs mount --cache CACHE BUCKET DIRECTORY",
        "https://juicefs.example/docs",
        "juicefs & its cache",
        "s3fs: unable to access <MOUNTPOINT>: Input/output error",
        "A <fast> CPU",
        "0.1.0, commit 0123456789ab",
        "no random reads",
    ):
        assert words in elements.text


def test_the_same_run_is_the_same_page(run: Run, html_text: str) -> None:
    assert page.render(run) == html_text
    assert performance.render([run]) == performance.render([run])


def test_a_run_without_local_has_no_summary_chart(run: Run) -> None:
    alone = build_run(rounds=2)
    alone.series = [series for series in alone.series if series.subject == "tierfs"]
    assert "No scenario has figures of the local file system" in page.render(alone)


def test_a_page_of_nothing_is_a_page() -> None:
    Elements(page.render(Run("", {}, {}, {}, {})))
    assert performance.render([Run("", {}, {}, {}, {})]).startswith("# Performance\n")


def test_every_figure_is_in_the_markdown(run: Run) -> None:
    text = performance.render([run])
    for series in run.series:
        spread = shown(run, series.scenario, series.metric).spread(series)
        assert re.search(rf"^\| {series.subject} \|.* {re.escape(spread)} \|", text, re.MULTILINE)
    for words in (
        "Generated by `python -m bench plot",
        "tierfs 0.1.0, commit 0123456789ab, measured 2026-01-02T03:04:05+00:00",
        "- cpu: A \\<fast> CPU",
        "| s3fs | s3fs: unable to access \\<MOUNTPOINT>: Input/output error |",
        "- command: `rclone mount --cache CACHE BUCKET DIRECTORY`",
        "- source: https://rclone.example/docs",
    ):
        assert words in text
    columns = {line.count(" | ") for line in text.splitlines() if line.startswith("| subject")}
    assert columns == {1, 4}


def test_what_a_run_that_was_cut_off_lacks_is_said() -> None:
    run = build_run()
    words = "mount, train had not been measured by then"
    renders = (page.render, lambda run: performance.render([run]), table.render)
    assert not any(words in " ".join(render(run).split()) for render in renders)
    run.options["scenarios"] = [*run.scenarios, "mount", "train"]
    assert all(words in " ".join(render(run).split()) for render in renders)
    other = Run("", {}, {}, {}, {})
    other.scenarios = {"mount": {}, "train": {}}
    assert "had not been measured" not in performance.render([run, other])


def test_the_command_writes_where_it_is_told(
    run: Run, html_text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "run.json"
    run.write(record)
    assert plot.main([str(record)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'run.html'}\n"
    assert (tmp_path / "run.html").read_text() == html_text
    assert plot.main([str(record), "--markdown", "-o", str(tmp_path / "P.md")]) == 0
    assert (tmp_path / "P.md").read_text() == performance.render([run])


def test_a_document_of_several_runs_says_whose_each_figure_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = build_run(), build_run()
    other.started = "2026-01-03T00:00:00+00:00"
    records = [tmp_path / "one.json", tmp_path / "other.json"]
    one.write(records[0])
    other.write(records[1])
    command = [*map(str, records), "--markdown", "-o", str(tmp_path / "P.md")]
    assert plot.main(command) == 2
    assert "measured by more than one of the runs" in capsys.readouterr().err
    other.scenarios = {}
    other.series = []
    other.cannot = []
    other.write(records[1])
    assert plot.main(command) == 0
    text = (tmp_path / "P.md").read_text()
    for run in (one, other):
        assert f"measured {run.started}." in text
        assert f"## Machine ({run.started})" in text
        assert f"## Settings ({run.started})" in text
    with pytest.raises(SystemExit):
        plot.main([*map(str, records)])
    assert "a page is of one run" in capsys.readouterr().err


@pytest.mark.parametrize("commit", ["0123456", "0123456789abcdef-dirty"])
def test_the_document_is_of_a_commit_that_can_be_checked_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], commit: str
) -> None:
    run = build_run()
    run.versions["tierfs"] = f"0.1.0 ({commit})"
    run.write(tmp_path / "run.json")
    assert plot.main([str(tmp_path / "run.json"), "--markdown"]) == 2
    assert f"({commit}) is no commit" in capsys.readouterr().err
    assert plot.main([str(tmp_path / "run.json")]) == 0


def test_the_command_says_in_one_line_why_it_cannot(
    run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert plot.main([str(tmp_path / "none.json")]) == 2
    assert re.fullmatch(r"bench plot: .*none\.json.*\n", capsys.readouterr().err)
    run.write(tmp_path / "run.json")
    monkeypatch.delattr(bench, "page")
    monkeypatch.setitem(sys.modules, "bench.page", None)
    assert plot.main([str(tmp_path / "run.json")]) == 2
    assert "pip install -r requirements-dev.txt" in capsys.readouterr().err
    assert plot.main([str(tmp_path / "run.json"), "--markdown"]) == 0
