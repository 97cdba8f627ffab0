"""Word to the service manager: the datagram protocol of sd_notify(3), in a few lines.

Outside a service (no ``NOTIFY_SOCKET``) every call does nothing. The variable is taken out of the
environment, so that no child can speak in the keeper's name.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping


class Notifier:
    """Sends state lines to the service manager; a lost message is never an error."""

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        """Take ``NOTIFY_SOCKET`` and the watchdog variables out of *environment* (`os.environ`)."""
        environment = os.environ if environment is None else environment
        address = environment.pop("NOTIFY_SOCKET", "")
        interval_us = environment.pop("WATCHDOG_USEC", "")
        watched_pid = environment.pop("WATCHDOG_PID", "")
        # "@" stands for the NUL byte that begins an abstract address (sd_notify(3)).
        self._address = "\0" + address[1:] if address.startswith("@") else address
        mine = watched_pid in ("", str(os.getpid()))
        self.watchdog_s = int(interval_us) / 1e6 if interval_us.isdigit() and mine else None
        """How long the service manager waits for WATCHDOG=1; None when it does not watch."""

    @classmethod
    def resume(cls, address: str, watchdog_s: float | None) -> Notifier:
        """One that goes on as another did; see `address`."""
        notifier = cls({})
        notifier._address, notifier.watchdog_s = address, watchdog_s
        return notifier

    @property
    def address(self) -> str:
        """Where messages go; "" if nowhere."""
        return self._address

    @property
    def enabled(self) -> bool:
        """Whether somebody listens."""
        return bool(self._address)

    def send(self, **state: str | int) -> None:
        """Send the assignments in one datagram, e.g. ``send(READY=1, STATUS="serving")``."""
        if not self._address:
            return
        text = "\n".join(f"{key}={value}" for key, value in state.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                # A service manager that does not read must not stop the keeper.
                sender.setblocking(False)
                sender.sendto(text.encode(), self._address)
        except OSError:
            return

    def store(self, name: str, fd: int) -> None:
        """Have the service manager keep a copy of *fd* for the next start of this service."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.connect(self._address)
                socket.send_fds(sender, [f"FDSTORE=1\nFDNAME={name}".encode()], [fd])
        except OSError:
            return

    def discard(self, name: str) -> None:
        """Have it drop what it keeps by that name."""
        self.send(FDSTOREREMOVE=1, FDNAME=name)

    def watchdog(self) -> None:
        """Say that all is well, if the service manager asked to be told."""
        if self.watchdog_s is not None:
            self.send(WATCHDOG=1)
