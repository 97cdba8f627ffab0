"""``tierfs umount``: unmount, and return when the daemon has ended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tierfs.cli.arguments import Parser, add_runtime_dir
from tierfs.cli.unmounting import unmount

EXAMPLES = """\
  tierfs umount /mnt/lake
  tierfs umount -l /mnt/lake      # detach now, even while files are open
"""


def run(argv: Sequence[str]) -> int:
    """Unmount each DIR."""
    parser = Parser("umount", "Unmount DIR and wait until its daemon has ended.", EXAMPLES)
    parser.add_argument("directories", nargs="+", metavar="DIR", type=Path)
    parser.add_argument(
        "-l",
        "--lazy",
        action="store_true",
        help="detach at once; open files stay readable, and nothing is waited for",
    )
    parser.add_argument("-f", "--force", action="store_true", help="abort requests in flight")
    add_runtime_dir(parser)
    arguments = parser.parse(argv)
    for directory in arguments.directories:
        unmount(
            directory,
            lazy=arguments.lazy,
            force=arguments.force,
            runtime_dir=arguments.runtime_dir,
        )
    return 0
