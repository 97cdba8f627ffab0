"""The lake port: what tierfs asks of an object store, whichever it is.

Keys are ``bytes``, relative to the lake's root (the URL's prefix), ``/``-separated, never empty and
never normalised: ``a//b`` and ``a/../b`` are keys like any other. An implementation must not let
one reach outside its root.

Promises that every implementation keeps, and that ``tests/faults`` and the conformance suite hold
it to:

L1. ``get`` returns exactly the bytes asked for, of exactly the version asked for, or raises. A
    range answered 200, a short or long body, a ``Content-Range`` or ETag that differs: never
    returned.
L2. Transient faults (5xx, 429, reset, stall, time-out) are retried with jitter until the lake's
    deadline, then ``LakeUnavailable``. Permanent ones are raised at once.
L3. ``list_page`` chains give every entry exactly once if the store does not change meanwhile; with
    *start_after*, exactly those that sort after it. Where ``ordered``, they come in the order of
    their keys.
L4. Cancelling a call leaves nothing behind: no connection in an unknown state is used again.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

from tierfs.errors import InvalidRequest

if TYPE_CHECKING:
    from tierfs._listing import Page

#: What a lake sent, in its own memory or in that of a compiled client: not copied on the way.
Body: TypeAlias = "bytes | memoryview"


class ChecksumKind(enum.IntEnum):
    """A full-object checksum that the store keeps. Values are stored on disk; never renumber."""

    NONE = 0
    CRC64NVME = 1
    CRC32C = 2
    CRC32 = 3


@dataclass(frozen=True, slots=True)
class Checksum:
    """The checksum of a whole object. *value* is the unsigned integer, not its base64 form."""

    kind: ChecksumKind
    value: int


@dataclass(frozen=True, slots=True)
class Version:
    """What identifies one content of one key. Two versions are the same if and only if they are
    equal.

    *etag* is opaque, quotes included where the store gives them; *version_id* is empty where the
    store keeps no versions or the answer (a listing) does not tell.
    """

    etag: bytes
    version_id: bytes = b""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object, as a HEAD or a listing describes it."""

    key: bytes
    size: int
    mtime_ns: int
    version: Version
    archived: bool = False
    #: A full-object checksum exists in the store (its value comes with a HEAD or a whole GET).
    has_checksum: bool = False
    #: The checksum itself, when this answer carried it.
    checksum: Checksum | None = None
    #: What whoever wrote the object noted with it (``x-amz-meta-*``, names in lower case). None:
    #: this answer did not tell, as no listing does. Not part of what makes two of these equal.
    metadata: Mapping[str, str] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page of a listing. *prefixes* end with ``/`` and are empty when no delimiter was asked
    for."""

    objects: Sequence[ObjectInfo] = field(default_factory=list)
    prefixes: list[bytes] = field(default_factory=list)
    #: Opaque; pass it to the next ``list_page``. None: this was the last page.
    next_token: bytes | None = None
    #: Names the store has but cannot give as a key (a file lake's sockets, links that leave the
    #: root).
    unlistable: list[bytes] = field(default_factory=list)
    #: The same *objects*, where compiled code has read the page: they are made one by one then, as
    #: they are looked at.
    packed: Page | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class LakeIdentity:
    """What makes two mounts of the same lake the same lake.

    Fields are normalised by the implementation (no trailing ``/``, default ports removed).
    """

    scheme: str
    endpoint: str
    bucket: str
    prefix: str

    @property
    def lake_id(self) -> str:
        """Sixteen hexadecimal digits, the name of the lake's directory in a cache root."""
        text = "\0".join((self.scheme, self.endpoint, self.bucket, self.prefix))
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def __str__(self) -> str:
        path = "/".join(part for part in (self.bucket, self.prefix) if part)
        return f"{self.scheme}://{path}" if self.scheme != "file" else f"file:///{path.lstrip('/')}"


@dataclass(frozen=True, slots=True, repr=False)
class Source:
    """Where and as whom another process can GET the objects of a lake by itself. Its text shows no
    secret.

    An object's request target is *path*, which ends with ``/``, and its key, percent-encoded.
    *access_key* is empty for an anonymous lake, *token* where there is none, *ca_bundle* where the
    usual certificates are to be trusted. *headers* go with every GET (of a customer key, say).
    """

    scheme: str
    host: str
    port: int
    path: str
    region: str
    access_key: str
    secret_key: str
    token: str
    headers: tuple[tuple[str, str], ...]
    ca_bundle: str
    connections: int
    stall_s: float

    def __repr__(self) -> str:
        return f"Source({self.scheme}://{self.host}:{self.port}{self.path}, ...)"


