"""A front in a process of its own: its upcalls are served here."""

from __future__ import annotations

import logging
import os
import signal

import trio

from tierfs.boot import boot_id
from tierfs.control.commands import Commands
from tierfs.control.kernel_caches import KernelCaches
from tierfs.control.upcall_channel import UpcallChannel
from tierfs.control.upcalls import Rules, UpcallServer, Writing
from tierfs.control.wiring import Parts, Wire, Wired, owner_of, receiving_signals, writing_of
from tierfs.front.native import NativeFront
from tierfs.writeback.by_front import ByFront, SharedDisk
from tierfs.writeback.passed import PassedThrough
from tierfs.writeback.service import WriteBackService

log = logging.getLogger(__name__)

#: Requests to the lake that a native front may have under way: each has a thread of its own there,
#: and that a place in the index's table of readers (`tierfs.index.environments.MAX_READERS`).
MOST_REQUESTS = 256


def native_wire(upcall_fd: int, shared_fd: int) -> Wire:
    """A front in a process of its own, which the keeper starts when this one is ready."""

    def wire(parts: Parts) -> Wired:
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
        writing = writing_of(parts, reading, PassedThrough)

        async def serve(commands: Commands) -> None:
            await _serve_upcalls(channel, front, writing, mount_of(shared_fd), commands, parts)

        return Wired(front, serve, writing)

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
    parts: Parts,
) -> None:
    """Serve upcalls until SIGTERM: the keeper sends it when the mount is gone."""
    config, namespace = parts.config, parts.namespace
    uid, gid = owner_of(config)
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
        with receiving_signals(signal.SIGTERM, signal.SIGINT) as signals:
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
