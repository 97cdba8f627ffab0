"""Pages of a local directory, from iterators that stay open between pages.

A directory has no order to continue from, so a continuation is an open iterator, kept in a bounded
table under its token. A token also says how many entries went before it, and which are passed over
for their names: when its iterator is gone (too many others, a restart), the directory is read anew
and that many entries are passed over.
Local file systems give an unchanged directory in an unchanged order, which is what promise L3 asks
for.

Blocking; thread-safe.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator

from tierfs.errors import InvalidRequest
from tierfs.lake.local_files import INCOMING
from tierfs.lake.protocol import ListPage, ObjectInfo, Version

#: Each open iterator holds a descriptor for every level it is in.
_MOST_OPEN = 64

#: One entry found: an object, a prefix, or a name that cannot be a key.
_Entry = ObjectInfo | bytes | tuple[bytes]


def _key(entry: _Entry) -> bytes:
    if isinstance(entry, ObjectInfo):
        return entry.key
    return entry if isinstance(entry, bytes) else entry[0]


def version_of(status: os.stat_result) -> Version:
    """The version that a stat names."""
    fields = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns)
    return Version("-".join(f"{field:x}" for field in fields).encode("ascii"))


class LocalListings:
    """The continuations of one local lake.

    *open_directory* gives a descriptor of a prefix; *link_target* the key a link leads to, or None.
    """

    def __init__(
        self,
        open_directory: Callable[[bytes], int],
        link_target: Callable[[bytes], bytes | None],
        *,
        most_open: int = _MOST_OPEN,
    ) -> None:
        self._open_directory = open_directory
        self._link_target = link_target
        self._most_open = most_open
        self._lock = threading.Lock()
        self._open: OrderedDict[bytes, _Walk] = OrderedDict()
        self._next_id = 0
        self._closed = False

    def page(
        self,
        prefix: bytes,
        token: bytes | None,
        max_keys: int,
        recursive: bool,
        start_after: bytes,
    ) -> ListPage:
        """One page. Raises OSError if the directory cannot be read."""
        walk = self._take(prefix, token, recursive, start_after)
        objects: list[ObjectInfo] = []
        page = ListPage(objects)
        try:
            for entry in walk.entries:
                walk.position += 1
                if isinstance(entry, ObjectInfo):
                    objects.append(entry)
                elif isinstance(entry, bytes):
                    page.prefixes.append(entry)
                else:
                    page.unlistable.append(entry[0])
                if len(page.objects) + len(page.prefixes) + len(page.unlistable) >= max_keys:
                    token = self._keep(walk)
                    return ListPage(page.objects, page.prefixes, token, page.unlistable)
        except BaseException:
            walk.close()
            raise
        walk.close()
        return page

    def _take(
        self, prefix: bytes, token: bytes | None, recursive: bool, start_after: bytes
    ) -> _Walk:
        if token is None:
            return _Walk(self, prefix, recursive, start_after)
        position, _, rest = token.partition(b":")
        try:
            start_after = bytes.fromhex(rest.partition(b":")[2].decode("ascii"))
        except ValueError:
            position = b""
        if not position.isdigit():
            raise InvalidRequest("not a listing's token", token)
        with self._lock:
            walk = self._open.pop(token, None)
        if walk is not None:
            if walk.prefix == prefix and walk.recursive == recursive:
                return walk
            walk.close()
        walk = _Walk(self, prefix, recursive, start_after)
        try:
            while walk.position < int(position) and next(walk.entries, None) is not None:
                walk.position += 1
        except BaseException:
            walk.close()
            raise
        return walk

    def _keep(self, walk: _Walk) -> bytes:
        evicted = None
        with self._lock:
            self._next_id += 1
            token = b"%d:%d-%d" % (walk.position, os.getpid(), self._next_id)
            if walk.start_after:
                token += b":" + walk.start_after.hex().encode("ascii")
            if self._closed:
                evicted = walk
            else:
                self._open[token] = walk
                if len(self._open) > self._most_open:
                    _, evicted = self._open.popitem(last=False)
        if evicted is not None:
            evicted.close()
        return token

    def close(self) -> None:
        """Close every iterator; pages still work, and keep nothing open."""
        with self._lock:
            self._closed = True
            walks = list(self._open.values())
            self._open.clear()
        for walk in walks:
            walk.close()

    def walk(self, prefix: bytes, recursive: bool, start_after: bytes) -> Iterator[_Entry]:
        """Every entry under *prefix* that sorts after *start_after*, depth first. An empty
        directory is listed as its own marker (``dir/``, as object stores keep one), so that whoever
        asks for it learns that it exists."""
        fd = self._open_directory(prefix)
        try:
            empty = prefix != b""
            with os.scandir(fd) as entries:
                for entry in entries:
                    empty = False
                    # scandir of a descriptor gives str; fsencode gives back the bytes that were
                    # there.
                    key = prefix + os.fsencode(entry.name)
                    if key == INCOMING:
                        continue
                    if key + b"/" <= start_after:
                        continue
                    found = self._describe(key, entry, recursive)
                    if key <= start_after:  # The directory would be after it, the file is not.
                        found = (e for e in found if _key(e) > start_after)
                    yield from found
            if empty and prefix > start_after:
                status = os.fstat(fd)
                yield ObjectInfo(prefix, 0, status.st_mtime_ns, version_of(status))
        finally:
            os.close(fd)

    def _describe(self, key: bytes, entry: os.DirEntry[str], recursive: bool) -> Iterator[_Entry]:
        try:
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                target = self._link_target(key)
                if target is None:
                    yield (key,)
                    return
                status = entry.stat()
                if stat.S_ISDIR(status.st_mode):
                    yield (key,)
                    return
        except FileNotFoundError:
            if entry.is_symlink():
                yield (key,)  # A dangling link; anything else has gone since it was listed.
            return
        except OSError:
            yield (key,)
            return
        if stat.S_ISDIR(status.st_mode):
            if recursive:
                yield from self._deeper(key + b"/")
            else:
                yield key + b"/"
        elif stat.S_ISREG(status.st_mode):
            yield ObjectInfo(key, status.st_size, status.st_mtime_ns, version_of(status))
        else:
            yield (key,)

    def _deeper(self, prefix: bytes) -> Iterator[_Entry]:
        try:
            yield from self.walk(prefix, True, b"")
        except (PermissionError, FileNotFoundError, NotADirectoryError):
            yield (prefix,)


class _Walk:
    """An iterator in progress: what it lists and how many entries it has given."""

    def __init__(
        self, listings: LocalListings, prefix: bytes, recursive: bool, start_after: bytes
    ) -> None:
        self.prefix = prefix
        self.recursive = recursive
        self.start_after = start_after
        self.position = 0
        self.entries = listings.walk(prefix, recursive, start_after)

    def close(self) -> None:
        close = getattr(self.entries, "close", None)
        if close is not None:
            close()
