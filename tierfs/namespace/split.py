"""Where to split a range of names of which only the beginning is known.

Names of a large flat directory are numbers or hashes behind a common stem (``sample-0001234.jpg``,
``3fa9...``). So the names of one page are read as numbers: the *stem* is what they share, up to the
first digit; the *digits* are the smallest usual alphabet (decimal, hexadecimal, ...) that has the
bytes in which they differ. How far the page went in that number line is taken for how far others
will go.

While the end is not known a split goes as many pages ahead as the listing has shown to be worth
trying, at most half-way to the last number of that stem; once it is, half-way to it. A wrong guess
costs a request and never an entry: a point is a place between names, not a name. Plain calculation,
no state.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

_DECIMAL = b"0123456789"
_UPPER = bytes(range(ord("A"), ord("Z") + 1))
_LOWER = bytes(range(ord("a"), ord("z") + 1))
#: Alphabets of names, smallest first, each in byte order. ASCII only, so that a point is UTF-8
#: where the names are; no control character, which not every store takes.
_ALPHABETS = (
    _DECIMAL,
    _DECIMAL + b"ABCDEF",
    _DECIMAL + b"abcdef",
    _UPPER,
    _LOWER,
    _DECIMAL + _UPPER,
    _DECIMAL + _LOWER,
    _DECIMAL + _UPPER + _LOWER,
    bytes(byte for byte in range(0x20, 0x7F) if byte != ord("/")),
)
#: Digits that count after the first in which the names of a page differ: a page of 1,000 names
#: is told apart to a hundred-thousandth.
_PRECISION = 8
#: Names of a page that are looked at, and bytes of them after the first that differs.
_SAMPLE = 32
_LOOKED_AT = 16


class Split(NamedTuple):
    """A place to split at. *pages* are expected in the range as far as it is reckoned with; about
    half of them come after *point*."""

    pages: int
    point: bytes


class Scale(NamedTuple):
    """The number line of one page. *span* is how far the page went on it, > 0."""

    stem: bytes
    digits: bytes
    width: int
    span: int

    def split(self, at: bytes, end: bytes | None, reach: int) -> Split | None:
        """Where to split what comes after *at*, the last name of the page (or that and a ``/``), up
        to *end* (None: not known). An end that is not known, or on another number line, is reckoned
        to be at most twice *reach* pages away.

        The point is strictly between *at* and *end*, has no ``/``, and is ASCII after the stem.
        """
        low = self._number(at)
        if end is not None and end.startswith(self.stem):
            half = (self._number(end) - low) // 2
        else:
            half = min((len(self.digits) ** self.width - low) // 2, reach * self.span)
        if half <= 0:
            return None
        point = self.stem + self._spell(low + half)
        if point <= at or (end is not None and point >= end):
            return None
        return Split(2 * half // self.span, point)

    def _number(self, name: bytes) -> int:
        """The greatest number that does not sort after *name*, which begins with the stem."""
        digits, base = self.digits, len(self.digits)
        value = 0
        at = len(self.stem)
        for left in range(self.width - 1, -1, -1):
            if at == len(name):
                return int(value * base ** (left + 1))
            digit = bisect_right(digits, name[at]) - 1
            if digit < 0:
                return int(value * base ** (left + 1))
            value = value * base + digit
            if digits[digit] != name[at]:
                return int((value + 1) * base**left - 1)
            at += 1
        return value

    def _spell(self, value: int) -> bytes:
        """*value* in digits, without the zeros at the end that say nothing."""
        spelled = bytearray()
        for _ in range(self.width):
            value, digit = divmod(value, len(self.digits))
            spelled.append(self.digits[digit])
        spelled.reverse()
        return bytes(spelled).rstrip(self.digits[:1])


def sample_of(names: Sequence[bytes]) -> list[bytes]:
    """A few of *names*, which are sorted: the first, the last, and some in between."""
    if len(names) <= _SAMPLE:
        return list(names)
    return [names[n * (len(names) - 1) // (_SAMPLE - 1)] for n in range(_SAMPLE)]


def scale_of(names: Sequence[bytes]) -> Scale | None:
    """The number line of a page of which *names* are a sample, sorted, without ``/``. None if they
    do not look like numbers of any kind."""
    if len(names) < 2:
        return None
    first, last = names[0], names[-1]
    same = 0
    shorter = min(len(first), len(last))
    while same < shorter and first[same] == last[same]:
        same += 1
    differing: set[int] = set()
    for at in range(same, same + _LOOKED_AT):
        column = {name[at] for name in names if at < len(name)}
        if len(column) > 1 or (at == same and shorter == same):
            differing |= column
    for digits in _ALPHABETS:
        if differing.issubset(digits):
            break
    else:
        return None
    start = same
    while start > 0 and first[start - 1] in digits:
        start -= 1
    scale = Scale(first[:start], digits, same - start + _PRECISION, 1)
    span = scale._number(last) - scale._number(first)
    return scale._replace(span=span) if span > 0 else None
