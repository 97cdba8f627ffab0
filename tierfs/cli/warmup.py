"""``tierfs warmup``: fetch whole subtrees into the cache."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tierfs.cli.arguments import Parser, add_runtime_dir
from tierfs.cli.live import by_mount
from tierfs.cli.progress import ProgressLine
from tierfs.control.client import call
from tierfs.units import human_size

EXAMPLES = """\
  tierfs warmup /mnt/lake/imagenet/train
  tierfs warmup --dry-run /mnt/lake          # objects, bytes and requests, nothing fetched
"""


def run(argv: Sequence[str]) -> int:
    """Warm up the paths; 1 if an object could not be fetched."""
    parser = Parser(
        "warmup",
        "Fetch everything below the PATHs into the cache, many requests at a time.\n"
        "Interrupted, it goes on where it stopped: what is complete is passed over.",
        EXAMPLES,
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    parser.add_argument(
        "--dry-run", action="store_true", help="only count objects, bytes and requests"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_runtime_dir(parser)
    arguments = parser.parse(argv)
    failed = False
    for mount, paths in by_mount(arguments.paths).items():
        line = ProgressLine()
        try:
            answer = call(
                mount,
                "warmup",
                {"paths": paths, "dry_run": arguments.dry_run},
                progress=line,
                runtime_dir=arguments.runtime_dir,
            )
        finally:
            line.close()
        if arguments.json:
            print(json.dumps(answer, sort_keys=True))
        else:
            print(render(answer, dry_run=arguments.dry_run))
        failed = failed or bool(answer.get("failed"))
    return 1 if failed else 0


def render(answer: dict[str, Any], *, dry_run: bool) -> str:
    """The result in a few lines: what was found, what was there, what was or would be fetched."""
    objects, size = int(answer["objects"]), int(answer["bytes"])
    cached, cached_bytes = int(answer["cached_objects"]), int(answer["cached_bytes"])
    if dry_run:
        verb, fetched, fetched_bytes = "to fetch", objects - cached, size - cached_bytes
    else:
        verb, fetched = "fetched", int(answer["fetched_objects"])
        fetched_bytes = int(answer["fetched_bytes"])
    lines = [
        f"found     {_amount(objects, size)}",
        f"cached    {_amount(cached, cached_bytes)}",
        f"{verb:<8}  {_amount(fetched, fetched_bytes)} in {int(answer['requests']):,} requests",
    ]
    if answer.get("failed"):
        lines.append(f"failed    {int(answer['failed']):,} objects")
        lines += [
            f"  {failure['path']}: {failure['error']}" if failure["path"] else failure["error"]
            for failure in answer.get("failures", [])
        ]
        lines.append("run it again to fetch what is missing")
    return "\n".join(lines)


def _amount(objects: int, size_bytes: int) -> str:
    return f"{objects:>12,} objects  {human_size(size_bytes):>10}"
