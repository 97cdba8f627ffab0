"""Operations on a directory, as values; a `Side` carries them out and says what came of them.

An operation is plain data: it can be printed, and done to two directories. Open files are known by
a slot, a small number, because descriptors differ. Paths are bytes, relative to the directory.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
import stat
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

#: What an operation gives: a number, bytes, names; None where there is nothing to compare.
Value: TypeAlias = "int | bytes | str | tuple[Any, ...] | None"

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)

#: Times before this were set by somebody; whatever is later happened just now.
RECENT_NS = time.time_ns() - 3600 * 10**9

NOISE_BYTES = 1 << 20
_noise = bytearray()


def _show(argument: object) -> str:
    """As Python would write it, but for very long names."""
    text = repr(argument)
    return re.sub(r"(\w)\1{60,}", lambda found: f"{found[1]}*{len(found[0])}", text)


class Op(NamedTuple):
    """One operation: a name that `Side` knows, and its arguments."""

    name: str
    args: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(_show, self.args))})"


class Outcome(NamedTuple):
    """What came of an operation: an error number, or 0 and a value."""

    error: int
    value: Value = None

    def __str__(self) -> str:
        if self.error:
            return errno.errorcode.get(self.error, str(self.error))
        text = repr(self.value)
        return text if len(text) < 200 else f"{text[:160]}... ({len(text)} characters)"


#: A slot in which nothing is open; the kernel is not asked.
NOTHING_OPEN = Outcome(errno.EBADF)


class Refusal(NamedTuple):
    """An operation that the directory under test may refuse. It is then not done to the other."""

    operation: str
    error: int
    why: str


#: Everything in which the two directories may differ is in these two tables.
REFUSALS = (
    Refusal("link", errno.EPERM, "there are no hard links to an object"),
    Refusal("exchange", errno.EINVAL, "two names cannot be exchanged in one step"),
    Refusal("tmpfile", errno.EOPNOTSUPP, "a file without a name has no place in the order"),
    Refusal("fallocate", errno.EOPNOTSUPP, "room is not reserved ahead"),
)
#: Refusals that have to be asked for by the operation's name.
REFUSALS_ON_REQUEST = (
    Refusal("copy_file_range", errno.ENOSYS, "programs then read and write"),
    Refusal("copy_file_range", errno.EXDEV, "programs then read and write"),
    Refusal("copy_file_range", errno.EOPNOTSUPP, "programs then read and write"),
)
#: Errors that mean the same (POSIX allows both).
SAME_ERRORS = (frozenset({errno.ENOTEMPTY, errno.EEXIST}),)


def same(one: Outcome, other: Outcome) -> bool:
    """Whether a program may take the one for the other."""
    if one == other:
        return True
    return any({one.error, other.error} <= errors for errors in SAME_ERRORS)


def noise(seed: int, size: int) -> bytes:
    """*size* bytes, at most `NOISE_BYTES`, that differ from seed to seed."""
    if not _noise:
        import random

        _noise.extend(random.Random(0).randbytes(2 * NOISE_BYTES))
    start = seed * 4099 % NOISE_BYTES
    return bytes(memoryview(_noise)[start : start + size])


def show_mtime(at_ns: int) -> int | str:
    """A time that was set, or that it is a recent one."""
    return at_ns if at_ns < RECENT_NS else "recent"


def show_stat(found: os.stat_result) -> tuple[Any, ...]:
    """What two directories must agree on. Numbers of links, inodes and blocks are their own."""
    kind = stat.S_IFMT(found.st_mode)
    if stat.S_ISLNK(found.st_mode):
        return (kind, found.st_size)
    size = found.st_size if stat.S_ISREG(found.st_mode) else None
    return (kind, stat.S_IMODE(found.st_mode), size, show_mtime(found.st_mtime_ns))


def file_size(fd: int) -> int:
    """The size of an open file. That of a directory is its own affair."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EISDIR, "a directory")
    return found.st_size


