"""One write-back rule: what it may say, and how that is written.

``GLOB[,NAME=VALUE]...``, or a table of a TOML file. Commas separate; the values of one option are
separated by ``|``; after a backslash a comma, a ``|`` or a backslash is itself. `RULE_OPTIONS` has
the options.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from tierfs.lake.writing import AS_USUAL, Storage

#: Names that are taken to be temporary: those of torch DCP, safetensors, Orbax and TensorStore.
HOLD = (
    b"*.tmp",
    b".tmp*",
    b"*.orbax-checkpoint-tmp*",
    b"*.__lock",
)
STRICT, BY_MARKERS = "strict", "markers"
LOCAL, IN_LAKE = "local", "lake"


class RuleOption(NamedTuple):
    """What a rule may be told: what its value looks like, and what that means."""

    value: str
    help: str


RULE_OPTIONS = {
    "order": RuleOption(
        f"{STRICT}\\|{BY_MARKERS}",
        "In which order the lake shows what was acknowledged: one change after the other, or new"
        " files several at a time, and everything else once all before it is there. The rules of"
        " one root agree on it.",
    ),
    "durability": RuleOption(
        f"{LOCAL}\\|{IN_LAKE}",
        "When `close`, `fsync`, `rename` and the like return: when the change is in the journal on"
        " this disk, or when the lake has it, too.",
    ),
    "storage_class": RuleOption("CLASS", "The storage class of objects, such as `STANDARD_IA`."),
    "tags": RuleOption("KEY=VALUE\\|...", "The tags of objects, up to ten."),
    "kms_key": RuleOption("KEY", "The key of SSE-KMS that objects are encrypted with: id or ARN."),
    "hold": RuleOption(
        "NAME\\|...",
        "Which names are temporary, instead of "
        + ", ".join(f"`{name.decode()}`" for name in HOLD)
        + "; an empty value: none.",
    ),
}

#: Objects of these cannot be read back, nor renamed, without being restored first.
_ARCHIVED = ("GLACIER", "DEEP_ARCHIVE")
#: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-tagging.html
_TAG = re.compile(r"[\w +\-=.:/@]*")
_MOST_TAGS, _LONGEST_KEY, _LONGEST_VALUE = 10, 128, 256


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. *hold* are patterns of temporary names, None the usual ones."""

    glob: str
    order: str = STRICT
    durability: str = LOCAL
    storage: Storage = AS_USUAL
    hold: tuple[str, ...] | None = None

    def __str__(self) -> str:
        """As `parse_rule` takes it, always in the same way."""
        storage = self.storage
        given = {
            "order": [self.order] if self.order != STRICT else None,
            "durability": [self.durability] if self.durability != LOCAL else None,
            "storage_class": [storage.storage_class] if storage.storage_class else None,
            "tags": ["=".join(tag) for tag in storage.tags] or None,
            "kms_key": [storage.kms_key] if storage.kms_key else None,
            "hold": self.hold,
        }
        told = [
            f"{name}={'|'.join(map(_escaped, values))}"
            for name, values in given.items()
            if values is not None
        ]
        return ",".join([_escaped(self.glob), *told])


def parse_rule(given: str | Mapping[str, object]) -> Rule:
    """*given*, a text or a table of a TOML file, as a rule, normalised. Raises ValueError with the
    remedy."""
    if isinstance(given, str):
        glob, *words = _split(given, ",")
        return _rule(_plain(glob), _said(words))
    glob_value = given.get("glob")
    if not isinstance(glob_value, str):
        raise ValueError('a rule has a glob: {glob = "checkpoints/**"}')
    return _rule(glob_value, _tabled(given))


