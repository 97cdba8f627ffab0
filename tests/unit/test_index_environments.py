"""Environments and their writing thread: whose they are, groups, isolation, bounds, closing."""

from __future__ import annotations

import functools
import logging
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest
import trio
import trio.testing

from tierfs.errors import CacheBusy, CacheError, CacheFull, IndexDamaged, InvalidRequest
from tierfs.index import Index, damage, scan, schema
from tierfs.index.environments import Environment, ForeignIndex, OtherVersion, open_or_rebuild
from tierfs.index.index import open_index
from tierfs.index.writer import QUEUE_LIMIT, Transaction

usage = namedtuple("usage", ("total", "used", "free"))
LAKE = "s3://bucket/prefix"


def make(
    path: Path, *, lake: str = LAKE, name: str = "names", queue_limit: int = QUEUE_LIMIT
) -> Environment:
    databases = ("things", "state")
    return Environment(path, name=name, databases=databases, lake=lake, queue_limit=queue_limit)


@pytest.fixture
def env(tmp_path: Path) -> Iterator[Environment]:
    env = make(tmp_path / "names")
    yield env
    env.close()


def get(env: Environment, key: bytes) -> bytes | None:
    with env.read() as txn:
        return txn.get(key, db=env.database("things"))


def putting(env: Environment, key: bytes, value: bytes = b"v") -> Callable[[Transaction], bool]:
    """A function for the writing thread that puts *key*."""
    things = env.database("things")
    return lambda txn: txn.put(key, value, db=things)


