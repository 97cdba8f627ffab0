"""What may stand after ``-o``: our options, and what mount(8), fstab(5) and systemd put there.

The rule of mount(8) is kept: a helper is given every option that mount(8) did not eat, and must let
through what is not its own matter. What is let through has one of three fates:

- *ours by another name*: ``ro``, ``rw`` and ``exec`` become options of ours;
- *for the kernel*: SELinux labels (``context=`` and its relatives) go to mount(2) as they are;
- *nobody's here*: fstab's own words (``defaults``, ``nofail``, ``_netdev``, ``x-*``,
  ``comment=``), and VFS switches that mean nothing for a mount that is always ``nosuid,nodev`` and
  keeps no access times.

Everything else is an error that names the nearest valid option, unless ``-s`` asks for tolerance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tierfs.errors import ConfigError
from tierfs.options import BOOLEAN, OPTIONS, POSITIONAL, find_option

#: VFS words that are an option of ours by another name.
_ALIASES = {
    "ro": ("read_only", "true"),
    "rw": ("read_only", "false"),
    "exec": ("noexec", "false"),
}

#: Words without a meaning here. ``default_permissions``, ``nosuid`` and ``nodev`` always hold.
_IGNORED_WORDS = """
    defaults auto noauto nofail fail _netdev _rnetdev user nouser users owner noowner group nogroup
    suid nosuid dev nodev default_permissions
    atime noatime relatime norelatime strictatime nostrictatime diratime nodiratime
    lazytime nolazytime sync async dirsync mand nomand silent loud quiet iversion noiversion
    symfollow nosymfollow bootwait nobootwait noquota seclabel
"""
IGNORED = frozenset(_IGNORED_WORDS.split())
#: The same, for words that carry a value.
_IGNORED_VALUES = frozenset({"comment", "user", "owner", "helper", "uhelper", "type", "pass"})
_SECURITY = frozenset({"context", "fscontext", "defcontext", "rootcontext"})
_REFUSED = {
    "remount": "unmount and mount again; a running mount keeps its options",
    "bind": "bind mounts are made with mount --bind, after tierfs has mounted",
    "rbind": "bind mounts are made with mount --rbind, after tierfs has mounted",
    "loop": "a lake is no block device",
    "nodefault_permissions": "permissions are always checked by the kernel",
}


@dataclass(slots=True)
class MountOptions:
    """What one or several ``-o`` said. *values* is for `Config.assemble`, with lists of what may be
    given several times; *ignored* for ``-v``."""

    values: dict[str, Any] = field(default_factory=dict)
    security: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    config: Path | None = None


def parse_mount_options(arguments: Iterable[str], *, sloppy: bool = False) -> MountOptions:
    """Parse the arguments of ``-o``; the last one wins, but of what may be given several times.

    *sloppy* passes over unknown options. Values are not parsed here: `Config.assemble` does that.
    Raises ConfigError.
    """
    result = MountOptions()
    for argument in arguments:
        for word in _split(argument):
            _take(result, word, sloppy)
    return result


def _take(result: MountOptions, word: str, sloppy: bool) -> None:
    name, has_value, value = word.partition("=")
    key = name.replace("-", "_")
    if key in _REFUSED:
        raise ConfigError("-o " + name, "", _REFUSED[key])
    if word in _ALIASES:
        target, text = _ALIASES[word]
        result.values[target] = text
    elif name in _SECURITY:
        result.security.append(word)
    elif word in IGNORED or name in _IGNORED_VALUES or name.lower().startswith("x-"):
        result.ignored.append(word)
    elif key == "config":
        if not has_value:
            raise ConfigError("-o config", "", "give the file: config=/etc/tierfs/lake.toml")
        result.config = Path(value)
    elif key in POSITIONAL:
        raise ConfigError("-o " + name, "", f"{POSITIONAL[key]} is an argument, not an option")
    elif sloppy and key not in OPTIONS:
        result.ignored.append(word)
    else:
        option = find_option(name, "-o ", [*IGNORED, *_ALIASES, *_SECURITY, "config"])
        if not has_value and option.kind is not BOOLEAN:
            hint = f"give a value: {option.name}={option.kind.name}"
            raise ConfigError("-o " + name, "", hint)
        if option.kind.several:
            result.values.setdefault(option.name, []).append(value)
        else:
            result.values[option.name] = value if has_value else "true"


def _split(text: str) -> Iterator[str]:
    """The words of a comma-separated list. Commas count for nothing within ``"..."`` (SELinux
    labels) and after a backslash."""
    word: list[str] = []
    quoted = escaped = False
    for character in text:
        if escaped:
            word.append(character)
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
            word.append(character)
        elif character == "," and not quoted:
            yield from _word(word)
            word = []
        else:
            word.append(character)
    if quoted:
        raise ConfigError("-o", text, "a quotation mark is not closed")
    yield from _word(word)


def _word(characters: list[str]) -> Iterator[str]:
    word = "".join(characters).strip()
    name, equals, value = word.partition("=")
    if name not in _SECURITY and len(value) >= 2 and value[0] == value[-1] == '"':
        value = value[1:-1]
    if word:
        yield name + equals + value
