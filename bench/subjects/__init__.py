"""The file systems under test. `base` is what the benchmark asks of each."""

from __future__ import annotations

from bench.subjects.base import Subject
from bench.subjects.client import Client
from bench.subjects.local import Local
from bench.subjects.peers import PEERS
from bench.subjects.tierfs import Tierfs, TierfsCopying, TierfsLru, TierfsNative

#: In the order in which they take their turns and are shown.
SUBJECTS: list[type[Subject]] = [
    Local,
    Client,
    Tierfs,
    TierfsNative,
    TierfsCopying,
    TierfsLru,
    *PEERS,
]
