"""What a check of the journal works with: the kinds of trouble, what is found, and records as they
are. See `tierfs.writeback.checks`.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from tierfs.index import schema
from tierfs.writeback.journal import Work
from tierfs.writeback.records import Op

#: How keys of ``state`` begin that name a root.
TAIL, FROZEN = b"tail\0", b"frozen\0"
_U64 = Struct(">Q")


class Trouble(enum.Enum):
    """The kinds, by the names that the table has."""

    JOURNAL = "journal that cannot be read"
    RECORD = "record that makes no sense"
    LSN = "lsn that was given out already"
    INODE = "inode number that was given out already"
    DANGLING = "name without a node"
    DISAGREE = "names that disagree"
    HOMELESS = "node without a directory"
    CONTENT = "content that is gone"
    LENGTH = "content of another length"
    FILE = "file without content"
    COUNT = "contents counted wrong"
    PARTS = "parts without an upload"
    HEAD = "path of the log without a head"
    TAIL = "end of a log that is not its end"


class Finding(NamedTuple):
    """One thing that is wrong: about which path, inode or record, and what. *mend* repairs it in
    one transaction; it looks again, because what was mended before may have repaired it, too.
    *homeless* are staging files (inode and content; content 0: the present one) that nobody will
    want after that. *kept* is what else is worth keeping, as text."""

    trouble: Trouble
    about: str
    what: str
    mend: Callable[[Records], object]
    homeless: tuple[tuple[int, int], ...] = ()
    kept: str = ""


@dataclass(frozen=True)
class Surroundings:
    """What is known beside the journal: the sizes of staging files by inode and content, the paths
    of the lake's directories (None: there is no such one), and this boot."""

    staged: Mapping[tuple[int, int], int]
    directory_path: Callable[[int], bytes | None]
    boot: bytes

    def place(self, ino: int, content: int) -> tuple[int, int] | None:
        """The staging file that a content is in, or None."""
        return next((key for key in ((ino, content), (ino, 0)) if key in self.staged), None)


class Records(Work):
    """A `Work` that also hands out records as they are."""

    def rows(self, database: str) -> Iterator[tuple[bytes, bytes]]:
        """All keys and values of *database*."""
        yield from self._txn.cursor(self._dbs[database]).iternext()

    def row(self, database: str, key: bytes) -> bytes:
        """One record as it is; nothing where there is none."""
        return self._txn.get(key, db=self._dbs[database]) or b""

    def drop_row(self, database: str, key: bytes) -> None:
        """Remove one record, whatever is in it."""
        self._txn.delete(key, db=self._dbs[database])

    def put_row(self, database: str, key: bytes, value: bytes) -> None:
        """Write one record as it is."""
        self._txn.put(key, value, db=self._dbs[database])

    def next_ino(self) -> int:
        """The first inode number that was never reserved."""
        value = self._txn.get(schema.INODES_KEY, db=self._dbs["reservations"])
        return 0 if value is None else int(schema.U64.unpack(value)[0])

    def put_next_ino(self, ino: int) -> None:
        """Inode numbers below *ino* were reserved."""
        self.put_row("reservations", schema.INODES_KEY, schema.U64.pack(ino))

    def tail(self, root: bytes) -> int:
        """The last lsn of the log of *root*, as it is noted; 0: none."""
        value = self._txn.get(TAIL + root, db=self._dbs["state"])
        return 0 if value is None else int(_U64.unpack(value)[0])

    def puts(self) -> dict[tuple[int, int], int]:
        """How many entries of the log bring which content of which inode."""
        return Counter((entry.ino, entry.content) for _, entry in self.log() if entry.op is Op.PUT)
