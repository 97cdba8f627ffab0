"""A run's record is what ``bench/SCHEMA.md`` says, and comes back from its file as it was."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import results
from bench.results import Run
from tests.bench_runs import CPU, THROUGHPUT, build_run

DOCUMENT = (Path(__file__).parents[2] / "bench/SCHEMA.md").read_text()
#: Path of a field -> its type, from the table of the document.
FIELDS = dict(re.findall(r"^\| `([^`]+)` \| ([a-z ]+) \|", DOCUMENT, flags=re.MULTILINE))
EXAMPLE = json.loads(DOCUMENT.split("```json\n")[1].split("```")[0])


def type_of(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    return {str: "string", int: "integer", float: "number", dict: "object", list: "array"}[
        type(value)
    ]


def matches(value: object, documented: str) -> bool:
    allowed = documented.split(" or ")
    kind = type_of(value)
    return "any" in allowed or kind in allowed or (kind == "integer" and "number" in allowed)


def complaints(value: Any, path: str = "") -> Iterator[str]:
    """Where *value*, which stands at *path*, is not what `FIELDS` say."""
    if path:
        if path not in FIELDS:
            yield f"{path} is not documented"
            return
        if not matches(value, FIELDS[path]):
            yield f"{path} is {type_of(value)}, documented as {FIELDS[path]}"
        if FIELDS[path] == "any":
            return
    if isinstance(value, list):
        for element in value:
            yield from complaints(element, f"{path}[]")
    if isinstance(value, dict):
        prefix = f"{path}." if path else ""
        for key, inner in value.items():
            fixed = f"{prefix}{key}"
            yield from complaints(inner, fixed if fixed in FIELDS else f"{prefix}*")
        for field in FIELDS:
            parent, _, key = field.rpartition(".")
            if parent == path and key != "*" and not key.endswith("[]") and key not in value:
                yield f"{field} is missing"


def a_run_with_gaps() -> Run:
    run = build_run(rounds=3)
    run.record("warm-seq", "tierfs", 4, {THROUGHPUT: 1e9, CPU: math.nan})
    return run


def test_the_record_of_a_run_is_what_the_document_says() -> None:
    document = json.loads(json.dumps(a_run_with_gaps().to_json(), allow_nan=False))
    assert list(complaints(document)) == []


def test_every_documented_field_is_in_the_record() -> None:
    document = a_run_with_gaps().to_json()

    def paths(value: Any, path: str) -> Iterator[str]:
        if isinstance(value, dict):
            for key, inner in value.items():
                fixed = f"{path}.{key}" if path else key
                name = fixed if fixed in FIELDS else f"{path}.*"
                yield name
                yield from paths(inner, name)
        if isinstance(value, list):
            for inner in value:
                yield f"{path}[]"
                yield from paths(inner, f"{path}[]")

    assert len(FIELDS) > 30
    assert set(FIELDS) - set(paths(document, "")) == set()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda d: d.update(extra=1), "* is not documented"),
        (lambda d: d.pop("machine"), "machine is missing"),
        (lambda d: d["results"][0].pop("unit"), "results[].unit is missing"),
        (lambda d: d["results"][0].update(more=1), "results[].* is not documented"),
        (
            lambda d: d["results"][0].update(repeats=1.5),
            "results[].repeats is number, documented as integer",
        ),
        (
            lambda d: d["cannot"][0].update(error=None),
            "cannot[].error is null, documented as string",
        ),
    ],
)
def test_a_record_that_is_otherwise_is_noticed(change: Any, complaint: str) -> None:
    document = json.loads(json.dumps(EXAMPLE))
    change(document)
    assert list(complaints(document)) == [complaint]


def test_the_example_of_the_document_is_a_record() -> None:
    assert list(complaints(EXAMPLE)) == []
    assert Run.from_json(EXAMPLE).to_json() == EXAMPLE
    assert EXAMPLE["schema"] == results.SCHEMA_VERSION


def test_a_record_comes_back_from_its_file(tmp_path: Path) -> None:
    run = a_run_with_gaps()
    run.write(tmp_path / "run.json")
    again = Run.read(tmp_path / "run.json")
    assert again.to_json() == run.to_json()
    series = again.find("warm-seq", "tierfs", THROUGHPUT)
    assert series is not None
    assert [math.isnan(value) for value in series.values] == [False, False, False, True, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("[]", "not the record of a run"),
        ('{"schema": 1}', "not the record of a run: KeyError"),
        ('{"schema": 99}', "schema 99, this version reads 1"),
        ('{"schema": 1, "results": [null]}', "not the record of a run"),
    ],
)
def test_what_is_no_record_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        Run.read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_round_is_recorded_once() -> None:
    run = Run("", {}, {}, {}, {})
    run.record("warm-seq", "tierfs", 1, {THROUGHPUT: 1})
    with pytest.raises(ValueError, match="round 1 again"):
        run.record("warm-seq", "tierfs", 1, {THROUGHPUT: 2})
    with pytest.raises(ValueError, match="round 0 again"):
        run.record("warm-seq", "tierfs", 0, {THROUGHPUT: 2})
