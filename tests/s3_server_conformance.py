"""What every S3 server must do, whichever it is: the suite that our own is held to beside others.

A test module makes a fixture ``s3`` of `S3` and imports the tests from here with ``*``. Where a
test refers to Amazon's behaviour, its documentation of the S3 API is meant.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree

import pytest
from awscrt import checksums as crt
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from bench.lakesim import ACCESS_KEY, SECRET_KEY
from tests.servers import S3Server

BODY = bytes(range(256)) * 400
PART = b"m" * (5 << 20)
OTHER_ETAG = '"00000000000000000000000000000000"'
CHECKSUMS = ("CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256")


@dataclass
class S3:
    """A server under test, a client of it that does nothing unasked, and an empty bucket."""

    server: S3Server
    client: Any
    bucket: str

    def put(self, key: str, body: bytes = BODY, **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.put_object(
            Bucket=self.bucket, Key=key, Body=body, **more
        )
        return answer

    def get(self, key: str, **more: Any) -> bytes:
        body: bytes = self.client.get_object(Bucket=self.bucket, Key=key, **more)["Body"].read()
        return body

    def head(self, key: str, **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.head_object(Bucket=self.bucket, Key=key, **more)
        return answer

    def exists(self, key: str) -> bool:
        return error_of(self.client.head_object, Bucket=self.bucket, Key=key) is None

    def keys(self, **more: Any) -> list[str]:
        """Every key, over all pages."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, **more)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def upload(self, key: str, parts: Iterable[bytes], **more: Any) -> tuple[str, dict[str, Any]]:
        """A multipart upload that is ready to be completed: its id, and the list of its parts."""
        created = self.client.create_multipart_upload(Bucket=self.bucket, Key=key, **more)
        where = {"Bucket": self.bucket, "Key": key, "UploadId": created["UploadId"]}
        algorithm = more.get("ChecksumAlgorithm")
        named = []
        for number, body in enumerate(parts, 1):
            extra = {"ChecksumAlgorithm": algorithm} if algorithm else {}
            done = self.client.upload_part(**where, PartNumber=number, Body=body, **extra)
            name = {"PartNumber": number, "ETag": done["ETag"]}
            if algorithm:
                name[f"Checksum{algorithm}"] = done[f"Checksum{algorithm}"]
            named.append(name)
        return created["UploadId"], {"Parts": named}

    def complete(self, key: str, upload: tuple[str, dict[str, Any]], **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.complete_multipart_upload(
            Bucket=self.bucket, Key=key, UploadId=upload[0], MultipartUpload=upload[1], **more
        )
        return answer

    def raw(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        content_sha256: str | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """A signed request by hand. *content_sha256*: what the signature says the body is."""
        request = AWSRequest(method, self.server.endpoint + path, data=body, headers=headers)
        auth = S3SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1")
        if content_sha256 is not None:
            auth.payload = lambda _request: content_sha256
        auth.add_auth(request)
        url = urllib.parse.urlsplit(self.server.endpoint)
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in request.headers.items():
                connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            got = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, got, answer.read()
        finally:
            connection.close()


def error_of(function: Callable[..., Any], **arguments: Any) -> tuple[int, str] | None:
    """The status and code of the error that a call ends in."""
    try:
        function(**arguments)
    except ClientError as error:
        answer: Any = error.response
        return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]
    return None


def checksum(algorithm: str, data: bytes) -> bytes:
    if algorithm.startswith("SHA"):
        return hashlib.new(algorithm, data).digest()
    compute = {"CRC32": crt.crc32, "CRC32C": crt.crc32c, "CRC64NVME": crt.crc64nvme}[algorithm]
    value: int = compute(data)
    return value.to_bytes(8 if algorithm == "CRC64NVME" else 4, "big")


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


# Reading


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


# Writing


def test_metadata_comes_back(s3: S3) -> None:
    metadata = {"uid": "1000", "x-y": "v w"}
    s3.put("k", Metadata=metadata, ContentType="text/x", CacheControl="no-cache")
    answer = s3.head("k")
    assert answer["Metadata"] == metadata
    assert (answer["ContentType"], answer["CacheControl"]) == ("text/x", "no-cache")


def test_without_a_content_type(s3: S3) -> None:
    s3.raw("PUT", f"/{s3.bucket}/k", body=b"x")
    assert s3.head("k")["ContentType"] == "binary/octet-stream"


def test_put_if_none_match(s3: S3) -> None:
    s3.put("k", b"old", IfNoneMatch="*")
    error = error_of(s3.put, key="k", body=b"new", IfNoneMatch="*")
    assert (error, s3.get("k")) == ((412, "PreconditionFailed"), b"old")


def test_put_if_match(s3: S3) -> None:
    etag = s3.put("k", b"1")["ETag"]
    error = error_of(s3.put, key="k", body=b"2", IfMatch=OTHER_ETAG)
    assert (error, s3.get("k")) == ((412, "PreconditionFailed"), b"1")
    s3.put("k", b"3", IfMatch=etag)
    assert s3.get("k") == b"3"
    assert error_of(s3.put, key="none", body=b"2", IfMatch=etag) == (404, "NoSuchKey")


def test_conditional_puts_have_one_winner(s3: S3) -> None:
    contenders = 8
    clients = [s3.server.client(retries={"total_max_attempts": 1}) for _ in range(contenders)]
    start = threading.Barrier(contenders)

    def contend(n: int, key: str) -> bool:
        start.wait()
        put = clients[n].put_object
        body = b"%d" % n * 1000
        return error_of(put, Bucket=s3.bucket, Key=key, Body=body, IfNoneMatch="*") is None

    with ThreadPoolExecutor(contenders) as threads:
        for key in ("a", "b", "c", "d", "e"):
            won = list(threads.map(contend, range(contenders), [key] * contenders))
            assert won.count(True) == 1
            assert s3.get(key) == b"%d" % won.index(True) * 1000
    for client in clients:
        client.close()


def test_delete(s3: S3) -> None:
    s3.put("k")
    for _ in range(2):  # the second deletes nothing, which is no error
        s3.client.delete_object(Bucket=s3.bucket, Key="k")
    assert not s3.exists("k")


def test_delete_if_match(s3: S3) -> None:
    etag = s3.put("k")["ETag"]
    delete = s3.client.delete_object
    error = error_of(delete, Bucket=s3.bucket, Key="k", IfMatch=OTHER_ETAG)
    assert (error, s3.exists("k")) == ((412, "PreconditionFailed"), True)
    delete(Bucket=s3.bucket, Key="k", IfMatch=etag)
    assert not s3.exists("k")


def test_delete_many(s3: S3) -> None:
    names = ["a", "b & c", " d ", "\u00e9"]
    for key in (*names, "kept"):
        s3.put(key, b"")
    objects = [{"Key": key} for key in (*names, "missing")]
    answer = s3.client.delete_objects(Bucket=s3.bucket, Delete={"Objects": objects})
    assert sorted(entry["Key"] for entry in answer["Deleted"]) == sorted([*names, "missing"])
    assert s3.keys() == ["kept"]


def test_delete_many_quietly(s3: S3) -> None:
    s3.put("k")
    quiet = {"Objects": [{"Key": "k"}], "Quiet": True}
    assert "Deleted" not in s3.client.delete_objects(Bucket=s3.bucket, Delete=quiet)
    assert not s3.exists("k")


def test_copy(s3: S3) -> None:
    s3.put("from", Metadata={"a": "1"})
    source = {"Bucket": s3.bucket, "Key": "from"}
    copy = s3.client.copy_object
    etag = copy(Bucket=s3.bucket, Key="to", CopySource=source)["CopyObjectResult"]["ETag"]
    assert etag == s3.head("to")["ETag"]
    assert (s3.get("to"), s3.head("to")["Metadata"]) == (BODY, {"a": "1"})
    new = {"Metadata": {"b": "2"}, "MetadataDirective": "REPLACE"}
    copy(Bucket=s3.bucket, Key="from", CopySource=source, **new)
    assert s3.head("from")["Metadata"] == {"b": "2"}
    where = {"Bucket": s3.bucket, "Key": "to", "CopySource": source}
    failed = (412, "PreconditionFailed")
    assert error_of(copy, **where, CopySourceIfMatch=OTHER_ETAG) == failed
    assert error_of(copy, **where, CopySourceIfNoneMatch=etag) == failed


def test_copy_to_itself_must_change_something(s3: S3) -> None:
    s3.put("k")
    source = {"Bucket": s3.bucket, "Key": "k"}
    error = error_of(s3.client.copy_object, Bucket=s3.bucket, Key="k", CopySource=source)
    assert error == (400, "InvalidRequest")


def test_copy_if_none_match(s3: S3) -> None:
    s3.put("from", b"new")
    s3.put("to", b"old")
    source = {"Bucket": s3.bucket, "Key": "from"}
    where = {"Bucket": s3.bucket, "CopySource": source, "IfNoneMatch": "*"}
    error = error_of(s3.client.copy_object, **where, Key="to")
    assert (error, s3.get("to")) == ((412, "PreconditionFailed"), b"old")
    s3.client.copy_object(**where, Key="other")
    assert s3.get("other") == b"new"


def test_tags(s3: S3) -> None:
    s3.put("k", Tagging="a=1&b%20c=d")
    where = {"Bucket": s3.bucket, "Key": "k"}

    def tags() -> list[tuple[str, str]]:
        answer = s3.client.get_object_tagging(**where)
        return sorted((tag["Key"], tag["Value"]) for tag in answer["TagSet"])

    assert tags() == [("a", "1"), ("b c", "d")]
    s3.client.put_object_tagging(**where, Tagging={"TagSet": [{"Key": "x", "Value": "y"}]})
    assert tags() == [("x", "y")]
    s3.client.delete_object_tagging(**where)
    assert tags() == []


# Checksums


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


# Multipart uploads


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


# Listing


def test_listing_in_pages(s3: S3) -> None:
    keys = [f"d{n % 5}/k{n:04}" for n in range(50)] + [f"top{n}" for n in range(5)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda key: s3.put(key, b""), keys))
    assert s3.keys() == sorted(keys)
    assert s3.keys(PaginationConfig={"PageSize": 7}) == sorted(keys)
    assert s3.keys(Prefix="d1/k00") == sorted(key for key in keys if key.startswith("d1/k00"))
    assert s3.keys(StartAfter="d3/k0028") == sorted(key for key in keys if key > "d3/k0028")
    expected = [f"d{n}/" for n in range(5)], [f"top{n}" for n in range(5)]
    for version, size in (("list_objects_v2", 4), ("list_objects", 4), ("list_objects", 1000)):
        folded, found = [], []
        for page in s3.client.get_paginator(version).paginate(
            Bucket=s3.bucket, Delimiter="/", PaginationConfig={"PageSize": size}
        ):
            folded += [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]
            found += [entry["Key"] for entry in page.get("Contents", [])]
        assert (folded, found) == expected


