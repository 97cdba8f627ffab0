"""What whoever wrote an object noted with it: mode, owner, time, and whether it is a link.

No listing tells that, so each object costs a HEAD when it is first listed, which is worth it where
there are checkpoints and not where there are millions of samples: only in the directories that the
option ``read_metadata`` names. What the index knows is not asked for again before the object
changes, by its version or, as long as the mount lasts, by the lake's time, or somebody refreshes.

The words are those of s3fs (``mode``: decimal st_mode; ``uid``, ``gid``), of rclone (``mtime``:
seconds with a fraction; with ``--metadata`` ``mode`` in octal with a leading zero, and ``mtime`` as
RFC 3339), and of tierfs, which writes the former. What is not understood is passed over.
"""

from __future__ import annotations

import logging
import re
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import trio

from tierfs.errors import NotFound, TierfsError, show
from tierfs.index.records import Kind
from tierfs.lake.protocol import Lake, ObjectInfo
from tierfs.namespace.keys import PageNames

if TYPE_CHECKING:
    from tierfs.namespace.entries import Known

_log = logging.getLogger(__name__)

#: HEADs for one page of a listing at one time.
HEADS_AT_ONCE = 32
#: Objects whose metadata is remembered, for listings that come again: 300 bytes each.
REMEMBERED = 65_536

_NS = 1_000_000_000
_KINDS = {stat.S_IFREG: Kind.FILE, stat.S_IFDIR: Kind.DIRECTORY, stat.S_IFLNK: Kind.SYMLINK}
_MTIME = re.compile(r"(-?)([0-9]{1,11})(?:\.([0-9]{1,9})[0-9]*)?")
_ID = re.compile(r"[0-9]{1,10}")
#: (uid_t) -1 means "nobody is named" to chown(2).
_NO_ID = (1 << 32) - 1

Metadata = Mapping[str, str]


class Described(NamedTuple):
    """*mode* has the permission bits, 0: not noted; *uid*, *gid* are -1 and *mtime_ns* is None
    where they are not."""

    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime_ns: int | None


def described(metadata: Metadata | None, kind: Kind) -> Described | None:
    """What *metadata* says of what a listing shows as *kind*; None if that is nothing. A file may
    turn out to be a link; otherwise the listing knows better what it is."""
    if not metadata:
        return None
    mode, mtime_ns = _mode_of(metadata.get("mode", "")), _mtime_of(metadata.get("mtime", ""))
    if mode is None and mtime_ns is None:
        return None
    noted = _KINDS.get(stat.S_IFMT(mode or 0))
    if kind is Kind.FILE and noted is Kind.SYMLINK:
        kind = Kind.SYMLINK
    if mode is None:
        return Described(kind, 0, -1, -1, mtime_ns)
    # No permissions at all would be the mount's own: whoever owns it may change them.
    bits = stat.S_IMODE(mode) or stat.S_ISVTX
    uid, gid = (_id_of(metadata.get(name, "")) for name in ("uid", "gid"))
    return Described(kind, bits, uid, gid, mtime_ns)


def _mode_of(text: str) -> int | None:
    if not text.isascii() or not text.isdecimal() or len(text) > 11:
        return None
    try:
        mode = int(text, 8 if text.startswith("0") else 10)
    except ValueError:
        return None
    return mode if mode <= 0o177777 else None


def _id_of(text: str) -> int:
    number = int(text) if _ID.fullmatch(text) else _NO_ID
    return number if number < _NO_ID else -1


def _mtime_of(text: str) -> int | None:
    match = _MTIME.fullmatch(text)
    if match is not None:
        ns = int(match[2]) * _NS + int((match[3] or "").ljust(9, "0"))
        return -ns if match[1] else ns
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    if when.tzinfo is None:
        return None
    whole = when.astimezone(UTC).replace(microsecond=0)
    fraction = re.search(r"\.([0-9]{1,9})", text)
    return int(whole.timestamp()) * _NS + int((fraction[1] if fraction else "").ljust(9, "0"))


def within(directories: Iterable[bytes]) -> Callable[[bytes], bool]:
    """Whether a path is one of *directories*, or in one; ``b""`` is the root."""
    tops = tuple(directories)
    if b"" in tops:
        return lambda path: True
    inside = tuple(top + b"/" for top in tops)
    return lambda path: (path + b"/").startswith(inside)


