"""What a local lake's writing is made of: private files, metadata, copies. Blocking."""

from __future__ import annotations

import errno
import json
import os
import secrets
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from tierfs.errors import LakeUnavailable
from tierfs.lake.content import Call

#: The directory in the root where files are written before they have a name. It is no key, nor is
#: anything in it.
INCOMING = b".tierfs-incoming"
#: A JSON object, UTF-8. Only where the file system has such attributes.
_ATTRIBUTE = b"user.tierfs.meta"
#: What a killed process left is removed after this long.
_LEFT_S = 24 * 3600
_COPY_BYTES = 16 << 20
_CANNOT_COPY = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY}
)


def names_in(directory: int) -> list[str]:
    """What is in an open directory."""
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries]


class PrivateFile:
    """A new file in *directory*, open for reading and writing as ``fd``; unlinked at the end of the
    ``with`` unless it was renamed. *directory* is not closed."""

    def __init__(self, directory: int) -> None:
        self.directory = directory
        self.name = b"new-" + secrets.token_hex(16).encode("ascii")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.fd = os.open(self.name, flags, 0o666, dir_fd=directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        os.close(self.fd)
        try:
            os.unlink(self.name, dir_fd=self.directory)
        except FileNotFoundError:
            return  # Renamed.

    def write(self, data: memoryview) -> None:
        """Append all of *data*."""
        while data:
            data = data[os.write(self.fd, data) :]

    def rename(self, name: bytes) -> None:
        """Give it a name in its directory."""
        os.rename(self.name, name, src_dir_fd=self.directory, dst_dir_fd=self.directory)


def write_metadata(fd: int, metadata: Mapping[str, str]) -> None:
    """Note *metadata* with the file, where the file system can."""
    if not metadata:
        return
    try:
        os.setxattr(fd, _ATTRIBUTE, json.dumps(dict(metadata)).encode("utf-8"))
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise


def keeps_metadata(directory: str) -> bool:
    """Whether the file system of *directory* can note metadata with a file."""
    try:
        os.getxattr(directory, _ATTRIBUTE)
    except OSError as error:
        return error.errno != errno.ENOTSUP
    return True


def read_metadata(fd: int) -> dict[str, str] | None:
    """What was noted with the file; None where that cannot be told."""
    try:
        found = json.loads(os.getxattr(fd, _ATTRIBUTE))
    except OSError as error:
        return {} if error.errno == errno.ENODATA else None
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    return {str(name): str(value) for name, value in found.items()}


def copy_bytes(source: int, target: int, length: int, call: Call) -> None:
    """Append the first *length* bytes of *source* to *target*; shared, where the file system can.

    Raises LakeUnavailable if there are fewer.
    """
    copy = _copy_range
    done = 0
    while done < length:
        call.check()
        wanted = min(_COPY_BYTES, length - done)
        try:
            got = copy(source, target, wanted, done)
        except OSError as error:
            if copy is not _copy_range or error.errno not in _CANNOT_COPY:
                raise
            copy = _copy_through
            continue
        if got == 0:
            raise LakeUnavailable("a file became shorter while it was copied")
        done += got


def _copy_range(source: int, target: int, length: int, offset: int) -> int:
    return os.copy_file_range(source, target, length, offset_src=offset)


def _copy_through(source: int, target: int, length: int, offset: int) -> int:
    data = os.pread(source, min(length, 1 << 20), offset)
    return os.write(target, data) if data else 0


def remove_left_files(directory: int) -> None:
    """Unlink plain files that were last written to long ago: nobody is at work on them."""
    oldest_ns = time.time_ns() - _LEFT_S * 1_000_000_000
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                if not entry.is_file(follow_symlinks=False):
                    continue
                if entry.stat(follow_symlinks=False).st_mtime_ns < oldest_ns:
                    os.unlink(entry.name, dir_fd=directory)
            except FileNotFoundError:
                continue
