"""``tierfs plan``: tell a mount in which order files will be read."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from tierfs.cli.arguments import Parser, add_runtime_dir
from tierfs.cli.progress import ProgressLine
from tierfs.control.client import call, find_mount
from tierfs.control.telling import relative, tell
from tierfs.errors import ConfigError
from tierfs.units import human_size, parse_size

EXAMPLES = """\
  tierfs plan /mnt/lake epoch0.txt               # one path a line, in the order of reading
  make-order --epoch 1 | tierfs plan /mnt/lake - --append
  tierfs plan /mnt/lake                          # how far it is, and whether it is followed
  tierfs plan /mnt/lake --clear
"""

#: A path, and a part of the file, which stands for all of it.
_PART = re.compile(rb"(.+)\t\d+\t\d+", re.DOTALL)
_READ_BYTES = 1 << 16


class Told(ProgressLine):
    """How many names were told."""

    def render(self, fields: dict[str, Any]) -> str:
        """The line as text."""
        return f"{int(fields['names']):,} names told"


def run(argv: Sequence[str]) -> int:
    """Tell, show or forget an order; 1 if none of its names is one of a file."""
    parser = Parser(
        "plan",
        "Tell the mount at DIR in which order files will be read. It fetches them ahead in this\n"
        "order, and evicts what is read last. FILE (-: standard input) has one path a line,\n"
        "absolute or relative to DIR; PATH<tab>OFFSET<tab>LENGTH stands for its file. A wrong\n"
        "order costs speed, no more: names that are not there are counted and passed over, and an\n"
        "order that reads do not follow is not gone by. Without FILE it shows what is known.",
        EXAMPLES,
    )
    parser.add_argument("mount", type=Path, metavar="DIR")
    parser.add_argument("file", nargs="?", metavar="FILE")
    parser.add_argument(
        "--append", action="store_true", help="after what was told before, not instead of it"
    )
    parser.add_argument("--clear", action="store_true", help="forget what was told before")
    parser.add_argument(
        "-0", "--null", action="store_true", help="names end with a NUL, and are nothing but names"
    )
    parser.add_argument(
        "--ahead",
        metavar="SIZE",
        help="how much to have in the cache ahead of who reads [an eighth of the cache's limit and"
        " what it has room for, half of it at most; without a limit 8G]",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_runtime_dir(parser)
    arguments = parser.parse(argv)
    if arguments.clear and (arguments.file or arguments.append):
        parser.error("--clear takes no order")
    if arguments.append and not arguments.file:
        parser.error("--append what? name a FILE, or -")
    ahead_bytes = _size(parser, arguments.ahead)
    mount, below = find_mount(arguments.mount)
    if arguments.file is None:
        args: dict[str, Any] = {"clear": True} if arguments.clear else {}
        if ahead_bytes is not None:
            args["ahead_bytes"] = ahead_bytes
        answer = call(mount, "plan", args, runtime_dir=arguments.runtime_dir)
    else:
        line = Told()
        names = _names(parser, arguments.file, null=arguments.null)
        try:
            answer = tell(
                mount,
                relative(names, os.fsencode(arguments.mount), mount, below),
                append=arguments.append,
                ahead_bytes=ahead_bytes,
                told=lambda sent: line({"names": sent}),
                runtime_dir=arguments.runtime_dir,
            )
        finally:
            line.close()
    print(json.dumps(answer, sort_keys=True) if arguments.json else render(answer))
    return 1 if arguments.file and answer["unknown"] and not answer["entries"] else 0


def render(answer: dict[str, Any]) -> str:
    """What is known of the order in a few lines."""
    if not answer["entries"] and not answer["unknown"]:
        return "no order is known"
    entries, position, unknown = answer["entries"], answer["position"], answer["unknown"]
    lines = [
        f"known     {entries:>12,} reads",
        f"position  {position:>12,}",
        f"hits      {answer['hits']:>12,} reads",
        f"unknown   {unknown:>12,} names",
        f"ahead     {human_size(answer['ahead_bytes']):>12}",
    ]
    if not answer["believed"]:
        share = answer["followed_share"] or 0.0
        lines.append(f"not gone by: {share:.0%} of the last reads are where it says")
    return "\n".join(lines)


def _size(parser: Parser, text: str | None) -> int | None:
    try:
        return None if text is None else parse_size(text)
    except ValueError as error:
        parser.error(f"--ahead {text}: {error}")


def _names(parser: Parser, file: str, *, null: bool) -> Iterator[bytes]:
    """The names in *file*, as they are read. Parts of one file that follow each other are one."""
    try:
        with nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb") as source:
            last = b""
            for record in _records(source, b"\0" if null else b"\n"):
                part = None if null else _PART.fullmatch(record)
                name = part[1] if part else record
                if name and not (part and name == last):
                    yield name
                last = name if part else b""
    except OSError as error:
        raise ConfigError(parser.prog, file, error.strerror or str(error)) from error


def _records(source: BinaryIO, end: bytes) -> Iterator[bytes]:
    rest = b""
    while data := source.read(_READ_BYTES):
        *records, rest = (rest + data).split(end)
        yield from records
    yield rest
