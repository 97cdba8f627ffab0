"""GeeseFS, with its disk cache."""

from __future__ import annotations

from bench.subjects.base import Bucket, Place, Settings
from bench.subjects.foreground import ForegroundPeer, shown


class Geesefs(ForegroundPeer):
    """``geesefs``."""

    name = "geesefs"

    @staticmethod
    def arguments(bucket: Bucket, place: Place) -> list[str]:
        argv = [
            "geesefs",
            "-f",
            f"--endpoint={bucket.endpoint}",
            f"--region={bucket.region}",
            "--list-type=2",
            "--no-detect",
            "--no-expire-multipart",
            f"--cache={place.cache}",
            "--stat-cache-ttl=24h",
            "--entry-limit=1000000",
            "--print-stats=0",
        ]
        if place.memory_bytes is not None:
            argv.append(f"--memory-limit={place.memory_bytes >> 20}")
        if not place.writable:
            argv += ["-o", "ro"]
        source = f"{bucket.name}:{bucket.prefix}" if bucket.prefix else bucket.name
        return [*argv, source, str(place.directory)]

    settings = Settings(
        command=shown(arguments, memory_bytes=1 << 30),
        source="https://github.com/yandex-cloud/geesefs (Configuration) and "
        "geesefs --help (core/cfg/flags.go)",
        notes=[
            "--cache has no limit of size: the run's limit of disk space does not bind it.",
            "--memory-limit: its cache in memory, 1000 MB where the run names none.",
            "--stat-cache-ttl, --entry-limit: longer and larger than a run, so that nothing is "
            "listed again (the defaults are 1 minute and 100,000 entries, about 1 KB each).",
            "--list-type=2: ListObjectsV2 (the default outside of Yandex is version 1).",
            "--no-detect: the endpoint, region and keys are given.",
        ],
    )
