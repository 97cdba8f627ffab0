"""What a file says of itself through extended attributes.

Readable by name, hidden from listxattr (so that ``cp -a`` and ``rsync -X`` do not copy them):

``user.tierfs.state``         ``cached``, ``partial`` or ``lake``
``user.tierfs.etag``          the version that this inode stands for
``user.tierfs.version_id``    the same, where the lake keeps versions and told its id
``user.tierfs.cached_bytes``  how much of it is on NVMe, in decimal
``user.tierfs.cache_path``    the cache file (only root may read it)
"""

from __future__ import annotations

import os

from tierfs.front.port import FileState
from tierfs.index.records import ObjectRef

#: FUSE carries timeouts as seconds in 64 bits; ten years stand for "for ever".
MAX_TTL_S = 10 * 365 * 86400.0

PREFIX = b"user.tierfs."
STATE = PREFIX + b"state"
ETAG = PREFIX + b"etag"
VERSION_ID = PREFIX + b"version_id"
_CACHED_BYTES = PREFIX + b"cached_bytes"
_CACHE_PATH = PREFIX + b"cache_path"
XATTR_NAMES = frozenset({STATE, ETAG, VERSION_ID, _CACHED_BYTES, _CACHE_PATH})


def file_xattr(name: bytes, reference: ObjectRef, state: FileState, uid: int) -> bytes | None:
    """The value of one of `XATTR_NAMES` for a caller with *uid*, or None where it has none."""
    if name == STATE:
        if state.complete:
            return b"cached"
        return b"partial" if state.cached_bytes else b"lake"
    if name == ETAG:
        return reference.version.etag
    if name == VERSION_ID:
        return reference.version.version_id or None
    if name == _CACHED_BYTES:
        return str(state.cached_bytes).encode()
    if name == _CACHE_PATH and uid == 0 and state.path is not None:
        return os.fsencode(state.path)
    return None
