"""What a power cut leaves of the journal: at the moment of each acknowledgement, what was not
synced by then is gone, and what was acknowledged has to be there.

A process writes with ``power.c`` preloaded, which notes each write to ``journal/data.mdb`` and each
sync of it; whoever acknowledges notes that beside them. So for each acknowledgement there is a file
with all that the disk was made to keep, and nothing else. (That a sync keeps its promise is the
kernel's and the disk's matter.)
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
import pytest
import trio

from tests.writing import Lake, world
from tierfs.index import environments
from tierfs.index.offline import DATABASES, open_offline
from tierfs.writeback.findings import Records
from tierfs.writeback.records import Op

ROOT = Path(__file__).parents[2]
NOTE = struct.Struct("<cc6xQQ")


def write_and_acknowledge(directory: str, notes: str, sync: str) -> None:
    """What the process does: files, each acknowledged when its close has returned."""
    if sync == "off":
        real = lmdb.Environment

        def opened(*args: Any, **how: Any) -> Any:
            return real(*args, **{**how, "sync": False})

        vars(environments)["lmdb"].Environment = opened
    fd = os.open(notes, os.O_WRONLY | os.O_APPEND)

    async def run() -> None:
        async with world(Path(directory), Lake(), publish=False) as mount:
            for n in range(12):
                name = b"file-%d" % n
                await mount.write(name, name)
                os.write(fd, NOTE.pack(b"A", b"\0", 0, len(name)) + name)

    trio.run(run)


class Moment(NamedTuple):
    """*name* is acknowledged, and *image* what the disk has for certain."""

    name: bytes
    image: bytes


def moments(notes: bytes) -> list[Moment]:
    """Every acknowledgement."""
    found: list[Moment] = []
    kept, loose, at = bytearray(), list[tuple[int, bytes]](), 0

    def keep(offset: int, data: bytes) -> None:
        kept.extend(bytes(max(0, offset + len(data) - len(kept))))
        kept[offset : offset + len(data)] = data

    while at < len(notes):
        what, durable, offset, length = NOTE.unpack_from(notes, at)
        data = notes[at + NOTE.size : at + NOTE.size + length]
        at += NOTE.size + length
        if what == b"A":
            found.append(Moment(data, bytes(kept)))
        elif what == b"S":
            for write in loose:
                keep(*write)
            loose.clear()
        elif durable == b"\1":
            keep(offset, data)
        else:
            loose.append((offset, data))
    return found


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``power.c``, compiled."""
    library = tmp_path_factory.mktemp("power") / "power.so"
    source = Path(__file__).with_name("power.c")
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return library


def cut(tmp_path: Path, preloaded: Path, sync: str) -> list[Moment]:
    """Run the process; its acknowledgements."""
    notes = tmp_path / "notes"
    notes.touch()
    module = "tests.crash.test_writeback_power"
    program = f"import sys; from {module} import *; write_and_acknowledge(*sys.argv[1:])"
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "cache"), str(notes), sync],
        env={**os.environ, "LD_PRELOAD": str(preloaded), "POWER_NOTES": str(notes)},
        cwd=ROOT,
        check=True,
        timeout=120,
    )
    return moments(notes.read_bytes())


def acknowledged_and_lost(tmp_path: Path, found: list[Moment]) -> list[bytes]:
    """Names that were acknowledged, and that the journal does not have after a power cut."""
    lost, names = [], set[bytes]()
    for n, moment in enumerate(found):
        names.add(moment.name)
        directory = tmp_path / str(n)
        (directory / "journal").mkdir(parents=True)
        (directory / "journal" / "data.mdb").write_bytes(moment.image)
        try:
            with open_offline(directory) as index, index.journal.read() as txn:
                work = Records(txn, {name: index.journal.database(name) for name in DATABASES})
                there = {entry.path for _, entry in work.log() if entry.op is Op.PUT}
        except Exception:
            there = set()
        lost += sorted(names - there)
    return lost


def test_what_was_acknowledged_outlives_a_power_cut(tmp_path: Path, preloaded: Path) -> None:
    found = cut(tmp_path, preloaded, "on")
    assert len(found) == 12
    assert acknowledged_and_lost(tmp_path, found) == []


def test_sabotage_without_the_sync_it_is_lost(tmp_path: Path, preloaded: Path) -> None:
    found = cut(tmp_path, preloaded, "off")
    assert len(found) == 12
    assert acknowledged_and_lost(tmp_path, found) != []
