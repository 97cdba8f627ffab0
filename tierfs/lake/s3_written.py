"""What S3 is told by a write, and what it says of it: headers, parameters and documents.

Pure functions, as in `tierfs.lake.s3_answers`. Documents are known by what they must hold, not by
the names of their roots, which differ between servers (and which the AWS SDKs do not look at).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import TypeAlias
from urllib.parse import quote, unquote_to_bytes, urlencode
from xml.sax.saxutils import escape

from tierfs.errors import IntegrityError, LakeProtocolError
from tierfs.lake.protocol import Checksum, ChecksumKind, Version
from tierfs.lake.s3_answers import error_code, etag_of
from tierfs.lake.s3_listing import normal_etag, parse_timestamp
from tierfs.lake.s3_signed import Answer
from tierfs.lake.s3_xml import Element, parse
from tierfs.lake.writing import Condition, Part, Storage, Upload, Written, check_metadata

Query: TypeAlias = "list[tuple[str, str]]"

CHECKSUM_HEADER = "x-amz-checksum-crc64nvme"
_CHECKSUM_FIELD = "ChecksumCRC64NVME"

#: The status that an error has which is not found in a 200.
_STATUS = {
    "AccessDenied": 403,
    "BadDigest": 400,
    "ConditionalRequestConflict": 409,
    "EntityTooSmall": 400,
    "InvalidPart": 400,
    "InvalidPartOrder": 400,
    "NoSuchBucket": 404,
    "NoSuchKey": 404,
    "NoSuchUpload": 404,
    "PreconditionFailed": 412,
    "SlowDown": 503,
}


def named(upload: Upload) -> Query:
    """The query parameter that names an upload."""
    return [("uploadId", upload.upload_id.decode("utf-8"))]


def described(metadata: Mapping[str, str], content_type: str) -> dict[str, str]:
    """The headers that describe an object. Raises InvalidRequest."""
    check_metadata(metadata)
    headers = {f"x-amz-meta-{name}": value for name, value in metadata.items()}
    return {**headers, "content-type": content_type} if content_type else headers


def stored(storage: Storage) -> dict[str, str]:
    """The headers that say how an object is to be kept."""
    headers = {}
    if storage.storage_class:
        headers["x-amz-storage-class"] = storage.storage_class
    if storage.tags:
        headers["x-amz-tagging"] = urlencode(storage.tags, quote_via=quote)
    if storage.kms_key:
        headers["x-amz-server-side-encryption"] = "aws:kms"
        headers["x-amz-server-side-encryption-aws-kms-key-id"] = storage.kms_key
    return headers


def conditional(condition: Condition) -> dict[str, str]:
    """The headers of a write's condition."""
    if condition.absent:
        return {"If-None-Match": "*"}
    if condition.version is not None:
        return {"If-Match": condition.version.etag.decode("utf-8")}
    return {}


def spelled(crc64nvme: int) -> str:
    """A checksum as S3 writes it: eight bytes, the highest first, in base64."""
    return base64.b64encode(crc64nvme.to_bytes(8, "big")).decode("ascii")


def _read_checksum(text: str, key: bytes) -> int:
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        raw = b""
    if len(raw) != 8:
        raise LakeProtocolError("a checksum is malformed", key)
    return int.from_bytes(raw, "big")


def confirmed(text: str, crc64nvme: int, key: bytes) -> Checksum | None:
    """The checksum that an answer confirms with *text*; None where it says nothing.

    Raises IntegrityError where it is not the one that was sent (promise L7).
    """
    if not text:
        return None
    found = _read_checksum(text, key)
    if found != crc64nvme:
        hint = f"{spelled(crc64nvme)} was sent, {spelled(found)} is stored"
        raise IntegrityError("the store has stored something else", key, hint)
    return Checksum(ChecksumKind.CRC64NVME, found)


def put_of(answer: Answer, crc64nvme: int, key: bytes) -> Written:
    """What a PUT of an object has stored."""
    checksum = confirmed(answer.headers.get(CHECKSUM_HEADER, ""), crc64nvme, key)
    return Written(Version(etag_of(answer, key)), checksum, _mtime_ns(answer))


def _mtime_ns(answer: Answer) -> int:
    text = answer.headers.get("last-modified", "")
    try:
        return int(parsedate_to_datetime(text).timestamp()) * 1_000_000_000
    except (TypeError, ValueError):
        return 0


def part_of(answer: Answer, number: int, size: int, crc64nvme: int, key: bytes) -> Part:
    """What a PUT of a part has stored."""
    confirmed(answer.headers.get(CHECKSUM_HEADER, ""), crc64nvme, key)
    return Part(number, size, etag_of(answer, key), crc64nvme)


def embedded_error(answer: Answer) -> Answer | None:
    """The error that a 200 turned out to be, with the status that it would have had.

    S3 sends the status before it has done the work, so that the connection does not time out:
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html. The AWS SDKs
    take such an error for a 500, that is, they ask again; so do we for what is not known to be
    final.
    """
    if not answer.body.strip():
        return Answer(500, answer.headers, b"")
    root = parse(answer.body)
    if root.name != "Error":
        return None
    return Answer(_STATUS.get(error_code(answer), 500), answer.headers, answer.body)


