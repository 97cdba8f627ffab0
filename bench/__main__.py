"""``python -m bench COMMAND``: how fast it is, beside the others.

run       mount subjects on the same bucket, measure them in turns, print the table
compare   what changed beyond the noise between two runs
plot      draw a run as one page
bar       measure one of tierfs's own bars, without peers
policy    which reads the eviction policy misses, beside others, in a simulator
"""

from __future__ import annotations

import sys

from bench import bars, compare, plot, policy, run

COMMANDS = {
    "run": run.main,
    "compare": compare.main,
    "plot": plot.main,
    "bar": bars.main,
    "policy": policy.main,
}


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        print(f"bench: no command {argv[0]}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return COMMANDS[argv[0]](argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
