"""What is in a directory, all of it, and how two of them differ."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.writeback.operations import show_mtime, user_xattrs

_READ_BYTES = 1 << 20


class Entry(NamedTuple):
    """One name of a tree. What does not apply to its kind is None."""

    kind: str
    mode: int | None = None
    size: int | None = None
    sha256: str | None = None
    target: bytes | None = None
    mtime: int | str | None = None
    xattrs: tuple[tuple[str, bytes], ...] = ()


def sha256(path: bytes) -> str:
    """The hash of what the file at *path* reads as."""
    digest = hashlib.sha256()
    fd = os.open(path, os.O_RDONLY)
    try:
        while block := os.read(fd, _READ_BYTES):
            digest.update(block)
    finally:
        os.close(fd)
    return digest.hexdigest()


def tree(root: bytes, *, xattrs: bool = True) -> dict[bytes, Entry]:
    """Every name below *root*, relative to it."""
    return {path[len(root) + 1 :]: entry(path, xattrs=xattrs) for path in _walk(root)}


def _walk(directory: bytes) -> Iterator[bytes]:
    with os.scandir(directory) as found:
        entries = sorted(found, key=lambda item: item.name)
    for item in entries:
        yield item.path
        if item.is_dir(follow_symlinks=False):
            yield from _walk(item.path)


def entry(path: bytes, *, xattrs: bool = True) -> Entry:
    """What is at *path*. Links are not followed."""
    found = os.lstat(path)
    mode, mtime = stat.S_IMODE(found.st_mode), show_mtime(found.st_mtime_ns)
    if stat.S_ISLNK(found.st_mode):
        return Entry("link", target=os.readlink(path), size=found.st_size)
    names = user_xattrs(path) if xattrs else ()
    attributes = tuple((name, os.getxattr(path, name)) for name in names)
    if stat.S_ISDIR(found.st_mode):
        return Entry("directory", mode, mtime=mtime, xattrs=attributes)
    if stat.S_ISREG(found.st_mode):
        return Entry("file", mode, found.st_size, sha256(path), None, mtime, attributes)
    return Entry(f"{stat.S_IFMT(found.st_mode):o}", mode)


def differences(one: dict[bytes, Entry], other: dict[bytes, Entry]) -> list[str]:
    """In words, a line for each name: what *one* has and *other* has instead."""
    found = []
    for path in sorted(one.keys() | other.keys()):
        mine, theirs = one.get(path), other.get(path)
        if mine is None or theirs is None:
            has, lacks = ("reference", "subject") if mine is None else ("subject", "reference")
            kind = (mine or theirs or Entry("")).kind
            found.append(f"{path!r}: a {kind} in the {has}, nothing in the {lacks}")
        elif mine != theirs:
            found.append(f"{path!r}: {_fields(mine, theirs)}")
    return found


def _fields(one: Entry, other: Entry) -> str:
    pairs: list[tuple[str, Any, Any]] = list(zip(Entry._fields, one, other, strict=True))
    return ", ".join(
        f"{name} {mine!r}, not {theirs!r}" for name, mine, theirs in pairs if mine != theirs
    )
