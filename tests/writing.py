"""Write-back over a lake in memory, without a kernel: paths in, and what the lake came to show."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import trio

from tierfs.clock import SystemClock
from tierfs.errors import StaleVersion
from tierfs.front.python import PythonFront
from tierfs.index import Index
from tierfs.index.records import ROOT_INO, Kind
from tierfs.lake.memory import MemoryLake
from tierfs.lake.protocol import Version
from tierfs.lake.writing import Content, FileRange, Part, Upload, WritableLake, Written
from tierfs.namespace import Namespace
from tierfs.writeback.journal import Journal
from tierfs.writeback.rules import Rules
from tierfs.writeback.service import WriteBackService

UID, GID = 1000, 100
#: Nothing that a test waits for takes so long, on whatever machine. It is waited for where a test
#: fails, and nowhere else.
PATIENCE_S = 120.0


class Lake(MemoryLake):
    """A lake in memory that remembers in which order keys were written and removed, and runs
    *before* in front of each request that changes something."""

    def __init__(self) -> None:
        super().__init__()
        #: ``(key, content)``; None: removed.
        self.history: list[tuple[bytes, bytes | None]] = []
        self.before: Callable[[str, bytes], Awaitable[None]] | None = None

    @property
    def keys(self) -> list[bytes]:
        """The keys that were written, in order."""
        return [key for key, content in self.history if content is not None]

    def contents(self) -> dict[bytes, bytes]:
        """What it has."""
        return {key: bytes(body) for key, (_, body) in self._objects.items()}

    async def _change(self, op: str, key: bytes) -> None:
        if self.before is not None:
            await self.before(op, key)

    def _note(self, key: bytes) -> None:
        self.history.append((key, self.contents().get(key)))

    async def put(self, key: bytes, content: Content, crc64nvme: int, **how: Any) -> Written:
        await self._change("put", key)
        written = await super().put(key, content, crc64nvme, **how)
        self._note(key)
        return written

    async def put_part(
        self, upload: Upload, number: int, content: FileRange, crc64nvme: int
    ) -> Part:
        await self._change("part", upload.key)
        return await super().put_part(upload, number, content, crc64nvme)

    async def complete_upload(
        self, upload: Upload, parts: Sequence[Part], crc64nvme: int, size: int, **how: Any
    ) -> Written:
        await self._change("complete", upload.key)
        written = await super().complete_upload(upload, parts, crc64nvme, size, **how)
        self._note(upload.key)
        return written

    async def copy(self, source: bytes, version: Version, target: bytes, **how: Any) -> Written:
        await self._change("copy", target)
        written = await super().copy(source, version, target, **how)
        self._note(target)
        return written

    async def delete(self, key: bytes, **how: Any) -> None:
        await self._change("delete", key)
        await super().delete(key, **how)
        self._note(key)


class World:
    """One mount's worth of write-back; paths are ``/``-separated bytes below the root."""

    def __init__(self, service: WriteBackService, namespace: Namespace, front: PythonFront) -> None:
        self.service = service
        self.files = service.directories
        self.namespace = namespace
        self.front = front

    async def at(self, path: bytes) -> tuple[int, bytes]:
        """Directory and name of *path*."""
        above, _, name = path.rpartition(b"/")
        return (await self.ino(above) if above else ROOT_INO), name

    async def ino(self, path: bytes) -> int:
        ino = ROOT_INO
        for name in path.split(b"/"):
            ino = (await self.files.union.lookup(ino, name)).ino
        return ino

    async def write(self, path: bytes, data: bytes, *, mode: int = 0o644) -> int:
        """Write a file as ``open("wb")`` does; its inode number."""
        parent, name = await self.at(path)
        try:
            found = (await self.files.union.lookup(parent, name)).ino
        except Exception:
            made, fh = await self.files.create(parent, name, mode, os.O_WRONLY, UID, GID)
            found = made.ino
        else:
            fh = await self.files.open(found, os.O_WRONLY | os.O_TRUNC)
        for at in range(0, len(data), 1 << 20):
            await self.files.write(fh, at, data[at : at + (1 << 20)])
        await self.files.flush(fh)
        await self.files.release(fh)
        return found

    async def read(self, path: bytes) -> bytes:
        """All of a file, wherever it is; opened again where it was moved in the lake meanwhile."""
        with trio.fail_after(PATIENCE_S):
            while True:
                try:
                    return await self._read(path)
                except StaleVersion:
                    await trio.sleep(0.05)

    async def _read(self, path: bytes) -> bytes:
        ino = await self.ino(path)
        size = self.files.union.attributes(ino).size
        fh = await self.files.open(ino, os.O_RDONLY)
        try:
            return bytes(await self.files.read(fh, 0, size))
        finally:
            await self.files.release(fh)

    async def mkdir(self, path: bytes) -> None:
        await self.files.make_directory(*await self.at(path), 0o755, UID, GID)

    async def unlink(self, path: bytes) -> None:
        await self.files.unlink(*await self.at(path))

    async def rmdir(self, path: bytes) -> None:
        await self.files.remove_directory(*await self.at(path))

    async def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        await self.files.rename(*await self.at(old), *await self.at(new), flags)

    async def names(self, path: bytes) -> list[bytes]:
        """What a directory shows, sorted."""
        ino = await self.ino(path) if path else ROOT_INO
        found: list[bytes] = []
        after = 0
        while rows := await self.files.union.readdir(ino, after, 3):
            found += [name for _, name, _ in rows]
            after = rows[-1][0]
        return sorted(found)

    async def flush(self) -> bool:
        """Wait until all is in the lake; False if it will not come there."""

        async def told(fields: dict[str, object]) -> None:
            pass

        answer = await self.service.flush(b"", wait=True, action="", told=told)
        return bool(answer["durable"])

    async def settled(self) -> None:
        """Wait until the journal has nothing any more."""
        with trio.fail_after(PATIENCE_S):
            while self.service.describe()["nodes"]:
                await trio.sleep(0.005)

    async def kind(self, path: bytes) -> Kind:
        return self.files.union.attributes(await self.ino(path)).kind


@contextlib.asynccontextmanager
async def world(
    directory: Path,
    lake: WritableLake,
    *rules: str,
    publish: bool = True,
    ttl_s: float = 60.0,
    mount: bytes = b"",
    in_use: Collection[int] = (),
    cache_size: int = 1 << 30,
    described: Callable[[bytes], bool] = lambda path: False,
    **options: Any,
) -> AsyncIterator[World]:
    """Write-back in *directory*; not *publish*: nothing goes to the lake; *described* is
    `Namespace`'s, *options* are those of `WriteBackService`. Leaving it is a kill: what is queued
    in the index is committed, and nothing else is done."""
    index = await Index.open(directory, str(lake.identity))
    try:
        async with trio.open_nursery() as nursery:
            namespace = Namespace(
                index.names, index.inodes, lake, SystemClock(), uid=0, gid=0, umask=0o022,
                ttl_s=ttl_s, negative_ttl_s=5.0, spawn=nursery, described=described,
            )  # fmt: skip
            front = PythonFront(
                index.cache, lake, directory, nursery, cache_size=cache_size, min_free=0.0,
                memory=64 << 20,
            )  # fmt: skip
            await front.start()
            service = WriteBackService(
                Rules(rules or ("**",)), Journal(index.journal), directory, lake, namespace,
                index.inodes, front, **options,
            )  # fmt: skip
            await service.start(nursery, publish=publish, mount=mount, in_use=in_use)
            try:
                yield World(service, namespace, front)
            finally:
                service.aclose()
                await front.aclose()
                nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await index.aclose()
