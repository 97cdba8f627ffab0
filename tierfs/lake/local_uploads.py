"""Multipart uploads to a directory, which needs none: so that all lakes can be used alike.

An upload is a directory in `INCOMING`, named by its id::

    upload                      {"key": hexadecimal, "metadata": {...}, "began_ns": ...}
    00001-0123456789abcdef      part 1 and the crc64nvme of what it holds

It is complete from its ``upload`` file on, and removed after it was completed; a process killed
in between leaves it behind, as S3 leaves uploads that nobody completes. Blocking; thread-safe.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tierfs.errors import IntegrityError, InvalidRequest, NotFound
from tierfs.lake.content import Call, Outgoing, joined_crc64nvme
from tierfs.lake.local_files import PrivateFile, copy_bytes, names_in, write_metadata
from tierfs.lake.local_writing import LocalWriter, receive
from tierfs.lake.protocol import Checksum, ChecksumKind
from tierfs.lake.writing import Condition, Part, Upload, Written

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_ID = re.compile(rb"upload-[0-9a-f]{32}")
_PART = re.compile(r"(\d{5})-([0-9a-f]{16})")
_DESCRIPTION = b"upload"


class LocalUploads:
    """The uploads to the lake that *writer* writes to."""

    def __init__(self, writer: LocalWriter) -> None:
        self._writer = writer
        #: Held while a part takes the place of another.
        self._lock = threading.Lock()

    def begin(self, key: bytes, metadata: Mapping[str, str]) -> Upload:
        """See `WritableLake.begin_upload`."""
        upload = Upload(key, b"upload-" + secrets.token_hex(16).encode("ascii"), time.time_ns())
        description = {
            "key": key.hex(),
            "metadata": dict(metadata),
            "began_ns": upload.began_ns,
        }
        with self._writer.incoming() as incoming:
            os.mkdir(upload.upload_id, 0o700, dir_fd=incoming)
            directory = os.open(upload.upload_id, _DIRECTORY, dir_fd=incoming)
            try:
                with PrivateFile(directory) as file:
                    file.write(memoryview(json.dumps(description).encode("utf-8")))
                    os.fsync(file.fd)
                    file.rename(_DESCRIPTION)
                os.fsync(directory)
            finally:
                os.close(directory)
            os.fsync(incoming)
        return upload

    def put_part(self, upload: Upload, number: int, body: Outgoing, crc64nvme: int) -> Part:
        """See `WritableLake.put_part`."""
        name = f"{number:05}-{crc64nvme:016x}"
        with self._opened(upload) as directory, PrivateFile(directory) as file:
            receive(file, upload.key, body, crc64nvme)
            os.fsync(file.fd)
            body.check()
            with self._lock:
                file.rename(name.encode("ascii"))
                for other in names_in(directory):
                    if other.startswith(name[:6]) and other != name:
                        os.unlink(other, dir_fd=directory)
            os.fsync(directory)
        return _part(number, body.length, crc64nvme)

    def complete(
        self,
        upload: Upload,
        parts: Sequence[Part],
        crc64nvme: int,
        condition: Condition,
        call: Call,
    ) -> Written:
        """See `WritableLake.complete_upload`."""
        with self._opened(upload) as directory, self._writer.incoming() as incoming:
            there = self._parts(directory)
            for part in parts:
                found = there.get(part.number)
                if found is None or found.etag != part.etag:
                    raise InvalidRequest("no such part, or another one", upload.key)
            chosen = [there[part.number] for part in parts]
            if joined_crc64nvme((part.crc64nvme, part.size) for part in chosen) != crc64nvme:
                raise IntegrityError("the object has another checksum", upload.key)
            with PrivateFile(incoming) as file:
                for part in chosen:
                    self._append(directory, part, file, call)
                write_metadata(file.fd, self._describe(directory)["metadata"])
                checksum = Checksum(ChecksumKind.CRC64NVME, crc64nvme)
                written = self._writer.place(file, upload.key, condition, call, checksum)
        self.abort(upload)
        return written

    def _append(self, directory: int, part: Part, file: PrivateFile, call: Call) -> None:
        name = f"{part.number:05}-{part.crc64nvme:016x}"
        fd = os.open(name, _FILE, dir_fd=directory)
        try:
            copy_bytes(fd, file.fd, part.size, call)
        finally:
            os.close(fd)

    def abort(self, upload: Upload) -> None:
        """See `WritableLake.abort_upload`."""
        try:
            with self._opened(upload) as directory, self._writer.incoming() as incoming:
                # The description first: what is left by a process killed here is no upload.
                os.unlink(_DESCRIPTION, dir_fd=directory)
                for name in names_in(directory):
                    os.unlink(name, dir_fd=directory)
                os.rmdir(upload.upload_id, dir_fd=incoming)
        except (NotFound, FileNotFoundError):
            return

    def in_progress(self, prefix: bytes) -> list[Upload]:
        """See `WritableLake.list_uploads`."""
        found = []
        with self._writer.incoming() as incoming:
            for name in map(os.fsencode, names_in(incoming)):
                if not _ID.fullmatch(name):
                    continue
                with contextlib.suppress(OSError, ValueError, KeyError):
                    directory = os.open(name, _DIRECTORY, dir_fd=incoming)
                    try:
                        said = self._describe(directory)
                    finally:
                        os.close(directory)
                    key = bytes.fromhex(said["key"])
                    if key.startswith(prefix):
                        found.append(Upload(key, name, int(said["began_ns"])))
        return sorted(found, key=lambda upload: (upload.key, upload.began_ns))

    def parts(self, upload: Upload) -> list[Part]:
        """See `WritableLake.list_parts`."""
        with self._opened(upload) as directory:
            there = self._parts(directory)
        return [there[number] for number in sorted(there)]

    def _parts(self, directory: int) -> dict[int, Part]:
        found = {}
        with self._lock:
            for name in names_in(directory):
                match = _PART.fullmatch(name)
                if match is not None:
                    size = os.stat(name, dir_fd=directory, follow_symlinks=False).st_size
                    number = int(match[1])
                    found[number] = _part(number, size, int(match[2], 16))
        return found

    @contextlib.contextmanager
    def _opened(self, upload: Upload) -> Iterator[int]:
        if not _ID.fullmatch(upload.upload_id):
            raise NotFound("no such upload", upload.key)
        with self._writer.incoming() as incoming:
            try:
                directory = os.open(upload.upload_id, _DIRECTORY, dir_fd=incoming)
            except FileNotFoundError:
                raise NotFound("no such upload", upload.key) from None
        try:
            if self._describe(directory)["key"] != upload.key.hex():
                raise NotFound("no such upload", upload.key)
            yield directory
        finally:
            os.close(directory)

    def _describe(self, directory: int) -> dict[str, Any]:
        fd = os.open(_DESCRIPTION, _FILE, dir_fd=directory)
        try:
            said: dict[str, Any] = json.loads(os.read(fd, os.fstat(fd).st_size))
        finally:
            os.close(fd)
        return said


def _part(number: int, size: int, crc64nvme: int) -> Part:
    return Part(number, size, b"%016x-%x" % (crc64nvme, size), crc64nvme)
