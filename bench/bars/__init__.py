"""``python -m bench bar [NAME...]``: tierfs's own bars, that need no peer; exit 1 if one is not
met."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from bench.bars.harness import Result

NAMES = [
    *("warmup", "memory", "small_memory", "remount", "faults", "kill", "survival"),
    *("look_around", "demand_latency", "checkpoint", "small_writes", "flush_reads"),
]


def main(argv: Sequence[str] | None = None) -> int:
    """0: all met; 1: one is not; 2: a wrong command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench bar", description="Measure tierfs's own bars, without peers."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    arguments = parser.parse_args(argv)
    unknown = sorted(set(arguments.names) - set(NAMES))
    if unknown:
        parser.error(f"no such bar: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if os.geteuid() != 0:
        parser.error("run as root: the page cache is dropped between rounds")
    met = True
    for name in arguments.names or NAMES:
        print(f"-- {name}", file=sys.stderr, flush=True)
        results: list[Result] = importlib.import_module(f"bench.bars.{name}").run()
        for result in results:
            verdict = {True: "met", False: "NOT MET", None: "-"}[result.met]
            print(f"{result.bar}: {verdict}: {result.measured}", flush=True)
            for key, value in result.details.items():
                print(f"    {key}: {value}", flush=True)
            met = met and result.met is not False
    return 0 if met else 1
