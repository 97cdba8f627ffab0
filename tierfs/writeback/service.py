"""Write-back of one mount, put together: made, started, asked, ended."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

import trio

from tierfs.boot import boot_id
from tierfs.errors import (
    InvalidRequest,
    LakeUnavailable,
    NotADirectory,
    NotFound,
    TierfsError,
    show,
)
from tierfs.index.journal_inodes import InodeAllocator
from tierfs.index.records import ROOT_INO
from tierfs.lake.local_files import keeps_metadata
from tierfs.lake.pace import Pace
from tierfs.lake.writing import WritableLake
from tierfs.namespace import Namespace
from tierfs.namespace.keys import max_key_bytes
from tierfs.writeback.adoption import Adopter
from tierfs.writeback.backlog import regroup
from tierfs.writeback.decisions import Parts
from tierfs.writeback.directories import WriteBack
from tierfs.writeback.discard import discard
from tierfs.writeback.history import Told
from tierfs.writeback.journal import Journal, Work
from tierfs.writeback.leaving import Leaving, Telling
from tierfs.writeback.on_durable import OnDurable
from tierfs.writeback.orphans import Orphans
from tierfs.writeback.publisher import Publisher
from tierfs.writeback.reading import Reading
from tierfs.writeback.records import Flag, Node
from tierfs.writeback.recovery import recover
from tierfs.writeback.renames import Tree
from tierfs.writeback.room import Room
from tierfs.writeback.rules import Rules
from tierfs.writeback.staging import Staging
from tierfs.writeback.watch import Watch

_log = logging.getLogger(__name__)

#: How often it is looked for what can be handed over by now.
ADOPT_AGAIN_S = 1.0
#: How long throwing away waits for requests under way, and then for the lake.
DISCARD_S = 10.0
#: How long the end of a mount waits for the hook.
HOOK_S = 10.0
#: How many files `status` lists of those that need somebody.
LISTED = 20
#: How many roots one line names.
NAMED = 3


class WriteBackService:
    """See the module. `start` before use, `aclose` after."""

    def __init__(
        self,
        rules: Rules,
        journal: Journal,
        directory: Path,
        lake: WritableLake,
        namespace: Namespace,
        inodes: InodeAllocator,
        front: Reading,
        *,
        directories: type[WriteBack] = WriteBack,
        pace: Pace | None = None,
        on_durable: OnDurable | None = None,
        unmount_flush_s: float = 0.0,
        max_unflushed_age_s: float = math.inf,
        staging_size: int | None = None,
    ) -> None:
        lake_paths: dict[int, bytes] = {}
        tree = Tree(
            rules,
            lake_paths,
            boot_id(),
            most_key_bytes=max_key_bytes(lake.identity),
            only_utf8=lake.identity.scheme == "s3",
        )
        self.journal = self._journal = journal
        self._lake = lake
        self._namespace = namespace
        self._pace = pace
        self.room = Room(front.capacity, staging_size)
        self.room.in_vain, self.room.on_its_way = self._why_in_vain, self._on_its_way
        self._staging = Staging(directory, self.room)
        self.directories = directories(
            Parts(tree, lake_paths, journal, self._staging, namespace, inodes, front, lake.head)
        )
        self._adopter = Adopter(self.directories, namespace, front)
        self._hook = on_durable or OnDurable((), Path("/"))
        self._watch = Watch(self.directories, max_age_s=max_unflushed_age_s, told=self._hook.tell)
        self._leaving = Leaving(unmount_flush_s)
        self._publisher: Publisher | None = None
        self._publishing = trio.CancelScope()
        self._published = trio.Event()
        self._released = trio.Event()
        self._adopter.troubled = lambda: self._released.set()

    async def start(
        self,
        spawn: trio.Nursery,
        *,
        publish: bool = True,
        mount: bytes = b"",
        in_use: Collection[int] = (),
    ) -> None:
        """Recover, but for what is *in_use*, then publish in *spawn* until it is cancelled; not
        *publish*: only recover. *mount* (16 bytes): what a mount is known by that outlives this
        process. Raises as `recover` and `regroup`."""
        if mount and self._journal.read(lambda work: work.served()) == mount:
            in_use = {*in_use, *self.directories.expect_copied()}
        await recover(self._journal, self._staging, self.directories.tree.boot, in_use)
        if mount:
            # Nobody on this mount was told of anything before what others left was seen to.
            await self._journal.change(lambda work: work.put_served(mount))
        self._staging.count()
        await regroup(self._journal, self.directories.tree.rules)
        mount_id = await self._journal.change(lambda work: work.mount_id())
        self._publisher = Publisher(
            self.directories,
            self._lake,
            self._adopter,
            mount_id=mount_id,
            watch=self._watch,
            pace=self._pace,
        )
        self._publisher.uploads.sending = self.room.sending
        if not publish:
            return
        self.directories.changed = self._changed
        self.directories.in_lake = self._in_lake
        self._say_odd_lake()
        spawn.start_soon(self._say_odd_rules)
        spawn.start_soon(self._publish, self._publisher)
        spawn.start_soon(self._adopt)
        spawn.start_soon(Orphans(self._lake, self._journal).run)
        spawn.start_soon(self._watch.run, self._publisher)
        spawn.start_soon(self._hook.run)

    async def _publish(self, publisher: Publisher) -> None:
        with self._publishing:
            await publisher.run()
        self._published.set()

    def _say_odd_lake(self) -> None:
        identity = self._lake.identity
        if identity.scheme == "file" and not keeps_metadata(identity.prefix):
            _log.warning(
                "%s has no extended attributes: what is written there has no mode, owner or mtime,"
                " and a rename or chmod that a kill cuts off may be reported as another writer's;"
                " use a directory on a file system that has them (user.*)",
                show(identity.prefix),
            )

    async def _say_odd_rules(self) -> None:
        """Say which rules may be mistakes: one of wildcards alone, one whose directory nobody has
        made."""
        for rule, root in self.directories.tree.rules:
            if not rule.glob.strip("*?/"):
                _log.warning(
                    "write-back rule %s: everything in this mount can be written, overwritten and"
                    " removed",
                    show(rule.glob),
                )
            elif root and not await self._exists(root):
                _log.warning(
                    "write-back rule %s matches nothing so far: there is no directory /%s; it can"
                    " be made",
                    show(rule.glob),
                    show(root),
                )

    async def _exists(self, path: bytes) -> bool:
        """Whether *path* is there; also if nobody can tell."""
        ino = ROOT_INO
        try:
            for name in path.split(b"/"):
                ino = (await self.directories.union.lookup(ino, name)).ino
        except (NotFound, NotADirectory):
            return False
        except TierfsError:
            return True
        return True

    async def _in_lake(self, told: Told) -> None:
        """Wait until the lake has *told*. Raises LakeUnavailable if that cannot be."""
        publisher = self._publisher
        assert publisher is not None

        async def nobody() -> None:
            pass

        if not await publisher.wait([told.root], told.lsn, nobody):
            raise LakeUnavailable(
                "wait until the lake has it", told.path,
                f"nothing below /{show(told.root)} is uploaded any more:"
                f" {publisher.roots[told.root].failure}",
            )  # fmt: skip

    def _changed(self) -> None:
        self._released.set()
        self.room.look_again()
        if self._publisher is not None:
            self._publisher.kick()

    async def _adopt(self) -> None:
        await self._adopter.clear_all()
        while True:
            # What comes while it looks is for the next time.
            self._released = trio.Event()
            left = await self._adopter.adopt_all()
            with trio.move_on_after(math.inf if left == 0 else ADOPT_AGAIN_S):
                await self._released.wait()
            await trio.sleep(ADOPT_AGAIN_S)

    async def leave(
        self,
        *,
        wait: bool,
        discard: bool = False,
        told: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> dict[str, Any]:
        """Somebody is about to unmount, and waits for the end: see `Leaving.leave`."""
        return await self._leaving.leave(
            self._drain, self.describe, wait=wait, discard=discard, told=told
        )

    async def end(self) -> None:
        """The mount is gone. Bring what is left into the lake, for as long as may be."""
        await self._leaving.end(self._drain, self.describe, self._discard)
        self._watch.tell_ended(at_once=True)
        with trio.move_on_after(HOOK_S):
            await self._hook.finish()

    def hurry(self) -> None:
        """Nobody waits for the lake any longer."""
        self._leaving.hurry()

    async def _drain(self, tell: Callable[[], Awaitable[None]]) -> None:
        """Wait until everything that can come into the lake is there: not what is frozen."""
        publisher = self._publisher
        while publisher is not None:
            going = [path for path, root in publisher.roots.items() if not root.failure]
            if await publisher.wait(going, publisher.acknowledged(), tell, settled=True):
                return

    async def _discard(self) -> dict[str, Any]:
        """Throw away what is not in the lake; what that was. The mount is gone."""
        self._publishing.cancel()
        publisher, tree = self._publisher, self.directories.tree
        with trio.move_on_after(DISCARD_S):
            await self._published.wait()
            # What is in a directory that the lake has is looked up there then, not here.
            await self._adopter.adopt_all()
        found = await self.directories.change(lambda work: discard(tree, work), rows=1_000)
        for ino, content, _ in list(self._staging.files()):
            if content or ino not in found.staged:
                self._staging.remove(ino, content)
        _log.warning(
            "thrown away, as was asked for: %d files (%d bytes), %d changes in all, which were not"
            " in the lake: %s",
            found.files,
            found.size_bytes,
            found.changes,
            ", ".join(map(show, found.paths)) + (" ..." if found.files > len(found.paths) else ""),
        )
        # What the lake has of it shows at once. Both are done by the next mount else.
        with trio.move_on_after(DISCARD_S):
            try:
                if publisher is not None:
                    await publisher.uploads.abort_abandoned()
                for root in tree.rules.roots:
                    await self._namespace.refresh(root)
            except TierfsError as error:
                _log.info("not looked up again: %s", error)
        return {"changes": found.changes, "files": found.files, "bytes": found.size_bytes}

    def _why_in_vain(self) -> str:
        """Why nothing that is being uploaded could make room, or nothing if something could."""
        roots = {} if self._publisher is None else self._publisher.roots
        frozen = {root.path for root in roots.values() if root.failure}

        def look(work: Work) -> bool:
            return any(entry.root not in frozen for _, entry in work.log()) or any(
                self._waits_to_be_handed_over(ino, node) for ino, node in work.nodes()
            )

        if self._journal.read(look):
            return ""
        if frozen:
            return f"{_listed(frozen)} cannot be uploaded: `tierfs status` says why"
        return "what is written is open, was never closed, or has a temporary name"

    def _waits_to_be_handed_over(self, ino: int, node: Node) -> bool:
        """Whether *node* has a staging file that the cache is going to have, or is getting."""
        return (
            node.flags & (Flag.PUBLISHED | Flag.HELD) == Flag.PUBLISHED
            and self.room.account.of(ino) > 0
            and not self.directories.in_use(ino)
        )

    def _on_its_way(self) -> str:
        """Which roots writers wait for."""
        roots = {} if self._publisher is None else self._publisher.roots
        logged = self._journal.read(lambda work: {entry.root for _, entry in work.log()})
        return _listed({path for path in logged if path in roots and not roots[path].failure})

    def aclose(self) -> None:
        """Let go of the disk. What is not in the lake yet stays for the next start: said here."""
        waiting = self.describe()
        if waiting["unflushed_changes"]:
            _log.warning(
                "%d changes (%d files, %d bytes) are not in the lake yet; they stay in %s, and go"
                " on with the next mount",
                waiting["unflushed_changes"],
                waiting["unflushed_files"],
                waiting["unflushed_bytes"],
                self._staging.path(0).parent,
            )
        self._staging.close()

    # ---- commands --------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """What `status` says of it."""
        publisher = self._publisher
        found = self._watch.describe(publisher)
        if publisher is not None:
            found["published"] = publisher.published
            found["bytes_uploaded"] = publisher.bytes_sent
            found["conflicts"] = [show(name) for name in publisher.conflicts[-LISTED:]]
        found["staging"] = self.room.describe()
        return found

    async def flush(
        self,
        path: bytes,
        *,
        wait: bool,
        action: str,
        told: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> dict[str, Any]:
        """Wait until what was acknowledged below *path* is in the lake; with *action* ``retry`` or
        ``skip``, go on with roots that are frozen first."""
        publisher = self._publisher
        if publisher is None:
            raise InvalidRequest("flush", path, "write-back is not running")
        roots = [
            root
            for root in publisher.roots
            if not path or not root or root == path
            or root.startswith(path + b"/") or path.startswith(root + b"/")
        ]  # fmt: skip
        if not roots:
            raise InvalidRequest("flush", path, "nothing below it is written back")
        thawed = 0
        if action:
            thawed = await (publisher.skip if action == "skip" else publisher.retry)(roots)

        durable = True
        if wait:
            telling = Telling(told, self.describe)
            durable = await publisher.wait(roots, publisher.acknowledged(), telling, settled=True)
        return {"durable": durable, "thawed": thawed, **self.describe()}


def _listed(roots: set[bytes]) -> str:
    """Some of *roots*, for one line."""
    names = sorted("/" + show(root) for root in roots)
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
