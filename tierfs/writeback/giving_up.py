"""What becomes of a change that is given up by hand (``tierfs flush --skip``): what it
was to bring is kept, and the lake goes on with the next one.

::

    PUT, LINK     renamed since: the rename brings it (W1)
                  else it stays here, with whatever attributes it is given
    MOVE          the lake has the copy, and the old name, too: both stay (half of it was done)
    MOVE, COPY    what was closed is here: it stays, under the name that it has by now
                  it is the lake's alone: the rename is undone (refused, if the old name was given
                  to something else since)
    ATTRIBUTES    they stay here, and the file is the lake's
    the others    what they did is done here, and not in the lake

Invariants:

G1. What was given up and stays here is not PUBLISHED, and no entry of the log is about it: nobody
    takes what the lake has at its path for it, neither to copy that nor to adopt it.
G2. The next close brings it into the lake, and the next rename; other attributes wait for that.
"""

from __future__ import annotations

from tierfs.errors import InvalidRequest, show
from tierfs.writeback.conflicts import Conflicts
from tierfs.writeback.journal import Head, Work
from tierfs.writeback.records import Entry, Flag, Node, Op


class GivingUp(Conflicts):
    """`Conflicts`, and what it says when somebody gives a change up."""

    def is_given_up(self, work: Work, path: bytes, ino: int, node: Node) -> bool:
        """Whether what was closed of the file *ino*, at *path*, is not in the lake there, and
        nothing in the log brings it (G1)."""
        elsewhere = Flag.PUBLISHED | Flag.REMOTE | Flag.HELD | Flag.UNLINKED
        if not node.lsn or node.flags & elsewhere:
            return False
        head = work.head(path)
        entry = None if head is None else work.entry(head.last)
        return entry is None or entry.ino != ino

    def skip(self, work: Work, lsn: int, *, shown: bytes = b"") -> Entry | None:
        """Give the entry *lsn* up; None: there is no such one. *shown*: the version that the lake
        shows of it all the same, as far as is known. Raises InvalidRequest where that would cost
        the only copy of something."""
        entry = work.entry(lsn)
        if entry is None:
            return None
        if shown and entry.op is Op.MOVE:
            source = work.head(entry.other)
            self.published(work, lsn, shown)
            if source is not None:
                # It is there still.
                self._tell_head(work, entry.other, source.etag)
            self._leave(work, lsn, entry.parent, entry.other)
            return entry
        if self.goes_on(work, lsn, stays=False):
            self._take_back(work, lsn, entry)
            return entry
        node = work.node(entry.ino) if entry.ino else None
        if node is not None and _is_lakes_alone(entry, node):
            self._undo(work, lsn, entry, node)
            return entry
        for at, each in reversed(self.made_of(work, lsn)):
            self._take_back(work, at, each)
        head = work.head(entry.path)
        settled = head is not None and work.entry(head.last) is None
        if entry.op is Op.ATTRIBUTES and node is not None and head is not None and settled:
            self._mark_published(work, entry, node, head.etag)
        return entry

    def _undo(self, work: Work, lsn: int, entry: Entry, node: Node) -> None:
        """The file *node* is the lake's under its old name, and nothing here; while it is open, to
        be written to, it keeps its new one."""
        self._spare_source(work, lsn, entry)
        head = work.head(entry.other)
        if self._is_given_away(work, lsn, entry) if entry.op is Op.MOVE else head is not None:
            raise InvalidRequest(
                "give up a rename", entry.path,
                f"its bytes are in the lake alone, as {show(entry.other)}, which is to be something"
                " else; copy it, rename the copy over it, then give this up",
            )  # fmt: skip
        if node.flags & Flag.REMOTE:
            self.lose_all(work, lsn)
            return
        for at, each in reversed(self.made_of(work, lsn)):
            self._take_back(work, at, each)
        work.put_node(entry.ino, node.marked(Flag.LOST)._replace(key=b"", etag=b""))

    def _take_back(self, work: Work, lsn: int, entry: Entry) -> None:
        """The lake is not told of *entry*, at *lsn*, and has what it has; what was to be moved
        shows again."""
        work.drop_entry(lsn)
        head = work.head(entry.path)
        if head is not None and head.last == lsn:
            work.put_head(entry.path, Head(entry.earlier, bool(head.etag), head.etag))
        if entry.op is Op.MOVE:
            self._leave(work, lsn, entry.parent, entry.other)
        elif entry.op is Op.COPY:
            self._spare_source(work, lsn, entry)


def _is_lakes_alone(entry: Entry, node: Node) -> bool:
    """Whether *node*, which *entry* was to give another name, has no closed content here."""
    alone = node.flags & Flag.REMOTE or not node.lsn
    return entry.op in (Op.MOVE, Op.COPY) and bool(alone) and not node.flags & Flag.UNLINKED
