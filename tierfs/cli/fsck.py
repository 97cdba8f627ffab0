"""``tierfs fsck``: whether what was written, and is not in the lake yet, is in order on disk."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tierfs.cli.arguments import Parser
from tierfs.errors import ConfigError, TierfsError

if TYPE_CHECKING:
    from tierfs.writeback.fsck import Report

#: Exit codes, as fsck(8) has them; several are added up.
FINE, CORRECTED, LEFT, FAILED, USAGE = 0, 1, 4, 8, 16

EXAMPLES = """\
  tierfs fsck /nvme/tierfs                 # report
  tierfs fsck -y /nvme/tierfs              # repair
  tierfs fsck --json /nvme/tierfs/8c1f...  # one lake's directory
"""


def run(argv: Sequence[str]) -> int:
    """The exit code of fsck(8): 0 nothing is wrong; 1 what was wrong is repaired; 4 it is not; 8 it
    could not be looked at; 16 asked wrongly."""
    try:
        arguments = _parser().parse(argv)
    except ConfigError as error:
        print(f"tierfs: {error}", file=sys.stderr)
        return USAGE
    import trio

    from tierfs.writeback.fsck import fsck, lake_directories

    code, reports = FINE, []
    try:
        directories = lake_directories(arguments.cache)
    except TierfsError as error:
        print(f"tierfs: {error}", file=sys.stderr)
        return FAILED
    for directory in directories:
        try:
            report = trio.run(lambda path: fsck(path, repair=arguments.repair), directory)
        except TierfsError as error:
            print(f"tierfs: {error}", file=sys.stderr)
            code |= FAILED
            continue
        reports.append(_fields(report))
        if report.left:
            code |= LEFT
        elif report.found:
            code |= CORRECTED
    if arguments.json:
        print(json.dumps(reports, indent=2, sort_keys=True))
    else:
        for fields in reports:
            print(render(fields, repair=arguments.repair))
    return code


def _parser() -> Parser:
    parser = Parser(
        "fsck",
        "Check the journal and the staging files of the lakes that are cached below CACHE, a\n"
        "cache directory or one lake's directory in it; none of them may be mounted. A mount\n"
        "needs no check after a crash. Repairs never delete what was written: what has no place\n"
        "any more is moved to lost+found in the lake's directory, with a note.\n"
        "Exit status, as fsck(8): 0, nothing is wrong; 1, it was, and is repaired; 4, it is, and\n"
        "is not repaired; 8, it could not be checked; 16, asked wrongly.",
        EXAMPLES,
    )
    parser.add_argument("cache", type=Path, metavar="CACHE")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "-n", dest="repair", action="store_false", default=False, help="only report (the default)"
    )
    what.add_argument(
        "-y", "-p", "--repair", dest="repair", action="store_true", help="repair what is wrong"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _fields(report: Report) -> dict[str, Any]:
    left = {id(finding) for finding in report.left}
    return {
        "directory": str(report.directory),
        "lake": report.lake or None,
        "found": [
            {
                "trouble": finding.trouble.value,
                "about": finding.about,
                "what": finding.what,
                "repaired": id(finding) not in left,
            }
            for finding in report.found
        ],
        "moved": report.moved,
        "leftovers": report.leftovers,
    }


def render(fields: dict[str, Any], *, repair: bool) -> str:
    """What was found, for people."""
    where = f"{fields['directory']} ({fields['lake'] or 'of an unknown lake'})"
    lines = [
        f"{found['trouble']}: {found['about']}: {found['what']}"
        + ("" if found["repaired"] or not repair else " (not repaired)")
        for found in fields["found"]
    ]
    lines += [f"moved to {path}" for path in fields["moved"]]
    if fields["leftovers"]:
        lines.append(
            f"{fields['leftovers']:,} files are left by a kill; the next mount removes them"
        )
    if not fields["found"]:
        lines.append("clean")
    elif not repair:
        lines.append("nothing was changed; tierfs fsck -y repairs it")
    return "\n".join([f"{where}:", *(f"  {line}" for line in lines)])