def listed(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def hold(env: Environment) -> threading.Event:
    """Keep the writing thread busy until the event that is returned is set."""
    entered, leave = threading.Event(), threading.Event()

    def wait(_: Transaction) -> None:
        entered.set()
        assert leave.wait(10)

    env.write_soon(wait)
    assert entered.wait(10)
    return leave


async def test_a_write_is_seen_by_the_next_read(env: Environment) -> None:
    for n in range(20):
        value = b"%d" % n
        assert await env.write(putting(env, b"k", value))
        assert get(env, b"k") == value


async def test_what_is_queued_joins_one_commit(env: Environment) -> None:
    leave = hold(env)
    before = env.writer.commits
    async with trio.open_nursery() as nursery:
        for n in range(50):
            nursery.start_soon(env.write, putting(env, b"%d" % n))
        await trio.testing.wait_all_tasks_blocked()
        leave.set()
    assert all(get(env, b"%d" % n) == b"v" for n in range(50))
    assert env.writer.commits - before == 2  # The one that was held, and one for all the rest.


async def test_a_group_is_bounded_by_rows(env: Environment) -> None:
    leave = hold(env)
    before = env.writer.commits
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(lambda: env.write(lambda txn: txn.id(), rows=15_000))
        await trio.testing.wait_all_tasks_blocked()
        leave.set()
    assert env.writer.commits - before == 5


async def test_one_that_raises_takes_no_other_down(env: Environment) -> None:
    things = env.database("things")
    leave = hold(env)
    errors = []

    def failing(txn: Transaction) -> None:
        txn.put(b"failing", b"v", db=things)
        raise LookupError("mine alone")

    async def attempt() -> None:
        try:
            await env.write(failing)
        except LookupError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for n in range(10):
            nursery.start_soon(env.write, putting(env, b"%d" % n))
            nursery.start_soon(attempt)
        await trio.testing.wait_all_tasks_blocked()
        leave.set()
    assert len(errors) == 10
    assert get(env, b"failing") is None
    assert all(get(env, b"%d" % n) == b"v" for n in range(10))


async def test_order_is_kept(env: Environment) -> None:
    seen: list[int] = []
    leave = hold(env)
    for n in range(100):
        env.write_soon(putting(env, b"last", b"%d" % n))
        env.write_soon(functools.partial(lambda n, _: seen.append(n), n))
    leave.set()
    await env.write(lambda txn: None)
    assert get(env, b"last") == b"99"
    assert seen == list(range(100))


async def test_errors_of_write_soon_go_to_the_log(
    env: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(_: Transaction) -> None:
        raise LookupError("nobody waits")

    env.write_soon(failing)
    await env.write(lambda txn: None)
    assert "nobody waits" in caplog.text


async def test_write_soon_refuses_when_the_queue_is_full(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    env = make(tmp_path / "names", queue_limit=8)
    env.database("things")
    leave = hold(env)
    for n in range(20):
        env.write_soon(putting(env, b"%d" % n))
    assert env.writer.refused == 12
    assert "queue is full" in caplog.text
    leave.set()
    await env.write(lambda txn: None)
    with env.read() as txn:
        assert env.entries(txn, "things") == 8
    await env.aclose()


async def test_what_the_journal_forgets_the_names_keep_through_a_power_cut(tmp_path: Path) -> None:
    """A commit is acknowledged when its meta page is on the disk, too: what was uploaded is known
    to nobody else from then on."""
    async with open_index(tmp_path, LAKE) as index:
        kept = {env.name: env._lmdb.flags()["metasync"] for env in index._environments}
    assert kept == {"names": True, "cache": False, "journal": True}


async def test_write_waits_for_room(tmp_path: Path) -> None:
    env = make(tmp_path / "names", queue_limit=2)
    env.database("things")
    leave = hold(env)
    async with trio.open_nursery() as nursery:
        for n in range(10):
            nursery.start_soon(env.write, putting(env, b"%d" % n))
        await trio.testing.wait_all_tasks_blocked()
        assert len(env.writer._queue) == 2
        leave.set()
    with env.read() as txn:
        assert env.entries(txn, "things") == 10
    await env.aclose()


async def test_closing_commits_what_is_queued(tmp_path: Path) -> None:
    env = make(tmp_path / "names")
    leave = hold(env)
    env.write_soon(putting(env, b"k"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(env.aclose)
        await trio.testing.wait_all_tasks_blocked()
        leave.set()
    await env.aclose()
    with pytest.raises(InvalidRequest):
        await env.write(lambda txn: None)
    env.write_soon(lambda txn: None)
    with pytest.raises(CacheError), env.read():
        pass
    env = make(tmp_path / "names")
    assert get(env, b"k") == b"v"
    await env.aclose()


async def test_reads_pin_nothing(env: Environment) -> None:
    """I12: overwriting one value again and again does not grow the file while reads go on."""
    sizes = []
    for n in range(60):
        value = b"%d" % n * 4000
        await env.write(putting(env, b"k", value))
        assert get(env, b"k") == value
        sizes.append((env.path / "data.mdb").stat().st_size)
    assert sizes[-1] == sizes[len(sizes) // 2]


async def test_a_full_map_is_the_writers_error(tmp_path: Path) -> None:
    env = Environment(
        tmp_path / "names", name="names", databases=("things",), lake=LAKE, map_size=1 << 20
    )
    things = env.database("things")
    with pytest.raises(CacheFull):
        await env.write(lambda txn: txn.put(b"big", bytes(2 << 20), db=things))
    await env.write(lambda txn: txn.put(b"small", b"v", db=things))
    assert get(env, b"small") == b"v"
    await env.aclose()


async def test_a_full_disk_is_called_so(env: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """LMDB says EIO when a full disk cut its write short."""

    def fails(_: Transaction) -> None:
        raise lmdb.Error("mdb_txn_commit: Input/output error")

    with pytest.raises(CacheError, match="Input/output") as caught:
        await env.write(fails)
    assert not isinstance(caught.value, CacheFull)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(100, 100, 0))
    with pytest.raises(CacheFull, match="disk is full"):
        await env.write(fails)
    monkeypatch.undo()
    await env.write(putting(env, b"k"))


async def test_a_disk_that_is_gone_does_not_end_the_writing_thread(
    env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: Path) -> None:
        raise OSError("Transport endpoint is not connected")

    monkeypatch.setattr("shutil.disk_usage", gone)

    def fail(_: Transaction) -> None:
        raise lmdb.Error("Input/output error")

    with trio.fail_after(5):
        with pytest.raises(CacheError, match="Input/output error"):
            await env.write(fail)
        await env.write(putting(env, b"after"))
    assert get(env, b"after") == b"v"


def test_a_foreign_lake_is_refused_and_left_alone(tmp_path: Path) -> None:
    make(tmp_path / "names").close()
    with pytest.raises(ForeignIndex, match="s3://bucket/prefix"):
        make(tmp_path / "names", lake="s3://other")
    with pytest.raises(ForeignIndex):
        open_or_rebuild(tmp_path / "names", name="names", databases=(), lake="s3://other")
    with pytest.raises(ForeignIndex):
        make(tmp_path / "names", name="cache")
    make(tmp_path / "names").close()


def rewrite_meta(path: Path, value: bytes | None) -> None:
    with lmdb.Environment(str(path), max_dbs=16, lib_version=0) as raw:
        meta = raw.open_db(b"meta")
        with raw.begin(write=True) as txn:
            if value is None:
                txn.delete(schema.META_KEY, db=meta)
            else:
                txn.put(schema.META_KEY, value, db=meta)


@pytest.mark.parametrize(
    ("record", "hint"),
    [
        (schema.pack_meta("names", LAKE, 0, version=2), "format version 2"),
        (b"something else", "does not begin"),
        (None, "does not say whose"),
    ],
)
def test_a_wrong_format_is_refused_or_rebuilt(
    tmp_path: Path, record: bytes | None, hint: str, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path / "names").close()
    rewrite_meta(tmp_path / "names", record)
    with pytest.raises(IndexDamaged, match=hint):
        make(tmp_path / "names")
    for n in (1, 2):
        env = open_or_rebuild(
            tmp_path / "names", name="names", databases=("things", "state"), lake=LAKE
        )
        with env.read() as txn:
            assert env.entries(txn, "things") == 0
        env.close()
        kept = [path.name for path in tmp_path.glob("names.damaged-*")]
        assert kept == [f"names.damaged-{n}"]
        rewrite_meta(tmp_path / "names", record)
    assert hint in caplog.text


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("import lmdb, sys; sys.exit('no memory')", "no memory"),
        ("import no_such_module", "No module named"),
        ("import os; os.kill(os.getpid(), 9)", "status -9"),
        ("import os; os.kill(os.getpid(), 15)", "status -15"),
    ],
)
def test_an_index_that_could_not_be_scanned_is_not_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, says: str
) -> None:
    make(tmp_path / "names").close()
    (tmp_path / "names" / "unclean").write_text("2")
    with monkeypatch.context() as patch:
        patch.setattr(damage, "_SCAN", tmp_path / "scan.py")
        (tmp_path / "scan.py").write_text(script)
        with pytest.raises(CacheError, match=f"{says}.*then try again"):
            open_or_rebuild(tmp_path / "names", name="names", databases=(), lake=LAKE)
    assert listed(tmp_path) == {"names", "scan.py"}
    # The scan is due as before.
    assert (tmp_path / "names" / "unclean").read_text() == "2"
    make(tmp_path / "names").close()


@pytest.mark.parametrize("number", ["SIGABRT", "SIGBUS", "SIGSEGV"])
def test_a_scan_that_dies_of_what_it_reads_finds_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    make(tmp_path / "names").close()
    (tmp_path / "names" / "unclean").write_text("2")
    monkeypatch.setattr(damage, "_SCAN", tmp_path / "scan.py")
    (tmp_path / "scan.py").write_text(f"import os, signal; os.kill(os.getpid(), signal.{number})")
    with pytest.raises(IndexDamaged):
        make(tmp_path / "names")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (lmdb.MemoryError("Cannot allocate memory"), 1),
        (lmdb.ReadersFullError("MDB_READERS_FULL"), 1),
        (lmdb.Error("Input/output error"), 1),
        (lmdb.CorruptedError("MDB_CORRUPTED"), scan.DAMAGED),
        (lmdb.CursorFullError("MDB_CURSOR_FULL"), scan.DAMAGED),
        (ValueError("out of order"), scan.DAMAGED),
    ],
)
def test_a_scan_says_whether_what_it_read_is_to_blame(
    monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(scan, "scan", fail)
    assert scan.main(["directory", "1", "1"]) == status


def test_without_memory_for_the_map_it_says_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "names").close()

    def fail(*_: object, **__: object) -> None:
        raise lmdb.MemoryError("Cannot allocate memory")

    monkeypatch.setattr(lmdb, "Environment", fail)
    with pytest.raises(CacheError, match=r"Cannot allocate memory; .*ulimit -v"):
        open_or_rebuild(tmp_path / "names", name="names", databases=(), lake=LAKE)
    assert listed(tmp_path) == {"names"}


def test_an_lmdb_that_is_not_tierfs_is_refused(tmp_path: Path) -> None:
    with lmdb.Environment(str(tmp_path / "names"), max_dbs=4, lib_version=0) as raw:
        raw.open_db(b"theirs")
    with pytest.raises(IndexDamaged, match="does not say whose"):
        make(tmp_path / "names")


async def test_damage_in_use_is_remembered(tmp_path: Path) -> None:
    """I13: once LMDB said "corrupted", the environment is not opened again."""
    env = make(tmp_path / "names")

    def corrupted(_: Transaction) -> None:
        raise lmdb.CorruptedError("located page was wrong type")

    with pytest.raises(IndexDamaged):
        await env.write(corrupted)
    await env.aclose()
    with pytest.raises(IndexDamaged, match="wrong type"):
        make(tmp_path / "names")
    open_or_rebuild(tmp_path / "names", name="names", databases=(), lake=LAKE).close()
    make(tmp_path / "names").close()


def test_unclean_ends_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scans = []
    monkeypatch.setattr(damage, "_scan", lambda *args: scans.append(args))
    path = tmp_path / "names"
    for expected in (0, 0, 1, 1, 2):
        env = make(path)
        assert len(scans) == expected
        env.writer.close()
        env._lmdb.close()  # As a killed process leaves it.
    make(path).close()
    make(path).close()
    make(path).close()
    assert len(scans) == 2


def test_an_unusable_directory_is_a_cache_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError):
        make(tmp_path / "file" / "names")


