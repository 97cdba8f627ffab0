"""Write-back against a dictionary: random changes while publishing and adopting go on.

After every few operations everything that the mount shows is compared, and now and then what the
lake came to hold. Some runs are cut off in the middle and gone on with, as after a kill.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.writing import Lake, World, world
from tierfs.errors import CrossRoot, LakeDenied
from tierfs.lake.local import LocalLake
from tierfs.lake.writing import WritableLake

NAMES = (b"a", b"b", b"c", b"d", b".tmp1", b"x.tmp")
STEPS = 120
#: How often a change is refused, and how long it is waited for that to happen.
REFUSED, SETTLED_S = 0.1, 0.2
#: Runs in every test run, and in the long one.
FEW, MANY = 6, 40


def seeds() -> list[Any]:
    """The seeds of a test; most of them are for the long run."""
    return [pytest.param(n, marks=pytest.mark.long if n >= FEW else ()) for n in range(MANY)]


class Model:
    """Paths to contents (None: a directory); what is open for writing is marked by its path."""

    def __init__(self) -> None:
        self.tree: dict[bytes, bytes | None] = {}

    def directories(self) -> list[bytes]:
        return [b"", *(path for path, content in self.tree.items() if content is None)]

    def files(self) -> list[bytes]:
        return [path for path, content in self.tree.items() if content is not None]

    def below(self, path: bytes) -> list[bytes]:
        return [other for other in self.tree if other.startswith(path + b"/")]

    def children(self, path: bytes) -> list[bytes]:
        prefix = path + b"/" if path else b""
        return sorted(
            other[len(prefix) :]
            for other in self.tree
            if other.startswith(prefix) and b"/" not in other[len(prefix) :] and other != path
        )

    def move(self, old: bytes, new: bytes) -> None:
        for path in [old, *self.below(old)]:
            self.tree[new + path[len(old) :]] = self.tree.pop(path)

    def in_lake(self) -> dict[bytes, bytes]:
        """What the lake holds in the end, but for markers of directories that are not empty."""
        found = {}
        for path, content in self.tree.items():
            held = any(
                part.startswith(b".tmp") or part.endswith(b".tmp") for part in path.split(b"/")
            )
            if not held and content is not None:
                found[path] = content
        return found


class Run:
    """One seeded run over a lake."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.model = Model()
        self.log: list[str] = []

    def place(self) -> bytes:
        above = self.rng.choice(self.model.directories())
        name = self.rng.choice(NAMES)
        return above + b"/" + name if above else name

    async def step(self, mount: World) -> None:
        rng, tree = self.rng, self.model.tree
        what = rng.choice(
            ["write", "write", "write", "append", "rename", "rename", "unlink", "mkdir", "rmdir",
             "move", "chmod", "touch", "reopen", "truncate", "pause"]
        )  # fmt: skip
        path = self.place()
        files = self.model.files()
        if what == "write" and tree.get(path, b"") is not None:
            data = rng.randbytes(rng.choice([0, 1, 10, 5000]))
            await mount.write(path, data)
            tree[path] = data
        elif what == "mkdir" and path not in tree and path.count(b"/") < 2:
            await mount.mkdir(path)
            tree[path] = None
        elif what == "rename" and files and tree.get(path, b"") is not None:
            old = rng.choice(files)
            await self.rename(mount, old, path)
        elif what == "move":
            await self.move(mount, path)
        elif what == "touch":
            await self.touch(mount)
        elif what == "pause":
            await trio.sleep(rng.choice([0, 0.001, 0.02]))
        elif files and what in ("append", "reopen", "truncate", "unlink", "chmod"):
            path = rng.choice(files)
            await getattr(self, what)(mount, path)
        elif what == "rmdir" and tree.get(path, b"") is None and not self.model.below(path):
            await mount.rmdir(path)
            del tree[path]
        else:
            return
        self.log.append(f"{what} {path!r}")

    async def rename(self, mount: World, old: bytes, new: bytes) -> None:
        if old == new:
            return
        try:
            await mount.rename(old, new)
        except CrossRoot:
            return  # What is in the lake has no temporary name.
        self.log.append(f"  of {old!r}")
        self.model.move(old, new)

    async def move(self, mount: World, new: bytes) -> None:
        directories = [path for path in self.model.directories() if path]
        if self.rng.random() < 0.3 and self.model.files():
            # A file in it is being written to meanwhile.
            await self.move_around_a_writer(mount, new)
            return
        if not directories or new in self.model.tree:
            return
        old = self.rng.choice(directories)
        if (new + b"/").startswith(old + b"/"):
            return
        try:
            await mount.rename(old, new)
        except CrossRoot:
            return  # What is in the lake has no temporary name.
        self.log.append(f"  of {old!r}")
        self.model.move(old, new)

    async def move_around_a_writer(self, mount: World, new: bytes) -> None:
        path = self.rng.choice(self.model.files())
        above = path.rpartition(b"/")[0]
        if not above or new in self.model.tree or (new + b"/").startswith(above + b"/"):
            return
        fh = await mount.files.open(await mount.ino(path), os.O_WRONLY)
        before = self.model.tree[path]
        assert before is not None
        if self.rng.random() < 0.6:
            await mount.files.write(fh, 0, b"moved")
            self.model.tree[path] = b"moved" + before[5:]
        try:
            await mount.rename(above, new)
            self.model.move(above, new)
            self.log.append(f"  of {above!r} around {path!r}")
        except CrossRoot:
            self.log.append(f"  not of {above!r}")
        await mount.files.flush(fh)
        await mount.files.release(fh)

    async def append(self, mount: World, path: bytes) -> None:
        before = self.model.tree[path]
        assert before is not None
        data = self.rng.randbytes(7)
        fh = await mount.files.open(await mount.ino(path), os.O_WRONLY)
        await mount.files.write(fh, len(before), data)
        await mount.files.flush(fh)
        await mount.files.release(fh)
        self.model.tree[path] = before + data

    async def reopen(self, mount: World, path: bytes) -> None:
        """Renamed, or removed, while it is open and may be written to."""
        before = self.model.tree[path]
        assert before is not None
        fh = await mount.files.open(await mount.ino(path), os.O_RDWR)
        if self.rng.random() < 0.6:
            await mount.files.write(fh, 0, b"dirty")
            self.model.tree[path] = b"dirty" + before[5:]
        elif self.rng.random() < 0.5:
            await self.chmod(mount, path)
        new = self.place()
        if self.rng.random() < 0.5 and self.model.tree.get(new, b"") is not None:
            await self.rename(mount, path, new)
        elif self.rng.random() < 0.3:
            await self.unlink(mount, path)
        await trio.sleep(self.rng.choice([0, 0.005]))
        await mount.files.flush(fh)
        await mount.files.release(fh)

    async def truncate(self, mount: World, path: bytes) -> None:
        size = self.rng.choice([0, 3, 20])
        before = self.model.tree[path]
        assert before is not None
        await mount.files.set_size(await mount.ino(path), size, None)
        self.model.tree[path] = before[:size].ljust(size, b"\0")

    async def unlink(self, mount: World, path: bytes) -> None:
        await mount.unlink(path)
        del self.model.tree[path]

    async def chmod(self, mount: World, path: bytes) -> None:
        mode = self.rng.choice([0o600, 0o644])
        await mount.files.set_attributes(await mount.ino(path), {"mode": mode}, None)

    async def touch(self, mount: World) -> None:
        directories = [path for path in self.model.directories() if path]
        if directories:
            ino = await mount.ino(self.rng.choice(directories))
            await mount.files.set_attributes(ino, {}, (10**18, 10**18))

    async def compare(self, mount: World) -> None:
        for directory in self.model.directories():
            names = await mount.names(directory)
            assert names == self.model.children(directory), (directory, names)
        for path in self.model.files():
            assert await mount.read(path) == self.model.tree[path], path

    def compare_lake(self, shown: dict[bytes, bytes]) -> None:
        wanted = self.model.in_lake()
        differing = {
            key: (shown.get(key), wanted.get(key))
            for key in shown.keys() | wanted.keys()
            if shown.get(key) != wanted.get(key)
        }
        assert not differing


