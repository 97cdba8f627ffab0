"""What an S3 answer means: its headers as an `ObjectInfo`, its error as one of ours.

Pure functions of what was received; `tierfs.lake.s3` decides what to do about it.
"""

from __future__ import annotations

import base64
import binascii
import re
from email.utils import parsedate_to_datetime

from tierfs.errors import (
    InvalidRequest,
    LakeArchived,
    LakeDenied,
    LakeMissing,
    LakeProtocolError,
    NotFound,
    PreconditionFailed,
)
from tierfs.lake.protocol import Checksum, ChecksumKind, ObjectInfo, Version
from tierfs.lake.retry import OtherVersion, Transient
from tierfs.lake.s3_listing import normal_etag
from tierfs.lake.s3_signed import Answer

_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,100})</Code>")
_MESSAGE = re.compile(rb"<Message>([^<]{1,300})</Message>")
_REGION = re.compile(rb"<Region>([a-z0-9-]{1,40})</Region>")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_SLOW_CODES = frozenset({"SlowDown", "TooManyRequests", "ThrottlingException", "Throttling"})
_TRANSIENT_CODES = frozenset(
    {"IncompleteBody", "InternalError", "OperationAborted", "RequestTimeout", "ServiceUnavailable"}
)
_TRANSIENT_STATUS = frozenset({408, 500, 502, 503, 504, 509})
_RENEWABLE_CODES = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidToken",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)
_METADATA = "x-amz-meta-"
#: The content is not what its checksum or the signature says.
_MISMATCH_CODES = frozenset(
    {"BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"}
)
#: What will be refused however often it is asked.
_INVALID_CODES = frozenset(
    {
        "EntityTooLarge",
        "EntityTooSmall",
        "InvalidPart",
        "InvalidPartOrder",
        "KeyTooLongError",
        "MetadataTooLarge",
    }
)
_READING_NEEDS = "s3:ListBucket and s3:GetObject are needed (and kms:Decrypt)"
_WRITING_NEEDS = (
    "s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload, s3:ListBucketMultipartUploads and "
    "s3:ListMultipartUploadParts are needed (and kms:GenerateDataKey, kms:Decrypt)"
)
_ARCHIVE_CLASSES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
_CHECKSUM_HEADERS = (
    ("x-amz-checksum-crc64nvme", ChecksumKind.CRC64NVME, 8),
    ("x-amz-checksum-crc32c", ChecksumKind.CRC32C, 4),
    ("x-amz-checksum-crc32", ChecksumKind.CRC32, 4),
)


class OtherRegion(Exception):
    """The bucket is in *region*; ask there. Never leaves the lake."""

    def __init__(self, region: str) -> None:
        super().__init__(region)
        self.region = region


class Renewable(Exception):
    """Refused for credentials that may be out of date. *final* is what to raise if renewing is no
    help. Never leaves the lake."""

    def __init__(self, final: LakeDenied) -> None:
        super().__init__(str(final))
        self.final = final


class Gone(PreconditionFailed):
    """There was a condition on a version, and there is nothing."""


class Mismatched(Transient):
    """What the store received does not have the checksum that it was announced with."""


class Conflict(Transient):
    """Another write of the same key was under way: a condition could not be decided.
    (https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html)"""


class Undecided(Exception):
    """A cheap way failed, and only the signed one can explain it. Never leaves the lake."""


def error_code(answer: Answer) -> str:
    """The error's code; empty when the answer tells none (HEAD has no body)."""
    found = _CODE.search(answer.body)
    return found[1].decode("ascii") if found else ""


def to_error(
    answer: Answer,
    op: str,
    key: bytes,
    *,
    bucket: str,
    region: str,
    versioned: bool,
    writes: bool = False,
) -> Exception:
    """The exception that an answer from 300 up means.

    *versioned*: the request named a version (If-Match), so that a missing object is a failed
    precondition. *writes*: it takes other permissions than reading.
    """
    status, code = answer.status, error_code(answer)
    other = _other_region(answer, region)
    if other is not None and status in (301, 307, 400):
        return OtherRegion(other)
    if status == 429 or code in _SLOW_CODES:
        return Transient(f"the server asks to slow down ({status})", slow_down=True)
    if status in _TRANSIENT_STATUS or code in _TRANSIENT_CODES:
        return Transient(f"the server answered {status} {code}".rstrip(), slow_down=status == 503)
    if code == "NoSuchBucket":
        return LakeMissing("no such bucket", bucket, "check the URL, the endpoint and the account")
    if code == "InvalidObjectState":
        return LakeArchived("the object is archived", key, "restore it from its archive tier first")
    if code == "RequestTimeTooSkewed":
        return LakeDenied(op, key, "this machine's clock is wrong: synchronise it (NTP)")
    if code in _RENEWABLE_CODES or status == 401:
        hint = f"{code or 'HTTP 401'}: the credentials are expired or wrong; renew them"
        return Renewable(LakeDenied(op, key or bucket, hint))
    if status == 403:
        needs = _WRITING_NEEDS if writes else _READING_NEEDS
        return LakeDenied(op, key or bucket, f"{code or 'HTTP 403'}: {needs}")
    if code in _MISMATCH_CODES:
        return Mismatched(f"the server received another content ({code})")
    if code == "ConditionalRequestConflict":
        return Conflict(f"another write of the key is under way ({code})")
    if code == "NoSuchUpload":
        return NotFound("no such upload", key)
    if writes and code in _INVALID_CODES:
        return InvalidRequest(op, key, _describe(answer))
    if versioned and status == 404:
        return Gone("the object has changed", key, "it is gone")
    if status == 412 or (versioned and status == 416):
        return PreconditionFailed("the object has changed", key)
    if status == 404:
        return NotFound("no such object", key)
    return LakeProtocolError(op, key or bucket, _describe(answer))


