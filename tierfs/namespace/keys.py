"""From keys to names: which keys of a lake are paths, and what becomes of the others.

A key is split at every ``/``, and each component is the name of one directory entry, byte for byte.
Nothing is decoded, folded or normalised: newlines, bytes that are not UTF-8 and keys of 1,024 bytes
are names like any other. The rules for the rest, each with its test in
``tests/unit/test_namespace_keys.py``:

==========================  =====================================================================
key                         what is shown
==========================  =====================================================================
``a`` beside ``a/b``        the directory ``a``; the object is hidden, SHADOWED_BY_DIRECTORY
``dir/``, empty             the directory ``dir``, also when nothing else is in it
``dir/`` with content       the directory; the content is hidden, MARKER_WITH_CONTENT
``a//b``, ``/a``            hidden where the empty component is, EMPTY_COMPONENT
``a/./b``, ``../a``         hidden where the component is, DOT_COMPONENT
a component over 255 bytes  hidden, NAME_TOO_LONG (the file name limit of Linux)
a component with a NUL      hidden, NUL_BYTE (no system call can name it)
what a lake cannot spell    hidden, UNLISTABLE (a file lake's sockets, links out of its root)
the lake's prefix itself    nothing: it is the root's own marker
==========================  =====================================================================

A component that is hidden hides all that is below it, and counts as one. No rule rewrites a key,
and a path is looked up only by components that pass them, so that no key reaches outside the mount.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tierfs.errors import InvalidRequest
from tierfs.index.records import HiddenReason
from tierfs.lake.protocol import LakeIdentity, ListPage, ObjectInfo
from tierfs.namespace.packed import PackedFiles

#: NAME_MAX of Linux, in bytes.
MAX_NAME_BYTES = 255
#: The longest key of S3, in bytes, the mount's prefix included (Amazon S3 user guide, "Object
#: keys").
S3_MAX_KEY_BYTES = 1024
#: The longest path of Linux: more than a file lake can hold.
_FILE_MAX_KEY_BYTES = 4096

_DOT = ord(".")


def hidden_reason(name: bytes) -> HiddenReason | None:
    """Why *name* cannot be the name of a directory entry; None if it can."""
    if not name:
        return HiddenReason.EMPTY_COMPONENT
    if name[0] == _DOT and name in (b".", b".."):
        return HiddenReason.DOT_COMPONENT
    if 0 in name:
        return HiddenReason.NUL_BYTE
    if len(name) > MAX_NAME_BYTES:
        return HiddenReason.NAME_TOO_LONG
    return None


def components(path: bytes) -> list[bytes]:
    """The names along *path*, which is relative to the root (``b""``: the root itself). Repeated
    and outer slashes and ``.`` mean nothing, as in a system call. Raises InvalidRequest for
    ``..``."""
    names = [name for name in path.split(b"/") if name not in (b"", b".")]
    if b".." in names:
        raise InvalidRequest("resolve a path", path, "give it without '..'")
    return names


def max_key_bytes(lake: LakeIdentity) -> int:
    """How long a key relative to *lake*'s root can be, in bytes."""
    if lake.scheme == "file":
        return _FILE_MAX_KEY_BYTES
    prefix = lake.prefix.encode("utf-8", "surrogateescape")
    return S3_MAX_KEY_BYTES - (len(prefix) + 1 if prefix else 0)


@dataclass(slots=True)
class PageNames:
    """One page of a directory's listing, as names. *directories* is ordered and without duplicates,
    and has what is noted with their markers, where that was asked for; *first* and *last* are the
    least and the greatest key of the page, ``b""`` if it is empty. *packed* are the files as long
    as nobody has asked for them one by one."""

    packed: PackedFiles | None = None
    _files: dict[bytes, ObjectInfo] = field(default_factory=dict)
    directories: dict[bytes, Mapping[str, str] | None] = field(default_factory=dict)
    hidden: list[tuple[bytes, HiddenReason]] = field(default_factory=list)
    first: bytes = b""
    last: bytes = b""

    @property
    def files(self) -> dict[bytes, ObjectInfo]:
        """The files by name, one by one from now on."""
        if self.packed is not None:
            self._files, self.packed = self.packed.named(), None
        return self._files

    @files.setter
    def files(self, files: dict[bytes, ObjectInfo]) -> None:
        self._files, self.packed = files, None

    @property
    def file_count(self) -> int:
        """How many files there are."""
        return len(self._files) if self.packed is None else len(self.packed)

    def file_names(self) -> list[bytes]:
        """The names of the files."""
        return list(self._files) if self.packed is None else self.packed.names()

    def has_file(self, name: bytes) -> bool:
        """Whether *name* is one of the files."""
        return name in self._files if self.packed is None else self.packed.find(name) is not None

    def cut(self, prefix: bytes, end: bytes) -> None:
        """Drop what sorts after the key *end*. *prefix* is the directory's."""
        self.files = {name: info for name, info in self.files.items() if info.key <= end}
        self.directories = {
            name: metadata
            for name, metadata in self.directories.items()
            if prefix + name + b"/" <= end
        }
        self.hidden = [(key, reason) for key, reason in self.hidden if key <= end]
        self.last = min(self.last, end)

    def __bool__(self) -> bool:
        return bool(self.file_count or self.directories or self.hidden)


def names_of(prefix: bytes, page: ListPage) -> PageNames:
    """Sort the keys of *page*, a listing of *prefix* (``b""`` or ending in ``/``), by the rules
    above.

    ``a`` beside ``a/`` is not settled here, as the two may come on different pages.
    """
    names = PageNames()
    start = len(prefix)
    if page.packed is not None and not page.prefixes and page.packed.are_names(prefix):
        names.packed = PackedFiles(page.packed, page.objects, prefix)
        if len(page.packed):
            names.first, names.last = page.packed.ends()
        return names
    for info in page.objects:
        name = info.key[start:]
        if not name:
            if info.size:
                names.hidden.append((info.key, HiddenReason.MARKER_WITH_CONTENT))
        elif (reason := hidden_reason(name)) is None:
            names.files[name] = info
        else:
            names.hidden.append((info.key, reason))
    for key in page.prefixes:
        name = key[start:-1]
        if (reason := hidden_reason(name)) is None:
            names.directories[name] = None
        else:
            names.hidden.append((key, reason))
    for key in page.unlistable:
        names.hidden.append((key, HiddenReason.UNLISTABLE))
    # By comparison, not by place: not every store lists in the order of its keys.
    keys = [info.key for info in page.objects]
    keys += page.prefixes
    if keys:
        names.first, names.last = min(keys), max(keys)
    return names
