"""The writing half of the lake port: what write-back asks of an object store.

Keys are those of `tierfs.lake.protocol`. Promises that every implementation keeps beside L1..L4,
and that ``tests/lake_writing_conformance.py`` holds it to:

L5. A write takes effect whole or not at all, at one moment: nobody ever reads half of one. Once a
    call has returned, what it wrote is there for whoever asks next.
L6. A `Condition` is looked at in that same moment, by the store. Of any number of writers that want
    a key to be absent one succeeds. (A store that knows no conditions ignores them, and nothing in
    its answer shows that. `LocalLake` says what its *version* leaves open.)
L7. What is stored has the checksum that the caller gave, or IntegrityError is raised. A content
    that ends early is never stored short. Where the store itself says afterwards that it has stored
    something else, that is there until it is overwritten.
L8. A call that raised LakeUnavailable, or was cancelled, may have taken effect, and may still take
    effect for a moment. A retry inside of a call can meet the effect of an attempt whose answer was
    lost: a conditional write then raises PreconditionFailed, and `WritableLake.complete_upload`
    NotFound, although it was this call that succeeded. The lake does not settle that, the caller
    does: by a HEAD that shows whose metadata the object has.
L9. The caller may close a `FileRange`'s descriptor as soon as the call has ended, however it
    ended: no thread reads from it, or from what has its number then.

How long a write may take: the lake's deadline, and a second more for each `SLOWEST_BYTES_S` that it
sends, or for what its `Pace` lets go in one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple, Protocol, TypeAlias

from tierfs.errors import InvalidRequest
from tierfs.lake.pace import Pace
from tierfs.lake.protocol import Checksum, Lake, Version

#: A connection that is slower than this over a whole body is given up as one that gives no answer.
SLOWEST_BYTES_S = 1 << 20

NO_METADATA: Mapping[str, str] = MappingProxyType({})

_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"([!-~]([ -~]*[!-~])?)?")
#: Names and values together, in bytes:
#: https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingMetadata.html
_MOST_METADATA = 2048


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold of a key for a write of it to take effect: that there is nothing (*absent*),
    or that it has this *version*; by default nothing must. Raises InvalidRequest for both."""

    absent: bool = False
    version: Version | None = None

    def __post_init__(self) -> None:
        if self.absent and self.version is not None:
            raise InvalidRequest("a key cannot both be absent and have a version")


ALWAYS = Condition()
ABSENT = Condition(absent=True)


@dataclass(frozen=True, slots=True)
class Storage:
    """How the store is to keep an object, in S3's words. What is empty is the bucket's matter; of a
    copy without *tags*, the source's are kept. *kms_key*: the key of SSE-KMS, by id, ARN or alias.
    """

    storage_class: str = ""
    tags: tuple[tuple[str, str], ...] = ()
    kms_key: str = ""


AS_USUAL = Storage()


class FileRange(NamedTuple):
    """The bytes ``[offset, offset + length)`` of an open file. Read by position, from worker
    threads; the caller keeps the descriptor open, and the bytes as they are, during the call. They
    are sent no faster than *pace* lets all that have it."""

    fd: int
    offset: int
    length: int
    pace: Pace | None = None


Content: TypeAlias = bytes | FileRange


def length_of(content: Content) -> int:
    """How many bytes *content* is. (``len`` of a `FileRange` is that of the tuple.)"""
    return len(content) if isinstance(content, bytes) else content.length


@dataclass(frozen=True, slots=True)
class Written:
    """What the store says that it has stored."""

    version: Version
    #: The full-object checksum that the store confirmed; None where it said nothing of one.
    checksum: Checksum | None
    #: 0 where the answer did not tell.
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload that was begun. *upload_id* is opaque; with the key it says which."""

    key: bytes
    upload_id: bytes
    #: By the store's clock or by ours.
    began_ns: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class Part:
    """One part that the store has. Numbers begin at 1; *crc64nvme* is 0 where a listing did not
    tell."""

    number: int
    size: int
    etag: bytes
    crc64nvme: int


@dataclass(frozen=True, slots=True)
class WriteLimits:
    """What one object and one request may hold, in bytes. *min_part* is not for the last one."""

    single_put_bytes: int
    min_part: int
    max_part: int
    max_parts: int
    object_bytes: int


#: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
S3_LIMITS = WriteLimits(5 << 30, 5 << 20, 5 << 30, 10_000, 50 << 40)


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Refuse what an HTTP header could not carry unchanged: names that are not tokens in lower
    case, values that are not printable ASCII or begin or end with a space, more than 2 KiB in
    total. Raises InvalidRequest."""
    for name, value in metadata.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise InvalidRequest("metadata that no header can carry", f"{name}={value}")
    if sum(len(name) + len(value) for name, value in metadata.items()) > _MOST_METADATA:
        raise InvalidRequest(f"more than {_MOST_METADATA} bytes of metadata")


