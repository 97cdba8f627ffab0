"""How far ahead of a job is fetched."""

from __future__ import annotations

import random

from tierfs.readahead.ahead import MOST_OWNERS, Account, Ahead
from tierfs.readahead.course import (
    FIRST_BYTES,
    FIRST_BYTES_IN_ORDER,
    HITS,
    LOOK_READS,
    PAUSE_READS,
    PER_READ,
    START_READS,
    Course,
)

MEAN = 100_000


def shuffled(course: Course, reads: int, files: int = 100_000, seed: int = 1) -> None:
    rng = random.Random(seed)
    for _ in range(reads):
        course.read(rng.randrange(files), ahead=False)


def test_a_few_reads_are_no_reason_to_fetch_ahead() -> None:
    course = Course()
    shuffled(course, START_READS - 1)
    assert course.paused
    shuffled(course, 1)
    assert not course.paused
    assert course.allowed_bytes(MEAN) == FIRST_BYTES


def test_files_that_are_of_use_make_room_for_twice_as_many() -> None:
    course = Course()
    shuffled(course, 100)
    for n in range(3 * HITS):
        course.read(1000 * n, ahead=True)
    assert course.allowed_bytes(MEAN) == 8 * FIRST_BYTES


def test_who_reads_much_in_no_order_does_not_look_around() -> None:
    course = Course()
    shuffled(course, LOOK_READS)
    assert course.allowed_bytes(MEAN) == FIRST_BYTES
    shuffled(course, 10)
    assert course.allowed_bytes(MEAN) == FIRST_BYTES + 10 * PER_READ * MEAN
    # After an epoch in which that was a waste it has to be shown anew.
    course.epoch_began(wasted=1)
    shuffled(course, LOOK_READS)
    assert course.allowed_bytes(MEAN) == FIRST_BYTES
    shuffled(course, 10)
    assert course.allowed_bytes(MEAN) == FIRST_BYTES + 10 * PER_READ * MEAN


def test_files_in_order_are_hit_at_once_and_prove_little() -> None:
    course = Course()
    for ino in range(100):
        course.read(ino, ahead=ino >= START_READS)
    assert course.in_order
    used = (100 - START_READS) * MEAN
    assert course.allowed_bytes(MEAN) == FIRST_BYTES_IN_ORDER + used // 2 < FIRST_BYTES


def test_several_readers_in_order_are_in_order() -> None:
    course = Course()
    places = [0, 10_000, 20_000, 30_000]
    for n in range(400):
        places[n % 4] += 1
        course.read(places[n % 4], ahead=False)
    assert course.in_order


def test_an_epoch_in_which_most_was_wasted_begins_as_the_first_did() -> None:
    course = Course()
    shuffled(course, 100)
    for n in range(2 * HITS):
        course.read(1000 * n, ahead=True)
    course.epoch_began(wasted=2 * HITS)
    assert course.allowed_bytes(MEAN) == 4 * FIRST_BYTES
    for n in range(HITS):
        course.read(1000 * n, ahead=True)
    course.epoch_began(wasted=HITS + 1)
    assert course.allowed_bytes(MEAN) == FIRST_BYTES


def test_what_was_not_worth_keeping_is_not_tried_again_at_once() -> None:
    course = Course()
    shuffled(course, 100)
    course.pause()
    assert course.paused
    shuffled(course, PAUSE_READS)
    assert not course.paused


def test_what_became_of_files_fetched_ahead() -> None:
    ahead = Ahead()
    for ino in range(5000, 5010):
        ahead.sent_for(ino, 100)
    ahead.sent_for(5000, 100)  # Once is enough.
    assert (ahead.all.waiting, ahead.all.waiting_bytes) == (10, 1000)
    assert ahead.read(5000)
    assert not ahead.read(5000)
    assert not ahead.read(77)
    ahead.evicted(5001)
    ahead.not_kept(5002, 100)
    assert (ahead.all.waiting, ahead.all.used, ahead.all.wasted) == (7, 1, 1)
    assert (ahead.all.files, ahead.all.bytes) == (9, 900)
    assert 5003 in ahead
    assert 5001 not in ahead


def test_whom_it_was_fetched_for_is_known() -> None:
    """Whoever reads it; of more owners than are told apart, as of one."""
    ahead = Ahead()
    for owner in (1, 2, MOST_OWNERS, MOST_OWNERS + 5):
        ahead.sent_for(owner, 100, owner)
    assert ahead.read(2)
    ahead.evicted(1)
    assert ahead.of(2) == Account(waiting=0, used=1, wasted=0, bytes=100)
    assert ahead.of(1) == Account(waiting=0, used=0, wasted=1, bytes=100)
    assert ahead.of(MOST_OWNERS) == Account(waiting=2, used=0, wasted=0, bytes=200)
    assert ahead.all == Account(waiting=2, used=1, wasted=1, bytes=400)


def test_what_a_warm_up_asked_for_is_warm_until_it_is_read_or_leaves() -> None:
    ahead = Ahead()
    ahead.sent_for(5001, 100)
    for ino in range(5000, 5004):
        ahead.warm_up(ino, 100)
        ahead.warm_up(ino, 100)
    assert ahead.warm == 4
    assert ahead.is_warm(5001)
    assert 5001 in ahead
    # It is in nobody's account, and proves nothing about what was fetched ahead for anybody.
    assert ahead.all == Account()
    assert not ahead.read(5000)
    ahead.evicted(5001)
    ahead.not_kept(5002, 100)
    assert (ahead.warm, ahead.all) == (1, Account())
    assert [ino for ino in range(5000, 5004) if ahead.is_warm(ino)] == [5003]


def test_what_is_told_to_go_all_at_once_waits_no_more() -> None:
    ahead = Ahead()
    for ino in (1, 2, 3):
        ahead.sent_for(ino, 100)
    assert ahead.read(1)
    ahead.warm_up(4, 100)
    ahead.clear()
    assert ahead.all == Account(waiting=0, used=1, wasted=0, bytes=100)
    assert (ahead.warm, 2 in ahead, 4 in ahead) == (0, False, False)
    ahead.not_kept(2, 100)  # It was on its way.
    assert ahead.all == Account(waiting=0, used=1, wasted=0, bytes=100)
