"""What becomes of a change that another writer was first with: theirs stays, and ours is kept.

What a change of the log was to bring is kept before the change is given up, unless it is where it
stays (W1..W3; `tierfs.writeback.placer` does it)::

    PUT, LINK     renamed since: it goes on, the rename brings it (W1)
                  else a PUT's content is put aside, beside the other version
    MOVE          its source is as it was, and shows again, unless the name was given away since
    COPY          its source is about to be removed: it is put aside
    both          the source is another writer's: that stays, and what is here goes on (W2)
    ATTRIBUTES    of what is another writer's: nothing to keep

What is not here any more (`tierfs.writeback.checks`) is given up with all that was made of it.

Invariants:

W1. A MOVE or a COPY of what never came to its source is the PUT of that, in the same place of the
    log.
W2. What another writer has changed, or removed, before it was moved is brought from here, if it is
    here. What they have made of it is not removed with the old name.
W3. What has another name by now, or was closed again, is not given up with what was before that.
"""

from __future__ import annotations

from typing import NamedTuple

from tierfs.index.records import Kind
from tierfs.writeback.history import History
from tierfs.writeback.journal import Work
from tierfs.writeback.records import Entry, Flag, Node, Op


class Lost(NamedTuple):
    """How a change was given up. *gone*: the inode that is no more, or 0; *goes_on*: the path under
    which what it was to bring will be in the lake, or nothing."""

    gone: int
    goes_on: bytes


class Conflicts(History):
    """`History`, and what it says when another writer was first."""

    def made_of(self, work: Work, lsn: int) -> list[tuple[int, Entry]]:
        """*lsn* and, where it brings something, what the log says of that since: other attributes,
        and other names."""
        first = work.entry(lsn)
        if first is None:
            return []
        found, path = [(lsn, first)], first.path
        if first.op not in (Op.PUT, Op.LINK, Op.MOVE, Op.COPY):
            return found
        for later, entry in work.log(lsn):
            if path not in (entry.path, entry.other):
                continue
            renamed = entry.other == path
            if entry.ino != first.ino or not (renamed or entry.op is Op.ATTRIBUTES):
                break
            found.append((later, entry))
            path = entry.path
        return found

    def goes_on(self, work: Work, lsn: int, *, stays: bool = True) -> bytes:
        """Let what *lsn* was to bring go on under the name that it was given since: that path; or
        nothing, and nothing is done (W1). *stays*: so does what the lake has under the old one."""
        lost = work.entry(lsn)
        if lost is None or lost.op not in (Op.PUT, Op.LINK):
            return b""
        attributes: list[int] = []
        for later, entry in self.made_of(work, lsn)[1:]:
            if entry.op is Op.ATTRIBUTES:
                attributes.append(later)
                continue
            for between in attributes:
                # It brings these, too.
                work.drop_entry(between)
            head = work.head(entry.other)
            if not stays and head is not None and head.last == later and head.etag:
                gone = self._append(
                    work, Op.DELETE, 0, entry.other, entry.root, None, parent=entry.parent
                )
                self._came_by_rename(work, gone)
            if stays:
                self._spare_source(work, later, entry)
            self._bring_instead(work, later, entry, lost)
            return entry.path
        return b""

    def lose_all(self, work: Work, lsn: int) -> None:
        """`lose` *lsn*, of which the bytes are not here, and what was made of it since: what the
        lake has stays where it is. What was written since is kept (W3)."""
        for later, entry in reversed(self.made_of(work, lsn)):
            if entry.op is Op.COPY:
                self._spare_source(work, later, entry)
            self.lose(work, later)

    def leave_source(self, work: Work, lsn: int, *, is_here: bool) -> bool:
        """The source of *lsn*, a MOVE or a COPY, is another writer's by now, and stays. Whether
        *lsn* brings what is here instead, which has to be the same for that: *is_here* says that
        nobody has written to it (W2)."""
        entry = work.entry(lsn)
        if entry is None:
            return False
        self._spare_source(work, lsn, entry)
        node = work.node(entry.ino)
        if node is None or node.kind is not Kind.FILE or not is_here:
            return False
        if node.flags & (Flag.REMOTE | Flag.DOUBTFUL | Flag.UNLINKED):
            return False
        if not node.lsn or not node.content or node.content != entry.content:
            return False
        synced = bool(node.flags & Flag.SYNCED)
        brought = entry._replace(op=Op.PUT, size=node.size, synced=synced, boot=self.boot)
        self._bring_instead(work, lsn, entry, brought)
        return True

    def _spare_source(self, work: Work, lsn: int, entry: Entry) -> None:
        """What the lake has at the source of *entry*, at *lsn*, is not removed after it."""
        for later, other in work.log(lsn):
            if entry.other in (other.path, other.other):
                if other.op is Op.DELETE:
                    work.drop_entry(later)
                    self._leave(work, later, 0, entry.other)
                return

    def _bring_instead(self, work: Work, lsn: int, entry: Entry, brought: Entry) -> None:
        """*lsn*, a MOVE or a COPY, brings what *brought* says; its source is not ours."""
        work.bring(
            lsn,
            entry._replace(
                op=brought.op, size=brought.size, synced=brought.synced, boot=brought.boot,
                content=brought.content, target=brought.target, parent=0, other=b"", renamed=True,
            ),
        )  # fmt: skip
        self._leave(work, lsn, entry.parent, entry.other)
        node = work.node(entry.ino)
        same = node is not None and (brought.op is Op.LINK or node.content == brought.content)
        if node is not None and same and node.lsn < lsn:
            work.put_node(entry.ino, node._replace(lsn=lsn))

    def has_to_be_kept(self, work: Work, lsn: int) -> bool:
        """Whether what *lsn* was to bring is not in the lake, or will not be for long."""
        entry = work.entry(lsn)
        if entry is None:
            return False
        if entry.op is Op.MOVE:
            return self._is_given_away(work, lsn, entry)
        return entry.op in (Op.PUT, Op.COPY)

    def _is_given_away(self, work: Work, lsn: int, entry: Entry) -> bool:
        """Whether the old name of *entry*, the MOVE at *lsn*, has something else by now."""
        head, name = work.head(entry.other), entry.other.rpartition(b"/")[2]
        taken = entry.parent and work.ino_of(entry.parent, name)
        return head is None or head.last != lsn or bool(taken)

    def _is_lost_with(self, work: Work, lsn: int, entry: Entry, node: Node) -> bool:
        if node.flags & Flag.UNLINKED:
            return False
        renamed = self.path_of(work, entry.ino) != entry.path.rstrip(b"/")
        return not renamed and super()._is_lost_with(work, lsn, entry, node)
