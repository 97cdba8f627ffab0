"""What a native front and its control plane have in common, held by the keeper."""

from __future__ import annotations

import dataclasses
import os
import socket

#: Bytes that either end of the socket may have queued: some thousands of messages.
SOCKET_BYTES = 4 << 20

# <asm-generic/socket.h>
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33


@dataclasses.dataclass(frozen=True)
class Channel:
    """What front and control plane have in common, by descriptors of the keeper's."""

    #: Of the memory with requests, open files and the arena (``native/front/src/shared.rs``).
    shared_fd: int
    #: The ends of the socket for upcalls.
    control_fd: int
    front_fd: int

    @classmethod
    def make(cls) -> Channel:
        """A new one. Raises OSError."""
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        for end in ends:
            for force, plain in (
                (_SO_SNDBUFFORCE, socket.SO_SNDBUF),
                (_SO_RCVBUFFORCE, socket.SO_RCVBUF),
            ):
                try:
                    end.setsockopt(socket.SOL_SOCKET, force, SOCKET_BYTES)
                except PermissionError:
                    end.setsockopt(socket.SOL_SOCKET, plain, SOCKET_BYTES)
        control, front = (end.detach() for end in ends)
        return cls(os.memfd_create("tierfs-front", os.MFD_CLOEXEC), control, front)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All of them."""
        return dataclasses.astuple(self)
