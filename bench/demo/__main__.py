"""``python -m bench.demo [--lake URL]``: see tierfs do its main job, with every byte checked.

Without a lake of your own it makes a small one in a local directory and puts the standard model of
a remote link in front of it (first byte 20 ms median and 100 ms p99, 90 MB/s a connection, 400 MB/s
in all). With ``--lake s3://bucket/prefix`` it reads up to 2,000 of your files and writes nothing
there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.bars.harness import Tierfs
from bench.demo.samples import make_lake

WORKERS = 4
OWN_LAKE_FILES, OWN_LAKE_BYTES = 2000, 2 << 30
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


def own_files(root: Path) -> Iterator[str]:
    """Some files of the user's lake, in listing order, up to a bound in number and bytes."""
    count = size = 0
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            size += path.stat().st_size
            if count >= OWN_LAKE_FILES or size > OWN_LAKE_BYTES or "\n" in name:
                return
            count += 1
            yield str(path.relative_to(root))


def write_manifest(path: Path, digests: dict[str, str]) -> None:
    path.write_text("".join(f"{digest} {name}\n" for name, digest in digests.items()))


def mounted_epoch(
    subject: Tierfs, manifest: Path, seed: int, title: str
) -> tuple[Row, dict[str, Any]]:
    """An epoch over the mount, and what it took from the lake."""
    before = subject.status()
    summary = epoch(subject.directory, manifest, seed, title)
    after = subject.status()
    fetched = after["lake_requests"]["bytes_read"] - before["lake_requests"]["bytes_read"]
    hit = 1 - min(1.0, fetched / summary["bytes"])
    return Row(title, summary["samples"] / summary["seconds"], f"{hit:.0%}", fetched), summary


def without_cache(work: Path, url: str, link: list[str], manifest: Path, names: list[str]) -> Row:
    """The same reader where nothing stays cached: every file is evicted before it is read again.

    A sample of 400 files is enough to know the rate, which the lake's latency sets.
    """
    part = work / "manifest-part"
    part.write_text("".join(f"- {name}\n" for name in names[:400]))
    subject = Tierfs(work, url, "--cache-size", "1M", *link, cache=work / "no-cache")
    try:
        row, _ = mounted_epoch(subject, part, 3, "lake without cache")
    finally:
        subject.stop()
    return row


def damage_scene(subject: Tierfs, name: str) -> None:
    """Overwrite part of a cached block on disk; the reader still gets the right bytes."""
    path = subject.directory / name
    right = path.read_bytes()
    cache_file = Path(os.fsdecode(os.getxattr(path, "user.tierfs.cache_path")))
    with open(cache_file, "r+b") as file:
        file.seek(len(right) // 2)
        file.write(b"damage" * 100)
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # not from the page cache, from the disk
    os.close(fd)
    again = path.read_bytes()
    found = subject.status()["cache"]["bad_blocks"]
    if again != right or not found:
        raise SystemExit("demo: the damaged block reached the reader: this must never happen")
    print(f"  damaged 600 bytes of {name} in the cache: {found} bad block found by its checksum,")
    print("  fetched again from the lake, and the reader got the right bytes")


def table(rows: list[Row]) -> None:
    print(f"\n  {'':22}{'samples/s':>11}{'hit rate':>10}{'from the lake':>16}")
    for row in rows:
        size = f"{row.lake_bytes / 1e6:,.1f} MB" if row.lake_bytes >= 0 else "-"
        print(f"  {row.name:22}{row.rate:>11,.0f}{row.hit_rate:>10}{size:>16}")


def run(url: str | None, work: Path) -> None:
    manifest = work / "manifest"
    rows: list[Row] = []
    link: list[str] = []
    if url is None:
        lake = work / "lake"
        progress = Progress("making a lake of real files")
        digests = make_lake(lake, progress.show)
        size = sum((lake / name).stat().st_size for name in digests)
        progress.done(f"{len(digests)} files, {size / 1e6:.0f} MB")
        write_manifest(manifest, digests)
        url, link = f"file://{lake}", ["--link", "standard"]
        local = epoch(lake, manifest, 0, "local disk")
        rows.append(Row("local disk", local["samples"] / local["seconds"], "-", -1))
        names = list(digests)
    subject = Tierfs(work, url, "--cache-size", "8G", *link)
    print(f"  mounted {url} on {subject.directory}")
    try:
        if not rows:
            names = list(own_files(subject.directory))
            if not names:
                raise SystemExit(f"demo: {url} holds no files")
            write_manifest(manifest, dict.fromkeys(names, "-"))
        first, summary = mounted_epoch(subject, manifest, 1, "first epoch")
        write_manifest(manifest, summary["digests"])
        second, _ = mounted_epoch(subject, manifest, 2, "second epoch, reshuffled")
        damage_scene(subject, max(names, key=lambda n: (subject.directory / n).stat().st_size))
    finally:
        subject.stop()
    small = [name for name in names if "/" in name] or names
    rows += [without_cache(work, url, link, manifest, small), first, second]
    table(rows)
    print("\n  unmounted, cleaned up")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.demo", description=__doc__)
    parser.add_argument("--lake", metavar="URL", help="read this lake instead of making one")
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="tierfs-demo-"))
    try:
        run(arguments.lake, work)
    except RuntimeError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
