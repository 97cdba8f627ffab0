"""What the lake may show after each step of a history.

A state says for each key which values are right. Mostly it is one; where write-back directories
leave something open, it is several:

* a directory that is not empty may have a marker or not;
* what a file had when one of several writers closed it may be published, or not before the last;
* a file that is renamed while it is open for writing has its place at its last close; until then
  the lake may show what was there before the rename, or nothing, or its last closed content;
* how a symbolic link looks in the lake is not judged.
"""

from __future__ import annotations

import fnmatch
import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Literal, TypeAlias

from tests.writeback.recording import Content, Event

#: Names that are not published. A pattern that ends with a slash is for directories.
HOLD = ("*.tmp", ".tmp*", "*.orbax-checkpoint-tmp*/", "*.__lock")


class Special(Enum):
    ABSENT = "nothing"
    #: An object without content whose key ends with a slash.
    MARKER = "a directory marker"
    LINK = "a link"


ABSENT, MARKER, LINK = Special.ABSENT, Special.MARKER, Special.LINK
Value: TypeAlias = "Content | Special"
Values: TypeAlias = frozenset[Value]
#: What a key may have; one that is not there may only be absent.
State: TypeAlias = "dict[str, Values]"
NOTHING: Values = frozenset({ABSENT})
A_MARKER: Values = frozenset({MARKER})
MAYBE_MARKER: Values = frozenset({MARKER, ABSENT})


@functools.lru_cache(maxsize=1 << 17)
def held(path: str, patterns: tuple[str, ...], *, directory: bool = False) -> bool:
    """Whether *path*, or a directory that it is in, has a name that is not published."""
    *parents, name = path.split("/")
    names = [(parent, True) for parent in parents] + [(name, directory)]
    return any(
        fnmatch.fnmatchcase(component, pattern.rstrip("/"))
        for component, is_directory in names
        for pattern in patterns
        if is_directory or not pattern.endswith("/")
    )


@dataclass(eq=False)
class _Node:
    """A file, a directory or a link, whatever its name."""

    kind: Literal["file", "directory", "link"]
    closed: Content | None = None
    #: When it was closed: a number of an event.
    closed_at: int = -1
    #: What it was when some of its writers closed it.
    maybe: set[Value] = field(default_factory=set)
    writers: int = 0

    def values(self) -> Values:
        """What is right for it in the lake."""
        if self.kind != "file":
            return frozenset({LINK if self.kind == "link" else MARKER})
        return frozenset({self.closed or ABSENT, *self.maybe})


