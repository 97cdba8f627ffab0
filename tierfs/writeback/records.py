"""The records of the journal as Python values, and their bytes.

Databases of ``journal/``, beside ``reservations`` (`tierfs.index.schema` has the conventions)::

    nodes      key 0 8 ino
               0  1  kind      1  1  flags (Flag)    2  2  permission bits
               4  4  uid       8  4  gid            12  4  reserved
               16 8  size      24 8  mtime_ns       32 8  ctime_ns      40 8  lsn
               48 8  content   56 8  parent         64 2  name length   66 2  target length
               68 2  key length                     70 2  etag length
               72 .  name, target of a symbolic link, key and etag of the object it came from
    entries    key 0 8 parent ino   8 . name (1 to 255 bytes)
               0  8  ino (0: the name is absent, whatever the lake has)
    children   key 0 8 parent ino   8 8 ino
               0  .  name
    log        key 0 8 lsn
               0  1  op        1  1  state          2  2  base (Base)
               4  2  flags (1 synced, 2 was present, 4 renamed)
               6  2  target length
               8  8  ino       16 8  size           24 8  begun_ns
               32 8  boot id       40 8  parent ino of the name that goes    48 8  content
               56 8  earlier lsn of the path
               64 2  root length   66 2  path length   68 2  other path length   70 2  etag length
               72 .  root, path, other path, etag, target of a symbolic link
    contents   key 0 8 ino   8 8 content
               0  8  how many entries of the log have it
    parts      key 0 8 lsn   8 4 part number (0: the upload itself)
               0  8  size      8  8  crc64nvme      16 .  etag
               number 0: 0 8 size of a part   8 8 length of the upload id   16 . upload id, key
    intents    key 0 8 when a multipart upload was asked for, in ns   8 8 lsn
               0  .  key of the object; the answer is not known, or may not be the only one
    xattrs     key 0 8 ino   8 . name of an extended attribute
               0  .  value
    heads      key 0 16 xxh3-128 of a path
               0  8  the last lsn that changes it   8  8  whether something is there after that
               16 .  etag of what is there now
    replies    key 0 8 a number, ascending
               0 16 the mount     16 8 unique of a request of the kernel's   24 8 ino that it made
    state      key "lsn"     0 8 the next lsn
               key "mount"   0 16 a random number: what our objects are known by
               key "boot"    0 8 the boot id at the last start
               key "tail", a zero byte and a root     0 8 the last lsn of its log
               key "frozen", a zero byte and a root   0 8 lsn   8 . why it goes no further
"""

from __future__ import annotations

import enum
import functools
from struct import Struct
from typing import Final, NamedTuple

from tierfs.index.records import Kind


class Flag:
    """What is special about a node. Plain numbers: every decision looks at some."""

    NONE: Final = 0
    #: It has no name any more, and goes when the last handle does.
    UNLINKED: Final = 1
    #: Its name, or that of a directory above it, is temporary: closed, and in no log.
    HELD: Final = 2
    #: A directory of which the lake knows nothing that the journal does not.
    FRESH: Final = 4
    #: Its bytes are an object of the lake (key and etag), not a staging file.
    REMOTE: Final = 8
    #: All that the journal knows of it is in the lake.
    PUBLISHED: Final = 16
    #: Its content was known to be on the disk when it was closed.
    SYNCED: Final = 32
    #: It was not, and the machine was started anew since: its content may not be what was closed.
    DOUBTFUL: Final = 64
    #: Another writer's version is in its place. Somebody has it open, and it goes when the last
    #: handle does, unless it is closed with something new before that.
    LOST: Final = 128


class Node(NamedTuple):
    """``nodes``: ino -> this. *lsn* is that of the last commit point, 0 before the first, *content*
    that of the close that made its content what it is; *size* and the times are as of then. *mode*
    has the permission bits; *key* and *etag* are the object that was, or is, in the lake under that
    name."""

    kind: Kind
    flags: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    ctime_ns: int
    lsn: int
    content: int
    parent: int
    name: bytes
    target: bytes = b""
    key: bytes = b""
    etag: bytes = b""

    @property
    def is_copy(self) -> bool:
        """Whether it is a file of the lake's that was made ready to be written to, and was not
        closed since with anything new."""
        return bool(self.etag) and not self.lsn and not self.flags & Flag.REMOTE

    @property
    def is_passing(self) -> bool:
        """Whether it goes when nobody has it open any more."""
        return bool(self.flags & (Flag.UNLINKED | Flag.LOST))

    def marked(self, flag: int) -> Node:
        """With *flag*."""
        return self._replace(flags=self.flags | flag)

    def unmarked(self, flag: int) -> Node:
        """Without *flag*."""
        return self._replace(flags=self.flags & ~flag)


