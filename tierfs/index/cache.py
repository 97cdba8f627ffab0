"""The cache environment: which bytes of which object version are in the cache, and their checksums.

Damage means an empty start: the cache is then empty, too, whatever files lie there.

Whoever fills the cache writes it: this process for the Python front. A native front does so by
itself, under the same invariants, and here is only read.

Invariants, true after every commit:

I7. ``present_bytes`` of a file is the sum of the lengths of its block records: the index keeps it,
    and a caller's value is not used. So two fills of one file need not know of each other.
I8. ``totals`` is the number of file records and the sums of their ``present_bytes`` and their
    ``overhead_bytes``.
I9. A block record exists only under a file record: blocks that arrive after the file was dropped
    are not recorded, so that an eviction is never undone by a late fill.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from tierfs.index import schema
from tierfs.index.environments import Environment
from tierfs.index.records import (
    BLOCK_SIZE,
    EXTENT_SIZE,
    BlockRecord,
    CachedFile,
    Extent,
    Totals,
    overhead_bytes,
)
from tierfs.index.writer import Transaction

if TYPE_CHECKING:
    from lmdb import _Database

DATABASES = ("files", "blocks", "totals")

_PUT_FILE, _PUT_BLOCKS, _DROP_BLOCKS, _DROP_FILE, _TOUCH = range(5)

#: (what, ino key, file record or empty, blocks, last used)
Operation: TypeAlias = "tuple[int, bytes, bytes, tuple[tuple[bytes, bytes], ...], int]"

_pack_u64 = schema.pack_u64_key
_pack_block_key = schema.pack_block_key
_u32_at = schema.BLOCK.unpack_from

_SIZE_AT = 16
_PRESENT_AT = 24
_LAST_USED_AT = 56
#: How far a random probe may walk on from where it landed: gaps between inode numbers would
#: otherwise favour the file behind the gap.
_PROBE_STEPS = 8


class CacheBatch:
    """Changes for one transaction, applied in the order in which they were added."""

    __slots__ = ("_operations",)

    def __init__(self) -> None:
        self._operations: list[Operation] = []

    def __len__(self) -> int:
        return len(self._operations)

    def operations(self) -> tuple[Operation, ...]:
        """What was added so far, for the writing thread."""
        return tuple(self._operations)

    def put_file(self, ino: int, file: CachedFile) -> None:
        """Record *file*; its blocks, and ``present_bytes``, stay what they are (I7)."""
        self._operations.append((_PUT_FILE, _pack_u64(ino), schema.pack_file(file), (), 0))

    def put_blocks(self, ino: int, blocks: Mapping[int, BlockRecord]) -> None:
        """Record blocks, by number, of a file that was put before; otherwise nothing happens
        (I9).
        """
        rows = tuple(
            (_pack_block_key(ino, number), schema.pack_block(block))
            for number, block in sorted(blocks.items())
        )
        self._operations.append((_PUT_BLOCKS, _pack_u64(ino), b"", rows, 0))

    def drop_blocks(self, ino: int, numbers: Iterable[int]) -> None:
        """Forget blocks, by number; those that are not there stay so."""
        rows = tuple((_pack_block_key(ino, number), b"") for number in sorted(set(numbers)))
        self._operations.append((_DROP_BLOCKS, _pack_u64(ino), b"", rows, 0))

    def drop_file(self, ino: int) -> None:
        """Forget the file and all its blocks."""
        self._operations.append((_DROP_FILE, _pack_u64(ino), b"", (), 0))

    def touch(self, ino: int, last_used_s: int) -> None:
        """The file was used at *last_used_s*; an earlier time than the one recorded changes
        nothing.
        """
        self._operations.append((_TOUCH, _pack_u64(ino), b"", (), last_used_s))


class CacheIndex:
    """Reads are plain calls of a few microseconds; `commit` waits for a synced commit."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._files = env.database("files")
        self._blocks = env.database("blocks")
        self._totals = env.database("totals")

    # Reads.

    def file(self, ino: int) -> CachedFile | None:
        """What is cached of *ino*, or None."""
        with self._env.read() as txn:
            value = txn.get(_pack_u64(ino), db=self._files)
        return None if value is None else schema.unpack_file(value)

    def block(self, ino: int, number: int) -> BlockRecord | None:
        """One block, or None when it is not there."""
        with self._env.read() as txn:
            value = txn.get(_pack_block_key(ino, number), db=self._blocks)
        return None if value is None else schema.unpack_block(value)

    def blocks(self, ino: int) -> dict[int, BlockRecord]:
        """All blocks of a file, by number, ascending. O(blocks): 0.7 us each."""
        with self._env.read() as txn:
            return {
                int.from_bytes(key[8:], "big"): schema.unpack_block(value)
                for key, value in _blocks_of(txn, self._blocks, _pack_u64(ino))
            }

    def lengths(self, ino: int, numbers: range) -> dict[int, int]:
        """The lengths of the blocks that are present among *numbers* (ascending by one)."""
        found: dict[int, int] = {}
        with self._env.read() as txn:
            for key, value in _blocks_of(txn, self._blocks, _pack_u64(ino), numbers.start):
                number = int.from_bytes(key[8:], "big")
                if number >= numbers.stop:
                    break
                found[number] = _u32_at(value)[0]
        return found

    def first_extents(self, ino: int, bytes_: int, most: int) -> list[Extent]:
        """The first extents (EXTENT_SIZE, aligned) of a file that hold anything, until together
        they hold *bytes_* or there are *most*. O(blocks in them), however large the file."""
        extents: list[Extent] = []
        end = 0
        with self._env.read() as txn:
            for key, value in _blocks_of(txn, self._blocks, _pack_u64(ino)):
                offset = int.from_bytes(key[8:], "big") * BLOCK_SIZE
                if offset >= end:
                    if bytes_ <= 0 or len(extents) == most:
                        break
                    lo = offset - offset % EXTENT_SIZE
                    end = lo + EXTENT_SIZE
                    extents.append((lo, end))
                bytes_ -= _u32_at(value)[0]
        return extents

    def gap(self, ino: int, number: int, end: int) -> range:
        """The longest run around *number*, which has no record, of numbers under *end* without one.
        O(log blocks)."""
        owner, here = _pack_u64(ino), _pack_block_key(ino, number)
        with self._env.read() as txn:
            cursor = txn.cursor(self._blocks)
            after = cursor.key() if cursor.set_range(here) else b""
            before = cursor.key() if (cursor.prev() if after else cursor.last()) else b""
        return range(
            int.from_bytes(before[8:], "big") + 1 if before.startswith(owner) else 0,
            min(int.from_bytes(after[8:], "big"), end) if after.startswith(owner) else end,
        )

    def totals(self) -> Totals:
        """What is in the cache, together (I8)."""
        with self._env.read() as txn:
            return _totals(txn, self._totals)

    def last_ino(self) -> int:
        """The highest inode number that has a record, or 0."""
        with self._env.read() as txn:
            cursor = txn.cursor(self._files)
            return int.from_bytes(cursor.key(), "big") if cursor.last() else 0

    def scan_files(self, after_ino: int, limit: int) -> list[tuple[int, CachedFile]]:
        """Up to *limit* files with inode numbers over *after_ino*, ascending."""
        with self._env.read() as txn:
            cursor = txn.cursor(self._files)
            if not cursor.set_range(_pack_u64(after_ino + 1)):
                return []
            rows = list(islice(cursor.iternext(), limit))
        return [(int.from_bytes(key, "big"), schema.unpack_file(value)) for key, value in rows]

    def sample_files(self, rng: random.Random, n: int) -> list[tuple[int, CachedFile]]:
        """Up to *n* different files at random, by seeking random keys: O(n), no scan.

        Nearly uniform; at most *n* files cached: all of them.
        """
        found: dict[bytes, bytes] = {}
        with self._env.read() as txn:
            cursor = txn.cursor(self._files)
            if self._env.entries(txn, "files") <= n:
                found.update(cursor.iternext())
            elif cursor.first():
                low = int.from_bytes(cursor.key(), "big")
                cursor.last()
                high = int.from_bytes(cursor.key(), "big")
                for _ in range(2 * n):
                    cursor.set_range(_pack_u64(rng.randint(low, high)))
                    for _ in range(rng.randrange(_PROBE_STEPS)):
                        if not cursor.next():
                            cursor.first()
                    key, value = cursor.item()
                    found[key] = value
                    if len(found) == n:
                        break
        return [
            (int.from_bytes(key, "big"), schema.unpack_file(value)) for key, value in found.items()
        ]

    # Writes.

    async def commit(self, batch: CacheBatch) -> None:
        """Apply *batch* in one transaction; waits until it is synced."""
        operations = batch.operations()
        if operations:
            await self._env.write(lambda txn: self._apply(txn, operations), rows=_rows(operations))

    def commit_soon(self, batch: CacheBatch) -> None:
        """Apply *batch* with the next group commit; does not wait (see `Writer.write_soon`)."""
        operations = batch.operations()
        if operations:
            self._env.write_soon(lambda txn: self._apply(txn, operations), rows=_rows(operations))

    def _apply(self, txn: Transaction, operations: tuple[Operation, ...]) -> None:
        files, present, overhead = before = _totals(txn, self._totals)
        for what, ino, record, rows, last_used_s in operations:
            known = txn.get(ino, db=self._files)
            if what == _PUT_FILE:
                held = 0 if known is None else _present(known)
                files += known is None
                overhead += _overhead(record) - (0 if known is None else _overhead(known))
                txn.put(ino, _patch(record, _PRESENT_AT, held), db=self._files)
            elif known is None:
                continue
            elif what == _TOUCH:
                if last_used_s > schema.U64.unpack_from(known, _LAST_USED_AT)[0]:
                    txn.put(ino, _patch(known, _LAST_USED_AT, last_used_s), db=self._files)
            elif what == _DROP_FILE:
                files -= 1
                present -= _present(known)
                overhead -= _overhead(known)
                for key in [key for key, _ in _blocks_of(txn, self._blocks, ino)]:
                    txn.delete(key, db=self._blocks)
                txn.delete(ino, db=self._files)
            else:
                change = self._change_blocks(txn, what, rows)
                if change:
                    present += change
                    known = _patch(known, _PRESENT_AT, _present(known) + change)
                    txn.put(ino, known, db=self._files)
        after = Totals(files, present, overhead)
        if after != before:
            txn.put(schema.TOTALS_KEY, schema.TOTALS.pack(*after), db=self._totals)

    def _change_blocks(
        self, txn: Transaction, what: int, rows: tuple[tuple[bytes, bytes], ...]
    ) -> int:
        """Put or drop *rows*; by how many bytes the file grew."""
        change = 0
        for key, value in rows:
            if what == _PUT_BLOCKS:
                previous = txn.replace(key, value, db=self._blocks)
                change += _u32_at(value)[0]
            else:
                previous = txn.pop(key, db=self._blocks)
            if previous is not None:
                change -= _u32_at(previous)[0]
        return change


def _blocks_of(
    txn: Transaction, database: _Database, ino: bytes, first: int = 0
) -> Iterable[tuple[bytes, bytes]]:
    cursor = txn.cursor(database)
    if cursor.set_range(ino + first.to_bytes(4, "big")):
        for key, value in cursor.iternext():
            if not key.startswith(ino):
                return
            yield key, value


def _totals(txn: Transaction, database: _Database) -> Totals:
    value = txn.get(schema.TOTALS_KEY, db=database)
    return Totals(0, 0, 0) if value is None else Totals._make(schema.TOTALS.unpack(value))


def _present(record: bytes) -> int:
    (present,) = schema.U64.unpack_from(record, _PRESENT_AT)
    return int(present)


def _overhead(record: bytes) -> int:
    (size,) = schema.U64.unpack_from(record, _SIZE_AT)
    return overhead_bytes(size)


def _patch(record: bytes, at: int, value: int) -> bytes:
    return record[:at] + schema.U64.pack(value) + record[at + 8 :]


def _rows(operations: tuple[Operation, ...]) -> int:
    return sum(1 + len(operation[3]) for operation in operations)
