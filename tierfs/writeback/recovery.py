"""At the start: the staging directory and the journal are made to agree, whatever ended the last
process, and whenever.

The table of what is found and what is done about it. What no kill leaves is not in it: that is
`tierfs.writeback.checks`'s, which shares `unwanted_files` and `missing_files`.

======================================================  ============================================
found                                                   done
======================================================  ============================================
half of a copy (``.new``)                               deleted
frozen content that no entry of the log has              deleted
a node's file gone, its content frozen                   renamed back: the freeze was cut off
a staging file without node or entry of the log          deleted: its creation was not acknowledged
an unlinked node, or one that lost its place             forgotten: nobody has it open any more
written to and not closed, its closed content frozen      that content is put back
the same, and that content is in the lake                 the file is deleted: the lake has it
the same, of a temporary or a new name                    kept as it is, with the size that it has
the same, and that content was given up                  likewise, as a file that was never closed
a file of the lake's, open for writing, never closed      the lake's again, as if it was not opened
a node whose file is gone                                kept, and reported: reading it is an error
a closed file from before this boot, not synced          DOUBTFUL: it is not published
======================================================  ============================================

What is open is as its users left it: with a native front handles outlive the process, and so do
copies of the lake's files of whose new number the kernel was told
(`PassedThrough.expect_copied`).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Container, Set
from functools import partial
from struct import error as StructError

from tierfs.errors import IndexDamaged, show
from tierfs.index.records import Kind
from tierfs.writeback.journal import Journal, Work
from tierfs.writeback.records import Flag, Node, Op
from tierfs.writeback.staging import Staging
from tierfs.writeback.tree import give_back

_log = logging.getLogger(__name__)


async def recover(
    journal: Journal, staging: Staging, boot: bytes, in_use: Collection[int] = ()
) -> list[int]:
    """Make both agree, but for what is *in_use*; returns the inodes of files whose content is gone.
    *boot* is this boot.

    Raises IndexDamaged where there is a record that nobody has written like this.
    """
    try:
        return await _recover(journal, staging, boot, in_use)
    except (StructError, KeyError, ValueError) as error:
        directory = staging.path(0).parent.parent
        raise IndexDamaged(
            "read the journal", str(directory),
            f"a record makes no sense ({error!r}); look at it with: tierfs fsck {directory}",
        ) from error  # fmt: skip


async def _recover(
    journal: Journal, staging: Staging, boot: bytes, in_use: Collection[int]
) -> list[int]:
    def forget(work: Work) -> None:
        for ino, node in list(work.nodes()):
            if node.is_passing and ino not in in_use:
                if not node.flags & Flag.UNLINKED:
                    work.unlink(node.parent, node.name)
                work.drop_node(ino)

    if journal.read(lambda work: any(node.is_passing for _, node in work.nodes())):
        await journal.change(forget, rows=1_000)
    for path in staging.half_made():
        path.unlink()
    staged = {(ino, content) for ino, content, _ in staging.files()}
    unwanted = journal.read(lambda work: unwanted_files(work, staged))
    for ino, content in unwanted:
        if content or ino not in in_use:
            staging.remove(ino, content)
    # A freeze that was cut off.
    for ino, content in sorted(staged - set(unwanted)):
        node = journal.node(ino) if content and (ino, 0) not in staged else None
        if node is not None and _has_file(node) and node.content == content:
            staging.frozen_path(ino, content).rename(staging.path(ino))
    await _settle(journal, staging, in_use)
    if journal.read(lambda work: work.boot()) != boot:
        await journal.change(lambda work: _doubt(work, boot), rows=1_000)
    missing = journal.read(lambda work: missing_files(work, staged))
    for ino, node in missing:
        _log.error("the content of %s (inode %d) is gone from the disk", show(node.name), ino)
    return [ino for ino, _ in missing]


async def _settle(journal: Journal, staging: Staging, in_use: Collection[int]) -> None:
    """What was written to and not closed when its process was killed. Where the last closed content
    is still there, that is what it has again."""
    nodes = journal.read(lambda work: list(work.nodes()))
    logged = journal.read(lambda work: {entry.ino for _, entry in work.log()})
    for ino, node in nodes:
        if node.kind is not Kind.FILE or node.flags & Flag.REMOTE or ino in in_use:
            continue
        if node.is_copy:
            await journal.change(partial(give_back, ino=ino, node=node, known=True))
            staging.remove(ino)
            continue
        if staging.frozen_path(ino, node.content).exists():
            staging.frozen_path(ino, node.content).rename(staging.path(ino))
            continue
        try:
            status = staging.path(ino).stat()
        except FileNotFoundError:
            continue
        if (status.st_size, status.st_mtime_ns) == (node.size, node.mtime_ns):
            continue
        if node.flags & Flag.PUBLISHED:
            await _put(journal, ino, node.marked(Flag.REMOTE))
            staging.remove(ino)
        elif node.flags & Flag.HELD or not node.lsn:
            changed = node.unmarked(Flag.SYNCED)._replace(
                size=status.st_size, mtime_ns=status.st_mtime_ns
            )
            await _put(journal, ino, changed)
        elif ino not in logged:
            # Nothing brings it, and what was closed is not to be had any more.
            changed = node.unmarked(Flag.SYNCED | Flag.DOUBTFUL)._replace(
                size=status.st_size, mtime_ns=status.st_mtime_ns
            )
            await _put(journal, ino, changed._replace(lsn=0, content=0, key=b"", etag=b""))


def _doubt(work: Work, boot: bytes) -> None:
    """The machine was started anew: what was closed and not synced may not be what it was."""
    known = Flag.REMOTE | Flag.PUBLISHED | Flag.SYNCED | Flag.DOUBTFUL
    for ino, node in list(work.nodes()):
        if node.kind is Kind.FILE and node.lsn and not node.flags & known:
            work.put_node(ino, node.marked(Flag.DOUBTFUL))
    work.put_boot(boot)


async def _put(journal: Journal, ino: int, node: Node) -> None:
    await journal.change(lambda work: work.put_node(ino, node))


def _has_file(node: Node) -> bool:
    return node.kind is Kind.FILE and not node.flags & Flag.REMOTE


def unwanted_files(work: Work, staged: Set[tuple[int, int]]) -> list[tuple[int, int]]:
    """Those of the staging files *staged* (inode and content; 0: the present one) that neither a
    node nor the log needs."""
    contents = {ino: node.content for ino, node in work.nodes() if _has_file(node)}
    wanted: dict[int, set[int]] = {}
    for _, entry in work.log():
        if entry.op is Op.PUT:
            wanted.setdefault(entry.ino, set()).add(entry.content)
    return [
        (ino, content)
        for ino, content in sorted(staged)
        if content not in wanted.get(ino, ())
        and (content or (ino not in contents and ino not in wanted))
        and not (content and (ino, 0) not in staged and contents.get(ino) == content)
    ]


def missing_files(work: Work, staged: Container[tuple[int, int]]) -> list[tuple[int, Node]]:
    """The nodes whose content is neither the lake's nor in one of the staging files *staged*."""
    return [
        (ino, node)
        for ino, node in work.nodes()
        if _has_file(node)
        and not node.flags & Flag.PUBLISHED
        and (ino, 0) not in staged
        and (ino, node.content) not in staged
    ]
