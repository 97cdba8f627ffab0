"""Parsers for ListObjectsV2 answers.

Where tierfs was built with Rust, compiled code (`tierfs._listing`) reads the answers that say
plainly what they say, as nearly all do, at 1 us a key and without making an object for each. The
others, and all where it is missing, are for the parser here.

botocore walks a tree with the service model and makes a dictionary for each key: 118 us a key. Here
the standard library makes the tree, without a line of Python (expat, C), and `ObjectInfo` is made
of it directly: about 8 us a key, two thirds of what handlers in Python for expat took. XML is read
as XML: entities, comments, namespaces, CDATA, elements that are not known, in any order. A page is
held as a tree until it has all been read: some 2 MB for 1,000 keys.

Keys are asked for with ``encoding-type=url``, because XML 1.0 cannot spell every key. AWS encodes a
space as ``+`` then (and ``+`` as ``%2B``); servers that write ``%20`` are read all the same. A
server that ignores the parameter does not echo ``EncodingType``, and its keys are taken as they
are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, overload
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree

from tierfs.errors import LakeProtocolError
from tierfs.lake.protocol import ListPage, ObjectInfo, Version

if TYPE_CHECKING:
    from tierfs._listing import Page

parse: Callable[[bytes, bytes, bytes | None], Page | None] | None
try:
    from tierfs._listing import INTERFACE, parse
except ImportError:
    parse = None
else:
    if INTERFACE != 2:  # Built from other sources than this.
        parse = None

_ARCHIVE_CLASSES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
#: The algorithms of `tierfs.lake.protocol.ChecksumKind`.
_USABLE_CHECKSUMS = frozenset({"CRC64NVME", "CRC32C", "CRC32"})
_DOCTYPE = b"<!DOCTYPE"
#: Far more than a thousand keys, with all that may be said of them.
MOST_BYTES = 64 << 20
#: What the parser raises; the others are about encodings that it does not have.
_NO_XML = (ElementTree.ParseError, LookupError, ValueError)


@functools.lru_cache(maxsize=4096)
def parse_timestamp(text: str) -> int:
    """Nanoseconds since the epoch of an ISO 8601 time, cut to whole seconds.

    A HEAD tells whole seconds only; both must give one object one time.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise LakeProtocolError("a listing holds a malformed time", text) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() // 1) * 1_000_000_000


def normal_etag(etag: str) -> bytes:
    """One spelling for an ETag: quoted, and strong. Some servers leave the quotes out of listings,
    and proxies that compress mark it weak."""
    etag = etag.strip()
    if etag.startswith("W/"):
        etag = etag[2:]
    if not (len(etag) >= 2 and etag[0] == etag[-1] == '"'):
        etag = f'"{etag}"'
    return etag.encode("utf-8")


class ListingReader:
    """Feed it the body of one answer, then take the page. Not for reuse. *root* is the lake's root
    with its ``/``."""

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._chunks: list[bytes] = []
        self._bytes = 0

    def feed(self, chunk: bytes) -> None:
        """Take the next piece of the body. Raises LakeProtocolError where that is too much."""
        self._chunks.append(chunk)
        self._bytes += len(chunk)
        if self._bytes > MOST_BYTES:
            raise LakeProtocolError("a listing has no end", "", f"{MOST_BYTES} bytes came of it")

    def finish(self, asked_token: bytes | None = None) -> ListPage:
        """As `ListingParser.finish`."""
        body = b"".join(self._chunks)
        page = None if parse is None else parse(body, self._root, asked_token)
        if page is not None:
            return ListPage(Objects(page), page.prefixes, page.next_token, packed=page)
        parser = ListingParser(self._root)
        parser.feed(body)
        return parser.finish(asked_token)


