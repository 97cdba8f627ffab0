"""Writing, deleting, copying and tagging objects, and the conditions of that."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from tests.s3_conformance.subject import BODY, OTHER_ETAG, S3, error_of


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


__all__ = [name for name in dir() if name.startswith("test_")]
