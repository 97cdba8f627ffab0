"""The benchmark's tests mount as the product's do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mount.mounting import fuse_missing


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = fuse_missing()
    for item in items:
        if Path(__file__).parent in item.path.parents and reason:
            item.add_marker(pytest.mark.skip(reason=reason))
