"""Checksums that clients send, and those that are kept."""

from __future__ import annotations

import hashlib
import io

import pytest

from tests.s3_conformance.subject import BODY, CHECKSUMS, S3, base64_of, checksum, error_of


@pytest.mark.parametrize("algorithm", CHECKSUMS)
def test_checksums_are_kept(s3: S3, algorithm: str) -> None:
    field, value = f"Checksum{algorithm}", base64_of(checksum(algorithm, BODY))
    s3.put("k", BODY, **{field: value})
    for answer in (
        s3.head("k", ChecksumMode="ENABLED"),
        s3.client.get_object(Bucket=s3.bucket, Key="k", ChecksumMode="ENABLED"),
    ):
        assert (answer[field], answer["ChecksumType"]) == (value, "FULL_OBJECT")
    assert field not in s3.head("k")


@pytest.mark.parametrize("algorithm", CHECKSUMS)
def test_wrong_checksums_are_refused(s3: S3, algorithm: str) -> None:
    wrong = {f"Checksum{algorithm}": base64_of(checksum(algorithm, b"something else"))}
    assert error_of(s3.put, key="k", **wrong) == (400, "BadDigest")
    assert not s3.exists("k")
    upload = s3.upload("k", [], ChecksumAlgorithm=algorithm)[0]
    where = {"Bucket": s3.bucket, "Key": "k", "UploadId": upload, "PartNumber": 1}
    error = error_of(s3.client.upload_part, **where, Body=BODY, **wrong)
    assert error == (400, "BadDigest")


@pytest.mark.parametrize("algorithm", CHECKSUMS)
def test_checksums_in_trailers(s3: S3, algorithm: str) -> None:
    client = s3.server.client(request_checksum_calculation="when_supported")
    where = {"Bucket": s3.bucket, "Key": "k"}
    client.put_object(**where, Body=io.BytesIO(BODY), ChecksumAlgorithm=algorithm)
    client.close()
    field = f"Checksum{algorithm}"
    assert s3.head("k", ChecksumMode="ENABLED")[field] == base64_of(checksum(algorithm, BODY))
    assert (s3.get("k"), s3.head("k").get("ContentEncoding")) == (BODY, None)


def test_a_wrong_trailer_is_refused(s3: S3) -> None:
    wrong = base64_of(checksum("CRC32", b"something else"))
    chunks = f"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:{wrong}\r\n\r\n".encode()
    headers = {
        "X-Amz-Decoded-Content-Length": "5",
        "X-Amz-Trailer": "x-amz-checksum-crc32",
        "Content-Encoding": "aws-chunked",
    }
    kind = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
    status, _, body = s3.raw("PUT", f"/{s3.bucket}/k", headers, chunks, kind)
    assert (status, b"BadDigest" in body) == (400, True)
    assert not s3.exists("k")


def test_crc64nvme_is_made_where_none_was_sent(s3: S3) -> None:
    s3.put("k")
    found = s3.head("k", ChecksumMode="ENABLED")
    assert found["ChecksumCRC64NVME"] == base64_of(checksum("CRC64NVME", BODY))
    assert found["ChecksumType"] == "FULL_OBJECT"


def test_a_range_carries_no_checksum_of_the_whole(s3: S3) -> None:
    s3.put("k", ChecksumCRC32=base64_of(checksum("CRC32", BODY)))
    where = {"Bucket": s3.bucket, "Key": "k", "ChecksumMode": "ENABLED"}
    assert "ChecksumCRC32" not in s3.client.get_object(**where, Range="bytes=0-9")


def test_a_wrong_content_md5_is_refused(s3: S3) -> None:
    wrong = base64_of(hashlib.md5(b"something else").digest())
    assert error_of(s3.put, key="k", ContentMD5=wrong) == (400, "BadDigest")
    assert not s3.exists("k")


def test_a_body_that_is_not_what_was_signed_is_refused(s3: S3) -> None:
    other = hashlib.sha256(b"something else").hexdigest()
    status, _, body = s3.raw("PUT", f"/{s3.bucket}/k", {}, BODY, other)
    assert (status, b"XAmzContentSHA256Mismatch" in body) == (400, True)
    assert not s3.exists("k")


__all__ = [name for name in dir() if name.startswith("test_")]
