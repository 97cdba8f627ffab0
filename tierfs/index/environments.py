"""LMDB environments: opening them with suspicion, reading them cheaply, writing them in groups.

An environment is a directory with ``data.mdb`` and ``lock.mdb``; `tierfs.index.schema` has what is
in it. One process writes it. Reads are plain calls of a few microseconds on the caller's thread;
writes go through the environment's `tierfs.index.writer.Writer`.

Invariants:

I11. An environment is used only if its format version, its name and its lake are those expected.
I12. No read transaction outlives the ``with`` block that began it, so none pins old pages or shows
     old data. (Beginning one costs 0.15 us, because LMDB's slot is kept and renewed.)
I13. A database that was found damaged is not used again until it is moved aside or restored
     (`tierfs.index.damage`).
"""

from __future__ import annotations

import functools
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import lmdb

from tierfs.errors import CacheError, CacheFull, IndexDamaged
from tierfs.index import damage, schema
from tierfs.index.reserve import Reserve
from tierfs.index.writer import QUEUE_LIMIT, T, Transaction, Writer

if TYPE_CHECKING:
    from lmdb import _Database

_log = logging.getLogger(__name__)

#: A sparse map, far larger than any index, so that it never has to grow under another process.
MAP_SIZE = 64 << 30
MAX_DATABASES = 16
MAX_READERS = 512
#: Read transactions that are kept for renewal instead of being freed.
SPARE_READS = 8
#: Less than this free, and a failed write is put down to it. Commits are of this order of size.
DISK_FULL_BYTES = 8 << 20

#: What LMDB says of damage, and not of a full disk, a failed sync or a mistake of ours.
DAMAGE = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
)


class ForeignIndex(IndexDamaged):
    """The environment is sound, but another lake's: never moved aside, only refused."""


class OtherVersion(IndexDamaged):
    """The environment is sound, but another version's of tierfs."""


