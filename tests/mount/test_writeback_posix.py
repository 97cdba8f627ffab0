"""A write-back directory of a real mount behaves as a local one, whatever is done to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.mount.mounting import Mount
from tests.writeback.machine import machine
from tests.writeback.posix import Checker, check
from tests.writeback.writers import WRITERS, verify

Make = Callable[..., Mount]

#: What a mount may refuse beside the table in `tests.writeback.operations`.
ALLOWED = ("copy_file_range",)


#: What a front has no request for.
WITHOUT = {"python": ("fallocate",), "native": ()}


@pytest.fixture
def directories(mount: Make, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A write-back directory, and a local one."""
    reference = tmp_path / "reference"
    reference.mkdir()
    with mount("--write-back", "w/**") as made:
        subject = made.directory / "w"
        subject.mkdir(exist_ok=True)
        yield subject, reference


def agree(directories: tuple[Path, Path], front: str, seed: int, count: int) -> None:
    checker = Checker(*directories, without=WITHOUT[front], allowed=ALLOWED)
    found = check(checker, seed=seed, count=count)
    assert found is None, found


def run_machine(directories: tuple[Path, Path], front: str, examples: int) -> None:
    run_state_machine_as_test(
        machine(lambda: directories, without=WITHOUT[front], allowed=ALLOWED),
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_random_operations(directories: tuple[Path, Path], front: str) -> None:
    agree(directories, front, seed=1, count=1500)


def test_a_state_machine(directories: tuple[Path, Path], front: str) -> None:
    run_machine(directories, front, 30)


@pytest.mark.parametrize("name", WRITERS)
def test_checkpoints(directories: tuple[Path, Path], name: str) -> None:
    subject, _ = directories
    for step in (1, 2, 3):
        verify(subject, WRITERS[name](subject, step, 3 << 20))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_random_operations_for_long(directories: tuple[Path, Path], front: str, seed: int) -> None:
    agree(directories, front, seed, 100_000)


@pytest.mark.long
def test_a_state_machine_for_long(directories: tuple[Path, Path], front: str) -> None:
    run_machine(directories, front, 1000)
