"""Making one entry of the log visible in the lake, once, and noting that it is.

The steps of `Placer.place`, and what ends each of them, are those of the diagram in
`tierfs.writeback.publisher`, whose invariants P1..P4 hold here, too.
"""

from __future__ import annotations

import logging
import os

import trio

from tierfs.cache.blocks import checksum_of
from tierfs.errors import (
    CacheError,
    IntegrityError,
    LakeUnavailable,
    NotFound,
    PreconditionFailed,
    TierfsError,
    first_of,
    show,
)
from tierfs.lake.protocol import ChecksumKind, ObjectInfo, Version
from tierfs.lake.writing import ABSENT, ALWAYS, Condition, WritableLake, Written
from tierfs.writeback.adoption import Adopter
from tierfs.writeback.conflicts import Lost
from tierfs.writeback.contents import WRITERS_S, Contents
from tierfs.writeback.directories import WriteBack
from tierfs.writeback.labels import Labels
from tierfs.writeback.records import Base, Entry, Op
from tierfs.writeback.uploads import Content, Uploads
from tierfs.writeback.watch import Watch

_log = logging.getLogger(__name__)

#: What is in the lake is compared with what is here in such pieces.
COMPARED_BYTES = 4 << 20
#: So often what is to be removed may be another version than it was a moment ago.
REMOVALS = 3


