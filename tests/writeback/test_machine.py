"""The state machine on local directories: right ones agree, a wrong one is found and shrunk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.writeback.machine import machine
from tests.writeback.operations import Side

QUICK = settings(
    max_examples=15,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def directories(tmp_path: Path) -> tuple[Path, Path]:
    pair = (tmp_path / "subject", tmp_path / "reference")
    for directory in pair:
        directory.mkdir()
    return pair


class RenamesWithoutReplacing(Side):
    def do_rename(self, source: bytes, target: bytes) -> None:
        if source != target and os.path.isfile(self.path(target)):
            raise OSError(errno.EEXIST, "something is there")
        super().do_rename(source, target)


def test_local_directories_agree(directories: tuple[Path, Path]) -> None:
    run_state_machine_as_test(machine(lambda: directories), settings=QUICK)
    assert not any(os.listdir(directory) for directory in directories)


def test_a_wrong_one_is_found(directories: tuple[Path, Path]) -> None:
    wrong = machine(lambda: directories, make_subject=RenamesWithoutReplacing)
    found = settings(QUICK, max_examples=300, phases=[Phase.generate], print_blob=False)
    with pytest.raises(AssertionError, match=r"rename\(.*EEXIST"):
        run_state_machine_as_test(wrong, settings=found)
