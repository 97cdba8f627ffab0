"""Log lines: one format, and never a flood."""

from __future__ import annotations

import logging

import pytest

from tierfs.log import RateLimit


def line(number: int) -> logging.LogRecord:
    return logging.LogRecord("tierfs", logging.WARNING, "read.py", number, "failed", (), None)


def test_a_flood_from_one_place_is_cut_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    limit = RateLimit(burst=3, period_s=60)
    assert [limit.filter(line(1)) for _ in range(10)] == [True] * 3 + [False] * 7
    assert limit.filter(line(2)), "another place is not held back by the first"
    now += 61
    record = line(1)
    assert limit.filter(record)
    assert record.getMessage() == "failed [7 similar lines were left out]"
