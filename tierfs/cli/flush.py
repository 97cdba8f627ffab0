"""``tierfs flush``: what was written is in the lake, or why it is not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tierfs.cli.arguments import Parser, add_runtime_dir
from tierfs.cli.live import by_mount
from tierfs.cli.progress import UploadLine
from tierfs.control.client import call
from tierfs.units import human_size, parse_duration

EXAMPLES = """\
  tierfs flush --wait /mnt/run                      # until all of it is in the lake
  tierfs flush --wait --timeout 10m /mnt/run/checkpoints/step-500
  tierfs flush --retry /mnt/run                     # go on after a failure that was mended
  tierfs flush --skip /mnt/run                      # give up the one change that fails
"""


def run(argv: Sequence[str]) -> int:
    """0: all is in the lake (or, without --wait, was told to go there); 1: it is not, by the time
    limit or for good."""
    parser = Parser(
        "flush",
        "Bring what was written below the PATHs into the lake. It goes there by itself; with --wait"
        " this returns when it is there.\nExit status: 0, it is (or --wait was not given); 1, the"
        " time is over, or a root is frozen by a failure.",
        EXAMPLES,
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    parser.add_argument("--wait", action="store_true", help="return when it is in the lake")
    parser.add_argument("--timeout", metavar="DURATION", help="wait no longer than that (10m)")
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--retry", action="store_const", dest="action", const="retry",
        help="try again what was given up on",
    )  # fmt: skip
    again.add_argument(
        "--skip", action="store_const", dest="action", const="skip",
        help="give up the change that fails, for ever, and go on with the next one",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_runtime_dir(parser)
    arguments = parser.parse(argv)
    timeout_s = None
    if arguments.timeout is not None:
        if not arguments.wait:
            parser.error("--timeout goes with --wait")
        try:
            timeout_s = parse_duration(arguments.timeout)
        except ValueError as error:
            parser.error(f"--timeout: {error}")
    failed = False
    for mount, paths in by_mount(arguments.paths).items():
        line = UploadLine()
        request = {
            "paths": paths,
            "wait": arguments.wait,
            "timeout_s": timeout_s,
            "action": arguments.action or "",
        }
        try:
            answer = call(mount, "flush", request, progress=line, runtime_dir=arguments.runtime_dir)
        finally:
            line.close()
        print(json.dumps(answer, sort_keys=True) if arguments.json else render(answer))
        failed = failed or not answer["durable"]
    return 1 if failed else 0


def render(answer: dict[str, Any]) -> str:
    """What is in the lake, what is not, and what fails."""
    waiting, size = int(answer["unflushed_changes"]), int(answer["unflushed_bytes"])
    lines = [
        f"{waiting:,} changes ({human_size(size)}) are on their way" if waiting
        else "all of it is in the lake"
    ]  # fmt: skip
    for root in answer.get("roots", []):
        if root["failure"]:
            lines.append(f"{root['root']} is frozen at {root['failed_path']}: {root['failure']}")
            lines.append("mend that, then: tierfs flush --retry; or --skip to give it up")
    if held := int(answer.get("held_names", 0)):
        lines.append(f"{held:,} temporary names stay on this node until they are renamed")
    return "\n".join(lines)