def test_a_page_says_how_much_it_holds(s3: S3) -> None:
    for key in ("a", "b", "d/1", "d/2"):
        s3.put(key, b"12345")
    page = s3.client.list_objects_v2(Bucket=s3.bucket, Delimiter="/", MaxKeys=2)
    assert (page["KeyCount"], page["IsTruncated"], page["MaxKeys"]) == (2, True, 2)
    token = page["NextContinuationToken"]
    rest = s3.client.list_objects_v2(Bucket=s3.bucket, Delimiter="/", ContinuationToken=token)
    assert (rest["KeyCount"], rest["IsTruncated"]) == (1, False)
    entry = page["Contents"][0]
    assert (entry["Size"], entry["StorageClass"]) == (5, "STANDARD")
    assert abs(entry["LastModified"] - datetime.now(UTC)) < timedelta(minutes=5)


def test_owners_are_for_those_who_ask(s3: S3) -> None:
    s3.put("k", b"")
    listing = s3.client.list_objects_v2
    assert "Owner" not in listing(Bucket=s3.bucket)["Contents"][0]
    assert listing(Bucket=s3.bucket, FetchOwner=True)["Contents"][0]["Owner"]["ID"]
    assert s3.client.list_objects(Bucket=s3.bucket)["Contents"][0]["Owner"]["ID"]