class Describer:
    """Asks *lake* for the metadata of objects in the directories that *wanted* says, by their
    paths."""

    def __init__(self, lake: Lake, wanted: Callable[[bytes], bool]) -> None:
        self._lake = lake
        self._wanted = wanted
        #: By key and ETag: the lake's time of the object, and what is noted. Of a directory's
        #: marker neither ETag nor time is known.
        self._known: OrderedDict[tuple[bytes, bytes], tuple[int, Metadata | None]] = OrderedDict()
        #: Prefixes below which everything is asked for.
        self._anew: list[bytes] = []

    def wants(self, prefix: bytes) -> bool:
        """Whether the metadata of what is directly below *prefix* (``b""`` or ending in ``/``) is
        asked for."""
        return self._wanted(prefix[:-1])

    @contextmanager
    def anew(self, prefix: bytes) -> Iterator[None]:
        """In the body what is below *prefix* is asked for, whatever is known: something else may
        have been noted with the same bytes."""
        for known in [known for known in self._known if known[0].startswith(prefix)]:
            del self._known[known]
        self._anew.append(prefix)
        try:
            yield
        finally:
            self._anew.remove(prefix)

    async def describe(
        self, prefix: bytes, names: PageNames, known: Callable[[bytes], Known | None]
    ) -> None:
        """Add to *names*, of a listing of *prefix*, what is noted with them, as far as the index
        does not know it (*known*, by name). What the lake refuses to say is left out, for the next
        listing to ask."""
        if not self.wants(prefix):
            return
        limit = trio.CapacityLimiter(HEADS_AT_ONCE)

        async def file(name: bytes, info: ObjectInfo) -> None:
            async with limit:
                names.files[name] = await self._file(info)

        async def directory(name: bytes) -> None:
            async with limit:
                names.directories[name] = await self.directory(prefix + name + b"/")

        async with trio.open_nursery() as nursery:
            for name, info in list(names.files.items()):
                key = info.key, info.version.etag
                if self._is_known(key, info.mtime_ns, known(name)):
                    names.files[name] = replace(info, metadata=self._recall(key))
                else:
                    nursery.start_soon(file, name, info)
            for name in list(names.directories):
                key = prefix + name + b"/", b""
                if self._is_known(key, 0, known(name)):
                    names.directories[name] = self._recall(key)
                else:
                    nursery.start_soon(directory, name)

    def _is_known(self, key: tuple[bytes, bytes], mtime_ns: int, known: Known | None) -> bool:
        """Whether it need not be asked for; then it can be recalled."""
        remembered = self._known.get(key)
        if remembered is not None:
            return remembered[0] == mtime_ns
        if known is None or not known.inode.mode or key[0].startswith(tuple(self._anew)):
            return False
        etag = known.ref.version.etag if known.ref is not None else b""
        if etag != key[1]:
            return False
        # An earlier mount was told, or has written it.
        self._remember(key, mtime_ns, None)
        return True

    async def _file(self, info: ObjectInfo) -> ObjectInfo:
        """*info* with its metadata, or what is at its key by now."""
        found = await self._ask(info.key)
        if found is None:
            return info
        if found.version.etag != info.version.etag:
            return found
        # The listing's own words for the rest: a HEAD tells the time in seconds.
        self._remember((info.key, info.version.etag), info.mtime_ns, found.metadata)
        return replace(info, metadata=found.metadata)

    async def directory(self, key: bytes) -> Metadata | None:
        """What is noted with the marker *key*, which ends in ``/``, if there is one."""
        if not self.wants(key[: key.rfind(b"/", 0, -1) + 1]):
            return None
        try:
            metadata = (await self._lake.head(key)).metadata
        except NotFound:
            metadata = None
        except TierfsError as error:
            _log.info("what is noted with %s is not known: %s", show(key), error)
            return None
        self._remember((key, b""), 0, metadata)
        return metadata

    async def _ask(self, key: bytes) -> ObjectInfo | None:
        try:
            return await self._lake.head(key)
        except TierfsError as error:
            _log.info("what is noted with %s is not known: %s", show(key), error)
            return None

    def _recall(self, key: tuple[bytes, bytes]) -> Metadata | None:
        self._known.move_to_end(key)
        return self._known[key][1]

    def _remember(self, key: tuple[bytes, bytes], mtime_ns: int, metadata: Metadata | None) -> None:
        self._known[key] = mtime_ns, metadata
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
