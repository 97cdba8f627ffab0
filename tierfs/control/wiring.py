"""What the two fronts have in common: what they are wired to, and how they end."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

import trio

from tierfs.config import Config
from tierfs.control.commands import Commands
from tierfs.control.report import Reporter
from tierfs.front.port import FrontPort
from tierfs.index import Index
from tierfs.lake.pace import Pace
from tierfs.lake.writing import WritableLake
from tierfs.namespace import Namespace
from tierfs.readahead.policy import AdaptivePolicy
from tierfs.writeback.directories import WriteBack
from tierfs.writeback.journal import Journal
from tierfs.writeback.on_durable import OnDurable
from tierfs.writeback.reading import Reading
from tierfs.writeback.rules import Rules
from tierfs.writeback.service import WriteBackService

log = logging.getLogger(__name__)

#: How long a stop waits for requests in flight before it cancels them, and then for each part to
#: close. The keeper kills after 30 s (`tierfs.keeper.timing`), which would cost the index its clean
#: end.
DRAIN_S = 10.0


class Parts(NamedTuple):
    """What a front is wired to."""

    config: Config
    #: What is written back, if anything is.
    rules: Rules | None
    directory: Path
    lake: WritableLake
    lake_index: Index
    namespace: Namespace
    policy: AdaptivePolicy
    background: trio.Nursery
    reporter: Reporter


class Front(FrontPort, Protocol):
    """What fills the cache, here or in another process."""

    async def start(self) -> None: ...
    async def aclose(self) -> None: ...


class Wired(NamedTuple):
    """A front, what serves until the mount ends, and what writes, if anything does."""

    front: Front
    serve: Callable[[Commands], Awaitable[None]]
    writing: WriteBackService | None = None


#: One of the two ways to be between the kernel and the domain functions.
Wire: TypeAlias = Callable[[Parts], Wired]


def owner_of(config: Config) -> tuple[int, int]:
    """Whom every entry of the tree belongs to: (uid, gid)."""
    uid = config.uid if config.uid is not None else os.getuid()
    gid = config.gid if config.gid is not None else os.getgid()
    return uid, gid


def writing_of(
    parts: Parts, front: Reading, directories: type[WriteBack] = WriteBack
) -> WriteBackService | None:
    """What serves write-back directories, if the configuration has rules for them."""
    journal = Journal(parts.lake_index.journal)
    if parts.rules is None:
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
        parts.rules,
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


@contextlib.contextmanager
def receiving_signals(*numbers: signal.Signals) -> Iterator[AsyncIterator[int]]:
    """The signals that come, until the end of this; from then on they are ignored, for what is left
    is to commit, and the keeper's SIGTERM may come after the kernel has said that the mount is
    gone. Whoever cannot wait for that has SIGKILL."""
    for number in numbers:
        # What is put back at the end; who receives it around this goes on with that.
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, signal.SIG_IGN)
    with trio.open_signal_receiver(*numbers) as received:
        yield received
