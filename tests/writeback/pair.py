"""Two directories to which the same is done, and which must agree."""

from __future__ import annotations

from collections.abc import Collection

from tests.writeback.operations import (
    NOTHING_OPEN,
    REFUSALS,
    REFUSALS_ON_REQUEST,
    Op,
    Outcome,
    Refusal,
    Side,
    same,
)
from tests.writeback.trees import differences, tree

#: Lines about names that differ, in one report.
_MOST_LINES = 10


class Pair:
    """A *subject* and its *reference*, empty to begin with.

    The subject goes first: what it may refuse, and did, is not done to the reference. *allowed*
    names operations whose refusals have to be asked for.
    """

    def __init__(
        self,
        subject: Side,
        reference: Side,
        *,
        allowed: Collection[str] = (),
        xattrs: bool = True,
    ) -> None:
        self.subject = subject
        self.reference = reference
        self.refused: dict[Refusal, int] = {}
        self._xattrs = xattrs
        asked = tuple(item for item in REFUSALS_ON_REQUEST if item.operation in allowed)
        self._refusals = {(item.operation, item.error): item for item in REFUSALS + asked}

    def step(self, op: Op) -> str | None:
        """Does *op* to both. In words, how they differ; None if they agree."""
        mine = self.subject.run(op)
        refusal = self._refusals.get((op.name, mine.error))
        if refusal is not None and mine is not NOTHING_OPEN:
            self.refused[refusal] = self.refused.get(refusal, 0) + 1
            return None
        theirs = self.reference.run(op)
        return None if same(mine, theirs) else _told(mine, theirs)

    def compare_trees(self) -> str | None:
        """The same about everything that is in them."""
        mine = tree(self.subject.root, xattrs=self._xattrs)
        theirs = tree(self.reference.root, xattrs=self._xattrs)
        found = differences(mine, theirs)
        more = [f"and {len(found) - _MOST_LINES} more"] if len(found) > _MOST_LINES else []
        return "\n".join([*found[:_MOST_LINES], *more]) or None

    def close(self) -> None:
        """Closes what is open in both."""
        self.subject.close()
        self.reference.close()


def _told(mine: Outcome, theirs: Outcome) -> str:
    if isinstance(mine.value, bytes) and isinstance(theirs.value, bytes):
        pairs = zip(mine.value, theirs.value, strict=False)
        at = next((n for n, (one, other) in enumerate(pairs) if one != other), None)
        sizes = f"{len(mine.value)} and {len(theirs.value)} bytes"
        return f"{sizes}, the first that differs: {'none' if at is None else at}"
    return f"the subject says {mine}, the reference {theirs}"
