"""What the helpers of mount(8) and umount(8) share: their words, their exit code, their options."""

from __future__ import annotations

import getopt
import sys
from collections.abc import Callable, Sequence

from tierfs.errors import ConfigError, MountError, TierfsError

#: What mount(8) and umount(8) call "the mount failed".
EXIT_FAILED = 32


def run_helper(program: str, run: Callable[[list[str]], int], argv: Sequence[str] | None) -> int:
    """*run* with the arguments, or those of the process; 0 or 32, with one line that says why."""
    try:
        return run(list(sys.argv[1:] if argv is None else argv))
    except TierfsError as error:
        print(f"{program}: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
    return EXIT_FAILED


def parse(
    program: str, argv: list[str], short: str, long: Sequence[str] = ()
) -> tuple[list[tuple[str, str]], list[str]]:
    """getopt of *argv*: options and the rest. ``-N``, for which there is no support, is refused.

    Raises ConfigError and MountError.
    """
    try:
        options, rest = getopt.gnu_getopt(argv, short, long)
    except getopt.GetoptError as error:
        raise ConfigError(str(error), "", f"see {program} --help") from None
    if any(name == "-N" for name, _ in options):
        command = program.partition(".")[0]
        hint = f"enter the namespace first: nsenter --mount=FILE {command} ..."
        raise MountError("another mount namespace is not supported", "-N", hint)
    return options, rest
