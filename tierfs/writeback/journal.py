"""The journal: what was acknowledged and is not yet in the lake, in LMDB.

Reads are plain calls of a few microseconds. Changes are functions of a `Work`, one transaction in
the environment's writing thread (`tierfs.index.writer`): they are applied in the order in which
they were queued, all or not at all, and whoever waits for one sees it synced to the disk. So a
decision (is the name taken? is the directory empty?) is made where its effect is written, and there
is no second copy of the truth that a failed commit could leave behind.

Invariants, true after every commit:

J1. An lsn is given out once, ascending; ``log`` holds those that the lake does not show yet.
J2. A node that is not UNLINKED has exactly one row in ``entries`` and one in ``children``, and they
    agree with its parent and name.
J3. An entry of the log that is PUBLISHING is changed by nobody but the publisher.
J4. ``heads`` has a row for each path that an entry of the log names, and what it says of the path
    is what the lake has after all entries that were published.
J5. ``contents`` counts the PUTs of the log by the content that they bring.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Container, Iterator, Mapping
from itertools import islice
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from xxhash import xxh3_128_digest

from tierfs.index.environments import Environment
from tierfs.index.schema import WRITE_BACK_DATABASES
from tierfs.index.writer import Transaction
from tierfs.writeback.records import (
    Entry,
    Node,
    Op,
    State,
    flags_of,
    pack_entry,
    pack_node,
    pack_part,
    unpack_entry,
    unpack_node,
    unpack_part,
)

if TYPE_CHECKING:
    from lmdb import _Database

T = TypeVar("T")

_U64_KEY = Struct(">Q")
_PAIR_KEY = Struct(">QQ")
_PART_KEY = Struct(">QI")
_HEAD = Struct("<QQ")
_LSN, _MOUNT, _BOOT, _SERVED = b"lsn", b"mount", b"boot", b"served"
_TAIL, _FROZEN = b"tail\0", b"frozen\0"
_REPLY = Struct("<16sQQ")
#: Requests that are remembered: far more than a kernel has waiting at one time.
MOST_REPLIES = 4096
#: The first lsn: 0 stands for none.
_FIRST_LSN = 1


class Head(NamedTuple):
    """``heads``: a path -> this. *last* is the last lsn that changes it, *present* whether there is
    something after that; *etag* is what the lake has there now (empty: nothing)."""

    last: int
    present: bool
    etag: bytes


class Staged(NamedTuple):
    """A part of a multipart upload that the lake has."""

    number: int
    size: int
    crc64nvme: int
    etag: bytes


class Work:
    """One transaction: what it reads is what it has written so far."""

    __slots__ = ("_dbs", "_txn")

    def __init__(self, txn: Transaction, databases: Mapping[str, _Database]) -> None:
        self._txn = txn
        self._dbs = databases

    def _under(self, database: str, prefix: bytes, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The rows of *database* whose keys begin with *prefix*, from the key *start* on."""
        cursor = self._txn.cursor(self._dbs[database])
        if cursor.set_range(start):
            for key, value in cursor.iternext():
                if not key.startswith(prefix):
                    return
                yield key, value

    # Nodes and names.

    def node(self, ino: int) -> Node | None:
        """The record of *ino*, or None."""
        value = self._txn.get(_U64_KEY.pack(ino), db=self._dbs["nodes"])
        return None if value is None else unpack_node(value)

    def put_node(self, ino: int, node: Node) -> None:
        """Record *node* under *ino*; its name is `link`'s matter."""
        self._txn.put(_U64_KEY.pack(ino), pack_node(node), db=self._dbs["nodes"])

    def drop_node(self, ino: int) -> None:
        """Forget *ino*, which has no name."""
        self._txn.delete(_U64_KEY.pack(ino), db=self._dbs["nodes"])

    def ino_of(self, parent: int, name: bytes) -> int | None:
        """The inode that *name* in *parent* is; 0: absent, whatever the lake has; None: the lake
        decides."""
        value = self._txn.get(_U64_KEY.pack(parent) + name, db=self._dbs["entries"])
        return None if value is None else int(_U64_KEY.unpack(value)[0])

    def link(self, parent: int, name: bytes, ino: int) -> None:
        """*name* in *parent* is *ino* from now on."""
        self.unlink(parent, name)
        self._txn.put(_U64_KEY.pack(parent) + name, _U64_KEY.pack(ino), db=self._dbs["entries"])
        self._txn.put(_PAIR_KEY.pack(parent, ino), name, db=self._dbs["children"])

    def unlink(self, parent: int, name: bytes) -> None:
        """Nothing is known of *name* in *parent* here any more: the lake decides."""
        value = self._txn.pop(_U64_KEY.pack(parent) + name, db=self._dbs["entries"])
        if value is not None and value != bytes(8):
            self._txn.delete(_U64_KEY.pack(parent) + value, db=self._dbs["children"])

    def white_out(self, parent: int, name: bytes) -> None:
        """*name* in *parent* is absent, whatever the lake has."""
        self.unlink(parent, name)
        self._txn.put(_U64_KEY.pack(parent) + name, bytes(8), db=self._dbs["entries"])

    def white_outs(self) -> Iterator[tuple[int, bytes]]:
        """``(parent, name)`` of every name that is absent whatever the lake has."""
        for key, value in self._txn.cursor(self._dbs["entries"]).iternext():
            if value == bytes(8):
                yield _U64_KEY.unpack_from(key)[0], key[8:]

    def children(self, parent: int, after_ino: int = 0) -> Iterator[tuple[int, bytes]]:
        """``(ino, name)`` of the entries of *parent*, by inode number over *after_ino*."""
        start = _PAIR_KEY.pack(parent, after_ino + 1)
        for key, name in self._under("children", _U64_KEY.pack(parent), start):
            yield _PAIR_KEY.unpack(key)[1], name

    def nodes(self) -> Iterator[tuple[int, Node]]:
        """Every node, by inode number."""
        for key, value in self._txn.cursor(self._dbs["nodes"]).iternext():
            yield _U64_KEY.unpack(key)[0], unpack_node(value)

    def flagged(self, flag: int, after_ino: int, rows: int) -> tuple[list[int], int | None]:
        """Of the next *rows* nodes with inode numbers over *after_ino* those that have *flag*, and
        the number of the last one looked at; None where there are no more."""
        found: list[int] = []
        cursor = self._txn.cursor(self._dbs["nodes"])
        if not cursor.set_range(_U64_KEY.pack(after_ino + 1)):
            return found, None
        last = b""
        for key, value in islice(cursor.iternext(), rows):
            last = key
            if flags_of(value) & flag:
                found.append(_U64_KEY.unpack(key)[0])
        return found, _U64_KEY.unpack(last)[0]

    def count_nodes(self) -> int:
        """How many nodes there are."""
        return int(self._txn.stat(self._dbs["nodes"])["entries"])

    # Extended attributes, also of files that the journal knows nothing else of.

    def xattr(self, ino: int, name: bytes) -> bytes | None:
        """The extended attribute *name* of *ino*, or None."""
        return self._txn.get(_U64_KEY.pack(ino) + name, db=self._dbs["xattrs"])

    def put_xattr(self, ino: int, name: bytes, value: bytes) -> None:
        """Set the extended attribute *name* of *ino*."""
        self._txn.put(_U64_KEY.pack(ino) + name, value, db=self._dbs["xattrs"])

    def drop_xattr(self, ino: int, name: bytes) -> bool:
        """Remove it; whether it was there."""
        return bool(self._txn.delete(_U64_KEY.pack(ino) + name, db=self._dbs["xattrs"]))

    def xattrs(self, ino: int) -> list[bytes]:
        """The names of the extended attributes of *ino*."""
        prefix = _U64_KEY.pack(ino)
        return [key[8:] for key, _ in self._under("xattrs", prefix, prefix)]

    def drop_xattrs(self, ino: int) -> None:
        """*ino* is gone for good."""
        for name in self.xattrs(ino):
            self.drop_xattr(ino, name)

    # The log.

    def take_lsn(self) -> int:
        """The next lsn (J1)."""
        lsn = self.next_lsn()
        self._txn.put(_LSN, _U64_KEY.pack(lsn + 1), db=self._dbs["state"])
        return lsn

    def next_lsn(self) -> int:
        """What `take_lsn` would give."""
        value = self._txn.get(_LSN, db=self._dbs["state"])
        return _FIRST_LSN if value is None else int(_U64_KEY.unpack(value)[0])

    def append(self, entry: Entry) -> int:
        """Put *entry* at the end of the log of its root; returns its lsn. A PUT that says nothing
        of its content brings one that is as new as itself."""
        lsn = self.take_lsn()
        if entry.op is Op.PUT:
            entry = entry._replace(content=entry.content or lsn)
            self._count_content(entry.ino, entry.content, 1)
        self.put_entry(lsn, entry)
        self.put_tail(entry.root, lsn)
        return lsn

    def put_entry(self, lsn: int, entry: Entry) -> None:
        """Change what the log says at *lsn*."""
        self._txn.put(_U64_KEY.pack(lsn), pack_entry(entry), db=self._dbs["log"])

    def bring(self, lsn: int, entry: Entry) -> None:
        """The log says *entry* at *lsn*, where it said something that brings no content."""
        if entry.op is Op.PUT:
            self._count_content(entry.ino, entry.content, 1)
        self.put_entry(lsn, entry)

    def entry(self, lsn: int) -> Entry | None:
        """What the log says at *lsn*, or None: it is in the lake, or was given up."""
        value = self._txn.get(_U64_KEY.pack(lsn), db=self._dbs["log"])
        return None if value is None else unpack_entry(value)

    def drop_entry(self, lsn: int) -> None:
        """Take *lsn* out of the log. What was uploaded for it is `abandoned`, if it was not
        published."""
        entry = self.entry(lsn)
        if entry is not None and entry.op is Op.PUT:
            self._count_content(entry.ino, entry.content, -1)
        self._txn.delete(_U64_KEY.pack(lsn), db=self._dbs["log"])

    def is_wanted(self, ino: int, content: int) -> bool:
        """Whether an entry of the log is to bring *content* of *ino* into the lake (J5)."""
        return self._txn.get(_PAIR_KEY.pack(ino, content), db=self._dbs["contents"]) is not None

    def contents_wanted(self, ino: int) -> Iterator[int]:
        """The contents of *ino* that entries of the log are to bring into the lake."""
        prefix = _U64_KEY.pack(ino)
        for key, _ in self._under("contents", prefix, prefix):
            yield _PAIR_KEY.unpack(key)[1]

    def _count_content(self, ino: int, content: int, change: int) -> None:
        key = _PAIR_KEY.pack(ino, content)
        value = self._txn.get(key, db=self._dbs["contents"])
        count = change + (0 if value is None else int(_U64_KEY.unpack(value)[0]))
        if count > 0:
            self._txn.put(key, _U64_KEY.pack(count), db=self._dbs["contents"])
        else:
            self._txn.delete(key, db=self._dbs["contents"])

    def tail(self, root: bytes) -> int:
        """The last lsn that was given to a change of *root*, or 0."""
        value = self._txn.get(_TAIL + root, db=self._dbs["state"])
        return 0 if value is None else int(_U64_KEY.unpack(value)[0])

    def put_tail(self, root: bytes, lsn: int) -> None:
        """Note that *lsn* is the last of *root*."""
        self._txn.put(_TAIL + root, _U64_KEY.pack(lsn), db=self._dbs["state"])

    def drop_tail(self, root: bytes) -> None:
        """Nothing is of *root* any more."""
        self._txn.delete(_TAIL + root, db=self._dbs["state"])

    def last_pending(self, root: bytes) -> tuple[int, Entry] | None:
        """The last entry of the log of *root*, unless it is published or about to be."""
        lsn = self.tail(root)
        entry = self.entry(lsn)
        return (lsn, entry) if entry is not None and entry.state is State.PENDING else None

    def log(self, after_lsn: int = 0) -> Iterator[tuple[int, Entry]]:
        """The log after *after_lsn*."""
        cursor = self._txn.cursor(self._dbs["log"])
        if cursor.set_range(_U64_KEY.pack(after_lsn + 1)):
            for key, value in cursor.iternext():
                yield _U64_KEY.unpack(key)[0], unpack_entry(value)

    def count_log(self) -> int:
        """How many entries the log has."""
        return int(self._txn.stat(self._dbs["log"])["entries"])

    # Paths as the lake has them.

    def head(self, path: bytes) -> Head | None:
        """What is known of *path* beyond the lake's own word, or None."""
        value = self._txn.get(xxh3_128_digest(path), db=self._dbs["heads"])
        if value is None:
            return None
        last, present = _HEAD.unpack_from(value)
        return Head(last, bool(present), value[_HEAD.size :])

    def put_head(self, path: bytes, head: Head) -> None:
        """Record *head* of *path*."""
        value = _HEAD.pack(head.last, head.present) + head.etag
        self._txn.put(xxh3_128_digest(path), value, db=self._dbs["heads"])

    def is_pending(self, path: bytes) -> bool:
        """Whether anything is known of *path*, as a file or as a directory, beyond the lake's own
        word: they have a head each."""
        stem = path.rstrip(b"/")
        return self.head(stem) is not None or self.head(stem + b"/") is not None

    def is_done(self, path: bytes) -> bool:
        """Whether *path* is known to be absent from the lake, with nothing later to come."""
        head = self.head(path)
        return head is not None and not head.present and self.entry(head.last) is None

    def drop_head(self, path: bytes) -> None:
        """From now on the lake's own word is all there is of *path*."""
        self._txn.delete(xxh3_128_digest(path), db=self._dbs["heads"])

    # Uploads.

    def put_upload(self, lsn: int, key: bytes, upload_id: bytes, part_bytes: int) -> None:
        """*lsn* is uploaded to *key* in parts of *part_bytes*; nothing of it was sent yet."""
        self.drop_parts(lsn)
        value = pack_part(part_bytes, len(upload_id), upload_id + key)
        self._txn.put(_PART_KEY.pack(lsn, 0), value, db=self._dbs["parts"])

    def upload(self, lsn: int) -> tuple[bytes, bytes, int] | None:
        """Key and id of the upload of *lsn*, and the size of its parts; or None."""
        value = self._txn.get(_PART_KEY.pack(lsn, 0), db=self._dbs["parts"])
        return None if value is None else _unpack_upload(value)

    def is_begun(self, lsn: int) -> bool:
        """Whether the lake was asked for an upload of *lsn*, which has the attributes of then."""
        asked = self._txn.cursor(self._dbs["intents"]).iternext(values=False)
        return self.upload(lsn) is not None or any(_PAIR_KEY.unpack(key)[1] == lsn for key in asked)

    def put_part(self, lsn: int, part: Staged) -> None:
        """The lake has *part* of the upload of *lsn*."""
        value = pack_part(part.size, part.crc64nvme, part.etag)
        self._txn.put(_PART_KEY.pack(lsn, part.number), value, db=self._dbs["parts"])

    def parts(self, lsn: int) -> list[Staged]:
        """The parts of *lsn* that the lake has, by number."""
        return [
            Staged(_PART_KEY.unpack(key)[1], *unpack_part(value))
            for key, value in self._under("parts", _U64_KEY.pack(lsn), _PART_KEY.pack(lsn, 1))
        ]

    def sent_bytes(self) -> dict[int, int]:
        """How much of each upload the lake has, by lsn."""
        found: dict[int, int] = {}
        for key, value in self._txn.cursor(self._dbs["parts"]).iternext():
            lsn, number = _PART_KEY.unpack(key)
            if number:
                found[lsn] = found.get(lsn, 0) + unpack_part(value)[0]
        return found

    def drop_parts(self, lsn: int) -> None:
        """Nothing is uploaded for *lsn*."""
        prefix = _U64_KEY.pack(lsn)
        for key in [key for key, _ in self._under("parts", prefix, prefix)]:
            self._txn.delete(key, db=self._dbs["parts"])

    def abandoned(self) -> list[tuple[int, bytes, bytes]]:
        """``(lsn, key, upload id)`` of uploads of what is no longer in the log."""
        found, lsn = [], 0
        cursor = self._txn.cursor(self._dbs["parts"])
        # From upload to upload, not over all their parts.
        while cursor.set_range(_PART_KEY.pack(lsn, 0)):
            lsn = _PART_KEY.unpack(cursor.key())[0]
            if self.entry(lsn) is None:
                key, upload_id, _ = _unpack_upload(cursor.value())
                found.append((lsn, key, upload_id))
            lsn += 1
        return found

    def put_intent(self, asked_ns: int, lsn: int, key: bytes) -> None:
        """The lake is about to be asked for an upload to *key*."""
        self._txn.put(_PAIR_KEY.pack(asked_ns, lsn), key, db=self._dbs["intents"])

    def drop_intent(self, asked_ns: int, lsn: int) -> None:
        """What came of it is known."""
        self._txn.delete(_PAIR_KEY.pack(asked_ns, lsn), db=self._dbs["intents"])

    def intents(self) -> list[tuple[int, int, bytes]]:
        """``(asked_ns, lsn, key)`` of uploads of which nobody knows what came, from the oldest
        on."""
        rows = self._txn.cursor(self._dbs["intents"]).iternext()
        return [(*_PAIR_KEY.unpack(key), value) for key, value in rows]

    def upload_ids(self, key: bytes) -> set[bytes]:
        """The ids of all uploads to *key* that are known."""
        rows = self._txn.cursor(self._dbs["parts"]).iternext()
        uploads = (_unpack_upload(value) for row, value in rows if row[8:] == bytes(4))
        return {upload_id for target, upload_id, _ in uploads if target == key}

    # Roots that go no further.

    def freeze(self, root: bytes, lsn: int, why: bytes) -> None:
        """Nothing of *root* is published from *lsn* on, because of *why*."""
        self._txn.put(_FROZEN + root, _U64_KEY.pack(lsn) + why, db=self._dbs["state"])

    def thaw(self, root: bytes) -> None:
        """*root* goes on."""
        self._txn.delete(_FROZEN + root, db=self._dbs["state"])

    def frozen(self, root: bytes) -> tuple[int, bytes] | None:
        """Where and why *root* goes no further, or None."""
        value = self._txn.get(_FROZEN + root, db=self._dbs["state"])
        return None if value is None else (int(_U64_KEY.unpack_from(value)[0]), value[8:])

    def frozen_roots(self) -> list[bytes]:
        """The roots that go no further."""
        return [key[len(_FROZEN) :] for key, _ in self._under("state", _FROZEN, _FROZEN)]

    # Requests of the kernel's that were done.

    def put_reply(
        self, mount: bytes, unique: int, ino: int, *, waiting: Container[int] = ()
    ) -> None:
        """The request *unique* of the kernel's, on a mount (16 bytes), is done; it made *ino*, if
        that is not 0. The oldest is forgotten for it, unless whoever asked is *waiting* still."""
        replies = self._dbs["replies"]
        cursor = self._txn.cursor(replies)
        number = _U64_KEY.unpack(cursor.key())[0] + 1 if cursor.last() else 1
        self._txn.put(_U64_KEY.pack(number), _REPLY.pack(mount, unique, ino), db=replies)
        count, renewed = int(self._txn.stat(replies)["entries"]), 0
        while count > MOST_REPLIES + renewed:
            cursor = self._txn.cursor(replies)
            cursor.first()
            key, oldest = cursor.item()
            self._txn.delete(key, db=replies)
            if _REPLY.unpack(oldest)[1] in waiting:
                renewed += 1
                self._txn.put(_U64_KEY.pack(number + renewed), oldest, db=replies)
            else:
                count -= 1

    def replies(self, mount: bytes) -> dict[int, int]:
        """What was done on *mount*: the inode that was made, or 0, by the request's unique."""
        rows = (_REPLY.unpack(value) for _, value in self._under("replies", b"", b"\0"))
        return {unique: ino for of, unique, ino in rows if of == mount}

    def boot(self) -> bytes | None:
        """The boot during which this was opened last, or None."""
        return self._txn.get(_BOOT, db=self._dbs["state"])

    def put_boot(self, boot: bytes) -> None:
        """This is used during *boot* from now on."""
        self._txn.put(_BOOT, boot, db=self._dbs["state"])

    def served(self) -> bytes | None:
        """The mount (16 bytes) that was served last, or None."""
        return self._txn.get(_SERVED, db=self._dbs["state"])

    def put_served(self, mount: bytes) -> None:
        """The mount (16 bytes) is served from now on."""
        self._txn.put(_SERVED, mount, db=self._dbs["state"])

    def mount_id(self) -> bytes:
        """The random number that our objects are known by."""
        value = self._txn.get(_MOUNT, db=self._dbs["state"])
        if value is None:
            value = secrets.token_bytes(16)
            self._txn.put(_MOUNT, value, db=self._dbs["state"])
        return value