def check_parts(parts: Sequence[Part], size: int) -> None:
    """Refuse a list of parts that cannot be *size* bytes in order. Raises InvalidRequest."""
    numbers = [part.number for part in parts]
    if not numbers or numbers[0] < 1 or any(a >= b for a, b in pairwise(numbers)):
        raise InvalidRequest("parts are listed in the order of their numbers, from 1 on")
    if sum(part.size for part in parts) != size:
        raise InvalidRequest("the parts are not the object's size together")


def check_number(number: int, limits: WriteLimits) -> None:
    """Refuse what cannot be a part's number. Raises InvalidRequest."""
    if not 1 <= number <= limits.max_parts:
        raise InvalidRequest(f"parts have the numbers from 1 to {limits.max_parts}", str(number))


def check_delete(key: bytes, condition: Condition) -> None:
    """Refuse a condition under which nothing could be deleted. Raises InvalidRequest."""
    if condition.absent:
        raise InvalidRequest("nothing can be deleted where there is nothing", key)


def check_copy(source: bytes, target: bytes, metadata: Mapping[str, str] | None) -> None:
    """Refuse a copy that changes nothing, as S3 does. Raises InvalidRequest."""
    if source == target and metadata is None:
        raise InvalidRequest("a copy onto itself changes nothing", source)
    check_metadata(metadata or NO_METADATA)


class WritableLake(Lake, Protocol):
    """An object store that can be written to. Everything may be called concurrently.

    All of it raises LakeDenied, LakeMissing, LakeUnavailable (L8), LakeProtocolError, and
    InvalidRequest for what this store cannot hold or do (a `Storage`, where it has none of that),
    in addition to what each says.
    """

    limits: WriteLimits

    async def put(
        self,
        key: bytes,
        content: Content,
        crc64nvme: int,
        *,
        metadata: Mapping[str, str] = NO_METADATA,
        content_type: str = "",
        storage: Storage = AS_USUAL,
        condition: Condition = ALWAYS,
    ) -> Written:
        """Store *content*, whose checksum the caller knows, in one request.

        A key that ends in ``/`` is the marker of a directory; a store that has directories makes
        one, and holds no content there. Raises PreconditionFailed, IntegrityError.
        """

    async def begin_upload(
        self,
        key: bytes,
        *,
        metadata: Mapping[str, str] = NO_METADATA,
        content_type: str = "",
        storage: Storage = AS_USUAL,
    ) -> Upload:
        """Begin an upload in parts: nothing of it shows at *key* until it is completed."""

    async def put_part(
        self, upload: Upload, number: int, content: FileRange, crc64nvme: int
    ) -> Part:
        """Store one part; a part of the same number is replaced. Raises IntegrityError, NotFound if
        the upload is gone."""

    async def complete_upload(
        self,
        upload: Upload,
        parts: Sequence[Part],
        crc64nvme: int,
        size: int,
        *,
        condition: Condition = ALWAYS,
    ) -> Written:
        """Make the object of *parts*, in the order of their numbers, which is *size* bytes with
        that checksum. Other parts of the upload are dropped.

        Raises PreconditionFailed (the upload is still there), IntegrityError, InvalidRequest for
        parts that the store does not have like this, and NotFound if the upload is gone or of no
        use any more: settle whether it was completed (L8), abort it, and begin anew.
        """

    async def abort_upload(self, upload: Upload) -> None:
        """Drop an upload and its parts. One that is gone is no error."""

    async def list_uploads(self, prefix: bytes) -> list[Upload]:
        """All uploads in progress of keys that begin with *prefix*, by whomever."""

    async def list_parts(self, upload: Upload) -> list[Part]:
        """All parts that the store has, by number. Raises NotFound if the upload is gone."""

    async def delete(self, key: bytes, *, condition: Condition = ALWAYS) -> None:
        """Delete what is at *key*. Nothing there is no error, whatever the condition.

        A directory's marker goes where the directory is empty; otherwise there is none. Raises
        PreconditionFailed; InvalidRequest for a condition of absence.
        """

    async def copy(
        self,
        source: bytes,
        version: Version,
        target: bytes,
        *,
        metadata: Mapping[str, str] | None = None,
        storage: Storage = AS_USUAL,
        condition: Condition = ALWAYS,
    ) -> Written:
        """Copy that version of *source* within the store.

        *metadata* replaces the source's; None keeps it, which works up to
        `WriteLimits.single_put_bytes`. *condition* is about *target*. Raises PreconditionFailed,
        also where *source* holds another version or none.
        """
