"""A progress line on a terminal, and nothing where there is none."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from tierfs.units import human_size

_BAR = 24


class ProgressLine:
    """Redraws one line on *stream* for the progress messages of a warm-up.

    The totals grow while the tree is still being walked, so the bar shows what is done of what has
    been found.
    """

    def __init__(
        self, stream: TextIO | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._now = now
        self._start_s = now()
        self._drawn = False

    def __call__(self, fields: dict[str, Any]) -> None:
        """Draw *fields* as `tierfs.control` sends them."""
        if not self._live:
            return
        width = shutil.get_terminal_size().columns
        self._stream.write("\r" + self.render(fields)[: width - 1].ljust(width - 1))
        self._stream.flush()
        self._drawn = True

    def render(self, fields: dict[str, Any]) -> str:
        """The line as text."""
        found, found_bytes = int(fields.get("objects", 0)), int(fields.get("bytes", 0))
        fetched_bytes = int(fields.get("fetched_bytes", 0))
        done = int(fields.get("fetched_objects", 0)) + int(fields.get("cached_objects", 0))
        done_bytes = fetched_bytes + int(fields.get("cached_bytes", 0))
        share = done_bytes / found_bytes if found_bytes else (1.0 if done == found else 0.0)
        filled = int(_BAR * min(share, 1.0))
        elapsed_s = max(self._now() - self._start_s, 0.001)
        return (
            f"[{'#' * filled}{'.' * (_BAR - filled)}] {share:4.0%}"
            f"  {done:,}/{found:,} objects  {human_size(done_bytes)}/{human_size(found_bytes)}"
            f"  {human_size(fetched_bytes / elapsed_s)}/s"
        )

    def close(self) -> None:
        """Leave the line behind."""
        if self._drawn:
            self._stream.write("\n")
            self._stream.flush()


class UploadLine(ProgressLine):
    """How much of what was written is still on its way to the lake."""

    def render(self, fields: dict[str, Any]) -> str:
        """The line as text."""
        size = human_size(int(fields["unflushed_bytes"]))
        return f"{int(fields['unflushed_changes']):,} changes ({size}) are on their way"