async def run_in_three_parts(
    directory: Path, lake: WritableLake, seed: int, shown: Callable[[], dict[bytes, bytes]]
) -> None:
    """Each part but the last ends as a kill would end it; some publish nothing before the last."""
    run = Run(seed)
    ttl_s = 0.0 if seed % 2 else 60.0
    try:
        for part in range(3):
            publish = seed % 4 != 3 or part == 2
            async with world(directory, lake, publish=publish, ttl_s=ttl_s) as mount:
                for n in range(STEPS // 3):
                    await run.step(mount)
                    if n % 8 == 0:
                        await run.compare(mount)
                await run.compare(mount)
                if part == 2:
                    assert await mount.flush()
                    run.compare_lake(shown())
                    await run.compare(mount)
                    assert mount.service.describe()["conflicts"] == []
    except BaseException:
        print("\n".join(run.log[-40:]))
        raise


@pytest.mark.parametrize("seed", seeds())
async def test_a_mount_is_a_dictionary(tmp_path: Path, seed: int) -> None:
    lake = Lake()

    def shown() -> dict[bytes, bytes]:
        return {key: body for key, body in lake.contents().items() if not key.endswith(b"/")}

    await run_in_three_parts(tmp_path, lake, seed, shown)


async def skip(mount: World) -> None:
    """Give up what keeps the lake from going on, if anything does before long."""
    with trio.move_on_after(SETTLED_S):
        await mount.flush()
    await mount.service.flush(b"", wait=False, action="skip", told=nobody)


async def nobody(fields: dict[str, object]) -> None:
    pass


@pytest.mark.parametrize("seed", seeds())
async def test_it_is_a_dictionary_whatever_is_given_up(tmp_path: Path, seed: int) -> None:
    """Files and directories that the lake refuses. Each arrives when it is written again."""
    lake, run, chance = Lake(), Run(seed), random.Random(seed)

    async def before(op: str, key: bytes) -> None:
        if op == "put" and chance.random() < REFUSED:
            raise LakeDenied("write an object", key, "no such permission")

    lake.before = before
    try:
        for _ in range(3):
            async with world(tmp_path, lake, ttl_s=0.0 if seed % 2 else 60.0) as mount:
                for n in range(STEPS // 3):
                    await run.step(mount)
                    if n % 8 == 0:
                        await skip(mount)
                        await run.compare(mount)
        lake.before = None
        async with world(tmp_path, lake) as mount:
            while not await mount.flush():
                await skip(mount)
            await run.compare(mount)
            for path in run.model.files():
                await run.append(mount, path)
            assert await mount.flush()
            await run.compare(mount)
            run.compare_lake({k: v for k, v in lake.contents().items() if not k.endswith(b"/")})
            assert mount.service.describe()["conflicts"] == []
    except BaseException:
        print("\n".join(run.log[-40:]))
        raise


@pytest.mark.parametrize("seed", seeds())
async def test_a_mount_of_a_directory_is_a_dictionary(tmp_path: Path, seed: int) -> None:
    root = tmp_path / "lake"
    root.mkdir()
    lake = LocalLake(os.fsencode(root))

    def shown() -> dict[bytes, bytes]:
        files = [path for path in root.rglob("*") if path.is_file()]
        return {os.fsencode(path.relative_to(root)): path.read_bytes() for path in files}

    await run_in_three_parts(tmp_path, lake, seed, shown)
    await lake.aclose()
