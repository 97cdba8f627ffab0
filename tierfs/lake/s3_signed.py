"""One signed HTTP request, spelled exactly: for listings, HEADs, checksums, keys that others bend,
and everything that writes.

`tierfs.lake.s3_signature` signs; urllib3 keeps the connections and sends. It is used below the
layer that normalises: a URL library turns ``a/../b`` into ``b`` and would read another object.
`HTTPConnectionPool` given a target that starts with ``/`` only percent-encodes what is not encoded
yet, and ours is encoded to the last byte, so it goes out as it is (held by a test that looks at the
wire).

A body of up to 1 MiB is covered by the signature. A larger one is not: it would have to be read
twice, for 0.5 to 2 ms of CPU a MiB, and its CRC-64/NVME, which is a signed header, already keeps
out what goes wrong by accident. So it is over plain HTTP, too, where the AWS SDKs sign bodies
against whoever changes them on the way: a plain endpoint is on one's own network (as for
`proxy_for`), and who could change a body there can read all that comes and goes. A bucket whose
policy refuses unsigned bodies (the condition key ``s3:x-amz-content-sha256``) answers 403.

Everything here blocks: call it in a worker thread. Thread-safe.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import quote
from urllib.request import getproxies, proxy_bypass

import urllib3
from botocore.httpsession import get_cert_path

from tierfs.errors import ConfigError, LakeProtocolError, LakeUnavailable
from tierfs.lake.content import Outgoing
from tierfs.lake.retry import Transient
from tierfs.lake.s3_credentials import Endpoint, Secret
from tierfs.lake.s3_signature import UNSIGNED_BODY, Signer

CONNECT_TIMEOUT_S = 5.0
#: An answer of which nothing is to be kept is read to this length, for its error code.
ERROR_BODY_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024
#: Larger bodies are not covered by the signature.
_SIGNED_BODY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers (names compared without case) and the body, unless a sink took it."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def proxy_for(endpoint: Endpoint) -> str | None:
    """The proxy that the environment names for *endpoint*.

    Only for https: through a plain HTTP proxy a path may be rewritten, and plain HTTP endpoints are
    on one's own network. Never for this machine itself.
    """
    if endpoint.scheme != "https" or proxy_bypass(endpoint.host):
        return None
    try:
        if ipaddress.ip_address(endpoint.host).is_loopback:
            return None
    except ValueError:
        if endpoint.host == "localhost":
            return None
    proxies = getproxies()
    return proxies.get("https") or proxies.get("all")


def key_target(endpoint: Endpoint, key: bytes) -> str:
    """The request target of *key*: every byte but unreserved ones and ``/`` percent-encoded."""
    return f"{endpoint.bucket_path}/{quote(key, safe='/~')}"


def bucket_target(endpoint: Endpoint) -> str:
    """The request target of the bucket itself."""
    return endpoint.bucket_path or "/"


class SignedHttp:
    """Connections to one endpoint, and signatures for it."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        connections: int,
        stall_s: float,
        tls: ssl.SSLContext | None,
        proxy: str | None,
    ) -> None:
        self.endpoint = endpoint
        self._signer = Signer(endpoint)
        self._stall_s = stall_s
        self._pool = _open_pool(endpoint, connections, stall_s, tls, proxy)

    def send(
        self,
        method: str,
        target: str,
        query: list[tuple[str, str]],
        headers: Mapping[str, str],
        secret: Secret | None,
        *,
        want: Callable[[Answer], int | None] | None = None,
        sink: Callable[[bytes], None] | None = None,
        body: Outgoing | None = None,
        patience_s: float | None = None,
    ) -> Answer:
        """Send one request and read its answer whole.

        *patience_s* is how long to wait for the answer where that is longer than for a stall.
        *want* looks at status and headers (body still empty) and tells how many bytes the body must
        have, None for any; what it raises ends the request. *sink* takes the body piecewise.
        Answers from 300 up skip both and keep at most 64 KiB of body. Raises `Transient`,
        LakeProtocolError, LakeUnavailable (a certificate that is not trusted), and as
        `Outgoing.pieces`.
        """
        # Sorted and encoded once: what is signed is what is sent.
        tail = "&".join(f"{quote(k, safe='~')}={quote(v, safe='~')}" for k, v in sorted(query))
        target = f"{target}?{tail}" if tail else target
        plain = {**headers, "Accept-Encoding": "identity"}
        try:
            if body is None:
                sent = self._signer.headers(method, target, plain, secret)
                response = self._open(method, target, sent, None, patience_s)
            else:
                response = self._open_with(method, target, plain, secret, body, patience_s)
            try:
                answer = self._read(method, target, response, want, sink)
            except BaseException:
                # What is left of this answer must not be read as the next one's (promise L4).
                response.close()
                raise
            response.release_conn()
            return answer
        except urllib3.exceptions.SSLError as error:
            raise not_trusted(self.endpoint, _one_line(error)) from None
        except urllib3.exceptions.HTTPError as error:
            raise Transient(_one_line(error)) from None

    def _open_with(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        secret: Secret | None,
        body: Outgoing,
        patience_s: float | None,
    ) -> urllib3.BaseHTTPResponse:
        """Send a request with a body. What reading that raises closes the connection."""
        whole = body.whole() if body.length <= _SIGNED_BODY_BYTES else None
        digest = UNSIGNED_BODY if whole is None else sha256(whole).hexdigest()
        sent = self._signer.headers(method, target, headers, secret, digest)
        sent["content-length"] = str(body.length)
        with closing(body.pieces() if whole is None else _once(whole)) as pieces:
            return self._open(method, target, sent, pieces, patience_s)

    def _open(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: Iterator[memoryview] | None,
        patience_s: float | None,
    ) -> urllib3.BaseHTTPResponse:
        options: dict[str, Any] = {}
        if body is not None or patience_s is not None:
            # urllib3 takes the time for connecting as that for sending a piece, too.
            read = max(self._stall_s, patience_s or 0.0)
            options["timeout"] = urllib3.Timeout(connect=self._stall_s, read=read)
        return self._pool.urlopen(
            method,
            target,
            body=body,  # type: ignore[arg-type]  # sendall takes any buffer.
            headers=headers,
            redirect=False,
            retries=False,
            preload_content=False,
            decode_content=False,
            **options,
        )

    def _read(
        self,
        method: str,
        target: str,
        response: urllib3.BaseHTTPResponse,
        want: Callable[[Answer], int | None] | None,
        sink: Callable[[bytes], None] | None,
    ) -> Answer:
        answer = Answer(response.status, response.headers, b"")
        if method == "HEAD":
            response.drain_conn()
            return answer
        if response.status >= 300:
            body = response.read(ERROR_BODY_BYTES)
            if response.read(1):
                response.close()
            return Answer(answer.status, answer.headers, body)
        wanted = want(answer) if want is not None else None
        if sink is not None:
            while chunk := response.read(_CHUNK_BYTES):
                sink(chunk)
            return answer
        if wanted is None:
            return Answer(answer.status, answer.headers, response.read())
        body = response.read(wanted) if wanted else b""
        if len(body) != wanted or response.read(1):
            raise LakeProtocolError("the body has another length than asked for", target)
        return Answer(answer.status, answer.headers, body)

    def close(self) -> None:
        """Close idle connections; those in use close when they are given back."""
        self._pool.close()