def test_keys_are_in_the_order_of_their_bytes(s3: S3) -> None:
    keys = ["a-b/x", "a.txt", "a/b", "a0", "B", "\ue000", "\U0001f600"]
    for key in reversed(keys):
        s3.put(key, b"")
    assert s3.keys() == sorted(keys, key=str.encode)


KEYS = {
    "double slash": "odd//x",
    "leading slash": "/lead",
    "slashes": "//",
    "trailing slash": "dir/",
    "dot dot": "p/../q",
    "dot": "./x",
    "unicode": "\u00fc\u00f1/\u65e5\u672c",
    "not normalized": "u\u0308",
    "newline": "new\nline",
    "control": "c\x01x",
    "space, plus, percent": "a b+c%20",
    "markup": "<&>'\"",
    "emoji": "\U0001f600",
    "long segment": "s" * 255 + "/" + "t" * 300,
    "1024 bytes": "L" * 1024,
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
def test_keys_are_spelled_exactly(s3: S3, key: str) -> None:
    s3.put(key, b"body")
    assert (s3.get(key), s3.keys()) == (b"body", [key])
    source = {"Bucket": s3.bucket, "Key": key}
    s3.client.copy_object(Bucket=s3.bucket, Key="copy", CopySource=source)
    assert s3.get("copy") == b"body"
    s3.client.delete_object(Bucket=s3.bucket, Key=key)
    assert s3.keys() == ["copy"]


def test_a_key_of_1025_bytes_is_refused(s3: S3) -> None:
    assert error_of(s3.put, key="L" * 1025) == (400, "KeyTooLongError")


def test_an_object_may_be_a_prefix_too(s3: S3) -> None:
    for key in ("a", "a/b", "c/d", "c", "dir/", "dir/x"):
        s3.put(key, key.encode())
    assert s3.keys() == ["a", "a/b", "c", "c/d", "dir/", "dir/x"]
    assert (s3.get("a"), s3.get("dir/")) == (b"a", b"dir/")
    assert not s3.exists("dir")


# Versions


def test_versions(s3: S3) -> None:
    s3.put("k", b"0")
    status = {"VersioningConfiguration": {"Status": "Enabled"}}
    s3.client.put_bucket_versioning(Bucket=s3.bucket, **status)
    assert s3.client.get_bucket_versioning(Bucket=s3.bucket)["Status"] == "Enabled"
    first, second = (s3.put("k", body)["VersionId"] for body in (b"1", b"2"))
    marker = s3.client.delete_object(Bucket=s3.bucket, Key="k")
    assert marker["DeleteMarker"] is True

    assert (s3.exists("k"), s3.keys()) == (False, [])
    reads = [s3.get("k", VersionId=version) for version in ("null", first, second)]
    assert reads == [b"0", b"1", b"2"]
    listed = s3.client.list_object_versions(Bucket=s3.bucket)
    assert [entry["VersionId"] for entry in listed["Versions"]] == [second, first, "null"]
    assert [entry["IsLatest"] for entry in listed["Versions"]] == [False] * 3
    assert [entry["VersionId"] for entry in listed["DeleteMarkers"]] == [marker["VersionId"]]
    get = s3.client.get_object
    of_marker = error_of(get, Bucket=s3.bucket, Key="k", VersionId=marker["VersionId"])
    assert of_marker == (405, "MethodNotAllowed")

    for version in (marker["VersionId"], first):
        s3.client.delete_object(Bucket=s3.bucket, Key="k", VersionId=version)
    assert s3.get("k") == b"2"
    error = error_of(get, Bucket=s3.bucket, Key="k", VersionId=first)
    assert error == (404, "NoSuchVersion")


def test_versions_in_pages(s3: S3) -> None:
    status = {"VersioningConfiguration": {"Status": "Enabled"}}
    s3.client.put_bucket_versioning(Bucket=s3.bucket, **status)
    made = [(key, s3.put(key, b"")["VersionId"]) for key in ("a", "a", "a", "b", "c", "c")]
    expected = [made[n] for n in (2, 1, 0, 3, 5, 4)]
    pages = s3.client.get_paginator("list_object_versions").paginate(
        Bucket=s3.bucket, PaginationConfig={"PageSize": 2}
    )
    found = [(v["Key"], v["VersionId"]) for page in pages for v in page.get("Versions", [])]
    assert found == expected


def test_suspended_versions(s3: S3) -> None:
    def version(status: str) -> None:
        configuration = {"VersioningConfiguration": {"Status": status}}
        s3.client.put_bucket_versioning(Bucket=s3.bucket, **configuration)

    version("Enabled")
    kept = s3.put("k", b"kept")["VersionId"]
    version("Suspended")
    s3.put("k", b"lost")
    s3.put("k", b"now")
    listed = s3.client.list_object_versions(Bucket=s3.bucket)["Versions"]
    assert [entry["VersionId"] for entry in listed] == ["null", kept]
    assert (s3.get("k"), s3.get("k", VersionId=kept)) == (b"now", b"kept")


# Identity


def test_bad_signatures_are_refused(s3: S3) -> None:
    s3.put("k")
    for wrong, code in (
        ({"secret_key": "wrong"}, "SignatureDoesNotMatch"),
        ({"access_key": "WRONG"}, "InvalidAccessKeyId"),
    ):
        client = s3.server.client(**wrong)
        error = error_of(client.get_object, Bucket=s3.bucket, Key="k")
        client.close()
        assert error == (403, code)


def test_anonymous_requests_are_refused(s3: S3) -> None:
    s3.put("k")
    url = urllib.parse.urlsplit(s3.server.endpoint)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=30)
    connection.request("GET", f"/{s3.bucket}/k")
    status = connection.getresponse().status
    connection.close()
    assert status == 403


