"""The scenario ckpt: it sees what becomes of a checkpoint, and ends at a wrong byte in the lake."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from bench import arrival, data, runner
from bench.connections import fastest
from bench.lab import BUCKET, Lab
from bench.lakesim import lakesim
from bench.loadgen import PROGRAM, Loadgen, WrongBytesError
from bench.results import Run, Series
from bench.scenarios import ckpt
from bench.scenarios.ckpt import Ckpt
from bench.subjects.base import Bucket, CannotError, Mounted, Place, Settings, Subject
from bench.subjects.client import Client
from bench.subjects.foreground import ForegroundPeer
from bench.subjects.local import Local
from bench.subjects.rclone import Rclone
from bench.subjects.s3fs import S3fs
from bench.subjects.tierfs import Tierfs
from tests.servers import need_lakesim

SIZE = 10 << 20
HEADLINES = ("time to return", "time to durable", "load on same node", "load on another node")
VARIANTS = ("torch.save", "torch DCP", "safetensors")


class Tiny(Ckpt):
    """A part and a bit of each checkpoint."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds

    def rounds(self, quick: bool) -> int:
        return self._rounds

    def _size(self, quick: bool) -> int:
        return SIZE


class Copier(Subject):
    """A directory whose files are uploaded behind the writer's back: a write-back cache in small,
    with something wrong on request."""

    name = "copier"
    settings = Settings("none", "this file")

    def __init__(
        self,
        *,
        damages: str = "",
        forgets: str = "",
        delays: str = "",
        refuses: str = "",
    ) -> None:
        """Flips a byte of, never uploads, or uploads late the files whose path has these words, and
        has a directory in the way of the last."""
        self.damages, self.forgets, self.delays, self.refuses = damages, forgets, delays, refuses

    def version(self) -> str:
        return "-"

    @contextmanager
    def mount(self, bucket: Bucket, place: Place) -> Iterator[Mounted]:
        client = data.client(bucket)
        listed = client.list_objects_v2(Bucket=bucket.name, Prefix=bucket.prefix)
        for entry in listed["Contents"]:
            path = place.directory / entry["Key"].removeprefix(bucket.prefix)
            path.parent.mkdir(exist_ok=True)
            if self.refuses and self.refuses in str(path) and place.writable:
                (path / "in the way").mkdir(parents=True)
            else:
                client.download_file(bucket.name, entry["Key"], str(path))
        stop = threading.Event()
        thread = threading.Thread(target=self._upload, args=(bucket, place.directory, stop))
        thread.start()
        try:
            yield Mounted(place.directory)
        finally:
            stop.set()
            thread.join()

    def _upload(self, bucket: Bucket, directory: Path, stop: threading.Event) -> None:
        client = data.client(bucket)
        uploaded = seen = _states(directory)
        last_s: float | None = None
        while not stop.wait(0.05):
            before, seen = seen, _states(directory)
            for path, state in seen.items():
                if uploaded.get(path) == state or before.get(path) != state or ".tmp" in path:
                    continue
                if self.forgets and self.forgets in path:
                    continue
                if self.delays and self.delays in path:
                    # After all the others of its directory, and half a second more.
                    folder = os.path.dirname(path)
                    others = (p for p in seen if os.path.dirname(p) == folder and p != path)
                    if any(uploaded.get(p) != seen[p] for p in others if ".tmp" not in p):
                        continue
                    if last_s is None or time.monotonic() - last_s < 0.5:
                        continue
                try:
                    body = bytearray((directory / path).read_bytes())
                except FileNotFoundError:
                    continue  # Since the look.
                if self.damages and self.damages in path:
                    body[len(body) // 2] ^= 1
                client.put_object(Bucket=bucket.name, Key=bucket.prefix + path, Body=bytes(body))
                uploaded[path] = state
                last_s = time.monotonic()


def _states(directory: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of each file."""
    states = {}
    for path in directory.rglob("*"):
        try:
            found = path.stat()
        except OSError:
            continue
        if path.is_file():
            states[str(path.relative_to(directory))] = found.st_size, found.st_mtime_ns
    return states


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    need_lakesim()
    if not PROGRAM.exists():
        pytest.skip("lakesim is not built: there is no Rust toolchain")
    monkeypatch.setattr(ckpt, "fastest", lambda seconds: fastest(seconds, (4, 1)))
    monkeypatch.setattr(arrival, "_QUIET_S", 0.3)
    with lakesim(seed=1) as server:
        made = Lab(tmp_path, server, Loadgen(), "none", quick=True, seed=1)
        made.create_bucket()
        yield made


def run(lab: Lab, *subjects: Subject, rounds: int = 1) -> Run:
    record = Run("2026-01-01T00:00:00+00:00", {}, {}, {}, {})
    runner.run(lab, [Tiny(rounds)], subjects, record, lambda line: None)
    return record


def found(record: Run, subject: str, variant: str) -> dict[str, Series]:
    return {
        series.metric.name: series
        for series in record.series
        if series.subject == subject and series.metric.variant == variant
    }


def test_saves_are_measured_and_nothing_is_left(lab: Lab, tmp_path: Path) -> None:
    record = run(lab, Local(), Client(), Copier(), Tierfs(), rounds=2)
    for variant in VARIANTS:
        of = {name: found(record, name, variant) for name in ("local", "client", "copier")}
        assert {"time to return", "time to return, synced", "load on same node"} <= set(of["local"])
        assert {"time to durable", "load on another node"} <= set(of["client"])
        assert set(HEADLINES) <= set(of["copier"])
        assert not {"time to durable", "load on another node"} & set(of["local"])
        for series in (one for figures in of.values() for one in figures.values()):
            assert len(series.measured) == 2
        # The upload begins when nothing has changed for a while.
        back, there = of["copier"]["time to return"], of["copier"]["time to durable"]
        assert all(b < t for b, t in zip(back.values, there.values, strict=True))
    # Read-only today, which it says itself, once for each variant.
    refused = {cannot.variant: cannot.error for cannot in record.cannot}
    if refused:
        assert list(refused) == list(VARIANTS)
        assert len(record.cannot) == 3
        assert all("Read-only file system" in error for error in refused.values())
    assert lab.server.sizes(BUCKET, "ckpt") == {}
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("file", ["latest.pt", "__2_0.distcp", ".metadata", "model.safetensors"])
def test_a_damaged_object_ends_the_run(lab: Lab, file: str) -> None:
    with pytest.raises(WrongBytesError, match=file):
        run(lab, Copier(damages=file))


def test_what_never_comes_to_the_lake_is_said(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ckpt, "LIMIT_S", 10)
    record = run(lab, Copier(forgets="__1_0"))
    (cannot,) = record.cannot
    assert cannot.variant == "torch DCP"
    # The older one is there, which does not count.
    assert cannot.error == "not in the lake after 10 s: dcp/__1_0.distcp (20 bytes)"
    assert set(HEADLINES) <= set(found(record, "copier", "safetensors"))


def test_a_marker_that_comes_before_its_shards_is_seen(lab: Lab) -> None:
    late = found(run(lab, Copier(delays="__3_0")), "copier", "torch DCP")
    assert min(late["marker ahead of its shards"].values) > 0.2
    assert min(late["time to durable"].values) > 0.5
    kept = found(run(lab, Copier(delays=".metadata")), "copier", "torch DCP")
    assert max(kept["marker ahead of its shards"].values) == 0


def test_a_variant_that_fails_leaves_the_others(lab: Lab) -> None:
    record = run(lab, Copier(refuses="model.safetensors"), rounds=2)
    (cannot,) = record.cannot
    assert (cannot.subject, cannot.variant) == ("copier", "safetensors")
    assert "directory" in cannot.error
    for variant in ("torch.save", "torch DCP"):
        series = found(record, "copier", variant)
        assert all(len(series[name].measured) == 2 for name in HEADLINES)


class Unmountable(Subject):
    """Ends as a subject whose mount fails."""

    name = "unmountable"
    settings = Settings("none", "this file")

    def version(self) -> str:
        return "-"

    def mount(self, bucket: Bucket, place: Place) -> AbstractContextManager[Mounted]:
        raise CannotError("no mount today")


def test_who_cannot_mount_cannot_do_any(lab: Lab) -> None:
    record = run(lab, Unmountable())
    assert [(one.variant, one.error) for one in record.cannot] == [("", "no mount today")]
    assert lab.server.sizes(BUCKET, "ckpt") == {}


@pytest.mark.parametrize("peer", [Rclone, S3fs], ids=lambda peer: peer.name)
def test_peers_save_and_load(lab: Lab, peer: type[ForegroundPeer]) -> None:
    subject = peer()
    try:
        subject.version()
    except CannotError as error:
        pytest.skip(f"not on this machine: {error}")
    record = run(lab, subject)
    assert record.cannot == []
    for variant in VARIANTS:
        assert set(HEADLINES) <= set(found(record, peer.name, variant))