def completed(answer: Answer, crc64nvme: int | None, key: bytes) -> Written:
    """What the completion of an upload has stored; no `embedded_error`. Without a checksum of ours
    there is none."""
    root = parse(answer.body)
    text = root.get(_CHECKSUM_FIELD) or answer.headers.get(CHECKSUM_HEADER, "")
    checksum = None if crc64nvme is None else confirmed(text, crc64nvme, key)
    return Written(_version(root, key), checksum, 0)


def copied(answer: Answer, key: bytes) -> Written:
    """What a copy has stored; no `embedded_error`. Its checksum is as the store says."""
    root = parse(answer.body)
    text = root.get(_CHECKSUM_FIELD)
    checksum = Checksum(ChecksumKind.CRC64NVME, _read_checksum(text, key)) if text else None
    modified = root.get("LastModified")
    return Written(_version(root, key), checksum, parse_timestamp(modified) if modified else 0)


def copied_part(answer: Answer, number: int, size: int, key: bytes) -> Part:
    """What a copy into a part has stored; no `embedded_error`."""
    root = parse(answer.body)
    text = root.get(_CHECKSUM_FIELD)
    crc = _read_checksum(text, key) if text else 0
    return Part(number, size, _version(root, key).etag, crc)


def begun(answer: Answer, key: bytes) -> bytes:
    """The id of an upload that was begun."""
    found = parse(answer.body).get("UploadId")
    if not found:
        raise LakeProtocolError("an upload has no id", key)
    return found.encode("utf-8")


def completion(parts: Sequence[Part]) -> bytes:
    """The document that completes an upload."""
    pieces = ['<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">']
    for part in parts:
        etag = escape(part.etag.decode("utf-8"))
        pieces.append(f"<Part><PartNumber>{part.number}</PartNumber><ETag>{etag}</ETag>")
        if part.crc64nvme:
            value = spelled(part.crc64nvme)
            pieces.append(f"<{_CHECKSUM_FIELD}>{value}</{_CHECKSUM_FIELD}>")
        pieces.append("</Part>")
    pieces.append("</CompleteMultipartUpload>")
    return "".join(pieces).encode("utf-8")


def parts_page(answer: Answer, key: bytes) -> tuple[list[Part], Query]:
    """One page of an upload's parts, and how to ask for the next; empty after the last."""
    root = parse(answer.body)
    parts = []
    for entry in root.all("Part"):
        text = entry.get(_CHECKSUM_FIELD)
        crc = _read_checksum(text, key) if text else 0
        try:
            number, size = int(entry.get("PartNumber")), int(entry.get("Size"))
        except ValueError:
            raise LakeProtocolError("a listing describes a part badly", key) from None
        parts.append(Part(number, size, normal_etag(entry.get("ETag")), crc))
    following = _marker(root, ("part-number-marker", "NextPartNumberMarker"))
    return parts, following


def uploads_page(answer: Answer, root_key: bytes) -> tuple[list[Upload], Query]:
    """One page of the uploads below *root_key*, and how to ask for the next."""
    root = parse(answer.body)
    encoded = root.get("EncodingType").lower() == "url"
    uploads = []
    for entry in root.all("Upload"):
        # Not `get`, which strips: a key may begin or end with a space where it is not encoded.
        key = next((child.text for child in entry.children if child.name == "Key"), "")
        full = unquote_to_bytes(key.replace("+", " ")) if encoded else key.encode("utf-8")
        upload_id = entry.get("UploadId").encode("utf-8")
        if not full.startswith(root_key) or not upload_id:
            raise LakeProtocolError("a listing describes an upload badly", full)
        began_ns = parse_timestamp(entry.get("Initiated"))
        if full != root_key:
            uploads.append(Upload(full[len(root_key) :], upload_id, began_ns))
    following = _marker(
        root, ("key-marker", "NextKeyMarker"), ("upload-id-marker", "NextUploadIdMarker")
    )
    if encoded:
        following = [
            (name, unquote_to_bytes(text.replace("+", " ")).decode("utf-8"))
            if name == "key-marker"
            else (name, text)
            for name, text in following
        ]
    return uploads, following


def _marker(root: Element, *names: tuple[str, str]) -> Query:
    truncated = root.get("IsTruncated").lower()
    if truncated not in ("true", "false"):
        raise LakeProtocolError("a listing does not say whether it is complete")
    if truncated == "false":
        return []
    found = [(query, root.get(field)) for query, field in names]
    if not found[0][1]:
        raise LakeProtocolError("a listing says that more follows and not how to go on")
    return [(query, text) for query, text in found if text]


def _version(root: Element, key: bytes) -> Version:
    etag = root.get("ETag")
    if not etag:
        raise LakeProtocolError("an answer has no ETag", key)
    return Version(normal_etag(etag))
