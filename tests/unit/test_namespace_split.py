"""Where ranges of names are split."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from tierfs.namespace.split import Scale, sample_of, scale_of

#: What a name can be: any bytes but these two.
NAMES = st.binary(min_size=1, max_size=40).map(
    lambda name: name.replace(b"/", b"0").replace(b"\0", b"1")
)
LIKELY = st.text("0123456789abf-._ x~", min_size=1, max_size=12).map(str.encode)
REACH = st.integers(min_value=1, max_value=10**6)


def scale(names: list[bytes]) -> Scale:
    found = scale_of(sample_of(names))
    assert found is not None
    return found


@given(
    names=st.lists(NAMES | LIKELY, min_size=1, max_size=50, unique=True),
    directory=st.booleans(),
    end=st.none() | NAMES | LIKELY,
    reach=REACH,
)
def test_a_point_is_between_and_could_be_a_name(
    names: list[bytes], directory: bool, end: bytes | None, reach: int
) -> None:
    names.sort()
    at = names[-1] + b"/" if directory else names[-1]
    found = scale_of(sample_of(names))
    if found is None or (end is not None and end <= at):
        return
    split = found.split(at, end, reach)
    if split is None:
        return
    assert at < split.point
    assert end is None or split.point < end
    assert b"/" not in split.point
    assert b"\0" not in split.point
    assert split.point.startswith(found.stem)
    assert split.point[len(found.stem) :].isascii()
    assert split.pages >= 0


@given(names=st.lists(st.text(min_size=1, max_size=9), min_size=2, max_size=9), reach=REACH)
def test_points_are_text_where_names_are(names: list[str], reach: int) -> None:
    spelled = [name.replace("/", "").encode("utf-8", "ignore") for name in names]
    spelled = sorted({name for name in spelled if name})
    found = scale_of(spelled)
    split = found.split(spelled[-1], None, reach) if found else None
    if split is not None:
        split.point.decode("utf-8")


@given(names=st.lists(NAMES | LIKELY, min_size=2, max_size=9, unique=True), end=NAMES | LIKELY)
def test_bisecting_ends(names: list[bytes], end: bytes) -> None:
    """Each empty probe makes the range shorter, and soon there is nothing left to split."""
    names.sort()
    found = scale_of(names)
    bound: bytes | None = end
    for _ in range(2_000):
        if found is None or (bound is not None and bound <= names[-1]):
            return
        split = found.split(names[-1], bound, 10)
        if split is None:
            return
        bound = split.point
    raise AssertionError(f"still at {bound!r}")


def test_numbers_behind_a_stem() -> None:
    page = [b"sample-%07d.jpg" % n for n in range(9_000, 10_000)]
    numbers = scale(page)
    assert numbers.stem == b"sample-"
    # Ten pages ahead, over a carry.
    ahead = numbers.split(page[-1], None, 10)
    assert ahead is not None
    assert b"sample-0019950" < ahead.point < b"sample-0020050"
    assert 19 <= ahead.pages <= 21
    # Half-way, when the end is known.
    half = numbers.split(page[-1], b"sample-0030000", 1)
    assert half is not None
    assert b"sample-0019950" < half.point < b"sample-0020050"
    # An end behind another stem says nothing about this one.
    assert numbers.split(page[-1], b"val-0", 10) == ahead
    # Never past the last number there can be.
    last = [b"sample-%07d.jpg" % n for n in range(9_989_000, 9_990_000)]
    least = scale(last).split(last[-1], None, 1_000)
    assert least is not None
    assert b"sample-9994" < least.point < b"sample-9996"


def test_hashes() -> None:
    names = sorted(hashlib.md5(b"%d" % n).hexdigest().encode() for n in range(100_000))
    page = names[9_000:10_000]
    ahead = scale(page).split(page[-1], None, 10)
    assert ahead is not None
    assert 18_000 < sum(name <= ahead.point for name in names) < 22_000
    half = scale(page).split(page[-1], b"f", 10)
    assert half is not None
    assert 50_000 < sum(name <= half.point for name in names) < 54_000


def test_names_that_are_no_numbers_are_not_split() -> None:
    assert scale_of([]) is None
    assert scale_of([b"one"]) is None
    assert scale_of(["\u3042".encode(), "\u3044".encode()]) is None
    assert scale_of([b"a\n", b"a\t"]) is None


def test_a_sample_has_both_ends() -> None:
    names = [b"%04d" % n for n in range(1_000)]
    sample = sample_of(names)
    assert (sample[0], sample[-1], sorted(set(sample))) == (b"0000", b"0999", sample)
    assert sample_of(names[:3]) == names[:3]
