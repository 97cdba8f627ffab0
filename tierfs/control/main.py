"""The control plane: one process, one trio loop, everything that a mount needs wired together.

Started by the keeper with inherited descriptors: the configuration (JSON), the report pipe
(`tierfs.control.report`), and either ``/dev/fuse``, already mounted, or what it has in common with
a native front: a socket for upcalls and some memory. It serves until the kernel ends the connection
(an unmount) or SIGTERM asks it to drain; it never unmounts by itself, the keeper does. With the
mount gone, what was written goes into the lake first, for as long as ``unmount_flush`` says;
SIGUSR1 ends that.

Order of start: lake checked, index opened (which takes the cache's lock), namespace, front, control
socket, and only then the loop of requests or upcalls. Order of stop: the reverse; what the index
still has queued is committed before the lock is released.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

import trio

from tierfs import log as tierfs_log
from tierfs.cache.completion import boot_id
from tierfs.clock import SystemClock
from tierfs.config import Config
from tierfs.control.commands import Commands
from tierfs.control.kernel_caches import KernelCaches
from tierfs.control.limits import raise_open_files, set_up_heaps, trim_heaps
from tierfs.control.planner import Planner
from tierfs.control.remembered import Remembered
from tierfs.control.report import Reporter
from tierfs.control.server import serve_control
from tierfs.control.upcall_channel import UpcallChannel
from tierfs.control.upcalls import Rules, UpcallServer, Writing
from tierfs.errors import CacheError, MountError, TierfsError
from tierfs.front.native import NativeFront
from tierfs.front.port import FrontPort
from tierfs.front.python import PythonFront
from tierfs.index import Index
from tierfs.lake.open import open_lake
from tierfs.lake.pace import Pace
from tierfs.lake.protocol import LakeCounters
from tierfs.lake.writing import WritableLake
from tierfs.namespace import Namespace
from tierfs.namespace.described import within
from tierfs.options import NO_DIRECTORY
from tierfs.readahead.policy import AdaptivePolicy
from tierfs.readahead.processes import is_running
from tierfs.readahead.rules import Rule
from tierfs.writeback.by_front import ByFront, SharedDisk
from tierfs.writeback.directories import WriteBack
from tierfs.writeback.journal import Journal
from tierfs.writeback.on_durable import OnDurable
from tierfs.writeback.passed import PassedThrough
from tierfs.writeback.reading import Reading
from tierfs.writeback.rules import Rules as WriteBackRules
from tierfs.writeback.service import WriteBackService

log = logging.getLogger(__name__)

#: How often ``alive`` is reported; the keeper's watchdog allows many of these to be missed.
ALIVE_INTERVAL_S = 2.0
#: How often it is looked whether heaps can be trimmed.
TRIM_INTERVAL_S = 5.0
#: Tasks that pyfuse3 keeps for the next requests. With its own choice of one they come and go all
#: the time, each with a request buffer of 1 MiB.
IDLE_TASKS = 16
#: Requests in flight. All that wait for a slow lake count, and one more than this waits with them,
#: even for what is cached; so it is more than the readers of a node. A task costs some 15 KiB.
MAX_TASKS = 4096
#: Requests to the lake that a native front may have under way: each has a thread of its own there,
#: and that a place in the index's table of readers (`tierfs.index.environments.MAX_READERS`).
MOST_REQUESTS = 256
#: How long a stop waits for requests in flight before it cancels them, and then for each part to
#: close. The keeper kills after 30 s (`tierfs.keeper.timing`), which would cost the index its clean
#: end.
DRAIN_S = 10.0


def main(argv: list[str]) -> int:
    """Parse the inherited descriptors' numbers, serve, and return the exit code."""
    parser = argparse.ArgumentParser(prog="tierfs-control")
    parser.add_argument("--fuse-fd", type=int, help="serve the kernel here, through pyfuse3")
    parser.add_argument("--upcall-fd", type=int, help="serve a native front here")
    parser.add_argument("--shared-fd", type=int, help="memory shared with a native front")
    parser.add_argument("--standby-fd", type=int, help="wait here for a word, or for the end")
    parser.add_argument("--config-fd", type=int, required=True)
    parser.add_argument("--report-fd", type=int, required=True)
    arguments = parser.parse_args(argv)
    with os.fdopen(arguments.config_fd, "rb") as source:
        source.seek(0)
        config = Config.from_json(source.read())
    tierfs_log.set_up(str(config.mountpoint), config.log_level)
    reporter = Reporter(arguments.report_fd)
    if arguments.standby_fd is not None and not _stand_by(arguments.standby_fd):
        return 0
    set_up_heaps(config.memory)
    raise_open_files()
    try:
        if arguments.fuse_fd is not None:
            wire = _pyfuse3(arguments.fuse_fd)
        else:
            wire = _native(arguments.upcall_fd, arguments.shared_fd)
        trio.run(_serve, config, wire, reporter)
    except Exception as error:
        cause = _cause(error)
        if isinstance(cause, TierfsError):
            log.error("%s", cause)
            reporter.error(cause)
        else:
            log.exception("the control plane failed")
            reporter.error(TierfsError("the control plane failed", repr(cause), "see the log"))
        return 1
    return 0


