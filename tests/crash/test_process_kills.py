"""kill -9 of a real mount's processes while a writer writes: see `tests.crash.process_kills`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mount.mounting import fuse_missing
from tests.servers import need_lakesim
from tierfs.front.program import native_front

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("how", "kills"),
    [
        ((), 4),
        (("--steps",), 2),
        pytest.param((), 500, marks=pytest.mark.long),
        pytest.param(("--steps",), 850, marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("front", ["python", "native"])
def test_a_kill_loses_nothing_that_was_acknowledged(
    tmp_path: Path, front: str, how: tuple[str, ...], kills: int
) -> None:
    need_lakesim()
    if reason := fuse_missing():
        pytest.skip(reason)
    if front == "native" and native_front() is None:
        pytest.skip("the native front is not built: no Rust toolchain")
    argv = [sys.executable, "-m", "tests.crash.process_kills", "--work", str(tmp_path)]
    # Of four kills with this seed one is of the front, one of all, two of the control plane.
    argv += ["--front", front, "--kills", str(kills), "--seed", "3", *how]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
