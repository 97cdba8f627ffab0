"""The index of one lake on one cache disk: three environments, opened together under one lock.

::

    <directory>/lock       flock'ed while a mount uses it; holds its pid
    <directory>/names/     the lake's tree                 rebuilt when damaged
    <directory>/cache/     what is cached                  rebuilt when damaged
                           (a native front writes this one, see `tierfs.front.native`)
    <directory>/journal/   reservations, write-back        precious: refused when damaged
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path

import trio

from tierfs.errors import CacheBusy, CacheError, IndexDamaged
from tierfs.index import cache, journal_inodes, names
from tierfs.index.cache import CacheIndex
from tierfs.index.environments import Environment, ForeignIndex, OtherVersion, open_or_rebuild
from tierfs.index.journal_inodes import InodeAllocator
from tierfs.index.names import Names
from tierfs.index.records import FIRST_INO
from tierfs.index.schema import WRITE_BACK_DATABASES


class Index:
    """An open index. `names`, `cache` and `inodes` are its parts; `Index.open` makes one."""

    def __init__(self, lock: DirectoryLock, environments: tuple[Environment, ...]) -> None:
        self._lock = lock
        self._names, self._cache, self._journal = self._environments = environments
        self.names = Names(self._names)
        self.cache = CacheIndex(self._cache)
        floor = max(FIRST_INO, self.names.last_ino() + 1, self.cache.last_ino() + 1)
        self.inodes = InodeAllocator(self._journal, floor=floor)

    @property
    def journal(self) -> Environment:
        """The journal's environment, for `tierfs.writeback.journal`."""
        return self._journal

    @classmethod
    async def open(cls, directory: Path, lake: str) -> Index:
        """Open, or create, the index of *lake* (its identity, as a line of text) in *directory*.

        Raises CacheBusy when another process has it, CacheError when the directory cannot be used,
        IndexDamaged when ``journal/`` is damaged or anything here belongs to another lake.
        """
        return await trio.to_thread.run_sync(cls._open, directory, lake)

    @classmethod
    def _open(cls, directory: Path, lake: str) -> Index:
        with contextlib.ExitStack() as undo:
            lock = DirectoryLock(directory)
            undo.callback(lock.release)
            journal = _open_journal(directory / "journal", lake)
            undo.callback(journal.close)
            # The journal forgets what has become an entry of the lake's tree.
            names_env = open_or_rebuild(
                directory / "names",
                name="names",
                databases=names.DATABASES,
                lake=lake,
                metasync=True,
            )
            undo.callback(names_env.close)
            cache_env = open_or_rebuild(
                directory / "cache", name="cache", databases=cache.DATABASES, lake=lake
            )
            undo.callback(cache_env.close)
            index = cls(lock, (names_env, cache_env, journal))
            undo.pop_all()
        return index

    def reap_readers(self) -> None:
        """A process that read beside us has died: free what it read."""
        for environment in self._environments:
            environment.reap_readers()

    async def aclose(self) -> None:
        """Commit what is queued, close all, release the lock. Idempotent."""
        for environment in self._environments:
            await environment.aclose()
        self._lock.release()


@contextlib.asynccontextmanager
async def open_index(directory: Path, lake: str) -> AsyncIterator[Index]:
    """`Index.open` for one block."""
    index = await Index.open(directory, lake)
    try:
        yield index
    finally:
        await index.aclose()


class DirectoryLock:
    """An exclusive lock on a directory, for as long as this process lives or until `release`.

    Raises CacheBusy with the holder's pid, CacheError when the directory cannot be used.
    """

    def __init__(self, directory: Path) -> None:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CacheError("open the cache", str(directory), error.strerror or "") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise CacheBusy(
                "open the cache",
                str(directory),
                f"process {pid or 'unknown'} has the same lake mounted on it; "
                "unmount that first, or use another --cache",
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let others have it. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _open_journal(path: Path, lake: str) -> Environment:
    try:
        return Environment(
            path,
            name="journal",
            databases=(*journal_inodes.DATABASES, *WRITE_BACK_DATABASES),
            lake=lake,
            metasync=True,
            reserved=True,
        )
    except ForeignIndex:
        raise
    except IndexDamaged as error:
        error.hint += (
            ". It says what is not in the lake yet: mount with that version until tierfs flush says"
            f" that all is there, then remove {path.parent} whole; or use another cache directory"
            if isinstance(error, OtherVersion)
            else ". It says which inode numbers were used, and what is not in the lake yet: restore"
            f" it, or remove {path.parent} whole; tierfs fsck -y keeps what can be kept"
        )
        error.args = (error.op, error.subject, error.hint)
        raise
