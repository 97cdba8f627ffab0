"""GETs of small whole objects on the loop's own thread: one request, one answer, nothing between.

A thread costs a small GET more than its bytes do: handing the request over and the answer back,
and four waits for Python's global lock, in which sixteen readers' threads and the loop's stand in
each other's way. Here the loop sends, sleeps until the answer is there, and takes it. Measured for
a GET of 110 KB with 1 / 4 / 16 in flight on a bare loop: 98 / 77 / 71 us of CPU, where obstore in a
thread takes 254 / 171 / 186 and urllib3 in a thread 304 / 290 / 253.

It does what it must for bytes and no more. What it does not understand (an answer without a length,
an error in pieces) is `Undecided`, and asked for again by `tierfs.lake.s3_signed`, which has all of
HTTP behind it. Proxies are not for here either.

A connection is idle in `DirectHttp._idle`, or belongs to one call. It goes back only after an
answer that was read to its end (promise L4); every other way out of the call closes it. All calls
on one trio thread.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable, Mapping

import trio

from tierfs.errors import LakeProtocolError
from tierfs.lake.retry import Transient
from tierfs.lake.s3_answers import Undecided
from tierfs.lake.s3_credentials import Endpoint, Secret
from tierfs.lake.s3_signature import Signer
from tierfs.lake.s3_signed import CONNECT_TIMEOUT_S, ERROR_BODY_BYTES, Answer, not_trusted

#: Larger objects are worth a thread: reading and decrypting them would hold the loop up. (Of this
#: much, 0.3 ms; with TLS, 1 ms.)
DIRECT_BYTES = 1 << 20
#: The first read of an answer: its head, and the whole body if that is as small as most samples.
_FIRST_BYTES = 128 << 10
_HEAD_BYTES = 64 << 10
_CHUNK_BYTES = 256 << 10
#: Errors that need no body to be understood; an overloaded server is not asked again for it.
_CLEAR = frozenset({412, 429, 500, 502, 503, 504})
_END = b"\r\n\r\n"

_WANTS_TO_READ = (BlockingIOError, ssl.SSLWantReadError)


class DirectHttp:
    """Connections to one endpoint. *tls*: what to trust, where the endpoint speaks https."""

    def __init__(
        self, endpoint: Endpoint, *, connections: int, stall_s: float, tls: ssl.SSLContext | None
    ) -> None:
        self._endpoint = endpoint
        self._signer = Signer(endpoint)
        self._connections = connections
        self._stall_s = stall_s
        self._tls = tls
        self._idle: list[socket.socket] = []
        self._closed = False

    async def get(
        self,
        target: str,
        headers: Mapping[str, str],
        secret: Secret | None,
        want: Callable[[Answer], int],
    ) -> Answer:
        """Send one request and read its answer whole.

        *want* looks at status and headers (body still empty) of an answer below 300 and tells how
        long the body must be; what it raises ends the request. Raises `Transient`, `Undecided`,
        LakeProtocolError, LakeUnavailable (a certificate that is not trusted).
        """
        plain = {**headers, "Accept-Encoding": "identity"}
        sent = self._signer.headers("GET", target, plain, secret)
        lines = [f"GET {target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in sent.items()]
        request = "\r\n".join([*lines, "", ""]).encode("latin-1")
        connection = self._take()
        if connection is None:
            connection = await self._connect()
        reusable = False
        try:
            answer, reusable = await self._exchange(connection, request, target, want)
        finally:
            if reusable and not self._closed and len(self._idle) < self._connections:
                self._idle.append(connection)
            else:
                connection.close()
        return answer

    def close(self) -> None:
        """Close idle connections; those in use close when their answer is read."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    # ---- connections ----------------------------------------------------------------------------

    def _take(self) -> socket.socket | None:
        """An idle connection that the server has not closed, or None."""
        while self._idle:
            connection = self._idle.pop()
            poll = select.poll()
            poll.register(connection, select.POLLIN)
            if not poll.poll(0):
                return connection
            connection.close()  # The end of it, or bytes that nobody asked for.
        return None

    async def _connect(self) -> socket.socket:
        endpoint = self._endpoint
        connection: socket.socket | None = None
        try:
            with trio.fail_after(CONNECT_TIMEOUT_S):
                stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
                connection = socket.socket(fileno=stream.socket.detach())
                connection.setblocking(False)
                if self._tls is not None:
                    connection = self._tls.wrap_socket(
                        connection, server_hostname=endpoint.host, do_handshake_on_connect=False
                    )
                    await _shake_hands(connection)
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, ssl.SSLError):
                raise not_trusted(endpoint, str(error)) from None
            if isinstance(error, OSError):
                raise Transient(f"cannot connect: {error}") from None
            if isinstance(error, trio.TooSlowError):
                raise Transient(f"no connection within {CONNECT_TIMEOUT_S:g} s") from None
            raise
        return connection

    # ---- one request ----------------------------------------------------------------------------

    async def _exchange(
        self,
        connection: socket.socket,
        request: bytes,
        target: str,
        want: Callable[[Answer], int],
    ) -> tuple[Answer, bool]:
        """The answer, and whether the connection may be used again."""
        with trio.move_on_after(self._stall_s) as patience:
            try:
                await _send(connection, request)
                await trio.lowlevel.wait_readable(connection)
                return await self._receive(connection, target, want, patience)
            except OSError as error:
                raise Transient(f"the connection failed: {error}") from None
        raise Transient(f"no progress for {self._stall_s:g} s")

    async def _receive(
        self,
        connection: socket.socket,
        target: str,
        want: Callable[[Answer], int],
        patience: trio.CancelScope,
    ) -> tuple[Answer, bool]:
        received = b""
        while (end := received.find(_END)) < 0:
            if len(received) > _HEAD_BYTES:
                raise LakeProtocolError("an answer's head has no end", target)
            received += await _some(connection, _FIRST_BYTES)
        status, headers, persistent = _parse_head(received[:end], target)
        length = _body_length(status, headers)
        if status < 300:
            if "transfer-encoding" in headers:
                raise Undecided
            length = want(Answer(status, headers, b""))
        elif length is None:
            if status in _CLEAR:
                return Answer(status, headers, b""), False
            raise Undecided
        pieces = [received[end + len(_END) :]]
        missing = length - len(pieces[0])
        while missing > 0:
            patience.deadline = trio.current_time() + self._stall_s
            piece = await _some(connection, min(missing, _CHUNK_BYTES))
            missing -= len(piece)
            pieces.append(piece)
        if missing < 0:
            raise LakeProtocolError("the body has another length than asked for", target)
        return Answer(status, headers, b"".join(pieces)), persistent


