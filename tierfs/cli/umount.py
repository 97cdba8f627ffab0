"""``tierfs umount``: unmount, and return when the daemon has ended."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tierfs.cli.arguments import Parser, add_runtime_dir
from tierfs.cli.progress import UploadLine
from tierfs.cli.unmounting import unmount
from tierfs.control.client import call, find_mount
from tierfs.errors import MountError
from tierfs.units import human_size

#: Unmounted, but not everything is in the lake, as far as is known.
EXIT_LEFT = 3
#: Status comes from memory; a mount that needs longer is hanging.
STATUS_S = 10.0

EXAMPLES = """\
  tierfs umount /mnt/lake
  tierfs umount -l /mnt/lake      # detach now, even while files are open
  tierfs umount --discard-unflushed /mnt/run   # throw away what is not in the lake: asks
"""


def run(argv: Sequence[str]) -> int:
    """Unmount each DIR: 0, or `EXIT_LEFT`."""
    parser = Parser(
        "umount",
        "Unmount DIR and wait until its daemon has ended. What was written goes into the lake"
        " first, for as long as the mount's unmount_flush says; what is not there by then stays on"
        " the disk, and goes on with the next mount.\nExit status: 0, unmounted; 3, unmounted, but"
        " not everything is in the lake, or it could not be asked; 1, not unmounted.",
        EXAMPLES,
    )
    parser.add_argument("directories", nargs="+", metavar="DIR", type=Path)
    parser.add_argument(
        "-l",
        "--lazy",
        action="store_true",
        help="detach at once; open files stay readable, and nothing is waited for",
    )
    parser.add_argument(
        "-f", "--force", action="store_true",
        help="abort requests in flight, and do not wait for the lake",
    )  # fmt: skip
    parser.add_argument(
        "--discard-unflushed", action="store_true",
        help="throw away what was written and is not in the lake, for ever, instead of waiting",
    )  # fmt: skip
    parser.add_argument("--yes", action="store_true", help="do not ask about that")
    add_runtime_dir(parser)
    arguments = parser.parse(argv)
    discard = arguments.discard_unflushed
    if discard and (arguments.lazy or arguments.force):
        parser.error("--discard-unflushed goes with neither --lazy nor --force")
    if arguments.yes and not discard:
        parser.error("--yes goes with --discard-unflushed")
    code = 0
    for directory in arguments.directories:
        if discard and not arguments.yes:
            _ask(directory, arguments.runtime_dir)
        line = UploadLine()
        try:
            left = unmount(
                directory,
                lazy=arguments.lazy,
                force=arguments.force,
                discard=discard,
                runtime_dir=arguments.runtime_dir,
                progress=line,
            )
        finally:
            line.close()
        if left.discarded is not None:
            changes, files, size = left.discarded
            print(
                f"{directory}: thrown away: {files:,} files ({human_size(size)}), {changes:,}"
                " changes in all; the log names them"
            )
        if left.incomplete:
            print(f"tierfs: {directory}: {left}", file=sys.stderr)
            code = EXIT_LEFT
    return code


def _ask(directory: Path, runtime_dir: Path | None) -> None:
    """Have somebody confirm that what is not in the lake may go. Raises MountError: nobody does."""
    mount, _ = find_mount(directory)
    status = call(mount, "status", runtime_dir=runtime_dir, timeout_s=STATUS_S)
    writing = status.get("writing") or {}
    changes, held, never_closed, given_up = (
        int(writing.get(name, 0))
        for name in ("unflushed_changes", "held_names", "never_closed", "given_up")
    )
    if not changes and not held and not never_closed and not given_up:
        return
    size = human_size(int(writing.get("unflushed_bytes", 0)))
    what = (
        f"{changes:,} changes ({size}), {held:,} temporary names and {never_closed:,} files that"
        " were never closed are not in the lake"
        + (f", nor are {given_up:,} changes that were given up before" if given_up else "")
    )
    if not sys.stdin.isatty():
        raise MountError(what, str(directory), "to throw them away for ever, give --yes")
    print(f"{directory}: {what}.\nThrow them away, for ever? [y/N] ", end="", flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise MountError("nothing was thrown away", str(directory), "it is mounted as before")
