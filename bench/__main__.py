"""``python -m bench [NAME...] [--json FILE]``: measure, print a table, exit 1 if a bar is not
met."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import platform
import sys
from pathlib import Path

from bench.harness import Result

NAMES = [
    "warm_seq",
    "warm_small",
    "warmup",
    "second_find",
    "memory",
    "small_memory",
    "remount",
    "kill",
]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--json", type=Path, help="also write the results here")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(NAMES))
    if unknown:
        parser.error(f"no such measurement: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if os.geteuid() != 0:
        parser.error("run as root: the page cache is dropped between rounds")
    results: list[Result] = []
    for name in arguments.names or NAMES:
        print(f"-- {name}", file=sys.stderr, flush=True)
        results += importlib.import_module(f"bench.{name}").run()
    width = max(len(result.bar) for result in results)
    for result in results:
        verdict = {True: "met", False: "NOT MET", None: "-"}[result.met]
        print(f"{result.bar:{width}}  {verdict:8} {result.measured}")
        for key, value in result.details.items():
            print(f"{'':{width}}           {key}: {value}")
    if arguments.json:
        document = {
            "machine": {"kernel": platform.release(), "cpus": os.cpu_count()},
            "results": [dataclasses.asdict(result) for result in results],
        }
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0 if all(result.met is not False for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
