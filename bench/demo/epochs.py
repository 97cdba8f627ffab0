"""Epochs of the demonstration: the unmodified reader, what it saw, and what that took from the
lake."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.bars.harness import Tierfs

WORKERS = 4
READER = Path(__file__).with_name("reader.py")


@dataclass
class Row:
    """One line of the closing table."""

    name: str
    rate: float
    hit_rate: str
    lake_bytes: int


class Progress:
    """One line that is rewritten on a terminal and printed once elsewhere."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._begin = time.monotonic()

    def show(self, done: int, total: int) -> None:
        if sys.stdout.isatty():
            filled = 30 * done // max(total, 1)
            bar = "#" * filled + "." * (30 - filled)
            print(f"\r  {self._title:34} [{bar}] {done}/{total}", end="", flush=True)

    def done(self, text: str) -> None:
        seconds = time.monotonic() - self._begin
        start = "\r\x1b[K" if sys.stdout.isatty() else ""
        print(f"{start}  {self._title:34} {text} ({seconds:.1f} s)", flush=True)


def epoch(root: Path, manifest: Path, seed: int, title: str) -> dict[str, Any]:
    """One shuffled pass by the unmodified reader; every sample's SHA-256 is compared."""
    progress = Progress(title)
    total = len(manifest.read_text().splitlines())
    process = subprocess.Popen(
        [sys.executable, str(READER), str(root), str(manifest), str(seed), str(WORKERS)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    summary: dict[str, Any] = {}
    for line in process.stdout:
        if line.startswith("done "):
            progress.show(int(line.split()[1]), total)
        else:
            summary = json.loads(line)
    if process.wait() or not summary:
        raise SystemExit(f"demo: {title}: wrong bytes or a failed read: this must never happen")
    rate = summary["samples"] / summary["seconds"]
    progress.done(f"{summary['samples']} samples, SHA-256 of each right, {rate:,.0f} samples/s")
    return summary


def write_manifest(path: Path, digests: dict[str, str]) -> None:
    path.write_text("".join(f"{digest} {name}\n" for name, digest in digests.items()))


def mounted_epoch(
    subject: Tierfs, manifest: Path, seed: int, title: str
) -> tuple[Row, dict[str, Any]]:
    """An epoch over the mount, and what it took from the lake."""
    before = lake_bytes(subject)
    summary = epoch(subject.directory, manifest, seed, title)
    fetched = lake_bytes(subject) - before
    hit = 1 - min(1.0, fetched / summary["bytes"])
    return Row(title, summary["samples"] / summary["seconds"], f"{hit:.0%}", fetched), summary


def lake_bytes(subject: Tierfs) -> int:
    """All that it has read from the lake."""
    return int(subject.status()["lake_requests"]["bytes_read"])
