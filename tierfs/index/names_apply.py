"""How the writing thread applies batches to the names environment.

`apply` works through a batch in order against an overlay of dictionaries (what the rows will be),
then writes each database once, sorted by key: sorted puts cost a tenth of scattered ones, because
neighbours share pages. Whole pages of new files come sorted, and are written as they are. `purge`
removes what removed directories left, in slices.

The invariants I1..I5 of `tierfs.index.names` are kept here.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias, cast

from tierfs.errors import NotFound
from tierfs.index import schema
from tierfs.index.environments import Environment
from tierfs.index.names_batch import Op, Operation, PageRows, Row
from tierfs.index.records import ROOT_INO, HiddenReason, Kind
from tierfs.index.writer import Transaction

if TYPE_CHECKING:
    from lmdb import _Database

DATABASES = (
    "inodes",
    "dentries",
    "children",
    "objects",
    "listings",
    "hidden",
    "orphans",
    "state",
)

#: Children of removed directories that one transaction purges: 5 ms, so that others get a turn.
PURGE_CHILDREN = 2048

#: Rows as they will be: key -> value, or None for gone.
Overlay: TypeAlias = "dict[bytes, bytes | None]"

_pack_u64 = schema.pack_u64_key
_pack_pair = schema.pack_pair_key
_u64_at = schema.U64.unpack_from
_DIRECTORY = int(Kind.DIRECTORY)


class Tables:
    """The database handles of the names environment."""

    __slots__ = DATABASES

    def __init__(self, env: Environment) -> None:
        for name in DATABASES:
            setattr(self, name, env.database(name))

    if TYPE_CHECKING:
        inodes: _Database
        dentries: _Database
        children: _Database
        objects: _Database
        listings: _Database
        hidden: _Database
        orphans: _Database
        state: _Database


def apply(txn: Transaction, tables: Tables, operations: tuple[Operation, ...]) -> bool:
    """Apply *operations*; whether removed subtrees are left to purge. Raises NotFound (I2)."""
    change = _Change(txn, tables)
    for what, ino, name, number, first, second, third in operations:
        if what == Op.PUT_ENTRY:
            change.put_entry(ino, name, number, first, second, cast("bytes", third))
        elif what == Op.PUT_PAGE:
            change.put_page(ino, cast("PageRows", third))
        elif what == Op.TOUCH:
            change.touch(ino, name, number)
        elif what == Op.REMOVE:
            change.remove_entry(ino, name)
        elif what == Op.PUT_INODE:
            change.put_inode(ino, first)
        elif what == Op.PUT_OBJECT:
            change.require(ino, "record an object")
            change.objects[_pack_u64(ino)] = first
        elif what == Op.PUT_LISTING:
            change.require(ino, "record a listing")
            change.listings[_pack_u64(ino)] = first
        elif what == Op.PUT_HIDDEN:
            change.require(ino, "record a hidden object")
            _put_hidden(txn, tables, name, first)
        else:
            _clear_hidden(txn, tables, _pack_u64(ino))
    change.flush()
    # Small subtrees go at once; a large one is finished in slices.
    return bool(change.orphans) and purge(txn, tables)


class _Change:
    """The rows that a batch changes, before they are written: key -> value, or None for gone."""

    def __init__(self, txn: Transaction, tables: Tables) -> None:
        self._txn = txn
        self._tables = tables
        self.inodes: Overlay = {}
        self.dentries: Overlay = {}
        self.children: Overlay = {}
        self.objects: Overlay = {}
        self.listings: Overlay = {}
        self.orphans: Overlay = {}
        self._present: set[int] = {ROOT_INO}

    def _inode(self, key: bytes) -> bytes | None:
        if key in self.inodes:
            return self.inodes[key]
        return self._txn.get(key, db=self._tables.inodes)

    def _dentry(self, key: bytes) -> bytes | None:
        if key in self.dentries:
            return self.dentries[key]
        return self._txn.get(key, db=self._tables.dentries)

    def _child(self, key: bytes) -> bytes | None:
        if key in self.children:
            return self.children[key]
        return self._txn.get(key, db=self._tables.children)

    def _orphan(self, key: bytes) -> bool:
        if key in self.orphans:
            return self.orphans[key] is not None
        return self._txn.get(key, db=self._tables.orphans) is not None

    def require(self, ino: int, op: str) -> None:
        """Raise NotFound unless *ino* is the root or has a record (I2, I3)."""
        if ino not in self._present:
            if self._inode(_pack_u64(ino)) is None:
                raise NotFound(op, f"inode {ino}", "it was removed meanwhile")
            self._present.add(ino)

    def put_entry(
        self, parent: int, name: bytes, ino: int, inode: bytes, ref: bytes | None, dentry: bytes
    ) -> None:
        self.require(parent, "put a directory entry")
        ino_key = _pack_u64(ino)
        dentry_key = _pack_u64(parent) + name
        previous = self._dentry(dentry_key)
        if previous is not None:
            (previous_ino,) = _u64_at(previous)
            if previous_ino != ino:
                self._drop(parent, previous_ino, previous[schema.DENTRY_KIND_OFFSET])
        known = self._inode(ino_key)
        if known is not None:
            (known_parent,) = _u64_at(known, schema.INODE_PARENT_OFFSET)
            known_name = self._child(_pack_pair(known_parent, ino))
            if known_name is not None and (known_parent, known_name) != (parent, name):
                self.dentries[_pack_u64(known_parent) + known_name] = None
                self.children[_pack_pair(known_parent, ino)] = None
        elif inode[0] == _DIRECTORY and self._orphan(ino_key):
            # Removed a moment ago and now put again: its subtree, or what is left of it, stays.
            # Its listing went with the removal, so nobody takes what is left for all there is.
            self.orphans[ino_key] = None
        if ref is not None:
            self.objects[ino_key] = ref
        elif known is not None:
            self.objects[ino_key] = None
        self.inodes[ino_key] = inode
        self.dentries[dentry_key] = dentry
        self.children[_pack_pair(parent, ino)] = name

    def put_page(self, parent: int, rows: PageRows) -> None:
        """New names and new numbers: nothing of them is in the overlay, and what comes later finds
        them written."""
        self.require(parent, "put directory entries")
        self._put_new(self._tables.inodes, rows.inodes())
        self._put_new(self._tables.dentries, rows.dentries())
        self._put_new(self._tables.children, rows.children())
        self._put_new(self._tables.objects, rows.objects())

    def _put_new(self, table: _Database, rows: Iterator[Row]) -> None:
        first = next(rows, None)
        if first is not None:
            cursor = self._txn.cursor(table)
            cursor.put(*first)
            # What is appended fills its pages; what is put where it belongs leaves them half empty.
            cursor.putmulti(rows, append=not cursor.next())

    def touch(self, parent: int, name: bytes, checked_ns: int) -> None:
        key = _pack_u64(parent) + name
        value = self._dentry(key)
        if value is not None:
            ino, _, kind = schema.DENTRY.unpack(value)
            self.dentries[key] = schema.DENTRY.pack(ino, checked_ns, kind)

    def remove_entry(self, parent: int, name: bytes) -> None:
        key = _pack_u64(parent) + name
        value = self._dentry(key)
        if value is not None:
            self.dentries[key] = None
            self._drop(parent, _u64_at(value)[0], value[schema.DENTRY_KIND_OFFSET])

    def put_inode(self, ino: int, inode: bytes) -> None:
        key = _pack_u64(ino)
        known = self._inode(key)
        if known is None and ino != ROOT_INO:
            raise NotFound("record an inode", f"inode {ino}", "it was removed meanwhile")
        if known is not None:
            at = schema.INODE_PARENT_OFFSET
            inode = inode[:at] + known[at : at + 8] + inode[at + 8 :]
        self.inodes[key] = inode

    def _drop(self, parent: int, ino: int, kind: int) -> None:
        """All records of *ino* go (I4); a directory's subtree becomes an orphan (I2)."""
        key = _pack_u64(ino)
        self.children[_pack_pair(parent, ino)] = None
        self.inodes[key] = None
        self._present.discard(ino)
        if kind == _DIRECTORY:
            self.listings[key] = None
            self.orphans[key] = b""
        else:
            self.objects[key] = None

    def flush(self) -> None:
        """Write every changed row, database by database, in the order of the keys."""
        tables = self._tables
        for overlay, database in (
            (self.inodes, tables.inodes),
            (self.dentries, tables.dentries),
            (self.children, tables.children),
            (self.objects, tables.objects),
            (self.listings, tables.listings),
            (self.orphans, tables.orphans),
        ):
            if not overlay:
                continue
            puts = []
            for key, value in sorted(overlay.items()):
                if value is None:
                    self._txn.delete(key, db=database)
                else:
                    puts.append((key, value))
            if puts:
                self._txn.cursor(database).putmulti(puts)