class Op(enum.IntEnum):
    """What the lake is to be told. Values are stored on disk; never renumber."""

    PUT = 1
    DELETE = 2
    MAKE_DIRECTORY = 3
    REMOVE_DIRECTORY = 4
    LINK = 5
    MOVE = 6
    ATTRIBUTES = 7
    COPY = 8


class State(enum.IntEnum):
    """How far an entry of the log is. Values are stored on disk; never renumber."""

    PENDING = 0
    #: The request that makes it visible may be under way: nothing about it changes any more.
    PUBLISHING = 1


class Base(enum.IntEnum):
    """What the lake is taken to have at a path before an entry. Values are stored on disk."""

    ABSENT = 0
    VERSION = 1
    #: What an earlier entry of the log has put there (`heads`).
    OURS = 2


class Entry(NamedTuple):
    """``log``: lsn -> this. *other* is the source of a MOVE or a COPY, *etag* the version that
    *base* means; *synced*: the bytes were known to be on the disk; *boot* is the boot during which
    it was written; *parent* is the directory that the name which goes (of a DELETE, a
    REMOVE_DIRECTORY, the source of a MOVE) was in; *content* says which of *ino*'s a PUT is to
    bring. *earlier* and *was_present* are what `heads` had of the path before. *renamed*: its path
    was given to it by a rename, which put all before it in the past (O1), or taken by one. *target*
    is what a LINK says; empty: it was written by a tierfs that left it to the node."""

    op: Op
    state: State
    base: Base
    synced: bool
    ino: int
    size: int
    begun_ns: int
    boot: bytes
    parent: int
    content: int
    root: bytes
    path: bytes
    other: bytes = b""
    etag: bytes = b""
    earlier: int = 0
    was_present: bool = False
    renamed: bool = False
    target: bytes = b""


_NODE = Struct("<BBHII4xQqqQQQHHHH")
_ENTRY = Struct("<BBHHHQQq8sQQQHHHH")
_PART = Struct("<QQ")
_KINDS: dict[int, Kind] = {kind.value: kind for kind in Kind}


def pack_node(node: Node) -> bytes:
    """``nodes`` value."""
    head = _NODE.pack(
        node.kind,
        node.flags,
        node.mode,
        node.uid,
        node.gid,
        node.size,
        node.mtime_ns,
        node.ctime_ns,
        node.lsn,
        node.content,
        node.parent,
        len(node.name),
        len(node.target),
        len(node.key),
        len(node.etag),
    )
    return head + node.name + node.target + node.key + node.etag


def flags_of(value: bytes) -> int:
    """The flags of a ``nodes`` value, for who looks at many of them."""
    return value[1]


@functools.lru_cache(maxsize=4096)
def unpack_node(value: bytes) -> Node:
    """``nodes`` value back. Of directories in which something is made, the same ones again and
    again."""
    kind, flags, mode, uid, gid, *numbers = _NODE.unpack_from(value)
    tails = _tails(value, _NODE.size, *numbers[-4:])
    return Node(_KINDS[kind], flags, mode, uid, gid, *numbers[:-4], *tails)


def pack_entry(entry: Entry) -> bytes:
    """``log`` value."""
    tails = (entry.root, entry.path, entry.other, entry.etag)
    head = _ENTRY.pack(
        entry.op,
        entry.state,
        entry.base,
        entry.synced | entry.was_present << 1 | entry.renamed << 2,
        len(entry.target),
        entry.ino,
        entry.size,
        entry.begun_ns,
        entry.boot,
        entry.parent,
        entry.content,
        entry.earlier,
        *map(len, tails),
    )
    return head + b"".join(tails) + entry.target


def unpack_entry(value: bytes) -> Entry:
    """``log`` value back."""
    (
        op, state, base, flags, target_length, ino, size, begun_ns, boot, parent, content, earlier,
        *lengths,
    ) = _ENTRY.unpack_from(value)  # fmt: skip
    root, path, other, etag, target = _tails(value, _ENTRY.size, *lengths, target_length)
    return Entry(
        Op(op), State(state), Base(base), bool(flags & 1), ino, size, begun_ns, boot, parent,
        content, root, path, other, etag, earlier, bool(flags & 2), bool(flags & 4), target,
    )  # fmt: skip


def pack_part(size: int, crc64nvme: int, etag: bytes) -> bytes:
    """``parts`` value."""
    return _PART.pack(size, crc64nvme) + etag


def unpack_part(value: bytes) -> tuple[int, int, bytes]:
    """``parts`` value back: ``(size, crc64nvme, etag)``."""
    size, crc64nvme = _PART.unpack_from(value)
    return size, crc64nvme, value[_PART.size :]


def _tails(value: bytes, at: int, *lengths: int) -> list[bytes]:
    tails = []
    for length in lengths:
        tails.append(value[at : at + length])
        at += length
    return tails
