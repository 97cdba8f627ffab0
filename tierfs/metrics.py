"""Every metric of a mount: name, kind, unit and meaning, in one table.

Values come from the same structure that ``tierfs status --json`` prints; `render` writes them in
the Prometheus text format, as ``tierfs status --metrics`` prints it for a textfile collector. The
only label is the mount point: never a key, a path or an inode. Gauges that count what is in flight
read zero after an unmount.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Metric(NamedTuple):
    """One metric: *path* is where its value stands in the status, dots between the keys."""

    name: str
    kind: str
    path: str
    help: str


METRICS: tuple[Metric, ...] = (
    Metric(
        "tierfs_uptime_seconds", "gauge", "uptime_s", "Seconds since the control plane started."
    ),
    Metric(
        "tierfs_restarts_total",
        "counter",
        "restarts",
        "Processes that the keeper had to start again.",
    ),
    Metric(
        "tierfs_memory_bytes",
        "gauge",
        "memory_bytes",
        "RssAnon and RssShmem of all processes of the mount.",
    ),
    Metric("tierfs_lake_get_requests_total", "counter", "lake_requests.get", "GETs sent."),
    Metric("tierfs_lake_head_requests_total", "counter", "lake_requests.head", "HEADs sent."),
    Metric("tierfs_lake_list_requests_total", "counter", "lake_requests.list", "Listing pages."),
    Metric("tierfs_lake_retries_total", "counter", "lake_requests.retries", "Requests sent again."),
    Metric(
        "tierfs_lake_slow_downs_total",
        "counter",
        "lake_requests.slow_downs",
        "Answers that asked for fewer requests (503 SlowDown, 429).",
    ),
    Metric(
        "tierfs_lake_read_bytes_total",
        "counter",
        "lake_requests.bytes_read",
        "Payload bytes received from the lake.",
    ),
    Metric("tierfs_names_entries", "gauge", "namespace.entries", "Names known to the index."),
    Metric(
        "tierfs_open_directories",
        "gauge",
        "namespace.open_directories",
        "Directory handles that the kernel holds.",
    ),
    Metric("tierfs_cache_files", "gauge", "cache.cached_files", "Files with cached bytes."),
    Metric("tierfs_cache_bytes", "gauge", "cache.cached_bytes", "Bytes in the cache."),
    Metric("tierfs_cache_limit_bytes", "gauge", "cache.limit_bytes", "What the cache may hold."),
    Metric("tierfs_read_hits_total", "counter", "cache.hits", "Reads that needed no lake byte."),
    Metric(
        "tierfs_read_misses_total", "counter", "cache.misses", "Reads that waited for the lake."
    ),
    Metric(
        "tierfs_read_hit_bytes_total", "counter", "cache.hit_bytes", "Bytes read without the lake."
    ),
    Metric(
        "tierfs_read_miss_bytes_total", "counter", "cache.miss_bytes", "Bytes read from the lake."
    ),
    Metric(
        "tierfs_cache_bad_blocks_total",
        "counter",
        "cache.bad_blocks",
        "Cached blocks that failed verification and were fetched again.",
    ),
    Metric(
        "tierfs_cache_declined_total",
        "counter",
        "cache.declined",
        "Fetches that were not kept, because what is cached is worth more.",
    ),
    Metric(
        "tierfs_cache_declined_bytes_total", "counter", "cache.declined_bytes", "Bytes of those."
    ),
    Metric(
        "tierfs_cache_evicted_extents_total",
        "counter",
        "cache.evicted_extents",
        "Extents of 8 MiB that left incomplete files, which stay otherwise.",
    ),
    Metric("tierfs_cache_evicted_bytes_total", "counter", "cache.evicted_bytes", "Bytes evicted."),
    Metric("tierfs_open_files", "gauge", "cache.open_handles", "File handles the kernel holds."),
    Metric(
        "tierfs_fetches_in_flight", "gauge", "cache.in_flight", "Requests to the lake in flight."
    ),
    Metric(
        "tierfs_buffer_bytes", "gauge", "cache.buffer_bytes", "Bytes taken from the memory budget."
    ),
    Metric(
        "tierfs_cache_streaming",
        "gauge",
        "cache.streaming",
        "1 while the cache disk is full or failing and reads stream from the lake.",
    ),
    Metric(
        "tierfs_writeback_unflushed_files",
        "gauge",
        "writing.unflushed_files",
        "Files that are closed and not in the lake yet.",
    ),
    Metric(
        "tierfs_writeback_unflushed_bytes",
        "gauge",
        "writing.unflushed_bytes",
        "Bytes of those.",
    ),
    Metric(
        "tierfs_writeback_oldest_unflushed_seconds",
        "gauge",
        "writing.oldest_unflushed_s",
        "Age of the oldest change that is not in the lake.",
    ),
    Metric(
        "tierfs_writeback_upload_bytes_per_second",
        "gauge",
        "writing.upload_bytes_per_s",
        "What uploads do now.",
    ),
    Metric(
        "tierfs_writeback_uploaded_bytes_total",
        "counter",
        "writing.bytes_uploaded",
        "Bytes of content that the lake has taken.",
    ),
    Metric(
        "tierfs_writeback_published_total",
        "counter",
        "writing.published",
        "Changes that the lake has taken.",
    ),
    Metric(
        "tierfs_writeback_acknowledged_lsn",
        "gauge",
        "writing.acknowledged_lsn",
        "Place in the journal of the last change.",
    ),
    Metric(
        "tierfs_writeback_held_names",
        "gauge",
        "writing.held_names",
        "Temporary names, which stay on this node.",
    ),
    Metric(
        "tierfs_writeback_open_handles",
        "gauge",
        "writing.open_handles",
        "File handles below write-back mounts.",
    ),
    Metric(
        "tierfs_writeback_frozen_roots",
        "gauge",
        "writing.frozen_roots",
        "Roots that go no further before somebody mends something.",
    ),
    Metric(
        "tierfs_writeback_late_roots",
        "gauge",
        "writing.late_roots",
        "Roots with a change older than max_unflushed_age.",
    ),
    Metric(
        "tierfs_writeback_given_up",
        "gauge",
        "writing.given_up",
        "Changes that are here alone, because somebody gave them up.",
    ),
    Metric(
        "tierfs_writeback_never_closed",
        "gauge",
        "writing.never_closed",
        "Files that were open when tierfs was killed, and are here alone.",
    ),
    Metric(
        "tierfs_staging_bytes",
        "gauge",
        "writing.staging.used_bytes",
        "Bytes on the disk that are written and not handed over to the cache.",
    ),
    Metric(
        "tierfs_staging_budget_bytes",
        "gauge",
        "writing.staging.budget_bytes",
        "How many there may be.",
    ),
    Metric(
        "tierfs_staging_waiting_writers",
        "gauge",
        "writing.staging.waiting_writers",
        "Writers who wait for room.",
    ),
    Metric(
        "tierfs_staging_refused_total",
        "counter",
        "writing.staging.refused_writes",
        "Writes that got ENOSPC, because waiting would not have helped.",
    ),
)


def value_at(status: Mapping[str, Any], path: str) -> float | None:
    """The number at *path* in a status, or None where this mount has none."""
    node: Any = status
    for part in path.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return float(node) if isinstance(node, (int, float, bool)) else None


def render(*statuses: Mapping[str, Any]) -> str:
    """All metrics of *statuses* in the Prometheus text format, each mount's with its mount
    point."""
    lines: list[str] = []
    for metric in METRICS:
        values = [(status, value_at(status, metric.path)) for status in statuses]
        found = [(status, value) for status, value in values if value is not None]
        if found:
            lines += [
                f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}",
            ]  # fmt: skip
        for status, value in found:
            text = repr(int(value)) if value.is_integer() else repr(value)
            lines.append(f"{metric.name}{_label(status)} {text}")
    return "\n".join(lines) + "\n"


def _label(status: Mapping[str, Any]) -> str:
    where = status.get("mountpoint")
    if not where:
        return ""
    text = str(where).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{{mountpoint="{text}"}}'
