"""The index of a directory that nobody has mounted, for those who check it.

Everything of the journal is read once in a child process before it is opened here: on some damaged
pages LMDB ends the process that reads them (`tierfs.index.damage`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import lmdb

from tierfs.errors import CacheError, IndexDamaged
from tierfs.index import damage, journal_inodes, names, schema
from tierfs.index.environments import DAMAGE, MAP_SIZE, MAX_DATABASES, Environment
from tierfs.index.names import Names
from tierfs.index.records import ROOT_INO, Kind
from tierfs.index.schema import WRITE_BACK_DATABASES

#: What a check reads and mends.
DATABASES = (*journal_inodes.DATABASES, *WRITE_BACK_DATABASES)


class OfflineIndex:
    """An open journal, and what is known of the lake's part of the tree. *lake* is whose it is;
    *tree* is None where ``names/`` is not there or damaged: the next mount starts without it."""

    def __init__(self, lake: str, journal: Environment, tree: Names | None) -> None:
        self.lake = lake
        self.journal = journal
        self._tree = tree

    def directory_path(self, ino: int) -> bytes | None:
        """The path of the lake's directory *ino*, or None: there is no such one."""
        parts: list[bytes] = []
        while ino != ROOT_INO:
            inode = self._tree.inode(ino) if self._tree is not None else None
            if self._tree is None or inode is None or inode.kind is not Kind.DIRECTORY:
                return None
            name = self._tree.child_name(inode.parent, ino)
            if name is None:
                return None
            parts.append(name)
            ino = inode.parent
        return b"/".join(reversed(parts))


def has_journal(directory: Path) -> bool:
    """Whether there is anything of a journal in *directory*."""
    return (directory / "journal" / damage.DATA_FILE).exists()


@contextlib.contextmanager
def open_offline(directory: Path) -> Iterator[OfflineIndex]:
    """Open what is in *directory*, whose lock the caller has. Blocks.

    Raises IndexDamaged when the journal is of no use (OtherVersion, ForeignIndex: to us), and
    CacheError when it cannot be opened.
    """
    path = directory / "journal"
    damage.refuse_damaged(path, map_size=MAP_SIZE, max_databases=MAX_DATABASES)
    lake = _owner(path)
    with contextlib.ExitStack() as opened:
        journal = Environment(path, name="journal", databases=DATABASES, lake=lake, metasync=True)
        opened.callback(journal.close)
        tree = None
        if (directory / "names" / damage.DATA_FILE).exists():
            with contextlib.suppress(IndexDamaged):
                environment = Environment(
                    directory / "names", name="names", databases=names.DATABASES, lake=lake
                )
                opened.callback(environment.close)
                tree = Names(environment)
        yield OfflineIndex(lake, journal, tree)


def _owner(path: Path) -> str:
    """Whose the environment at *path* is, as it says itself."""
    try:
        env = lmdb.Environment(
            str(path), map_size=MAP_SIZE, max_dbs=MAX_DATABASES, readonly=True, lib_version=0
        )
    except lmdb.Error as error:
        raise CacheError("open an index", str(path), str(error)) from error
    try:
        with env.begin() as txn:
            meta = env.open_db(b"meta", txn=txn, create=False)
            record = txn.get(schema.META_KEY, db=meta)
    except lmdb.NotFoundError:
        record = None
    except DAMAGE as error:
        raise IndexDamaged("open an index", str(path), f"it is damaged: {error}") from error
    except lmdb.Error as error:
        raise CacheError("open an index", str(path), str(error)) from error
    finally:
        env.close()
    if record is None:
        raise IndexDamaged("open an index", str(path), "it does not say whose it is")
    return schema.unpack_meta(record)[2]
