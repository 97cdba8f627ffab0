"""Writing to a directory: a private file, made durable, that then gets its name in one step.

Files are written in `INCOMING` at the root, synchronised, and linked (a key that must be absent) or
renamed to their place, whose directory is synchronised before the call returns (promise L5).
Directories on the way are made; links are not followed. A version is final when the call has
returned: the link's private name goes a moment later, which changes the inode once more.

What a file system cannot do as an object store does:

* A key that ends in ``/`` is a directory, which exists by itself as long as it is not deleted; it
  is its own marker while it is empty. A key with empty, ``.`` or ``..`` components, or below a
  file, or beside a directory of its name, cannot be held: InvalidRequest.
* A condition on a *version* is looked at right before the rename, under a lock of this process:
  another process may write between the two. Absence is decided by link(2), for all processes.
* Metadata is kept in an extended attribute where the file system has those, and not otherwise. The
  content's type is not kept.

Blocking; thread-safe.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping

from tierfs.errors import (
    IntegrityError,
    InvalidRequest,
    LakeMissing,
    LakeUnavailable,
    NotFound,
    PreconditionFailed,
)
from tierfs.lake.content import Call, Outgoing, crc64nvme_of
from tierfs.lake.local_files import (
    INCOMING,
    PrivateFile,
    copy_bytes,
    names_in,
    read_metadata,
    remove_left_files,
    write_metadata,
)
from tierfs.lake.local_listing import version_of
from tierfs.lake.protocol import Checksum, ChecksumKind, Version
from tierfs.lake.writing import Condition, Written

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Nothing is there, or nothing that could be an object.
_NOTHING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL})
#: What is in the way of a name.
_IN_THE_WAY = frozenset(
    {errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTEMPTY, errno.EINVAL}
)


class LocalWriter:
    """Writes below the directory *root*. *open_directory* and *open_file* resolve as reading does:
    they give a descriptor, or raise NotFound or OSError."""

    def __init__(
        self,
        root: bytes,
        open_directory: Callable[[bytes], int],
        open_file: Callable[[bytes], int],
    ) -> None:
        self._root = root
        self._open_directory = open_directory
        self._open_file = open_file
        #: Held from a look at a version to the change that depends on it.
        self._lock = threading.Lock()
        self._swept = False

    def put(
        self,
        key: bytes,
        body: Outgoing,
        crc64nvme: int,
        metadata: Mapping[str, str],
        condition: Condition,
    ) -> Written:
        """See `WritableLake.put`."""
        if key.endswith(b"/"):
            return self._make_marker(key, body, metadata, condition)
        _split(key)
        with self.incoming() as directory, PrivateFile(directory) as file:
            receive(file, key, body, crc64nvme)
            write_metadata(file.fd, metadata)
            checksum = Checksum(ChecksumKind.CRC64NVME, crc64nvme)
            return self.place(file, key, condition, body, checksum)

    def copy(
        self,
        source: bytes,
        version: Version,
        target: bytes,
        metadata: Mapping[str, str] | None,
        condition: Condition,
        call: Call,
    ) -> Written:
        """See `WritableLake.copy`."""
        _split(target)
        with self._opened(source) as fd, self.incoming() as directory:
            status = os.fstat(fd)
            if version_of(status) != version:
                raise PreconditionFailed("the file has changed", source)
            with PrivateFile(directory) as file:
                copy_bytes(fd, file.fd, status.st_size, call)
                kept = read_metadata(fd) or {} if metadata is None else metadata
                if version_of(os.fstat(fd)) != version:
                    raise PreconditionFailed("the file has changed", source)
                write_metadata(file.fd, kept)
                return self.place(file, target, condition, call, None)

    @contextlib.contextmanager
    def _opened(self, key: bytes) -> Iterator[int]:
        try:
            fd = self._open_file(key)
        except NotFound:
            raise PreconditionFailed("the file is gone", key) from None
        except OSError as error:
            if error.errno not in _NOTHING:
                raise
            raise PreconditionFailed("the file is gone", key) from None
        try:
            yield fd
        finally:
            os.close(fd)

    def delete(self, key: bytes, condition: Condition) -> None:
        """See `WritableLake.delete`."""
        name = key.removesuffix(b"/")
        try:
            head, leaf = _split(name)
            parent = self._open_directory(head)
        except InvalidRequest:
            return  # There can be no such file.
        except OSError as error:
            if error.errno not in _NOTHING:
                raise
            return
        try:
            with self._lock:
                gone = self._remove(parent, leaf, key, condition)
            if gone:
                os.fsync(parent)
        except OSError as error:
            if error.errno not in _NOTHING | {errno.ENOTEMPTY, errno.EEXIST}:
                raise
        finally:
            os.close(parent)

    def _remove(self, parent: int, leaf: bytes, key: bytes, condition: Condition) -> bool:
        status = os.stat(leaf, dir_fd=parent, follow_symlinks=False)
        if key.endswith(b"/"):
            if condition.version not in (None, version_of(status)):
                raise PreconditionFailed("the directory has changed", key)
            os.rmdir(leaf, dir_fd=parent)
            return True
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
            return False  # No object.
        self._check(key, condition)
        os.unlink(leaf, dir_fd=parent)
        return True

    def place(
        self,
        file: PrivateFile,
        key: bytes,
        condition: Condition,
        call: Call,
        checksum: Checksum | None,
    ) -> Written:
        """Give *file* the name *key*, durably, if *condition* holds."""
        os.fsync(file.fd)
        head, leaf = _split(key)
        parent = self._make_directories(head)
        try:
            call.check()
            if condition.absent:
                self._link(file, parent, leaf, key)
            else:
                with self._lock:
                    self._check(key, condition)
                    os.rename(file.name, leaf, src_dir_fd=file.directory, dst_dir_fd=parent)
            os.fsync(parent)
        except FileNotFoundError:
            hint = "somebody removed its directory, or what was to be renamed"
            raise LakeUnavailable("write a file", key, hint) from None
        except OSError as error:
            raise _refused(key, error) from None
        finally:
            os.close(parent)
        # Only now: both ways change the time of the inode's last change.
        return _written(os.fstat(file.fd), checksum)

    def _link(self, file: PrivateFile, parent: int, leaf: bytes, key: bytes) -> None:
        try:
            os.link(
                file.name,
                leaf,
                src_dir_fd=file.directory,
                dst_dir_fd=parent,
                follow_symlinks=False,
            )
        except FileExistsError:
            status = os.stat(leaf, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                raise InvalidRequest("a directory has this name", key) from None
            raise PreconditionFailed("there is a file", key) from None
        os.unlink(file.name, dir_fd=file.directory)

    def _check(self, key: bytes, condition: Condition) -> None:
        if condition.version is None:
            return
        with self._opened(key) as fd:
            if version_of(os.fstat(fd)) != condition.version:
                raise PreconditionFailed("the file has changed", key)

    def _make_marker(
        self, key: bytes, body: Outgoing, metadata: Mapping[str, str], condition: Condition
    ) -> Written:
        if body.length:
            raise InvalidRequest("a directory holds no content", key)
        head, leaf = _split(key[:-1])
        parent = self._make_directories(head)
        try:
            body.check()
            made = self._make_directory(parent, leaf, key, condition)
            fd = os.open(leaf, _DIRECTORY, dir_fd=parent)
        except OSError as error:
            raise _refused(key, error) from None
        finally:
            os.close(parent)
        try:
            if not made and condition.absent and not names_in(fd):
                raise PreconditionFailed("there is an empty directory", key)
            write_metadata(fd, metadata)
            os.fsync(fd)
            return _written(os.fstat(fd), Checksum(ChecksumKind.CRC64NVME, 0))
        finally:
            os.close(fd)

    def _make_directory(self, parent: int, leaf: bytes, key: bytes, condition: Condition) -> bool:
        if condition.version is not None:
            try:
                status = os.stat(leaf, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                raise PreconditionFailed("the directory is gone", key) from None
            if version_of(status) != condition.version:
                raise PreconditionFailed("the directory has changed", key)
        return _make(parent, leaf)

    def _make_directories(self, prefix: bytes) -> int:
        """A descriptor of the directory *prefix*, made durably where it was not there."""
        fd = self._open_root()
        for part in prefix.split(b"/")[:-1]:
            try:
                _make(fd, part)
                deeper = os.open(part, _DIRECTORY, dir_fd=fd)
            except OSError as error:
                raise _refused(prefix, error) from None
            finally:
                os.close(fd)
            fd = deeper
        return fd

    def _open_root(self) -> int:
        try:
            return os.open(self._root, _DIRECTORY)
        except OSError as error:
            if error.errno not in _NOTHING:
                raise
            hint = "create it, or check the URL"
            raise LakeMissing("the lake's directory does not exist", self._root, hint) from None

    @contextlib.contextmanager
    def incoming(self) -> Iterator[int]:
        """A descriptor of the private directory, which is made if it is not there."""
        root = self._open_root()
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(INCOMING, 0o700, dir_fd=root)
                os.fsync(root)
            fd = os.open(INCOMING, _DIRECTORY, dir_fd=root)
        finally:
            os.close(root)
        try:
            if not self._swept:
                self._swept = True
                remove_left_files(fd)
            yield fd
        finally:
            os.close(fd)


def receive(file: PrivateFile, key: bytes, body: Outgoing, crc64nvme: int) -> None:
    """Write all of *body* to *file*. Raises IntegrityError if it has another checksum."""
    found = 0
    with contextlib.closing(body.pieces()) as pieces:
        for piece in pieces:
            found = crc64nvme_of(piece, found)
            file.write(piece)
    if found != crc64nvme:
        raise IntegrityError("the content has another checksum", key)


def _split(key: bytes) -> tuple[bytes, bytes]:
    """Directory (``b""`` or ending in ``/``) and name. Raises InvalidRequest for what is none."""
    parts = key.split(b"/")
    if any(part in (b"", b".", b"..") or b"\0" in part for part in parts):
        raise InvalidRequest("a file system cannot hold this key", key)
    if parts[0] == INCOMING:
        raise InvalidRequest("this name is the lake's own", key)
    head, slash, name = key.rpartition(b"/")
    return head + slash, name


def _make(parent: int, name: bytes) -> bool:
    """Make a directory durably; whether it was not there. One that was there may have been made a
    moment ago by somebody who has not come to synchronise it."""
    made = True
    try:
        os.mkdir(name, dir_fd=parent)
    except FileExistsError:
        made = False
    os.fsync(parent)
    return made


def _refused(key: bytes, error: OSError) -> Exception:
    """What it means that *key* cannot get its name."""
    if error.errno in _IN_THE_WAY:
        return InvalidRequest("a file system cannot hold this key", key, error.strerror or "")
    return error


def _written(status: os.stat_result, checksum: Checksum | None) -> Written:
    return Written(version_of(status), checksum, status.st_mtime_ns)
