"""Listing, and the spelling of keys."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from tests.s3_conformance.subject import S3, error_of


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


__all__ = [name for name in dir() if name.startswith("test_")]
