"""Pages of a listing in compiled code (``native/listing``): parsed, and packed as rows of the
index, without an object of Python's for each key. Not there where tierfs was installed without
Rust."""

from collections.abc import Iterator
from typing import final

#: What this is; `tierfs.lake.s3_listing` uses no other.
INTERFACE: int

@final
class Page:
    """The objects of one page, in the order in which they came. *start* is how many bytes of each
    key are the directory's; `find`, `open` and `rows` are for a page whose keys `are_names`."""

    def __len__(self) -> int: ...
    @property
    def next_token(self) -> bytes | None: ...
    @property
    def prefixes(self) -> list[bytes]: ...
    def object(self, n: int) -> tuple[bytes, int, int, bytes, bool, bool]:
        """Key, size in bytes, time in ns, ETag, archived, has_checksum of object *n*."""

    def ends(self) -> tuple[bytes, bytes]:
        """The first and the last key; there is one."""

    def are_names(self, prefix: bytes) -> bool:
        """Whether all keys are names of entries of the directory *prefix*, in order."""

    def names(self, start: int) -> list[bytes]:
        """The names, in order."""

    def find(self, key: bytes) -> int | None:
        """Which object has *key*."""

    def open(self, last: bytes) -> list[int]:
        """The objects that a directory may hide which comes after the key *last*."""

    def rows(self, start: int, parent: int, ino: int, checked_ns: int, without: list[int]) -> Rows:
        """Rows for all objects but those of *without* (ascending), as new files of *parent* with
        inode numbers from *ino* on."""

@final
class Rows:
    """Rows of the tables of `tierfs.index.schema`, made as they are asked for, each table's in the
    order of its keys."""

    def inodes(self) -> Iterator[tuple[bytes, bytes]]: ...
    def dentries(self) -> Iterator[tuple[bytes, bytes]]: ...
    def children(self) -> Iterator[tuple[bytes, bytes]]: ...
    def objects(self) -> Iterator[tuple[bytes, bytes]]: ...

def parse(body: bytes, root: bytes, asked: bytes | None) -> Page | None:
    """The page that *body* is, an answer to ListObjectsV2 that was asked for with the token
    *asked*, keys without *root*; None where it does not say so plainly."""
