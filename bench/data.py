"""Data sets: seeded files that are on the local disk and in the bucket, and check themselves.

The content of each file follows from the data set's seed and the file's path
(``native/loadgen/src/content.rs``), so any reader can check any byte without being told.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.loadgen import File, Loadgen
from bench.subjects.base import Bucket

UPLOADS = 8
#: How long presigned URLs are good: longer than any run.
_SIGNED_S = 12 * 3600


@dataclass(frozen=True)
class Dataset:
    """Files under *root* on the local disk and under ``bucket.prefix`` in the bucket."""

    name: str
    seed: int
    root: Path
    bucket: Bucket
    files: tuple[File, ...]

    @property
    def bytes(self) -> int:
        """All files together."""
        return sum(file.size for file in self.files)


def small_files(count: int, size: int, per_directory: int = 500) -> tuple[File, ...]:
    """*count* samples of *size* bytes, in directories of *per_directory*."""
    return tuple(File(f"{n // per_directory:04}/sample-{n:06}.bin", size) for n in range(count))


def make(loadgen: Loadgen, dataset: Dataset) -> None:
    """Write the files to the local disk, then to the bucket."""
    loadgen.generate(dataset.root, dataset.seed, dataset.files)
    upload(dataset)


def upload(dataset: Dataset) -> None:
    """Put the files of the local disk into the bucket."""
    import obstore
    from obstore.store import S3Store

    bucket = dataset.bucket
    options: Any = {
        "endpoint": bucket.endpoint,
        "access_key_id": bucket.access_key,
        "secret_access_key": bucket.secret_key,
        "region": bucket.region,
        "virtual_hosted_style_request": False,
    }
    store = S3Store(bucket.name, **options, client_options={"allow_http": True})

    def put(file: File) -> None:
        obstore.put(store, bucket.prefix + file.path, dataset.root / file.path)

    with ThreadPoolExecutor(UPLOADS) as pool:
        for _ in pool.map(put, dataset.files):
            pass


def create_bucket(bucket: Bucket) -> None:
    client(bucket).create_bucket(Bucket=bucket.name)


def put(bucket: Bucket, files: Iterable[File], body: bytes) -> None:
    """Make objects of the *files*' names that all hold *body*."""
    store = client(bucket)
    for file in files:
        store.put_object(Bucket=bucket.name, Key=bucket.prefix + file.path, Body=body)


def remove(bucket: Bucket, keys: Iterable[str]) -> None:
    """Delete the objects *keys* (with the bucket's prefix), at most 1000."""
    objects = [{"Key": key} for key in keys]
    if objects:
        client(bucket).delete_objects(Bucket=bucket.name, Delete={"Objects": objects})


def presigned(bucket: Bucket, files: Iterable[File]) -> list[tuple[File, str]]:
    """Each file with a URL that any plain HTTP client can GET while the run lasts."""
    signer = client(bucket)
    return [
        (
            file,
            signer.generate_presigned_url(
                "get_object",
                Params={"Bucket": bucket.name, "Key": bucket.prefix + file.path},
                ExpiresIn=_SIGNED_S,
            ),
        )
        for file in files
    ]


def client(bucket: Bucket) -> Any:
    """A boto3 client, for what is not measured."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=bucket.endpoint,
        aws_access_key_id=bucket.access_key,
        aws_secret_access_key=bucket.secret_key,
        region_name=bucket.region,
        config=Config(s3={"addressing_style": "path"}, signature_version="s3v4"),
    )
