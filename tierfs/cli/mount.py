"""``tierfs mount``: check everything that can be checked at once, then hand over to the keeper."""

from __future__ import annotations

from collections.abc import Sequence

from tierfs.cli.arguments import Parser, add_options, assemble
from tierfs.cli.preflight import preflight

EXAMPLES = """\
  tierfs mount s3://bucket/datasets /mnt/lake --cache /nvme/tierfs --cache-size 800G
  tierfs mount s3://bucket /mnt/lake --endpoint https://minio.example:9000 --profile lab
  tierfs mount file:///data/lake /mnt/lake --cache /nvme/tierfs --metadata-ttl inf
  tierfs mount --config /etc/tierfs/lake.toml --foreground
"""


def run(argv: Sequence[str]) -> int:
    """Mount, and return when the mount answers (``--foreground``: when it has ended)."""
    parser = Parser(
        "mount",
        "Mount the lake URL on the directory DIR. Returns when the mount answers.\n"
        "Sizes are binary and need a unit (800G); durations too (60s, 5m, inf).",
        EXAMPLES,
    )
    parser.add_argument("url", nargs="?", metavar="URL", help="s3://BUCKET/PREFIX or file:///PATH")
    parser.add_argument("mountpoint", nargs="?", metavar="DIR", help="an empty directory")
    add_options(parser)
    arguments = parser.parse(argv)
    config = assemble(arguments, {"url": arguments.url, "mountpoint": arguments.mountpoint})
    preflight(config)
    from tierfs import keeper

    return keeper.run(config) if config.foreground else keeper.spawn(config)
