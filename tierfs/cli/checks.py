"""What `doctor` looks at on this machine: one small function per check, each with its remedy."""

from __future__ import annotations

import errno
import os
import platform
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tierfs.cli.install import LINKS
from tierfs.cli.live import our_mounts
from tierfs.cli.preflight import (
    FUSE_CONF,
    FUSE_DEVICE,
    check_fuse_device,
    mount_of,
    user_allow_other,
)
from tierfs.errors import TierfsError, show
from tierfs.front.program import native_front
from tierfs.mountinfo import MOUNT_TYPE
from tierfs.units import human_size

#: FUSE_MAX_PAGES, without which a request is 128 KiB at most, came with 4.20.
OLDEST_KERNEL = (4, 20)
#: FUSE_PASSTHROUGH.
PASSTHROUGH_KERNEL = (6, 9)
CAP_SYS_ADMIN = 21
#: Connections, cache files in use and LMDB's files, with room.
MIN_OPEN_FILES = 4096
#: Less than this is no cache worth having.
MIN_CACHE_FREE_BYTES = 1 << 30


class Level(Enum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the report. *remedy* is empty when there is nothing to do."""

    level: Level
    name: str
    message: str
    remedy: str = ""


def failed(name: str, error: TierfsError) -> Result:
    """An error of ours as a failed check."""
    subject = f": {show(error.subject)}" if error.subject else ""
    return Result(Level.FAIL, name, f"{error.op}{subject}", error.hint)


def kernel(release: str | None = None) -> Result:
    """The kernel's version, and which way of serving it allows."""
    release = platform.release() if release is None else release
    match = re.match(r"(\d+)\.(\d+)", release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    if version < OLDEST_KERNEL:
        remedy = "use Linux 4.20 or newer; 6.9 or newer is fastest"
        return Result(Level.FAIL, "kernel", f"{release} is too old", remedy)
    if version < PASSTHROUGH_KERNEL:
        message = f"{release}: reads are copied (pass-through came with 6.9)"
        return Result(Level.OK, "kernel", message)
    return Result(Level.OK, "kernel", f"{release}: knows FUSE pass-through")


def fuse_device(device: Path = FUSE_DEVICE) -> Result:
    """/dev/fuse can be opened."""
    try:
        check_fuse_device(device)
    except TierfsError as error:
        return failed("fuse device", error)
    return Result(Level.OK, "fuse device", f"{device} opens")


def front(program: Path | None = None) -> Result:
    """Which fronts there are."""
    program = native_front() if program is None else program
    if program is None:
        remedy = "for the native front install tierfs where there is a Rust toolchain"
        return Result(Level.OK, "front", "python; the native one is not built", remedy)
    return Result(Level.OK, "front", f"native ({program}) and python")


def capabilities(status: Path = Path("/proc/self/status"), euid: int | None = None) -> Result:
    """Root can mount: CAP_SYS_ADMIN is there, which containers take away."""
    euid = os.geteuid() if euid is None else euid
    if euid != 0:
        return Result(Level.OK, "capabilities", "a user mounts through fusermount3")
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", status.read_text(), re.MULTILINE)
    if match is None or not int(match[1], 16) >> CAP_SYS_ADMIN & 1:
        remedy = "in a container: --cap-add SYS_ADMIN --device /dev/fuse"
        return Result(Level.FAIL, "capabilities", "root without CAP_SYS_ADMIN", remedy)
    return Result(Level.OK, "capabilities", "CAP_SYS_ADMIN")


def user_mounts(conf: Path = FUSE_CONF, euid: int | None = None) -> Result:
    """fusermount3, which users mount through, and whether they may let others in."""
    euid = os.geteuid() if euid is None else euid
    if shutil.which("fusermount3") is None:
        level = Level.WARN if euid == 0 else Level.FAIL
        return Result(level, "user mounts", "no fusermount3", "install the package fuse3")
    if not user_allow_other(conf):
        message = "fusermount3; without allow_other for users"
        remedy = f"if users' mounts shall be open to others: user_allow_other in {conf}"
        return Result(Level.OK, "user mounts", message, remedy)
    return Result(Level.OK, "user mounts", "fusermount3, with allow_other for users")


def open_files() -> Result:
    """How many files the daemon may open (it raises the soft limit to the hard one by itself)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < MIN_OPEN_FILES:
        remedy = "raise it: ulimit -Hn 65536, or nofile in /etc/security/limits.conf"
        return Result(Level.WARN, "open files", f"at most {hard}", remedy)
    shown = "unlimited" if hard == resource.RLIM_INFINITY else f"at most {hard:,}"
    return Result(Level.OK, "open files", shown)


def cache_disk(cache: Path) -> Result:
    """The cache root, or the directory it would be made in, is local, writable, and has room."""
    name = "cache disk"
    place = next(path for path in (cache, *cache.parents) if path.exists())
    if not place.is_dir():
        return Result(Level.FAIL, name, f"{place} is not a directory", "give one with --cache")
    if not os.access(place, os.W_OK | os.X_OK):
        remedy = "give one of your own with --cache"
        return Result(Level.FAIL, name, f"no permission to write to {place}", remedy)
    on = mount_of(place)
    kind = on.type if on is not None else "unknown"
    if kind.split(".")[0] in ("fuse", "fuseblk", "nfs", "nfs4", "cifs"):
        remedy = "put the cache on a local disk, best NVMe: --cache /nvme/tierfs"
        return Result(Level.FAIL, name, f"{cache} is on {kind}", remedy)
    if kind == "overlay":
        remedy = "in a container: mount a volume for the cache"
        return Result(Level.WARN, name, f"{cache} is on a container's overlay", remedy)
    status = os.statvfs(place)
    free = status.f_bavail * status.f_frsize
    total = status.f_blocks * status.f_frsize
    message = f"{cache} on {kind}, {human_size(free)} of {human_size(total)} free"
    if free < MIN_CACHE_FREE_BYTES:
        return Result(Level.WARN, name, message, "free some space, or choose another disk")
    if _rotates(place):
        remedy = "a cache on NVMe is ten times as fast"
        return Result(Level.WARN, name, f"{message}; the kernel calls it a rotating disk", remedy)
    return Result(Level.OK, name, message)


def _rotates(place: Path) -> bool:
    device = place.stat().st_dev
    link = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    for queue in (link / "queue", link.resolve().parent / "queue"):
        try:
            return (queue / "rotational").read_text().strip() == "1"
        except OSError:
            continue
    return False


def updatedb(conf: Path = Path("/etc/updatedb.conf")) -> Result:
    """updatedb, where there is one, does not walk through the lake every night."""
    name = "updatedb"
    try:
        text = conf.read_text("utf-8", "replace")
    except OSError:
        return Result(Level.OK, name, "not on this machine")
    match = re.search(r'^\s*PRUNEFS\s*=\s*"([^"]*)"', text, re.MULTILINE)
    pruned = match[1].lower().split() if match else []
    if MOUNT_TYPE.decode() in pruned:
        return Result(Level.OK, name, f"passes over {MOUNT_TYPE.decode()}")
    remedy = f"add {MOUNT_TYPE.decode()} to PRUNEFS in {conf}"
    return Result(Level.WARN, name, "would list the whole lake every night", remedy)


def mount_helpers(sbin: Path = Path("/sbin")) -> Result:
    """mount(8) and umount(8) find their helpers."""
    missing = [name for name in LINKS if not (sbin / name).exists()]
    if missing:
        remedy = "run: tierfs install, as root"
        message = f"mount(8) and fstab find no {', '.join(missing)} in {sbin}"
        return Result(Level.WARN, "mount helpers", message, remedy)
    return Result(Level.OK, "mount helpers", f"in {sbin}")


def dead_mounts(probe: Callable[..., int] | None = None) -> Iterator[Result]:
    """Every tierfs mount answers. Waits some seconds for one that hangs."""
    from tierfs.keeper.mountpoint import probe as stat_by_child

    ask: Callable[..., int] = stat_by_child if probe is None else probe
    for mount in our_mounts():
        number = ask(os.fsencode(mount.mountpoint))
        name = "mount"
        if number == errno.ENOTCONN:
            message = f"{mount.mountpoint} is dead: its daemon is gone"
            remedy = f"tierfs umount {mount.mountpoint}, or mount again"
            yield Result(Level.FAIL, name, message, remedy)
        elif number == errno.ETIMEDOUT:
            message = f"{mount.mountpoint} does not answer"
            remedy = f"see its log; last resort: tierfs umount -l {mount.mountpoint}"
            yield Result(Level.FAIL, name, message, remedy)
        else:
            yield Result(Level.OK, name, f"{mount.mountpoint} answers")