def _open_pool(
    endpoint: Endpoint,
    connections: int,
    stall_s: float,
    tls: ssl.SSLContext | None,
    proxy: str | None,
) -> urllib3.HTTPConnectionPool:
    timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=stall_s)
    options: dict[str, Any] = {"maxsize": connections, "timeout": timeout, "block": False}
    if tls is None:
        return urllib3.HTTPConnectionPool(endpoint.host, endpoint.port, **options)
    if proxy is None:
        return urllib3.HTTPSConnectionPool(endpoint.host, endpoint.port, ssl_context=tls, **options)
    manager = urllib3.ProxyManager(proxy, ssl_context=tls, **options)
    return manager.connection_from_host(endpoint.host, endpoint.port, "https")


def tls_context(ca_bundle: str | None) -> ssl.SSLContext:
    """What to trust: the certificates in the file *ca_bundle*, or the usual ones. Raises
    ConfigError."""
    if ca_bundle is not None:
        try:
            return ssl.create_default_context(cafile=ca_bundle)
        except (OSError, ssl.SSLError) as error:
            hint = f"{error}; give a file of PEM certificates as ca_bundle or AWS_CA_BUNDLE"
            raise ConfigError("the CA bundle cannot be read", ca_bundle, hint) from None
    context = ssl.create_default_context()
    # A slim image may have no system store at all; this is the one that boto3 trusts.
    context.load_verify_locations(get_cert_path(True))
    return context


def not_trusted(endpoint: Endpoint, reason: str) -> LakeUnavailable:
    """The error of a TLS handshake that failed for *reason*."""
    hint = f"{reason}; if the server's CA is your own, give the ca_bundle option"
    return LakeUnavailable("TLS failed", endpoint.origin, hint)


def _once(whole: bytes) -> Generator[memoryview, None, None]:
    yield memoryview(whole)


def _one_line(error: BaseException) -> str:
    """An exception of urllib3's in one line, without the addresses of objects that it prints."""
    text = " ".join(str(error).split())
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        text = text.rpartition(": ")[2]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
