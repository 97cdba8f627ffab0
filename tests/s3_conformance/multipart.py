"""Multipart uploads."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from tests.s3_conformance.subject import BODY, OTHER_ETAG, PART, S3, base64_of, checksum, error_of


def multipart_etag(*parts: bytes) -> str:
    digests = b"".join(hashlib.md5(part).digest() for part in parts)
    return f'"{hashlib.md5(digests).hexdigest()}-{len(parts)}"'


def test_multipart(s3: S3) -> None:
    metadata = {"Metadata": {"a": "b"}, "ContentType": "text/x"}
    upload = s3.upload("k", [PART, b"tail"], **metadata)
    assert not s3.exists("k")
    where = {"Bucket": s3.bucket, "Key": "k", "UploadId": upload[0]}
    listed = s3.client.list_parts(**where)
    assert [(part["PartNumber"], part["Size"]) for part in listed["Parts"]] == [
        (1, len(PART)),
        (2, 4),
    ]
    assert s3.complete("k", upload)["ETag"] == multipart_etag(PART, b"tail")
    found = s3.head("k")
    assert (found["ETag"], found["Metadata"]) == (multipart_etag(PART, b"tail"), {"a": "b"})
    assert found["ContentType"] == "text/x"
    assert s3.get("k") == PART + b"tail"
    across = s3.get("k", Range=f"bytes={len(PART) - 3}-{len(PART) + 1}")
    assert across == b"mmmta"
    assert error_of(s3.client.list_parts, **where) == (404, "NoSuchUpload")


def test_only_the_named_parts_are_used(s3: S3) -> None:
    upload, named = s3.upload("k", [b"first", b"second", b"third"])
    s3.complete("k", (upload, {"Parts": named["Parts"][1:2]}))
    assert s3.get("k") == b"second"


def test_get_by_part_number(s3: S3) -> None:
    s3.complete("k", s3.upload("k", [PART, b"tail"]))
    answer = s3.client.get_object(Bucket=s3.bucket, Key="k", PartNumber=2)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert (answer["Body"].read(), answer["PartsCount"]) == (b"tail", 2)


def test_list_parts_in_pages(s3: S3) -> None:
    upload, _ = s3.upload("k", [b"1", b"2", b"3"])
    where = {"Bucket": s3.bucket, "Key": "k", "UploadId": upload, "MaxParts": 2}
    first = s3.client.list_parts(**where)
    assert ([p["PartNumber"] for p in first["Parts"]], first["IsTruncated"]) == ([1, 2], True)
    rest = s3.client.list_parts(**where, PartNumberMarker=first["NextPartNumberMarker"])
    assert ([p["PartNumber"] for p in rest["Parts"]], rest["IsTruncated"]) == ([3], False)


def test_list_uploads(s3: S3) -> None:
    made = [(key, s3.upload(key, [])[0]) for key in ("d/a", "d/b", "e")]
    listed = s3.client.list_multipart_uploads(Bucket=s3.bucket)
    assert [(u["Key"], u["UploadId"]) for u in listed["Uploads"]] == made
    below = s3.client.list_multipart_uploads(Bucket=s3.bucket, Prefix="d/")
    assert [upload["Key"] for upload in below["Uploads"]] == ["d/a", "d/b"]


def test_abort(s3: S3) -> None:
    upload, _ = s3.upload("k", [b"x"])
    where = {"Bucket": s3.bucket, "Key": "k", "UploadId": upload}
    s3.client.abort_multipart_upload(**where)
    assert error_of(s3.client.list_parts, **where) == (404, "NoSuchUpload")
    part = error_of(s3.client.upload_part, **where, PartNumber=1, Body=b"x")
    assert part == (404, "NoSuchUpload")


def test_complete_if_none_match(s3: S3) -> None:
    s3.put("k", b"old")
    upload = s3.upload("k", [b"new"])
    error = error_of(s3.complete, key="k", upload=upload, IfNoneMatch="*")
    assert (error, s3.get("k")) == ((412, "PreconditionFailed"), b"old")
    s3.complete("other", s3.upload("other", [b"new"]), IfNoneMatch="*")
    assert s3.get("other") == b"new"


def test_complete_checks_its_parts(s3: S3) -> None:
    upload, named = s3.upload("k", [PART, PART])
    one, two = named["Parts"]

    def error(*parts: dict[str, Any]) -> tuple[int, str] | None:
        return error_of(s3.complete, key="k", upload=(upload, {"Parts": list(parts)}))

    assert error(two, one) == (400, "InvalidPartOrder")
    assert error(one | {"ETag": OTHER_ETAG}) == (400, "InvalidPart")
    assert error({"PartNumber": 3, "ETag": one["ETag"]}) == (400, "InvalidPart")
    assert not s3.exists("k")


def test_all_parts_but_the_last_have_a_minimal_size(s3: S3) -> None:
    upload = s3.upload("k", [b"x", b"y"])
    assert error_of(s3.complete, key="k", upload=upload) == (400, "EntityTooSmall")


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME"])
def test_full_object_checksums(s3: S3, algorithm: str) -> None:
    kind = {"ChecksumAlgorithm": algorithm, "ChecksumType": "FULL_OBJECT"}
    field, value = f"Checksum{algorithm}", base64_of(checksum(algorithm, PART + b"tail"))
    done = s3.complete("k", s3.upload("k", [PART, b"tail"], **kind))
    assert (done[field], done["ChecksumType"]) == (value, "FULL_OBJECT")
    found = s3.head("k", ChecksumMode="ENABLED")
    assert (found[field], found["ChecksumType"]) == (value, "FULL_OBJECT")


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "SHA1", "SHA256"])
def test_composite_checksums(s3: S3, algorithm: str) -> None:
    kind = {"ChecksumAlgorithm": algorithm, "ChecksumType": "COMPOSITE"}
    digests = checksum(algorithm, PART) + checksum(algorithm, b"tail")
    field, value = f"Checksum{algorithm}", base64_of(checksum(algorithm, digests)) + "-2"
    done = s3.complete("k", s3.upload("k", [PART, b"tail"], **kind))
    assert (done[field], done["ChecksumType"]) == (value, "COMPOSITE")
    found = s3.head("k", ChecksumMode="ENABLED")
    assert (found[field], found["ChecksumType"]) == (value, "COMPOSITE")


def test_a_wrong_checksum_of_the_whole_is_refused(s3: S3) -> None:
    kind = {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"}
    upload = s3.upload("k", [PART, b"tail"], **kind)
    wrong = base64_of(checksum("CRC64NVME", b"something else"))
    arguments = {"key": "k", "upload": upload, "ChecksumCRC64NVME": wrong}
    assert error_of(s3.complete, **arguments, ChecksumType="FULL_OBJECT") == (400, "BadDigest")
    assert not s3.exists("k")


def test_upload_part_copy(s3: S3) -> None:
    s3.put("from")
    upload, _ = s3.upload("k", [])
    source = {"Bucket": s3.bucket, "Key": "from"}
    where = {"Bucket": s3.bucket, "Key": "k", "UploadId": upload, "CopySource": source}
    copy = s3.client.upload_part_copy
    done = copy(**where, PartNumber=1, CopySourceRange="bytes=5-104")
    part = {"PartNumber": 1, "ETag": done["CopyPartResult"]["ETag"]}
    s3.complete("k", (upload, {"Parts": [part]}))
    assert s3.get("k") == BODY[5:105]


__all__ = [name for name in dir() if name.startswith("test_")]
