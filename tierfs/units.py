"""Sizes, durations, fractions and modes as people write them, and back.

Every ``parse_*`` takes one string and raises ``ValueError`` with a message that names the remedy;
``tierfs.config`` puts the option's name before it. Every ``format_*`` gives a string that its
``parse_*`` reads back to the same value (durations and fractions to the same float).
"""

from __future__ import annotations

import math
import re

_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z]*)")
_SIZE_SHIFT = {"K": 10, "M": 20, "G": 30, "T": 40, "P": 50}

_DURATION_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>ms|s|m|h|d)")

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})


def parse_size(text: str) -> int:
    """Bytes from ``512M``, ``1.5TiB``. A unit is required and binary: ``G`` and ``GiB`` are 2^30.

    ``GB`` is refused, because half of its writers mean 10^9.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("a size is a number and a unit, for example 800G")
    number, unit = match["number"], match["unit"]
    if not unit:
        raise ValueError(f"a size needs a unit, K, M, G, T or P: for example {number}G")
    letter = unit[0].upper()
    if letter not in _SIZE_SHIFT:
        raise ValueError(f"{unit} is no unit of size; write K, M, G, T or P, for example {number}G")
    rest = unit[1:].lower()
    if rest == "b":
        raise ValueError(f"{unit} is ambiguous; units are binary here, write {number}{letter}")
    if rest not in ("", "ib"):
        raise ValueError(f"{unit} is no unit of size; write K, M, G, T or P, for example {number}G")
    factor = 1 << _SIZE_SHIFT[letter]
    return int(number) * factor if "." not in number else int(float(number) * factor)


def format_size(size_bytes: int) -> str:
    """The shortest exact spelling that ``parse_size`` reads (whole multiples of 1 KiB only)."""
    for letter, shift in reversed(_SIZE_SHIFT.items()):
        if size_bytes >= 1 << shift and size_bytes % (1 << shift) == 0:
            return f"{size_bytes >> shift}{letter}"
    return f"{size_bytes / 1024!r}K"


def parse_rate(text: str) -> int:
    """Bytes per second from ``200M/s``; the ``/s`` may be left out. Not 0."""
    rate = parse_size(text.strip().removesuffix("/s"))
    if not rate:
        raise ValueError("it cannot be nothing; to switch it off, say so")
    return rate


def format_rate(bytes_per_s: int) -> str:
    """What ``parse_rate`` reads."""
    return f"{format_size(bytes_per_s)}/s"


def human_size(size_bytes: float) -> str:
    """A size for people to read, about three digits: ``1.23 GiB``. Not exact."""
    value = float(size_bytes)
    names = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while abs(value) >= 1000 and len(names) > 1:
        value /= 1024
        del names[0]
    unit = names[0]
    if unit == "B":
        return f"{value:.0f} B"
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f} {unit}"


def parse_duration(text: str) -> float:
    """Seconds from ``250ms``, ``60s``, ``5m``, ``1h``, ``7d``; ``inf`` is for ever.

    A unit is required, except that ``0`` needs none.
    """
    text = text.strip()
    if text == "inf":
        return math.inf
    if text == "0":
        return 0.0
    match = _DURATION.fullmatch(text)
    if match is None:
        number = text if re.fullmatch(r"\d+(\.\d+)?", text) else "60"
        raise ValueError(
            f"a duration needs a unit, ms, s, m, h or d: for example {number}s, or inf"
        )
    return float(match["number"]) * _DURATION_S[match["unit"]]


def format_duration(seconds: float) -> str:
    """The spelling in the largest whole unit that ``parse_duration`` reads."""
    if math.isinf(seconds):
        return "inf"
    for unit in ("d", "h", "m"):
        if seconds >= _DURATION_S[unit] and seconds % _DURATION_S[unit] == 0:
            return f"{int(seconds // _DURATION_S[unit])}{unit}"
    if seconds == int(seconds):
        return f"{int(seconds)}s"
    return f"{seconds:f}".rstrip("0") + "s"


def parse_fraction(text: str) -> float:
    """A share between 0 and 1 (1 excluded) from ``10%`` or ``0.1``."""
    text = text.strip()
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise ValueError("a share of the whole is written 10% or 0.10") from None
    if not 0 <= value < 1:
        raise ValueError("a share of the whole lies between 0% and 99%, for example 10%")
    return value


def format_fraction(value: float) -> str:
    """A share as a percentage."""
    return f"{round(value * 100, 6):g}%"


def parse_octal(text: str) -> int:
    """Permission bits from their octal spelling, ``022`` or ``0o22``."""
    digits = text.strip().removeprefix("0o")
    if not re.fullmatch(r"[0-7]{1,4}", digits) or int(digits, 8) > 0o777:
        raise ValueError("permission bits are octal, 000 to 777, for example 022")
    return int(digits, 8)


def format_octal(value: int) -> str:
    """Permission bits as three octal digits."""
    return f"{value:03o}"


def parse_boolean(text: str) -> bool:
    """``true``, ``yes``, ``on``, ``1``, and their opposites."""
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError("it is either true or false")


def format_boolean(value: bool) -> str:
    """``true`` or ``false``, as TOML has it."""
    return "true" if value else "false"


def parse_count(text: str) -> int:
    """A whole number above zero."""
    if not re.fullmatch(r"\d+", text.strip()) or int(text) < 1:
        raise ValueError("it is a whole number, 1 or more")
    return int(text)
