"""Does the lake show a history in the order of markers: no marker before what precedes it?

As `tests.writeback.history`, whose judge this is but for the order. Each key goes through its own
states in their order; what a step shows that is no new file may be seen only when every key is at
least where it was before that step. A file is new where nothing was before, unless its name is a
marker's.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.lakesim import Request
from tests.writeback.history import Commit, Judge, Violation, commits, fits_any
from tests.writeback.states import ABSENT, MARKER, NOTHING, History

#: Files of such names are markers, whatever else they are.
MARKERS = (
    "latest*", ".metadata", "*.metadata", "metadata.json", "commit_success*", "_SUCCESS",
    "trainer_state.json", "*.index.json",
)  # fmt: skip


@dataclass
class MarkersJudge(Judge):
    #: How many steps each key is known to have made.
    at: dict[str, int] = field(default_factory=dict)
    #: Keys that were there before the commit in question.
    shown: set[str] = field(default_factory=set)

    def take(self, commit: Commit) -> None:
        self.shown = set(self.lake)
        super().take(commit)

    def _find(self, commit: Commit) -> None:
        key, steps = commit.key, self.history.steps
        before = self.at.get(key, 0)
        fitting = [
            number
            for number in range(before, len(steps))
            if fits_any(commit.seen, steps[number].state.get(key, NOTHING))
        ]
        if commit.seen is None:
            # Where there may be a marker or not, its removal is probably not to be seen.
            surely = [n for n in fitting if steps[n].state.get(key, NOTHING) == NOTHING]
            fitting = surely or fitting
        if not fitting:
            self.ordered = False
            self._explain(commit)
            return
        at = fitting[0]
        if at == before:
            return  # Again what it was: a marker of a directory, or a removal of nothing.
        self.at[key] = at
        step = steps[at]
        if step.event is not None and step.event.started_ns > commit.at_ns > 0:
            self.say("early", f"{commit}: before {step.event}", commit)
        if not self._is_new(at, commit):
            self._judge_marker(commit, at)
        self._judge_names(commit)

    def _is_new(self, at: int, commit: Commit) -> bool:
        """Whether the step *at* shows a new file: one that the lake did not have, and that was
        made, and closed as often as may be, since there was nothing of that name."""
        key, steps = commit.key, self.history.steps
        if commit.seen is None or key in self.shown:
            return False
        name = key.rstrip("/").rpartition("/")[2]
        if any(fnmatch.fnmatchcase(name, marker) for marker in MARKERS):
            return False
        for number in range(at, 0, -1):
            event, before = steps[number].event, steps[number - 1].state.get(key, NOTHING)
            changed = number == at or before != steps[number].state.get(key, NOTHING)
            if changed and (event is None or event.kind not in ("close", "mkdir")):
                return False
            if not before - {ABSENT, MARKER}:
                return True
        return True

    def _judge_marker(self, commit: Commit, at: int) -> None:
        """All that precedes the step *at*, which *commit* shows, has to be there."""
        old, step = self.history.steps[at - 1].state, self.history.steps[at]
        for key in step.state:
            # A name that a file gets back may have been taken for what it was before.
            made = step.state[key] != old.get(key, NOTHING) and self._fits_from(key, at)
            if made and self.at.get(key, 0) < at:
                self.at[key] = at
        missing = [
            key
            for key in old.keys() | self.lake.keys()
            # What this step takes away need not have been shown.
            if step.state.get(key, NOTHING) != NOTHING or old.get(key, NOTHING) == NOTHING
            if self.at.get(key, 0) < at and not self._fits_from(key, at - 1)
        ]
        if missing:
            told = self._describe(sorted(missing), old)
            self.say("order", f"{commit}: {step.event} is shown, and still {told}", commit)
            self.ordered = False
            return
        waiting = [
            key for key in step.state if self.at.get(key, 0) < at and not self._fits_from(key, at)
        ]
        if waiting and commit.seen is None:
            told = self._describe(sorted(waiting), step.state)
            self.say("order", f"{commit}: the end of {step.event}, and still {told}", commit)
            self.ordered = False

    def _fits_from(self, key: str, at: int) -> bool:
        """Whether *key* is what it was after the step *at*. A directory's marker, all of which look
        alike, may be a later one."""
        steps = self.history.steps[at:] if key.endswith("/") else [self.history.steps[at]]
        seen = self.lake.get(key)
        return any(fits_any(seen, step.state.get(key, NOTHING)) for step in steps)

    def _judge_names(self, commit: Commit) -> None:
        """No name is a file's and a directory's at one time."""
        if commit.seen is None:
            return
        parts = commit.key.split("/")
        files = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
        above = [key for key in files if key in self.lake]
        below = [key for key in self.lake if key.startswith(commit.key + "/")]
        if above or (below and not commit.key.endswith("/")):
            self.say("order", f"{commit}: a file and a directory at once: {above + below}", commit)


def check_markers(
    log: Sequence[Request],
    history: History,
    *,
    bucket: str | None = None,
    sizes: Mapping[str, int] | None = None,
) -> list[Violation]:
    """As `tests.writeback.history.check`, of a root in markers order."""
    judge = MarkersJudge(history)
    for commit in commits(log, bucket=bucket):
        judge.take(commit)
    judge.end(sizes)
    return judge.violations
