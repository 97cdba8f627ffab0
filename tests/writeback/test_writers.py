"""Every writer of checkpoints, on a local directory."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path

import pytest

from tests.writeback import writers
from tests.writeback.writers import WRITERS, verify

SCALE_BYTES = 300_001


@pytest.mark.parametrize("name", WRITERS)
def test_three_steps(name: str, tmp_path: Path) -> None:
    steps = [WRITERS[name](tmp_path, step, SCALE_BYTES) for step in (1, 2, 3)]
    verify(tmp_path, steps[-1])
    sizes = sum(os.stat(tmp_path / path).st_size for path in steps[-1])
    assert SCALE_BYTES - 1 <= sizes <= SCALE_BYTES + 30_000
    # No two steps have a file in common, wherever they are.
    digests = [
        digest for files in steps for path, digest in files.items() if "metadata.json" not in path
    ]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("name", WRITERS)
def test_a_wrong_byte_is_found(name: str, tmp_path: Path) -> None:
    files = WRITERS[name](tmp_path, 1, SCALE_BYTES)
    path = tmp_path / next(iter(files))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(AssertionError, match="not what was written"):
        verify(tmp_path, files)


def test_a_temporary_name_is_found(tmp_path: Path) -> None:
    files = WRITERS["torch_save"](tmp_path, 1, SCALE_BYTES)
    (tmp_path / "x.orbax-checkpoint-tmp-1").mkdir()
    with pytest.raises(AssertionError, match="temporary names"):
        verify(tmp_path, files)


def test_tensors_of_several_sizes(tmp_path: Path) -> None:
    files = WRITERS["safetensors"](tmp_path, 1, (9 << 20) + 1)
    assert (tmp_path / "model.safetensors").stat().st_size == 8 + (9 << 20) + 1
    verify(tmp_path, files)


def test_lightning_crosses_devices_where_there_are_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(dir=writers._elsewhere(tmp_path)) as temporary:
        monkeypatch.setattr(writers, "_elsewhere", lambda _: Path(temporary))
        verify(tmp_path, WRITERS["lightning"](tmp_path, 7, SCALE_BYTES))
        assert not os.listdir(temporary)


def test_writers_of_one_key_wait_for_each_other(tmp_path: Path) -> None:
    steps = [
        threading.Thread(
            target=writers._store, args=(tmp_path, "key", step, 0, 99_999), kwargs={"alone": False}
        )
        for step in range(8)
    ]
    for thread in steps:
        thread.start()
    for thread in steps:
        thread.join(30)
    alone = tmp_path / "alone"
    alone.mkdir()
    digests = {writers._store(alone, "key", step, 0, 99_999) for step in range(8)}
    assert writers._sha256(tmp_path / "key") in digests
    verify(tmp_path, {})


def test_the_trainer_keeps_two(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        files = WRITERS["trainer"](tmp_path, step, SCALE_BYTES)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-3", "checkpoint-4"]
    verify(tmp_path, files)
