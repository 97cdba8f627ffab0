"""``tierfs refresh``: show the lake's present state before the TTL has run out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tierfs.cli.arguments import Parser, add_runtime_dir
from tierfs.cli.live import by_mount
from tierfs.control.client import call

EXAMPLES = """\
  tierfs refresh /mnt/lake/labels
"""


def run(argv: Sequence[str]) -> int:
    """Ask the lake anew about the paths."""
    parser = Parser(
        "refresh",
        "Ask the lake anew what is at and below each PATH, so that stat, read and mmap show it,\n"
        "the kernel's caches included. Returns when they do.",
        EXAMPLES,
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    add_runtime_dir(parser)
    arguments = parser.parse(argv)
    for mount, paths in by_mount(arguments.paths).items():
        answer = call(mount, "refresh", {"paths": paths}, runtime_dir=arguments.runtime_dir)
        count = int(answer.get("changed", 0))
        print(f"{mount.mountpoint}: {count:,} {'name' if count == 1 else 'names'} changed")
    return 0
