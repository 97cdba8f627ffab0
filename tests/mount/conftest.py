"""Fixtures of the mount tests: a private directory each, a lake in it, and mounts that go away."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.mount.mounting import Mount, detach, fuse_missing


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = fuse_missing()
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        item.add_marker(pytest.mark.mount)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """An empty file lake."""
    root = tmp_path / "lake"
    root.mkdir()
    return root


@pytest.fixture
def mount(tmp_path: Path, lake: Path) -> Iterator[Callable[..., Mount]]:
    """A mount of the lake: ``with mount("--memory", "64M", cache=...) as made``."""
    with ExitStack() as stack:

        def make(*options: str, **fields: Any) -> Mount:
            made = Mount(
                url=fields.pop("url", f"file://{lake}"),
                directory=fields.pop("directory", tmp_path / "mnt"),
                cache=fields.pop("cache", tmp_path / "cache"),
                runtime=fields.pop("runtime", tmp_path / "run"),
                options=["--cache-size", "1G", *options],
                **fields,
            )
            stack.callback(detach, made.directory)
            return made

        yield make


@pytest.fixture
def content() -> Callable[[int, int], bytes]:
    """Seeded bytes: ``content(seed, size)``."""

    def make(seed: int, size: int) -> bytes:
        return random.Random(seed).randbytes(size)

    return make
