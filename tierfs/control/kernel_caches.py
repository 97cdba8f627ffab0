"""Telling the kernel to forget names, from a thread of its own.

A notification waits in the kernel for requests in the same directory, which the trio loop has to
answer meanwhile. So changes are queued, and whoever promised that they are in effect (a refresh)
waits with `KernelCaches.settled` until all those queued before were taken by the kernel.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

import trio

log = logging.getLogger(__name__)

#: How long an end waits for a notification that the kernel holds up.
CLOSE_S = 2.0


class KernelCaches:
    """The thread that calls *invalidate_entry* with (parent, name). `close` ends it."""

    def __init__(self, invalidate_entry: Callable[[int, bytes], object]) -> None:
        self._invalidate_entry = invalidate_entry
        self._queue: queue.SimpleQueue[tuple[int, bytes] | Callable[[], object] | None]
        self._queue = queue.SimpleQueue()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="tierfs-notify", daemon=True)
        self._thread.start()

    def entry_changed(self, parent: int, name: bytes, ino: int) -> None:
        """*name* in *parent* lost its meaning, which was *ino*. Returns at once."""
        self._queue.put((parent, name))

    async def settled(self) -> None:
        """Wait until the kernel has forgotten every name told so far."""
        done = trio.Event()
        token = trio.lowlevel.current_trio_token()
        self._queue.put(lambda: token.run_sync_soon(done.set))
        await done.wait()

    def close(self) -> bool:
        """End the thread, waiting up to CLOSE_S; False if the kernel still holds it, and with it
        the session that it uses."""
        self._closing = True
        self._queue.put(None)
        self._thread.join(CLOSE_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                if not isinstance(item, tuple):
                    item()
                elif not self._closing:
                    self._invalidate_entry(*item)
            except FileNotFoundError:
                continue  # The kernel did not know the name.
            except trio.RunFinishedError:
                return
            except Exception as error:
                if not self._closing:
                    log.warning("the kernel was not told of a change: %s", error)
