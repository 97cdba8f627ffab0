"""Sizes, durations and shares read back what they write."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierfs import units


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1K", 1024),
        ("16M", 16 << 20),
        ("800G", 800 << 30),
        ("800GiB", 800 << 30),
        ("1.5T", 3 << 39),
        ("2p", 2 << 50),
        (" 7 g ", 7 << 30),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize(("text", "rate"), [("200M/s", 200 << 20), ("1.5G", 3 << 29)])
def test_rates(text: str, rate: int) -> None:
    assert units.parse_rate(text) == rate
    assert units.parse_rate(units.format_rate(rate)) == rate


@pytest.mark.parametrize("text", ["0M", "200", "200M/h", "M/s"])
def test_rates_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        units.parse_rate(text)


@pytest.mark.parametrize("text", ["", "G", "5", "5B", "5GB", "5X", "5Gi", "-5G", "5 G G", "1e3G"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|unit|ambiguous"):
        units.parse_size(text)


@given(st.integers(min_value=1, max_value=1 << 40))
def test_a_size_is_read_back(kib: int) -> None:
    assert units.parse_size(units.format_size(kib * 1024)) == kib * 1024


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("250ms", 0.25), ("60s", 60), ("5m", 300), ("1h", 3600), ("7d", 604800)],
)
def test_durations(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == seconds
    assert units.parse_duration(units.format_duration(seconds)) == seconds


def test_for_ever() -> None:
    assert units.parse_duration("inf") == math.inf
    assert units.format_duration(math.inf) == "inf"


@pytest.mark.parametrize("text", ["", "5", "-5s", "s", "5 parsecs", "nan", "1h30m"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="a duration needs a unit"):
        units.parse_duration(text)


@pytest.mark.parametrize(("text", "share"), [("10%", 0.1), ("0.1", 0.1), ("0", 0.0)])
def test_shares(text: str, share: float) -> None:
    assert units.parse_fraction(text) == pytest.approx(share)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1536, "1.50 KiB"), (800 << 30, "800 GiB"), (5 << 60, "5120 PiB")],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert units.human_size(size) == text
