"""What lakes tell of where their bytes are, so that another process can GET them."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from botocore.credentials import RefreshableCredentials

from tests.lake_options import NoJitter, Options
from tests.raw_server import RawRequest, Reply, raw_server
from tierfs.errors import LakeDenied, LakeError
from tierfs.lake.faulty import FaultyLake
from tierfs.lake.link import STANDARD, ModelledLake
from tierfs.lake.local import LocalLake
from tierfs.lake.memory import MemoryLake
from tierfs.lake.protocol import Lake, Source, Version
from tierfs.lake.s3 import S3Lake
from tierfs.lake.url import parse_lake_url

ENDPOINT = "http://127.0.0.1:9"
VERSION = Version(b'"e"')
BODY = b"0123456789"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "very-secret",
        "AWS_SESSION_TOKEN": "some-token",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_CA_BUNDLE", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@asynccontextmanager
async def s3(url: str = "s3://bucket/root", **options: Any) -> AsyncIterator[S3Lake]:
    options.setdefault("endpoint", ENDPOINT)
    chosen = Options(url=url, **options)
    lake = await S3Lake.open(parse_lake_url(url), chosen, rng=NoJitter())
    try:
        yield lake
    finally:
        await lake.aclose()


async def source_of(lake: Lake) -> Source:
    found = await lake.source()
    assert found is not None
    return found


async def changed(lake: Lake, within_s: float = 0.05) -> bool:
    """Whether the lake knows by itself that there is another source."""
    with trio.move_on_after(within_s):
        await lake.source_changed()
        return True
    return False


async def test_a_bucket_says_where_it_is_and_as_whom_to_ask() -> None:
    async with s3(max_connections=7, request_timeout=30.0) as lake:
        assert await source_of(lake) == Source(
            scheme="http",
            host="127.0.0.1",
            port=9,
            path="/bucket/root/",
            region="us-east-1",
            access_key="AKIDEXAMPLE",
            secret_key="very-secret",
            token="some-token",
            headers=(),
            ca_bundle="",
            connections=7,
            stall_s=10.0,
        )


@pytest.mark.parametrize(
    ("url", "options", "host", "path"),
    [
        ("s3://bucket", {}, "127.0.0.1", "/bucket/"),
        ("s3://bucket", {"endpoint": "http://box:1", "path_style": False}, "bucket.box", "/"),
        ("s3://bucket/a b/caf\u00e9+", {}, "127.0.0.1", "/bucket/a%20b/caf%C3%A9%2B/"),
        (
            "s3://bucket/p",
            {"endpoint": None, "region": "eu-west-1"},
            "bucket.s3.eu-west-1.amazonaws.com",
            "/p/",
        ),
    ],
)
async def test_keys_follow_the_path(
    url: str, options: dict[str, Any], host: str, path: str
) -> None:
    async with s3(url, **options) as lake:
        found = await source_of(lake)
        assert (found.host, found.path) == (host, path)


async def test_headers_and_certificates_go_with_it(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    async with s3(requester_pays=True, sse_c_key_file=key) as lake:
        headers = dict((await source_of(lake)).headers)
        prefix = "x-amz-server-side-encryption-customer-"
        assert headers["x-amz-request-payer"] == "requester"
        assert headers[prefix + "key"] == base64.b64encode(bytes(range(32))).decode()
        assert headers.keys() >= {prefix + "algorithm", prefix + "key-md5"}
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(b"")
    async with s3(ca_bundle=bundle) as lake:
        assert (await source_of(lake)).ca_bundle == str(bundle)


async def test_an_anonymous_lake_has_no_credentials() -> None:
    async with s3(anonymous=True) as lake:
        found = await source_of(lake)
        assert (found.access_key, found.secret_key, found.token) == ("", "", "")


async def test_through_a_proxy_bytes_come_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    async with s3(endpoint="https://box:1") as lake:
        assert await lake.source() is None
    monkeypatch.delenv("https_proxy")
    async with s3(endpoint="https://box:1") as lake:
        assert await lake.source() is not None


async def test_other_lakes_and_decorators_are_asked_here(tmp_path: Path) -> None:
    async with s3() as bucket:
        assert await bucket.source() is not None
        lakes: list[Lake] = [
            LocalLake(bytes(tmp_path)),
            MemoryLake(),
            FaultyLake(bucket),
            ModelledLake(bucket, STANDARD),
        ]
        for lake in lakes:
            assert await lake.source() is None
            assert not await changed(lake, 0.01)


async def test_credentials_that_were_refused_are_told_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(request: RawRequest) -> Reply:
        if "Credential=NEW/" in request.headers["authorization"]:
            headers = {"ETag": '"e"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
            return Reply(200, headers, BODY)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NEW")
        return Reply(400, {}, b"<Error><Code>ExpiredToken</Code></Error>")

    with raw_server(answer) as server:
        async with s3(endpoint=server.endpoint) as lake:
            before = await source_of(lake)
            assert not await changed(lake)
            await lake.get_whole(b"f", VERSION, len(BODY))
            # Even for who waits only now.
            assert await changed(lake)
            assert await source_of(lake) == replace(before, access_key="NEW")
            assert not await changed(lake)


async def test_another_region_is_told() -> None:
    def answer(request: RawRequest) -> Reply:
        if "/eu-west-1/s3/" in request.headers["authorization"]:
            headers = {"ETag": '"e"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
            return Reply(200, headers, BODY)
        body = b"<Error><Code>PermanentRedirect</Code></Error>"
        return Reply(301, {"x-amz-bucket-region": "eu-west-1"}, body)

    with raw_server(answer) as server:
        async with s3(endpoint=server.endpoint) as lake:
            before = await source_of(lake)
            async with trio.open_nursery() as nursery:
                with trio.fail_after(5):
                    nursery.start_soon(lake.get_whole, b"f", VERSION, len(BODY))
                    await lake.source_changed()
            assert await source_of(lake) == replace(before, region="eu-west-1")


async def test_credentials_are_renewed_before_they_expire() -> None:
    """As botocore does it with those that can be renewed: here they have a minute left."""
    renewals = 0

    def metadata(minutes: float) -> dict[str, str]:
        until = datetime.now(UTC) + timedelta(minutes=minutes)
        return {
            "access_key": f"KEY{renewals}",
            "secret_key": "very-secret",
            "token": "some-token",
            "expiry_time": until.isoformat(),
        }

    def renew() -> dict[str, str]:
        nonlocal renewals
        renewals += 1
        return metadata(60)

    async with s3() as lake:
        lake._who._credentials = RefreshableCredentials.create_from_metadata(
            metadata(1), refresh_using=renew, method="test"
        )
        assert (await source_of(lake)).access_key == "KEY1"
        assert (await source_of(lake)).access_key == "KEY1"
        assert renewals == 1


async def test_credentials_that_are_gone_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async with s3() as lake:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        lake._who._credentials = lake._who._session = None
        with pytest.raises(LakeDenied) as caught:
            await lake.source()
        error: LakeError = caught.value
        assert "very-secret" not in str(error)


async def test_no_secret_is_shown() -> None:
    async with s3() as lake:
        found = await source_of(lake)
        assert found.secret_key == "very-secret"
        for shown in (repr(found), str(found), repr(vars(lake))):
            for secret in ("AKIDEXAMPLE", "very-secret", "some-token"):
                assert secret not in shown
