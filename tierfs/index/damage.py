"""How a damaged LMDB environment is recognised before it is used, and remembered.

LMDB survives kill -9 by design, so an end without closing proves nothing by itself. But on some
damaged pages an assertion of LMDB's ends the process, and a page beyond the end of the file is
SIGBUS: neither can be caught. So the doubtful work is done elsewhere:

- ``unclean`` beside the data counts ends without `count_clean_end`. At the second in a row a child
  process reads everything (`tierfs.index.scan`), and how the child fares decides. One that
  fails for another reason (no memory, the OOM killer) decides nothing, and nothing is opened.
- A file shorter than its meta page says is verified page by page in Python, without LMDB. (The
  missing pages may be free ones that were never written; then nothing is wrong.)
- ``damaged`` beside the data holds what LMDB said when it found damage in use. An environment so
  marked is not used again.

One flipped bit within a value is not seen here. What the cache serves has checksums of its own.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import lmdb
import lmdb.verify

from tierfs.errors import CacheError, IndexDamaged
from tierfs.index.scan import DAMAGED

_log = logging.getLogger(__name__)

#: From this many ends without closing in a row on, everything is scanned before use.
UNCLEAN_ENDS_BEFORE_SCAN = 2
#: A scan reads 2 M entries/s, so a large index is scanned as far as the patience of a mount goes.
SCAN_TIMEOUT_S = 20.0

DATA_FILE = "data.mdb"
_DAMAGED = "damaged"
_UNCLEAN = "unclean"
_SCAN = Path(__file__).with_name("scan.py")

#: How reading damage ends: found, an assertion of LMDB's, a page beyond the end of the file, a
#: pointer to nowhere.
_DAMAGE_STATUS = (DAMAGED, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGSEGV)
#: What helps where an index could not be read for want of something else.
REMEDY = (
    "nothing is known to be wrong with it: see to it that there is memory (ulimit -v, MemoryMax of"
    " the service), then try again"
)

#: lmdb's own, in pure Python: it never hands the file to the library that could die of it.
_verify: Callable[..., list[str]] = lmdb.verify.verify


def mark(path: Path, reason: str) -> None:
    """Remember that the environment at *path* was found damaged while in use."""
    # A disk that cannot even take this will show the damage again by itself.
    with contextlib.suppress(OSError):
        (path / _DAMAGED).write_text(f"{reason}\n")


def refuse_known(path: Path, *, map_size: int, max_databases: int) -> None:
    """Raise IndexDamaged when the environment was marked, or when a scan that is due finds damage,
    and CacheError when that scan could not be done.

    To be called before LMDB opens it. Blocks, up to SCAN_TIMEOUT_S.
    """
    marker = path / _DAMAGED
    if marker.exists():
        reason = marker.read_text(errors="replace").strip()
        raise IndexDamaged("open an index", str(path), f"found damaged while in use: {reason}")
    data = path / DATA_FILE
    if not data.exists() or data.stat().st_size == 0:
        return
    unclean = path / _UNCLEAN
    if _read_count(unclean) >= UNCLEAN_ENDS_BEFORE_SCAN:
        _scan(path, map_size, max_databases)
        unclean.write_text("0")


def refuse_damaged(path: Path, *, map_size: int, max_databases: int) -> None:
    """Raise IndexDamaged when the environment was marked, or when reading all of it finds damage,
    and CacheError when it could not be read. Blocks, as `refuse_known`."""
    refuse_known(path, map_size=map_size, max_databases=max_databases)
    _scan(path, map_size, max_databases)


def refuse_truncated(path: Path, env: lmdb.Environment) -> None:
    """Raise IndexDamaged when pages in use lie beyond the end of the file.

    To be called before the first transaction on *env*, which would already touch pages.
    """
    data = path / DATA_FILE
    wanted = (env.info()["last_pgno"] + 1) * _page_size(data)
    size = data.stat().st_size
    if size >= wanted:
        return
    try:
        findings = _verify(str(path), subdir=True)
    except lmdb.verify.VerifyError as error:
        findings = [str(error)]
    if findings:
        raise IndexDamaged(
            "open an index", str(path), f"it is cut short: {size} of {wanted} bytes are there"
        )


def count_opening(path: Path) -> None:
    """The environment is in use from now on."""
    unclean = path / _UNCLEAN
    count = _read_count(unclean) + 1
    # A full disk is no reason to refuse the index: reads need no room.
    with contextlib.suppress(OSError):
        unclean.write_text(str(count))


def count_clean_end(path: Path) -> None:
    """It was closed as it should be."""
    (path / _UNCLEAN).unlink(missing_ok=True)


def _scan(path: Path, map_size: int, max_databases: int) -> None:
    """Read everything in a child process, which may die of it. Raises IndexDamaged, and CacheError
    when the child failed for another reason: a sound index must not be given up for that."""
    arguments = (str(path), str(map_size), str(max_databases))
    command = [sys.executable, "-P", str(_SCAN), *arguments]
    started = time.monotonic()
    try:
        child = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SCAN_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        _log.warning("index %s: not scanned to the end in %.0f s", path, SCAN_TIMEOUT_S)
        return
    elapsed_s = time.monotonic() - started
    _log.info("index %s: scanned after unclean ends, in %.2f s", path, elapsed_s)
    if child.returncode == 0:
        return
    lines = child.stderr.decode(errors="replace").strip().splitlines()
    reason = lines[-1] if lines else f"reading it ends with status {child.returncode}"
    if child.returncode in _DAMAGE_STATUS:
        raise IndexDamaged("open an index", str(path), f"it is damaged: {reason}")
    raise CacheError("open an index", str(path), f"it could not be read: {reason}; {REMEDY}")


def _read_count(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _page_size(data: Path) -> int:
    """The page size of an LMDB data file, from its first meta page (``mm_psize`` at byte 40)."""
    with data.open("rb") as file:
        file.seek(40)
        return int.from_bytes(file.read(4), sys.byteorder)
