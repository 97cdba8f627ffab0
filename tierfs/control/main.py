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
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from tierfs import log as tierfs_log
from tierfs.clock import SystemClock
from tierfs.config import Config
from tierfs.control.commands import Commands
from tierfs.control.limits import raise_open_files, set_up_heaps, trim_heaps
from tierfs.control.planner import Planner
from tierfs.control.pyfuse3_loop import pyfuse3_wire
from tierfs.control.remembered import Remembered
from tierfs.control.report import Reporter
from tierfs.control.server import serve_control
from tierfs.control.upcall_loop import native_wire
from tierfs.control.wiring import DRAIN_S, Parts, Wire, owner_of, receiving_signals
from tierfs.errors import CacheError, TierfsError
from tierfs.index import Index
from tierfs.lake.open import open_lake
from tierfs.lake.protocol import LakeCounters
from tierfs.namespace import Namespace
from tierfs.namespace.described import within
from tierfs.options import NO_DIRECTORY
from tierfs.readahead.policy import AdaptivePolicy
from tierfs.readahead.processes import is_running
from tierfs.readahead.rules import Rule
from tierfs.writeback.rules import Rules
from tierfs.writeback.service import WriteBackService

log = logging.getLogger(__name__)

#: How often ``alive`` is reported; the keeper's watchdog allows many of these to be missed.
ALIVE_INTERVAL_S = 2.0
#: How often it is looked whether heaps can be trimmed.
TRIM_INTERVAL_S = 5.0
#: How long a thread waits for the interpreter before whoever has it is told to let go. That of the
#: journal gives it up with each row that it touches, and would wait 5 ms for the loop each time.
SWITCH_INTERVAL_S = 0.001


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
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    set_up_heaps(config.memory)
    raise_open_files()
    try:
        if arguments.fuse_fd is not None:
            wire = pyfuse3_wire(arguments.fuse_fd)
        else:
            wire = native_wire(arguments.upcall_fd, arguments.shared_fd)
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


def _policy(config: Config, index: Index) -> AdaptivePolicy:
    """What stays in the cache, as the configuration says."""
    rules = tuple(Rule) if config.policy == "adaptive" else (Rule(config.policy),)
    return AdaptivePolicy(index.cache, rules=rules, alive=is_running)


async def _serve(config: Config, wire: Wire, reporter: Reporter) -> None:
    uid, gid = owner_of(config)
    rules = Rules(config.write_back) if config.write_back else None
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
                    described=_described(config, rules),
                )
                policy = _policy(config, index)
                remembered = Remembered(index.names, policy.jobs)
                remembered.recall()
                front, serve, writing = wire(
                    Parts(
                        config,
                        rules,
                        directory,
                        lake,
                        index,
                        namespace,
                        policy,
                        background,
                        reporter,
                    )
                )
                planner = Planner(
                    namespace, front, policy, bytes_per_s=config.fill_limit if config.fill else 0
                )
                front.tell_accesses(planner.accessed, planner.stalled)
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


def _described(config: Config, rules: Rules | None) -> Callable[[bytes], bool]:
    """In which directories it is asked what is noted with objects (option read_metadata)."""
    if config.read_metadata is None:
        return within(filter(None, rules.roots if rules is not None else ()))
    named = [name for name in config.read_metadata if name != NO_DIRECTORY]
    return within(b"" if name == "." else os.fsencode(name) for name in named)


async def _serve_and_flush(
    serve: Callable[[Commands], Awaitable[None]], commands: Commands, writing: WriteBackService
) -> None:
    """Serve; then, with the mount gone and all who wrote, bring what is left into the lake, until
    the deadline or SIGUSR1. SIGTERM, which the keeper sends when it has unmounted, may come after
    the kernel has said so: it changes nothing then."""
    with receiving_signals(signal.SIGTERM, signal.SIGINT, signal.SIGUSR1) as signals:
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
