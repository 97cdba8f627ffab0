"""Every lake, held to one suite: in memory, local, S3 (real servers), and the decorators."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lake_conformance import *  # noqa: F403
from tests.lake_conformance import Subject
from tests.lake_subjects import KINDS, subject_of


@pytest.fixture(params=KINDS)
def subject(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Subject]:
    yield from subject_of(request.param, tmp_path, monkeypatch)
