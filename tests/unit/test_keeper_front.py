"""Which front a keeper takes."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from tierfs import keeper
from tierfs.config import Config
from tierfs.errors import MountError


def config(front: str) -> Config:
    return Config(url="s3://b", mountpoint=Path("/mnt"), cache=Path("/c"), front=front)


def choose(front: str) -> tuple[Path | None, str]:
    return keeper._choose_front(config(front))


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Path:
    path = Path("/opt/tierfs-front")
    monkeypatch.setattr(keeper, "native_front", lambda: path)
    monkeypatch.setattr(platform, "release", lambda: "6.18.2-amd64")
    return path


def test_the_native_one_where_there_is_one(program: Path) -> None:
    assert choose("auto") == choose("native") == (program, "")
    assert choose("python") == (None, "")


def test_without_a_program_the_python_one_and_why(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "native_front", lambda: None)
    found, why = choose("auto")
    assert found is None
    assert "Rust toolchain" in why
    assert choose("python") == (None, "")
    with pytest.raises(MountError, match="Rust toolchain"):
        choose("native")


@pytest.mark.parametrize(
    ("release", "old"),
    [("5.3.0-generic", True), ("4.18.0-553.el8_10", True), ("5.4.0", False), ("6.8", False)],
)
def test_on_a_kernel_that_is_too_old_the_python_one(
    program: Path, monkeypatch: pytest.MonkeyPatch, release: str, *, old: bool
) -> None:
    monkeypatch.setattr(platform, "release", lambda: release)
    found, why = choose("auto")
    assert (found is None) is old
    assert (release in why) is old
    if old:
        with pytest.raises(MountError, match="too old"):
            choose("native")
