"""The messages between control plane and native front, as bytes.

The byte tables stand in ``native/front/src/upcall/wire.rs``; ``tests/golden/upcalls`` holds both
sides to them. Nothing here waits, and nothing here knows what a message means.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import NamedTuple

from tierfs.cache.eviction import Victim
from tierfs.errors import InvalidRequest
from tierfs.lake.protocol import Checksum, Source
from tierfs.writeback.reading import OpenHandle

VERSION = 4
#: No message is longer; larger things go through the arena.
LONGEST = 64 << 10

REQUEST = Struct("<HHIQQQQIIQQ")
ANSWER = Struct("<HHIQQIIQ")
ATTRIBUTES = Struct("<QQqIII4x")
RULES = Struct("<QQqIIIIQQdI4x")
ENTRY_NAME = Struct("<H")
ACCESS = Struct("<QqII")
PARENT = Struct("<Q")
CHECKSUM = Struct("<I4xQ")
VICTIM = Struct("<QI4x")
EXTENT = Struct("<QQ")
FETCH = Struct("<QQQI4x")
FETCHED = Struct("<Q")
EVICTED = Struct("<QQ")
LIMIT = Struct("<Q")
INO = Struct("<Q")
FILLED = Struct("<Q")
TEXT_LENGTH = Struct("<H")
ADOPT = Struct("<QQ16sQ")
RENAMED = Struct("<Q16s16s")
SPACE = Struct("<QQ")
HANDLE = Struct("<QQI4x")
CALLER = Struct("<II")

FOREVER_NS = (1 << 64) - 1
#: A limit that is none.
UNLIMITED = (1 << 64) - 1
#: The count in an answer to ROOM that says: it is not worth what would have to go.
DECLINED = 1
#: In a request for room, in the place of the uid: what it is for, unless somebody reads it.
ROOM_AHEAD, ROOM_WARM_UP = 1, 2
#: In a READDIR, in the place of the uid: the front reads the index if it is told to.
MAY_LOOK = 1
#: The count in an answer to that which says: the index has all of the directory.
LISTED = (1 << 32) - 1
_ANSWER_BIT = 0x8000


class Ask(enum.IntEnum):
    """What the front asks or says. Values are on the wire; never renumber."""

    START = 1
    LOOKUP = 2
    GETATTR = 3
    CONFIRM = 4
    ROOM = 5
    GET = 6
    HEAD = 7
    READDIR = 8
    GETXATTR = 9
    CHANGE = 10
    ACCESSES = 11
    DONE = 13
    RELEASED = 14
    HANDLES = 15
    READLINK = 16
    LISTXATTR = 17


class Command(enum.IntEnum):
    """What the control plane says by itself. Values are on the wire; never renumber."""

    HELLO = 0x4001
    READY = 0x4002
    FORGET_ENTRY = 0x4003
    FORGET_CONTENT = 0x4004
    STATS = 0x4005
    SOURCE = 0x4006
    FETCH = 0x4007
    EVICT = 0x4008
    INVALIDATE = 0x4009
    RESIZE = 0x400A
    FILL = 0x400B
    ADOPT = 0x400C
    RENAMED = 0x400D
    SPACE = 0x400E


class AccessKind(enum.IntEnum):
    """What an access in ACCESSES was. Values are on the wire; never renumber."""

    #: The last handle of a file is closed.
    RELEASED = 2
    #: A file is in use until RELEASED.
    OPEN = 3
    #: An open run of a file begins.
    READ = 4
    #: An open or a read has waited for the lake.
    STALL = 5


class Access(NamedTuple):
    """One record of ACCESSES. *at_ns* is since the Unix epoch; *pid* is whose it was, 0 if that is
    not known. A STALL has its bytes in the place of *ino*, and how long it took in that of *at_ns*.
    """

    ino: int
    at_ns: int
    kind: AccessKind
    pid: int


class Request(NamedTuple):
    """One message of the front's. Fields that its kind does not use are 0."""

    ask: Ask
    session: int
    id: int
    ino: int
    offset: int
    size: int
    uid: int
    arena_at: int
    arena_length: int
    tail: bytes


def parse_request(message: bytes) -> Request:
    """Take a message apart. Raises InvalidRequest where it is none of this version."""
    if len(message) < REQUEST.size:
        raise InvalidRequest("read a message of the front", f"{len(message)} bytes")
    version, kind, length, *fields = REQUEST.unpack_from(message)
    if version != VERSION or length != len(message):
        raise InvalidRequest("read a message of the front", f"version {version}, {length} bytes")
    try:
        ask = Ask(kind)
    except ValueError:
        raise InvalidRequest("read a message of the front", f"kind {kind}") from None
    return Request._make((ask, *fields, message[REQUEST.size :]))


def pack_request(request: Request) -> bytes:
    """The message; what the front does."""
    ask, session, id_, ino, offset, size, uid, arena_at, arena_length, tail = request
    length = REQUEST.size + len(tail)
    head = REQUEST.pack(
        VERSION, ask, length, session, id_, ino, offset, size, uid, arena_at, arena_length
    )
    return head + tail


