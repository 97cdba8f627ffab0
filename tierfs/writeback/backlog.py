"""At the start: what an earlier mount has left in the log goes on under the roots that the rules
give now.

What was acknowledged in one root stays in one order, and each path has one order, whatever the
rules are by now. So all that waits of a root moves together: to the one root of the rules that
paths of it lie in, or lead to. The log is in the order of lsns across all roots, so those that
become one are in the order in which they were acknowledged. A root that no path of leads to any of
the rules' goes on by itself. And one that would fall apart into several cannot be gone on with: the
order between them has been promised, and is nobody's to keep. That is an error before anything is
published, and before anybody can write.

How a root is ordered (`tierfs.writeback.schedule`) is made of the log alone, so what waits takes
the order that the rule has now.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from tierfs.errors import ConfigError, show
from tierfs.writeback.journal import Journal, Work
from tierfs.writeback.rules import Rules

_log = logging.getLogger(__name__)


async def regroup(journal: Journal, rules: Rules) -> None:
    """Give what waits in *journal* the roots of *rules*. Nobody publishes yet (J3). Raises
    ConfigError, with nothing changed, where that would break an order."""
    moved = await journal.change(lambda work: _regroup(work, rules), rows=1_000)
    for old, new in moved.items():
        _log.info(
            "by the rules that there are now, what waits of /%s belongs to /%s",
            show(old),
            show(new),
        )


def _regroup(work: Work, rules: Rules) -> dict[bytes, bytes]:
    """As `regroup`; which root has become which."""
    waiting = _waiting(work, rules)
    moved: dict[bytes, bytes] = {}
    for old, paths in waiting.items():
        if len(paths) > 1:
            (one, first), (other, second) = list(paths.items())[:2]
            raise ConfigError(
                "change the write-back rules while changes wait", second,
                f"it waits in one order with {show(first)}, and by these rules it belongs to"
                f" /{show(other)}, that to /{show(one)}; mount with the rules of before until all"
                " is in the lake (tierfs flush --wait), then with these",
            )  # fmt: skip
        for new in paths:
            if new != old:
                moved[old] = new
    for lsn, entry in list(work.log()):
        if entry.root in moved:
            work.put_entry(lsn, entry._replace(root=moved[entry.root]))
    _move_tails(work, moved)
    _move_frozen(work, rules, waiting.keys(), moved)
    return moved


def _waiting(work: Work, rules: Rules) -> dict[bytes, dict[bytes, bytes]]:
    """Of each root that something waits of, the roots of the rules that paths of it have to do
    with, and the first such path of each."""
    found: dict[bytes, dict[bytes, bytes]] = {}
    for _, entry in work.log():
        paths = found.setdefault(entry.root, {})
        for path in (entry.path, entry.other):
            root = rules.root_near(path.rstrip(b"/")) if path else None
            if root is not None:
                paths.setdefault(root, path)
    return found


def _move_tails(work: Work, moved: Mapping[bytes, bytes]) -> None:
    tails: dict[bytes, int] = {}
    for old, new in moved.items():
        tails[new] = max(tails.get(new, 0), work.tail(old))
    for old in moved:
        work.drop_tail(old)
    for new, lsn in tails.items():
        work.put_tail(new, max(lsn, work.tail(new)))


def _move_frozen(
    work: Work, rules: Rules, waiting: Collection[bytes], moved: Mapping[bytes, bytes]
) -> None:
    """What is frozen stays so under its new name. Of several that become one the first counts."""
    found: list[tuple[bytes, tuple[int, bytes]]] = []
    for old in work.frozen_roots():
        frozen = work.frozen(old)
        if old in moved:
            roots = [moved[old]]
        elif old in waiting or old in rules.roots:
            continue
        else:
            # The change that it was frozen at is gone: somebody is to look before anything goes on.
            roots = _overlapping(rules, old)
        if frozen is not None and roots:
            work.thaw(old)
            found += [(root, frozen) for root in roots]
    for root, frozen in found:
        both = sorted({frozen, work.frozen(root) or frozen})
        work.freeze(root, both[0][0], b"; ".join(why for _, why in both))


def _overlapping(rules: Rules, old: bytes) -> list[bytes]:
    """The roots of the rules that lie in *old*, or that it lies in."""
    near = rules.root_near(old)
    return [root for root in rules.roots if root == near or not old or root.startswith(old + b"/")]
