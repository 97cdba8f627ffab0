"""What a kill would leave of write-back over a lake in memory, at every step: an `Image` each.

A world is not really killed: that would be one world for each step, and what unwinds in this
process (``finally``, ``except``) would still write. Instead the disk and the lake are copied

* before each request that changes the lake, and after it took effect and before its answer is seen;
* after each commit of the journal, or of the index, before whoever waits for it goes on.

No thread changes the disk meanwhile, so a copy is what a ``kill -9`` at that moment would leave.
Where nothing has changed since the last one there is no other.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from tests.writeback.made_up import PREFIX, Log
from tests.writeback.recording import Content, Event
from tests.writeback.states import History
from tests.writing import GID, UID, Lake, World
from tierfs.cache.store import Store
from tierfs.cache.workers import Workers
from tierfs.errors import NotFound
from tierfs.index.environments import Environment
from tierfs.index.records import Kind
from tierfs.index.writer import Writer
from tierfs.lake.protocol import Version
from tierfs.lake.writing import Part, Upload, Written

Seen = list[tuple[bytes, bytes | None]]


class WatchedLake(Lake):
    """A lake that calls *point* before and after each request that changes something, with such as
    ``after put latest``. What that raises is what the caller is told."""

    def __init__(self) -> None:
        super().__init__()
        self.point: Callable[[str], None] = lambda what: None

    async def _watched(self, name: str, *args: Any, **how: Any) -> Any:
        about = args[2] if name == "copy" else getattr(args[0], "key", args[0])
        self.point(f"before {name} {about.decode()}")
        answer = await getattr(super(), name)(*args, **how)
        self.point(f"after {name} {about.decode()}")
        return answer

    async def put(self, *args: Any, **how: Any) -> Written:
        return cast(Written, await self._watched("put", *args, **how))

    async def begin_upload(self, *args: Any, **how: Any) -> Upload:
        return cast(Upload, await self._watched("begin_upload", *args, **how))

    async def put_part(self, *args: Any, **how: Any) -> Part:
        return cast(Part, await self._watched("put_part", *args, **how))

    async def complete_upload(self, *args: Any, **how: Any) -> Written:
        return cast(Written, await self._watched("complete_upload", *args, **how))

    async def abort_upload(self, *args: Any, **how: Any) -> None:
        await self._watched("abort_upload", *args, **how)

    async def copy(self, source: bytes, version: Version, target: bytes, **how: Any) -> Written:
        return cast(Written, await self._watched("copy", source, version, target, **how))

    async def delete(self, *args: Any, **how: Any) -> None:
        await self._watched("delete", *args, **how)

    def copied(self) -> WatchedLake:
        """One with the same in it, which nobody watches."""
        other = WatchedLake()
        other._objects, other._keys = dict(self._objects), list(self._keys)
        other._uploads = {
            upload_id: replace(entry, parts=dict(entry.parts))
            for upload_id, entry in self._uploads.items()
        }
        # Ids of uploads are never given twice.
        other._serial = self._serial
        other.history = list(self.history)
        return other

    def changes(self) -> Seen:
        """The history without removals of what was not there: nobody can see those."""
        found: Seen = []
        there: set[bytes] = set()
        for key, content in self.history:
            if content is not None or key in there:
                found.append((key, content))
            (there.discard if content is None else there.add)(key)
        return found


@dataclass
class Script:
    """Does things in a world, and keeps what was done, for `tests.writeback.history`, and what
    files have to be there by then."""

    events: list[Event] = field(default_factory=list)
    files: dict[bytes, bytes] = field(default_factory=dict)
    #: What is being done and not acknowledged yet.
    under_way: Event | None = None
    _numbers: int = 0

    async def write(self, world: World, path: bytes, data: bytes) -> None:
        """A file from scratch, in place."""
        self._numbers += 1
        name = path.decode()
        self.events.append(Event("open", name, file=self._numbers))
        self.under_way = Event("close", name, None, self._numbers, Content.of(data))
        await world.write(path, data)
        self._done()
        self.files[path] = data

    async def mkdir(self, world: World, path: bytes) -> None:
        self.under_way = Event("mkdir", path.decode())
        await world.mkdir(path)
        self._done()

    async def unlink(self, world: World, path: bytes) -> None:
        self.under_way = Event("unlink", path.decode())
        await world.unlink(path)
        self._done()
        del self.files[path]

    async def rmdir(self, world: World, path: bytes) -> None:
        self.under_way = Event("rmdir", path.decode())
        await world.rmdir(path)
        self._done()

    async def rename(self, world: World, old: bytes, new: bytes) -> None:
        self.under_way = Event("rename", old.decode(), new.decode())
        await world.rename(old, new)
        self._done()
        for path in [path for path in self.files if path == old or path.startswith(old + b"/")]:
            self.files[new + path[len(old) :]] = self.files.pop(path)

    async def symlink(self, world: World, target: bytes, path: bytes) -> None:
        self.under_way = Event("symlink", path.decode(), target.decode())
        await world.files.make_link(*await world.at(path), target, UID, GID)
        self._done()

    def _done(self) -> None:
        assert self.under_way is not None
        self.events.append(self.under_way)
        self.under_way = None

    def copied(self) -> Script:
        return Script(list(self.events), dict(self.files), self.under_way)

    def history(self) -> History:
        """What the lake has to show. What is under way may have happened, or not."""
        events = list(self.events)
        if self.under_way is not None:
            events.append(replace(self.under_way, acknowledged_ns=None))
        return History(events, PREFIX)

    def touches(self, path: bytes) -> bool:
        """Whether what is under way is about *path*."""
        event = self.under_way
        names = [] if event is None else [event.path, event.target or event.path]
        text = path.decode()
        return any(text == name or text.startswith(name + "/") for name in names)


@dataclass
class Image:
    """What is left by a kill at *point*."""

    point: str
    directory: Path
    lake: WatchedLake
    script: Script


class Images:
    """Takes images of *directory* in *into* while a script runs, until `stop`; with *only*, that
    one of them."""

    #: Those that were not stopped.
    running: ClassVar[set[Images]] = set()

    def __init__(
        self,
        directory: Path,
        lake: WatchedLake,
        into: Path,
        *,
        only: int | None = None,
    ) -> None:
        self.taken: list[Image] = []
        self.count = 0
        self._only = only
        self._last: object = None
        self.script = Script()
        self._directory, self._lake, self._into = directory, lake, into
        self._patch = pytest.MonkeyPatch()
        #: Held by whoever changes the disk in a thread, and while a copy is made.
        self._still = threading.Lock()
        self.go_on()

    def stop(self) -> None:
        """No more: what unwinds now would not, if the process was killed."""
        self.running.discard(self)
        self._patch.undo()
        self._lake.point = lambda what: None

    def go_on(self) -> None:
        """After `stop`."""
        self.running.add(self)
        self._lake.point = self.take
        commit, write = Writer._commit_group, Environment.write
        sweep = Store._sweep
        still, images = self._still, self

        def quiet(run: Callable[..., Any]) -> Callable[..., Any]:
            async def quiet_run(workers: Workers, fn: Callable[[], Any]) -> Any:
                def work() -> Any:
                    with still:
                        return fn()

                return await run(workers, work)

            return quiet_run

        def quiet_commit(writer: Writer, group: list[Any]) -> bool:
            with still:
                return commit(writer, group)

        def quiet_sweep(store: Store) -> None:
            with still:
                sweep(store)

        async def seen_write(env: Environment, function: Any, **how: Any) -> Any:
            value = await write(env, function, **how)
            images.take("after a commit")
            return value

        for name in ("run", "run_together"):
            self._patch.setattr(Workers, name, quiet(getattr(Workers, name)))
        self._patch.setattr(Store, "_sweep", quiet_sweep)
        self._patch.setattr(Writer, "_commit_group", quiet_commit)
        self._patch.setattr(Environment, "write", seen_write)

    def take(self, point: str) -> None:
        """Called on the trio thread, where nothing else happens meanwhile."""
        with self._still:
            state = self._state()
            if state == self._last:
                return
            self._last = state
            number, self.count = self.count, self.count + 1
            if self._only in (None, number):
                self._take(number, point)

    def _state(self) -> object:
        files = [path for path in self._directory.rglob("*") if path.name != "lock.mdb"]
        disk = {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in files}
        sent = {upload_id: len(entry.parts) for upload_id, entry in self._lake._uploads.items()}
        script = len(self.script.events), self.script.under_way
        return disk, len(self._lake.history), sent, script

    def _take(self, number: int, point: str) -> None:
        directory = self._into / str(number)
        shutil.copytree(self._directory, directory, ignore=shutil.ignore_patterns("lock.mdb"))
        lake, script = self._lake.copied(), self.script.copied()
        self.taken.append(Image(f"{number}, {point}", directory, lake, script))


def requests(changes: Seen) -> Log:
    """The requests that make *changes*, for `tests.writeback.history.check`."""
    log = Log()
    for key, content in changes:
        if content is None:
            log.delete(key.decode())
        else:
            log.put(key.decode(), len(content))
    return log


async def tree(world: World, path: bytes = b"") -> dict[bytes, bytes]:
    """The files that a world shows, and what is in them; directories and links left out."""
    found: dict[bytes, bytes] = {}
    for name in await world.names(path):
        below = path + b"/" + name if path else name
        try:
            kind = await world.kind(below)
        except NotFound:
            raise AssertionError(f"{below!r} was listed, and is not there") from None
        if kind is Kind.DIRECTORY:
            found |= await tree(world, below)
        elif kind is Kind.FILE:
            found[below] = await world.read(below)
    return found


@contextlib.contextmanager
def raises_assertion() -> Iterator[None]:
    """What is inside fails an assertion, in whatever group of exceptions."""
    noticed = False
    try:
        yield
    except* AssertionError:
        noticed = True
    assert noticed
