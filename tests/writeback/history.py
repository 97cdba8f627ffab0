"""Does the lake show a history: in order, once, and all of it?

`check` takes lakesim's log of requests and the `History` that a `Recorder` kept, and knows nothing
else. After every request that took effect, what is visible must be a state of the history, and
never an earlier one than before. Steps may be left out; a step that changes several keys may be
seen half done: first what appears, the file that was closed last at the end, then what goes.

Objects are told apart by their sizes (give each version its own: `Recorder.unique`) and by MD5 and
source where the log has them. A copy whose source is not known may be anything. Bodies must be sent
as they are: a length with aws-chunked framing is not that of the object.
"""

from __future__ import annotations

import functools
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from bench.lakesim import Request
from tests.writeback.recording import Content
from tests.writeback.states import (
    ABSENT,
    LINK,
    MARKER,
    NOTHING,
    History,
    State,
    Step,
    Value,
    Values,
    held,
)

__all__ = ["Commit", "History", "Seen", "Violation", "ViolationKind", "check", "commits"]

ViolationKind = Literal[
    "held",  # a name that is not to be published
    "content",  # bytes that were never the file's
    "order",  # something that comes later in the history is there first
    "backwards",  # something that was there, or gone, is so again
    "early",  # before the writer asked for it
    "duplicate",  # the same version again
    "lost",  # at the end something is missing, or too much
    "unjudged",  # a request of which the log does not say enough
]
#: Keys named in one message.
_MOST_KEYS = 5


class Seen(NamedTuple):
    """An object, as far as the log knows it."""

    size: int | None
    md5: str | None = None


@dataclass(frozen=True)
class Commit:
    """A request that took effect on *key*; *seen* is None for a deletion."""

    number: int
    at_ns: int
    operation: str
    key: str
    seen: Seen | None

    def __str__(self) -> str:
        size = f" ({self.seen.size} bytes)" if self.seen and self.seen.size is not None else ""
        return f"commit {self.number}, {self.operation} {self.key!r}{size}"


@dataclass(frozen=True)
class Violation:
    kind: ViolationKind
    text: str
    commit: Commit | None = None

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def commits(log: Sequence[Request], *, bucket: str | None = None) -> Iterator[Commit]:
    """What became visible or went, in that order. *bucket* is the one of interest."""
    parts: dict[str, dict[str, int | None]] = {}
    found: dict[str, Seen] = {}
    done = [request for request in log if request.commit is not None]
    for request in sorted(done, key=lambda request: request.commit or 0):
        if bucket is not None and request.bucket != bucket:
            continue
        if request.operation in ("UploadPart", "UploadPartCopy"):
            copied = request.operation == "UploadPartCopy"
            numbers = parts.setdefault(_query(request, "uploadId"), {})
            numbers[_query(request, "partNumber")] = None if copied else request.bytes_in
            continue
        if request.operation not in _CHANGES:
            continue
        seen = _seen(request, parts, found)
        if seen is None:
            found.pop(request.key, None)
        else:
            found[request.key] = seen
        number, at_ns = request.commit or 0, request.committed_ns or 0
        yield Commit(number, at_ns, request.operation, request.key, seen)


_CHANGES = (
    "PutObject",
    "CompleteMultipartUpload",
    "CopyObject",
    "RenameObject",
    "DeleteObject",
    "DeleteObjects",
)


def _query(request: Request, name: str) -> str:
    return urllib.parse.parse_qs(request.query or "", keep_blank_values=True).get(name, [""])[0]


