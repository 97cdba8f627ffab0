"""Options for lakes under test."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """`tierfs.lake.open.LakeOptions` with defaults that suit tests."""

    url: str = "s3://bucket"
    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    path_style: bool | None = None
    ca_bundle: Path | None = None
    requester_pays: bool = False
    sse_c_key_file: Path | None = None
    anonymous: bool = False
    max_connections: int = 16
    request_timeout: float = 20.0
    link: str = "none"


class NoJitter(random.Random):
    """Waits that are drawn come out as their lower bound: retries without waiting."""

    def uniform(self, a: float, b: float) -> float:
        return a
