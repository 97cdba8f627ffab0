"""``tierfs evict``: drop cached bytes; the lake is not touched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tierfs.cli.arguments import Parser, add_runtime_dir
from tierfs.cli.live import by_mount, the_mount
from tierfs.control.client import Mount, call
from tierfs.errors import ConfigError
from tierfs.units import human_size

EXAMPLES = """\
  tierfs evict /mnt/lake/imagenet/val
  tierfs evict --all /mnt/lake
"""


def run(argv: Sequence[str]) -> int:
    """Evict what is cached below the paths, or everything of one mount."""
    parser = Parser(
        "evict",
        "Drop the cached bytes of everything below the PATHs. Files that are open stay.\n"
        "Nothing changes in the lake; reading fetches again.",
        EXAMPLES,
    )
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH")
    parser.add_argument(
        "--all", action="store_true", help="the whole cache of one mount (PATH says which)"
    )
    add_runtime_dir(parser)
    arguments = parser.parse(argv)
    requests: list[tuple[Mount, dict[str, object]]]
    if arguments.all:
        if len(arguments.paths) > 1:
            raise ConfigError("tierfs evict --all", "", "takes one mount at most")
        requests = [(the_mount(next(iter(arguments.paths), None)), {"all": True})]
    elif arguments.paths:
        requests = [(mount, {"paths": paths}) for mount, paths in by_mount(arguments.paths).items()]
    else:
        raise ConfigError("tierfs evict", "", "name what to evict: a PATH, or --all")
    for mount, request in requests:
        answer = call(mount, "evict", request, runtime_dir=arguments.runtime_dir)
        files, size = int(answer["files"]), int(answer["bytes"])
        print(f"evicted {files:,} files, {human_size(size)}, from the cache of {mount.mountpoint}")
    return 0