def _seen(
    request: Request, parts: Mapping[str, Mapping[str, int | None]], found: Mapping[str, Seen]
) -> Seen | None:
    """What *request* left under its key."""
    if request.operation.startswith("Delete"):
        return None
    etag: str | None = getattr(request, "etag", None)
    md5 = None if etag is None or "-" in etag else etag.strip('"')
    if request.operation == "PutObject":
        return Seen(request.bytes_in, md5)
    if request.operation == "CompleteMultipartUpload":
        sizes = list(parts.get(_query(request, "uploadId"), {}).values())
        known = [size for size in sizes if size is not None]
        return Seen(sum(known) if known and len(known) == len(sizes) else None, md5)
    source: str | None = getattr(request, "copy_source", None)
    if source is not None:
        return found.get(source.lstrip("/").partition("/")[2], Seen(None, md5))
    return Seen(None, md5)


def _fits(seen: Seen | None, value: Value) -> bool:
    if seen is None or value is ABSENT:
        return seen is None and value is ABSENT
    if value is LINK:
        return True
    size = 0 if value is MARKER else value.size if isinstance(value, Content) else None
    if seen.size is not None and seen.size != size:
        return False
    return not isinstance(value, Content) or seen.md5 is None or seen.md5 == value.md5


@functools.lru_cache(maxsize=1 << 17)
def fits_any(seen: Seen | None, values: Values) -> bool:
    """Whether *seen*, or nothing, may be one of *values*."""
    return any(_fits(seen, value) for value in values)


