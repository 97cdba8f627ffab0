"""The other end of the control socket: find the mount that a path is on, and ask it things.

Only the standard library: commands must start quickly. The protocol is in `tierfs.control.server`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tierfs import errors, mountinfo
from tierfs.config import mount_id, resolve_mountpoint, runtime_dirs
from tierfs.control.address import address_of
from tierfs.errors import InvalidRequest, MountError, TierfsError
from tierfs.keeper import keeper_pid

PROTOCOL_VERSION = 1
#: A live mount accepts at once; one that does not is hanging, and `doctor` is told so.
CONNECT_TIMEOUT_S = 5.0
#: How long a live keeper may take to start a control plane that died: its longest wait before it
#: does (`Timing.backoff_most_s`), and the start.
RESTART_S = 20.0
_RETRY_S = 0.1

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Mount:
    """One row of the mount table. *owner* is the user id of whoever mounted a FUSE mount."""

    mountpoint: Path
    source: str
    type: str
    owner: int
    device: str = ""

    @property
    def ours(self) -> bool:
        """It is a tierfs mount."""
        return self.type == os.fsdecode(mountinfo.MOUNT_TYPE)

    def state_dirs(self, runtime_dir: Path | None = None) -> list[Path]:
        """Where its control socket may be, most likely first."""
        roots = [runtime_dir] if runtime_dir is not None else runtime_dirs(self.owner)
        return [root / mount_id(self.mountpoint) for root in roots]


def mounts() -> list[Mount]:
    """Every mount that this process sees, oldest first: later ones cover earlier ones."""
    return [_mount_of(entry) for entry in mountinfo.mounts()]


def _mount_of(entry: mountinfo.MountEntry) -> Mount:
    return Mount(
        mountpoint=Path(os.fsdecode(entry.mountpoint)),
        source=os.fsdecode(entry.source),
        type=os.fsdecode(entry.fs_type),
        owner=entry.owner,
        device=entry.device,
    )


def mount_at(mountpoint: Path) -> Mount | None:
    """What is mounted exactly on *mountpoint* (the topmost), or None. Never touches the mount."""
    entry = mountinfo.topmost(os.fsencode(mountpoint))
    return None if entry is None else _mount_of(entry)


def find_mount(path: Path) -> tuple[Mount, bytes]:
    """The tierfs mount that *path* is on, and the path below it (``b""`` is its root).

    Raises MountError when *path* is on no tierfs mount. Does not touch the mount, so it works on a
    dead one: only links above the mount point are resolved.
    """
    table = {m.mountpoint: m for m in mounts()}
    for candidate in _spellings(path):
        for ancestor in (candidate, *candidate.parents):
            mount = table.get(ancestor)
            if mount is None:
                continue
            if not mount.ours:
                break
            below = os.fsencode(candidate)[len(os.fsencode(ancestor)) :]
            return mount, below.strip(b"/")
    live = [str(m.mountpoint) for m in table.values() if m.ours]
    hint = "mounted here: " + ", ".join(live) if live else "nothing is mounted; see tierfs mount"
    raise MountError("not on a tierfs mount", str(path), hint)


def _spellings(path: Path) -> Iterator[Path]:
    absolute = Path(os.path.abspath(path))  # noqa: PTH100
    yield absolute
    yield resolve_mountpoint(absolute)
    with contextlib.suppress(OSError):
        yield Path(os.path.realpath(absolute))


def call(
    mount: Mount,
    command: str,
    args: dict[str, Any] | None = None,
    *,
    progress: Progress | None = None,
    runtime_dir: Path | None = None,
    timeout_s: float | None = None,
) -> dict[str, Any]:
    """Run *command* on a live mount and return its answer; *progress* sees what comes before it.

    Waits as long as the command takes unless *timeout_s* bounds each line, and for a control plane
    that its keeper is starting again. Raises what the mount raised, and MountError when it cannot
    be reached.
    """
    request = {"v": PROTOCOL_VERSION, "command": command, "args": args or {}}
    with _connect(mount, runtime_dir) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as lines:
                for line in lines:
                    answer = json.loads(line)
                    if "progress" in answer:
                        if progress is not None:
                            progress(answer["progress"])
                    elif "ok" in answer:
                        result: dict[str, Any] = answer["ok"]
                        return result
                    else:
                        raise _error(answer["error"])
        except TimeoutError:
            hint = f"it may be hanging; see its log, or tierfs umount -l {mount.mountpoint}"
            raise MountError("no answer from the mount", str(mount.mountpoint), hint) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MountError(
                "the mount's answer was lost", str(mount.mountpoint), f"{error}; see its log"
            ) from error
    raise MountError("the mount stopped meanwhile", str(mount.mountpoint), "run the command again")


def _connect(mount: Mount, runtime_dir: Path | None) -> socket.socket:
    state_dirs = mount.state_dirs(runtime_dir)
    deadline = time.monotonic() + RESTART_S
    while True:
        reason = "no control socket"
        for state_dir in state_dirs:
            path = state_dir / "control.sock"
            try:
                return _connected(path, mount)
            except FileNotFoundError:
                continue
            except PermissionError:
                hint = "ask root or the user who mounted it, or use sudo"
                raise MountError("not allowed to control", str(mount.mountpoint), hint) from None
            except OSError as error:
                reason = f"{path}: {error.strerror or error}"
        kept = any(keeper_pid(state_dir) is not None for state_dir in state_dirs)
        if not kept or time.monotonic() >= deadline:
            break
        time.sleep(_RETRY_S)
    if kept:
        hint = f"its control plane was not started again within {RESTART_S:.0f} s; see its log"
    else:
        hint = (
            "if it was mounted with --runtime-dir, give the same here;"
            f" if its processes are gone: tierfs umount {mount.mountpoint}"
        )
    raise MountError(f"cannot reach the mount ({reason})", str(mount.mountpoint), hint)


def _connected(path: Path, mount: Mount) -> socket.socket:
    """A connection to the socket *path*. Raises OSError if nobody listens there."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.settimeout(CONNECT_TIMEOUT_S)
    try:
        _check_owner(path, mount)
        with address_of(path) as address:
            connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_owner(path: Path, mount: Mount) -> None:
    """Refuse a socket that somebody else put where the owner's would be (/tmp is anyone's)."""
    status = path.lstat()
    if not stat.S_ISSOCK(status.st_mode) or status.st_uid not in (mount.owner, 0):
        hint = "it does not belong to the mount's owner; remove it"
        raise MountError("will not use a foreign control socket", str(path), hint)


def _error(fields: dict[str, str]) -> TierfsError:
    """The error that the mount raised, as the same kind where this version knows it."""
    kind = getattr(errors, fields["kind"], None)
    if not (isinstance(kind, type) and issubclass(kind, TierfsError)):
        kind = InvalidRequest
    error: TierfsError = kind(fields["op"], fields.get("subject", ""), fields.get("hint", ""))
    return error
