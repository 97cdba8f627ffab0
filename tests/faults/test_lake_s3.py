"""S3Lake before a server that misbehaves: promises L1, L2 and L4, looked at on the wire."""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import tierfs.lake.s3
import tierfs.lake.s3_bytes
from tests.certificates import make_certificate
from tests.lake_options import NoJitter, Options
from tests.raw_server import RawRequest, RawServer, Reply, raw_server
from tests.servers import TEST_CREDENTIALS
from tierfs.errors import (
    LakeArchived,
    LakeDenied,
    LakeError,
    LakeMissing,
    LakeProtocolError,
    LakeUnavailable,
    NotFound,
    PreconditionFailed,
)
from tierfs.lake.protocol import Checksum, ChecksumKind, Version
from tierfs.lake.s3 import S3Lake
from tierfs.lake.url import parse_lake_url

BODY = bytes(range(256)) * 4
ETAG = '"0123456789abcdef"'
VERSION = Version(ETAG.encode())
COMMON = {"ETag": ETAG, "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}

Handler = Callable[[RawRequest], Reply]


def serve(request: RawRequest) -> Reply:
    """What a good server answers about the one object there is."""
    asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
    if request.headers.get("if-match", ETAG) != ETAG:
        return Reply(412)
    if asked is None:
        return Reply(200, COMMON, BODY)
    first, last = int(asked[1]), int(asked[2])
    headers = {**COMMON, "Content-Range": f"bytes {first}-{last}/{len(BODY)}"}
    return Reply(206, headers, BODY[first : last + 1])


class Script:
    """Answers in turn; the good one when they are used up."""

    def __init__(self, *answers: Reply | Handler) -> None:
        self.answers = list(answers)

    def __call__(self, request: RawRequest) -> Reply:
        if not self.answers:
            return serve(request)
        answer = self.answers.pop(0)
        return answer if isinstance(answer, Reply) else answer(request)


def error(status: int, code: str, **headers: str) -> Reply:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>"
    return Reply(status, {k.replace("_", "-"): v for k, v in headers.items()}, body.encode())


def always(answer: Reply | Handler) -> Handler:
    return answer if callable(answer) else lambda _request: answer


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TEST_CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    # A proxy of the environment must not matter to a plain endpoint on this machine.
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


@asynccontextmanager
async def lake_at(server: RawServer, **options: Any) -> AsyncIterator[S3Lake]:
    chosen = Options(url="s3://bucket/root", endpoint=server.endpoint, **options)
    lake = await S3Lake.open(parse_lake_url(chosen.url), chosen, rng=NoJitter())
    try:
        yield lake
    finally:
        await lake.aclose()


async def read(lake: S3Lake, way: str) -> bytes:
    """The bytes 10 to 30, or all, by one of the ways there are."""
    if way == "cheap":
        return bytes(await lake.get(b"f", VERSION, 10, 20)) + BODY[30:]
    if way == "signed":
        return bytes(await lake.get(b"a//f", VERSION, 10, 20)) + BODY[30:]
    with pytest.MonkeyPatch.context() as patch:
        if way != "whole-direct":
            patch.setattr(tierfs.lake.s3, "DIRECT_BYTES", -1)
        found, _ = await lake.get_whole(b"f", VERSION, len(BODY), checksum=way != "whole-cheap")
    return bytes(found[10:])


WAYS = ("cheap", "signed", "whole-cheap", "whole-signed", "whole-direct")
each_way = pytest.mark.parametrize("way", WAYS)


def with_changes(
    *,
    headers: Callable[[dict[str, str]], dict[str, str]] = lambda same: same,
    body: Callable[[bytes], bytes] = lambda same: same,
    length: int | None = None,
    then: str = "keep",
) -> Handler:
    """The good answer, changed."""

    def answer(request: RawRequest) -> Reply:
        good = serve(request)
        return Reply(good.status, headers(good.headers), body(good.body), length, then)

    return answer


# L1: nothing but what was asked for


@each_way
async def test_a_good_server_is_believed(way: str) -> None:
    with raw_server(serve) as server:
        async with lake_at(server) as lake:
            assert await read(lake, way) == BODY[10:]
        assert len(server.requests) == 1


@pytest.mark.parametrize("way", ["cheap", "signed"])
async def test_a_range_answered_200_is_refused(way: str) -> None:
    whole = Reply(200, COMMON, BODY)
    cut = Reply(200, COMMON, BODY[:20])
    for answer in (whole, cut):
        with raw_server(always(answer)) as server:
            async with lake_at(server) as lake:
                with pytest.raises(LakeProtocolError):
                    await read(lake, way)
            assert 1 < len(server.requests) <= 6, "tried again, and not for ever"


@pytest.mark.parametrize("way", ["cheap", "signed"])
@pytest.mark.parametrize(
    "claim", ["bytes 0-19/1024", "bytes 10-28/1024", "bytes 10-30/1024", "bytes */1024", "nonsense"]
)
async def test_another_range_is_refused(way: str, claim: str) -> None:
    answer = with_changes(headers=lambda h: {**h, "Content-Range": claim})
    with raw_server(answer) as server:
        async with lake_at(server) as lake:
            with pytest.raises(LakeProtocolError):
                await read(lake, way)


@each_way
@pytest.mark.parametrize("change", [-1, 1])
async def test_another_length_is_refused(way: str, change: int) -> None:
    answer = with_changes(body=lambda b: b[:-1] if change < 0 else b + b"x")
    with raw_server(answer) as server:
        async with lake_at(server) as lake:
            with pytest.raises(LakeProtocolError):
                await read(lake, way)


@each_way
async def test_another_version_is_never_returned(way: str) -> None:
    """A server that ignores If-Match is found out by the ETag of its answer."""
    answer = with_changes(headers=lambda h: {**h, "ETag": '"another"'})
    with raw_server(answer) as server:
        async with lake_at(server) as lake:
            with pytest.raises(PreconditionFailed):
                await read(lake, way)


@each_way
async def test_another_version_is_asked_again_before_it_is_believed(way: str) -> None:
    wrong = with_changes(headers=lambda h: {**h, "ETag": '"another"'})
    with raw_server(Script(wrong, with_changes())) as server:
        async with lake_at(server) as lake:
            assert await read(lake, way) == BODY[10:]


@each_way
async def test_sabotage_without_the_etag_check_other_bytes_get_through(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin of the test above: what it holds is the check, not the server."""
    monkeypatch.setattr(tierfs.lake.s3, "check_body", lambda *_a, **_k: None)
    monkeypatch.setattr(tierfs.lake.s3_bytes, "normal_etag", lambda _etag: ETAG.encode())
    wrong = with_changes(headers=lambda h: {**h, "ETag": '"another"'}, body=lambda b: b[::-1])
    with raw_server(wrong) as server:
        async with lake_at(server) as lake:
            assert await read(lake, way) != BODY[10:]


@each_way
async def test_an_answer_without_etag_is_refused(way: str) -> None:
    answer = with_changes(headers=lambda h: {k: v for k, v in h.items() if k != "ETag"})
    with raw_server(answer) as server:
        async with lake_at(server) as lake:
            with pytest.raises(LakeProtocolError):
                await read(lake, way)


@each_way
@pytest.mark.parametrize("status", [404, 412, 416])
async def test_gone_or_changed_is_a_failed_precondition(way: str, status: int) -> None:
    with raw_server(always(error(status, "Whatever"))) as server:
        async with lake_at(server) as lake:
            with pytest.raises(PreconditionFailed):
                await read(lake, way)


async def test_the_checksum_comes_with_the_whole_object() -> None:
    value = zlib.crc32(BODY)
    header = base64.b64encode(value.to_bytes(4, "big")).decode()
    full = {"x-amz-checksum-crc32": header, "x-amz-checksum-type": "FULL_OBJECT"}
    composite = {"x-amz-checksum-crc32": header + "-3", "x-amz-checksum-type": "COMPOSITE"}
    flipped = bytes([BODY[0] ^ 1]) + BODY[1:]
    script = Script(
        with_changes(headers=lambda h: h | full),
        with_changes(headers=lambda h: h | full, body=lambda _b: flipped),
        with_changes(headers=lambda h: h | composite),
        with_changes(headers=lambda h: h | full | {"x-amz-checksum-crc32": "!!"}),
    )
    with raw_server(script) as server:
        async with lake_at(server) as lake:
            wanted = Checksum(ChecksumKind.CRC32, value)
            assert await lake.get_whole(b"f", VERSION, len(BODY)) == (BODY, wanted)
            body, checksum = await lake.get_whole(b"f", VERSION, len(BODY))
            assert checksum == wanted
            assert zlib.crc32(body) != wanted.value, "a flipped byte shows"
            assert await lake.get_whole(b"f", VERSION, len(BODY)) == (BODY, None)
            # A malformed one is asked for again; the good answer has none.
            assert await lake.get_whole(b"f", VERSION, len(BODY)) == (BODY, None)
        assert server.requests[0].headers["x-amz-checksum-mode"] == "ENABLED"


# L2: transient faults


@each_way
@pytest.mark.parametrize(
    "fault",
    [
        error(500, "InternalError"),
        error(503, "SlowDown"),
        error(429, "TooManyRequests"),
        error(400, "RequestTimeout"),
        Reply(502, {}, b"<html>bad gateway</html>"),
        with_changes(body=lambda b: b[: len(b) // 2], length=20, then="close"),
        with_changes(body=lambda b: b[:5], length=20, then="reset"),
        Reply(0, then="reset"),
    ],
    ids=["500", "503", "429", "timeout", "502", "short", "reset", "reset-early"],
)
async def test_transient_faults_are_retried(way: str, fault: Reply | Handler) -> None:
    if callable(fault) and way.startswith("whole"):
        announced = with_changes(length=len(BODY), body=lambda b: b[:100], then="close")
        fault = announced
    with raw_server(Script(fault, fault)) as server:
        async with lake_at(server) as lake:
            assert await read(lake, way) == BODY[10:]
            # What obstore cannot name is asked again by the signed way at once: not a retry.
            assert 1 <= lake.counters.retries <= 2
            assert lake.counters.bytes_read in (20, len(BODY))


@each_way
async def test_a_stalled_body_is_given_up_and_asked_for_again(way: str) -> None:
    stalled = with_changes(
        body=lambda b: b[:5], length=20 if not way.startswith("whole") else len(BODY), then="stall"
    )
    with raw_server(Script(stalled)) as server:
        # A stall is a third of this: 2 s, which a loaded machine does not reach by itself.
        async with lake_at(server, request_timeout=6.0) as lake:
            assert await read(lake, way) == BODY[10:]
            assert lake.counters.retries >= 1
        assert server.connections >= 2, "the stalled connection is not used again"


@each_way
async def test_faults_that_last_end_at_the_deadline(way: str) -> None:
    with raw_server(always(error(503, "SlowDown"))) as server:
        chosen = Options(url="s3://bucket", endpoint=server.endpoint, request_timeout=5.0)
        lake = await S3Lake.open(parse_lake_url(chosen.url), chosen)
        with trio.fail_after(60), pytest.raises(LakeUnavailable):
            await read(lake, way)
        assert lake.limiter.limit < chosen.max_connections
        assert lake.counters.slow_downs >= 2
        await lake.aclose()


async def test_listings_and_heads_are_retried_too() -> None:
    listing = (
        b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>root/a</Key>"
        b"<Size>1</Size><ETag>x</ETag><LastModified>2024-01-01T00:00:00Z</LastModified>"
        b"</Contents></ListBucketResult>"
    )
    cut = Reply(200, {}, listing[:90], length=len(listing), then="close")
    lie = Reply(200, {}, listing[:90])
    script = Script(error(500, "InternalError"), cut, lie, Reply(200, {}, listing))
    with raw_server(script) as server:
        async with lake_at(server) as lake:
            page = await lake.list_page(b"")
            assert [o.key for o in page.objects] == [b"a"]
            script.answers = [error(503, "SlowDown"), Reply(200, COMMON, BODY)]
            assert (await lake.head(b"f")).size == len(BODY)


# Refusals


@each_way
async def test_archived_objects_say_so(way: str) -> None:
    with raw_server(always(error(403, "InvalidObjectState"))) as server:
        async with lake_at(server) as lake:
            with pytest.raises(LakeArchived):
                await read(lake, way)


async def test_a_head_tells_archive_tiers() -> None:
    cases: list[tuple[dict[str, str], bool]] = [
        ({"x-amz-storage-class": "GLACIER"}, True),
        ({"x-amz-storage-class": "GLACIER_IR"}, False),
        ({"x-amz-storage-class": "INTELLIGENT_TIERING"}, False),
        ({"x-amz-archive-status": "DEEP_ARCHIVE_ACCESS"}, True),
        ({"x-amz-storage-class": "GLACIER", "x-amz-restore": 'ongoing-request="true"'}, True),
        (
            {"x-amz-storage-class": "DEEP_ARCHIVE", "x-amz-restore": 'ongoing-request="false"'},
            False,
        ),
    ]
    script = Script(*(Reply(200, COMMON | headers, BODY) for headers, _ in cases))
    with raw_server(script) as server:
        async with lake_at(server) as lake:
            for _, archived in cases:
                assert (await lake.head(b"f")).archived is archived


@pytest.mark.parametrize(
    ("answer", "raised", "says"),
    [
        (error(403, "AccessDenied"), LakeDenied, "s3:GetObject"),
        (error(403, "RequestTimeTooSkewed"), LakeDenied, "clock"),
        (error(400, "ExpiredToken"), LakeDenied, "expired"),
        (error(403, "InvalidAccessKeyId"), LakeDenied, "InvalidAccessKeyId"),
        (error(404, "NoSuchBucket"), LakeMissing, "no such bucket"),
        (error(400, "KeyTooLongError"), LakeProtocolError, "KeyTooLongError"),
    ],
)
async def test_refusals_name_their_remedy(
    answer: Reply, raised: type[LakeError], says: str
) -> None:
    with raw_server(always(answer)) as server:
        async with lake_at(server) as lake:
            calls: list[Callable[[], Awaitable[object]]] = [
                lambda: lake.list_page(b""),
                lambda: lake.get(b"f", VERSION, 0, 5),
                lambda: lake.get_whole(b"f", VERSION, 5),
                lambda: lake.head(b"f"),
            ]
            if raised is LakeMissing:
                calls.pop()  # A HEAD answered 404 does not say what is missing.
            for call in calls:
                with pytest.raises(raised, match=says) as caught:
                    await call()
                assert "\n" not in str(caught.value)
                assert "testing-secret" not in str(caught.value)


async def test_a_missing_key_is_not_found() -> None:
    with raw_server(always(Reply(404))) as server:
        async with lake_at(server) as lake:
            with pytest.raises(NotFound):
                await lake.head(b"f")


async def test_expired_credentials_are_looked_up_again_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def renewed(request: RawRequest) -> Reply:
        if "Credential=NEW/" in request.headers["authorization"]:
            return serve(request)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NEW")
        return error(400, "ExpiredToken")

    with raw_server(renewed) as server:
        async with lake_at(server) as lake:
            assert await read(lake, "cheap") == BODY[10:]
            count = len(server.requests)
            assert await read(lake, "signed") == BODY[10:]
            assert await read(lake, "cheap") == BODY[10:]
            assert len(server.requests) == count + 2


@each_way
async def test_another_region_is_followed_once(way: str) -> None:
    def elsewhere(request: RawRequest) -> Reply:
        if "/eu-west-1/s3/" in request.headers["authorization"]:
            return serve(request)
        return error(301, "PermanentRedirect", x_amz_bucket_region="eu-west-1")

    with raw_server(elsewhere) as server:
        async with lake_at(server) as lake:
            assert await read(lake, way) == BODY[10:]
            count = len(server.requests)
            assert await read(lake, way) == BODY[10:]
            assert len(server.requests) == count + 1

    circle = iter(["eu-west-1", "eu-west-2"] * 50)
    spin = lambda _r: error(301, "PermanentRedirect", x_amz_bucket_region=next(circle))  # noqa: E731
    with raw_server(spin) as server:
        async with lake_at(server) as lake:
            with pytest.raises(LakeProtocolError):
                await read(lake, way)


async def test_no_credentials_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    with raw_server(serve) as server:
        with pytest.raises(LakeDenied, match="anonymous"):
            async with lake_at(server):
                pass
        async with lake_at(server, anonymous=True) as lake:
            for way in WAYS:
                assert await read(lake, way) == BODY[10:]
        assert all("authorization" not in request.headers for request in server.requests)


# The wire


KEYS = [
    b"a/../b",
    b"a//b",
    b"./x",
    b"x/",
    b"/x",
    b"a?b",
    b"a#b",
    b"a%2Fb",
    b"a+b",
    b"a b",
    b"a\nb",
    b"a\x7fb",
    b"a\\b",
    b"a~b*c'd(e)!f",
    b"a:b=c@d&e,f;g$i",
    "\u00e9/\u65e5".encode(),
    b"..",
    b".",
    b"...",
    b"//",
]


@pytest.mark.parametrize("key", KEYS)
async def test_every_key_is_spelled_exactly(key: bytes) -> None:
    safe = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/"
    spelled = "".join(chr(c) if c in safe else f"%{c:02X}" for c in key)
    with raw_server(serve) as server:
        async with lake_at(server) as lake:
            await lake.head(key)
            await lake.get(key, VERSION, 3, 5)
            await lake.get_whole(key, VERSION, len(BODY))
            await lake.get_whole(key, VERSION, len(BODY), checksum=False)
        assert [request.target for request in server.requests] == [f"/bucket/root/{spelled}"] * 4


async def test_options_reach_the_wire(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(base64.b64encode(bytes(range(32))).decode() + "\n")
    with raw_server(serve) as server:
        async with lake_at(server, requester_pays=True) as lake:
            for way in WAYS:
                assert await read(lake, way) == BODY[10:]
            await lake.head(b"f")
        for request in server.requests:
            assert request.headers["x-amz-request-payer"] == "requester"
            assert "x-amz-request-payer" in request.headers["authorization"]
        server.requests.clear()
        async with lake_at(server, sse_c_key_file=key_file) as lake:
            for way in WAYS:
                assert await read(lake, way) == BODY[10:]
        name = "x-amz-server-side-encryption-customer-key"
        for request in server.requests:
            assert base64.b64decode(request.headers[name]) == bytes(range(32))
            assert name in request.headers["authorization"]


async def test_bodies_are_taken_as_they_are() -> None:
    """A Content-Encoding is the object's own business: its bytes are not decoded."""
    answer = with_changes(headers=lambda h: {**h, "Content-Encoding": "gzip"})
    with raw_server(answer) as server:
        async with lake_at(server) as lake:
            for way in WAYS:
                assert await read(lake, way) == BODY[10:]


async def test_a_ca_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, bundle = make_certificate(tmp_path)
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    with raw_server(serve, context) as server:
        async with lake_at(server, ca_bundle=bundle) as lake:
            for way in WAYS:
                assert await read(lake, way) == BODY[10:]
        monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
        async with lake_at(server) as lake:
            for way in WAYS:
                assert await read(lake, way) == BODY[10:]
        monkeypatch.delenv("AWS_CA_BUNDLE")
        count = len(server.requests)
        async with lake_at(server, request_timeout=20.0) as lake:
            for way in WAYS:
                with pytest.raises(LakeUnavailable):
                    await read(lake, way)
            with pytest.raises(LakeUnavailable, match="ca_bundle"):
                await lake.check()
        assert len(server.requests) == count


# L4: cancellation


@each_way
async def test_a_cancelled_read_spoils_nothing(way: str) -> None:
    half = with_changes(
        body=lambda b: b[:5], length=20 if not way.startswith("whole") else len(BODY), then="stall"
    )
    with raw_server(Script(half)) as server:
        async with lake_at(server, request_timeout=3.0) as lake:
            with trio.move_on_after(0.2) as scope:
                await read(lake, way)
            assert scope.cancelled_caught
            for _ in range(3):
                assert await read(lake, way) == BODY[10:]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    import gc

    gc.collect()  # A socket that was left open shows as a warning here, in its own test.
