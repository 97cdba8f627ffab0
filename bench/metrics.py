"""The metrics that scenarios share, so that the same thing has the same name everywhere."""

from __future__ import annotations

from bench.results import Better, Metric


def readers(count: int) -> str:
    """The variant of so many readers at once."""
    return f"{count} reader" + ("s" if count > 1 else "")


def throughput(variant: str = "") -> Metric:
    """Payload that the reader got per second, in 10^6 bytes."""
    return Metric("throughput", "MB/s", Better.HIGHER, variant, headline=True)


def files_per_s(variant: str = "") -> Metric:
    """Files opened, read whole and closed per second, all readers together."""
    return Metric("files", "files/s", Better.HIGHER, variant, headline=True)


def samples_per_s(variant: str = "") -> Metric:
    """Training samples read per second, all readers together."""
    return Metric("samples", "samples/s", Better.HIGHER, variant, headline=True)


def entries_per_s(variant: str = "") -> Metric:
    """Directory entries listed per second."""
    return Metric("entries", "entries/s", Better.HIGHER, variant, headline=True)


def latency_us(which: str, variant: str = "", *, headline: bool = False) -> Metric:
    """One percentile of what the reader waited for one operation."""
    return Metric(f"latency {which}", "us", Better.LOWER, variant, headline)


def cpu_s_per_gib(variant: str = "") -> Metric:
    """CPU of the subject's processes, the reader's excluded."""
    return Metric("daemon CPU", "s/GiB", Better.LOWER, variant)


def cpu_us_per(what: str, variant: str = "") -> Metric:
    """CPU of the subject's processes for each *what*, the reader's excluded."""
    return Metric("daemon CPU", f"us/{what}", Better.LOWER, variant)


def machine_cpu(variant: str = "") -> Metric:
    """How busy all processors were, with what the readers and the server used."""
    return Metric("machine CPU", "% of all", Better.NEITHER, variant)


def lake_requests(variant: str = "") -> Metric:
    """Requests that reached the server meanwhile, counted there."""
    return Metric("lake requests", "requests", Better.LOWER, variant)


def lake_bytes(variant: str = "") -> Metric:
    """Body bytes that the server sent meanwhile."""
    return Metric("from the lake", "MB", Better.LOWER, variant)


def lake_bytes_sent(variant: str = "") -> Metric:
    """Body bytes that the server received meanwhile."""
    return Metric("to the lake", "MB", Better.LOWER, variant)


def memory(variant: str = "") -> Metric:
    """The most that RssAnon + RssShmem of the subject's processes together were seen to be."""
    return Metric("peak memory", "MB", Better.LOWER, variant)


def disk(variant: str = "") -> Metric:
    """What the subject's cache took on disk at the end."""
    return Metric("space on disk", "MB", Better.NEITHER, variant)