def pack_answer(
    request: Request, *, errno: int = 0, count: int = 0, ttl_s: float = 0.0, tail: bytes = b""
) -> bytes:
    """The answer to *request*."""
    return _pack(
        request.ask | _ANSWER_BIT, request.session, request.id, errno, count, to_ns(ttl_s), tail
    )


def pack_command(command: Command, session: int, id_: int, tail: bytes = b"") -> bytes:
    """A message that answers none."""
    return _pack(command, session, id_, 0, 0, 0, tail)


def _pack(
    kind: int, session: int, id_: int, errno: int, count: int, ttl_ns: int, tail: bytes
) -> bytes:
    length = ANSWER.size + len(tail)
    return ANSWER.pack(VERSION, kind, length, session, id_, errno, count, ttl_ns) + tail


def pack_rules(
    *,
    ttl_s: float,
    negative_ttl_s: float,
    directory_mtime_ns: int,
    uid: int,
    gid: int,
    umask: int,
    max_requests: int,
    memory: int,
    cache_limit: int | None,
    min_free: float,
    writes: bool,
    lake_directory: bytes,
) -> bytes:
    """The tail of HELLO."""
    head = RULES.pack(
        to_ns(ttl_s),
        to_ns(negative_ttl_s),
        directory_mtime_ns,
        uid,
        gid,
        umask,
        max_requests,
        memory,
        _limit(cache_limit),
        min_free,
        writes,
    )
    return head + lake_directory


def pack_source(source: Source | None) -> bytes:
    """The tail of SOURCE. It holds secrets: never to be shown."""
    if source is None:
        return b""
    texts = (
        source.scheme,
        source.host,
        str(source.port),
        source.path,
        source.region,
        source.access_key,
        source.secret_key,
        source.token,
        "".join(f"{name}: {value}\n" for name, value in source.headers),
        source.ca_bundle,
        str(source.connections),
        str(round(source.stall_s * 1000)),
    )
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    return b"".join(TEXT_LENGTH.pack(len(text)) + text for text in encoded)


def pack_checksum(checksum: Checksum) -> bytes:
    """A checksum, in answers."""
    return CHECKSUM.pack(checksum.kind, checksum.value)


def pack_victims(victims: Iterable[Victim]) -> bytes:
    """What is to be evicted: inode numbers, each with extents; one that goes whole has none."""
    packed = bytearray()
    for ino, extents in victims:
        if extents == ():
            continue  # Nothing of it, and not the whole.
        packed += VICTIM.pack(ino, len(extents or ()))
        for extent in extents or ():
            packed += EXTENT.pack(*extent)
    return bytes(packed)


def pack_fetch(ino: int, lo: int, hi: int, priority: int) -> bytes:
    """The tail of FETCH."""
    return FETCH.pack(ino, lo, hi, priority)


def pack_fill(inos: Iterable[int]) -> bytes:
    """The tail of FILL."""
    return b"".join(map(INO.pack, inos))


def pack_adopt(ino: int, size: int, identity: bytes, crc64nvme: int) -> bytes:
    """The tail of ADOPT."""
    return ADOPT.pack(ino, size, identity, crc64nvme)


def pack_renamed(ino: int, old: bytes, new: bytes) -> bytes:
    """The tail of RENAMED."""
    return RENAMED.pack(ino, old, new)


def pack_limit(limit_bytes: int | None) -> bytes:
    """The tail of RESIZE."""
    return LIMIT.pack(_limit(limit_bytes))


def _limit(limit_bytes: int | None) -> int:
    return UNLIMITED if limit_bytes is None else min(limit_bytes, UNLIMITED - 1)


def unpack(layout: Struct, tail: bytes) -> tuple[int, ...]:
    """The fields of the front's answer to a command. Raises InvalidRequest."""
    if len(tail) != layout.size:
        raise InvalidRequest("read an answer of the front", f"{len(tail)} bytes")
    return layout.unpack(tail)


def pack_attributes(ino: int, size: int, mtime_ns: int, mode: int, uid: int, gid: int) -> bytes:
    """Attributes; *mode* has the kind in it."""
    return ATTRIBUTES.pack(ino, size, mtime_ns, mode, uid, gid)


def pack_entry(attributes: bytes, name: bytes) -> bytes:
    """A directory entry in the arena."""
    return attributes + ENTRY_NAME.pack(len(name)) + name


def accesses(tail: bytes) -> Iterator[Access]:
    """Those in the tail of ACCESSES; the ones of unknown kinds are left out."""
    for ino, at_ns, kind, pid in ACCESS.iter_unpack(tail[: len(tail) - len(tail) % ACCESS.size]):
        if kind in AccessKind.__members__.values():
            yield Access(ino, at_ns, AccessKind(kind), pid)


def handles(tail: bytes) -> list[OpenHandle]:
    """Those in the tail of HANDLES."""
    whole = tail[: len(tail) - len(tail) % HANDLE.size]
    return [
        OpenHandle(ino, unique, bool(writes)) for ino, unique, writes in HANDLE.iter_unpack(whole)
    ]


def to_ns(seconds: float) -> int:
    """Seconds as the wire has them: nanoseconds, all ones for ``inf``."""
    if math.isinf(seconds):
        return FOREVER_NS
    return min(max(int(seconds * 1e9), 0), FOREVER_NS - 1)
