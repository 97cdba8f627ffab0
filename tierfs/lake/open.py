"""From options to a lake."""

from __future__ import annotations

from typing import Protocol

from tierfs.lake.link import ModelledLake, parse_link
from tierfs.lake.local import LocalLake
from tierfs.lake.s3 import S3Lake
from tierfs.lake.s3_options import S3Options
from tierfs.lake.url import parse_lake_url
from tierfs.lake.writing import WritableLake


class LakeOptions(S3Options, Protocol):
    """What opening a lake needs to know; ``Config`` has all of it.

    *request_timeout* is in seconds, over all attempts of one request. *link* is ``none``,
    ``standard`` or ``FIRST_BYTE_MS,P99_MS,MBPS_PER_CONNECTION,MBPS_TOTAL``.
    """

    @property
    def url(self) -> str: ...
    @property
    def link(self) -> str: ...


async def open_lake(options: LakeOptions) -> WritableLake:
    """The lake that *options* name, not yet checked (`Lake.check`). The caller closes it.

    Finding credentials may ask identity services; the bucket itself is not asked. Raises
    ConfigError, LakeDenied, LakeUnavailable.
    """
    url = parse_lake_url(options.url)
    model = parse_link(options.link)
    lake: WritableLake
    if url.scheme == "s3":
        lake = await S3Lake.open(url, options)
    else:
        lake = LocalLake(url.root, max_connections=options.max_connections)
    return ModelledLake(lake, model) if model is not None else lake
