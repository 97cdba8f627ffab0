"""Random sequences of operations, a function of a seed alone.

The generator remembers roughly what exists, so that most operations find something. It never looks
at what they gave: a part of a sequence can be done again on its own.
"""

from __future__ import annotations

import os
import random
from collections.abc import Collection, Iterable, Iterator

from tests.writeback.kinds import chosen_kinds
from tests.writeback.operations import Op

SLOTS = 8
NAMES = (b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h")
ODD_NAMES = (b"new\nline", b"not-utf8-\xff\xfe", b"n" * 255, b"%2F+&?#", b"...", b" ")
TOO_LONG = b"n" * 256
MODES = (0o600, 0o644, 0o640, 0o755, 0o444)
XATTRS = ("user.a", "user.b", "user.long-name-of-an-attribute")
LINK_TEXTS = (*NAMES[:4], b"./a", b"nowhere", b"/nowhere/at/all", b"not-utf8-\xff")
#: The lake's longest key is 1,024 bytes, with the prefix of the mount.
_MAX_PATH = 600
_MAX_DEPTH = 4
_MANY_FILES = 30
_MANY_DIRECTORIES = 12
_PAGE = 4096


def operations(
    seed: int, *, without: Collection[str] = (), max_bytes: int = 256 << 10
) -> Iterator[Op]:
    """An endless sequence. No file is larger than about *max_bytes*."""
    weights = chosen_kinds(without)
    maker = _Maker(random.Random(seed), max_bytes, odd_names="odd_names" not in without)
    kinds, odds = list(weights), list(weights.values())
    while True:
        kind = maker.random.choices(kinds, odds)[0]
        yield getattr(maker, kind)()


class _Maker:
    """Makes operations, and keeps what would exist if each of them succeeded as it should."""

    def __init__(self, source: random.Random, max_bytes: int, *, odd_names: bool) -> None:
        self.random = source
        self.max_bytes = max_bytes
        self.odd_names = odd_names
        self.files: set[bytes] = set()
        #: With their texts.
        self.links: dict[bytes, bytes] = {}
        self.directories: set[bytes] = {b""}
        #: Slots in which something is probably open, and whether it can be written.
        self.used: dict[int, bool] = {}

    # Choosing.

    def slot(self, *, write: bool = False) -> int:
        """Mostly one in which something is open, in which it can be written if that is wanted."""
        fitting = sorted(slot for slot, writable in self.used.items() if writable or not write)
        if fitting and self.random.random() < 0.92:
            return self.random.choice(fitting)
        return self.random.randrange(SLOTS)

    def place(self) -> int:
        """An offset; often at the edge of a page or near the beginning."""
        if self.random.random() < 0.3:
            return self.random.randrange(self.max_bytes // _PAGE) * _PAGE
        limit = self.random.choice((_PAGE, self.max_bytes // 8, self.max_bytes))
        return self.random.randrange(limit)

    def amount(self) -> int:
        if self.random.random() < 0.3:
            return self.random.choice((0, 1, _PAGE, _PAGE - 1, _PAGE + 1, 16 * _PAGE))
        return self.random.randrange(1, min(self.max_bytes, 16 * _PAGE))

    def seed(self) -> int:
        return self.random.randrange(1 << 20)

    def time(self) -> int:
        """A moment between 2001 and 2020, to the nanosecond."""
        return self.random.randrange(10**18, 16 * 10**17)

    def old(self, *kinds: Iterable[bytes]) -> bytes:
        """A name that probably exists, sometimes any."""
        known = sorted(set().union(*(kinds or (self.files, self.links, self.directories))))
        if known and self.random.random() < 0.92:
            return self.random.choice(known)
        return self.new()

    def new(self) -> bytes:
        """A name in some directory; it may exist."""
        shallow = [path for path in self.directories if path.count(b"/") < _MAX_DEPTH - 2]
        parent = self.random.choice(sorted(shallow))
        name = self.random.choice(NAMES)
        if self.odd_names and self.random.random() < 0.1:
            name = self.random.choice(ODD_NAMES)
            if self.random.random() < 0.03:
                name = TOO_LONG
        path = parent + b"/" + name if parent else name
        return path if len(path) <= _MAX_PATH else self.random.choice(NAMES)

    def exists(self, path: bytes) -> bool:
        return path in self.files or path in self.links or path in self.directories

    def can_hold(self, path: bytes) -> bool:
        parent, slash, name = path.rpartition(b"/")
        return len(name) < 256 and (not slash or parent in self.directories)

    def below(self, path: bytes) -> set[bytes]:
        names = self.files | self.links.keys() | self.directories
        return {name for name in names if name.startswith(path + b"/")}

    def full(self) -> bool:
        return len(self.files) > _MANY_FILES

    # Open files.

    def open(self) -> Op:
        flags = self.random.choice((os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR, os.O_RDWR))
        fresh = self.random.random() < 0.5 and not self.full()
        path = self.new() if fresh else self.old(self.files, self.links)
        if fresh or self.random.random() < 0.2:
            flags |= os.O_CREAT
            if self.random.random() < 0.2:
                flags |= os.O_EXCL
        for flag, odds in (
            (os.O_TRUNC, 0.2 if flags & os.O_ACCMODE else 0),
            (os.O_APPEND, 0.15),
            (os.O_NOFOLLOW, 0.1),
            (os.O_SYNC, 0.03),
            (os.O_DSYNC, 0.03),
            (os.O_NONBLOCK, 0.03),
        ):
            if self.random.random() < odds:
                flags |= flag
        if self.random.random() < 0.04:
            path, flags = self.old(), os.O_RDONLY | os.O_DIRECTORY
        if flags & os.O_CREAT and not flags & (os.O_EXCL | os.O_NOFOLLOW):
            self._created(self._resolved(path))
        elif flags & os.O_CREAT:
            self._created(path)
        slot = self.random.randrange(SLOTS)
        if path in self.files or path in self.links:
            self.used[slot] = bool(flags & os.O_ACCMODE)
        return Op("open", (slot, path, flags, self.random.choice(MODES)))

    def _created(self, path: bytes) -> None:
        if self.can_hold(path) and not self.exists(path):
            self.files.add(path)

    def _resolved(self, path: bytes) -> bytes:
        """What a link stands for."""
        for _ in range(4):
            text = self.links.get(path)
            if text is None:
                break
            parent, slash, _ = path.rpartition(b"/")
            path = text if text.startswith(b"/") else parent + slash + text.removeprefix(b"./")
        return path

    def close(self) -> Op:
        slot = self.slot()
        self.used.pop(slot, None)
        return Op("close", (slot,))

    def tmpfile(self) -> Op:
        return Op("tmpfile", (self.old(self.directories),))

    def pwrite(self) -> Op:
        return Op("pwrite", (self.slot(write=True), self.place(), self.seed(), self.amount()))

    def append(self) -> Op:
        return Op("append", (self.slot(write=True), self.seed(), self.amount()))

    def pread(self) -> Op:
        return Op("pread", (self.slot(), self.place(), self.amount()))

    def ftruncate(self) -> Op:
        return Op("ftruncate", (self.slot(write=True), self.place()))

    def fallocate(self) -> Op:
        return Op("fallocate", (self.slot(write=True), self.place(), 1 + self.amount()))

    def fstat(self) -> Op:
        return Op("fstat", (self.slot(),))

    def fchmod(self) -> Op:
        return Op("fchmod", (self.slot(), self.random.choice(MODES)))

    def futimens(self) -> Op:
        return Op("futimens", (self.slot(), self.time()))

    def fsync(self) -> Op:
        return Op("fsync", (self.slot(),))

    def fdatasync(self) -> Op:
        return Op("fdatasync", (self.slot(),))

    def mmap_store(self) -> Op:
        values = (self.slot(write=True), self.place(), self.seed(), 1 + self.amount(), self.time())
        return Op("mmap_store", values)

    def mmap_load(self) -> Op:
        return Op("mmap_load", (self.slot(), self.place(), self.amount()))

    def sendfile(self) -> Op:
        return Op("sendfile", self._copy())

    def copy_file_range(self) -> Op:
        return Op("copy_file_range", self._copy())

    def _copy(self) -> tuple[int, int, int, int, int]:
        slots = (self.slot(), self.slot(write=True))
        return (*slots, self.place(), self.amount(), self.place())

    # Names.

    def truncate(self) -> Op:
        return Op("truncate", (self.old(self.files), self.place()))

    def rename(self) -> Op:
        source = self.old(self.files, self.links)
        target = self.new() if self.random.random() < 0.6 else self.old(self.files, self.links)
        self._moved(source, target)
        return Op("rename", (source, target))

    def rename_directory(self) -> Op:
        source = self.old(self.directories - {b""})
        target = self.new() if self.random.random() < 0.7 else self.old(self.directories)
        height = max((name.count(b"/") for name in self.below(source)), default=0)
        deeper = height - source.count(b"/") + target.count(b"/")
        long = max((len(name) for name in self.below(source)), default=0) + len(target)
        if deeper >= _MAX_DEPTH or long > _MAX_PATH:
            return Op("listdir", (source,))
        self._moved(source, target)
        return Op("rename", (source, target))

    def noreplace(self) -> Op:
        source = self.old(self.files)
        target = self.new()
        if not self.exists(target):
            self._moved(source, target)
        return Op("noreplace", (source, target))

    def exchange(self) -> Op:
        source, target = self.old(self.files), self.old(self.files)
        if not {source, target} <= self.files:
            return Op("lstat", (source,))
        return Op("exchange", (source, target))

    def _moved(self, source: bytes, target: bytes) -> None:
        """A rename, if the kernel would do it."""
        if source == target or not self.can_hold(target) or target.startswith(source + b"/"):
            return
        if source in self.directories:
            if target in self.files or target in self.links or self.below(target) or not target:
                return
            moved = {source, *self.below(source)}
            texts = {name: self.links.pop(name) for name in moved & self.links.keys()}
            self.links.update((target + name[len(source) :], text) for name, text in texts.items())
            for names in (self.files, self.directories):
                found = moved & names
                names -= found
                names |= {target + name[len(source) :] for name in found}
        elif self.exists(source) and target not in self.directories:
            text = self.links.get(source)
            self._removed(target)
            self._removed(source)
            if text is None:
                self.files.add(target)
            else:
                self.links[target] = text

    def _removed(self, path: bytes) -> None:
        self.files.discard(path)
        self.links.pop(path, None)

    def link(self) -> Op:
        # Under names of their own: what is not known here must not be in the way of others.
        return Op("link", (self.old(self.files), b"linked-%d" % self.random.randrange(3)))

    def symlink(self) -> Op:
        text, path = self.random.choice(LINK_TEXTS), self.new()
        if self.can_hold(path) and not self.exists(path):
            self.links[path] = text
        return Op("symlink", (text, path))

    def readlink(self) -> Op:
        return Op("readlink", (self.old(self.links),))

    def unlink(self) -> Op:
        if self.random.random() < 0.05:
            return Op("unlink", (b"linked-%d" % self.random.randrange(3),))
        path = self.old(self.files, self.links)
        self._removed(path)
        return Op("unlink", (path,))

    def mkdir(self) -> Op:
        path = self.new() if len(self.directories) < _MANY_DIRECTORIES else self.old()
        if self.can_hold(path) and not self.exists(path):
            self.directories.add(path)
        return Op("mkdir", (path, self.random.choice((0o700, 0o755))))

    def rmdir(self) -> Op:
        empty = {path for path in self.directories if path and not self.below(path)}
        any_of_them = self.directories - {b""}
        path = self.old(empty if self.random.random() < 0.6 else any_of_them)
        if path in empty:
            self.directories.discard(path)
        return Op("rmdir", (path,))

    def listdir(self) -> Op:
        return Op("listdir", (self.old(self.directories),))

    def sync_directory(self) -> Op:
        return Op("sync_directory", (self.old(self.directories),))

    # Attributes.

    def stat(self) -> Op:
        return Op("stat", (self.old(),))

    def lstat(self) -> Op:
        return Op("lstat", (self.old(),))

    def access(self) -> Op:
        return Op("access", (self.old(), self.random.choice((os.F_OK, os.R_OK, os.W_OK))))

    def chmod(self) -> Op:
        path = self.old()
        modes = (0o700, 0o755, 0o750) if path in self.directories else MODES
        return Op("chmod", (path, self.random.choice(modes)))

    def utimens(self) -> Op:
        return Op("utimens", (self.old(), self.time()))

    def setxattr(self) -> Op:
        flags = self.random.choice((0, 0, 0, os.XATTR_CREATE, os.XATTR_REPLACE))
        size = self.random.choice((0, 1, 17, 200))
        name = self.random.choice(XATTRS)
        return Op("setxattr", (self.old(), name, self.seed(), size, flags))

    def getxattr(self) -> Op:
        return Op("getxattr", (self.old(), self.random.choice(XATTRS)))

    def listxattr(self) -> Op:
        return Op("listxattr", (self.old(),))

    def removexattr(self) -> Op:
        return Op("removexattr", (self.old(), self.random.choice(XATTRS)))
