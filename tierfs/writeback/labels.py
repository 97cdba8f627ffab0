"""What the lake is told of an object beside its bytes."""

from __future__ import annotations

import stat
from collections.abc import Callable
from functools import partial

from tierfs.index.records import Kind
from tierfs.lake.writing import Storage
from tierfs.writeback.journal import Journal
from tierfs.writeback.records import Entry, Op
from tierfs.writeback.rules import Rules

_KINDS = {Kind.FILE: stat.S_IFREG, Kind.DIRECTORY: stat.S_IFDIR, Kind.SYMLINK: stat.S_IFLNK}


class Labels:
    """What the objects of one mount carry; *mount_id* is what they are known by."""

    def __init__(self, journal: Journal, rules: Rules, mount_id: bytes) -> None:
        self._journal = journal
        self._rules = rules
        self.mount = mount_id.hex()

    def identity(self, lsn: int) -> str:
        """The ``tierfs-id`` of what *lsn* brings (P3)."""
        return f"{self.mount}-{lsn}"

    def metadata(self, lsn: int, entry: Entry) -> dict[str, str]:
        """What s3fs and rclone read (s3fs: decimal st_mode, uid, gid; both: mtime in seconds)."""
        # It may have another number by now.
        ino = (self._journal.read(lambda work: work.entry(lsn)) or entry).ino
        node = self._journal.node(ino) if ino else None
        found = {"tierfs-id": self.identity(lsn)}
        if node is None and entry.op is Op.LINK:
            # Replaced or removed since: it is a link still.
            found["mode"] = str(stat.S_IFLNK | 0o777)
        if node is not None:
            sign = "-" if node.mtime_ns < 0 else ""
            seconds, rest_ns = divmod(abs(node.mtime_ns), 1_000_000_000)
            found |= {
                "mode": str(_KINDS[node.kind] | node.mode),
                "uid": str(node.uid),
                "gid": str(node.gid),
                "mtime": f"{sign}{seconds}.{rest_ns:09}",
            }
        return found

    def now(self, lsn: int, entry: Entry) -> Callable[[], dict[str, str]]:
        """`metadata`, as it is when it is asked for."""
        return partial(self.metadata, lsn, entry)

    def storage(self, path: bytes) -> Storage:
        """How the lake is to keep what is at *path*."""
        return self._rules.storage_of(path)
