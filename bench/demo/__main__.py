"""``python -m bench.demo [--lake URL]``: see tierfs do its main job, with every byte checked.

Without a lake of your own it makes a small one in a local directory and puts the standard model of
a remote link in front of it (first byte 20 ms median and 100 ms p99, 90 MB/s a connection, 400 MB/s
in all). With ``--lake s3://bucket/prefix`` it reads up to 2,000 of your files and writes nothing
there.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.bars.harness import Tierfs
from bench.demo import half
from bench.demo.epochs import Progress, Row, epoch, mounted_epoch, write_manifest
from bench.demo.samples import make_lake

OWN_LAKE_FILES, OWN_LAKE_BYTES = 2000, 2 << 30


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
        sizes = {name: (subject.directory / name).stat().st_size for name in names}
        damage_scene(subject, max(names, key=sizes.__getitem__))
    finally:
        subject.stop()
    small = [name for name in names if "/" in name] or names
    rows += [without_cache(work, url, link, manifest, small), first, second]
    table(rows)
    print()
    half.scene(work, url, link, summary["digests"], {name: sizes[name] for name in small})
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
