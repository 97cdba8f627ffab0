"""The direct way to S3, whose HTTP is our own: connections, and answers that are none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import trio
from botocore.credentials import ReadOnlyCredentials

from tests.faults.test_lake_s3 import (
    BODY,
    ETAG,
    VERSION,
    Script,
    always,
    credentials,
    lake_at,
    nothing_left,
    read,
    serve,
    with_changes,
)
from tests.raw_server import RawRequest, Reply, raw_server
from tierfs.errors import LakeDenied, LakeProtocolError

__all__ = ["credentials", "nothing_left"]  # Fixtures.


def pieces(*parts: bytes) -> Callable[[RawRequest], Reply]:
    """An answer of these bytes, head and all."""
    return lambda _request: Raw(b"".join(parts))


@dataclass(frozen=True)
class Raw(Reply):
    """An answer as it goes over the wire."""

    wire: bytes = b""

    def __init__(self, wire: bytes) -> None:
        object.__setattr__(self, "wire", wire)
        object.__setattr__(self, "then", "keep")

    def encode(self) -> bytes:
        return self.wire


HEAD = b"HTTP/1.1 200 OK\r\nETag: " + ETAG.encode() + b"\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


async def test_one_connection_serves_one_after_the_other() -> None:
    with raw_server(serve) as server:
        async with lake_at(server) as lake:
            for _ in range(5):
                assert await read(lake, "whole-direct") == BODY[10:]
        assert (len(server.requests), server.connections) == (5, 1)


async def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    closing = with_changes(then="close")
    polite = with_changes(headers=lambda h: {**h, "Connection": "close"}, then="close")
    with raw_server(Script(closing, polite, closing)) as server:
        async with lake_at(server) as lake:
            assert lake._client is not None
            assert lake._client.direct is not None
            for _ in range(3):
                assert await read(lake, "whole-direct") == BODY[10:]
                for connection in lake._client.direct._idle:
                    with trio.fail_after(60):
                        await trio.lowlevel.wait_readable(connection)  # Its end has arrived.
            assert await read(lake, "whole-direct") == BODY[10:]
            assert lake.counters.retries == 0
        assert (len(server.requests), server.connections) == (4, 4)


async def test_bytes_that_nobody_asked_for_end_a_connection() -> None:
    more = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    with raw_server(Script(pieces(more, more))) as server:
        async with lake_at(server) as lake:
            for _ in range(2):
                assert await read(lake, "whole-direct") == BODY[10:]
        assert len(server.requests) in (2, 3)
        assert server.connections == 2


@pytest.mark.parametrize(
    "wire",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        HEAD + b"no colon\r\n\r\n",
        HEAD + b"Content-Length : 1024\r\n\r\n" + BODY,
        HEAD + b"Content-Length: 1024\r\nContent-Length: 10\r\n\r\n" + BODY,
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"\r\n" + BODY,
        HEAD + b"X: " + b"x" * 300_000 + b"\r\n\r\n",
    ],
)
async def test_an_answer_that_is_none_is_refused(wire: bytes) -> None:
    with raw_server(always(pieces(wire))) as server:
        async with lake_at(server, request_timeout=6.0) as lake:
            with pytest.raises(LakeProtocolError):
                await read(lake, "whole-direct")


async def test_what_it_does_not_understand_is_asked_again_the_signed_way() -> None:
    """Chunks, which say what the head does not; a body of theirs is never taken for the object."""
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    lie = HEAD + b"Content-Length: %d\r\n" % len(BODY) + CHUNKED + body
    code = b"<Error><Code>ExpiredToken</Code></Error>"
    denied = b"HTTP/1.1 403 Forbidden\r\n" + CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(code), code)
    with raw_server(Script(pieces(lie))) as server:
        async with lake_at(server) as lake:
            assert await read(lake, "whole-direct") == BODY[10:]
            assert (len(server.requests), lake.counters.retries) == (2, 0)
    with raw_server(always(pieces(denied))) as server:
        async with lake_at(server) as lake:
            with pytest.raises(LakeDenied, match="ExpiredToken"):
                await read(lake, "whole-direct")


async def test_a_server_that_is_overloaded_is_not_asked_again_why() -> None:
    slow = b"HTTP/1.1 503 Slow Down\r\n" + CHUNKED + b"5\r\nslow!\r\n0\r\n\r\n"
    with raw_server(Script(pieces(slow))) as server:
        async with lake_at(server) as lake:
            assert await read(lake, "whole-direct") == BODY[10:]
            assert (len(server.requests), lake.counters.slow_downs) == (2, 1)


async def test_a_body_comes_in_as_many_pieces_as_it_likes() -> None:
    whole = bytes(1000) * 900
    head = HEAD + b"Content-Length: %d\r\n\r\n" % len(whole)
    with raw_server(always(pieces(head, whole))) as server:
        async with lake_at(server) as lake:
            for _ in range(3):
                assert (await lake.get_whole(b"f", VERSION, len(whole)))[0] == whole


async def test_credentials_that_are_due_are_renewed_off_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = threading.get_ident()
    renewals: list[int] = []

    class Expiring:
        def refresh_needed(self) -> bool:
            return not renewals

        def get_frozen_credentials(self) -> ReadOnlyCredentials:
            if not renewals:
                renewals.append(threading.get_ident())
            return ReadOnlyCredentials("RENEWED", "secret", "token")

    with raw_server(serve) as server:
        async with lake_at(server) as lake:
            monkeypatch.setattr(lake._who, "_credentials", Expiring())
            for _ in range(3):
                assert await read(lake, "whole-direct") == BODY[10:]
        assert len(renewals) == 1
        assert renewals[0] != loop
        for request in server.requests:
            assert "Credential=RENEWED/" in request.headers["authorization"]
            assert request.headers["x-amz-security-token"] == "token"
