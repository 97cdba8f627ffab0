"""A bare parallel S3 client without a file system: what the link and the server give."""

from __future__ import annotations

from contextlib import AbstractContextManager

from bench.subjects.base import Bucket, CannotError, Mounted, Place, Settings, Subject


class Client(Subject):
    """``loadgen get`` and ``put``: plain HTTP/1.1 connections, each taking the next object or
    part."""

    name = "client"
    settings = Settings(
        "loadgen get|put --connections N",
        "native/loadgen",
        [
            "whole objects: as many connections as the scenario has readers",
            "large objects: ranges of 8 MiB, the best of 64, 32 ... 1 connections, as far "
            "down as it does not get a tenth slower (bench/connections.py)",
            "uploads: parts of 8 MiB, the best of as many; boto3 begins and completes them, which "
            "counts",
            "requests are signed before the clock starts",
        ],
    )

    def version(self) -> str:
        return "-"

    def mount(self, bucket: Bucket, place: Place) -> AbstractContextManager[Mounted]:
        raise CannotError("it is not a file system")
