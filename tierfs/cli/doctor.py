"""``tierfs doctor``: what is wrong with this machine or this lake, and what to do about it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tierfs.cli import checks
from tierfs.cli.arguments import Parser, add_options, assemble, given_options
from tierfs.cli.checks import Level, Result
from tierfs.config import Config, default_cache
from tierfs.options import OPTIONS

EXAMPLES = """\
  tierfs doctor                                   # this machine
  tierfs doctor s3://bucket/prefix --profile lab  # and that lake, with these credentials
  tierfs doctor --config /etc/tierfs/lake.toml
"""
#: The options of a mount that a check looks at.
_RELEVANT = (
    "endpoint", "region", "profile", "path_style", "ca_bundle", "anonymous", "requester_pays",
    "sse_c_key_file", "allow_empty_prefix", "cache", "cache_size",
)  # fmt: skip
#: Nothing is mounted, but a configuration has a mount point: one that no path lies below.
_NOWHERE = "/dev/null"


def run(argv: Sequence[str]) -> int:
    """Print one line per check, and its remedy; 1 if one failed."""
    parser = Parser(
        "doctor",
        "Check this machine, and with URL or --config a lake, with the options of mount.\n"
        "Changes nothing. Exit code 1 if a check fails; warnings do not count.",
        EXAMPLES,
    )
    parser.add_argument("url", nargs="?", metavar="URL")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_options(parser, _RELEVANT)
    arguments = parser.parse(argv)
    config: Config | None = None
    if arguments.url or arguments.config:
        mountpoint = None if arguments.config else _NOWHERE
        config = assemble(arguments, {"url": arguments.url, "mountpoint": mountpoint})
        cache = config.cache
    else:
        text = given_options(arguments).get("cache")
        cache = OPTIONS["cache"].parse(text, "--cache") if text else default_cache()
    results = []
    for result in _results(config, cache):
        results.append(result)
        if not arguments.json:
            print(render(result), flush=True)
    if arguments.json:
        json.dump([_fields(result) for result in results], sys.stdout, indent=2)
        print()
    return 1 if any(result.level is Level.FAIL for result in results) else 0


def _results(config: Config | None, cache: Path) -> Iterator[Result]:
    yield checks.kernel()
    yield checks.front()
    yield checks.fuse_device()
    yield checks.capabilities()
    yield checks.user_mounts()
    yield checks.mount_helpers()
    yield checks.open_files()
    yield checks.cache_disk(cache)
    yield checks.updatedb()
    yield from checks.dead_mounts()
    if config is not None:
        from tierfs.cli.lake_checks import lake_checks

        yield from lake_checks(config)


def render(result: Result) -> str:
    """One line, and the remedy on the next."""
    line = f"{result.level.value:<5} {result.name:<14} {result.message}"
    return f"{line}\n{'':<21}-> {result.remedy}" if result.remedy else line


def _fields(result: Result) -> dict[str, str]:
    return {
        "level": result.level.value,
        "name": result.name,
        "message": result.message,
        "remedy": result.remedy,
    }
