"""When files are durable: what the lake has of them, by its own clock and its own log."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bench.lakesim import Lakesim
from bench.loadgen import File
from bench.subjects.base import Bucket, CannotError

_POLL_S = 0.1
#: So long nothing must have happened to the files: some peers copy or delete what they have just
#: uploaded. The times that are told are those of the lake's log, so that waiting costs no accuracy.
_QUIET_S = 1.0
#: What makes a version of an object.
_MAKING = ("PutObject", "CompleteMultipartUpload", "CopyObject")


class Arrival:
    """Watches *files* come to *bucket*, from now on; what was there before does not count."""

    def __init__(self, server: Lakesim, bucket: Bucket, files: Sequence[File]) -> None:
        self._server = server
        self._bucket = bucket
        self._files = files
        self._mark = server.mark()

    def wait(self, limit_s: float) -> dict[str, int]:
        """Wait until all files are there whole and no request is on its way. When the last version
        of each took effect, by path: a `time.time_ns`. Raises CannotError after *limit_s*."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            missing = self._missing()
            if not missing:
                made = self._made()
                quiet_s = (time.time_ns() - max(made.values(), default=0)) / 1e9
                if len(made) == len(self._files) and quiet_s > _QUIET_S and not self._busy():
                    return made
            time.sleep(_POLL_S)
        raise CannotError(f"not in the lake after {limit_s:g} s: {self._missing() or 'quiet'}")

    def _missing(self) -> str:
        """One file that the lake does not have, and what it has of it; "" if there is none."""
        sizes = self._server.sizes(self._bucket.name, self._bucket.prefix)
        for file in self._files:
            size = sizes.get(self._bucket.prefix + file.path)
            if size != file.size:
                return f"{file.path} ({'absent' if size is None else f'{size} bytes'})"
        return ""

    def _made(self) -> dict[str, int]:
        paths = {self._bucket.prefix + file.path: file.path for file in self._files}
        made: dict[str, tuple[int, int]] = {}
        for request in self._server.log(self._mark):
            path = paths.get(request.key)
            if path is None or request.bucket != self._bucket.name:
                continue
            if request.operation in _MAKING and request.commit and request.committed_ns:
                made[path] = max(made.get(path, (0, 0)), (request.commit, request.committed_ns))
        return {path: at_ns for path, (_, at_ns) in made.items()}

    def _busy(self) -> bool:
        return self._server.stats().in_flight > 0
