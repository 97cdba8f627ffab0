"""rclone mount, with its full VFS cache."""

from __future__ import annotations

from bench.subjects.base import Bucket, CannotError, Place, Settings
from bench.subjects.foreground import ForegroundPeer, binary, shown

_DAY = "24h"
_EXPLAIN_S = 10.0


def _remote(bucket: Bucket) -> str:
    return f":s3:{bucket.name}/{bucket.prefix}".rstrip("/")


def _endpoint(bucket: Bucket) -> list[str]:
    return [
        "--config=",
        "--s3-provider=Other",
        "--s3-env-auth",
        f"--s3-endpoint={bucket.endpoint}",
        f"--s3-region={bucket.region}",
        "--s3-force-path-style",
        "--s3-list-version=2",
    ]


class Rclone(ForegroundPeer):
    """``rclone mount`` of rclone 1.68 or newer."""

    name = "rclone"

    @staticmethod
    def arguments(bucket: Bucket, place: Place) -> list[str]:
        argv = [
            "rclone",
            "mount",
            _remote(bucket),
            str(place.directory),
            *_endpoint(bucket),
            "--vfs-cache-mode=full",
            f"--cache-dir={place.cache}",
            f"--vfs-cache-max-age={_DAY}",
            "--vfs-fast-fingerprint",
            "--use-server-modtime",
            "--vfs-read-chunk-streams=16",
            "--vfs-read-chunk-size=4M",
            f"--dir-cache-time={_DAY}",
            f"--attr-timeout={_DAY}",
        ]
        if place.cache_bytes is not None:
            argv.append(f"--vfs-cache-max-size={place.cache_bytes}B")
            argv.append("--vfs-cache-poll-interval=1s")
        if place.memory_bytes is not None:
            argv.append(f"--max-buffer-memory={place.memory_bytes}B")
        if not place.writable:
            argv.append("--read-only")
        return argv

    def explain(self, bucket: Bucket, place: Place, environment: dict[str, str]) -> str:
        # The mount is silent while it tries again, which takes minutes.
        argv = [binary("rclone"), "lsf", "--max-depth=1", "--retries=1", "--low-level-retries=1"]
        try:
            self.run([*argv, *_endpoint(bucket), _remote(bucket)], environment, _EXPLAIN_S)
        except CannotError as error:
            return str(error)
        return ""

    settings = Settings(
        command=shown(arguments, cache_bytes=10 << 30, memory_bytes=1 << 30),
        source="https://rclone.org/commands/rclone_mount/ (VFS File Caching, Fingerprinting, "
        "VFS Chunked Reading, VFS Performance, Attribute caching)",
        notes=[
            "--vfs-fast-fingerprint: recommended there for s3.",
            '--use-server-modtime: S3 "benefits hugely" from this or --no-modtime; this one keeps '
            "the objects' times.",
            "--vfs-read-chunk-streams=16 --vfs-read-chunk-size=4M: its starting point for "
            "high-performance object stores.",
            "--dir-cache-time, --vfs-cache-max-age: longer than a run, so that nothing is listed "
            "again or evicted by age (the defaults are 5 minutes and 1 hour).",
            "--attr-timeout: longer than a run (default 1 s); safe, says the page, where no "
            "file changes behind rclone.",
            "Writing: its default, upload 5 s after the file was closed (--vfs-write-back).",
            "--vfs-cache-poll-interval=1s: the cache may exceed --vfs-cache-max-size until it is "
            "looked at; in the default minute all of a small data set would be in it.",
            "GOMEMLIMIT is the run's limit of memory, where it has one: with Go's default rclone "
            "does not move in a cgroup of 128 MiB.",
        ],
    )