class Environment:
    """One open LMDB environment: *path* with *databases* in it, bound to *name* and *lake*.

    The constructor blocks (milliseconds; up to `damage.SCAN_TIMEOUT_S` when damage is suspected),
    so asynchronous code calls it in a thread. *metasync*: also flush the meta page at each commit,
    so that an acknowledged commit survives a power cut; without, the last one may be lost to it.
    *reserved*: it has room of its own on the disk (`tierfs.index.reserve`).
    Raises IndexDamaged (I11, I13) and CacheError when the directory cannot be used.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        databases: Sequence[str],
        lake: str,
        map_size: int = MAP_SIZE,
        metasync: bool = False,
        reserved: bool = False,
        queue_limit: int = QUEUE_LIMIT,
    ) -> None:
        self.path = path
        self.name = name
        self._failed = False
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            damage.refuse_known(path, map_size=map_size, max_databases=MAX_DATABASES)
            self._lmdb = self._open(map_size, metasync)
        except OSError as error:
            raise CacheError("open an index", str(path), error.strerror or "") from error
        try:
            self._dbs = self._bind(databases, lake)
            self._lmdb.reader_check()
        except BaseException as error:
            self._lmdb.close()
            if isinstance(error, lmdb.Error):
                raise self._translate(error) from error
            # Refused for its content, not for how it was left.
            damage.count_clean_end(path)
            raise
        reserve = Reserve(self._lmdb, path) if reserved else None
        if reserve is not None:
            reserve.keep_up()
        self.writer = Writer(
            self._lmdb,
            name,
            translate=self._translate,
            committed=None if reserve is None else reserve.keep_up,
            queue_limit=queue_limit,
        )

    # Reading.

    def database(self, name: str) -> _Database:
        """The handle of one of the databases named at opening."""
        return self._dbs[name]

    def read(self) -> Read:
        """A read transaction: ``with env.read() as txn``. It sees every commit acknowledged before.

        Do not await inside the block (I12). LMDB's errors come out as IndexDamaged or CacheError.
        """
        return Read(self)

    def entries(self, txn: Transaction, name: str) -> int:
        """How many entries database *name* has."""
        return txn.stat(self._dbs[name])["entries"]

    def reap_readers(self) -> None:
        """Free the places of readers in other processes that are dead. There are `MAX_READERS`,
        and what a dead one reads is kept for it."""
        self._lmdb.reader_check()

    # Writing.

    async def write(self, function: Callable[[Transaction], T], *, rows: int = 1) -> T:
        """See `Writer.write`."""
        return await self.writer.write(function, rows=rows)

    def write_soon(self, function: Callable[[Transaction], object], *, rows: int = 1) -> None:
        """See `Writer.write_soon`."""
        self.writer.write_soon(function, rows=rows)

    async def aclose(self) -> None:
        """Commit what is queued and close. Idempotent."""
        await self.writer.aclose()
        self._close()

    def close(self) -> None:
        """As `aclose`, blocking; for threads."""
        self.writer.close()
        self._close()

    def _close(self) -> None:
        self._lmdb.close()
        if not self._failed:
            damage.count_clean_end(self.path)

    # Opening.

    def _open(self, map_size: int, metasync: bool) -> lmdb.Environment:
        try:
            env = lmdb.Environment(
                str(self.path),
                map_size=map_size,
                subdir=True,
                metasync=metasync,
                sync=True,
                readahead=False,
                max_dbs=MAX_DATABASES,
                max_readers=MAX_READERS,
                max_spare_txns=SPARE_READS,
                mode=0o600,
                lib_version=0,
            )
        except lmdb.Error as error:
            raise self._translate(error) from error
        try:
            if env.lib_version()[:2] != (0, 9):
                found = ".".join(map(str, env.lib_version()))
                raise CacheError("open an index", "LMDB", f"0.9 is needed, this is {found}")
            damage.refuse_truncated(self.path, env)
            damage.count_opening(self.path)
        except BaseException:
            env.close()
            raise
        return env

    def _bind(self, databases: Sequence[str], lake: str) -> dict[str, _Database]:
        """Open the databases and check whose they are (I11); a new environment becomes *lake*'s."""
        env = self._lmdb
        with env.begin() as txn:
            new = txn.stat()["entries"] == 0
        if not new:
            try:
                meta = env.open_db(b"meta", create=False)
            except lmdb.NotFoundError:
                raise self._refusal("it does not say whose it is") from None
            with env.begin() as txn:
                self._check_meta(txn.get(schema.META_KEY, db=meta), lake)
        # One transaction, so that no crash leaves an environment that is half made.
        with env.begin(write=True) as txn:
            handles = {name: env.open_db(name.encode(), txn=txn) for name in databases}
            if new:
                meta = env.open_db(b"meta", txn=txn)
                record = schema.pack_meta(self.name, lake, time.time_ns())
                txn.put(schema.META_KEY, record, db=meta)
        return handles

    def _check_meta(self, record: bytes | None, lake: str) -> None:
        if record is None:
            raise self._refusal("it does not say whose it is")
        version, name, owner, _ = schema.unpack_meta(record)
        if (name, owner) != (self.name, lake):
            raise ForeignIndex(
                "open an index",
                str(self.path),
                f"it is {name!r} of {owner}, not {self.name!r} of {lake}; "
                "use another cache directory, or remove this one",
            )
        readable = schema.FORMAT_VERSIONS[self.name]
        if version != readable:
            raise OtherVersion(
                "open an index",
                str(self.path),
                f"it has format version {version}, this tierfs reads {readable}",
            )

    def _refusal(self, hint: str) -> IndexDamaged:
        return IndexDamaged("open an index", str(self.path), hint)

    def _translate(self, error: lmdb.Error) -> CacheError | IndexDamaged:
        """The error of ours that *error* means; from damage on, the environment is marked (I13)."""
        if isinstance(error, DAMAGE):
            self._failed = True
            damage.mark(self.path, str(error))
            return IndexDamaged("use an index", str(self.path), f"it is damaged: {error}")
        if isinstance(error, lmdb.MemoryError):
            return CacheError("use an index", str(self.path), f"{error}; {damage.REMEDY}")
        if isinstance(error, lmdb.MapFullError | lmdb.DiskError):
            return CacheFull("write to an index", str(self.path), str(error))
        if shutil.disk_usage(self.path).free < DISK_FULL_BYTES:
            # LMDB calls a write cut short by a full disk an input/output error.
            return CacheFull("write to an index", str(self.path), f"the disk is full: {error}")
        return CacheError("use an index", str(self.path), str(error))


class Read:
    """The context manager that `Environment.read` returns."""

    __slots__ = ("_env", "_txn")

    def __init__(self, env: Environment) -> None:
        self._env = env

    def __enter__(self) -> Transaction:
        try:
            self._txn = self._env._lmdb.begin()
        except lmdb.Error as error:
            raise self._env._translate(error) from error
        return self._txn

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._txn.abort()
        if isinstance(error, lmdb.Error):
            raise self._env._translate(error) from error


def open_or_rebuild(
    path: Path,
    *,
    name: str,
    databases: Sequence[str],
    lake: str,
    map_size: int = MAP_SIZE,
    metasync: bool = False,
) -> Environment:
    """Open an environment whose content can be had again. A damaged one, or one of another format
    version, is moved aside with a warning to ``<name>.damaged-<n>`` (only the newest is kept), and
    an empty one takes its place.

    Blocks. Another lake's is refused (ForeignIndex), as is an unusable directory (CacheError).
    """

    open_it = functools.partial(
        Environment,
        path,
        name=name,
        databases=databases,
        lake=lake,
        map_size=map_size,
        metasync=metasync,
    )
    try:
        return open_it()
    except ForeignIndex:
        raise
    except IndexDamaged as error:
        aside = _move_aside(path)
        _log.warning("%s; moved to %s, starting with an empty one", error, aside)
    return open_it()


def _move_aside(path: Path) -> Path:
    earlier = {}
    for directory in path.parent.glob(f"{path.name}.damaged-*"):
        number = directory.name.rpartition("-")[2]
        if number.isdecimal():
            earlier[int(number)] = directory
    aside = path.parent / f"{path.name}.damaged-{max(earlier, default=0) + 1}"
    path.rename(aside)
    for directory in earlier.values():
        shutil.rmtree(directory, ignore_errors=True)
    return aside
