"""What jobs have read, over a restart."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.namespaces import World
from tierfs.control.remembered import Remembered
from tierfs.index.index import Index
from tierfs.readahead.epochs import Class, Epochs
from tierfs.readahead.jobs import BUSY_READS, Jobs

FILES = 3000


def read(jobs: Jobs, files: list[int], job: int = 0) -> None:
    for ino in files:
        jobs.read(ino, job)


def order(seed: int) -> list[int]:
    files = list(range(16, 16 + FILES))
    random.Random(seed).shuffle(files)
    return files


def test_an_epoch_goes_on_where_it_was() -> None:
    jobs = Jobs()
    for seed in range(3):
        read(jobs, order(seed))
    half = order(3)
    read(jobs, half[: FILES // 2])

    again = Jobs()
    again.load(jobs.dump())
    before, after = jobs.all[0], again.all[0]
    assert [after.class_of(ino) for ino in half] == [before.class_of(ino) for ino in half]
    assert (after.ended, after.progress) == (before.ended, before.progress)
    assert after.ended == 3
    assert 0.49 < after.progress < 0.51
    # It ends as it would have, and is no new one meanwhile.
    read(again, half[FILES // 2 :])
    assert after.ended == 3
    read(again, order(4)[:40])
    assert after.ended == 4


def test_each_job_goes_on() -> None:
    jobs = Jobs()
    for n in range(BUSY_READS):
        jobs.read(16 + n, 1)
    for n in range(4 * BUSY_READS):
        jobs.read(9000 + n, 2)
        jobs.read(16 + n, 1)
    again = Jobs()
    again.load(jobs.dump())
    assert sorted(e.known for e in again.all) == sorted(e.known for e in jobs.all)
    assert len(again.all) == 2


def test_what_is_kept_is_small() -> None:
    jobs = Jobs()
    read(jobs, list(range(16, 100_016)))
    assert len(jobs.dump()) < 100_000


@pytest.mark.parametrize("cut", [1, 20, 200, -1, -100])
def test_what_is_cut_off_is_not_believed(cut: int) -> None:
    jobs = Jobs()
    read(jobs, order(1))
    data = jobs.dump()
    again = Jobs()
    with pytest.raises(ValueError, match=r"."):
        again.load(data[:cut])
    assert again.known == 0


def test_epochs_that_are_none_are_not_believed() -> None:
    with pytest.raises(ValueError, match=r"."):
        Epochs.load(b"\0" * 200)


async def test_it_is_kept_in_the_index(tmp_path: Path) -> None:
    world = World(tmp_path)
    index = await Index.open(tmp_path, str(world.lake.identity))
    try:
        jobs = Jobs()
        kept = Remembered(index.names, jobs)
        kept.recall()
        read(jobs, order(1))
        await kept.save()
        again = Jobs()
        Remembered(index.names, again).recall()
        assert again.all[0].class_of(16) is Class.READ
        assert again.known == FILES
        await index.names.state_put(b"readahead/jobs/1", b"something else")
        fresh = Jobs()
        Remembered(index.names, fresh).recall()
        assert fresh.known == 0
    finally:
        await index.aclose()
