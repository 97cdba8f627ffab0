"""Multipart uploads of ours that the journal does not know: found, and dropped.

An upload is the lake's when it answers CreateMultipartUpload, and the journal's a moment later. A
process that dies in between, or an answer that is lost, leaves one that nobody goes on with. No
listing shows whose an upload is: its metadata is not shown before it is an object. So the intention
is noted before the lake is asked, and what may have come of it is looked for by that:

O1. An upload is dropped only if it is to exactly the key that was noted, was begun when we asked
    for one, is unknown to the journal, and has no part, a day after.
O2. Another writer's upload that meets all that is one who has sent nothing for a day. If they do
    send after all, they are told that it is gone, and begin anew; nothing of theirs is lost.
O3. An intention is forgotten when the lake was looked at a day later, and not before.

What has no parts takes no room in the lake, so a day costs nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import trio

from tierfs.errors import NotFound, TierfsError, show
from tierfs.lake.writing import Upload, WritableLake
from tierfs.writeback.journal import Journal

_log = logging.getLogger(__name__)

#: How often it is looked, beside at the start.
SWEEP_S = 3600.0
#: An upload without parts that is older is nobody's.
AGE_NS = 24 * 3600 * 1_000_000_000
#: How far from our asking, by our clock, the lake may have begun it, by its own. S3 refuses
#: requests that are signed 15 minutes from its own time; twice that leaves room for retries.
WINDOW_NS = 30 * 60 * 1_000_000_000


class Orphans:
    """Sweeps *lake* for what the intentions in *journal* have left there."""

    def __init__(
        self, lake: WritableLake, journal: Journal, *, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._lake = lake
        self._journal = journal
        self._now_ns = now_ns

    async def run(self) -> None:
        """Sweep now, and then for ever."""
        while True:
            await self.sweep()
            await trio.sleep(SWEEP_S)

    async def sweep(self) -> int:
        """How many uploads were dropped. Trouble leaves the rest for the next time."""
        dropped = 0
        for asked_ns, lsn, key in self._journal.read(lambda work: work.intents()):
            if abs(self._now_ns() - asked_ns) < AGE_NS:
                continue
            try:
                for upload in await self._lake.list_uploads(key):
                    if upload.key == key and await self._is_ours(upload, asked_ns):
                        await self._lake.abort_upload(upload)
                        dropped += 1
                        _log.info("dropped an upload of %s that nobody goes on with", show(key))
                await self._forget(asked_ns, lsn)
            except TierfsError as error:
                _log.info("not looked for uploads of %s: %s", show(key), error)
        return dropped

    async def _is_ours(self, upload: Upload, asked_ns: int) -> bool:
        """See O1."""
        if abs(upload.began_ns - asked_ns) > WINDOW_NS:
            return False
        if upload.upload_id in self._journal.read(lambda work: work.upload_ids(upload.key)):
            return False
        try:
            return not await self._lake.list_parts(upload)
        except NotFound:
            return False

    async def _forget(self, asked_ns: int, lsn: int) -> None:
        await self._journal.change(lambda work: work.drop_intent(asked_ns, lsn))
