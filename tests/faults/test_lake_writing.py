"""Every lake written to, held to one suite: in memory, local, S3 (real servers), the decorators."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lake_conformance import Subject
from tests.lake_subjects import subject_of
from tests.lake_writing_conformance import *  # noqa: F403


@pytest.fixture(
    params=["memory", "local", "moto", "lakesim", "lakesim-prefix", "modelled", "faulty"]
)
def subject(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Subject]:
    yield from subject_of(request.param, tmp_path, monkeypatch)