def renameat2(source: bytes, target: bytes, flags: int) -> None:
    """renameat2(2), which Python does not have."""
    if _libc.renameat2(_AT_FDCWD, source, _AT_FDCWD, target, flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Side:
    """A directory that operations are done to, and what is open in it.

    A subclass may do something wrong, to see that it is noticed.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fsencode(root)
        self.fds: dict[int, int] = {}

    def path(self, name: bytes) -> bytes:
        return self.root + b"/" + name if name else self.root

    def run(self, op: Op) -> Outcome:
        """Does *op*. Only what the kernel says no to is an outcome; all else is raised."""
        action: Callable[..., Value] = getattr(self, f"do_{op.name}")
        try:
            return Outcome(0, action(*op.args))
        except OSError as error:
            return Outcome(error.errno or errno.EIO)

    def close(self) -> None:
        """Closes whatever is open."""
        for slot in list(self.fds):
            self.do_close(slot)

    def fd(self, slot: int) -> int:
        found = self.fds.get(slot)
        if found is None:
            raise OSError(errno.EBADF, "nothing is open")
        return found

    # Open files.

    def do_open(self, slot: int, path: bytes, flags: int, mode: int) -> None:
        self.do_close(slot)
        self.fds[slot] = os.open(self.path(path), flags, mode)

    def do_close(self, slot: int) -> None:
        fd = self.fds.pop(slot, None)
        if fd is not None:
            os.close(fd)

    def do_tmpfile(self, path: bytes) -> None:
        os.close(os.open(self.path(path), os.O_TMPFILE | os.O_RDWR))

    def do_pwrite(self, slot: int, offset: int, seed: int, size: int) -> int:
        return os.pwrite(self.fd(slot), noise(seed, size), offset)

    def do_append(self, slot: int, seed: int, size: int) -> int:
        """Writes at the end, whether or not the file was opened for that."""
        fd = self.fd(slot)
        os.lseek(fd, file_size(fd), os.SEEK_SET)
        return os.write(fd, noise(seed, size))

    def do_pread(self, slot: int, offset: int, size: int) -> bytes:
        return os.pread(self.fd(slot), size, offset)

    def do_ftruncate(self, slot: int, size: int) -> None:
        os.ftruncate(self.fd(slot), size)

    def do_fallocate(self, slot: int, offset: int, size: int) -> None:
        os.posix_fallocate(self.fd(slot), offset, size)

    def do_fstat(self, slot: int) -> Value:
        return show_stat(os.fstat(self.fd(slot)))

    def do_fchmod(self, slot: int, mode: int) -> None:
        os.fchmod(self.fd(slot), mode)

    def do_futimens(self, slot: int, mtime_ns: int) -> None:
        os.utime(self.fd(slot), ns=(mtime_ns, mtime_ns))

    def do_fsync(self, slot: int) -> None:
        os.fsync(self.fd(slot))

    def do_fdatasync(self, slot: int) -> None:
        os.fdatasync(self.fd(slot))

    def do_mmap_store(self, slot: int, place: int, seed: int, size: int, mtime_ns: int) -> int:
        """Stores through a shared map, somewhere within the file, and syncs.

        When that changes the file's times is left open by POSIX, and tmpfs never does it: they are
        set afterwards.
        """
        fd = self.fd(slot)
        length = file_size(fd)
        if length == 0:
            return 0
        start = place % length
        data = noise(seed, min(size, length - start))
        with mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as view:
            view[start : start + len(data)] = data
            view.flush()
        os.utime(fd, ns=(mtime_ns, mtime_ns))
        return len(data)

    def do_mmap_load(self, slot: int, place: int, size: int) -> bytes:
        fd = self.fd(slot)
        length = file_size(fd)
        if length == 0:
            return b""
        with mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ) as view:
            start = place % length
            return view[start : start + size]

    def do_sendfile(self, source: int, target: int, offset: int, size: int, at: int) -> int:
        """Never within one file: what is on its way then is the file's own pages."""
        out = self.fd(target)
        if os.path.sameopenfile(out, self.fd(source)):
            raise OSError(errno.EINVAL, "the same file")
        os.lseek(out, at, os.SEEK_SET)
        return os.sendfile(out, self.fd(source), offset, size)

    def do_copy_file_range(self, source: int, target: int, offset: int, size: int, at: int) -> int:
        return os.copy_file_range(self.fd(source), self.fd(target), size, offset, at)

    # Names.

    def do_truncate(self, path: bytes, size: int) -> None:
        """Never to the size that the file has: file systems disagree on what that does to times."""
        at = self.path(path)
        os.truncate(at, size + (os.stat(at).st_size == size))

    def do_rename(self, source: bytes, target: bytes) -> None:
        os.rename(self.path(source), self.path(target))

    def do_noreplace(self, source: bytes, target: bytes) -> None:
        renameat2(self.path(source), self.path(target), RENAME_NOREPLACE)

    def do_exchange(self, source: bytes, target: bytes) -> None:
        renameat2(self.path(source), self.path(target), RENAME_EXCHANGE)

    def do_link(self, source: bytes, target: bytes) -> None:
        os.link(self.path(source), self.path(target))

    def do_symlink(self, text: bytes, path: bytes) -> None:
        os.symlink(text, self.path(path))

    def do_readlink(self, path: bytes) -> bytes:
        return os.readlink(self.path(path))

    def do_unlink(self, path: bytes) -> None:
        os.unlink(self.path(path))

    def do_mkdir(self, path: bytes, mode: int) -> None:
        os.mkdir(self.path(path), mode)

    def do_rmdir(self, path: bytes) -> None:
        os.rmdir(self.path(path))

    def do_listdir(self, path: bytes) -> Value:
        return tuple(sorted(os.listdir(self.path(path))))

    def do_sync_directory(self, path: bytes) -> None:
        fd = os.open(self.path(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    # Attributes.

    def do_stat(self, path: bytes) -> Value:
        return show_stat(os.stat(self.path(path)))

    def do_lstat(self, path: bytes) -> Value:
        return show_stat(os.lstat(self.path(path)))

    def do_access(self, path: bytes, mode: int) -> int:
        return os.access(self.path(path), mode)

    def do_chmod(self, path: bytes, mode: int) -> None:
        os.chmod(self.path(path), mode)

    def do_utimens(self, path: bytes, mtime_ns: int) -> None:
        os.utime(self.path(path), ns=(mtime_ns, mtime_ns))

    def do_setxattr(self, path: bytes, name: str, seed: int, size: int, flags: int) -> None:
        os.setxattr(self.path(path), name, noise(seed, size), flags)

    def do_getxattr(self, path: bytes, name: str) -> bytes:
        return os.getxattr(self.path(path), name)

    def do_listxattr(self, path: bytes) -> Value:
        return user_xattrs(self.path(path))

    def do_removexattr(self, path: bytes, name: str) -> None:
        os.removexattr(self.path(path), name)


def user_xattrs(path: bytes) -> tuple[str, ...]:
    """The names of the attributes that belong to users."""
    return tuple(sorted(name for name in os.listxattr(path) if name.startswith("user.")))
