"""The benchmark's peers: each that is on this machine mounts a bucket, reads it, and goes away."""

from __future__ import annotations

import os
import random
import uuid
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from bench import processes
from bench.subjects import foreground
from bench.subjects.base import Bucket, CannotError, Place
from bench.subjects.foreground import ForegroundPeer
from bench.subjects.peers import PEERS
from tests.mount.mounting import detach
from tests.servers import TEST_CREDENTIALS, free_port, shared_moto_server

_FILES = {
    "top.bin": 1,
    "deep/below/small.bin": 5000,
    "deep/large.bin": 9 << 20,
    "with blank/ö.bin": 130_000,
}


@pytest.fixture(params=PEERS, ids=lambda peer: peer.name)
def peer(request: pytest.FixtureRequest) -> ForegroundPeer:
    subject = request.param()
    assert isinstance(subject, ForegroundPeer)
    try:
        subject.version()
    except CannotError as error:
        pytest.skip(f"not on this machine: {error}")
    return subject


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path / "mnt", tmp_path / "cache", tmp_path / "scratch", cache_bytes=1 << 30)
    for directory in (made.directory, made.cache, made.scratch):
        directory.mkdir()
    return made


def _bucket(prefix: str = "", endpoint: str = "") -> Bucket:
    return Bucket(
        endpoint or shared_moto_server().endpoint,
        f"lake-{uuid.uuid4().hex[:12]}",
        prefix,
        TEST_CREDENTIALS["AWS_ACCESS_KEY_ID"],
        TEST_CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    )


def _fill(bucket: Bucket) -> dict[str, bytes]:
    """Put the files under the bucket's prefix and one beside it."""
    server = shared_moto_server()
    server.make_bucket(bucket.name)
    files = {name: random.Random(name).randbytes(size) for name, size in _FILES.items()}
    client = server.client()
    try:
        for name, data in files.items():
            client.put_object(Bucket=bucket.name, Key=bucket.prefix + name, Body=data)
        if bucket.prefix:
            client.put_object(Bucket=bucket.name, Key="beside.bin", Body=b"beside")
    finally:
        client.close()
    return files


def _found(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def _mounted_and_gone(peer: ForegroundPeer, bucket: Bucket, place: Place) -> dict[str, bytes]:
    """Mount, read everything, unmount; what was read."""
    try:
        with peer.mount(bucket, place) as mounted:
            pids = mounted.pids()
            assert pids
            assert all(pid > 1 for pid in pids)
            found = _found(mounted.directory)
            assert mounted.cpu_s() >= 0
            assert mounted.memory_bytes() > 1 << 20
            assert mounted.disk_bytes() >= sum(_FILES.values())
            assert not _secret_in_sight(pids)
        assert not foreground.is_mounted(place.directory)
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    finally:
        detach(place.directory)
    return found


def _secret_in_sight(pids: list[int]) -> bool:
    secret = TEST_CREDENTIALS["AWS_SECRET_ACCESS_KEY"].encode()
    return any(secret in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids)


@pytest.mark.parametrize("prefix", ["", "a/prefix/"])
def test_peer_reads_right_and_goes(peer: ForegroundPeer, place: Place, prefix: str) -> None:
    bucket = _bucket(prefix)
    files = _fill(bucket)
    assert _mounted_and_gone(peer, bucket, place) == files


def test_peer_mounts_the_same_place_again(peer: ForegroundPeer, place: Place) -> None:
    bucket = _bucket()
    files = _fill(bucket)
    for _ in range(2):
        assert _mounted_and_gone(peer, bucket, place) == files


def test_peer_is_read_only(peer: ForegroundPeer, place: Place) -> None:
    bucket = _bucket()
    _fill(bucket)
    try:
        with peer.mount(bucket, place) as mounted, pytest.raises(OSError):
            (mounted.directory / "new.bin").write_bytes(b"new")
    finally:
        detach(place.directory)


def test_peer_runs_in_the_cgroup(peer: ForegroundPeer, place: Place) -> None:
    bucket = _bucket()
    _fill(bucket)
    with ExitStack() as stack:
        try:
            group = stack.enter_context(
                processes.memory_cgroup(f"bench-{uuid.uuid4().hex[:12]}", 1 << 30)
            )
        except OSError as error:
            pytest.skip(f"no memory cgroup can be made here: {error.strerror}")
        stack.callback(detach, place.directory)
        with peer.mount(bucket, replace(place, cgroup=group)) as mounted:
            inside = {int(pid) for pid in (group / "cgroup.procs").read_text().split()}
            assert set(mounted.pids()) == inside


def test_peer_that_reaches_nothing_says_so(peer: ForegroundPeer, place: Place) -> None:
    port = free_port()
    peer.start_s = 5
    children = set(processes.descendants(os.getpid()))
    try:
        with (
            pytest.raises(CannotError, match=r"(?i)refused|connect") as caught,
            peer.mount(_bucket(endpoint=f"http://127.0.0.1:{port}"), place),
        ):
            raise AssertionError("mounted")
        assert TEST_CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)
        assert not foreground.is_mounted(place.directory)
        assert set(processes.descendants(os.getpid())) <= children
    finally:
        detach(place.directory)


def test_peer_that_is_killed_is_cleared_away(peer: ForegroundPeer, place: Place) -> None:
    bucket = _bucket()
    _fill(bucket)
    try:
        with peer.mount(bucket, place) as mounted:
            for pid in mounted.pids():
                os.kill(pid, 9)
        assert not foreground.is_mounted(place.directory)
    finally:
        detach(place.directory)
