"""What a keeper leaves with the service manager, so that even its own death is a pause.

systemd keeps descriptors for a service (``FDSTORE=1``, sd_notify(3); ``FileDescriptorStoreMax=`` in
the unit) and hands them to its next start (``LISTEN_FDS``, sd_listen_fds(3)). With a native front
these are all that a mount lives on: ``/dev/fuse``, the memory with the requests that wait, both
ends of the socket, and a line that says which mount it is. The processes of the dead keeper are
dead, too, by then: they die with it, and the service manager kills what is left of a service before
it starts it again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import MutableMapping
from typing import Any

from tierfs.errors import MountError
from tierfs.keeper.channel import Channel
from tierfs.keeper.mounting import Mount, MountSpec
from tierfs.keeper.notify import Notifier

_FIRST_FD = 3
_FUSE, _SHARED, _CONTROL, _FRONT = "tierfs-fuse", "tierfs-shared", "tierfs-control", "tierfs-front"
_STATE = "tierfs-state"
_NAMES = (_FUSE, _SHARED, _CONTROL, _FRONT, _STATE)


def leave(notifier: Notifier, mount: Mount, channel: Channel) -> None:
    """Leave copies of everything with the service manager, if there is one."""
    if not notifier.enabled:
        return
    discard(notifier)  # What an earlier keeper left is the same, but for the line.
    state_fd = os.memfd_create("tierfs-state", os.MFD_CLOEXEC)
    try:
        state = {
            "mount_id": mount.mount_id,
            "device": mount.device,
            "source": mount.spec.source,
            "mountpoint": os.fsdecode(mount.spec.mountpoint),
        }
        os.write(state_fd, json.dumps(state).encode())
        descriptors = (mount.fuse_fd, channel.shared_fd, channel.control_fd, channel.front_fd)
        for name, fd in zip(_NAMES, (*descriptors, state_fd), strict=True):
            notifier.store(name, fd)
    finally:
        os.close(state_fd)


def discard(notifier: Notifier) -> None:
    """The mount has ended: nothing of it is to be kept."""
    for name in _NAMES:
        notifier.discard(name)


class Stored:
    """What an earlier keeper of this service left."""

    def __init__(self, descriptors: dict[str, int]) -> None:
        self._descriptors = descriptors

    @classmethod
    def take(cls, environment: MutableMapping[str, str]) -> Stored:
        """Take what the service manager hands to this process out of *environment*."""
        pid = environment.pop("LISTEN_PID", "")
        count = environment.pop("LISTEN_FDS", "0")
        names = environment.pop("LISTEN_FDNAMES", "").split(":")
        if pid != str(os.getpid()) or not count.isdigit():
            return cls({})
        given = range(_FIRST_FD, _FIRST_FD + int(count))
        for fd in given:
            os.set_inheritable(fd, False)
        return cls(dict(zip(names, given, strict=False)))

    def resume(self, spec: MountSpec) -> tuple[Mount, Channel] | None:
        """The mount of *spec*'s lake that is still there on its directory, and what its front lives
        on; None if there is none."""
        found = self._descriptors
        try:
            if not all(name in found for name in _NAMES):
                return None
            state = self._state()
            where = os.fsdecode(spec.mountpoint)
            if (state["source"], state["mountpoint"]) != (spec.source, where):
                return None
            mount = Mount.resume(spec, found[_FUSE], int(state["mount_id"]), str(state["device"]))
        except (OSError, ValueError, KeyError, TypeError, MountError):
            return None
        channel = Channel(found[_SHARED], found[_CONTROL], found[_FRONT])
        for name in (_FUSE, _SHARED, _CONTROL, _FRONT):
            del found[name]
        return mount, channel

    def give_up(self, notifier: Notifier) -> None:
        """End what is left and of no use. The service manager holds ``/dev/fuse``, too: as long as
        it does, a mount that nobody serves hangs `df` for everybody, so its connection is cut."""
        found, state = self._descriptors, {}
        with contextlib.suppress(OSError, ValueError, KeyError):
            state = self._state()
        if _FUSE in found and state:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, MountError):
                where = os.fsencode(state["mountpoint"])
                spec = MountSpec(str(state["source"]), where, allow_other=False)
                device = str(state["device"])
                left = Mount.resume(spec, found.pop(_FUSE), int(state["mount_id"]), device)
                left.close()
                left.abort()
                left.unmount(lazily=True)
        for fd in found.values():
            with contextlib.suppress(OSError):
                os.close(fd)
        if found or state:
            discard(notifier)
        self._descriptors = {}

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(os.pread(self._descriptors[_STATE], 4096, 0))
        return state