def _stand_by(fd: int) -> bool:
    """Wait, with everything imported, for the keeper's word; False if it does not come."""
    with os.fdopen(fd, "rb") as word:
        return bool(word.readline())


def _cause(error: BaseException) -> BaseException:
    """The first error that a nursery passed on, out of all its groups; ours before any other."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [_cause(inner) for inner in error.exceptions]
    return next((cause for cause in causes if isinstance(cause, TierfsError)), causes[0])


def lake_directory(config: Config, lake_id: str) -> Path:
    """The directory of one lake in a cache root; ``tierfs/README.md`` says what is in it."""
    directory = config.cache / lake_id
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise CacheError(
            "make the cache directory",
            str(directory),
            f"{error.strerror}; choose another with --cache",
        ) from error
    return directory


class _Parts(NamedTuple):
    """What a front is wired to."""

    config: Config
    directory: Path
    lake: WritableLake
    lake_index: Index
    namespace: Namespace
    policy: AdaptivePolicy
    background: trio.Nursery
    reporter: Reporter


class _Front(FrontPort, Protocol):
    """What fills the cache, here or in another process."""

    async def start(self) -> None: ...
    async def aclose(self) -> None: ...


class _Wired(NamedTuple):
    """A front, what serves until the mount ends, and what writes, if anything does."""

    front: _Front
    serve: Callable[[Commands], Awaitable[None]]
    writing: WriteBackService | None = None


#: One of the two ways to be between the kernel and the domain functions.
_Wire: TypeAlias = Callable[[_Parts], _Wired]


def _owner(config: Config) -> tuple[int, int]:
    """Whom every entry of the tree belongs to: (uid, gid)."""
    uid = config.uid if config.uid is not None else os.getuid()
    gid = config.gid if config.gid is not None else os.getgid()
    return uid, gid


def _policy(config: Config, index: Index) -> AdaptivePolicy:
    """What stays in the cache, as the configuration says."""
    rules = tuple(Rule) if config.policy == "adaptive" else (Rule(config.policy),)
    return AdaptivePolicy(index.cache, rules=rules, alive=is_running)


async def _serve(config: Config, wire: _Wire, reporter: Reporter) -> None:
    uid, gid = _owner(config)
    lake = await open_lake(config)
    try:
        await lake.check(allow_empty=config.allow_empty_prefix)
        directory = lake_directory(config, lake.identity.lake_id)
        index = await Index.open(directory, str(lake.identity))
        try:
            async with trio.open_nursery() as background:
                namespace = Namespace(
                    index.names,
                    index.inodes,
                    lake,
                    SystemClock(),
                    uid=uid,
                    gid=gid,
                    umask=config.umask,
                    ttl_s=config.metadata_ttl,
                    negative_ttl_s=config.negative_ttl,
                    spawn=background,
                    described=_described(config),
                )
                policy = _policy(config, index)
                remembered = Remembered(index.names, policy.jobs)
                remembered.recall()
                front, serve, writing = wire(
                    _Parts(config, directory, lake, index, namespace, policy, background, reporter)
                )
                planner = Planner(
                    namespace, front, policy, bytes_per_s=config.fill_limit if config.fill else 0
                )
                front.tell_accesses(planner.accessed)
                await front.start()
                background.start_soon(planner.run)
                background.start_soon(remembered.run)
                background.start_soon(_report_alive, reporter)
                background.start_soon(_trim_when_quiet, lake.counters)
                commands = Commands(config, lake, index, namespace, front, planner, writing)
                background.start_soon(serve_control, config.control_socket, commands)
                try:
                    if writing is None:
                        await serve(commands)
                    else:
                        await _serve_and_flush(serve, commands, writing)
                finally:
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + DRAIN_S):
                        if writing is not None:
                            writing.aclose()
                        await front.aclose()
                        await remembered.save()
                    background.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + DRAIN_S):
                await index.aclose()
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + DRAIN_S):
            await lake.aclose()


def _pyfuse3(fuse_fd: int) -> _Wire:
    """The front in this process: pyfuse3 on the keeper's descriptor."""

    def wire(parts: _Parts) -> _Wired:
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

        writing = _writing(parts, front)

        async def serve(commands: Commands) -> None:
            if writing is not None:
                await writing.start(parts.background)
            await _serve_fuse(fuse_fd, front, writing, commands, parts)

        return _Wired(front, serve, writing)

    return wire