async def test_an_index_is_opened_once(tmp_path: Path) -> None:
    index = await Index.open(tmp_path, LAKE)
    with pytest.raises(CacheBusy, match=r"process \d+ has the same lake"):
        await Index.open(tmp_path, LAKE)
    await index.aclose()
    await index.aclose()
    index = await Index.open(tmp_path, LAKE)
    await index.aclose()


async def test_an_index_says_what_was_rebuilt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = await Index.open(tmp_path, LAKE)
    await index.aclose()
    rewrite_meta(tmp_path / "cache", None)
    index = await Index.open(tmp_path, LAKE)
    await index.aclose()
    assert "cache.damaged-1" in listed(tmp_path)
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    rewrite_meta(tmp_path / "journal", None)
    with pytest.raises(IndexDamaged, match="inode numbers"):
        await Index.open(tmp_path, LAKE)
    assert "journal.damaged-1" not in listed(tmp_path)


async def test_a_journal_of_another_version_says_what_to_do(tmp_path: Path) -> None:
    index = await Index.open(tmp_path, LAKE)
    await index.aclose()
    rewrite_meta(tmp_path / "journal", schema.pack_meta("journal", LAKE, 0, version=2))
    with pytest.raises(OtherVersion, match="mount with that version until tierfs flush"):
        await Index.open(tmp_path, LAKE)


WRITER = """
import lmdb, random, sys
env = lmdb.Environment(sys.argv[1], map_size=1 << 30, max_dbs=4, lib_version=0, sync=False)
db = env.open_db(b"things")
choose = random.Random(1)
while True:
    with env.begin(write=True, db=db) as txn:
        for _ in range(50):
            key = choose.randrange(20000).to_bytes(8, "big")
            if choose.random() < 0.5:
                txn.put(key, bytes(choose.randrange(2000)))
            else:
                txn.delete(key)
    print("committed", flush=True)
"""


def test_a_scan_reads_beside_a_writer(tmp_path: Path) -> None:
    # A native front goes on writing while the next control plane opens the index.
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE
    ) as writer:
        try:
            assert writer.stdout is not None
            for _ in range(200):
                assert writer.stdout.readline() == b"committed\n"
            drain = threading.Thread(target=writer.stdout.read)
            drain.start()
            for _ in range(20):
                scanned = subprocess.run(
                    [sys.executable, "-P", scan.__file__, str(tmp_path), str(1 << 30), "4"],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert (scanned.returncode, scanned.stderr) == (0, "")
        finally:
            writer.kill()
    drain.join()
