"""A writer whose history is recorded: checkpoints of every shape, one after another."""

from __future__ import annotations

import random

from tests.writeback.recording import Recorder


class Checkpoints:
    """Saves steps by turns as shards with a marker, as one file that is overwritten, by a held
    name that is renamed while it is open, and as a directory that is renamed. Removes old ones.

    Sizes are *scale_bytes* and more, no two the same; one file in ten is *large_bytes*.
    """

    def __init__(
        self, recorder: Recorder, seed: int, *, scale_bytes: int = 1000, large_bytes: int = 0
    ) -> None:
        self._recorder = recorder
        self._random = random.Random(seed)
        self._scale_bytes = scale_bytes
        self._large_bytes = large_bytes
        self._kept: list[str] = []

    def save(self, step: int) -> None:
        (self.shards, self.overwritten, self.renamed_open, self.renamed_directory)[step % 4](step)
        while len(self._kept) > 2:
            self._remove(self._kept.pop(0))

    def data(self) -> bytes:
        large = self._large_bytes and self._random.random() < 0.1
        return self._recorder.unique(self._large_bytes if large else self._scale_bytes)

    def shards(self, step: int) -> None:
        name = f"step-{step}"
        self._recorder.mkdir(name)
        for rank in range(3):
            self._recorder.write(f"{name}/__{rank}_0.distcp", self.data())
        self._recorder.write(f"{name}/.metadata.tmp", self._recorder.unique())
        self._recorder.rename(f"{name}/.metadata.tmp", f"{name}/.metadata")
        self._recorder.write("latest", self._recorder.unique())
        self._kept.append(name)

    def overwritten(self, step: int) -> None:
        with self._recorder.open("last.pt") as handle:
            for _ in range(3):
                handle.write(self.data())
        self._recorder.write(f"log-{step}", self._recorder.unique())

    def renamed_open(self, step: int) -> None:
        with self._recorder.open(f".tmp{step:06}") as handle:
            handle.write(self.data())
            self._recorder.rename(f".tmp{step:06}", "model.safetensors")
        self._recorder.write("trainer_state.json", self._recorder.unique())

    def renamed_directory(self, step: int) -> None:
        hidden = self._random.random() < 0.5
        temporary = f"{step}.orbax-checkpoint-tmp-1" if hidden else f"{step}-saving"
        self._recorder.mkdir(temporary)
        self._recorder.mkdir(f"{temporary}/params")
        for n in range(3):
            self._recorder.write(f"{temporary}/params/{n}", self.data())
        self._recorder.write(f"{temporary}/commit_success", self._recorder.unique())
        self._recorder.rename(temporary, f"step-{step}")
        self._kept.append(f"step-{step}")

    def _remove(self, name: str) -> None:
        """As `shutil.rmtree` does: in each directory what is in it first."""
        root = self._recorder.root
        for path in sorted((root / name).rglob("*"), reverse=True):
            remove = self._recorder.rmdir if path.is_dir() else self._recorder.unlink
            remove(str(path.relative_to(root)))
        self._recorder.rmdir(name)
