"""Making and undoing the FUSE mount: mount(2) for root, ``fusermount3`` for everybody else.

Invariants:

K1. A mount is `nosuid,nodev,default_permissions`, always: what lies in a lake is nobody's program.
K2. Nothing here waits on the mounted file system. Liveness is asked by a child process with a
    deadline (`tierfs.keeper.mountpoint.probe`); the rest reads the mount table.
K3. Only a mount of our own is ever unmounted: a dead one of type ``fuse.tierfs`` on the directory
    that we were told to use, and of a running keeper the very mount that it made.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import os
import select
import shutil
import socket
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tierfs import mountinfo
from tierfs.config import Config, resolve_mountpoint
from tierfs.errors import MountError
from tierfs.keeper import fusectl
from tierfs.keeper.mountpoint import FUSERMOUNT_S, start_probe, unmount

MAX_READ_BYTES = 1 << 20
"""The most that one READ request asks for: 256 pages, the kernel's ``fs.fuse.max_pages_limit``."""

READ_AHEAD_KB = 1024
"""Set on the mount's own backing device. Measured on 6.18: with the default of 128 a sequential
read arrives in 128 KiB requests, with this in requests of `MAX_READ_BYTES`."""

MAX_BACKGROUND = 512
"""Read-aheads that the kernel has under way at once; a buffered read of a file begins as one. Its
default of 12 is a queue in front of ours, in which what is cached waits behind what is not: of 16
readers of cold small files 12 had a request in the lake. More than the readers of a node; the pages
that each one holds are page cache anyway."""

CONGESTION_THRESHOLD = MAX_BACKGROUND * 3 // 4
"""With so many under way the kernel cuts read-aheads short; the ratio is its own. With its default
of 9, 16 readers needed three READs for a file of 110 KB, with this one."""

# <sys/mount.h>
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class MountSpec:
    """What to mount where; derived from the configuration by `from_config`."""

    source: str
    """The lake's URL, shown as the device in ``/proc/mounts``."""
    mountpoint: bytes
    """Absolute, without symbolic links."""
    allow_other: bool
    read_only: bool = False
    noexec: bool = False
    nonempty: bool = False
    """Mount over files too; they are hidden until the unmount."""
    security: tuple[str, ...] = ()
    """SELinux labels for mount(2), ``context=...``; only root may set them."""

    @classmethod
    def from_config(cls, config: Config) -> MountSpec:
        """Read the mount's part of *config*; by default root's mounts are usable by all users."""
        allow_other = os.geteuid() == 0 if config.allow_other is None else config.allow_other
        return cls(
            source=config.url,
            mountpoint=os.fsencode(resolve_mountpoint(config.mountpoint)),
            allow_other=allow_other,
            read_only=config.read_only,
            noexec=config.noexec,
            nonempty=config.nonempty,
            security=config.security,
        )


