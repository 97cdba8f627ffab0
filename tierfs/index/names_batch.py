"""Changes to the names environment, as callers make them. `tierfs.index.names_apply` carries them
out.

A batch is packed on the caller's thread into tuples of bytes and numbers, which alone cross to the
writing thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol, TypeAlias

from tierfs.errors import InvalidRequest
from tierfs.index import schema
from tierfs.index.records import Hidden, Inode, Listing, ObjectRef

#: (what, ino or directory, name or key, then what the operation needs, packed)
Operation: TypeAlias = "tuple[int, int, bytes, int, bytes, bytes | None, bytes | PageRows]"
Row: TypeAlias = "tuple[bytes, bytes]"


class PageRows(Protocol):
    """The rows of new files of one directory, each table's in the order of its keys."""

    def inodes(self) -> Iterator[Row]: ...
    def dentries(self) -> Iterator[Row]: ...
    def children(self) -> Iterator[Row]: ...
    def objects(self) -> Iterator[Row]: ...


class Op:
    """What an operation does. Plain numbers: a listing makes a thousand at a time."""

    PUT_ENTRY: Final = 0
    TOUCH: Final = 1
    REMOVE: Final = 2
    PUT_INODE: Final = 3
    PUT_OBJECT: Final = 4
    PUT_LISTING: Final = 5
    PUT_HIDDEN: Final = 6
    CLEAR_HIDDEN: Final = 7
    PUT_PAGE: Final = 8


class NamesBatch:
    """Operations for one transaction, applied in the order in which they were added."""

    __slots__ = ("_operations", "_packed")

    def __init__(self) -> None:
        self._operations: list[Operation] = []
        self._packed = 0

    def __len__(self) -> int:
        return len(self._operations)

    @property
    def rows(self) -> int:
        """About how many rows it touches."""
        return 4 * (len(self._operations) + self._packed)

    def operations(self) -> tuple[Operation, ...]:
        """What was added so far, for the writing thread."""
        return tuple(self._operations)

    def put_entry(
        self,
        parent: int,
        name: bytes,
        ino: int,
        inode: Inode,
        ref: ObjectRef | None,
        checked_ns: int,
    ) -> None:
        """Entry *name* of *parent* is *ino*, which is *inode* and, for a file, has its bytes at
        *ref*.

        An entry that was another inode number replaces it, with all that was below it. An *ino*
        that has another name moves, with all that is below it. ``inode.parent`` must be *parent*.
        Raises InvalidRequest for a name that no directory can hold.
        """
        if not 0 < len(name) <= schema.NAME_MAX or b"/" in name or b"\0" in name:
            raise InvalidRequest("put a directory entry", name, "1 to 255 bytes, no / and no NUL")
        if inode.parent != parent:
            raise InvalidRequest("put a directory entry", name, "the inode names another parent")
        self._operations.append(
            (
                Op.PUT_ENTRY,
                parent,
                name,
                ino,
                schema.pack_inode(inode),
                None if ref is None else schema.pack_object(ref),
                schema.pack_dentry(ino, inode.kind, checked_ns),
            )
        )

    def put_page(self, parent: int, rows: PageRows, count: int) -> None:
        """*rows* are *count* new entries of *parent*, packed (`tierfs.index.schema`): names that it
        does not have and inode numbers that nobody has."""
        self._operations.append((Op.PUT_PAGE, parent, b"", 0, b"", None, rows))
        self._packed += count

    def touch(self, parent: int, name: bytes, checked_ns: int) -> None:
        """The lake confirmed the entry at *checked_ns*. An entry that is not there stays so."""
        self._operations.append((Op.TOUCH, parent, name, checked_ns, b"", None, b""))

    def remove_entry(self, parent: int, name: bytes) -> None:
        """Forget the entry, its inode and object and all below it. Nothing when it is not there."""
        self._operations.append((Op.REMOVE, parent, name, 0, b"", None, b""))

    def put_inode(self, ino: int, inode: Inode) -> None:
        """Change the attributes of an inode that has an entry, or make the root.

        The entry's place (``parent``) stays what it is. An *ino* that is not there raises NotFound
        at the commit.
        """
        self._operations.append((Op.PUT_INODE, ino, b"", 0, schema.pack_inode(inode), None, b""))

    def put_object(self, ino: int, ref: ObjectRef) -> None:
        """Change where the bytes of a file are. NotFound at the commit when it is not there."""
        self._operations.append((Op.PUT_OBJECT, ino, b"", 0, schema.pack_object(ref), None, b""))

    def put_listing(self, ino: int, listing: Listing) -> None:
        """Record how much of a directory is known. NotFound at the commit when it is not there."""
        self._operations.append(
            (Op.PUT_LISTING, ino, b"", 0, schema.pack_listing(listing), None, b"")
        )

    def put_hidden(self, hidden: Hidden) -> None:
        """An object under the directory cannot be shown. One record for each key."""
        value = schema.pack_hidden(hidden)
        key = schema.pack_hidden_key(hidden.directory, hidden.key)
        self._operations.append((Op.PUT_HIDDEN, hidden.directory, key, 0, value, None, b""))

    def clear_hidden(self, directory: int) -> None:
        """Forget what was hidden under the directory (before a listing says it anew)."""
        self._operations.append((Op.CLEAR_HIDDEN, directory, b"", 0, b"", None, b""))