async def _shake_hands(connection: ssl.SSLSocket) -> None:
    while True:
        try:
            connection.do_handshake()
        except ssl.SSLWantReadError:
            await trio.lowlevel.wait_readable(connection)
        except ssl.SSLWantWriteError:
            await trio.lowlevel.wait_writable(connection)
        else:
            return


async def _send(connection: socket.socket, data: bytes) -> None:
    while data:
        try:
            data = data[connection.send(data) :]
        except _WANTS_TO_READ:
            # What a plain socket says of a full buffer; TLS means what it says.
            if isinstance(connection, ssl.SSLSocket):
                await trio.lowlevel.wait_readable(connection)
            else:
                await trio.lowlevel.wait_writable(connection)
        except ssl.SSLWantWriteError:
            await trio.lowlevel.wait_writable(connection)


async def _some(connection: socket.socket, most: int) -> bytes:
    """What has come, at least a byte. Raises `Transient` at the end of the connection."""
    while True:
        try:
            data = connection.recv(most)
        except _WANTS_TO_READ:
            await trio.lowlevel.wait_readable(connection)
        except ssl.SSLWantWriteError:
            await trio.lowlevel.wait_writable(connection)
        else:
            if not data:
                raise Transient("the connection was closed before the end of the answer")
            return data


def _parse_head(head: bytes, target: str) -> tuple[int, dict[str, str], bool]:
    """Status, headers (names in lower case) and whether the connection persists.

    Raises LakeProtocolError.
    """
    lines = head.decode("latin-1").split("\r\n")
    version, _, rest = lines[0].partition(" ")
    status = rest[:3]
    if version not in ("HTTP/1.1", "HTTP/1.0") or not (status.isascii() and status.isdigit()):
        raise LakeProtocolError("an answer is not HTTP/1.1", target)
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or name != name.strip():
            raise LakeProtocolError("an answer's head is malformed", target)
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    persistent = version == "HTTP/1.1" and "close" not in headers.get("connection", "").lower()
    return int(status), headers, persistent


def _body_length(status: int, headers: dict[str, str]) -> int | None:
    """How long the body of an error is; None where that is not said, or too long to be read."""
    text = headers.get("content-length", "")
    if status < 300 or "transfer-encoding" in headers or not (text.isascii() and text.isdigit()):
        return None
    length = int(text)
    return length if length <= ERROR_BODY_BYTES else None