def _described(config: Config) -> Callable[[bytes], bool]:
    """In which directories it is asked what is noted with objects (option read_metadata)."""
    if config.read_metadata is None:
        roots = WriteBackRules(config.write_back).roots if config.write_back else ()
        return within(filter(None, roots))
    named = [name for name in config.read_metadata if name != NO_DIRECTORY]
    return within(b"" if name == "." else os.fsencode(name) for name in named)


def _writing(
    parts: _Parts, front: Reading, directories: type[WriteBack] = WriteBack
) -> WriteBackService | None:
    """What serves write-back directories, if the configuration has rules for them."""
    rules = parts.config.write_back
    journal = Journal(parts.lake_index.journal)
    if not rules:
        if waiting := journal.read(lambda work: work.count_log()):
            log.warning(
                "%d changes from an earlier mount are not in the lake yet, and stay in %s: mount"
                " with the same write_back again",
                waiting,
                parts.directory / "staging",
            )
        return None
    limit = parts.config.upload_limit
    return WriteBackService(
        WriteBackRules(rules),
        journal,
        parts.directory,
        parts.lake,
        parts.namespace,
        parts.lake_index.inodes,
        front,
        directories=directories,
        on_durable=OnDurable(parts.config.on_durable or (), parts.config.mountpoint),
        unmount_flush_s=parts.config.unmount_flush,
        max_unflushed_age_s=parts.config.max_unflushed_age,
        pace=Pace(limit) if limit else None,
        staging_size=parts.config.staging_size,
    )


def _native(upcall_fd: int, shared_fd: int) -> _Wire:
    """A front in a process of its own, which the keeper starts when this one is ready."""

    def wire(parts: _Parts) -> _Wired:
        channel = UpcallChannel(upcall_fd, shared_fd)
        front = NativeFront(
            parts.lake_index.cache,
            parts.directory,
            parts.background,
            channel,
            cache_size=parts.config.cache_size,
            policy=parts.policy,
        )
        disk = SharedDisk(front, parts.directory, parts.config.min_free)
        reading = ByFront(front, parts.namespace, parts.lake, disk)
        writing = _writing(parts, reading, PassedThrough)

        async def serve(commands: Commands) -> None:
            await _serve_upcalls(channel, front, writing, mount_of(shared_fd), commands, parts)

        return _Wired(front, serve, writing)

    return wire


def mount_of(shared_fd: int) -> bytes:
    """What a mount is known by (16 bytes): this boot, and the memory that its keeper holds for all
    its fronts."""
    return boot_id() + os.fstat(shared_fd).st_ino.to_bytes(8, "little")


