"""Metrics are a view of the status: every one finds its value there."""

from __future__ import annotations

from tierfs.metrics import METRICS, render, value_at


def test_names_are_unique_and_carry_their_unit() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    for metric in METRICS:
        assert metric.name.startswith("tierfs_")
        assert (metric.kind == "counter") == metric.name.endswith("_total"), metric.name


def test_rendering_passes_over_what_a_mount_does_not_have() -> None:
    text = render({"uptime_s": 1.5, "cache": {"cached_files": 3, "streaming": True}})
    assert "tierfs_uptime_seconds 1.5\n" in text
    assert "tierfs_cache_files 3\n" in text
    assert "tierfs_cache_streaming 1\n" in text
    assert "tierfs_lake" not in text


def test_mounts_are_told_apart_by_their_mount_points() -> None:
    strange = '/mnt/a "b"\\\n'
    text = render({"mountpoint": "/mnt/a", "uptime_s": 1}, {"mountpoint": strange, "uptime_s": 2})
    assert text.count("# TYPE tierfs_uptime_seconds gauge\n") == 1
    assert 'tierfs_uptime_seconds{mountpoint="/mnt/a"} 1\n' in text
    assert 'tierfs_uptime_seconds{mountpoint="/mnt/a \\"b\\"\\\\\\n"} 2\n' in text
    assert text.count("\n") == 4


def test_a_path_through_a_value_is_no_value() -> None:
    assert value_at({"a": 1}, "a.b") is None
    assert value_at({"a": {"b": "text"}}, "a.b") is None
