"""``tierfs status``: what a mount is doing, for people or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tierfs import metrics
from tierfs.cli.arguments import Parser, add_runtime_dir
from tierfs.cli.live import our_mounts
from tierfs.control.client import call, find_mount
from tierfs.errors import TierfsError
from tierfs.units import human_size

#: Status comes from memory; a mount that needs longer is hanging.
TIMEOUT_S = 10.0

#: Names of processes, whose values are their ids.
_PIDS = ("keeper", "control", "front", "spare", "pid")

EXAMPLES = """\
  tierfs status                    # every mount
  tierfs status /mnt/lake --json | jq .cache
  tierfs status --metrics > /var/lib/node_exporter/tierfs.prom.new &&
    mv /var/lib/node_exporter/tierfs.prom.new /var/lib/node_exporter/tierfs.prom
"""


def run(argv: Sequence[str]) -> int:
    """Print the status of one mount or all; 1 if one of them does not answer."""
    parser = Parser(
        "status",
        "Show what mounts do. With PATH the mount that it is on, otherwise all of them.\n"
        "--json prints one object for PATH, an array otherwise. --metrics prints what Prometheus\n"
        "reads; a mount that does not answer has none.",
        EXAMPLES,
    )
    parser.add_argument("path", nargs="?", type=Path, metavar="PATH")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--metrics", action="store_true", help="print metrics for Prometheus")
    add_runtime_dir(parser)
    arguments = parser.parse(argv)
    wanted = [find_mount(arguments.path)[0]] if arguments.path else our_mounts()
    answers, failed = [], False
    for mount in wanted:
        try:
            answers.append(
                call(mount, "status", runtime_dir=arguments.runtime_dir, timeout_s=TIMEOUT_S)
            )
        except TierfsError as error:
            failed = True
            answers.append({"mountpoint": str(mount.mountpoint), "error": str(error)})
    if arguments.metrics:
        sys.stdout.write(metrics.render(*(one for one in answers if "error" not in one)))
    elif arguments.json:
        shown = answers[0] if arguments.path else answers
        json.dump(shown, sys.stdout, indent=2, sort_keys=True)
        print()
    elif not answers:
        print("nothing is mounted")
    else:
        print("\n\n".join(render(answer) for answer in answers))
    return 1 if failed else 0


def render(status: dict[str, Any]) -> str:
    """The status as aligned lines, sections indented; a field that is new here is shown too."""
    title = f"{status.get('lake', '?')} on {status.get('mountpoint', '?')}"
    if "error" in status:
        return f"{status.get('mountpoint', '?')}: no answer\n  {status['error']}"
    rows = list(_rows(status, 1, skip=("lake", "mountpoint")))
    width = max(len("  " * depth + name) for depth, name, _ in rows)
    lines = [f"{'  ' * depth + name:<{width}}  {text}".rstrip() for depth, name, text in rows]
    return "\n".join([title, *lines])


def _rows(
    fields: dict[str, Any], depth: int, skip: Sequence[str] = ()
) -> Iterator[tuple[int, str, str]]:
    nested = []
    for key, value in fields.items():
        if key in skip:
            continue
        if isinstance(value, dict | list):
            nested.append((key, value))
        else:
            name, text = _leaf(key, value)
            yield depth, name, text
    for key, value in nested:
        name = key.replace("_", " ")
        if not value:
            yield depth, name, "none"
        elif isinstance(value, dict):
            yield depth, name, ""
            yield from _rows(value, depth + 1)
        else:
            yield depth, name, ""
            for item in value:
                yield depth + 1, "-", _item(item) if isinstance(item, dict) else str(item)


def _item(fields: dict[str, Any]) -> str:
    """One thing of several in a line: what it is called, then what is known of it."""
    (_, first), *others = fields.items()
    known = [(key, value) for key, value in others if value is not None and value is not False]
    words = [" ".join(_leaf(key, value)) for key, value in known]
    return "  ".join([str(first), ", ".join(words)])


def _leaf(key: str, value: object) -> tuple[str, str]:
    """Name and text of one value, by the unit that its key ends in."""
    name = key.replace("_", " ")
    if isinstance(value, bool):
        return name, "yes" if value else "no"
    if isinstance(value, int | float):
        if "bytes" in key.split("_"):
            return name.removesuffix(" bytes"), human_size(value)
        if key.endswith("_s"):
            return name.removesuffix(" s"), _elapsed(value)
        if key.endswith(("_rate", "_share")):
            return name, f"{value:.1%}"
        # Process ids are names, not quantities: no thousands separators.
        return name, str(value) if key in _PIDS else f"{value:,}"
    # A limit that was not set, a reason that does not exist.
    return name.removesuffix(" bytes"), "-" if value in (None, "") else str(value)


def _elapsed(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, _ = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "m")]
    return " ".join(f"{n} {unit}" for n, unit in parts if n) or "0 m"
