"""The order of reads as it is told: names become inode numbers.

A name that is known is found in the index, however old it is there: what an order says is not
believed further than it is followed. The others are asked for; where there are many of one
directory, that is listed, once. A name that is not there, or is none of a file, is counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from tierfs.control.planner import Planner
from tierfs.errors import (
    InvalidRequest,
    IsADirectory,
    NameTooLong,
    NotADirectory,
    NotFound,
)
from tierfs.index.records import ROOT_INO, Kind
from tierfs.namespace import Namespace
from tierfs.namespace.keys import components

#: Directories, and names, that are asked for at one time.
WIDTH = 16
#: So many names of one directory are asked for one by one, each of which is two requests. A page of
#: a listing is one.
LISTING_AFTER = 8
#: Names found in the index in one go, some 10 us each.
_AT_ONCE = 64
_NO_FILE = (NotFound, NotADirectory, IsADirectory, NameTooLong, InvalidRequest)


async def tell_order(
    namespace: Namespace, planner: Planner, paths: Sequence[bytes], append: bool
) -> None:
    """Tell *planner* that the files at *paths*, relative to the root, are read in this order. All
    or nothing: raises what the lake says if it cannot be asked."""
    found = await Resolver(namespace).resolve(paths)
    inos = [ino for ino in found if ino]
    planner.order(inos, len(found) - len(inos), append=append)


class Resolver:
    """Finds many files by their names. Remembers the directories on the way, so it is for once."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._slots = trio.CapacityLimiter(WIDTH)
        #: Inode numbers of directories by path; 0 of one that is none.
        self._directories: dict[bytes, int] = {b"": ROOT_INO}
        self._files: dict[tuple[int, bytes], int] = {}

    async def resolve(self, paths: Sequence[bytes]) -> list[int]:
        """The inode number of each file, 0 where there is none."""
        split = [_split(path) for path in paths]
        async with trio.open_nursery() as nursery:
            for path in {directory for directory, _ in split} - {b""}:
                nursery.start_soon(self._find_directory, path)
        inos: list[int] = []
        missing: dict[int, list[bytes]] = {}
        for n, (directory, name) in enumerate(split):
            parent = self._directories[directory] if name else 0
            ino = self._known(parent, name) if parent else 0
            if ino is None:
                missing.setdefault(parent, []).append(name)
            inos.append(ino or 0)
            if n % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        if not missing:
            return inos
        async with trio.open_nursery() as nursery:
            for parent, names in missing.items():
                nursery.start_soon(self._ask, parent, names)
        return [
            ino or self._files.get((self._directories[directory], name), 0)
            for ino, (directory, name) in zip(inos, split, strict=True)
        ]

    def _known(self, parent: int, name: bytes) -> int | None:
        """The file *name*, 0 if that is something else; None: not known."""
        entry = self._namespace.known(parent, name)
        if entry is None:
            return None
        return entry.ino if entry.kind is Kind.FILE else 0

    async def _find_directory(self, path: bytes) -> None:
        ino = ROOT_INO
        for name in path.split(b"/"):
            entry = self._namespace.known(ino, name)
            if entry is None or entry.kind is not Kind.DIRECTORY:
                break
            ino = entry.ino
        else:
            self._directories[path] = ino
            return
        async with self._slots:
            try:
                self._directories[path] = (await self._namespace.resolve(path)).ino
            except _NO_FILE:
                self._directories[path] = 0

    async def _ask(self, parent: int, names: Sequence[bytes]) -> None:
        if len(names) > LISTING_AFTER:
            async with self._slots:
                await self._list(parent)
            for name in names:
                self._files[parent, name] = self._known(parent, name) or 0
            return
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(self._ask_for, parent, name)

    async def _list(self, directory: int) -> None:
        after = 0
        try:
            while rows := await self._namespace.readdir(directory, after):
                after = rows[-1][0]
        except _NO_FILE:
            return

    async def _ask_for(self, parent: int, name: bytes) -> None:
        async with self._slots:
            try:
                attributes = await self._namespace.lookup(parent, name)
            except _NO_FILE:
                return
        if attributes.kind is Kind.FILE:
            self._files[parent, name] = attributes.ino


def _split(path: bytes) -> tuple[bytes, bytes]:
    """Directory and name, without what means nothing; no name: there can be no such file."""
    try:
        names = components(path)
    except InvalidRequest:
        names = []
    return (b"/".join(names[:-1]), names[-1]) if names else (b"", b"")