class _Tree:
    """The directory as the writer sees it, with what of it was closed."""

    def __init__(self, initial: Mapping[str, Content]) -> None:
        self.nodes: dict[str, _Node] = {"": _Node("directory")}
        self._open: dict[int, _Node] = {}
        #: What the lake may still show while a file that was renamed is open.
        self._lingering: dict[str, tuple[_Node, Values]] = {}
        for path, content in initial.items():
            parents = path.split("/")[:-1]
            for depth in range(1, len(parents) + 1):
                self.nodes.setdefault("/".join(parents[:depth]), _Node("directory"))
            self.nodes[path] = _Node("file", content)

    def apply(self, event: Event, number: int) -> set[str]:
        """Does what *event* did. The paths that it gave something, though it may be the same."""
        if event.kind == "rename":
            assert event.target is not None
            return self._rename(event.path, event.target)
        if event.kind in ("unlink", "rmdir"):
            del self.nodes[event.path]
            return set()
        if event.kind in ("open", "close"):
            assert event.file is not None
            return self._close(event, number) if event.kind == "close" else self._opened(event)
        self.nodes[event.path] = _Node("directory" if event.kind == "mkdir" else "link")
        return {event.path}

    def _opened(self, event: Event) -> set[str]:
        assert event.file is not None
        node = self._open.get(event.file) or self.nodes.setdefault(event.path, _Node("file"))
        self._open[event.file] = node
        node.writers += 1
        return set()

    def _close(self, event: Event, number: int) -> set[str]:
        assert event.file is not None
        assert event.content is not None
        node = self._open[event.file]
        node.writers -= 1
        if event.last:
            del self._open[event.file]
            node.closed, node.closed_at, node.maybe = event.content, number, set()
            self._lingering = {
                path: item for path, item in self._lingering.items() if item[0] is not node
            }
        else:
            node.maybe.add(event.content)
        return {path for path, other in self.nodes.items() if other is node}

    def _rename(self, source: str, target: str) -> set[str]:
        if source == target:
            return set()
        moved = {
            target + path[len(source) :]: (path, node)
            for path, node in self.nodes.items()
            if path == source or path.startswith(source + "/")
        }
        for new, (path, node) in moved.items():
            if node.writers:
                for at in (path, new):
                    self._lingering[at] = (node, self._values(at))
        for path, _ in moved.values():
            del self.nodes[path]
        self.nodes.update({new: node for new, (_, node) in moved.items()})
        return set(moved)

    def _values(self, path: str) -> Values:
        """What is right for the file or link at *path*."""
        node = self.nodes.get(path)
        values = NOTHING if node is None else node.values()
        if path in self._lingering:
            values |= self._lingering[path][1] | NOTHING
        return values

    def shown(self, prefix: str, hold: tuple[str, ...]) -> State:
        """The state of the lake."""
        parents = {path.rpartition("/")[0] for path in self.nodes if path}
        state: State = {prefix: MAYBE_MARKER} if prefix else {}
        for path in self.nodes.keys() | self._lingering.keys():
            node = self.nodes.get(path)
            directory = node is not None and node.kind == "directory"
            if not path or held(path, hold, directory=directory):
                continue
            if directory:
                state[f"{prefix}{path}/"] = MAYBE_MARKER if path in parents else A_MARKER
                continue
            values = self._values(path)
            if values != NOTHING:
                state[prefix + path] = values
        return state

    def last_closed(self, paths: set[str]) -> str | None:
        """Which of *paths* is the file that was closed last."""
        files = [path for path in paths if path in self.nodes and self.nodes[path].closed]
        return max(files, key=lambda path: self.nodes[path].closed_at, default=None)


@dataclass(frozen=True)
class Step:
    """The *state* after an *event*, and how it is reached: where there are several keys to change,
    *last* is the one that must not come before others."""

    state: State
    event: Event | None = None
    last: str | None = None


@dataclass(frozen=True)
class History:
    """What was done in a root whose keys begin with *prefix*, and what was in it before."""

    events: Sequence[Event]
    prefix: str = ""
    hold: tuple[str, ...] = HOLD
    initial: Mapping[str, Content] = field(default_factory=dict)

    @cached_property
    def steps(self) -> list[Step]:
        """One for the beginning and one for each event."""
        return [step for step, _ in self._run]

    @cached_property
    def appearances(self) -> Counter[tuple[str, Value]]:
        """How often each key may come to have each value."""
        counted: Counter[tuple[str, Value]] = Counter()
        before = self.steps[0].state
        counted.update({(key, value): 0 for key, values in before.items() for value in values})
        for step, given in self._run[1:]:
            for key, values in step.state.items():
                if key in given or before.get(key) != values:
                    counted.update((key, value) for value in values)
            before = step.state
        return counted

    @cached_property
    def acknowledged(self) -> int:
        """How many events were. All, or all but the last."""
        pending = [n for n, event in enumerate(self.events) if event.acknowledged_ns is None]
        if pending and pending != [len(self.events) - 1]:
            raise ValueError("only the last event may be without an answer")
        return len(self.events) - len(pending)

    @cached_property
    def _run(self) -> list[tuple[Step, set[str]]]:
        return list(self._replay())

    def _replay(self) -> Iterator[tuple[Step, set[str]]]:
        tree = _Tree(self.initial)
        yield Step(tree.shown(self.prefix, self.hold)), set()
        for number, event in enumerate(self.events):
            given = tree.apply(event, number)
            last = tree.last_closed(given)
            key = None if last is None else self.prefix + last
            step = Step(tree.shown(self.prefix, self.hold), event, key)
            yield (
                step,
                {self.prefix + path for path in given}
                | {f"{self.prefix}{path}/" for path in given},
            )
