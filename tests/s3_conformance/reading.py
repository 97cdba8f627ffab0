"""Reading an object: ranges, conditions, errors."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.s3_conformance.subject import BODY, OTHER_ETAG, S3, error_of


def test_etag_is_the_md5(s3: S3) -> None:
    etag = f'"{hashlib.md5(BODY).hexdigest()}"'
    assert s3.put("k")["ETag"] == etag
    assert s3.head("k")["ETag"] == etag


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("0-0", 0, 0),
        ("10-19", 10, 19),
        ("102390-999999", 102390, 102399),
        ("102399-", 102399, 102399),
        ("-7", 102393, 102399),
        ("-999999", 0, 102399),
    ],
)
def test_ranges(s3: S3, asked: str, first: int, last: int) -> None:
    s3.put("k")
    answer = s3.client.get_object(Bucket=s3.bucket, Key="k", Range=f"bytes={asked}")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert answer["ContentRange"] == f"bytes {first}-{last}/{len(BODY)}"
    assert answer["Body"].read() == BODY[first : last + 1]


@pytest.mark.parametrize("asked", ["102400-", "999999-1000000"])
def test_a_range_beyond_the_end(s3: S3, asked: str) -> None:
    s3.put("k")
    error = error_of(s3.client.get_object, Bucket=s3.bucket, Key="k", Range=f"bytes={asked}")
    assert error == (416, "InvalidRange")


def test_read_conditions(s3: S3) -> None:
    etag = s3.put("k")["ETag"]
    modified = s3.head("k")["LastModified"]
    earlier, later = modified - timedelta(hours=1), modified + timedelta(seconds=1)
    for call in (s3.client.get_object, s3.client.head_object):

        def status(call: Any = call, **conditions: Any) -> int | None:
            error = error_of(call, Bucket=s3.bucket, Key="k", **conditions)
            return None if error is None else error[0]

        assert status(IfMatch=OTHER_ETAG) == 412
        assert status(IfMatch=etag) is None
        assert status(IfNoneMatch=etag) == 304
        assert status(IfNoneMatch=OTHER_ETAG) is None
        assert status(IfModifiedSince=modified) == 304
        assert status(IfModifiedSince=earlier) is None
        assert status(IfUnmodifiedSince=earlier) == 412
        assert status(IfUnmodifiedSince=later) is None
        # A tag makes the date count no more.
        assert status(IfMatch=etag, IfUnmodifiedSince=earlier) is None
        assert status(IfNoneMatch=OTHER_ETAG, IfModifiedSince=modified) is None


def test_conditions_come_before_ranges(s3: S3) -> None:
    s3.put("k")
    get = s3.client.get_object
    error = error_of(get, Bucket=s3.bucket, Key="k", Range="bytes=0-1", IfMatch=OTHER_ETAG)
    assert error == (412, "PreconditionFailed")


def test_a_304_says_what_was_not_modified_and_has_no_body(s3: S3) -> None:
    etag = s3.put("k")["ETag"]
    status, headers, body = s3.raw("GET", f"/{s3.bucket}/k", {"If-None-Match": etag})
    assert (status, headers["etag"], body) == (304, etag, b"")


def test_what_is_not_there(s3: S3) -> None:
    get, head = s3.client.get_object, s3.client.head_object
    assert error_of(get, Bucket=s3.bucket, Key="k") == (404, "NoSuchKey")
    assert error_of(head, Bucket=s3.bucket, Key="k") == (404, "404")
    assert error_of(get, Bucket="no-such-bucket", Key="k") == (404, "NoSuchBucket")
    assert error_of(s3.client.head_bucket, Bucket="no-such-bucket") == (404, "404")


def test_errors_say_something(s3: S3) -> None:
    status, headers, body = s3.raw("GET", f"/{s3.bucket}/k")
    assert status == 404
    assert headers["content-type"] == "application/xml"
    found = {element.tag: element.text for element in ElementTree.fromstring(body)}
    assert found["Code"] == "NoSuchKey"
    assert found["Message"]
    assert found["RequestId"]


__all__ = [name for name in dir() if name.startswith("test_")]
