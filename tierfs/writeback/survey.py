"""What the journal says of what is under way, in one pass: `survey`, for `status` and its kin."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from tierfs.writeback.episodes import Waiting
from tierfs.writeback.journal import Work
from tierfs.writeback.records import Flag, Op

#: Nodes that are the lake's, are not to be there, or are about to go.
_ELSEWHERE = Flag.PUBLISHED | Flag.HELD | Flag.UNLINKED


@dataclass
class RootSurvey:
    """What the lake is still to be told of one root. *sent_bytes* of *size_bytes* are parts that
    the lake has already; *acknowledged* is the last lsn of its log, *durable* the last one up to
    which all of it is in the lake."""

    acknowledged: int
    durable: int
    changes: int = 0
    files: int = 0
    size_bytes: int = 0
    sent_bytes: int = 0
    oldest: Waiting | None = None


@dataclass
class Survey:
    """The whole mount's. *held* names are temporary; files that were *never_closed* had a writer
    that is gone. What was *given_up* was closed, and is neither in the lake nor in the log, so that
    it stays here until somebody does something about it."""

    acknowledged: int
    roots: dict[bytes, RootSurvey] = field(default_factory=dict)
    held: int = 0
    never_closed: int = 0
    given_up: int = 0
    nodes: int = 0


def survey(work: Work, roots: Collection[bytes], in_use: Callable[[int], bool]) -> Survey:
    """Look at the log and at the nodes: O(what is not in the lake yet). *roots* are in the answer
    though nothing of them waits; *in_use* says whether an inode is open."""
    found = Survey(work.next_lsn() - 1)
    for path in roots:
        tail = work.tail(path)
        found.roots[path] = RootSurvey(tail, tail)
    sent = work.sent_bytes()
    logged = set()
    for lsn, entry in work.log():
        root = found.roots.get(entry.root)
        if root is None:
            root = found.roots[entry.root] = RootSurvey(work.tail(entry.root), 0)
        if root.oldest is None:
            root.oldest = Waiting(entry.path, entry.begun_ns)
            root.durable = lsn - 1
        logged.add(entry.ino)
        root.changes += 1
        if entry.op is Op.PUT:
            root.files += 1
            root.size_bytes += entry.size
            root.sent_bytes += sent.get(lsn, 0)
    for ino, node in work.nodes():
        found.nodes += 1
        found.held += bool(node.flags & Flag.HELD)
        found.never_closed += (
            not node.lsn and not in_use(ino) and not (node.flags & Flag.REMOTE or node.etag)
        )
        found.given_up += bool(
            node.lsn and not node.flags & _ELSEWHERE and ino not in logged and not in_use(ino)
        )
    return found


def oldest(work: Work, roots: Collection[bytes]) -> dict[bytes, Waiting | None]:
    """What has waited longest of each of *roots*. The log is looked at as far as that takes."""
    found: dict[bytes, Waiting | None] = dict.fromkeys(roots)
    missing = set(roots)
    for _, entry in work.log():
        if not missing:
            break
        if entry.root in missing:
            missing.discard(entry.root)
            found[entry.root] = Waiting(entry.path, entry.begun_ns)
    return found