def _describe(answer: Answer) -> str:
    message = _MESSAGE.search(answer.body)
    text = message[1].decode("utf-8", "replace") if message else ""
    return " ".join(f"HTTP {answer.status} {error_code(answer)} {text}".split())


def _other_region(answer: Answer, region: str) -> str | None:
    found = answer.headers.get("x-amz-bucket-region")
    if found is None:
        match = _REGION.search(answer.body)
        found = match[1].decode("ascii") if match else None
    return found if found is not None and found != region else None


def etag_of(answer: Answer, key: bytes) -> bytes:
    """The answer's ETag in its one spelling. Raises LakeProtocolError if there is none."""
    etag = answer.headers.get("etag")
    if not etag:
        raise LakeProtocolError("an answer has no ETag", key)
    return normal_etag(etag)


def length_of(answer: Answer, key: bytes) -> int:
    """The answer's Content-Length. Raises LakeProtocolError if there is none."""
    text = answer.headers.get("content-length", "")
    if not text.isascii() or not text.isdigit():
        raise LakeProtocolError("an answer has no length", key)
    return int(text)


def check_body(
    answer: Answer, key: bytes, etag: bytes, offset: int, length: int, *, ranged: bool
) -> None:
    """Promise L1: raise unless *answer* (status below 300) brings exactly these bytes of that
    version."""
    if answer.status != (206 if ranged else 200):
        what = "a range" if ranged else "a whole object"
        raise LakeProtocolError(f"{what} was answered with status {answer.status}", key)
    if etag_of(answer, key) != etag:
        raise OtherVersion("the object has changed", key)
    if ranged:
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
        if found is None or (int(found[1]), int(found[2]) + 1) != (offset, offset + length):
            raise LakeProtocolError("a range was answered with another one", key)
        if int(found[3]) < offset + length:
            raise LakeProtocolError("a range lies beyond the object's end", key)
    if length_of(answer, key) != length:
        raise LakeProtocolError("an answer has another length than asked for", key)


def checksum_of(answer: Answer, key: bytes) -> Checksum | None:
    """The full-object checksum that the answer carries. A composite one (of a multipart upload's
    parts) says nothing about the bytes as a whole, and is none."""
    if answer.headers.get("x-amz-checksum-type", "").upper() != "FULL_OBJECT":
        return None
    for name, kind, width in _CHECKSUM_HEADERS:
        text = answer.headers.get(name)
        if text is None:
            continue
        try:
            raw = base64.b64decode(text.strip(), validate=True)
        except binascii.Error:
            raw = b""
        if len(raw) != width:
            raise LakeProtocolError("a checksum is malformed", key)
        return Checksum(kind, int.from_bytes(raw, "big"))
    return None


def object_of(answer: Answer, key: bytes, full_key: bytes) -> ObjectInfo:
    """The object that a HEAD's answer describes."""
    if answer.status != 200:
        raise LakeProtocolError(f"a HEAD was answered with status {answer.status}", full_key)
    storage = answer.headers.get("x-amz-storage-class", "")
    # An archived object that has been restored reads like any other until the copy expires.
    restored = 'ongoing-request="false"' in answer.headers.get("x-amz-restore", "")
    # INTELLIGENT_TIERING objects can sit in archive tiers too; only this header tells.
    tier = answer.headers.get("x-amz-archive-status", "")
    checksum = checksum_of(answer, full_key)
    return ObjectInfo(
        key,
        length_of(answer, full_key),
        _mtime_ns(answer, full_key),
        Version(etag_of(answer, full_key)),
        archived=(storage in _ARCHIVE_CLASSES or bool(tier)) and not restored,
        has_checksum=checksum is not None,
        checksum=checksum,
        metadata=metadata_of(answer),
    )


def metadata_of(answer: Answer) -> dict[str, str]:
    """What whoever wrote the object noted with it."""
    return {
        name.lower()[len(_METADATA) :]: value
        for name, value in answer.headers.items()
        if name.lower().startswith(_METADATA)
    }


def _mtime_ns(answer: Answer, key: bytes) -> int:
    try:
        moment = parsedate_to_datetime(answer.headers.get("last-modified", ""))
        return int(moment.timestamp()) * 1_000_000_000
    except (TypeError, ValueError):
        raise LakeProtocolError("an answer has no time of modification", key) from None