@dataclass(slots=True)
class LakeCounters:
    """What went over the wire since the mount, retries included. Bytes are payload bytes."""

    get_requests: int = 0
    head_requests: int = 0
    list_requests: int = 0
    bytes_read: int = 0
    retries: int = 0
    slow_downs: int = 0
    #: PUTs and POSTs: objects, parts, copies, and what begins and completes an upload.
    put_requests: int = 0
    delete_requests: int = 0
    bytes_written: int = 0


def check_listing(prefix: bytes, token: bytes | None, start_after: bytes) -> None:
    """Refuse what no implementation of ``list_page`` is to be asked. Raises InvalidRequest."""
    if prefix and not prefix.endswith(b"/"):
        raise InvalidRequest("a listing's prefix ends with a slash", prefix)
    if start_after and (
        token is not None
        or not start_after.startswith(prefix)
        or start_after == prefix
        or b"/" in start_after[len(prefix) :]
    ):
        raise InvalidRequest("a listing starts after a name, and without a token", start_after)


class Lake(Protocol):
    """An object store. All methods may be called concurrently from one trio loop."""

    identity: LakeIdentity
    counters: LakeCounters
    #: Listings come in the order of their keys' bytes, a folded prefix at the place of its text: so
    #: one can be split into ranges.
    ordered: bool

    async def head(self, key: bytes, *, checksum: bool = False) -> ObjectInfo:
        """Describe one object; with *checksum* also ask for its full-object checksum.

        Raises NotFound, LakeDenied, LakeUnavailable, LakeArchived never (``archived`` tells).
        """

    async def list_page(
        self,
        prefix: bytes,
        *,
        token: bytes | None = None,
        max_keys: int = 1000,
        recursive: bool = False,
        start_after: bytes = b"",
    ) -> ListPage:
        """One page of the keys under *prefix* (``b""`` or ending in ``/``).

        Not *recursive*: one level, deeper keys fold into ``prefixes``. A prefix under which there
        is nothing gives an empty page, not an error.

        *start_after* begins a chain, so it goes without *token*, which remembers it: only objects
        and folded prefixes whose own text sorts strictly after it are given. It is *prefix* and a
        name without ``/``, or the stores differ: the keys below a folded prefix are then all on one
        side of it. (Amazon S3 promises this for CommonPrefixes as well as for keys, and ignores
        ``start-after`` where there is a token: API reference, ListObjectsV2.)

        Raises InvalidRequest, LakeMissing, LakeDenied, LakeUnavailable.
        """

    async def get(self, key: bytes, version: Version, offset: int, length: int) -> Body:
        """Exactly *length* bytes (> 0) at *offset* of that version.

        Raises PreconditionFailed when the key now holds another version or none, LakeArchived,
        LakeDenied, LakeUnavailable, LakeProtocolError.
        """

    async def get_whole(
        self, key: bytes, version: Version, size: int, *, checksum: bool = True
    ) -> tuple[Body, Checksum | None]:
        """All *size* bytes (>= 0) of that version in one request, and its full-object checksum if
        the answer carried one. The caller compares it. Raises as ``get``.

        Without *checksum* (the object is known to have none) the answer's is not looked for, which
        lets a lake take its cheapest way.
        """

    async def source(self) -> Source | None:
        """Where another process can read the objects by itself, with credentials that are good for
        some minutes at least; None where it has to ask here.

        Raises LakeDenied, LakeUnavailable, ConfigError.
        """

    async def source_changed(self) -> None:
        """Wait until `source`, called once before, is known to give something else. What merely
        expires does not end the wait: ask again now and then."""

    async def check(self, *, allow_empty: bool = False) -> None:
        """Prove that the lake can be reached, listed and read with these credentials, or raise why
        not.

        A prefix under which there is nothing is LakeMissing unless *allow_empty*.
        """

    async def aclose(self) -> None:
        """Release connections. No call may be in flight."""