class Mount:
    """A FUSE mount that this process made: its open ``/dev/fuse``, its row in the mount table."""

    def __init__(self, spec: MountSpec, fuse_fd: int, made: mountinfo.MountEntry) -> None:
        self.spec = spec
        self.fuse_fd = fuse_fd
        self.device = made.device
        self._id = made.mount_id
        self._abort_fd = _open_abort(made.device)
        self._root_fd = _open_root(spec.mountpoint)

    @classmethod
    def resume(cls, spec: MountSpec, fuse_fd: int, mount_id: int, device: str) -> Mount:
        """A mount that an earlier program of this process made.

        Raises:
            MountError: it is not in the mount table any more.
        """
        wanted = (mount_id, device, spec.mountpoint, mountinfo.MOUNT_TYPE)
        rows = ((e, (e.mount_id, e.device, e.mountpoint, e.fs_type)) for e in mountinfo.mounts())
        found = next((entry for entry, row in rows if row == wanted), None)
        # The kernel gives the numbers of a mount that has ended to the next one.
        if found is None or not _is_connected(fuse_fd):
            raise MountError("the mount is gone", spec.mountpoint, "mount again")
        mount = cls(spec, fuse_fd, found)
        mount._close_root()
        return mount

    @property
    def mount_id(self) -> int:
        """Its number in the mount table."""
        return self._id

    def _entry(self) -> mountinfo.MountEntry | None:
        """Our row, wherever it is by now (a parent can have been renamed); no bind mount of it.

        The kernel gives the numbers of a mount that has ended to the next one, whoever makes it. So
        they say for sure which row is ours only while the connection lives; afterwards the row must
        be where ours was, too: a dead mount that is still there has not given up its numbers.
        """
        wanted = (self._id, self.device)
        found = next((e for e in mountinfo.mounts() if (e.mount_id, e.device) == wanted), None)
        if found is None or self._connected():
            return found
        is_ours = (found.mountpoint, found.fs_type) == (self.spec.mountpoint, mountinfo.MOUNT_TYPE)
        return found if is_ours else None

    def _connected(self) -> bool:
        """Whether the kernel still serves our ``/dev/fuse``: not after an unmount or an abort."""
        return self.fuse_fd >= 0 and _is_connected(self.fuse_fd)

    @property
    def present(self) -> bool:
        """Whether the mount is still in the mount table."""
        return self._entry() is not None

    @property
    def automounted(self) -> bool:
        """Whether the mount lies on an automount, which makes a new one when this one is gone."""
        entry = self._entry()
        parent = entry.parent_id if entry else None
        return any(e.mount_id == parent and e.fs_type == b"autofs" for e in mountinfo.mounts())

    def close(self) -> None:
        """Close our ``/dev/fuse``. When no child holds it either, every request gets ENOTCONN."""
        if self.fuse_fd >= 0:
            os.close(self.fuse_fd)
            self.fuse_fd = -1
        self._close_root()

    def _close_root(self) -> None:
        if self._root_fd >= 0:
            os.close(self._root_fd)
            self._root_fd = -1

    def start_probe(self) -> int:
        """Start asking for an answer (`start_probe`); the child's pid.

        Through a descriptor of the root rather than by its path: on an automount whoever is not in
        systemd's process group waits at the path until the mount command has ended, and that
        command waits for this answer. The descriptor keeps the mount busy, so it goes with the
        child.
        """
        pid = start_probe(self.spec.mountpoint if self._root_fd < 0 else self._root_fd)
        self._close_root()
        return pid

    def abort(self) -> None:
        """Cut the connection even if some process still holds ``/dev/fuse``; best effort, once.

        Through a descriptor that was opened while the mount was surely ours: the kernel gives the
        number of a connection that ended to the next mount, whoever makes it, but a descriptor of
        the old one's file does nothing any more.
        """
        if self._abort_fd >= 0:
            with contextlib.suppress(OSError):
                os.write(self._abort_fd, b"1")
            os.close(self._abort_fd)
            self._abort_fd = -1

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What a process that goes on with this mount must keep open."""
        return tuple(fd for fd in (self.fuse_fd, self._abort_fd, self._root_fd) if fd >= 0)

    def unmount(self, *, lazily: bool) -> bool:
        """Take the mount out of the mount table; True if it is not there any more.

        *lazily* detaches it even while files are open (MNT_DETACH). A mount that somebody covered
        with another one stays (K3).
        """
        entry = self._entry()
        if entry is None:
            return True
        if mountinfo.topmost(entry.mountpoint) != entry:
            return False
        return unmount(entry.mountpoint, lazily=lazily)

    def raise_read_ahead(self) -> bool:
        """Let the kernel read ahead in `MAX_READ_BYTES` pieces; False where that is not allowed.

        Only after the file system answered INIT: its answer lowers the limit again.
        """
        try:
            Path(f"/sys/class/bdi/{self.device}/read_ahead_kb").write_text(str(READ_AHEAD_KB))
        except OSError:
            return False
        return True

    def raise_background(self) -> bool:
        """Let as many read-aheads be under way as a node's readers ask for; False where that is not
        allowed. Only after INIT, as `raise_read_ahead`."""
        try:
            fusectl.write(self.device, "max_background", MAX_BACKGROUND)
            fusectl.write(self.device, "congestion_threshold", CONGESTION_THRESHOLD)
        except OSError:
            return False
        return True


def _is_connected(fuse_fd: int) -> bool:
    poll = select.poll()
    poll.register(fuse_fd, 0)
    return not poll.poll(0)


def _open_abort(device: str) -> int:
    """The abort file of the connection behind *device* (``major:minor``), or -1."""
    try:
        return fusectl.open_file(device, "abort")
    except OSError:
        return -1  # fusectl cannot be had, or is not ours to use: closing /dev/fuse has to do.


def _open_root(mountpoint: bytes) -> int:
    """A descriptor of the mount's root that asks the file system nothing, or -1."""
    try:
        return os.open(mountpoint, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1


def make_mount(spec: MountSpec) -> Mount:
    """Mount *spec* and return the open ``/dev/fuse``; nobody answers on it yet.

    Raises:
        MountError: no ``/dev/fuse``, no permission, or no ``fusermount3``.
    """
    fuse_fd = _mount_as_root(spec) if os.geteuid() == 0 else _mount_as_user(spec)
    entry = mountinfo.topmost(spec.mountpoint)
    if entry is None or entry.fs_type != mountinfo.MOUNT_TYPE:
        os.close(fuse_fd)
        raise MountError(
            "the mount vanished while it was made", spec.mountpoint, "see who unmounts it"
        )
    return Mount(spec, fuse_fd, entry)


def _mount_as_root(spec: MountSpec) -> int:
    fuse_fd = _open_fuse()
    flags = MS_NOSUID | MS_NODEV  # K1
    flags |= MS_RDONLY if spec.read_only else 0
    flags |= MS_NOEXEC if spec.noexec else 0
    options = [
        f"fd={fuse_fd}",
        f"rootmode={stat.S_IFDIR:o}",
        f"user_id={os.geteuid()}",
        f"group_id={os.getegid()}",
        "default_permissions",
        *(["allow_other"] if spec.allow_other else []),
        f"max_read={MAX_READ_BYTES}",
        *spec.security,
    ]
    result = _libc.mount(
        # The kernel escapes blanks of the source by itself where it shows it.
        os.fsencode(spec.source),
        spec.mountpoint,
        mountinfo.MOUNT_TYPE,
        ctypes.c_ulong(flags),
        os.fsencode(",".join(options)),
    )
    if result == 0:
        return fuse_fd
    number = ctypes.get_errno()
    os.close(fuse_fd)
    hint = {
        errno.EPERM: "mounting needs CAP_SYS_ADMIN; in a container: --cap-add SYS_ADMIN",
        errno.ENODEV: "the kernel has no FUSE: modprobe fuse",
    }.get(number, "see dmesg for the kernel's reason")
    raise MountError(f"mount(2) failed: {os.strerror(number)}", spec.mountpoint, hint)


def _open_fuse() -> int:
    try:
        return os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        hint = "modprobe fuse; in a container: --device /dev/fuse"
    except PermissionError:
        hint = "in a container: --device /dev/fuse --cap-add SYS_ADMIN"
    except OSError as error:
        hint = f"modprobe fuse: {error.strerror}"
    raise MountError("cannot open the FUSE device", "/dev/fuse", hint)


def fusermount_options(spec: MountSpec) -> str:
    """The ``-o`` argument for ``fusermount3``, which adds fd, rootmode, user_id and group_id."""
    # Inside fsname a backslash protects a comma or a backslash (libfuse, util/fusermount.c).
    source = spec.source.replace("\\", "\\\\").replace(",", "\\,")
    flags = [
        "nosuid",
        "nodev",
        "default_permissions",
        *(["allow_other"] if spec.allow_other else []),
        *(["ro"] if spec.read_only else []),
        *(["noexec"] if spec.noexec else []),
    ]
    return ",".join([*flags, f"max_read={MAX_READ_BYTES}", "subtype=tierfs", f"fsname={source}"])


def _mount_as_user(spec: MountSpec) -> int:
    program = shutil.which("fusermount3")
    if program is None:
        raise MountError(
            "users mount through fusermount3, which is missing",
            spec.mountpoint,
            "install the package fuse3",
        )
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        try:
            done = subprocess.run(
                [program, "-o", fusermount_options(spec), "--", os.fsdecode(spec.mountpoint)],
                env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=FUSERMOUNT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            hint = "see what holds the directory"
            raise MountError("fusermount3 does not return", spec.mountpoint, hint) from None
        if done.returncode == 0:
            fd = _receive_fd(ours)
            if fd is not None:
                return fd
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
    reason = words[-1].removeprefix("fusermount3: ") if words else "no reason given"
    hint = "you must own the directory and may need a rule in /etc/fuse.conf"
    if "user_allow_other" in reason:
        hint = "add user_allow_other to /etc/fuse.conf, or mount without allow_other"
    elif "/dev/fuse" in reason:
        hint = "every user must be able to open it: chmod 0666 /dev/fuse, as udev does"
    raise MountError(f"fusermount3 failed: {reason}", spec.mountpoint, hint)


def _receive_fd(channel: socket.socket) -> int | None:
    channel.setblocking(False)
    size = array.array("i").itemsize
    try:
        _, ancillary, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(size), socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        return None
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS and len(data) >= size:
            return array.array("i", data[:size])[0]
    return None
