"""Stream detection: what is sequential, how far ahead, and what random reads must not cause."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierfs.readahead.streams import (
    FIRST_READ_BYTES,
    FIRST_WINDOW_BYTES,
    MAX_PART_BYTES,
    MAX_STREAMS,
    MAX_WINDOW_BYTES,
    MIB,
    OpenStreams,
    StreamDetector,
)

KIB = 1 << 10
GIB = 1 << 30


def test_the_first_read_of_a_file_from_its_beginning_opens_a_small_window() -> None:
    advice = StreamDetector(GIB).note(0, 128 * KIB)
    assert advice.sequential
    assert (advice.ahead_lo, advice.ahead_hi) == (128 * KIB, 128 * KIB + FIRST_WINDOW_BYTES)


@pytest.mark.parametrize("length", [4 * KIB, FIRST_READ_BYTES - 1])
def test_a_look_at_a_header_is_no_stream(length: int) -> None:
    detector = StreamDetector(GIB)
    assert not detector.note(0, length).sequential
    assert not detector.note(500 * MIB, length).sequential


def test_small_reads_in_order_from_the_beginning_are_a_stream_from_the_second_on() -> None:
    detector = StreamDetector(GIB)
    assert not detector.note(0, 4 * KIB).sequential
    assert detector.note(4 * KIB, 4 * KIB).sequential
    assert StreamDetector(GIB).note(0, FIRST_READ_BYTES).sequential


def test_a_second_read_in_order_opens_a_small_window() -> None:
    detector = StreamDetector(GIB)
    assert not detector.note(10 * MIB, 128 * KIB).sequential
    advice = detector.note(10 * MIB + 128 * KIB, 128 * KIB)
    assert advice.sequential
    assert advice.ahead_lo == 10 * MIB + 256 * KIB
    assert advice.ahead_hi - advice.ahead_lo == FIRST_WINDOW_BYTES


def test_a_window_that_shrinks_asks_for_nothing_until_the_reader_comes() -> None:
    detector = StreamDetector(GIB)
    asked = 0
    for n in range(64):
        asked = max(asked, detector.note(n * MIB, MIB).ahead_hi)
    detector.keep_within(4 * MIB)
    for n in range(64, 256):
        advice = detector.note(n * MIB, MIB)
        if advice.ahead_hi > advice.ahead_lo:
            assert advice.ahead_lo == asked
            assert advice.ahead_hi <= (n + 1) * MIB + 4 * MIB
            asked = advice.ahead_hi
    assert asked > 256 * MIB
    detector.keep_within(MAX_WINDOW_BYTES)
    assert detector.note(256 * MIB, MIB).ahead_hi > 300 * MIB


def test_random_reads_ask_for_nothing_more() -> None:
    rng = random.Random(1)
    detector = StreamDetector(1 << 40)
    for _ in range(2000):
        advice = detector.note(rng.randrange(1, 1 << 40), 4096)
        assert not advice.sequential
        assert advice.ahead_lo == advice.ahead_hi


def test_the_window_grows_to_its_bound_and_asks_for_everything_once() -> None:
    detector = StreamDetector(GIB)
    asked = 0
    widest = largest_part = 0
    for offset in range(0, 512 * MIB, MIB):
        advice = detector.note(offset, MIB)
        if advice.ahead_hi > advice.ahead_lo:
            assert advice.ahead_lo >= asked
            asked = advice.ahead_hi
        widest = max(widest, asked - offset - MIB)
        largest_part = max(largest_part, advice.part_bytes)
    assert MAX_WINDOW_BYTES - MAX_PART_BYTES < widest <= MAX_WINDOW_BYTES
    assert largest_part == MAX_PART_BYTES


def test_the_window_keeps_to_the_bound_it_was_given() -> None:
    detector = StreamDetector(GIB, max_window_bytes=4 * MIB)
    for offset in range(0, 64 * MIB, 128 * KIB):
        advice = detector.note(offset, 128 * KIB)
        assert advice.ahead_hi <= offset + 128 * KIB + 4 * MIB


def test_several_streams_of_one_object_are_told_apart() -> None:
    detector = StreamDetector(GIB)
    bases = [n * 64 * MIB for n in range(MAX_STREAMS)]
    for step in range(8):
        for base in bases:
            advice = detector.note(base + step * MIB, MIB)
            assert advice.sequential == (step > 0 or base == 0)


def test_reads_at_random_do_not_push_out_a_stream() -> None:
    rng = random.Random(1)
    detector = StreamDetector(1 << 40)
    for step in range(8):
        assert detector.note(step * MIB, MIB).sequential
        for _ in range(2 * MAX_STREAMS):
            assert not detector.note(rng.randrange(1 << 30, 1 << 40), 4096).sequential


def test_the_handles_of_an_object_share_its_streams_while_one_is_open() -> None:
    streams = OpenStreams(4 * MIB)
    one = streams.of(16, GIB)
    assert streams.of(16, GIB) is one
    assert streams.of(17, GIB) is not one
    one.note(10 * MIB, MIB)
    assert streams.of(16, GIB).note(11 * MIB, MIB).sequential
    del one
    assert not streams.of(16, GIB).note(12 * MIB, MIB).sequential


def test_reads_out_of_order_stay_one_stream() -> None:
    detector = StreamDetector(GIB)
    order = [0, 1, 3, 2, 5, 4, 7, 6, 8, 10, 9]
    sequential = [detector.note(n * 128 * KIB, 128 * KIB).sequential for n in order]
    # One piece that runs ahead of the very first may look random; nothing else does.
    assert sequential.count(False) <= 1


def test_a_seek_ends_the_stream_but_not_for_ever() -> None:
    detector = StreamDetector(GIB)
    for offset in range(0, 8 * MIB, MIB):
        detector.note(offset, MIB)
    assert not detector.note(500 * MIB, MIB).sequential
    assert detector.note(8 * MIB, MIB).sequential


@given(
    st.integers(1, 40 * MIB),
    st.lists(st.tuples(st.integers(0, 40 * MIB), st.integers(1, MIB)), max_size=50),
)
def test_advice_stays_inside_the_object(size: int, reads: list[tuple[int, int]]) -> None:
    detector = StreamDetector(size)
    for offset, length in reads:
        if offset >= size:
            continue
        advice = detector.note(offset, min(length, size - offset))
        assert 0 <= advice.ahead_lo <= advice.ahead_hi <= size
        assert max(len(detector._streams), len(detector._random)) <= MAX_STREAMS