class Placer:
    """Puts entries of one mount's log into *lake*."""

    def __init__(
        self, writeback: WriteBack, lake: WritableLake, adopter: Adopter, contents: Contents,
        uploads: Uploads, labels: Labels, watch: Watch,
    ) -> None:  # fmt: skip
        self._writeback = writeback
        self._journal = writeback.journal
        self._tree = writeback.tree
        self._lake = lake
        self._adopter = adopter
        self._contents = contents
        self._uploads = uploads
        self._labels = labels
        self._watch = watch
        #: Objects published, and those of ours that another writer's kept out.
        self.published = 0
        self.conflicts: list[bytes] = []
        #: The changes at whose old name another writer's version stays.
        self._sources_stay: set[int] = set()

    async def place(self, lsn: int, entry: Entry, *, unsure: bool) -> None:
        """Have the lake show *entry*, unless a later change takes it back before that; *unsure*: it
        may show it already. Raises what the lake or the disk has to say, with nothing lost."""
        if entry.op is Op.PUT:
            await self._writeback.wait_for_writers(entry.ino, WRITERS_S)
        begun = await self._writeback.change(lambda work: self._tree.begin(work, lsn))
        if begun is None:
            # Taken back by a later change.
            self._contents.close(lsn)
            return
        content = None
        if begun.op is Op.PUT:
            content = await self._contents.get(lsn, begun)
        etag = None
        if unsure:
            etag = await self._settled(lsn, begun, content)
        checksummed = False
        if begun.op in (Op.MOVE, Op.COPY, Op.ATTRIBUTES):
            self._adopter.moving(begun.ino)
        # What showed before this was asked for may have left an upload that nobody completed.
        completed = etag is None
        if etag is None:
            try:
                etag, checksummed = await self._make_visible(lsn, begun, content)
            except PreconditionFailed:
                etag, completed = await self._settled(lsn, begun, content), False
                if etag is None:
                    await self._lose(lsn, begun, content)
                    return
        if content is not None:
            self._adopter.sealed(begun, content.blocks, checksummed=checksummed)
        settled = await self._writeback.change(
            lambda work: self._tree.published(work, lsn, etag, completed=completed)
        )
        self.published += 1
        self._watch.published(begun.root, lsn, begun)
        self._writeback.staging.room.went_on()
        self._contents.close(lsn)
        if content is not None:
            self._writeback.discard_content(begun.ino, begun.content)
        if settled:
            await self._adopter.settled(begun)
        else:
            await self._adopter.overtaken(begun)
        if lsn in self._sources_stay:
            self._sources_stay.discard(lsn)
            await self._adopter.lost(begun, 0)

    def _condition(self, entry: Entry) -> Condition:
        """What the lake has to have at the path for the entry to take effect."""
        etag = entry.etag
        if entry.base is Base.OURS:
            head = self._journal.read(lambda work: work.head(entry.path))
            etag = head.etag if head is not None else b""
        elif entry.base is Base.ABSENT:
            etag = b""
        return Condition(version=Version(etag)) if etag else Condition(absent=True)

    async def _make_visible(
        self, lsn: int, entry: Entry, content: Content | None
    ) -> tuple[bytes, bool]:
        """Do what the entry says; the new version's ETag (empty: there is nothing any more), and
        whether the lake has a checksum of it."""
        self._watch.began(entry.root)
        metadata = self._labels.metadata(lsn, entry)
        if content is not None:
            written = await self._put(lsn, entry, content, metadata, self._condition(entry))
            return written.version.etag, written.checksum is not None
        if entry.op is Op.DELETE:
            version = self._condition(entry).version
            if entry.renamed and version is not None:
                await self._remove_source(lsn, entry.path, version)
            else:
                await self._remove(entry.path, version)
            return b"", False
        if entry.op is Op.REMOVE_DIRECTORY:
            await self._lake.delete(entry.path)
            return b"", False
        if entry.op is Op.MAKE_DIRECTORY:
            return await self._put_marker(lsn, entry, metadata), False
        if entry.op is Op.LINK:
            target = self._target(entry)
            written = await self._lake.put(
                entry.path, target, checksum_of(ChecksumKind.CRC64NVME, target), metadata=metadata,
                storage=self._labels.storage(entry.path), condition=self._condition(entry),
            )  # fmt: skip
            return written.version.etag, False
        condition = ALWAYS if entry.op is Op.ATTRIBUTES else self._condition(entry)
        written = await self._copy(lsn, entry, entry.path, condition)
        if entry.op is Op.MOVE:
            await self._remove_source(lsn, *self._source(entry))
        return written.version.etag, False

    async def _remove(self, path: bytes, version: Version | None) -> None:
        """Delete what is at *path*, as far as is known this *version*. No request of it asks for
        whatever is there: one that was given up may arrive later (L8), and what was written since
        is not to go with it. (Unless it has the same bytes, and so the same ETag; which is why
        nothing is gained by that for markers.)"""
        for _ in range(REMOVALS):
            if version is None:
                try:
                    version = (await self._lake.head(path)).version
                except NotFound:
                    return
            try:
                await self._lake.delete(path, condition=Condition(version=version))
            except PreconditionFailed:
                version = None
            else:
                return
        raise LakeUnavailable("remove an object", path, "it changes all the time")

    async def _remove_source(self, lsn: int, source: bytes, version: Version) -> None:
        """Delete what was renamed; what another writer has put there since stays."""
        try:
            await self._lake.delete(source, condition=Condition(version=version))
        except PreconditionFailed:
            self._sources_stay.add(lsn)
            _log.warning(
                "another writer has changed %s, which was renamed: its version stays", show(source)
            )

    def _source(self, entry: Entry) -> tuple[bytes, Version]:
        """What a MOVE, a COPY or an ATTRIBUTES copies."""
        source = entry.other or entry.path
        head = self._journal.read(lambda work: work.head(source))
        return source, Version(head.etag if head is not None and head.etag else entry.etag)

    async def _has_source(self, entry: Entry) -> bool:
        source, version = self._source(entry)
        try:
            return (await self._lake.head(source)).version.etag == version.etag
        except NotFound:
            return False

    async def _copy(self, lsn: int, entry: Entry, target: bytes, condition: Condition) -> Written:
        source, version = self._source(entry)
        if not version.etag:
            # What it was to be a copy of never came there; whatever is there is another's.
            raise PreconditionFailed("copy an object", source, "it is not ours")
        return await self._lake.copy(
            source, version, target, metadata=self._labels.metadata(lsn, entry),
            storage=self._labels.storage(entry.path), condition=condition,
        )  # fmt: skip

    def _target(self, entry: Entry) -> bytes:
        """What a symbolic link says, or said: it may have been replaced or removed since."""
        if entry.target:
            return entry.target
        node = self._journal.node(entry.ino)
        if node is None:
            raise CacheError(
                "publish a symbolic link", entry.path,
                "an earlier tierfs did not note its target, and it is gone; give it up with --skip",
            )  # fmt: skip
        return node.target

    async def _put(
        self, lsn: int, entry: Entry, content: Content, metadata: dict[str, str],
        condition: Condition,
    ) -> Written:  # fmt: skip
        if not self._uploads.is_large(content.size):
            return await self._uploads.put(
                content, entry.path, metadata, self._labels.storage(entry.path), condition
            )
        try:
            await self._contents.parts_sent(lsn, entry, content)
            return await self._uploads.complete(content, entry.path, condition)
        except NotFound:
            # The lake gave the upload up (a lifecycle rule, an operator): all parts again.
            await self._contents.parts_gone(lsn)
            raise LakeUnavailable("complete an upload", entry.path, "it is gone") from None
        except IntegrityError:
            # The lake has other parts than it said, or none: the same again, but not for ever (P4).
            await self._contents.parts_gone(lsn)
            raise

    async def _settled(
        self, lsn: int, entry: Entry, content: Content | None = None
    ) -> bytes | None:
        """The ETag that the entry has led to, if it has taken effect already; else None. What took
        effect with other bytes is overwritten: an id says whose an object is, not what it holds."""
        try:
            found: ObjectInfo | None = await self._lake.head(
                entry.path, checksum=content is not None
            )
        except NotFound:
            found = None
        if entry.op in (Op.DELETE, Op.REMOVE_DIRECTORY):
            return b"" if found is None else None
        if found is None:
            return None
        if found.metadata is None:
            # A file system that keeps none: the bytes have to say whose they are.
            return found.version.etag if await self._shows(found, entry, content) else None
        if not self._is_of(found, lsn):
            return None
        if content is not None and not await self._holds(found, content):
            _log.error("the lake has other bytes of %s than were sent", show(entry.path))
            metadata = self._labels.metadata(lsn, entry)
            try:
                written = await self._put(
                    lsn, entry, content, metadata, Condition(version=found.version)
                )
            except PreconditionFailed:
                return None
            return written.version.etag
        if entry.op is Op.MOVE:
            await self._remove_source(lsn, *self._source(entry))
        return found.version.etag

    async def shown(self, lsn: int, entry: Entry) -> bytes:
        """The ETag of what *entry*, a MOVE that failed, has put under the new name; empty: nothing,
        as far as the lake says."""
        if entry.op is not Op.MOVE:
            return b""
        try:
            found = await self._lake.head(entry.path)
        except TierfsError:
            return b""
        return found.version.etag if self._is_of(found, lsn) else b""

    def _is_of(self, found: ObjectInfo, lsn: int) -> bool:
        """Whether the entry *lsn* has made *found*, by what is noted with it."""
        return (found.metadata or {}).get("tierfs-id") == self._labels.identity(lsn)

    async def _holds(self, found: ObjectInfo, content: Content) -> bool:
        """Whether *found* has the bytes of *content*, as far as the lake says what it has."""
        if found.size != content.size:
            return False
        known = found.checksum
        if known is None or known.kind is not ChecksumKind.CRC64NVME:
            return True
        return await self._uploads.crc64nvme(content) == known.value

    async def _shows(self, found: ObjectInfo, entry: Entry, content: Content | None) -> bool:
        """Whether *found*, at the path of *entry*, has the bytes that this was to bring."""
        if entry.op not in (Op.PUT, Op.LINK):
            return False
        target = self._target(entry) if entry.op is Op.LINK else b""
        if found.size != (len(target) if content is None else content.size):
            return False
        try:
            for at in range(0, found.size, COMPARED_BYTES):
                length = min(COMPARED_BYTES, found.size - at)
                theirs = await self._lake.get(entry.path, found.version, at, length)
                if content is None:
                    ours = target[at : at + length]
                else:
                    ours = await trio.to_thread.run_sync(os.pread, content.fd, length, at)
                if bytes(theirs) != ours:
                    return False
        except (NotFound, PreconditionFailed):
            return False
        return True

    async def _lose(self, lsn: int, entry: Entry, content: Content | None) -> None:
        """Another writer was first: its version stays, and what ours was to bring is kept, unless
        it is where it stays (`tierfs.writeback.conflicts`)."""
        entry, aside = self._now(lsn, entry), b""
        theirs = entry.op in (Op.MOVE, Op.COPY) and not await self._has_source(entry)
        if theirs and await self._writeback.leave_source(lsn, entry.ino):
            _log.warning(
                "another writer has changed %s, which was renamed here: it goes to %s from here",
                show(entry.other),
                show(entry.path),
            )
            # What is there under its old name shows.
            await self._adopter.lost(entry, 0)
            await self.place(lsn, self._now(lsn, entry), unsure=False)
            return
        # Whoever waits for the lake finds it there.
        self.conflicts.append(entry.path)
        lost = await self._writeback.lose(lsn, entry.ino, kept=theirs)
        if lost is None:
            self.conflicts.remove(entry.path)
            aside = await self._keep(lsn, entry, content)
            self.conflicts.append(aside)
            entry = self._now(lsn, entry)
            lost = await self._writeback.lose(lsn, entry.ino, kept=True)
            assert lost is not None
        self._contents.close(lsn)
        self._writeback.discard_content(entry.ino, entry.content)
        self._report(entry, lost, aside)
        await self._adopter.lost(entry, lost.gone)

    def _now(self, lsn: int, entry: Entry) -> Entry:
        """*entry*, whose file may have another number by now."""
        return self._journal.read(lambda work: work.entry(lsn)) or entry

    def _report(self, entry: Entry, lost: Lost, aside: bytes) -> None:
        if lost.goes_on:
            ours = f"ours is on its way to {show(lost.goes_on)}"
        elif aside:
            ours = f"ours is in the lake as {show(aside)}"
        else:
            ours = f"what was done here ({entry.op.name.lower()}) is given up"
        _log.error("another writer has changed %s: its version stays, %s", show(entry.path), ours)

    async def _keep(self, lsn: int, entry: Entry, content: Content | None) -> bytes:
        """Put what *entry* was to bring beside the other version, under a name that says so: that
        name."""
        aside = b"%s.tierfs-conflict-%s-%d" % (entry.path, self._labels.mount[:8].encode(), lsn)
        if content is not None:
            await self._put_aside(lsn, entry, content, aside)
            return aside
        try:
            await self._copy(lsn, entry, aside, ALWAYS)
        except PreconditionFailed as error:
            # That was ours a moment ago: look again.
            raise LakeUnavailable("keep what is renamed", entry.other, str(error)) from error
        return aside

    async def _put_marker(self, lsn: int, entry: Entry, metadata: dict[str, str]) -> bytes:
        """A directory's object, which others may have made, too: theirs gets our metadata."""
        try:
            return await self._put_empty(entry, metadata, ABSENT)
        except PreconditionFailed:
            etag = await self._settled(lsn, entry)
            if etag is None and not entry.ino:
                # Only to be there, which it is.
                return (await self._lake.head(entry.path)).version.etag
            return await self._put_empty(entry, metadata, ALWAYS) if etag is None else etag

    async def _put_empty(
        self, entry: Entry, metadata: dict[str, str], condition: Condition
    ) -> bytes:
        written = await self._lake.put(
            entry.path, b"", 0, metadata=metadata, storage=self._labels.storage(entry.path),
            condition=condition,
        )  # fmt: skip
        return written.version.etag

    async def _put_aside(self, lsn: int, entry: Entry, content: Content, aside: bytes) -> None:
        metadata, storage = self._labels.now(lsn, entry), self._labels.storage(entry.path)
        if not self._uploads.is_large(content.size):
            await self._uploads.put(content, aside, metadata(), storage, ALWAYS)
            return
        # Its parts are those of another key: whatever happens here, the next attempt begins anew.
        await self._contents.parts_gone(lsn)
        try:
            await self._uploads.send_parts(content, aside, metadata, storage)
            await self._uploads.complete(content, aside, ALWAYS)
        except* TierfsError as group:
            await self._uploads.start_over(lsn)
            raise first_of(group) from None
