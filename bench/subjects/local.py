"""The local file system: the same files, read where the disk has them."""

from __future__ import annotations

from contextlib import AbstractContextManager

from bench.subjects.base import Bucket, CannotError, Mounted, Place, Settings, Subject


class Local(Subject):
    """What every ratio is made against. The laboratory gives it the data
    set's own directory."""

    name = "local"
    settings = Settings("none", "the disk that all caches are on, too")

    def version(self) -> str:
        return "-"

    def mount(self, bucket: Bucket, place: Place) -> AbstractContextManager[Mounted]:
        raise CannotError("it is not a mount")
