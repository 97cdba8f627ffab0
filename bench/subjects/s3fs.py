"""s3fs-fuse, with its local file cache."""

from __future__ import annotations

import re

from bench.subjects.base import Bucket, Place, Settings
from bench.subjects.foreground import ForegroundPeer, shown

_DAY_S = 24 * 3600


class S3fs(ForegroundPeer):
    """``s3fs`` of s3fs-fuse 1.90 or newer."""

    name = "s3fs"
    empty_words = re.compile(r"\s*$|.*(Exiting FUSE event loop|change debug level|s3fs version)")

    @staticmethod
    def arguments(bucket: Bucket, place: Place) -> list[str]:
        path = f":/{bucket.prefix}".rstrip("/") if bucket.prefix else ""
        options = [
            f"url={bucket.endpoint}",
            f"endpoint={bucket.region}",
            "sigv4",
            "use_path_request_style",
            "listobjectsv2",
            f"use_cache={place.cache}",
            f"tmpdir={place.scratch}",
            f"stat_cache_expire={_DAY_S}",
            "max_stat_cache_size=1000000",
            "enable_noobj_cache",
            "complement_stat",
            "connect_timeout=10",
            "dbglevel=err",
            # Its standard output is buffered, and lost when it is killed.
            f"logfile={place.scratch / 's3fs.log'}",
        ]
        if not place.writable:
            options.append("ro")
        argv = ["s3fs", f"{bucket.name}{path}", str(place.directory), "-f"]
        return argv + [word for option in options for word in ("-o", option)]

    settings = Settings(
        command=shown(arguments),
        source="s3fs(1): use_cache, stat_cache_expire, max_stat_cache_size, "
        "enable_noobj_cache, complement_stat",
        notes=[
            "use_cache has no limit of size: the run's limit does not bind it, see its space on "
            "disk. -o ensure_diskfree keeps a part of the whole disk free; on a disk that "
            "others fill as well, reads end with ENOSPC.",
            "There is no limit of memory.",
            "stat_cache_expire, max_stat_cache_size: longer and larger than a run, so that nothing "
            "is asked for again (defaults: 900 s and 100,000 entries, about 40 MB).",
            "enable_noobj_cache: recommended there against repeated listings.",
            "complement_stat: objects that s3fs did not write carry no mode.",
            "connect_timeout: 10 s instead of 300 s, so that a wrong endpoint shows.",
        ],
    )
