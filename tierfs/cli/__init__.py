"""The command line. One module per command, imported only when it is asked for.

Exit codes: 0 done; 1 it failed; 2 it was asked wrongly (arguments, options, configuration); 130
interrupted. umount has 3 as well, and fsck those of fsck(8). ``mount.tierfs`` and ``umount.tierfs``
answer 32 for every failure, as mount(8) wants.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from tierfs.errors import ConfigError, TierfsError

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

#: Command, and what it does in one line. Its module is ``tierfs.cli.<command>``.
COMMANDS = {
    "mount": "mount a lake on a directory",
    "umount": "unmount it and wait until its daemon has ended",
    "status": "show what a mount does: cache, requests, names that cannot be shown",
    "warmup": "fetch everything below some paths into the cache",
    "plan": "tell in which order files will be read: fetch ahead and evict by that",
    "evict": "drop cached bytes of a path, or of everything",
    "flush": "wait until what was written is in the lake",
    "fsck": "check what was written and is not in the lake yet; repair it",
    "refresh": "ask the lake anew what is below a path",
    "reexec": "upgrade the package under a live mount",
    "doctor": "check this machine and a lake, with remedies",
    "install": "put the mount(8) helpers and systemd units in place",
}
#: Commands that the overview does not mention.
HIDDEN = frozenset({"reference"})

EXAMPLES = """\
examples:
  tierfs mount s3://bucket/datasets /mnt/lake --cache /nvme/tierfs --cache-size 800G
  tierfs warmup /mnt/lake/imagenet --dry-run
  tierfs status /mnt/lake
  tierfs mount s3://bucket/run-7 /mnt/run --write-back 'checkpoints/**'
  tierfs flush --wait /mnt/run
  tierfs umount /mnt/lake
  mount -t tierfs s3://bucket/datasets /mnt/lake -o cache=/nvme/tierfs,cache_size=800G
  systemctl enable --now tierfs@lake        # reads /etc/tierfs/lake.toml
"""


def overview() -> str:
    """What ``tierfs --help`` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return (
        "usage: tierfs COMMAND ... | --version | --help\n\n"
        "A data lake in object storage as a directory tree, cached on the local disk.\n\n"
        "commands:\n" + "\n".join(lines) + "\n\n" + EXAMPLES + "\n"
        "tierfs COMMAND --help explains a command. Exit codes: 0 done, 1 failed, 2 asked wrongly.\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code and prints errors on standard error in one line."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except ConfigError as error:
        print(f"tierfs: {error}", file=sys.stderr)
        return EXIT_USAGE
    except TierfsError as error:
        print(f"tierfs: {error}", file=sys.stderr)
        return EXIT_FAILURE
    except KeyboardInterrupt:
        print("tierfs: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter must not flush into the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE


def _dispatch(arguments: list[str]) -> int:
    if not arguments:
        print(overview(), end="", file=sys.stderr)
        return EXIT_USAGE
    command, *rest = arguments
    if command in ("-h", "--help", "help") and not rest:
        print(overview(), end="")
        return EXIT_OK
    if command in ("-V", "--version", "version"):
        from tierfs import __version__

        print(f"tierfs {__version__}")
        return EXIT_OK
    if command == "help":
        command, rest = rest[0], ["--help"]
    if command == "unmount":
        command = "umount"
    if command not in COMMANDS and command not in HIDDEN:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "see tierfs --help"
        raise ConfigError("unknown command", command, hint)
    module = importlib.import_module(f"tierfs.cli.{command}")
    code: int = module.run(rest)
    return code
