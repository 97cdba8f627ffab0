"""Content on its way to a lake: read piecewise by worker threads, which may outlive the call.

A cancelled call abandons its thread (invariant S2 of `tierfs.lake.s3_requests`), and its caller
closes the file. Without the rules below that thread would go on to send whatever has the
descriptor's number by then.

B1. The descriptor is a duplicate of the caller's, closed by the last who uses it: promise L9 of
    `tierfs.lake.writing`.
B2. Once the call has ended no piece is given any more, so a thread that was abandoned in mid-body
    cannot complete its request: what was cancelled before its last piece never takes effect.
B3. Exactly as many bytes as announced are given, or an exception is raised.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Self

from awscrt import checksums

from tierfs.errors import IntegrityError, LakeUnavailable
from tierfs.lake.retry import Transient
from tierfs.lake.writing import SLOWEST_BYTES_S, Content, length_of

#: What is read at once; no more of a body is in memory.
_READ_BYTES = 1 << 20
#: What is given at once: the time-out of a socket is one for each piece.
_PIECE_BYTES = 128 << 10


class Call:
    """The time of one call, for threads that may outlive it: ``with Call() as call``."""

    def __init__(self) -> None:
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True

    def check(self) -> None:
        """Raise `Transient` once the call has ended (B2)."""
        if self._ended:
            raise Transient("the call has ended")


class Outgoing(Call):
    """*content* for the time of one call: ``with Outgoing(content) as body``. Thread-safe."""

    def __init__(self, content: Content) -> None:
        super().__init__()
        self._bytes = content if isinstance(content, bytes) else None
        self._lock = threading.Lock()
        self._users = 1
        self.length = length_of(content)
        self._pace = None if isinstance(content, bytes) else content.pace
        if isinstance(content, bytes):
            self._fd, self._offset = -1, 0
        else:
            self._fd, self._offset = _duplicate(content.fd), content.offset

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._leave()

    @property
    def least_s(self) -> float:
        """How long sending it may take by itself."""
        slowest = SLOWEST_BYTES_S
        if self._pace is not None:
            slowest = min(slowest, self._pace.bytes_s)
        return self.length / slowest

    def whole(self) -> bytes:
        """All of it, for content that is known to be small."""
        return b"".join(bytes(piece) for piece in self.pieces())

    def pieces(self) -> Generator[memoryview, None, None]:
        """Its bytes in order, each piece good until the next is asked for. Close the iterator.

        Raises IntegrityError if the file ends early or cannot be read, `Transient` once the call
        has ended.
        """
        with self._use():
            for block in self._blocks():
                size = _PIECE_BYTES if self._pace is None else self._pace.piece_bytes
                for at in range(0, len(block), size):
                    self.check()
                    piece = block[at : at + size]
                    if self._pace is not None:
                        self._pace.wait(len(piece), self.check)
                    yield piece

    def _blocks(self) -> Iterator[memoryview]:
        if self._bytes is not None:
            yield memoryview(self._bytes)
            return
        buffer = memoryview(bytearray(min(_READ_BYTES, self.length)))
        done = 0
        while done < self.length:
            wanted = buffer[: self.length - done]
            try:
                got = os.preadv(self._fd, [wanted], self._offset + done)
            except OSError as error:
                reason = error.strerror or str(error)
                raise IntegrityError("the content cannot be read", "", reason) from None
            if got == 0:
                hint = f"{done} of {self.length} bytes are there"
                raise IntegrityError("the content ends early", "", hint)
            yield wanted[:got]
            done += got

    @contextmanager
    def _use(self) -> Iterator[None]:
        with self._lock:
            self.check()
            self._users += 1
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


def _duplicate(fd: int) -> int:
    try:
        return os.dup(fd)
    except OSError as error:
        reason = error.strerror or str(error)
        raise LakeUnavailable("the content cannot be opened", "", reason) from None


def crc64nvme_of(data: memoryview | bytes, before: int = 0) -> int:
    """The checksum of *data*, going on from *before*, that of what came in front of it."""
    return int(checksums.crc64nvme(data, before))


def joined_crc64nvme(parts: Iterator[tuple[int, int]]) -> int:
    """The checksum of a concatenation, from (checksum, length) of what it consists of."""
    total = 0
    for crc, length in parts:
        total = int(checksums.combine_crc64nvme(total, crc, length))
    return total