def _unpack_upload(value: bytes) -> tuple[bytes, bytes, int]:
    part_bytes, length, both = unpack_part(value)
    return both[length:], both[:length], part_bytes


class Journal:
    """The journal of one lake on one cache disk, in the environment *env*."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._dbs = {name: env.database(name) for name in WRITE_BACK_DATABASES}

    async def change(self, function: Callable[[Work], T], *, rows: int = 4) -> T:
        """Call *function* with a `Work` in the writing thread and wait until what it did is on the
        disk; what it raises is raised here, with nothing done. It may be called twice, so it has no
        effect outside of its `Work`."""
        return await self._env.write(lambda txn: function(Work(txn, self._dbs)), rows=rows)

    def read(self, function: Callable[[Work], T]) -> T:
        """The value of *function*, which only reads."""
        with self._env.read() as txn:
            return function(Work(txn, self._dbs))

    def node(self, ino: int) -> Node | None:
        """The record of *ino*, or None."""
        return self.read(lambda work: work.node(ino))

    def ino_of(self, parent: int, name: bytes) -> int | None:
        """See `Work.ino_of`."""
        return self.read(lambda work: work.ino_of(parent, name))

    def named(self, parent: int, name: bytes) -> tuple[int, Node] | int | None:
        """The inode and record of *name* in *parent*; 0: it is absent; None: the lake decides."""

        def look(work: Work) -> tuple[int, Node] | int | None:
            ino = work.ino_of(parent, name)
            if not ino:
                return ino
            node = work.node(ino)
            return None if node is None else (ino, node)

        return self.read(look)

    def children(self, parent: int, after_ino: int, limit: int) -> list[tuple[int, bytes, Node]]:
        """Up to *limit* entries of *parent* with inode numbers over *after_ino*, in their order."""

        def look(work: Work) -> list[tuple[int, bytes, Node]]:
            rows = islice(work.children(parent, after_ino), limit)
            found = [(ino, name, work.node(ino)) for ino, name in rows]
            return [(ino, name, node) for ino, name, node in found if node is not None]

        return self.read(look)

    def known(self, parent: int, names: list[bytes]) -> dict[bytes, int]:
        """Those of *names* in *parent* that are not the lake's to decide, and what they are."""

        def look(work: Work) -> dict[bytes, int]:
            found = {name: work.ino_of(parent, name) for name in names}
            return {name: ino for name, ino in found.items() if ino is not None}

        return self.read(look)
