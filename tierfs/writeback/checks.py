"""What can be wrong with a journal and its staging directory, one function for each kind.

The table of all of it, with causes and repairs, is `README.md` beside this module. What every kill
may leave is not among it: that is settled at the next start (`tierfs.writeback.recovery`).

A `Finding` says what mends it. Mending never deletes bytes that were acknowledged: what has no
place any more is `Finding.homeless`, and is moved to ``lost+found`` before the journal forgets it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import chain
from struct import Struct
from struct import error as StructError

from tierfs.errors import show
from tierfs.index.records import ROOT_INO, Kind
from tierfs.index.schema import WRITE_BACK_DATABASES
from tierfs.writeback.conflicts import Conflicts
from tierfs.writeback.findings import FROZEN, TAIL, Finding, Records, Surroundings, Trouble
from tierfs.writeback.journal import Head
from tierfs.writeback.records import (
    Base,
    Entry,
    Flag,
    Node,
    Op,
    pack_entry,
    pack_node,
    unpack_entry,
    unpack_node,
    unpack_part,
)
from tierfs.writeback.recovery import missing_files
from tierfs.writeback.rules import Rules

_U64 = Struct(">Q")
_PAIR = Struct(">QQ")
_HEAD_BYTES = 16
_FIXED_STATE = {b"lsn": 8, b"mount": 16, b"boot": 8, b"served": 16}


def check(work: Records, around: Surroundings) -> list[Finding]:
    """All that is wrong. Where there are records that make no sense, only those: the rest is seen
    once they are gone."""
    found = list(_records(work, around))
    if found:
        return found
    for look in (_counters, _names, _homes, _contents, _files, _counts, _parts, _heads, _tails):
        found += look(work, around)
    return found


# ---- records -------------------------------------------------------------------------------------


def _sound(database: str, key: bytes, value: bytes) -> bool:
    """Whether a record is one that `tierfs.writeback.records` could have written."""
    try:
        match database:
            case "nodes":
                node = unpack_node(value)
                return len(key) == 8 and len(pack_node(node)) == len(value) and bool(node.name)
            case "log":
                return len(key) == 8 and len(pack_entry(unpack_entry(value))) == len(value)
            case "entries":
                return 9 <= len(key) <= 263 and len(value) == 8
            case "children":
                return len(key) == 16 and 1 <= len(value) <= 255
            case "contents":
                return len(key) == 16 and len(value) == 8
            case "parts":
                if len(key) != 12:
                    return False
                _, length, tail = unpack_part(value)
                return key[8:] != bytes(4) or length <= len(tail)
            case "intents":
                return len(key) == 16 and bool(value)
            case "replies":
                return len(key) == 8 and len(value) == 32
            case "xattrs":
                return len(key) > 8
            case "heads":
                return len(key) == 16 and len(value) >= _HEAD_BYTES
            case "state":
                if key.startswith(TAIL):
                    return len(value) == 8
                if key.startswith(FROZEN):
                    return len(value) >= 8
                return len(value) == _FIXED_STATE.get(key, len(value))
            case _:
                return True
    except (StructError, ValueError, KeyError):
        return False


def _records(work: Records, around: Surroundings) -> Iterator[Finding]:
    brought: set[tuple[int, int] | None] | None = None
    for database in WRITE_BACK_DATABASES:
        for key, value in work.rows(database):
            if not _sound(database, key, value):
                homeless: tuple[tuple[int, int], ...] = ()
                if database == "nodes" and len(key) == 8:
                    if brought is None:
                        brought = _brought(work, around)
                    file = (_U64.unpack(key)[0], 0)
                    homeless = (file,) if file not in brought else ()

                yield Finding(
                    Trouble.RECORD, f"{database} {key.hex()}", f"{len(value)} bytes",
                    partial(_drop, database=database, key=key),
                    homeless, kept=f"{database} {key.hex()} {value.hex()}",
                )  # fmt: skip


def _brought(work: Records, around: Surroundings) -> set[tuple[int, int] | None]:
    """The staging files that the log brings to the lake, whatever the nodes say."""
    return {
        around.place(entry.ino, entry.content)
        for _, entry in _readable_log(work)
        if entry.op is Op.PUT
    }


def _drop(work: Records, database: str, key: bytes) -> None:
    """Drop a record that makes no sense, unless one that does has taken its place since."""
    if _sound(database, key, work.row(database, key)):
        return
    work.drop_row(database, key)
    if database == "log":
        _stop_all(work, key)


def _stop_all(work: Records, key: bytes) -> None:
    """A change is missing from the log, and nobody knows of which root: none goes on by itself, not
    even one of which it was the last. What is frozen already is, at what it is frozen for."""
    lsn = int.from_bytes(key[:8], "big")
    roots = {entry.root for _, entry in _readable_log(work)}
    roots |= {row[len(TAIL) :] for row, _ in work.rows("state") if row.startswith(TAIL)}
    for root in roots:
        frozen = FROZEN + root
        if not _sound("state", frozen, work.row("state", frozen)):
            work.freeze(root, lsn, b"tierfs fsck took a change out of the log that cannot be read")


def _readable_log(work: Records) -> Iterator[tuple[int, Entry]]:
    for key, value in work.rows("log"):
        if _sound("log", key, value):
            yield _U64.unpack(key)[0], unpack_entry(value)


# ---- counters ------------------------------------------------------------------------------------


def _counters(work: Records, around: Surroundings) -> Iterator[Finding]:
    given = chain(
        (lsn for lsn, _ in work.log()),
        (max(node.lsn, node.content) for _, node in work.nodes()),
        (_U64.unpack_from(key)[0] for key, _ in work.rows("parts")),
        (int.from_bytes(value[:8], "little") for _, value in work.rows("heads")),
    )
    last = max(given, default=0)
    if work.next_lsn() <= last:
        yield Finding(
            Trouble.LSN, f"lsn {last}", f"the next one is to be {work.next_lsn()}",
            lambda work: work.put_row("state", b"lsn", _U64.pack(last + 1)),
        )  # fmt: skip
    known = chain((ino for ino, _ in work.nodes()), (ino for ino, _ in around.staged))
    ino = max(known, default=0)
    if ino and work.next_ino() <= ino:
        yield Finding(
            Trouble.INODE, f"inode {ino}", f"the next one is to be {work.next_ino()}",
            lambda work: work.put_next_ino(ino + 1),
        )  # fmt: skip


# ---- names ---------------------------------------------------------------------------------------


def _names(work: Records, around: Surroundings) -> Iterator[Finding]:
    for key, value in work.rows("entries"):
        parent, name, ino = _U64.unpack_from(key)[0], key[8:], _U64.unpack(value)[0]
        node = work.node(ino) if ino else None
        if ino and (node is None or node.flags & Flag.UNLINKED):
            yield Finding(
                Trouble.DANGLING, show(name), f"it is to be inode {ino}, which is not known",
                partial(Records.unlink, parent=parent, name=name),
            )  # fmt: skip
        elif node is not None and (node.parent, node.name) != (parent, name):
            yield Finding(
                Trouble.DISAGREE, show(name), f"inode {ino} says that it is {show(node.name)}",
                partial(Records.drop_row, database="entries", key=key),
            )  # fmt: skip
    for key, name in work.rows("children"):
        parent, ino = _PAIR.unpack(key)
        if work.ino_of(parent, name) != ino:
            yield Finding(
                Trouble.DISAGREE, show(name), f"inode {ino} is listed, and not found by its name",
                partial(Records.drop_row, database="children", key=key),
            )  # fmt: skip
    listed = dict(work.rows("children"))
    for ino, node in work.nodes():
        if node.flags & Flag.UNLINKED:
            continue
        named = work.ino_of(node.parent, node.name)
        if named in (None, 0) or (named == ino and _PAIR.pack(node.parent, ino) not in listed):
            yield Finding(
                Trouble.DISAGREE, show(node.name), f"inode {ino} is not found by its name",
                partial(Records.link, parent=node.parent, name=node.name, ino=ino),
            )  # fmt: skip


def _homes(work: Records, around: Surroundings) -> Iterator[Finding]:
    for ino, node in work.nodes():
        if node.flags & Flag.UNLINKED:
            continue
        what = _not_at_home(work, around, ino, node)
        if what:
            wanted = work.is_wanted(ino, node.content)
            file = node.kind is Kind.FILE and not node.flags & Flag.REMOTE and not wanted
            kept = f"target of {show(node.name)}: {show(node.target)}" if node.target else ""
            yield Finding(
                Trouble.HOMELESS, show(node.name), f"inode {ino}: {what}",
                partial(_evict, around=around, ino=ino),
                ((ino, 0),) if file else (), kept,
            )  # fmt: skip


def _not_at_home(work: Records, around: Surroundings, ino: int, node: Node) -> str:
    """Why nobody can reach *node* from the root, or nothing."""
    if work.ino_of(node.parent, node.name) not in (None, 0, ino):
        return "another one has its name"
    seen = {ino}
    at = node.parent
    while at != ROOT_INO:
        if at in seen:
            return "the directories above it are a circle"
        seen.add(at)
        above = work.node(at)
        if above is None:
            known = around.directory_path(at) is not None
            return "" if known else f"its directory, inode {at}, is not known"
        if above.kind is not Kind.DIRECTORY or above.flags & Flag.UNLINKED:
            return f"it is in inode {at}, which is no directory"
        at = above.parent
    return ""


def _evict(work: Records, around: Surroundings, ino: int) -> None:
    """*ino* loses its name. What the log is to bring of it still goes where the log says."""
    node = work.node(ino)
    if node is None:
        return
    if work.ino_of(node.parent, node.name) == ino:
        work.unlink(node.parent, node.name)
    work.drop_node(ino)
    work.drop_xattrs(ino)
    for lsn, entry in list(work.log()):
        if entry.ino == ino and entry.op is Op.LINK and not entry.target:
            _give_up(work, around, lsn)


# ---- content -------------------------------------------------------------------------------------


def _give_up(work: Records, around: Surroundings, lsn: int) -> None:
    """What *lsn* was to bring is not there: the lake decides what is at its path, and at those that
    it was given since; what was written since is kept (W3). Nothing that came later is shown before
    somebody has looked (``tierfs flush --retry``)."""
    entry = work.entry(lsn)
    if entry is None:
        return
    work.freeze(entry.root, lsn, b"tierfs fsck gave up " + entry.path)
    _history(work, around, entry.ino).lose_all(work, lsn)


def _history(work: Records, around: Surroundings, ino: int) -> Conflicts:
    """What knows the path of *ino*, and can change the log; nothing is published here."""
    while (node := work.node(ino)) is not None and not node.flags & Flag.UNLINKED:
        ino = node.parent
    above = around.directory_path(ino)
    # Below a directory that nobody knows it has a path of which the log says nothing.
    return Conflicts(Rules(["**"]), {ino: b"\0" if above is None else above}, around.boot)


def _contents(work: Records, around: Surroundings) -> Iterator[Finding]:
    for lsn, entry in work.log():
        if entry.op is not Op.PUT:
            continue
        place, node = around.place(entry.ino, entry.content), work.node(entry.ino)
        if place is not None and not place[1] and node is not None:
            # What is there under the inode's number is its present content.
            place = place if node.content == entry.content else None
        mend = partial(_give_up, around=around, lsn=lsn)
        if place is None:
            yield Finding(Trouble.CONTENT, show(entry.path), f"lsn {lsn}, inode {entry.ino}", mend)
        elif around.staged[place] != entry.size and not _written_on(around, place, entry):
            what = f"lsn {lsn}: {around.staged[place]} bytes, not {entry.size}"
            yield Finding(Trouble.LENGTH, show(entry.path), what, mend, (place,))


def _written_on(around: Surroundings, place: tuple[int, int], entry: Entry) -> bool:
    """Whether the file may have grown since it was closed, through another descriptor of the same
    handle (dup, fork): a native front is not told of those writes. `Contents` takes them, too."""
    present = place[1] == 0
    return present and entry.boot == around.boot and around.staged[place] > entry.size


def _files(work: Records, around: Surroundings) -> Iterator[Finding]:
    for ino, node in missing_files(work, around.staged):
        if not node.flags & Flag.UNLINKED and not work.is_wanted(ino, node.content):
            yield Finding(
                Trouble.FILE,
                show(node.name),
                f"inode {ino}",
                partial(_evict, around=around, ino=ino),
            )


def _counts(work: Records, around: Surroundings) -> Iterator[Finding]:
    wanted = work.puts()
    noted = {_PAIR.unpack(key): _U64.unpack(value)[0] for key, value in work.rows("contents")}
    for key in sorted(wanted.keys() | noted.keys()):
        if wanted.get(key, 0) != noted.get(key, 0):
            homeless = () if key in wanted or key not in around.staged else (key,)
            yield Finding(
                Trouble.COUNT, f"inode {key[0]}, content {key[1]}",
                f"counted {noted.get(key, 0)} times, {wanted.get(key, 0)} times in the log",
                partial(_recount, ino=key[0], content=key[1]), homeless,
            )  # fmt: skip


def _recount(work: Records, ino: int, content: int) -> None:
    count = work.puts().get((ino, content), 0)
    key = _PAIR.pack(ino, content)
    if count:
        work.put_row("contents", key, _U64.pack(count))
        return
    work.drop_row("contents", key)
    node = work.node(ino)
    settled = Flag.REMOTE | Flag.PUBLISHED | Flag.HELD | Flag.UNLINKED
    if node is not None and node.content == content and not node.flags & settled:
        # Nothing brings it to the lake any more: as a file that was never closed, it is kept here,
        # and counted by ``tierfs status``, until somebody closes it.
        work.put_node(ino, node._replace(lsn=0, key=b"", etag=b""))


# ---- what the lake has ---------------------------------------------------------------------------


def _parts(work: Records, around: Surroundings) -> Iterator[Finding]:
    begun = {key[:8] for key, _ in work.rows("parts") if key[8:] == bytes(4)}
    for prefix in sorted({key[:8] for key, _ in work.rows("parts")} - begun):
        lsn = _U64.unpack(prefix)[0]
        yield Finding(
            Trouble.PARTS, f"lsn {lsn}", "the upload that they belong to is not known",
            partial(Records.drop_parts, lsn=lsn),
        )  # fmt: skip


def _heads(work: Records, around: Surroundings) -> Iterator[Finding]:
    last: dict[bytes, tuple[int, bool, bytes]] = {}
    for lsn, entry in work.log():
        there = entry.op not in (Op.DELETE, Op.REMOVE_DIRECTORY)
        etag = entry.etag if entry.base is Base.VERSION else b""
        before = last.get(entry.path)
        last[entry.path] = lsn, there, before[2] if before else etag
        if entry.other:
            last[entry.other] = lsn, entry.op is not Op.MOVE, b""
    for path, (lsn, there, etag) in last.items():
        head = work.head(path)
        if head is None or head.last < lsn:
            # What the lake has there is found out by a write that takes nothing for granted.
            told = Head(lsn, there, head.etag if head is not None else etag)
            yield Finding(
                Trouble.HEAD, show(path), f"lsn {lsn} changes it",
                partial(Records.put_head, path=path, head=told),
            )  # fmt: skip


def _tails(work: Records, around: Surroundings) -> Iterator[Finding]:
    last = {entry.root: lsn for lsn, entry in work.log()}
    for root, lsn in last.items():
        if work.tail(root) < lsn:
            yield Finding(
                Trouble.TAIL, "/" + show(root), f"lsn {work.tail(root)}, and the log has {lsn}",
                partial(Records.put_tail, root=root, lsn=lsn),
            )  # fmt: skip
