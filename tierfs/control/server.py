"""The control socket: versioned JSON lines between the live commands and a mount.

One request a connection, one JSON object a line::

    -> {"v": 1, "command": "status", "args": {}}
    <- {"progress": {...}}                      any number
    <- {"ok": {...}}                            or {"error": {"kind", "op", "subject", "hint"}}

The socket is 0600 and its peer must be root or the user who mounted (SO_PEERCRED): what it can do
(evict, warm up) costs money.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import trio

from tierfs.control.address import address_of
from tierfs.errors import InvalidRequest, TierfsError, first_of, show

log = logging.getLogger(__name__)

PROTOCOL_VERSION = 1
#: A request longer than this is refused; `warmup` of very many paths is several requests.
MAX_REQUEST_BYTES = 1 << 20
#: How many commands may run at once; further clients wait in the backlog.
MAX_CLIENTS = 16
#: How long to wait when a connection cannot be accepted, for want of descriptors for instance.
ACCEPT_RETRY_S = 0.5

_UCRED = struct.Struct("3i")

Progress = Callable[[dict[str, Any]], Awaitable[None]]


class Handler(Protocol):
    """Whoever carries out the commands."""

    async def run(self, command: str, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
        """Carry out *command* and return its answer; raises TierfsError."""


async def serve_control(path: Path, handler: Handler) -> None:
    """Listen on *path*, replacing what is there: by the cache's lock no other server lives."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # noqa: ASYNC240
    listener = _listen(path)
    try:
        slots = trio.Semaphore(MAX_CLIENTS)
        async with trio.open_nursery() as nursery:
            while True:
                await slots.acquire()
                connection = await _accept(listener)
                nursery.start_soon(_serve_client, connection, handler, slots)
    finally:
        listener.close()
        path.unlink(missing_ok=True)  # noqa: ASYNC240


def _listen(path: Path) -> trio.socket.SocketType:
    """A socket that listens on *path*, which nobody else may open at any moment. In one stretch:
    whoever finds the path finds somebody listening."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # What is bound takes its mode from the socket. The umask would be that of every thread.
        os.fchmod(listener.fileno(), 0o600)
        with address_of(path) as address:
            listener.bind(address)
        listener.listen(MAX_CLIENTS)
        return trio.socket.from_stdlib_socket(listener)
    except BaseException:
        listener.close()
        raise


async def _accept(listener: trio.socket.SocketType) -> trio.socket.SocketType:
    """The next connection. Too many open files, or no memory, pass; they must not end the mount."""
    said = False
    while True:
        try:
            connection, _ = await listener.accept()
        except OSError as error:
            if not said:
                log.warning("control socket: cannot accept now: %s", error)
            said = True
            await trio.sleep(ACCEPT_RETRY_S)
        else:
            return connection


async def _serve_client(
    connection: trio.socket.SocketType, handler: Handler, slots: trio.Semaphore
) -> None:
    try:
        stream = trio.SocketStream(connection)
        async with stream:
            try:
                await _one_request(stream, handler)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # The client went away; commands are safe to leave half done.
            except Exception:
                log.exception("control socket: unexpected error")
    finally:
        slots.release()


async def _one_request(stream: trio.SocketStream, handler: Handler) -> None:
    async def send(message: dict[str, Any]) -> None:
        await stream.send_all(json.dumps(message).encode() + b"\n")

    try:
        _check_peer(stream.socket)
        command, args = _parse(await _read_line(stream))
        answer: dict[str, Any] | None = None

        async def progress(fields: dict[str, Any]) -> None:
            await send({"progress": fields})

        async with trio.open_nursery() as nursery:
            # A client that is interrupted (Ctrl-C) ends its command: warm-up must not go on unseen.
            nursery.start_soon(_cancel_when_closed, stream, nursery.cancel_scope)
            answer = await handler.run(command, args, progress)
            nursery.cancel_scope.cancel()
        if answer is not None:
            await send({"ok": answer})
    except* TierfsError as group:
        error = first_of(group)
        with contextlib.suppress(trio.BrokenResourceError):
            await send(
                {
                    "error": {
                        "kind": type(error).__name__,
                        "op": error.op,
                        "subject": show(error.subject),
                        "hint": error.hint,
                    }
                }
            )


async def _cancel_when_closed(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        while await stream.receive_some(1):
            pass
    scope.cancel()


def _check_peer(connection: trio.socket.SocketType) -> None:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    assert isinstance(raw, bytes)
    _, uid, _ = _UCRED.unpack(raw)
    if uid not in (0, os.geteuid()):
        raise InvalidRequest(
            "use the control socket", f"uid {uid}", "ask root or the mount's owner"
        )


async def _read_line(stream: trio.SocketStream) -> bytes:
    data = bytearray()
    while b"\n" not in data:
        piece = await stream.receive_some(65536)
        if not piece or len(data) > MAX_REQUEST_BYTES:
            raise InvalidRequest("read a request", f"{len(data)} bytes", "send one JSON line")
        data += piece
    return bytes(data.split(b"\n", 1)[0])


def _parse(line: bytes) -> tuple[str, dict[str, Any]]:
    try:
        request = json.loads(line)
        version, command, args = request["v"], request["command"], request.get("args", {})
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest("parse a request", line[:80], "send one JSON object a line") from error
    if version != PROTOCOL_VERSION:
        raise InvalidRequest(
            "speak to this mount",
            f"protocol version {version}",
            f"it speaks {PROTOCOL_VERSION}: use the tierfs that made the mount, or remount",
        )
    if not isinstance(command, str) or not isinstance(args, dict):
        raise InvalidRequest("parse a request", line[:80], "command is a string, args an object")
    return command, args
