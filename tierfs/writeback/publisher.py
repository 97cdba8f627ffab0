"""Making the lake show what was acknowledged: the entries of the log, in the order of their root.

::

    PENDING --begin()--> PUBLISHING --the lake has it--> PUBLISHED --adopt()--> durable
       |                    |  ^                   (out of the log)
       | taken back         |  | transient trouble: again, after a look at what the lake has
       v (T1)               |--+
     nothing                |-- a condition failed: another was first --> put aside, reported
                            `-- refused for good --> the root is frozen at this lsn, loudly

    parts of later files go up meanwhile (`tierfs.writeback.uploads`); nothing of them shows

Here is which entries are on their way, and what becomes of those that fail;
`tierfs.writeback.placer` takes one of them through the diagram.

Invariants:

P1. An entry is PUBLISHING only if all that it waits for is out of the log: O1..O3 in
    `tierfs.writeback.schedule`. In strict order that is one entry of a root, the first of its log;
    in markers order there may be several.
P2. Nothing is published before its bytes are known to be on this disk: a power cut may lose what
    was closed and not synced, and then nothing of it, nor anything that waits for it, is in the
    lake.
P3. An object carries ``tierfs-id``, the mount's number and the lsn. Where an answer is lost, or a
    process dies between the request and the journal, the object itself says whether it is there,
    so nothing is published twice. Where a lake keeps no metadata, its bytes say it.
P4. Transient trouble, a full disk among it, is retried for ever; what is refused for good freezes
    its root and loses nothing. Of a frozen root nothing more is begun; what was on its way arrives,
    or waits for the thaw, too.
P5. A root is durable up to an lsn when its log has nothing up to there, whatever is done behind.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import islice

import trio

from tierfs.errors import (
    CacheError,
    CacheFull,
    IntegrityError,
    LakeUnavailable,
    StagingFull,
    TierfsError,
    show,
)
from tierfs.lake.pace import Pace
from tierfs.lake.writing import WritableLake
from tierfs.writeback.adoption import Adopter
from tierfs.writeback.contents import Contents
from tierfs.writeback.directories import WriteBack
from tierfs.writeback.journal import Work
from tierfs.writeback.labels import Labels
from tierfs.writeback.placer import Placer
from tierfs.writeback.records import Entry, State
from tierfs.writeback.rule import STRICT
from tierfs.writeback.schedule import Schedule
from tierfs.writeback.uploads import Uploads
from tierfs.writeback.watch import Watch

_log = logging.getLogger(__name__)

#: How often it is looked for what is not to be sent any more, where there is always something new.
TIDY_S = 0.1
#: Pauses between attempts, in seconds: doubling from the first to the last.
FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 30.0
#: Files whose parts go up before their turn.
FILES_AHEAD = 8
#: Trouble with the bytes themselves is tried so often.
INTEGRITY_ATTEMPTS = 3


@dataclass
class Root:
    """One write-back root, as it is published. *failure* says why it goes no further."""

    path: bytes
    schedule: Schedule
    failure: str = ""
    failed_lsn: int = 0
    failed_path: bytes = b""


class Publisher:
    """Publishes the log of one mount. `run` until cancelled."""

    def __init__(
        self,
        writeback: WriteBack,
        lake: WritableLake,
        adopter: Adopter,
        *,
        mount_id: bytes,
        watch: Watch,
        pace: Pace | None = None,
    ) -> None:
        self._journal = writeback.journal
        self._writeback = writeback
        self._adopter = adopter
        self._tree = writeback.tree
        self.uploads = Uploads(lake, self._journal, pace=pace)
        labels = Labels(self._journal, self._tree.rules, mount_id)
        self._contents = Contents(writeback, self.uploads, labels, watch)
        self._placer = Placer(writeback, lake, adopter, self._contents, self.uploads, labels, watch)
        self.roots = {root: self._root(root) for root in self._all_roots()}
        self._news = trio.Event()

    def _all_roots(self) -> set[bytes]:
        logged = self._journal.read(lambda work: {entry.root for _, entry in work.log()})
        return {*self._tree.rules.roots, *logged}

    def _root(self, path: bytes) -> Root:
        strict = self._tree.rules.order_of(path) == STRICT
        return Root(path, Schedule(path, strict=strict, is_large=self.uploads.is_large))

    @property
    def published(self) -> int:
        """How many changes the lake has taken since the start."""
        return self._placer.published

    @property
    def conflicts(self) -> list[bytes]:
        """What another writer's versions kept out, since the start."""
        return self._placer.conflicts

    def kick(self) -> None:
        """There is something new to do, or to look at. Returns at once."""
        news, self._news = self._news, trio.Event()
        news.set()

    async def run(self) -> None:
        """Publish for ever."""
        self._restore_frozen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._let_go)
            nursery.start_soon(self._tidy_up)
            for root in self.roots.values():
                nursery.start_soon(self._run_root, root, nursery)

    def _restore_frozen(self) -> None:
        for root in self.roots.values():
            frozen = self._frozen(root.path)
            if frozen is not None:
                root.failed_lsn, root.failure = frozen[0], frozen[1].decode("utf-8", "replace")
                entry = self._entry(root.failed_lsn)
                root.failed_path = entry.path if entry is not None else b""

    def _entry(self, lsn: int) -> Entry | None:
        return self._journal.read(lambda work: work.entry(lsn))

    def _frozen(self, root: bytes) -> tuple[int, bytes] | None:
        return self._journal.read(lambda work: work.frozen(root))

    @property
    def bytes_sent(self) -> int:
        """Bytes of content that the lake has taken, since the start."""
        return self.uploads.bytes_sent

    def failure_of(self, root: bytes) -> tuple[str, bytes]:
        """Why *root* goes no further, and at which path; empty: it goes on."""
        found = self.roots.get(root)
        return ("", b"") if found is None else (found.failure, found.failed_path)

    # ---- waiting ---------------------------------------------------------------------------------

    def acknowledged(self) -> int:
        """The last lsn that was given out."""
        return self._journal.read(lambda work: work.next_lsn()) - 1

    def durable(self, root: bytes) -> int:
        """The last lsn up to which everything of *root* is in the lake (P5)."""
        first = self._first(root)
        return self.acknowledged() if first is None else first - 1

    async def wait(
        self,
        roots: list[bytes],
        lsn: int,
        told: Callable[[], Awaitable[None]],
        *,
        settled: bool = False,
    ) -> bool:
        """Wait until everything of *roots* up to *lsn* is in the lake and, with *settled*, until
        this node has drawn its conclusions (handed over, looked up again, told of); *told* is
        called now and then. False: one of them is frozen and goes no further."""
        while True:
            news = self._news
            waiting = [root for root in roots if self.durable(root) < lsn]
            if not waiting and not (settled and self._settling(roots, lsn)):
                return True
            if any(self.roots[root].failure for root in waiting):
                return False
            await told()
            with trio.move_on_after(0.5):
                await news.wait()

    def _settling(self, roots: list[bytes], lsn: int) -> bool:
        return any(self.roots[root].schedule.has_begun(lsn) for root in roots)

    # ---- one root --------------------------------------------------------------------------------

    def _first(self, root: bytes) -> int | None:
        def look(work: Work) -> int | None:
            return next((lsn for lsn, entry in work.log() if entry.root == root), None)

        return self._journal.read(look)

    async def _run_root(self, root: Root, nursery: trio.Nursery) -> None:
        while True:
            news = self._news
            if not root.failure:
                self._journal.read(root.schedule.fill)
                for lsn in root.schedule.next():
                    root.schedule.begin(lsn)
                    nursery.start_soon(self._run_entry, root, lsn)
                ahead = list(islice(root.schedule.large(), FILES_AHEAD))
                self._contents.start_ahead(ahead, nursery)
            await news.wait()

    async def _run_entry(self, root: Root, lsn: int) -> None:
        entry = self._entry(lsn)
        if entry is None:
            # Taken back.
            root.schedule.done(lsn)
            self.kick()
            return
        try:
            await self._place_for_sure(lsn, entry)
        except TierfsError as error:
            if self._entry(lsn) is not None:
                await self._freeze(root, lsn, entry, error)
                return
        except Exception as error:
            _log.exception("publishing failed: %s", show(entry.path))
            await self._freeze(root, lsn, entry, TierfsError("publish", entry.path, repr(error)))
            return
        root.schedule.done(lsn)
        self.kick()

    async def _let_go(self) -> None:
        while True:
            news = self._news
            self._contents.let_go()
            await news.wait()

    async def _tidy_up(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            news = self._news
            if await self._contents.tidy_up():
                pause_s = FIRST_PAUSE_S
                await news.wait()
                await trio.sleep(TIDY_S)
                continue
            # The lake did not answer: it is asked again, whether or not there is anything new.
            with trio.move_on_after(pause_s):
                await news.wait()
            pause_s = min(2 * pause_s, LAST_PAUSE_S)

    async def _freeze(self, root: Root, lsn: int, entry: Entry, error: TierfsError) -> None:
        root.schedule.stop(lsn)
        if root.failure:
            _log.warning("%s: %s; its root is frozen already", show(entry.path), error)
            return
        root.failure, root.failed_lsn, root.failed_path = str(error), lsn, entry.path
        _log.error(
            "nothing below /%s is uploaded any more, from %s on: %s; what was written stays here."
            " Mend that, then: tierfs flush --retry (or --skip, which gives this change up)",
            show(root.path),
            show(entry.path),
            error,
        )
        why = root.failure.encode()
        try:
            await self._journal.change(lambda work: work.freeze(root.path, lsn, why))
        except CacheError as failure:
            _log.warning("the next start will have to find that out again: %s", failure)
        self.kick()

    async def retry(self, roots: list[bytes]) -> int:
        """Go on with what is frozen of *roots*; how many there were."""
        return await self._thaw(roots, skip=False)

    async def skip(self, roots: list[bytes]) -> int:
        """Give up the change at which each of *roots* is frozen, and go on after it."""
        return await self._thaw(roots, skip=True)

    async def _thaw(self, roots: list[bytes], *, skip: bool) -> int:
        thawed, renames = 0, []
        for path in roots:
            root = self.roots[path]
            if not root.failure:
                continue
            lsn = root.failed_lsn
            given_up = self._entry(lsn) if skip else None
            shown = b"" if given_up is None else await self._placer.shown(lsn, given_up)

            def thaw(
                work: Work, path: bytes = path, lsn: int = lsn, shown: bytes = shown
            ) -> Entry | None:
                work.thaw(path)
                return self._tree.skip(work, lsn, shown=shown) if skip else None

            ino = 0 if given_up is None else given_up.ino
            async with self._writeback.parted(ino, copied=bool(shown)):
                skipped = await self._writeback.change(thaw)
            if skipped is not None:
                _log.warning("given up by hand: %s (lsn %d)", show(skipped.path), lsn)
                self._contents.close(lsn)
                self._writeback.discard_content(skipped.ino, skipped.content)
                renames += [skipped] if skipped.other else []
            root.failure, root.failed_lsn, root.failed_path = "", 0, b""
            thawed += 1
        self._writeback.changed()
        self.kick()
        for entry in renames:
            await self._adopter.lost(entry, 0)
        return thawed

    async def _place_for_sure(self, lsn: int, entry: Entry) -> None:
        pause_s, damaged, anew = FIRST_PAUSE_S, 0, False
        # A process may have died between the request and the journal (P3).
        unsure = entry.state is State.PUBLISHING
        while True:
            try:
                if anew:
                    await self._contents.start_over(lsn)
                    anew = False
                await self._placer.place(lsn, entry, unsure=unsure)
                return
            except (LakeUnavailable, CacheFull, StagingFull) as error:
                # Or the journal, or a copy of what is open still, found no room on its disk: that
                # passes, too.
                _log.warning("%s: %s; trying again in %g s", show(entry.path), error, pause_s)
            except IntegrityError as error:
                damaged += 1
                if damaged == INTEGRITY_ATTEMPTS:
                    raise
                _log.warning("%s: %s; trying again in %g s", show(entry.path), error, pause_s)
                # Of which the lake has to hear, too.
                anew = True
            unsure = True
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)
