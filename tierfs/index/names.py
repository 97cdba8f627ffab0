"""The names environment: what the lake's tree looks like, as far as it is known.

All of it can be had again from the lake; damage means an empty start (inode numbers come from
``journal/`` and are not lost with it).

Invariants, true after every commit:

I1. An inode but the root has exactly one dentry and one ``children`` row, and they agree with its
    ``parent``: an inode number is under one name at a time. Putting it elsewhere moves it.
I2. The parent of every dentry, listing and hidden record is the root or has an inode record, or is
    in a subtree that is queued in ``orphans``: removed subtrees are purged in slices and never
    leak.
I3. ``objects`` has a row only for inodes that have a record.
I4. A removed or replaced inode number is gone at the commit that removed it. Only a caller that
    puts the same number again (a move, said as removing and putting) brings it back, subtree
    included.
I5. The counts in ``state`` are the number of ``hidden`` rows, for each reason.
I6. Each read method sees one commit: never half a batch.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import islice

from tierfs.errors import InvalidRequest
from tierfs.index import schema
from tierfs.index.environments import Environment
from tierfs.index.names_apply import DATABASES, PURGE_CHILDREN, Tables, apply, purge
from tierfs.index.names_batch import NamesBatch
from tierfs.index.records import (
    Dentry,
    Hidden,
    HiddenReason,
    Inode,
    Listing,
    ListingState,
    ObjectRef,
)
from tierfs.index.writer import Transaction

__all__ = ["DATABASES", "Names", "NamesBatch"]

_pack_u64 = schema.pack_u64_key
_pack_pair = schema.pack_pair_key
_unpack_inode = schema.unpack_inode
_unpack_dentry = schema.unpack_dentry

_PURGE_ROWS = 4 * PURGE_CHILDREN
_UNKNOWN = Listing(ListingState.NONE, 0, 0, 0, None)


class Names:
    """Reads are plain calls (a few microseconds, no waiting); `commit` waits for a synced
    commit.
    """

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._tables = Tables(env)
        # A purge that the last process did not finish.
        with env.read() as txn:
            if env.entries(txn, "orphans"):
                self._purge_soon()

    # Reads.

    def inode(self, ino: int) -> Inode | None:
        """What *ino* is, or None."""
        with self._env.read() as txn:
            value = txn.get(_pack_u64(ino), db=self._tables.inodes)
        return None if value is None else _unpack_inode(value)

    def dentry(self, parent: int, name: bytes) -> Dentry | None:
        """The entry *name* of directory *parent*, or None."""
        with self._env.read() as txn:
            value = txn.get(_pack_u64(parent) + name, db=self._tables.dentries)
        return None if value is None else _unpack_dentry(value)

    def dentries(self, parent: int, names: Sequence[bytes]) -> list[Dentry | None]:
        """`dentry` for each of *names*, in their order, in one go."""
        prefix = _pack_u64(parent)
        keys = [prefix + name for name in names]
        with self._env.read() as txn:
            found = dict(txn.cursor(self._tables.dentries).getmulti(keys))
        return [_unpack_dentry(found[key]) if key in found else None for key in keys]

    def has_any(self, parent: int, names: Sequence[bytes]) -> bool:
        """Whether directory *parent* has an entry of one of *names*, which are in byte order."""
        prefix = _pack_u64(parent)
        with self._env.read() as txn:
            cursor = txn.cursor(self._tables.dentries)
            # As a rule there is nothing at all where they would be.
            if not names or not cursor.set_range(prefix + names[0]):
                return False
            if cursor.key() > prefix + names[-1]:
                return False
            return bool(cursor.getmulti([prefix + name for name in names]))

    def object(self, ino: int) -> ObjectRef | None:
        """Where the bytes of file *ino* are in the lake, or None."""
        with self._env.read() as txn:
            value = txn.get(_pack_u64(ino), db=self._tables.objects)
        return None if value is None else schema.unpack_object(value)

    def listing(self, ino: int) -> Listing:
        """How much of directory *ino* is known; state NONE when nothing is recorded."""
        with self._env.read() as txn:
            value = txn.get(_pack_u64(ino), db=self._tables.listings)
        return _UNKNOWN if value is None else schema.unpack_listing(value)

    def children(self, parent: int, after_ino: int, limit: int) -> list[tuple[int, bytes, Inode]]:
        """Up to *limit* entries of directory *parent* with inode numbers over *after_ino*, in their
        order: ``(ino, name, inode)``. An empty list: there are no more.
        """
        with self._env.read() as txn:
            cursor = txn.cursor(self._tables.children)
            if not cursor.set_range(_pack_pair(parent, after_ino + 1)):
                return []
            rows = list(islice(cursor.iternext(), limit))
            prefix = _pack_u64(parent)
            while rows and not rows[-1][0].startswith(prefix):
                rows = rows[: _prefix_length(rows, prefix)]
            inos = [key[8:] for key, _ in rows]
            inodes = txn.cursor(self._tables.inodes).getmulti(inos)
        if len(inodes) == len(rows):
            return [
                (int.from_bytes(ino, "big"), name, _unpack_inode(value))
                for (_, name), (ino, value) in zip(rows, inodes, strict=True)
            ]
        # Only a damaged database lacks an inode (I1); such an entry cannot be shown.
        known = dict(inodes)
        return [
            (int.from_bytes(ino, "big"), name, _unpack_inode(known[ino]))
            for ino, (_, name) in zip(inos, rows, strict=True)
            if ino in known
        ]

    def child_inos(self, parent: int) -> array[int]:
        """The inode numbers in directory *parent*, ascending, eight bytes each."""
        prefix = _pack_u64(parent)
        parts = []
        with self._env.read() as txn:
            cursor = txn.cursor(self._tables.children)
            if cursor.set_range(prefix):
                for key in cursor.iternext(keys=True, values=False):
                    if not key.startswith(prefix):
                        break
                    parts.append(key[8:])
        return array("Q", [int.from_bytes(part, "big") for part in parts])

    def entries(self, parent: int, after: bytes, limit: int) -> list[tuple[bytes, Dentry]]:
        """Up to *limit* entries of directory *parent* with names over *after*, in byte order."""
        prefix = _pack_u64(parent)
        found = []
        with self._env.read() as txn:
            cursor = txn.cursor(self._tables.dentries)
            # No name contains a zero byte: the least key over "after" ends in one.
            if cursor.set_range(prefix + after + b"\0"):
                for key, value in islice(cursor.iternext(), limit):
                    if not key.startswith(prefix):
                        break
                    found.append((key[8:], _unpack_dentry(value)))
        return found

    def child_name(self, parent: int, ino: int) -> bytes | None:
        """The name of *ino* in directory *parent*, or None."""
        with self._env.read() as txn:
            return txn.get(_pack_pair(parent, ino), db=self._tables.children)

    def hidden(self, limit: int) -> list[Hidden]:
        """Up to *limit* of the objects that cannot be shown, by directory."""
        with self._env.read() as txn:
            rows = islice(txn.cursor(self._tables.hidden).iternext(), limit)
            return [schema.unpack_hidden(key, value) for key, value in rows]

    def hidden_counts(self) -> dict[HiddenReason, int]:
        """How many objects cannot be shown, by reason; reasons without any are left out."""
        counts = {}
        with self._env.read() as txn:
            for reason in HiddenReason:
                value = txn.get(schema.hidden_count_key(reason), db=self._tables.state)
                if value is not None and (count := schema.U64.unpack(value)[0]):
                    counts[reason] = count
        return counts

    def entry_count(self) -> int:
        """How many directory entries are known. Entries of removed subtrees count until purged."""
        with self._env.read() as txn:
            return self._env.entries(txn, "dentries")

    def last_ino(self) -> int:
        """The highest inode number that has a record, or 0."""
        with self._env.read() as txn:
            cursor = txn.cursor(self._tables.inodes)
            return int.from_bytes(cursor.key(), "big") if cursor.last() else 0

    def state_get(self, key: bytes) -> bytes | None:
        """A value that `state_put` stored, or None."""
        with self._env.read() as txn:
            return txn.get(key, db=self._tables.state)

    # Writes.

    async def commit(self, batch: NamesBatch) -> None:
        """Apply *batch* in one transaction; waits until it is synced.

        Raises NotFound, with nothing applied, when a parent is no longer there (its directory was
        removed while a listing of it ran): I2.
        """
        operations = batch.operations()
        if not operations:
            return

        def write(txn: Transaction) -> bool:
            return apply(txn, self._tables, operations)

        if await self._env.write(write, rows=batch.rows):
            self._purge_soon()

    async def state_put(self, key: bytes, value: bytes) -> None:
        """Store *value* under *key*, which must not begin with a zero byte; waits for the
        commit.
        """
        if not key or key.startswith(b"\0"):
            raise InvalidRequest("store state", key, "a key begins with another byte than zero")
        await self._env.write(lambda txn: txn.put(key, value, db=self._tables.state))

    async def purge(self) -> None:
        """Purge what removed directories left, to the end (it happens by itself, too)."""
        while await self._env.write(lambda txn: purge(txn, self._tables), rows=_PURGE_ROWS):
            pass

    def _purge_soon(self) -> None:
        def step(txn: Transaction) -> None:
            if purge(txn, self._tables):
                self._purge_soon()

        self._env.write_soon(step, rows=_PURGE_ROWS)


def _prefix_length(rows: list[tuple[bytes, bytes]], prefix: bytes) -> int:
    """How many of the sorted *rows* have keys that begin with *prefix*, given that the last has
    not.
    """
    low, high = 0, len(rows) - 1
    while low < high:
        middle = (low + high) // 2
        if rows[middle][0].startswith(prefix):
            low = middle + 1
        else:
            high = middle
    return low
