"""Fixtures of the mount tests: a private directory each, a lake in it, and mounts that go away."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.mount.mounting import Mount, detach, fuse_missing
from tierfs.front.program import native_front


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


@pytest.fixture(params=["python", "native"])
def front(request: pytest.FixtureRequest) -> str:
    """Each test that mounts has both fronts, which have one meaning."""
    name: str = request.param
    if name == "native" and native_front() is None:
        pytest.skip("the native front is not built: no Rust toolchain")
    return name


@pytest.fixture
def mount(tmp_path: Path, lake: Path, front: str) -> Iterator[Callable[..., Mount]]:
    """A mount of the lake: ``with mount("--memory", "64M", cache=...) as made``."""
    with ExitStack() as stack:

        def make(*options: str, **fields: Any) -> Mount:
            made = Mount(
                url=fields.pop("url", f"file://{lake}"),
                directory=fields.pop("directory", tmp_path / "mnt"),
                cache=fields.pop("cache", tmp_path / "cache"),
                runtime=fields.pop("runtime", tmp_path / "run"),
                options=["--cache-size", "1G", "--front", front, *options],
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
