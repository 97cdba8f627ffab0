"""The front in this process: pyfuse3's loop on the keeper's descriptor."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable

import trio

from tierfs.control.commands import Commands
from tierfs.control.kernel_caches import KernelCaches
from tierfs.control.report import Reporter
from tierfs.control.wiring import DRAIN_S, Parts, Wire, Wired, receiving_signals, writing_of
from tierfs.errors import MountError
from tierfs.front.python import PythonFront
from tierfs.writeback.service import WriteBackService

log = logging.getLogger(__name__)

#: Tasks that pyfuse3 keeps for the next requests. With its own choice of one they come and go all
#: the time, each with a request buffer of 1 MiB.
IDLE_TASKS = 16
#: Requests in flight. All that wait for a slow lake count, and one more than this waits with them,
#: even for what is cached; so it is more than the readers of a node. A task costs some 15 KiB.
MAX_TASKS = 4096


def pyfuse3_wire(fuse_fd: int) -> Wire:
    """The front in this process: pyfuse3 on the keeper's descriptor."""

    def wire(parts: Parts) -> Wired:
        config = parts.config
        front = PythonFront(
            parts.lake_index.cache,
            parts.lake,
            parts.directory,
            parts.background,
            cache_size=config.cache_size,
            min_free=config.min_free,
            memory=config.memory,
            max_requests=config.max_connections,
            path_of=parts.namespace.path_of,
            policy=parts.policy,
        )

        writing = writing_of(parts, front)

        async def serve(commands: Commands) -> None:
            if writing is not None:
                await writing.start(parts.background)
            await _serve_fuse(fuse_fd, front, writing, commands, parts)

        return Wired(front, serve, writing)

    return wire


async def _serve_fuse(
    fuse_fd: int,
    front: PythonFront,
    writing: WriteBackService | None,
    commands: Commands,
    parts: Parts,
) -> None:
    """Run pyfuse3's loop on the inherited descriptor until an unmount or a signal ends it."""
    # Imported here so that everything above can be tested where libfuse3 is not installed.
    import pyfuse3

    from tierfs.fs import receiving
    from tierfs.fs.operations import Operations
    from tierfs.fs.writing import WritingOperations

    namespace = parts.namespace
    session = Session(parts.reporter)
    if writing is None:
        operations = Operations(namespace, front, on_init=session.begun)
    else:
        operations = WritingOperations(writing.directories, front, on_init=session.begun)
    pyfuse3.init(operations, f"/dev/fd/{fuse_fd}", {"default_permissions"})
    caches = KernelCaches(pyfuse3.invalidate_entry, pyfuse3.invalidate_inode)
    try:
        namespace.on_change = caches.entry_changed
        front.on_content_dropped = caches.content_dropped
        commands.attach(operations, caches)
        async with trio.open_nursery() as nursery:
            receiving.install(fuse_fd, on_end=nursery.cancel_scope.cancel)
            nursery.start_soon(session.end_on_signal, pyfuse3.terminate, nursery.cancel_scope)
            await pyfuse3.main(min_tasks=IDLE_TASKS, max_tasks=MAX_TASKS)
            nursery.cancel_scope.cancel()
        session.check_end()
    finally:
        namespace.on_change = front.on_content_dropped = None
        # A session that a thread still uses is left to the end of the process.
        if caches.close():
            pyfuse3.close(unmount=False)


class Session:
    """How far the conversation with the kernel has come, and why it ended."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._begun = self._told_to_stop = False

    def begun(self) -> None:
        """The kernel said INIT."""
        self._begun = True
        self._reporter.ready()

    async def end_on_signal(
        self, terminate: Callable[[], None], requests: trio.CancelScope
    ) -> None:
        """At SIGTERM take no more requests, and cancel those in flight after DRAIN_S: their callers
        get ENOTCONN when the connection is closed."""
        with receiving_signals(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                log.info("%s: draining", signal.Signals(number).name)
                self._told_to_stop = True
                self._reporter.stopping()
                terminate()
                await trio.sleep(DRAIN_S)
                log.warning("requests in flight are given up after %g s", DRAIN_S)
                requests.cancel()

    def check_end(self) -> None:
        """An end before the beginning is no success, and its reason is not the next reader's to
        guess. Raises MountError."""
        if not self._begun and not self._told_to_stop:
            raise MountError(
                "the kernel ended the connection before the mount was in use",
                "/dev/fuse",
                "somebody unmounted or aborted it; mount again",
            )