def test_presigned_urls(s3: S3) -> None:
    s3.put("k")
    client = s3.server.client(signature_version="s3v4")
    where = {"Bucket": s3.bucket, "Key": "k"}
    url = client.generate_presigned_url("get_object", Params=where)
    client.close()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url) as answer:
        assert answer.read() == BODY


# Buckets


def test_buckets(s3: S3) -> None:
    client = s3.client
    name = f"{s3.bucket}-2"
    client.create_bucket(Bucket=name)
    client.head_bucket(Bucket=name)
    assert name in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
    client.put_object(Bucket=name, Key="k", Body=b"")
    assert error_of(client.delete_bucket, Bucket=name) == (409, "BucketNotEmpty")
    client.delete_object(Bucket=name, Key="k")
    client.delete_bucket(Bucket=name)
    assert error_of(client.head_bucket, Bucket=name) == (404, "404")


# Traps


def test_rename_leaves_an_empty_object(s3: S3) -> None:
    """``PUT ?renameObject`` is of Amazon's directory buckets. Where it is not known it is a PUT:
    whoever tries it out destroys what is there."""
    s3.put("from", b"precious")
    source = {"X-Amz-Rename-Source": f"/{s3.bucket}/from"}
    assert s3.raw("PUT", f"/{s3.bucket}/to?renameObject=", source)[0] == 200
    assert (s3.get("to"), s3.get("from")) == (b"", b"precious")


__all__ = [name for name in dir() if name.startswith("test_")]
