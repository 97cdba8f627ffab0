"""Mountpoint for Amazon S3, with its local data cache."""

from __future__ import annotations

from bench.subjects.base import Bucket, Place, Settings
from bench.subjects.foreground import ForegroundPeer, shown


class MountS3(ForegroundPeer):
    """``mount-s3`` of Mountpoint 1.7 or newer."""

    name = "mount-s3"

    @staticmethod
    def arguments(bucket: Bucket, place: Place) -> list[str]:
        argv = [
            "mount-s3",
            bucket.name,
            str(place.directory),
            "--foreground",
            f"--endpoint-url={bucket.endpoint}",
            f"--region={bucket.region}",
            "--force-path-style",
            f"--cache={place.cache}",
            "--metadata-ttl=indefinite",
        ]
        if bucket.prefix:
            argv.append(f"--prefix={bucket.prefix}")
        if place.cache_bytes is not None:
            argv.append(f"--max-cache-size={place.cache_bytes >> 20}")
        argv += ["--allow-delete", "--allow-overwrite"] if place.writable else ["--read-only"]
        return argv

    settings = Settings(
        command=shown(arguments, cache_bytes=10 << 30),
        source="https://github.com/awslabs/mountpoint-s3/blob/main/doc/CONFIGURATION.md "
        "(Caching configuration), https://github.com/awslabs/mountpoint-s3/releases/tag/"
        "mountpoint-s3-1.7.0 (--metadata-ttl)",
        notes=[
            "--metadata-ttl=indefinite: documented for workloads whose bucket does not change "
            "(the default with --cache is 60 s), so that nothing is asked for again.",
            "The cache directory is emptied when Mountpoint starts and when it ends: it does not "
            "help after a remount.",
            "There is no limit of memory in its released programs.",
            "Metadata is cached per name looked up; a directory is listed anew each time.",
        ],
    )
