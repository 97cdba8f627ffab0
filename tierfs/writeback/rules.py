"""Which paths are written back, how, to which root they belong, and which names are held.

A rule is a glob over paths relative to the mount: ``*`` and ``?`` stay within a component, ``**``
is any number of components. Its *root* is the directory before the first wildcard: the lake shows
the history of each root in order, and a rename does not leave it. Of two rules whose roots lie in
each other, the outer root is that of both, so that no path has two. Its options
(`tierfs.writeback.rule`) are a path's, and the first rule that matches says them; but the order is
a root's, and rules that share one agree on it.

A held name is a temporary one, by the conventions of those who write checkpoints: what has such a
component is not published until a rename takes it away.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tierfs.errors import ConfigError, show
from tierfs.lake.writing import AS_USUAL, Storage
from tierfs.writeback.rule import HOLD, IN_LAKE, STRICT, Rule, parse_rule

#: Names of files that say that what was written before them is whole, so that nothing of it may be
#: missing where they are: those of DeepSpeed and Megatron (``latest``,
#: ``latest_checkpointed_iteration.txt``, ``metadata.json``), torch DCP (``.metadata``), Orbax, the
#: HF Trainer (``trainer_state.json``) and safetensors (``model.safetensors.index.json``), Spark.
MARKERS = (
    b"latest*",
    b"*.metadata",
    b"metadata.json",
    b"commit_success*",
    b"trainer_state.json",
    b"*.index.json",
    b"_SUCCESS",
)


@dataclass(frozen=True, slots=True)
class _Matcher:
    rule: Rule
    root: bytes
    parts: tuple[bytes, ...]
    whole: re.Pattern[bytes]
    held: re.Pattern[bytes]

    @classmethod
    def of(cls, rule: Rule) -> _Matcher:
        parts = tuple(_bytes(rule.glob).split(b"/"))
        fixed = []
        for part in parts[:-1]:
            if _is_wild(part):
                break
            fixed.append(part)
        hold = HOLD if rule.hold is None else map(_bytes, rule.hold)
        return cls(
            rule, b"/".join(fixed), parts, re.compile(_pattern(parts), re.DOTALL), _any_of(hold)
        )

    def leads_to(self, parts: list[bytes]) -> bool:
        """Whether a path below the directory *parts* can match."""
        for n, part in enumerate(self.parts):
            if part == b"**" or n == len(parts):
                return True
            if re.fullmatch(_component(part), parts[n], re.DOTALL) is None:
                return False
        return False


class Rules:
    """The rules of one mount; pure. Paths are relative to the mount, without slashes at the
    ends."""

    def __init__(self, rules: Iterable[str]) -> None:
        self._rules = [_Matcher.of(parse_rule(rule)) for rule in rules]
        if not self._rules:
            raise ConfigError("no write-back rule", "", "give one, such as checkpoints/**")
        self.roots = _outermost(rule.root for rule in self._rules)
        self._orders = {root: self._order(root) for root in self.roots}
        #: Whether anybody waits for the lake at all.
        self.any_waits = any(rule.rule.durability == IN_LAKE for rule in self._rules)

    def _order(self, root: bytes) -> str:
        inside = [rule.rule for rule in self._rules if self._root(rule.root) == root]
        for rule in inside:
            if rule.order != inside[0].order:
                raise ConfigError(
                    "write-back rules of one root have different orders",
                    f"{inside[0].glob} is {inside[0].order}, {rule.glob} is {rule.order}",
                    f"both belong to /{show(root)}: give both the same order, or other roots",
                )
        return inside[0].order

    def __iter__(self) -> Iterator[tuple[Rule, bytes]]:
        """Each rule and the directory before its first wildcard."""
        return ((rule.rule, rule.root) for rule in self._rules)

    def root_of(self, path: bytes) -> bytes | None:
        """The root that *path* is written back in, or None: it is read-only."""
        return None if self._first(path) is None else self._root(path)

    def _first(self, path: bytes) -> _Matcher | None:
        return next((rule for rule in self._rules if rule.whole.fullmatch(path)), None)

    def root_of_directory(self, path: bytes) -> bytes | None:
        """As `root_of`, of a directory: one that leads to what matches may be made, too."""
        root = self.root_of(path)
        if root is None and path:
            parts = path.split(b"/") if path else []
            if any(rule.leads_to(parts) for rule in self._rules):
                return self._root(path)
        return root

    def root_near(self, path: bytes) -> bytes | None:
        """The root that *path* lies in, or the first that it leads to, whatever matches it."""
        for root in self.roots:
            if not root or path == root or path.startswith(root + b"/"):
                return root
        return next((root for root in self.roots if root.startswith(path + b"/")), None)

    def _root(self, path: bytes) -> bytes:
        root = self.root_near(path)
        assert root is not None, "a rule matches it, or what is below it"
        return root

    def order_of(self, root: bytes) -> str:
        """In which order the lake shows what is done in *root*; strictly, if no rule is left."""
        return self._orders.get(root, STRICT)

    def waits(self, path: bytes) -> bool:
        """Whether who changes *path*, or the directory that ends in a slash, waits for the lake."""
        rule = self._first(path.rstrip(b"/")) if self.any_waits else None
        return rule is not None and rule.rule.durability == IN_LAKE

    def storage_of(self, path: bytes) -> Storage:
        """How the lake is to keep *path*, or the directory that ends in a slash."""
        rule = self._first(path.rstrip(b"/"))
        return AS_USUAL if rule is None else rule.rule.storage

    def is_held(self, path: bytes) -> bool:
        """Whether a component of *path* is a temporary name."""
        rule = self._first(path)
        held = _USUALLY_HELD if rule is None else rule.held
        return any(held.fullmatch(part) for part in path.split(b"/"))


def is_marker(path: bytes) -> bool:
    """Whether *path* has a name that says that what was written before is whole."""
    return _MARKER.fullmatch(path.rstrip(b"/").rpartition(b"/")[2]) is not None


def _outermost(roots: Iterable[bytes]) -> tuple[bytes, ...]:
    found: list[bytes] = []
    for root in sorted(set(roots)):
        if not any(not outer or root.startswith(outer + b"/") for outer in found):
            found.append(root)
    return tuple(found)


def _is_wild(part: bytes) -> bool:
    return b"*" in part or b"?" in part


def _pattern(parts: tuple[bytes, ...]) -> bytes:
    pattern = b""
    for n, part in enumerate(parts):
        last = n == len(parts) - 1
        if part == b"**":
            pattern += b".+" if last else b"(?:.+/)?"
        else:
            pattern += _component(part) + (b"" if last else b"/")
    return pattern


def _component(glob: bytes) -> bytes:
    pattern = b""
    for n in range(len(glob)):
        sign = glob[n : n + 1]
        if sign == b"*":
            pattern += b"[^/]*"
        elif sign == b"?":
            pattern += b"[^/]"
        else:
            pattern += re.escape(sign)
    return pattern


def _any_of(names: Iterable[bytes]) -> re.Pattern[bytes]:
    """What a component looks like that has one of *names*, which are patterns."""
    found = [_component(name) for name in names]
    return re.compile(b"(?:%s)" % b"|".join(found) if found else b"(?!)", re.DOTALL)


def _bytes(text: str) -> bytes:
    """As the command line gives names that are not UTF-8."""
    return text.encode("utf-8", "surrogateescape")


_USUALLY_HELD = _any_of(HOLD)
_MARKER = _any_of(MARKERS)