async def _serve_upcalls(
    channel: UpcallChannel,
    front: NativeFront,
    service: WriteBackService | None,
    mount: bytes,
    commands: Commands,
    parts: _Parts,
) -> None:
    """Serve upcalls until SIGTERM: the keeper sends it when the mount is gone."""
    config, namespace = parts.config, parts.namespace
    uid, gid = _owner(config)
    rules = Rules(
        ttl_s=config.metadata_ttl,
        negative_ttl_s=config.negative_ttl,
        uid=uid,
        gid=gid,
        umask=config.umask,
        max_requests=min(config.max_connections, MOST_REQUESTS),
        memory=config.memory,
        min_free=config.min_free,
        lake_directory=os.fsencode(parts.directory),
        fuse_mask=config.fuse_mask,
    )
    writing = None
    if service is not None and isinstance(service.directories, PassedThrough):
        writing = Writing(service, service.directories, mount, parts.background)
    server = UpcallServer(
        channel, namespace, front, parts.lake, rules, parts.lake_index.reap_readers, writing
    )
    caches = KernelCaches(channel.forget_entry, channel.forget_content)
    try:
        namespace.on_change = caches.entry_changed
        commands.attach(server, caches)
        with _receiving(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.run)
                parts.reporter.ready()
                async for number in signals:
                    log.info("%s: draining", signal.Signals(number).name)
                    parts.reporter.stopping()
                    break
                nursery.cancel_scope.cancel()
    finally:
        namespace.on_change = None
        caches.close()
        channel.close()


async def _serve_fuse(
    fuse_fd: int,
    front: PythonFront,
    writing: WriteBackService | None,
    commands: Commands,
    parts: _Parts,
) -> None:
    """Run pyfuse3's loop on the inherited descriptor until an unmount or a signal ends it."""
    # Imported here so that everything above can be tested where libfuse3 is not installed.
    import pyfuse3

    from tierfs.fs import receiving
    from tierfs.fs.operations import Operations
    from tierfs.fs.writing import WritingOperations

    namespace = parts.namespace
    session = _Session(parts.reporter)
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


class _Session:
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
        with _receiving(signal.SIGTERM, signal.SIGINT) as signals:
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


async def _serve_and_flush(
    serve: Callable[[Commands], Awaitable[None]], commands: Commands, writing: WriteBackService
) -> None:
    """Serve; then, with the mount gone and all who wrote, bring what is left into the lake, until
    the deadline or SIGUSR1. SIGTERM, which the keeper sends when it has unmounted, may come after
    the kernel has said so: it changes nothing then."""
    with _receiving(signal.SIGTERM, signal.SIGINT, signal.SIGUSR1) as signals:
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                async for number in signals:
                    if number == signal.SIGUSR1:
                        log.info("not waiting for the lake any longer")
                        writing.hurry()

            nursery.start_soon(listen)
            await serve(commands)
            await writing.end()
            nursery.cancel_scope.cancel()


@contextlib.contextmanager
def _receiving(*numbers: signal.Signals) -> Iterator[AsyncIterator[int]]:
    """The signals that come, until the end of this; from then on they are ignored, for what is left
    is to commit, and the keeper's SIGTERM may come after the kernel has said that the mount is
    gone. Whoever cannot wait for that has SIGKILL."""
    for number in numbers:
        # What is put back at the end; who receives it around this goes on with that.
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, signal.SIG_IGN)
    with trio.open_signal_receiver(*numbers) as received:
        yield received


async def _report_alive(reporter: Reporter) -> None:
    while True:
        reporter.alive()
        await trio.sleep(ALIVE_INTERVAL_S)


async def _trim_when_quiet(counters: LakeCounters) -> None:
    """Give memory back once nothing comes from the lake any more: who waits for the next burst
    needs none."""
    trimmed_at = last = (0, 0)
    while True:
        await trio.sleep(TRIM_INTERVAL_S)
        came = (counters.bytes_read, counters.list_requests)
        if came == last != trimmed_at:
            trimmed_at = came
            await trio.to_thread.run_sync(trim_heaps)
        last = came