def _said(words: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Options as a text has them: names, and their values."""
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(
                f"{_plain(word)} is no NAME=VALUE; a comma in a path is written \\, (backslash,"
                " comma), and several rules are given one at a time"
            )
        values = [_plain(one) for one in _split(value, "|")] if value else []
        yield name.strip().replace("-", "_"), values


def _tabled(table: Mapping[str, object]) -> Iterator[tuple[str, list[str]]]:
    """The same of a table."""
    for name, value in table.items():
        values: object = value
        if name == "tags" and isinstance(value, Mapping):
            if not all(isinstance(text, str) for text in value.values()):
                raise ValueError("tags: the values of tags are strings")
            if any("=" in key for key in value):
                raise ValueError("tags: no = in a tag's key")
            values = [f"{key}={text}" for key, text in value.items()]
        elif isinstance(value, str):
            values = [value]
        if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
            raise ValueError(f"{name}: the value must be a string, or an array of strings")
        if name != "glob":
            yield name.replace("-", "_"), values


def _rule(glob: str, options: Iterable[tuple[str, list[str]]]) -> Rule:
    found: dict[str, list[str]] = {}
    for name, values in options:
        if name not in RULE_OPTIONS:
            near = difflib.get_close_matches(name, RULE_OPTIONS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(RULE_OPTIONS)}"
            raise ValueError(f"a rule has no option {name}; {hint}")
        if name in found:
            raise ValueError(f"{name} is there twice; keep one")
        found[name] = values
    storage = Storage(
        _one(found, "storage_class", "", _storage_class),
        _tags(found.get("tags", [])),
        _one(found, "kms_key", "", _kms_key),
    )
    order = _one(found, "order", STRICT, _choice(STRICT, BY_MARKERS))
    durability = _one(found, "durability", LOCAL, _choice(LOCAL, IN_LAKE))
    hold = tuple(map(_held_name, found["hold"])) if "hold" in found else None
    return Rule(_glob(glob), order, durability, storage, hold)


def _one(
    found: Mapping[str, list[str]], name: str, default: str, check: Callable[[str], str]
) -> str:
    if name not in found:
        return default
    values = found[name]
    if len(values) != 1 or not values[0]:
        raise ValueError(f"{name} has one value")
    try:
        return check(values[0])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _choice(*words: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in words:
            raise ValueError(f"it is one of {', '.join(words)}")
        return text

    return check


def _storage_class(text: str) -> str:
    if text in _ARCHIVED:
        raise ValueError(
            "what is archived can be neither read nor renamed; let a lifecycle rule move it there"
        )
    if not re.fullmatch(r"[A-Z0-9_]+", text):
        raise ValueError("a class is written like STANDARD_IA")
    return text


def _kms_key(text: str) -> str:
    if not re.fullmatch(r"[\w:/-]{1,2048}", text, re.ASCII):
        raise ValueError("give the id, ARN or alias of a key (arn:aws:kms:REGION:ACCOUNT:key/ID)")
    return text


def _tags(values: Iterable[str]) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for tag in values:
        key, equals, value = tag.partition("=")
        if not key or not equals:
            raise ValueError("tags: write KEY=VALUE, several as KEY=VALUE|KEY=VALUE")
        if key in found:
            raise ValueError(f"tags: {key} is there twice; keep one")
        if not _TAG.fullmatch(key) or not _TAG.fullmatch(value) or key.startswith("aws:"):
            raise ValueError(
                "tags: letters, digits, spaces and + - = . _ : / @, and no key in aws:"
            )
        if len(key) > _LONGEST_KEY or len(value) > _LONGEST_VALUE:
            raise ValueError(
                f"tags: keys have up to {_LONGEST_KEY} characters, values {_LONGEST_VALUE}"
            )
        found[key] = value
    if len(found) > _MOST_TAGS:
        raise ValueError(f"tags: an object has at most {_MOST_TAGS}")
    return tuple(found.items())


def _held_name(text: str) -> str:
    if not text or "/" in text:
        raise ValueError("hold: patterns of single names, such as *.part")
    return text


def _glob(text: str) -> str:
    rule = text.strip("/")
    parts = rule.split("/")
    if not rule or "" in parts or "." in parts or ".." in parts:
        raise ValueError("a rule is a path below the mount with wildcards, such as checkpoints/**")
    if any("**" in part and part != "**" for part in parts):
        raise ValueError("** stands for whole components: write checkpoints/**")
    return rule


def _split(text: str, sign: str) -> list[str]:
    """*text* at each *sign* that is not behind a backslash; backslashes stay."""
    found = [""]
    for piece in re.findall(r"\\.|.|\\$", text, re.DOTALL):
        if piece == sign:
            found.append("")
        else:
            found[-1] += piece
    return found


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def _escaped(text: str) -> str:
    return re.sub(r"([\\,|])", r"\\\1", text)
