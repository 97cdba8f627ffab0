"""The other end of the command `plan`: an order of any length, told a piece at a time.

Each piece is an answered request of its own. So neither end holds all of it, and who is cut off
leaves an order that ends earlier. Only the standard library: commands must start quickly.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tierfs.control.client import Mount, call

#: Names in one request, and bytes of JSON, of which a mount takes 1 MiB.
NAMES_AT_ONCE = 4096
BYTES_AT_ONCE = 512 << 10
#: A request may have to wait for the listings of large directories.
TIMEOUT_S = 600.0

AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def relative(paths: Iterable[AnyPath], given: bytes, mount: Mount, below: bytes) -> Iterator[bytes]:
    """*paths* relative to the root of *mount*. What is not absolute is relative to *given*, which
    is a directory on it, *below* its root. What is elsewhere becomes the root, which is no file."""
    top = below + b"/" if below else b""
    # As the caller spells it, which may lead through links, and as the table of mounts does.
    given = os.path.abspath(given).rstrip(b"/") + b"/"  # noqa: PTH100 - bytes have no Path.
    root = os.fsencode(mount.mountpoint).rstrip(b"/") + b"/"
    for path in paths:
        name = os.fsencode(path)
        if not name.startswith(b"/"):
            yield top + name
        elif name.startswith(given):
            yield top + name[len(given) :]
        else:
            yield name[len(root) :] if name.startswith(root) else b""


def tell(
    mount: Mount,
    names: Iterable[bytes],
    *,
    append: bool = False,
    ahead_bytes: int | None = None,
    told: Callable[[int], None] | None = None,
    runtime_dir: Path | None = None,
) -> dict[str, Any]:
    """Tell *mount* that the files *names*, relative to its root, are read in this order: after what
    it was told before with *append*, else instead of that. It is to have so many bytes of them
    ahead of who reads (None: as before).

    *told* hears how many names were sent so far. Returns what the mount knows then; raises as
    `tierfs.control.client.call`.
    """
    args: dict[str, Any] = {} if ahead_bytes is None else {"ahead_bytes": ahead_bytes}
    answer: dict[str, Any] | None = None
    sent = 0
    for piece in _pieces(names):
        answer = _call(mount, {**args, "paths": piece, "append": append or sent > 0}, runtime_dir)
        sent += len(piece)
        if told is not None:
            told(sent)
    if answer is None:  # There were none.
        answer = _call(mount, {**args, "paths": [], "append": append}, runtime_dir)
    return answer


def _call(mount: Mount, args: dict[str, Any], runtime_dir: Path | None) -> dict[str, Any]:
    return call(mount, "plan", args, runtime_dir=runtime_dir, timeout_s=TIMEOUT_S)


def _pieces(names: Iterable[bytes]) -> Iterator[list[str]]:
    piece: list[str] = []
    size = 0
    for name in names:
        text = os.fsdecode(name)
        length = len(json.dumps(text)) + 2
        if piece and (len(piece) == NAMES_AT_ONCE or size + length > BYTES_AT_ONCE):
            yield piece
            piece, size = [], 0
        piece.append(text)
        size += length
    if piece:
        yield piece
