"""The judge of order reads lakesim's own log."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.lakesim import Lakesim, lakesim
from tests.servers import need_lakesim, s3_server
from tests.writeback.history import History, check
from tests.writeback.recording import Recorder

PART_BYTES = 5 << 20


@pytest.fixture
def server() -> Iterator[Lakesim]:
    need_lakesim()
    with lakesim() as running:
        s3_server(running).make_bucket("lake")
        yield running


@pytest.fixture
def client(server: Lakesim) -> Iterator[Any]:
    made = s3_server(server).client()
    yield made
    made.close()


def upload(client: Any, key: str, data: bytes) -> None:
    """In parts, the last of them first."""
    place = {"Bucket": "lake", "Key": key}
    number = client.create_multipart_upload(**place)["UploadId"]
    offsets = range(0, len(data), PART_BYTES)
    parts: list[dict[str, Any]] = []
    for n, at in reversed(list(enumerate(offsets, 1))):
        body = data[at : at + PART_BYTES]
        answer = client.upload_part(**place, UploadId=number, PartNumber=n, Body=body)
        parts.insert(0, {"PartNumber": n, "ETag": answer["ETag"]})
    client.complete_multipart_upload(**place, UploadId=number, MultipartUpload={"Parts": parts})


def test_a_right_upload(server: Lakesim, client: Any, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    recorder = Recorder(tmp_path / "w")
    large = random.Random(1).randbytes(PART_BYTES + 1)
    recorder.mkdir("step")
    recorder.write("step/shard\n", large)
    recorder.write("step/.metadata.tmp", b"marker")
    recorder.rename("step/.metadata.tmp", "step/.metadata")
    recorder.rename("step", "final")
    recorder.unlink("final/.metadata")

    client.put_object(Bucket="lake", Key="w/step/", Body=b"")
    upload(client, "w/step/shard\n", large)
    client.put_object(Bucket="lake", Key="w/step/.metadata", Body=b"marker")
    for name in ("shard\n", ".metadata"):
        source = {"Bucket": "lake", "Key": f"w/step/{name}"}
        client.copy_object(Bucket="lake", Key=f"w/final/{name}", CopySource=source)
    for key in ("w/step/shard\n", "w/step/.metadata", "w/step/", "w/final/.metadata"):
        client.delete_object(Bucket="lake", Key=key)

    history = History(recorder.events, "w/")
    log, sizes = server.log(), server.sizes("lake", "w/")
    assert check(log, history, bucket="lake", sizes=sizes) == []
    # The same requests are not right for a writer that did something else in the end.
    recorder.write("final/.metadata", b"marker 2")
    history = History(recorder.events, "w/")
    assert [v.kind for v in check(log, history, bucket="lake", sizes=sizes)] == ["lost"]