@dataclass
class Judge:
    """Takes the commits of a log one by one; `tests.writeback.markers` has another order."""

    history: History
    lake: dict[str, Seen] = field(default_factory=dict)
    #: How many events the lake is known to show, and which keys of the next.
    position: int = 0
    done: set[str] = field(default_factory=set)
    puts: Counter[tuple[str, Value]] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    #: An order that was broken once is not looked at further.
    ordered: bool = True

    def __post_init__(self) -> None:
        for path, content in self.history.initial.items():
            self.lake[self.history.prefix + path] = Seen(*content)

    def say(self, kind: ViolationKind, text: str, commit: Commit | None = None) -> None:
        self.violations.append(Violation(kind, text, commit))

    # One commit.

    def take(self, commit: Commit) -> None:
        """Judges the state after *commit*."""
        if commit.operation == "DeleteObjects":
            self.say("unjudged", f"{commit}: the log does not say which keys", commit)
            return
        if not commit.key.startswith(self.history.prefix):
            return
        if commit.seen is None:
            self.lake.pop(commit.key, None)
        else:
            self.lake[commit.key] = commit.seen
            self._published(commit, commit.seen)
        if self.ordered:
            self._find(commit)

    def _published(self, commit: Commit, seen: Seen) -> None:
        path = commit.key[len(self.history.prefix) :]
        if held(path.rstrip("/"), self.history.hold, directory=path.endswith("/")):
            self.say("held", f"{commit}: this name is not to be published", commit)
            self.ordered = False
            return
        counts = self.history.appearances
        right = [key for key in counts if key[0] == commit.key and _fits(seen, key[1])]
        if not right:
            self.say("content", f"{commit}: this was never what the writer closed", commit)
            self.ordered = False
        elif len(right) == 1:
            self.puts[right[0]] += 1
            if self.puts[right[0]] > counts[right[0]]:
                self.say("duplicate", f"{commit}: this version was there before", commit)

    def _find(self, commit: Commit) -> None:
        """The first state from here on that is the lake's."""
        for position in range(self.position, len(self.history.steps)):
            done = self._done(position)
            if done is None or (position == self.position and not done >= self.done):
                continue
            self.position, self.done = position, done
            event = self.history.steps[position + bool(done)].event
            if event is not None and event.started_ns > commit.at_ns > 0:
                self.say("early", f"{commit}: before {event}", commit)
            return
        self.ordered = False
        self._explain(commit)

    def _done(self, position: int) -> set[str] | None:
        """What is seen of the step after *position*: nothing, or some of its keys; None if the
        lake is not at *position* nor between it and the next."""
        steps = self.history.steps
        if self._shows(steps[position].state):
            return set()
        following = position + 1
        if following == len(steps) or self._shows(steps[following].state):
            return None  # The next position is the right one.
        return self._half_done(steps[position].state, steps[following])

    def _shows(self, state: State) -> bool:
        return not any(True for _ in self._differing(state))

    def _wrong_keys(self, state: State) -> list[str]:
        return sorted(self._differing(state))

    def _differing(self, state: State) -> Iterator[str]:
        lake = self.lake
        for key, values in state.items():
            if not fits_any(lake.get(key), values):
                yield key
        yield from lake.keys() - state.keys()

    def _half_done(self, old: State, step: Step) -> set[str] | None:
        """The keys that *step* has changed; None if it is not seen half done."""
        new = step.state
        changed = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
        if set(self._wrong_keys(old)) - changed:
            return None
        done, waiting = set(), set()
        for key in changed:
            seen = self.lake.get(key)
            was, will = old.get(key, NOTHING), new.get(key, NOTHING)
            if not fits_any(seen, was):
                if not fits_any(seen, will):
                    return None
                done.add(key)
            elif not fits_any(seen, will) and ABSENT not in will:
                waiting.add(key)
        gone = any(key not in self.lake for key in done)
        return None if waiting and (gone or step.last in done) else done

    def _explain(self, commit: Commit) -> None:
        """Says why no state is the lake's."""
        right = [
            number
            for number, step in enumerate(self.history.steps)
            if fits_any(commit.seen, step.state.get(commit.key, NOTHING))
        ]
        later = [number for number in right if number >= self.position]
        if not right:
            self.say("lost", f"{commit}: it is never removed in the history", commit)
            return
        if not later:
            at = right[-1]
            text = f"as after event {at}, though event {self.position} was shown"
            self.say("backwards", f"{commit}: {text}", commit)
            return
        step = self.history.steps[later[0]]
        keys = [key for key in self._wrong_keys(step.state) if key != commit.key]
        others = self._describe(keys, step.state)
        text = f"event {later[0]} ({step.event}) is shown, and still {others}"
        self.say("order", f"{commit}: {text}", commit)

    def _describe(self, keys: Sequence[str], state: State) -> str:
        told = []
        for key in keys[:_MOST_KEYS]:
            values = " or ".join(sorted(map(_tell, state.get(key, NOTHING))))
            told.append(f"{key!r} is {_tell_seen(self.lake.get(key))}, not {values}")
        if len(keys) > _MOST_KEYS:
            told.append(f"{len(keys) - _MOST_KEYS} more")
        return "; ".join(told) or "no state of the history has all of that"

    # The end.

    def end(self, sizes: Mapping[str, int] | None) -> None:
        """All that was acknowledged must be there. What was not may be."""
        if sizes is not None:
            self.lake = {key: self._confirmed(key, size) for key, size in sizes.items()}
        steps = self.history.steps[self.history.acknowledged :]
        if any(self._shows(step.state) for step in steps):
            return
        keys = self._wrong_keys(steps[0].state)
        self.say("lost", f"at the end {self._describe(keys, steps[0].state)}")

    def _confirmed(self, key: str, size: int) -> Seen:
        known = self.lake.get(key)
        return known if known is not None and known.size == size else Seen(size)


def _tell(value: Value) -> str:
    return f"{value.size} bytes" if isinstance(value, Content) else value.value


def _tell_seen(seen: Seen | None) -> str:
    if seen is None:
        return "not there"
    return "there" if seen.size is None else f"{seen.size} bytes"


def check(
    log: Sequence[Request],
    history: History,
    *,
    bucket: str | None = None,
    complete: bool = True,
    sizes: Mapping[str, int] | None = None,
) -> list[Violation]:
    """Everything that is wrong. If *complete*, the lake must show all that was acknowledged, and
    *sizes*, if given, is what it holds under the prefix in the end (`Lakesim.sizes`)."""
    judge = Judge(history)
    for commit in commits(log, bucket=bucket):
        judge.take(commit)
    if complete:
        judge.end(sizes)
    return judge.violations
