"""What can be known to be wrong before anything is started: the static checks of a mount.

Each check raises one error with its remedy. Nothing here asks the lake (the control plane does, and
answers through the keeper) and nothing touches a file system that is mounted on the mount point.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from pathlib import Path

from tierfs.config import Config
from tierfs.control.client import Mount, mount_at, mounts
from tierfs.errors import CacheError, ConfigError, LakeMissing, MountError

FUSE_DEVICE = Path("/dev/fuse")
FUSE_CONF = Path("/etc/fuse.conf")
SSE_C_KEY_BYTES = 32


def preflight(config: Config) -> None:
    """Run every check for *config*. Waits for the disk; creates the cache root if it is missing.

    Raises MountError, CacheError, ConfigError or LakeMissing: the first thing that is wrong.
    """
    check_mountpoint(config.mountpoint, nonempty=config.nonempty)
    check_fuse_device()
    if os.geteuid() != 0:
        check_user_mount(config.mountpoint, allow_other=bool(config.allow_other))
    check_files(config)
    check_cache(config.cache)


def check_mountpoint(path: Path, *, nonempty: bool = False) -> None:
    """The mount point is an empty directory (*nonempty*: any directory), or ours to clean up."""
    there = mount_at(path)
    if there is not None and (there.ours or there.type == "autofs"):
        # A mount of ours is alive or dead: the keeper knows how to find out without hanging. An
        # automount would wait for the very mount that we are about to make.
        return
    try:
        status = path.stat()
    except FileNotFoundError:
        hint = f"create it: mkdir -p {path}"
        raise MountError("the mount point does not exist", str(path), hint) from None
    except OSError as error:
        hint = "choose a directory that you may enter"
        if error.errno == errno.ENOTCONN:
            hint = f"a dead mount is in the way: umount -l {path}"
        raise MountError(
            f"the mount point cannot be read: {error.strerror}", str(path), hint
        ) from None
    if not stat.S_ISDIR(status.st_mode):
        raise MountError("the mount point is not a directory", str(path), "choose a directory")
    if nonempty:
        return
    try:
        filled = next(path.iterdir(), None) is not None
    except OSError as error:
        hint = "choose a directory that you may read"
        raise MountError(
            f"the mount point cannot be read: {error.strerror}", str(path), hint
        ) from None
    if filled:
        hint = "its files would be hidden; choose another one, or give --nonempty"
        raise MountError("the mount point is not empty", str(path), hint)


def check_fuse_device(device: Path = FUSE_DEVICE) -> None:
    """/dev/fuse exists and may be opened."""
    hint = "modprobe fuse; in a container: --device /dev/fuse --cap-add SYS_ADMIN"
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise MountError("there is no FUSE device", str(device), hint) from None
    except OSError as error:
        raise MountError(
            f"the FUSE device cannot be opened: {error.strerror}", str(device), hint
        ) from None


def check_user_mount(mountpoint: Path, *, allow_other: bool, conf: Path = FUSE_CONF) -> None:
    """A user who is not root needs ``fusermount3``, a directory of their own, and for *allow_other*
    the administrator's word in /etc/fuse.conf."""
    if shutil.which("fusermount3") is None:
        hint = "install the package fuse3"
        raise MountError("users mount through fusermount3, which is missing", "", hint)
    if not os.access(mountpoint, os.W_OK):
        hint = "users mount on directories that they may write to; choose one of your own"
        raise MountError("no permission to mount there", str(mountpoint), hint)
    if allow_other and not user_allow_other(conf):
        hint = f"root must write the line user_allow_other into {conf}, or leave allow_other out"
        raise MountError("allow_other is not granted to users", "", hint)


def user_allow_other(conf: Path = FUSE_CONF) -> bool:
    """fuse.conf grants users ``allow_other``."""
    try:
        lines = conf.read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


def check_files(config: Config) -> None:
    """Files that options name are fit for use, and the root of a local lake is a directory."""
    if config.ca_bundle is not None and not os.access(config.ca_bundle, os.R_OK):
        hint = "give a readable PEM file"
        raise ConfigError("ca_bundle cannot be read", str(config.ca_bundle), hint)
    if config.sse_c_key_file is not None:
        _check_key(config.sse_c_key_file)
    root = config.file_root
    if root is not None and not root.is_dir():
        hint = "give an existing directory, file:///data/lake"
        raise LakeMissing("the lake's directory does not exist", str(root), hint)


def _check_key(path: Path) -> None:
    try:
        status = path.stat()
    except OSError as error:
        hint = f"give a readable file of {SSE_C_KEY_BYTES} bytes"
        raise ConfigError(f"sse_c_key_file: {error.strerror}", str(path), hint) from None
    if status.st_size != SSE_C_KEY_BYTES:
        hint = f"it holds the key itself, {SSE_C_KEY_BYTES} bytes, not base64"
        raise ConfigError(f"sse_c_key_file has {status.st_size} bytes", str(path), hint)
    if status.st_mode & 0o077:
        raise ConfigError("sse_c_key_file is open to others", str(path), f"chmod 600 {path}")


def check_cache(cache: Path) -> None:
    """The cache root can be made and written, and lies on a local file system that is not FUSE."""
    on = mount_of(cache)
    if on is not None and on.type.split(".")[0] in ("fuse", "fuseblk", "nfs", "nfs4", "cifs"):
        hint = "the cache must be on a local disk, best NVMe: --cache /nvme/tierfs"
        raise CacheError(f"the cache is on a {on.type} file system", str(cache), hint)
    try:
        cache.mkdir(mode=0o750, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        hint = "give a directory, --cache /nvme/tierfs"
        raise CacheError("the cache is not a directory", str(cache), hint) from None
    except OSError as error:
        hint = "give a directory that you may write to, --cache /nvme/tierfs"
        raise CacheError(
            f"the cache cannot be created: {error.strerror}", str(cache), hint
        ) from None
    try:
        with tempfile.TemporaryFile(dir=cache) as probe:
            probe.write(b"tierfs")
            probe.flush()
    except OSError as error:
        hint = "free some space" if error.errno == errno.ENOSPC else "give another one with --cache"
        raise CacheError(
            f"the cache cannot be written: {error.strerror}", str(cache), hint
        ) from None


def mount_of(path: Path) -> Mount | None:
    """The mount that *path*, without links, lies on, by the mount table."""
    table = {mount.mountpoint: mount for mount in mounts()}
    return next((table[p] for p in (path, *path.parents) if p in table), None)
