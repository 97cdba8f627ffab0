"""Telling a mount the order of reads from the program that reads."""

from __future__ import annotations

import logging
import pickle
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tierfs import order
from tierfs.control import telling
from tierfs.control.client import Mount
from tierfs.errors import MountError
from tierfs.order import PlannedSampler, plan

MOUNT = Mount(Path("/mnt/lake"), "s3://b", "fuse.tierfs", 0)


class Told:
    """Stands for the mount."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.replaced = 0
        #: Answers wait for this.
        self.gate = threading.Event()
        self.gate.set()

    def __call__(
        self, mount: Mount, command: str, args: dict[str, Any], **_: object
    ) -> dict[str, Any]:
        if not args["append"]:
            self.names.clear()
            self.replaced += 1
        self.names += args["paths"]
        assert self.gate.wait(5)
        return {"entries": len(self.names)}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told()
    monkeypatch.setattr(order, "find_mount", lambda path: (MOUNT, b""))
    monkeypatch.setattr(telling, "call", told)
    return told


class Shuffled:
    """A sampler of ten indices, in an order of each epoch's own."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(random.Random(self.epoch).sample(range(10), 10))

    def __len__(self) -> int:
        return 10


def path_of(index: int) -> str:
    return f"/mnt/lake/train/{index}"


def names(*epochs: int) -> list[str]:
    sampler, found = Shuffled(), []
    for epoch in epochs:
        sampler.set_epoch(epoch)
        found += [f"train/{index}" for index in sampler]
    return found


def settled(sampler: PlannedSampler) -> None:
    telling = sampler._telling
    if telling is not None:
        telling._thread.join(5)


def test_an_order_by_hand(told: Told) -> None:
    answer = plan("/mnt/lake", ["a", b"b", Path("/mnt/lake/c")])
    assert (told.names, answer) == (["a", "b", "c"], {"entries": 3})
    plan("/mnt/lake", ["d"], append=True)
    assert told.names == ["a", "b", "c", "d"]
    plan("/mnt/lake", [])
    assert told.names == []


def test_each_epoch_is_told_at_its_beginning_and_given_as_it_is(told: Told) -> None:
    sampler = PlannedSampler(Shuffled(), path_of, "/mnt/lake")
    assert len(sampler) == 10
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        indices = iter(sampler)
        first = next(indices)
        assert told.names == names(*range(epoch + 1))
        assert [f"train/{index}" for index in (first, *indices)] == names(epoch)
    assert told.replaced == 1


def test_an_epoch_that_is_broken_off_is_forgotten(told: Told) -> None:
    sampler = PlannedSampler(Shuffled(), path_of, "/mnt/lake")
    for _ in sampler:
        break
    sampler.set_epoch(1)
    assert len(list(sampler)) == 10
    assert told.names == names(1)


def test_the_rest_of_an_epoch_is_told_while_it_is_read(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order, "NAMES_AT_ONCE", 4)
    monkeypatch.setattr(telling, "NAMES_AT_ONCE", 4)
    sampler = PlannedSampler(Shuffled(), path_of, "/mnt/lake")
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        assert [f"train/{index}" for index in sampler] == names(epoch)
    settled(sampler)
    assert told.replaced == 1
    assert told.names[-6:] == names(1)[4:]


def test_an_order_that_is_over_is_told_no_further(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order, "NAMES_AT_ONCE", 2)
    monkeypatch.setattr(telling, "NAMES_AT_ONCE", 2)
    sampler = PlannedSampler(Shuffled(), path_of, "/mnt/lake")
    for _ in sampler:
        told.gate.clear()
        break
    threading.Timer(0.05, told.gate.set).start()
    sampler.set_epoch(1)
    indices = iter(sampler)
    next(indices)
    settled(sampler)
    assert told.names == names(1)


def test_batches_are_orders_too(told: Told) -> None:
    class Batches(Shuffled):
        def __iter__(self) -> Iterator[Any]:
            yield from ([3, 1], [2])

    sampler = PlannedSampler(Batches(), path_of, "/mnt/lake")
    assert list(sampler) == [[3, 1], [2]]
    assert told.names == ["train/3", "train/1", "train/2"]


def test_a_mount_that_is_not_there_costs_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def nothing(path: Path) -> tuple[Mount, bytes]:
        raise MountError("not on a tierfs mount", str(path))

    monkeypatch.setattr(order, "find_mount", nothing)
    sampler = PlannedSampler(Shuffled(), path_of, "/mnt/lake")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert len(list(sampler)) == 10
    assert caplog.text.count("not told") == 1
    with pytest.raises(MountError):
        plan("/mnt/lake", ["a"])


def test_it_can_be_pickled_and_is_otherwise_what_it_wraps(told: Told) -> None:
    sampler = PlannedSampler(Shuffled(), path_of, "/mnt/lake")
    sampler.set_epoch(7)
    again = pickle.loads(pickle.dumps(sampler))
    assert (again.epoch, list(again)) == (7, list(sampler))
    with pytest.raises(AttributeError):
        _ = sampler.nothing


def test_with_pytorch(told: Told) -> None:
    data = pytest.importorskip("torch.utils.data")
    dataset = list(range(100))
    sampler = PlannedSampler(data.RandomSampler(dataset), path_of, "/mnt/lake")
    assert isinstance(sampler, data.Sampler)
    loader = data.DataLoader(dataset, batch_size=8, sampler=sampler)
    for epoch in (1, 2):
        read = [int(index) for batch in loader for index in batch]
        assert told.names[-100:] == [f"train/{index}" for index in read]
        assert len(told.names) == 100 * epoch
