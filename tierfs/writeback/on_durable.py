"""The hook: a command of the administrator's, run when everything of a root is in the lake.

It comes from a file that only its owner can write (`tierfs.config`), is an argument list and no
shell's, and runs one at a time beside everything else: uploads never wait for it. It has the words
of `PLACEHOLDERS` filled in, no input, our standard error, and of our environment only `KEPT`: none
of the lake's credentials. After `TIMEOUT_S` it is killed, with all that it has started; one that
may not be killed (a set-uid program) is left alone, and nothing else is run until it ends.

It runs at most once for a checkpoint. What was not told when this process dies is not told by the
next one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import trio

from tierfs.errors import show
from tierfs.options import PLACEHOLDER
from tierfs.writeback.episodes import Episode

_log = logging.getLogger(__name__)

#: How long a command may take.
TIMEOUT_S = 60.0
#: How long a killed one may take to be gone: longer, where its disk hangs.
KILL_S = 5.0
#: Checkpoints that wait while one runs.
WAITING = 64
#: What of our environment it has.
KEPT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")


class OnDurable:
    """Runs *argv* for the checkpoints of what is mounted on *mountpoint*; empty: nothing."""

    def __init__(self, argv: Sequence[str], mountpoint: Path) -> None:
        self._argv = argv
        self._mountpoint = os.fsencode(mountpoint)
        self._send, self._receive = trio.open_memory_channel[Episode](WAITING)
        #: How many were told and not run yet.
        self._left = 0
        self._done = trio.Event()
        #: One that was killed in vain.
        self._stuck: trio.Process | None = None

    def tell(self, episode: Episode) -> None:
        """All of a root is in the lake. Returns at once."""
        if not self._argv:
            return
        try:
            self._send.send_nowait(episode)
            self._left += 1
        except trio.WouldBlock:
            _log.error(
                "on_durable is not run for /%s (lsn %d): %d others wait for it",
                show(episode.root),
                episode.last_lsn,
                WAITING,
            )

    async def run(self) -> None:
        """Run the command for what is told, until cancelled."""
        async for episode in self._receive:
            await self._one(self.filled_in(episode))
            self._left -= 1
            self._done.set()
            self._done = trio.Event()

    async def finish(self) -> None:
        """Wait until there is nothing left to run."""
        while self._left:
            await self._done.wait()

    def filled_in(self, episode: Episode) -> list[bytes]:
        """The command for *episode*. Names are bytes, and one argument whatever is in them."""
        words = {
            b"root": self._path(episode.root),
            b"path": self._path(episode.last_path.rstrip(b"/")),
            b"lsn": b"%d" % episode.last_lsn,
            b"files": b"%d" % episode.files,
            b"bytes": b"%d" % episode.size_bytes,
        }
        return [
            re.sub(PLACEHOLDER.encode(), lambda found: words[found[1]], os.fsencode(argument))
            for argument in self._argv
        ]

    def _path(self, path: bytes) -> bytes:
        return self._mountpoint + b"/" + path if path else self._mountpoint

    async def _one(self, argv: list[bytes]) -> None:
        shown = show(argv[0])
        if self._stuck is not None and self._stuck.poll() is None:
            _log.error("on_durable is not run: pid %d of the one before goes on", self._stuck.pid)
            return
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        try:
            process = await trio.lowlevel.open_process(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/",
                env=environment, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            _log.error("on_durable: cannot run %s: %s", shown, error.strerror or error)
            return
        try:
            with trio.move_on_after(TIMEOUT_S) as scope:
                await process.wait()
        finally:
            if process.poll() is None:
                # Its pid is its group's, and nobody else's before it is reaped.
                with contextlib.suppress(PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                with trio.move_on_after(KILL_S, shield=True):
                    await process.wait()
                self._stuck = process
        if process.returncode is None:
            _log.error("on_durable: %s cannot be killed: pid %d goes on", shown, process.pid)
        elif scope.cancelled_caught:
            _log.error("on_durable: %s took longer than %g s, and was killed", shown, TIMEOUT_S)
        elif process.returncode:
            _log.error("on_durable: %s ended with %d", shown, process.returncode)
