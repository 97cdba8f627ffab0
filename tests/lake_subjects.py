"""The lakes that the conformance suites are run with."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.lake_conformance import Subject
from tests.lake_options import Options
from tests.servers import (
    TEST_CREDENTIALS,
    S3Server,
    shared_lakesim_server,
    shared_moto_server,
)
from tierfs.lake.faulty import FaultyLake
from tierfs.lake.link import LinkModel, ModelledLake
from tierfs.lake.memory import MemoryLake
from tierfs.lake.open import open_lake
from tierfs.lake.writing import Storage, WritableLake

_serial = itertools.count()


_S3_SERVERS = {"moto": shared_moto_server, "lakesim": shared_lakesim_server}


KINDS = ("memory", "local", "moto", "moto-prefix", "lakesim", "modelled", "faulty")


def subject_of(kind: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Subject]:
    """A lake of one of `KINDS`, empty, for as long as it is not asked for the next."""
    if kind == "local":
        yield local_subject(directory / "root")
    elif kind.startswith(tuple(_S3_SERVERS)):
        for name, value in TEST_CREDENTIALS.items():
            monkeypatch.setenv(name, value)
        server, _, prefix = kind.partition("-")
        yield from s3_subject(_S3_SERVERS[server](), "some/prefix" if prefix else "")
    else:
        yield memory_subject(kind)


def memory_subject(kind: str) -> Subject:
    memory = MemoryLake()
    lake: WritableLake = memory
    if kind == "modelled":
        lake = ModelledLake(memory, LinkModel(0.000_1, 0.000_2, 1e9, 1e9))
    elif kind == "faulty":
        lake = FaultyLake(memory)

    @asynccontextmanager
    async def open_it() -> AsyncIterator[WritableLake]:
        yield lake
        await lake.aclose()

    def put(key: bytes, body: bytes) -> None:
        memory.store(key, body)

    return Subject(open_it, put, memory.remove, flat=True, storage_of=memory.storage.__getitem__)


def local_subject(root: Path) -> Subject:
    root.mkdir()
    (root.parent / "outside").write_bytes(b"not for anybody")

    def put(key: bytes, body: bytes) -> None:
        path = root / os.fsdecode(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = root.parent / "incoming"
        temporary.write_bytes(body)
        temporary.rename(path)

    def delete(key: bytes) -> None:
        (root / os.fsdecode(key)).unlink()

    return Subject(lambda: opened(Options(url=f"file://{root}")), put, delete, flat=False)


def s3_subject(server: S3Server, prefix: str) -> Iterator[Subject]:
    bucket = f"conformance-{next(_serial)}"
    server.make_bucket(bucket)
    client = server.client()
    root = f"{prefix}/" if prefix else ""
    if root:
        client.put_object(Bucket=bucket, Key="some/prefix-not-below", Body=b"not for anybody")
        client.put_object(Bucket=bucket, Key="outside", Body=b"not for anybody")

    def put(key: bytes, body: bytes) -> None:
        client.put_object(Bucket=bucket, Key=root + key.decode(), Body=body)

    def delete(key: bytes) -> None:
        client.delete_object(Bucket=bucket, Key=root + key.decode())

    def storage_of(key: bytes) -> Storage:
        where = {"Bucket": bucket, "Key": root + key.decode()}
        found = client.head_object(**where)
        tags = client.get_object_tagging(**where)["TagSet"]
        return Storage(
            found.get("StorageClass", ""),
            tuple(sorted((tag["Key"], tag["Value"]) for tag in tags)),
            found["SSEKMSKeyId"] if found.get("ServerSideEncryption") == "aws:kms" else "",
        )

    options = Options(url=f"s3://{bucket}/{prefix}", endpoint=server.endpoint)
    moto = server is shared_moto_server()
    yield Subject(
        lambda: opened(options), put, delete, flat=True, strict=not moto,
        storage_of=storage_of if moto else None,
    )  # fmt: skip
    client.close()


@asynccontextmanager
async def opened(options: Options) -> AsyncIterator[WritableLake]:
    lake = await open_lake(options)
    try:
        yield lake
    finally:
        await lake.aclose()
