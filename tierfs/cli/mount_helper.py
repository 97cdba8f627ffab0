"""``mount.tierfs``: what mount(8) runs for ``mount -t tierfs`` and for fstab entries.

mount(8) calls ``mount.tierfs URL DIR [-sfnv] [-N namespace] [-o options] [-t type]`` and takes 32
for "the mount failed".
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from tierfs.cli.mount8 import EXIT_FAILED, parse, run_helper
from tierfs.errors import ConfigError

USAGE = """\
usage: mount.tierfs URL DIR [-fnsv] [-o OPTIONS]
  -f  check everything, mount nothing      -n  ignored (there is no mtab)
  -s  pass over unknown options            -v  say what is done
example: mount -t tierfs s3://bucket/prefix /mnt/lake -o cache=/nvme/tierfs,cache_size=800G
fstab:   s3://bucket/prefix /mnt/lake tierfs cache=/nvme/tierfs,_netdev,nofail 0 0
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Mount as mount(8) asks; 0 or 32."""
    return run_helper("mount.tierfs", _run, argv)


def _run(argv: list[str]) -> int:
    from tierfs.cli.mount_options import parse_mount_options
    from tierfs.cli.preflight import preflight
    from tierfs.config import Config

    flags, places = parse("mount.tierfs", argv, "fnsvhVo:t:N:", ["help", "version"])
    names = [name for name, _ in flags]
    if "-h" in names or "--help" in names:
        print(USAGE, end="")
        return 0
    if "-V" in names or "--version" in names:
        from tierfs import __version__

        print(f"mount.tierfs {__version__}")
        return 0
    options = parse_mount_options(
        [value for name, value in flags if name == "-o"], sloppy="-s" in names
    )
    if not 1 <= len(places) <= 2 or (len(places) == 1 and options.config is None):
        raise ConfigError("usage", "mount.tierfs URL DIR [-fnsv] [-o OPTIONS]", "see --help")
    complete_environment()
    # With -o config=FILE the file may name the lake; mount(8) still wants some word in its place.
    cli = {"mountpoint": places[-1]}
    if len(places) == 2 and not (options.config is not None and "://" not in places[0]):
        cli["url"] = places[0]
    config = Config.assemble(
        cli=cli,
        mount_options=options.values,
        file=options.config,
        security=options.security,
    )
    if "-v" in names:
        if options.ignored:
            print(f"mount.tierfs: passed over: {','.join(options.ignored)}")
        print(f"mount.tierfs: {config.url} on {config.mountpoint}, cache {config.cache}")
    preflight(config)
    if "-f" in names:
        return 0
    from tierfs import keeper

    code = keeper.run(config) if config.foreground else keeper.spawn(config)
    return EXIT_FAILED if code else 0


def complete_environment() -> None:
    """Give the daemon what systemd's mount units leave out: HOME, where ``~/.aws`` is looked for,
    and PATH, where ``fusermount3`` and credential processes are."""
    if not os.environ.get("HOME"):
        import pwd

        try:
            os.environ["HOME"] = pwd.getpwuid(os.geteuid()).pw_dir
        except KeyError:
            os.environ["HOME"] = "/"
    os.environ.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")


if __name__ == "__main__":
    sys.exit(main())
