"""An HTTP server that says exactly what a test tells it to, down to resets in mid-body."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO


@dataclass(frozen=True)
class RawRequest:
    """One request as it came over the wire."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Reply:
    """What to answer. *then*: keep, close, reset or stall (say nothing until the server ends).

    A *status* of 0 sends nothing at all. *length* is announced as Content-Length; by default the
    body's.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: int | None = None
    then: str = "keep"

    def encode(self) -> bytes:
        """The answer's bytes."""
        if self.status == 0:
            return b""
        length = len(self.body) if self.length is None else self.length
        lines = [f"HTTP/1.1 {self.status} Status", f"Content-Length: {length}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


class RawServer:
    """Answers with what *handler* returns; remembers requests and connections."""

    def __init__(
        self, handler: Callable[[RawRequest], Reply], tls: ssl.SSLContext | None = None
    ) -> None:
        self._tls = tls
        self.handler = handler
        self.requests: list[RawRequest] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._ending = threading.Event()
        port: int = self._listener.getsockname()[1]
        self.port = port
        self.endpoint = f"{'http' if tls is None else 'https'}://127.0.0.1:{port}"
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.add(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
                self._open.add(connection)
            with connection, connection.makefile("rb") as lines:
                while (request := _read(lines)) is not None:
                    self.requests.append(request)
                    reply = self.handler(request)
                    data = reply.encode()
                    connection.sendall(
                        data
                        if request.method != "HEAD"
                        else data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
                    )
                    if reply.then == "stall":
                        self._ending.wait()
                    if reply.then == "reset":
                        linger = struct.pack("ii", 1, 0)
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    if reply.then != "keep":
                        return
        except OSError:
            pass
        finally:
            self._open.discard(connection)

    def close(self) -> None:
        """End every connection and thread."""
        self._ending.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads:
            thread.join(10)


def _read(lines: IO[bytes]) -> RawRequest | None:
    first = lines.readline()
    if not first:
        return None
    method, target, _ = first.decode("latin-1").split(" ")
    headers: dict[str, str] = {}
    while (line := lines.readline().strip()) != b"":
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    body = lines.read(int(headers.get("content-length", "0")))
    return RawRequest(method, target, headers, body)


@contextmanager
def raw_server(
    handler: Callable[[RawRequest], Reply], tls: ssl.SSLContext | None = None
) -> Iterator[RawServer]:
    """A `RawServer` for as long as the context lasts."""
    server = RawServer(handler, tls)
    try:
        yield server
    finally:
        server.close()
