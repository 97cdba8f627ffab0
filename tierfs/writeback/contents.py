"""The bytes of what is to be published: on this disk for sure, and in parts ahead of their turn."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable

import trio

from tierfs.errors import CacheError, TierfsError, first_of, show
from tierfs.writeback.directories import WriteBack
from tierfs.writeback.labels import Labels
from tierfs.writeback.records import Entry
from tierfs.writeback.uploads import Content, Uploads
from tierfs.writeback.watch import Watch

_log = logging.getLogger(__name__)

#: A file is not published while it is open for writing, but no longer than that: a descriptor that
#: was closed may have a duplicate through which more is written (a shell's redirection, a fork).
WRITERS_S = 5.0


class Contents:
    """The contents that the log brings, by lsn, as long as they are in use."""

    def __init__(
        self, writeback: WriteBack, uploads: Uploads, labels: Labels, watch: Watch
    ) -> None:
        self._writeback = writeback
        self._journal = writeback.journal
        self._uploads = uploads
        self._labels = labels
        self._watch = watch
        self._open: dict[int, Content] = {}
        #: Whose parts are sent, or were.
        self._sent: dict[int, trio.Event] = {}

    async def get(self, lsn: int, entry: Entry) -> Content:
        """The bytes of *lsn*, which are on the disk when this returns, and known to be (P2)."""
        async with self._writeback.hold(("content", lsn)):
            content = self._open.get(lsn)
            if content is None:
                content = self._open[lsn] = await self._opened(lsn, entry)
            return content

    async def _opened(self, lsn: int, entry: Entry) -> Content:
        if not entry.synced and entry.boot != self._writeback.tree.boot:
            raise CacheError(
                "publish what was closed before a power cut", entry.path,
                "its bytes may not have reached the disk; look at the file, write it again, or"
                " give it up with --skip",
            )  # fmt: skip
        fd = await self._writeback.open_content(entry.ino, entry.content)
        size = entry.size
        if not self._writeback.sees_writes and entry.boot == self._writeback.tree.boot:
            # Closed with another descriptor still open, through which it was written since.
            size = os.fstat(fd).st_size
        content = Content(entry.ino, lsn, fd, size)
        self._writeback.lend(entry.content, content)
        try:
            try:
                await trio.to_thread.run_sync(os.fdatasync, fd)
            except OSError as error:
                raise CacheError(
                    "write to the disk what was closed", entry.path, error.strerror or str(error)
                ) from error
            if os.fstat(fd).st_size != size:
                raise CacheError("publish", entry.path, "its staging file has another length")
            if not entry.synced:
                tree = self._writeback.tree
                await self._writeback.change(lambda work: tree.synced(work, lsn))
        except BaseException:
            content.close()
            raise
        return content

    def _entry(self, lsn: int) -> Entry | None:
        return self._journal.read(lambda work: work.entry(lsn))

    def close(self, lsn: int) -> None:
        """*lsn* is done with."""
        self._sent.pop(lsn, None)
        content = self._open.pop(lsn, None)
        if content is not None:
            content.close()

    async def start_over(self, lsn: int) -> None:
        """Read and send it all again, when it is asked for next."""
        self.close(lsn)
        await self._uploads.start_over(lsn)

    def let_go(self) -> None:
        """Close what was opened for changes that were taken back, or given up: the room that it
        takes is free then."""
        for lsn in list(self._open):
            if self._entry(lsn) is None:
                self.close(lsn)

    async def tidy_up(self) -> bool:
        """Let the lake forget what was begun for such changes; whether that is all of it."""
        return await self._uploads.abort_abandoned()

    # ---- parts -----------------------------------------------------------------------------------

    def start_ahead(self, lsns: Iterable[int], nursery: trio.Nursery) -> None:
        """Begin to send the parts of *lsns*, large files whose turn comes later."""
        for lsn in lsns:
            entry = self._entry(lsn)
            if lsn not in self._sent and entry is not None:
                self._sent[lsn] = trio.Event()
                nursery.start_soon(self._send_ahead, lsn, entry, self._sent[lsn])

    async def _send_ahead(self, lsn: int, entry: Entry, sent: trio.Event) -> None:
        try:
            await self._writeback.wait_for_writers(entry.ino, WRITERS_S)
            content = await self.get(lsn, entry)
            self._watch.began(entry.root)
            await self._send(lsn, entry, content)
        except* Exception as error:
            # Its turn will come, and with it who says what is wrong.
            _log.info("%s: not sent ahead: %s", show(entry.path), error.exceptions[0])
            if self._sent.get(lsn) is sent:
                del self._sent[lsn]
        finally:
            sent.set()
            if self._entry(lsn) is None:
                # Taken back meanwhile: what was begun for it is to go.
                self._writeback.changed()

    async def _send(self, lsn: int, entry: Entry, content: Content) -> None:
        await self._uploads.send_parts(
            content, entry.path, self._labels.now(lsn, entry), self._labels.storage(entry.path)
        )

    async def parts_sent(self, lsn: int, entry: Entry, content: Content) -> None:
        """Every part of *lsn* is in the lake when this returns."""
        sent = self._sent.get(lsn)
        if sent is not None:
            await sent.wait()
        if self._sent.get(lsn) is not sent or sent is None:
            try:
                await self._send(lsn, entry, content)
            except* TierfsError as group:
                raise first_of(group) from None
            self._sent[lsn] = done = trio.Event()
            done.set()

    async def parts_gone(self, lsn: int) -> None:
        """What was sent of *lsn* is of no use: begin anew, with the same bytes."""
        self._sent.pop(lsn, None)
        await self._uploads.start_over(lsn)