class Objects(Sequence[ObjectInfo]):
    """The objects of *page*, made as they are looked at."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def __len__(self) -> int:
        return len(self._page)

    def __eq__(self, other: object) -> bool:
        """As of a list of them."""
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, n: int) -> ObjectInfo: ...
    @overload
    def __getitem__(self, n: slice) -> list[ObjectInfo]: ...
    def __getitem__(self, n: int | slice) -> ObjectInfo | list[ObjectInfo]:
        if isinstance(n, slice):
            return [self[each] for each in range(*n.indices(len(self)))]
        if n < 0:
            n += len(self)
        key, size, mtime_ns, etag, archived, has_checksum = self._page.object(n)
        return ObjectInfo(key, size, mtime_ns, Version(etag), archived, has_checksum)


class ListingParser:
    """Feed it the body of one answer, then take the page. Not for reuse.

    *prefix* is the lake's root with its ``/``: keys are given relative to it, and one that does not
    start with it is a lie of the server's.
    """

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._parser = ElementTree.XMLParser()
        self._last = b""

    def feed(self, chunk: bytes) -> None:
        """Take the next piece of the body. Raises LakeProtocolError."""
        if _DOCTYPE in self._last + chunk:
            # No listing has one, and entities of a document's own are how XML parsers are attacked.
            raise LakeProtocolError("a listing declares a document type")
        self._last = chunk[-len(_DOCTYPE) :]
        try:
            self._parser.feed(chunk)
        except _NO_XML as error:
            raise LakeProtocolError("a listing is not well-formed XML", "", str(error)) from None

    def finish(self, asked_token: bytes | None = None) -> ListPage:
        """The page, after the last piece. *asked_token* is what this page was asked for with.

        Raises LakeProtocolError for anything cut short or contradictory.
        """
        try:
            page = self._parser.close()
        except _NO_XML as error:
            raise LakeProtocolError("a listing ends early", "", str(error)) from None
        if _local(page.tag) != "ListBucketResult":
            raise LakeProtocolError("an answer is not a listing", _local(page.tag))
        fields: dict[str, str] = {}
        contents, folded = [], []
        for element in page:
            name = _local(element.tag)
            if name == "Contents":
                contents.append(element)
            elif name == "CommonPrefixes":
                folded.append(element)
            else:
                fields[name] = element.text or ""
        encoded = fields.get("EncodingType", "").strip().lower() == "url"
        objects = [info for one in contents if (info := self._object(one, encoded)) is not None]
        prefixes = [
            self._relative(element.text or "", encoded)
            for one in folded
            for element in one
            if _local(element.tag) == "Prefix"
        ]
        return ListPage(objects, prefixes, _next_token(fields, asked_token))

    def _object(self, contents: ElementTree.Element, encoded: bool) -> ObjectInfo | None:
        fields: dict[str, str] = {}
        usable = False
        for element in contents:
            name = _local(element.tag)
            fields[name] = text = element.text or ""
            if name == "ChecksumAlgorithm" and text in _USABLE_CHECKSUMS:
                usable = True
            elif name == "Key" and len(element):
                raise LakeProtocolError("a listing holds a key with elements in it", text)
        try:
            key = self._relative(fields["Key"], encoded)
            if not key:
                return None  # The marker of the root itself: it has no name below it.
            size = int(fields["Size"])
            etag = fields["ETag"]
            mtime_ns = parse_timestamp(fields["LastModified"].strip())
        except (KeyError, ValueError) as error:
            hint = f"missing or malformed: {error}"
            raise LakeProtocolError("a listing describes an object badly", "", hint) from None
        if size < 0:
            raise LakeProtocolError("a listing holds a negative size", key)
        return ObjectInfo(
            key,
            size,
            mtime_ns,
            Version(normal_etag(etag)),
            fields.get("StorageClass", "") in _ARCHIVE_CLASSES,
            usable and fields.get("ChecksumType") == "FULL_OBJECT",
        )

    def _relative(self, raw: str, encoded: bool) -> bytes:
        if encoded and ("%" in raw or "+" in raw):
            key = unquote_to_bytes(raw.replace("+", " "))
        else:
            key = raw.encode("utf-8")
        if not key.startswith(self._root):
            raise LakeProtocolError("a listing holds a key outside its prefix", key)
        return key[len(self._root) :]


def _next_token(fields: dict[str, str], asked_token: bytes | None) -> bytes | None:
    truncated = fields.get("IsTruncated", "").strip().lower()
    if truncated not in ("true", "false"):
        raise LakeProtocolError("a listing does not say whether it is complete")
    if truncated == "false":
        return None
    token = fields.get("NextContinuationToken", "").encode("utf-8")
    if not token or token == asked_token:
        raise LakeProtocolError("a listing says that more follows and not how to go on")
    return token


@functools.lru_cache(maxsize=256)
def _local(tag: str) -> str:
    """*tag* without its namespace."""
    return tag.rpartition("}")[2].rpartition(":")[2]