def purge(txn: Transaction, tables: Tables) -> bool:
    """Remove up to PURGE_CHILDREN rows of orphaned subtrees; whether there is more to do."""
    left = PURGE_CHILDREN
    orphans = txn.cursor(tables.orphans)
    while left > 0:
        if not orphans.first():
            return False
        directory = orphans.key()
        cursor = txn.cursor(tables.children)
        rows: list[tuple[bytes, bytes]] = []
        if cursor.set_range(directory):
            for key, name in islice(cursor.iternext(), left):
                if not key.startswith(directory):
                    break
                rows.append((key, name))
        for key, name in rows:
            _purge_child(txn, tables, directory, key, name)
        left -= len(rows) + 1
        if left >= 0:
            # All of its children are gone, so the directory itself has nothing left.
            txn.delete(directory, db=tables.listings)
            _clear_hidden(txn, tables, directory)
            txn.delete(directory, db=tables.orphans)
    return bool(orphans.first())


def _purge_child(
    txn: Transaction, tables: Tables, directory: bytes, key: bytes, name: bytes
) -> None:
    ino = key[8:]
    inode = txn.get(ino, db=tables.inodes)
    if inode is not None and inode[0] == _DIRECTORY:
        txn.put(ino, b"", db=tables.orphans)
    txn.delete(ino, db=tables.inodes)
    txn.delete(ino, db=tables.objects)
    txn.delete(directory + name, db=tables.dentries)
    txn.delete(key, db=tables.children)


def _put_hidden(txn: Transaction, tables: Tables, key: bytes, value: bytes) -> None:
    previous = txn.get(key, db=tables.hidden)
    if previous == value:
        return
    if previous is not None:
        _count(txn, tables, previous[0], -1)
    txn.put(key, value, db=tables.hidden)
    _count(txn, tables, value[0], +1)


def _clear_hidden(txn: Transaction, tables: Tables, directory: bytes) -> None:
    removed: dict[int, int] = {}
    cursor = txn.cursor(tables.hidden)
    found = cursor.set_range(directory)
    while found and cursor.key().startswith(directory):
        reason = cursor.value()[0]
        removed[reason] = removed.get(reason, 0) + 1
        found = cursor.delete() and bool(cursor.key())
    for reason, count in removed.items():
        _count(txn, tables, reason, -count)


def _count(txn: Transaction, tables: Tables, reason: int, change: int) -> None:
    """Keep I5."""
    key = schema.hidden_count_key(HiddenReason(reason))
    value = txn.get(key, db=tables.state)
    count = 0 if value is None else _u64_at(value)[0]
    txn.put(key, schema.U64.pack(count + change), db=tables.state)
