"""A check of what write-back keeps in one lake's directory, by hand: `fsck`.

What is wrong, `tierfs.writeback.checks` finds. Repairs come in this order, so that a process killed
anywhere in between leaves nothing worse, and the next run goes on:

1. a note of what is repaired, in ``lost+found/NOTES``;
2. staging files that have no place any more, moved into ``lost+found``;
3. the journal, in one transaction.

Then all is looked at again: a repair may uncover something else.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from tierfs.boot import boot_id
from tierfs.errors import CacheError, IndexDamaged
from tierfs.index.environments import ForeignIndex, OtherVersion
from tierfs.index.index import DirectoryLock
from tierfs.index.offline import DATABASES, OfflineIndex, has_journal, open_offline
from tierfs.index.writer import Transaction
from tierfs.writeback.checks import check
from tierfs.writeback.findings import Finding, Records, Surroundings, Trouble
from tierfs.writeback.recovery import unwanted_files
from tierfs.writeback.room import Room, Unbounded
from tierfs.writeback.staging import Staging

if TYPE_CHECKING:
    from lmdb import _Database

LOST_AND_FOUND = "lost+found"
#: So often it is looked again after a repair: what one uncovers is mostly one level of directories.
ROUNDS = 100


@dataclass
class Report:
    """What was found in *directory*. *left* is what was not repaired, *moved* what is in
    ``lost+found`` now; *leftovers* counts files that the next mount removes, as after any kill."""

    directory: Path
    lake: str = ""
    found: list[Finding] = field(default_factory=list)
    left: list[Finding] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    leftovers: int = 0


def lake_directories(path: Path) -> list[Path]:
    """*path*, if it is a lake's directory, or those in it. Raises CacheError where there is
    none."""
    try:
        if _is_lake_directory(path):
            return [path]
        found = sorted(below for below in path.iterdir() if _is_lake_directory(below))
    except OSError as error:
        raise CacheError("check a cache", str(path), error.strerror or "") from error
    if not found:
        raise CacheError("check a cache", str(path), "no lake has been cached there")
    return found


def _is_lake_directory(path: Path) -> bool:
    try:
        return path.is_dir() and ((path / "journal").is_dir() or (path / "staging").is_dir())
    except PermissionError:
        # Such as the lost+found of the disk's own file system.
        return False


async def fsck(directory: Path, *, repair: bool) -> Report:
    """Check a lake's *directory*, and with *repair* mend what is wrong there.

    Raises CacheBusy while it is mounted, CacheError when it cannot be read or written, OtherVersion
    and ForeignIndex when its journal is sound, and not for us to repair.
    """
    report = Report(directory)
    lock = DirectoryLock(directory)
    staging = Staging(directory, Room(Unbounded()))
    try:
        await _check(report, staging, repair=repair)
    except OSError as error:
        raise CacheError("check a cache", str(directory), error.strerror or "") from error
    finally:
        staging.close()
        lock.release()
    return report


async def _check(report: Report, staging: Staging, *, repair: bool) -> None:
    try:
        with _journal(report, staging) as index:
            if index is not None:
                report.lake = index.lake
                await _check_records(report, staging, index, repair=repair)
    except (ForeignIndex, OtherVersion):
        raise
    except IndexDamaged as error:
        finding = Finding(Trouble.JOURNAL, "journal", error.hint, lambda work: None)
        report.found.append(finding)
        if repair:
            _start_anew(report, staging, finding)
        else:
            report.left.append(finding)


@contextlib.contextmanager
def _journal(report: Report, staging: Staging) -> Iterator[OfflineIndex | None]:
    """The journal; None where nothing was ever written."""
    if has_journal(report.directory):
        with open_offline(report.directory) as index:
            yield index
    elif any(staging.files()):
        raise IndexDamaged("check a journal", str(report.directory), "it is not there")
    else:
        yield None


async def _check_records(
    report: Report, staging: Staging, index: OfflineIndex, *, repair: bool
) -> None:
    databases = {name: index.journal.database(name) for name in DATABASES}
    for _ in range(ROUNDS):
        staged = {(ino, content): path.stat().st_size for ino, content, path in staging.files()}
        around = Surroundings(staged, index.directory_path, boot_id())
        with index.journal.read() as txn:
            work = Records(txn, databases)
            report.left = check(work, around)
            unwanted = [] if report.left else unwanted_files(work, staged.keys())
        report.found += report.left
        if report.left and repair:
            _keep(report, staging, report.left)
            await index.journal.write(partial(_mend, databases, report.left), rows=1_000)
            continue
        if report.found and repair:
            # What looks like a leftover may have lost its record.
            _move(report, staging, [key for key in unwanted if staged[key]])
        else:
            report.leftovers = len(unwanted) + len(staging.half_made())
        return


def _mend(databases: Mapping[str, _Database], findings: list[Finding], txn: Transaction) -> None:
    work = Records(txn, databases)
    for finding in findings:
        finding.mend(work)


def _start_anew(report: Report, staging: Staging, finding: Finding) -> None:
    """Without its journal nobody knows what the bytes in the staging directory are."""
    _note(report, [f"{finding.trouble.value}: {finding.what}"])
    _move(report, staging, [(ino, content) for ino, content, _ in staging.files()])
    journal = report.directory / "journal"
    if journal.exists():
        aside = (report.directory / f"journal.damaged-{n}" for n in count(1))
        journal.rename(next(path for path in aside if not path.exists()))
        _sync(report.directory)


# ---- lost+found ----------------------------------------------------------------------------------


def _keep(report: Report, staging: Staging, findings: list[Finding]) -> None:
    """Note what is about to be repaired, and bring what has no place any more to safety."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.trouble.value}: {finding.about}: {finding.what}")
        lines += [f"  staging file {_name(*key)}" for key in finding.homeless]
        lines += [f"  {finding.kept}"] if finding.kept else []
    _note(report, lines)
    _move(report, staging, [key for finding in findings for key in finding.homeless])


def _name(ino: int, content: int) -> str:
    return f"{ino:016x}.{content}" if content else f"{ino:016x}"


def _note(report: Report, lines: list[str]) -> None:
    directory = report.directory / LOST_AND_FOUND
    directory.mkdir(mode=0o700, exist_ok=True)
    when = time.strftime("%Y-%m-%d %H:%M:%S %z")
    with (directory / "NOTES").open("a") as file:
        file.writelines(f"{when} {line}\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
    _sync(directory)
    _sync(report.directory)


def _move(report: Report, staging: Staging, keys: list[tuple[int, int]]) -> None:
    directory = report.directory / LOST_AND_FOUND
    for ino, content in dict.fromkeys(keys):
        source = staging.frozen_path(ino, content) if content else staging.path(ino)
        if not source.exists():
            continue
        target, again = directory / source.name, 0
        while target.exists():
            again += 1
            target = directory / f"{source.name}-{again}"
        source.rename(target)
        report.moved.append(str(target))
    if report.moved:
        # In this order a power cut leaves a file under both names, or the old one.
        _sync(directory)
        _sync(staging.path(0).parent)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
