"""Saying where uploads are: the log line of each checkpoint, the alarm for what waits too long, and
what `status` shows. It looks on, and changes nothing.

One line at level info a root when everything of it is in the lake and it is quiet, which happened
at these seconds after the first write::

    checkpoint root=/runs files=9 bytes=2147483648 first_write=0.000 last_close=3.214
        upload_start=0.402 durable=11.870 lsn=42                        (in one line)

``last_close`` is how long the training wrote, ``durable - last_close`` what is left to wait for
after that, and ``upload_start`` shows whether the two overlap.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import trio

from tierfs.errors import NotFound, show
from tierfs.writeback.directories import WriteBack
from tierfs.writeback.episodes import Episode, Episodes, Lateness, Rate
from tierfs.writeback.survey import RootSurvey, oldest, survey

_log = logging.getLogger(__name__)

#: How often it is looked whether something is over, and how fast uploads go.
LOOK_S = 1.0
#: The share of the loop's time that this takes at most.
MOST_SHARE = 0.02
#: How often it is looked for what is late, at most, and for long ages.
LATE_FIRST_S, LATE_LAST_S = 1.0, 60.0


class Publishing(Protocol):
    """What is asked of a publisher."""

    @property
    def roots(self) -> Mapping[bytes, object]:
        """By path, what is published in an order of its own."""

    @property
    def bytes_sent(self) -> int:
        """Bytes of content that the lake has taken."""

    def failure_of(self, root: bytes) -> tuple[str, bytes]:
        """Why *root* goes no further, and at which path; empty: it goes on."""


class Watch:
    """Looks on as *writeback* is published; the publisher tells it what it does (`began`,
    `published`). *max_age_s* is how old a change of a root may become before that is an error in
    the log, *now_ns* wall-clock time. *told* is called with each episode that is over."""

    def __init__(
        self,
        writeback: WriteBack,
        *,
        max_age_s: float,
        now_ns: Callable[[], int] = time.time_ns,
        told: Callable[[Episode], None] = lambda episode: None,
    ) -> None:
        self._writeback = writeback
        self._now_ns = now_ns
        self._told = told
        self._episodes = Episodes(now_ns)
        self._lateness = Lateness(max_age_s)
        self._rate = Rate()
        writeback.committed = self._episodes.committed
        self.began = self._episodes.began
        self.published = self._episodes.published

    async def run(self, publisher: Publishing) -> None:
        """Look on until cancelled."""
        look_for_late_s = min(max(self._lateness.most_s / 20, LATE_FIRST_S), LATE_LAST_S)
        next_late_s = trio.current_time()
        while True:
            started_s = time.perf_counter()
            self._rate.sample(trio.current_time(), publisher.bytes_sent)
            self.tell_ended()
            if trio.current_time() >= next_late_s:
                next_late_s = trio.current_time() + look_for_late_s
                self.look_for_late(publisher)
            # Of many roots, one with a long log makes the others' expensive to look at.
            took_s = time.perf_counter() - started_s
            await trio.sleep(max(LOOK_S, took_s / MOST_SHARE))

    # ---- what is over ----------------------------------------------------------------------------

    def tell_ended(self, *, at_once: bool = False) -> None:
        """Tell of the episodes that are over; *at_once*: nothing will come after them."""
        roots = self._episodes.roots
        if not roots:
            return
        waiting = self._writeback.journal.read(lambda work: oldest(work, roots))
        written = set() if at_once else self._written_roots()
        for root in roots:
            if waiting[root] is None:
                episode = self._episodes.end(root, writing=root in written, at_once=at_once)
                if episode is not None:
                    _log.info("%s", line_of(episode))
                    self._told(episode)

    def _written_roots(self) -> set[bytes | None]:
        found = set()
        for ino in self._writeback.being_written():
            try:
                found.add(self._writeback.tree.rules.root_of(self._writeback.union.path_of(ino)))
            except NotFound:
                continue
        return found

    # ---- what is late ----------------------------------------------------------------------------

    def look_for_late(self, publisher: Publishing) -> None:
        """Say which roots have waited for too long since the last look, and which no longer do."""
        waiting = self._writeback.journal.read(lambda work: oldest(work, publisher.roots))
        now_ns = self._now_ns()
        for root, first in waiting.items():
            changed = self._lateness.look(root, first, now_ns)
            if changed is None:
                continue
            if first is None or not changed:
                _log.warning("/%s: nothing of it waits too long for the lake any more", show(root))
                continue
            why, _ = publisher.failure_of(root)
            _log.error(
                "/%s: %s has waited for %.0f s to be in the lake (max_unflushed_age is %g s): %s",
                show(root),
                show(first.path),
                (now_ns - first.since_ns) / 1e9,
                self._lateness.most_s,
                f"it is frozen: {why}; mend that, then: tierfs flush --retry"
                if why
                else "see above for what the lake says, and tierfs status for how fast it goes",
            )

    # ---- what status shows -----------------------------------------------------------------------

    def describe(self, publisher: Publishing | None) -> dict[str, Any]:
        """What `status` says of what is not in the lake yet. O(that)."""
        now_ns = self._now_ns()
        known = () if publisher is None else tuple(publisher.roots)
        found = self._writeback.journal.read(
            lambda work: survey(work, known, self._writeback.in_use)
        )
        roots = found.roots
        waiting = sum(root.size_bytes for root in roots.values())
        sent = sum(root.sent_bytes for root in roots.values())
        since = [root.oldest for root in roots.values() if root.oldest is not None]
        first = min(since, key=lambda change: change.since_ns, default=None)
        rate = self._rate.bytes_per_s
        described = [self._describe(path, root, now_ns, publisher) for path, root in roots.items()]
        return {
            "unflushed_changes": sum(root.changes for root in roots.values()),
            "unflushed_files": sum(root.files for root in roots.values()),
            "unflushed_bytes": waiting,
            "sent_ahead_bytes": sent,
            "oldest_unflushed_s": 0.0 if first is None else _age_s(first.since_ns, now_ns),
            "oldest_unflushed_path": None if first is None else show(first.path),
            "upload_bytes_per_s": round(rate),
            "time_left_s": (
                0.0 if waiting == sent else round((waiting - sent) / rate, 1) if rate else None
            ),
            "acknowledged_lsn": found.acknowledged,
            "open_handles": self._writeback.open_handles,
            "held_names": found.held,
            "never_closed": found.never_closed,
            "given_up": found.given_up,
            "nodes": found.nodes,
            "frozen_roots": sum(root["failure"] is not None for root in described),
            "late_roots": sum(root["late"] for root in described),
            "roots": described,
        }

    def _describe(
        self, path: bytes, root: RootSurvey, now_ns: int, publisher: Publishing | None
    ) -> dict[str, Any]:
        failure, failed_path = ("", b"") if publisher is None else publisher.failure_of(path)
        return {
            "root": "/" + show(path),
            "acknowledged_lsn": root.acknowledged,
            "durable_lsn": root.durable,
            "unflushed_files": root.files,
            "unflushed_bytes": root.size_bytes,
            "oldest_unflushed_s": (
                0.0 if root.oldest is None else _age_s(root.oldest.since_ns, now_ns)
            ),
            "late": self._lateness.is_late(path),
            "failure": failure or None,
            "failed_path": show(failed_path) if failed_path else None,
        }


def _age_s(since_ns: int, now_ns: int) -> float:
    """How old something is; 0 where the clock was set back."""
    return round(max(now_ns - since_ns, 0) / 1e9, 3)


def line_of(episode: Episode) -> str:
    """The line of an episode: ``key=value``, times in seconds after the first write. Values with
    blanks or the like are in quotes."""
    fields = {
        "root": _quoted("/" + show(episode.root)),
        "files": episode.files,
        "bytes": episode.size_bytes,
        "first_write": "0.000",
        **{name: f"{seconds:.3f}" for name, seconds in episode.seconds.items()},
        "lsn": episode.last_lsn,
    }
    return "checkpoint " + " ".join(f"{name}={value}" for name, value in fields.items())


def _quoted(text: str) -> str:
    plain = text.isascii() and not any(sign in ' "=\\' for sign in text)
    return text if plain else json.dumps(text, ensure_ascii=False)
