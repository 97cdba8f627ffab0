"""JuiceFS. It keeps files in a format of its own, so the bucket is copied into a volume first."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from bench.subjects.base import Bucket, CannotError, Place, Settings
from bench.subjects.foreground import ForegroundPeer, binary, shown

_IMPORT_S = 1800.0


def _metadata(place: Place) -> Path:
    return place.scratch / "juicefs.db"


def _own_bucket(bucket: Bucket) -> str:
    """The URL of the bucket for the volumes' objects, which is made where there is none yet.

    ``juicefs format`` would make it, but names a location that some servers refuse.
    """
    name = f"{bucket.name}-juicefs"
    client = boto3.client(
        "s3",
        endpoint_url=bucket.endpoint,
        region_name=bucket.region,
        aws_access_key_id=bucket.access_key,
        aws_secret_access_key=bucket.secret_key,
        config=Config(
            s3={"addressing_style": "path"},
            proxies={},
            connect_timeout=10,
            read_timeout=10,
            retries={"total_max_attempts": 1},
        ),
    )
    try:
        client.create_bucket(Bucket=name)
    except (BotoCoreError, ClientError) as error:
        if "BucketAlready" not in str(error):
            raise CannotError(f"no bucket for JuiceFS's own objects: {error}") from None
    finally:
        client.close()
    return f"{bucket.endpoint}/{name}"


class Juicefs(ForegroundPeer):
    """``juicefs mount`` of JuiceFS Community Edition 1.3 or newer.

    The volumes' objects go to the bucket ``NAME-juicefs`` and stay there; the metadata is in the
    scratch directory. A place that has a volume already mounts it again.
    """

    name = "juicefs"
    plain_objects = False
    empty_words = re.compile(r"\s*$|Please create bucket")

    @staticmethod
    def arguments(bucket: Bucket, place: Place) -> list[str]:
        argv = [
            "juicefs",
            "mount",
            f"sqlite3://{_metadata(place)}",
            str(place.directory),
            f"--cache-dir={place.cache}",
            "--free-space-ratio=0.01",
            "--attr-cache=86400",
            "--entry-cache=86400",
            "--dir-entry-cache=86400",
            "--open-cache=86400",
            "--open-cache-limit=0",
            "--readdir-cache",
            "--hide-internal",
            "--no-usage-report",
            "--no-syslog",
            "--no-bgjob",
            "--backup-meta=0",
            "--metrics=127.0.0.1:0",
        ]
        if place.cache_bytes is not None:
            argv.append(f"--cache-size={place.cache_bytes >> 20}M")
        if place.memory_bytes is not None:
            argv.append(f"--buffer-size={place.memory_bytes >> 20}M")
        if not place.writable:
            argv.append("--read-only")
        return argv

    def environment(self, bucket: Bucket, place: Place) -> dict[str, str]:
        return super().environment(bucket, place) | {
            "ACCESS_KEY": bucket.access_key,
            "SECRET_KEY": bucket.secret_key,
            "MINIO_ACCESS_KEY": bucket.access_key,
            "MINIO_SECRET_KEY": bucket.secret_key,
            "MINIO_REGION": bucket.region,
            # What jfs://volume/ means to juicefs sync.
            "volume": f"sqlite3://{_metadata(place)}",
        }

    def prepare(self, bucket: Bucket, place: Place, environment: dict[str, str]) -> None:
        imported = place.scratch / "imported"
        if imported.exists():
            return
        juicefs = binary("juicefs")
        made = [juicefs, "format", "--storage=minio", f"--bucket={_own_bucket(bucket)}"]
        made += ["--trash-days=0", environment["volume"], f"bench-{secrets.token_hex(6)}"]
        self.run(made, environment, self.start_s)
        endpoint = urlsplit(bucket.endpoint)
        source = f"minio://{endpoint.netloc}/{bucket.name}/{bucket.prefix}"
        copied = [juicefs, "sync", source, "jfs://volume/"]
        self.run(copied + ["--https"] * (endpoint.scheme == "https"), environment, _IMPORT_S)
        imported.touch()

    settings = Settings(
        command=shown(arguments, cache_bytes=10 << 30, memory_bytes=1 << 30),
        source="https://juicefs.com/docs/community/guide/cache/ (Metadata cache, Data cache), "
        "https://juicefs.com/docs/community/administration/sync",
        notes=[
            "JuiceFS cannot show the objects of an existing bucket. The first mount of a place "
            "makes a volume (juicefs format, metadata in SQLite in SCRATCH) and copies the bucket "
            "into it (juicefs sync): its time includes the copy, and later changes of the bucket "
            "are not seen.",
            "--open-cache: recommended there for read-only work such as training; like the other "
            "metadata caches longer than a run (defaults 0 and 1 s), and without its limit of "
            "10,000 files.",
            "--free-space-ratio: the limit is --cache-size; the default also keeps a tenth of the "
            "disk free.",
            "--buffer-size: its memory for reading and writing, 300M where the run names none.",
            "--no-bgjob, --backup-meta=0, --no-usage-report: nothing beside the reads.",
        ],
    )
