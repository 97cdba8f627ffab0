"""Telling the kernel to forget names and pages, from a thread of its own.

A notification waits in the kernel for requests in the same directory, or for pages that are being
read, which the trio loop has to answer meanwhile. So changes are queued, and whoever promised that
they are in effect (a refresh) waits with `KernelCaches.settled` until all those queued before were
taken by the kernel.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import NamedTuple

import trio

log = logging.getLogger(__name__)

#: How long an end waits for a notification that the kernel holds up.
CLOSE_S = 2.0


class _Notice(NamedTuple):
    """Something that the kernel has to be told, unless the end comes first."""

    tell: Callable[[], object]


class KernelCaches:
    """The thread that calls *invalidate_entry* with (parent, name) and *invalidate_inode* with an
    inode number. `close` ends it."""

    def __init__(
        self,
        invalidate_entry: Callable[[int, bytes], object],
        invalidate_inode: Callable[[int], object],
    ) -> None:
        self._invalidate_entry = invalidate_entry
        self._invalidate_inode = invalidate_inode
        self._queue: queue.SimpleQueue[_Notice | Callable[[], object] | None]
        self._queue = queue.SimpleQueue()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="tierfs-notify", daemon=True)
        self._thread.start()

    def entry_changed(self, parent: int, name: bytes, ino: int) -> None:
        """*name* in *parent* lost its meaning, which was *ino*. Returns at once."""
        self._queue.put(_Notice(lambda: self._invalidate_entry(parent, name)))

    def content_dropped(self, ino: int) -> None:
        """What was read of *ino* so far was wrong. Returns at once."""
        self._queue.put(_Notice(lambda: self._invalidate_inode(ino)))

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
                if not isinstance(item, _Notice):
                    item()
                elif not self._closing:
                    item.tell()
            except FileNotFoundError:
                continue  # The kernel knew nothing of it.
            except trio.RunFinishedError:
                return
            except Exception as error:
                if not self._closing:
                    log.warning("the kernel was not told of a change: %s", error)
