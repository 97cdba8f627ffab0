"""Buckets, versions, who may ask, and what is not to be tried."""

from __future__ import annotations

import http.client
import urllib.parse
import urllib.request

from tests.s3_conformance.subject import BODY, S3, error_of


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


def test_rename_leaves_an_empty_object(s3: S3) -> None:
    """``PUT ?renameObject`` is of Amazon's directory buckets. Where it is not known it is a PUT:
    whoever tries it out destroys what is there."""
    s3.put("from", b"precious")
    source = {"X-Amz-Rename-Source": f"/{s3.bucket}/from"}
    assert s3.raw("PUT", f"/{s3.bucket}/to?renameObject=", source)[0] == 200
    assert (s3.get("to"), s3.get("from")) == (b"", b"precious")


__all__ = [name for name in dir() if name.startswith("test_")]
