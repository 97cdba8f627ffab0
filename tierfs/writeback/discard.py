"""Throwing away what is not in the lake, when somebody wants that: `discard`, one transaction.

After it the mount shows what the lake has. Of the journal stays what says no more than that: nodes
that are PUBLISHED and not handed over yet, with the directories that they are in, and names that
are gone from the lake, too. Nobody has anything open, and nothing is being published.
"""

from __future__ import annotations

from typing import NamedTuple

from tierfs.errors import NotFound
from tierfs.index.records import Kind
from tierfs.writeback.history import History
from tierfs.writeback.journal import Work
from tierfs.writeback.records import Flag, Node, Op

#: So many names are kept for whoever wants to know what it was.
NAMED = 20


class Discarded(NamedTuple):
    """What was thrown away: *changes* of the log, *files* with what they hold (temporary ones and
    such as were never closed, too), and some of their *paths*. *staged*: inodes whose staging files
    are still needed."""

    changes: int
    files: int
    size_bytes: int
    paths: list[bytes]
    staged: set[int]


def discard(history: History, work: Work) -> Discarded:
    """Forget what the lake has not. Raises PathUnknown as `History.path_of` does."""
    nodes = dict(work.nodes())
    log = list(work.log())
    kept = {ino for ino in nodes if _is_kept(nodes, ino)}
    gone = [ino for ino in nodes if ino not in kept]
    paths: list[bytes] = []
    files = size = 0
    for ino in gone:
        node = nodes[ino]
        if node.kind is Kind.FILE and not node.flags & Flag.REMOTE:
            files += 1
            size += node.size
            if len(paths) < NAMED:
                paths.append(_path(history, work, ino, node))
    # Names that are gone from the lake as well; looked at while the log still says so.
    away = {(parent, name) for parent, name in work.white_outs()}
    settled = {row for row in away if _is_settled(history, work, *row)}
    shown = {_key(history, work, ino, nodes[ino]) for ino in kept}
    # Of what was given up before nothing in the log says what the lake has.
    named = (nodes[ino] for ino in gone if not nodes[ino].flags & Flag.UNLINKED)
    places = {(node.parent, node.name) for node in named}
    places |= away - settled
    stale = {path for place in places for path in _paths(history, work, *place)}
    for lsn, entry in log:
        for path in (entry.path, entry.other):
            head = work.head(path) if path else None
            if head is None or head.last != lsn:
                continue
            if path in shown:
                work.put_head(path, head._replace(present=bool(head.etag)))
            else:
                work.drop_head(path)
        work.drop_entry(lsn)
        work.thaw(entry.root)
        if entry.op is Op.PUT and entry.ino not in nodes:
            # Of a file that was removed since.
            files, size = files + 1, size + entry.size
    for path in stale - shown:
        work.drop_head(path)
    for ino in gone:
        node = nodes[ino]
        if not node.flags & Flag.UNLINKED:
            work.unlink(node.parent, node.name)
        work.drop_node(ino)
        if not node.key:
            work.drop_xattrs(ino)
    for parent, name in away - settled:
        work.unlink(parent, name)
    staged = {
        ino for ino in kept if nodes[ino].kind is Kind.FILE and not nodes[ino].flags & Flag.REMOTE
    }
    return Discarded(len(log), files, size, paths, staged)


def _is_kept(nodes: dict[int, Node], ino: int) -> bool:
    """Whether the lake has all that is known of *ino*, and of the directories that it is in."""
    while (node := nodes.get(ino)) is not None:
        if not node.flags & Flag.PUBLISHED or node.flags & (Flag.UNLINKED | Flag.HELD):
            return False
        ino = node.parent
    return True


def _path(history: History, work: Work, ino: int, node: Node) -> bytes:
    try:
        return history.path_of(work, ino)
    except NotFound:
        return node.name


def _key(history: History, work: Work, ino: int, node: Node) -> bytes:
    """As what the lake has a node that is kept."""
    path = history.path_of(work, ino)
    return path + b"/" if node.kind is Kind.DIRECTORY else path


def _paths(history: History, work: Work, parent: int, name: bytes) -> tuple[bytes, ...]:
    """What a name may be in the lake; nothing where its directory has none."""
    try:
        path = history.path_in(work, parent, name)
    except NotFound:
        return ()
    return path, path + b"/"


def _is_settled(history: History, work: Work, parent: int, name: bytes) -> bool:
    """Whether a name that is away is away from the lake, too."""
    paths = _paths(history, work, parent, name)
    heads = [head for path in paths if (head := work.head(path)) is not None]
    return bool(heads) and all(not head.present and work.entry(head.last) is None for head in heads)
