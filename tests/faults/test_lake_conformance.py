"""Every lake, held to one suite: in memory, local, S3 (real servers), and the decorators."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.lake_conformance import *  # noqa: F403
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
from tierfs.lake.protocol import Lake

_serial = itertools.count()


_S3_SERVERS = {"moto": shared_moto_server, "lakesim": shared_lakesim_server}


@pytest.fixture(params=["memory", "local", "moto", "moto-prefix", "lakesim", "modelled", "faulty"])
def subject(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Subject]:
    if request.param == "local":
        yield local_subject(tmp_path / "root")
    elif request.param.startswith(tuple(_S3_SERVERS)):
        for name, value in TEST_CREDENTIALS.items():
            monkeypatch.setenv(name, value)
        server, _, prefix = request.param.partition("-")
        yield from s3_subject(_S3_SERVERS[server](), "some/prefix" if prefix else "")
    else:
        yield memory_subject(request.param)


def memory_subject(kind: str) -> Subject:
    memory = MemoryLake()
    lake: Lake = memory
    if kind == "modelled":
        lake = ModelledLake(memory, LinkModel(0.000_1, 0.000_2, 1e9, 1e9))
    elif kind == "faulty":
        lake = FaultyLake(memory)

    @asynccontextmanager
    async def open_it() -> AsyncIterator[Lake]:
        yield lake
        await lake.aclose()

    def put(key: bytes, body: bytes) -> None:
        memory.put(key, body)

    return Subject(open_it, put, memory.delete, flat=True)


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

    options = Options(url=f"s3://{bucket}/{prefix}", endpoint=server.endpoint)
    yield Subject(lambda: opened(options), put, delete, flat=True)
    client.close()


@asynccontextmanager
async def opened(options: Options) -> AsyncIterator[Lake]:
    lake = await open_lake(options)
    try:
        yield lake
    finally:
        await lake.aclose()
