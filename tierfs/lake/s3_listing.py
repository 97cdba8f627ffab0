"""A streaming parser for ListObjectsV2 answers.

botocore builds a tree, walks it with the service model and makes a dictionary for each key: 118 us
a key. This one lets expat call back and makes `ObjectInfo` directly (about 10 us a key), and still
reads XML as XML: entities, comments, namespaces, CDATA, elements it does not know, in any order.

Keys are asked for with ``encoding-type=url``, because XML 1.0 cannot spell every key. AWS encodes a
space as ``+`` then (and ``+`` as ``%2B``); servers that write ``%20`` are read all the same. A
server that ignores the parameter does not echo ``EncodingType``, and its keys are taken as they
are.
"""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from urllib.parse import unquote_to_bytes
from xml.parsers import expat

from tierfs.errors import LakeProtocolError
from tierfs.lake.protocol import ListPage, ObjectInfo, Version

_ARCHIVE_CLASSES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
#: The algorithms of `tierfs.lake.protocol.ChecksumKind`.
_USABLE_CHECKSUMS = frozenset({"CRC64NVME", "CRC32C", "CRC32"})
#: The fields of one object or prefix that are read; text of other elements is not even collected.
_FIELDS = frozenset(
    {"Key", "Size", "LastModified", "ETag", "StorageClass", "ChecksumType", "ChecksumAlgorithm"}
)
_PAGE_FIELDS = frozenset({"EncodingType", "IsTruncated", "NextContinuationToken"})


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


class ListingParser:
    """Feed it the body of one answer, then take the page. Not for reuse.

    *prefix* is the lake's root with its ``/``: keys are given relative to it, and one that does not
    start with it is a lie of the server's.
    """

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._path: list[str] = []
        self._text: list[str] = []
        self._collect = False
        self._fields: dict[str, str] = {}
        self._algorithms: list[str] = []
        self._raw_objects: list[tuple[dict[str, str], list[str]]] = []
        self._raw_prefixes: list[str] = []
        self._page_fields: dict[str, str] = {}
        self._complete = False
        self._parser = parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._data
        parser.StartDoctypeDeclHandler = self._doctype

    def feed(self, chunk: bytes) -> None:
        """Take the next piece of the body. Raises LakeProtocolError."""
        try:
            self._parser.Parse(chunk, False)
        except expat.ExpatError as error:
            raise LakeProtocolError("a listing is not well-formed XML", "", str(error)) from None

    def finish(self, asked_token: bytes | None = None) -> ListPage:
        """The page, after the last piece. *asked_token* is what this page was asked for with.

        Raises LakeProtocolError for anything cut short or contradictory.
        """
        try:
            self._parser.Parse(b"", True)
        except expat.ExpatError as error:
            raise LakeProtocolError("a listing ends early", "", str(error)) from None
        finally:
            # The handlers are bound methods: without this, page and parser wait for the collector.
            self._parser.StartElementHandler = None
            self._parser.EndElementHandler = None
            self._parser.CharacterDataHandler = None
            self._parser.StartDoctypeDeclHandler = None
        if not self._complete:
            raise LakeProtocolError("an answer is not a listing")
        encoded = self._page_fields.get("EncodingType", "").strip().lower() == "url"
        objects = []
        for fields, algorithms in self._raw_objects:
            found = self._object(fields, algorithms, encoded)
            if found is not None:
                objects.append(found)
        prefixes = [self._relative(raw, encoded) for raw in self._raw_prefixes]
        return ListPage(objects, prefixes, self._next_token(asked_token))

    def _next_token(self, asked_token: bytes | None) -> bytes | None:
        truncated = self._page_fields.get("IsTruncated", "").strip().lower()
        if truncated not in ("true", "false"):
            raise LakeProtocolError("a listing does not say whether it is complete")
        if truncated == "false":
            return None
        token = self._page_fields.get("NextContinuationToken", "").encode("utf-8")
        if not token or token == asked_token:
            raise LakeProtocolError("a listing says that more follows and not how to go on")
        return token

    def _object(
        self, fields: dict[str, str], algorithms: list[str], encoded: bool
    ) -> ObjectInfo | None:
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
            fields.get("ChecksumType") == "FULL_OBJECT"
            and not _USABLE_CHECKSUMS.isdisjoint(algorithms),
        )

    def _relative(self, raw: str, encoded: bool) -> bytes:
        if encoded and ("%" in raw or "+" in raw):
            key = unquote_to_bytes(raw.replace("+", " "))
        else:
            key = raw.encode("utf-8")
        if not key.startswith(self._root):
            raise LakeProtocolError("a listing holds a key outside its prefix", key)
        return key[len(self._root) :]

    # What expat calls. Depth 1 is ListBucketResult, 2 its fields, 3 those of Contents and
    # CommonPrefixes.

    def _start(self, name: str, _attributes: dict[str, str]) -> None:
        path = self._path
        if not path and _local(name) != "ListBucketResult":
            raise LakeProtocolError("an answer is not a listing", _local(name))
        name = name if ":" not in name else _local(name)
        path.append(name)
        depth = len(path)
        if depth == 3:
            parent = path[1]
            self._collect = (parent == "Contents" and name in _FIELDS) or (
                parent == "CommonPrefixes" and name == "Prefix"
            )
        elif depth == 2:
            if name == "Contents":
                self._fields = {}
                self._algorithms = []
                self._collect = False
            else:
                self._collect = name in _PAGE_FIELDS
        else:
            self._collect = False
        if self._collect:
            self._text.clear()

    def _data(self, text: str) -> None:
        if self._collect:
            self._text.append(text)

    def _end(self, _name: str) -> None:
        path = self._path
        name = path.pop()
        depth = len(path)
        if depth == 2:
            if self._collect:
                text = self._text[0] if len(self._text) == 1 else "".join(self._text)
                if path[1] == "CommonPrefixes":
                    self._raw_prefixes.append(text)
                elif name == "ChecksumAlgorithm":
                    self._algorithms.append(text)
                else:
                    self._fields[name] = text
        elif depth == 1:
            if name == "Contents":
                self._raw_objects.append((self._fields, self._algorithms))
            elif self._collect:
                self._page_fields[name] = "".join(self._text)
        elif depth == 0:
            self._complete = True
        self._collect = False

    def _doctype(self, *_details: object) -> None:
        # No listing has one, and entities of a document's own are how XML parsers are attacked.
        raise LakeProtocolError("a listing declares a document type")


def _local(name: str) -> str:
    """*name* without its namespace prefix."""
    return name.rpartition(":")[2]
