"""A namespace over a lake in memory, for its tests: small pages, a clock that is told, a log of
changes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import trio

from tests.packing import packed
from tierfs.clock import ManualClock
from tierfs.index.index import Index
from tierfs.lake.memory import MemoryLake
from tierfs.lake.protocol import ListPage, ObjectInfo
from tierfs.namespace import Attributes, Namespace
from tierfs.namespace.chains import POLICY, Policy
from tierfs.namespace.split import Scale, Split


class WatchedLake(MemoryLake):
    """A `MemoryLake` with small pages that can be made to wait, to fail, and to tell what was
    asked."""

    def __init__(self, page_size: int = 1000) -> None:
        super().__init__()
        self.page_size = page_size
        #: Pages are read by compiled code, where there is any.
        self.packs = True
        #: Set: requests go through. A test replaces it to hold them.
        self.gate = trio.Event()
        self.gate.set()
        #: Called before each request with its kind and key or prefix; may raise.
        self.before: Callable[[str, bytes], None] = lambda kind, key: None
        self.asked: list[tuple[str, bytes]] = []
        #: Awaited with the token and the start of each page, before it is read.
        self.page: Callable[[bytes | None, bytes], Awaitable[None]] = _at_once

    async def _enter(self, kind: str, key: bytes) -> None:
        self.asked.append((kind, key))
        self.before(kind, key)
        await self.gate.wait()

    async def head(self, key: bytes, *, checksum: bool = False) -> ObjectInfo:
        await self._enter("head", key)
        return await super().head(key, checksum=checksum)

    async def list_page(
        self,
        prefix: bytes,
        *,
        token: bytes | None = None,
        max_keys: int = 1000,
        recursive: bool = False,
        start_after: bytes = b"",
    ) -> ListPage:
        await self._enter("list" if max_keys > 1 else "probe", prefix)
        if max_keys > 1:
            await self.page(token, start_after)
        page = await super().list_page(
            prefix,
            token=token,
            max_keys=min(max_keys, self.page_size),
            recursive=recursive,
            start_after=start_after,
        )
        return packed(page) if self.packs else page


async def _at_once(token: bytes | None, start_after: bytes) -> None:
    pass


class Points(Scale):
    """A number line that splits a range at the one of its points that *choose* takes."""

    choose: Callable[[list[bytes]], bytes]
    points: list[bytes]

    def split(self, at: bytes, end: bytes | None, reach: int) -> Split | None:
        fit = [point for point in self.points if point > at and (end is None or point < end)]
        return Split(1_000, self.choose(fit)) if fit else None


def splitting(
    *points: bytes, chains: int = 8, choose: Callable[[list[bytes]], bytes] = min
) -> Policy:
    """Split from the first page on, at *points* (names), whatever that costs."""
    line = Points(b"", b"0", 1, 1)
    line.points = list(points)
    line.choose = choose
    return POLICY._replace(
        after_pages=1, chains=chains, probe_every=1, waste_every=0, scale_of=lambda names: line
    )


class World:
    """An index on disk and what mounts of it need; `mount` as often as the test likes."""

    def __init__(self, directory: Path, lake: MemoryLake | None = None) -> None:
        self.directory = directory
        self.lake = lake or WatchedLake()
        self.clock = ManualClock()
        self.changes: list[tuple[int, bytes, int]] = []

    @contextlib.asynccontextmanager
    async def mount(
        self,
        *,
        ttl_s: float = 60.0,
        negative_ttl_s: float = 5.0,
        relist_pages: int = 10,
        listing: Policy = POLICY,
        described: Callable[[bytes], bool] = lambda path: False,
    ) -> AsyncIterator[Namespace]:
        """A namespace, with its index open, until the block ends."""
        failed: Exception | None = None
        index = await Index.open(self.directory, str(self.lake.identity))
        try:
            async with trio.open_nursery() as nursery:
                namespace = Namespace(
                    index.names,
                    index.inodes,
                    self.lake,
                    self.clock,
                    uid=1000,
                    gid=1001,
                    umask=0o022,
                    ttl_s=ttl_s,
                    negative_ttl_s=negative_ttl_s,
                    spawn=nursery,
                    relist_pages=relist_pages,
                    listing=listing,
                    described=described,
                )
                namespace.on_change = lambda *change: self.changes.append(change)
                try:
                    yield namespace
                except Exception as error:  # Not wrapped in a group by the nursery.
                    failed = error
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await index.aclose()
        if failed is not None:
            raise failed


async def read_all(
    namespace: Namespace, ino: int, limit: int = 1000
) -> list[tuple[int, bytes, Attributes]]:
    """A directory from beginning to end."""
    entries: list[tuple[int, bytes, Attributes]] = []
    after = 0
    while batch := await namespace.readdir(ino, after, limit):
        entries += batch
        after = batch[-1][0]
    return entries


async def names_in(namespace: Namespace, ino: int) -> list[bytes]:
    """The names in a directory, sorted."""
    return sorted(name for _, name, _ in await read_all(namespace, ino))


async def settle(namespace: Namespace) -> None:
    """Wait until no listing runs."""
    while namespace.listings_running:
        await trio.sleep(0.001)
