"""``umount.tierfs``: what umount(8) runs, so that ``umount DIR`` returns when the daemon has ended.

umount(8) calls ``umount.tierfs DIR [-flnrv] [-N namespace] [-t type]``. It looks for a helper by
the type in the mount table, so `tierfs install` links it as ``umount.fuse.tierfs`` too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tierfs.cli.mount8 import parse, run_helper
from tierfs.errors import ConfigError

USAGE = """\
usage: umount.tierfs DIR [-flnrv]
  -l  detach now, even while files are open (waits for nothing)
  -f  abort requests in flight             -v  say what is done
  -n, -r  ignored (there is no mtab, and a lake is not written to)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Unmount as umount(8) asks; 0 or 32."""
    return run_helper("umount.tierfs", _run, argv)


def _run(argv: list[str]) -> int:
    from tierfs.cli.unmounting import unmount

    flags, places = parse("umount.tierfs", argv, "nlfvrht:N:", ["help"])
    names = [name for name, _ in flags]
    if "-h" in names or "--help" in names:
        print(USAGE, end="")
        return 0
    if len(places) != 1:
        raise ConfigError("usage", "umount.tierfs DIR [-flnrv]", "see --help")
    left = unmount(Path(places[0]), lazy="-l" in names, force="-f" in names)
    if left.incomplete:
        # It is unmounted, which is what umount(8) asks about.
        print(f"umount.tierfs: {places[0]}: {left}", file=sys.stderr)
    if "-v" in names:
        print(f"umount.tierfs: {places[0]} unmounted")
    return 0


if __name__ == "__main__":
    sys.exit(main())
