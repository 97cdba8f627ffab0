"""How mounts with write-back directories end: what was written is in the lake, or stays for the
next mount, however they are ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import processes
from bench.lakesim import Lakesim, Link, lakesim
from tests.mount.mounting import Mount, tierfs, wait_until
from tests.servers import TEST_CREDENTIALS, need_lakesim, s3_server
from tierfs.cli.unmounting import unmount
from tierfs.errors import MountError

BUCKET = "lake"
#: On its way for seconds, and for minutes.
DATA = os.urandom(8 << 20)
SLOW = Link(first_byte_median_ms=5, first_byte_p99_ms=20, upload_connection_mb_s=4)
#: What is written takes 16 s.
WALKING = Link(first_byte_median_ms=5, first_byte_p99_ms=20, upload_connection_mb_s=0.5)
CRAWLING = Link(first_byte_median_ms=5, first_byte_p99_ms=20, upload_connection_mb_s=0.05)

Make = Callable[..., Mount]
Made = Callable[..., Mount]


@pytest.fixture
def simulator() -> Iterator[Lakesim]:
    need_lakesim()
    with lakesim(seed=7) as server:
        s3_server(server).make_bucket(BUCKET)
        yield server


@pytest.fixture
def make(mount: Make, simulator: Lakesim) -> Made:
    options = ["--endpoint", simulator.endpoint, "--region", "us-east-1", "--write-back", "w/**"]
    return lambda *more: mount(*options, *more, url=f"s3://{BUCKET}", env=TEST_CREDENTIALS)


def write(made: Mount, name: str = "large") -> None:
    (made.directory / "w").mkdir(exist_ok=True)
    (made.directory / "w" / name).write_bytes(DATA)


def ended(pids: dict[str, int]) -> None:
    for pid in pids.values():
        wait_until(lambda pid=pid: not processes.runs(pid), f"process {pid} to end", 60)


def in_lake(made: Mount, name: str = "large") -> bytes:
    """What another node reads."""
    with made:
        return (made.directory / "w" / name).read_bytes()


def by_command(made: Mount) -> None:
    made.umount()


def by_the_kernel(made: Mount) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.umount2(os.fsencode(made.directory), 0) == 0


def by_signal(made: Mount) -> None:
    os.kill(made.pids()["keeper"], signal.SIGTERM)


@pytest.mark.parametrize("end", [by_command, by_the_kernel, by_signal])
def test_what_was_written_is_in_the_lake_however_it_ends(
    make: Made, mount: Make, simulator: Lakesim, tmp_path: Path, end: Callable[[Mount], None]
) -> None:
    with make() as made:
        simulator.configure(link=SLOW)
        write(made)
        pids = made.pids()
        end(made)
        ended(pids)
    simulator.configure(link=Link())
    assert in_lake(make("--cache", str(tmp_path / "elsewhere"))) == DATA


def test_past_the_deadline_it_stays_and_that_is_said(make: Made, simulator: Lakesim) -> None:
    with make("--unmount-flush", "1s") as made:
        simulator.configure(link=CRAWLING)
        write(made)
        result = tierfs("umount", made.directory, "--runtime-dir", made.runtime)
        assert result.returncode == 3, result.stderr
        (line,) = result.stderr.splitlines()
        assert "1 files (8.00 MiB)" in line
        assert "go on with the next mount" in line
    simulator.configure(link=Link())
    with make() as made:
        assert (made.directory / "w" / "large").read_bytes() == DATA
        made.command("flush", "--wait", made.directory)


def test_a_copy_in_another_namespace_is_said_and_not_waited_for(mount: Make) -> None:
    with mount("--write-back", "w/**") as made:
        pids, ours = made.pids(), Path("/proc/self/ns/mnt").readlink()
        command = ["unshare", "--mount", "--propagation", "private", "sleep", "600"]
        with subprocess.Popen(command) as holder:
            theirs = Path(f"/proc/{holder.pid}/ns/mnt")
            try:
                wait_until(lambda: theirs.readlink() != ours, "another namespace", 10)
                with pytest.raises(MountError, match="still mounted or in use elsewhere"):
                    unmount(made.directory, runtime_dir=made.runtime, timeout_s=1.0)
                assert all(processes.runs(pid) for pid in pids.values())
            finally:
                holder.kill()
        ended(pids)


def test_a_second_signal_does_not_wait_and_what_stays_is_said(
    make: Made, simulator: Lakesim
) -> None:
    with make("--unmount-flush", "inf") as made:
        simulator.configure(link=CRAWLING)
        write(made)
        pids = made.pids()
        os.kill(pids["keeper"], signal.SIGTERM)
        wait_until(lambda: "are going into the lake" in made.log(), "the flush")
        assert processes.runs(pids["keeper"])
        os.kill(pids["keeper"], signal.SIGTERM)
        ended(pids)
        assert "(1 files, 8388608 bytes) are not in the lake yet" in made.log()
    simulator.configure(link=Link())
    with make() as made:
        assert (made.directory / "w" / "large").read_bytes() == DATA


def test_a_stop_after_an_unmount_waits_for_the_same_end(make: Made, simulator: Lakesim) -> None:
    with make("--unmount-flush", "inf") as made:
        pids = made.pids()
        simulator.configure(link=WALKING)
        write(made)
        by_the_kernel(made)
        wait_until(lambda: "are going into the lake" in made.log(), "the flush")
        os.kill(pids["keeper"], signal.SIGTERM)
        ended(pids)
        assert "not in the lake yet" not in made.log()


@pytest.mark.long
@pytest.mark.parametrize("front", ["native"], indirect=True)
def test_an_upgraded_keeper_waits_as_long(make: Made, simulator: Lakesim) -> None:
    with make("--unmount-flush", "inf") as made:
        made.command("reexec", made.directory)
        pids = made.pids()
        # What is written takes 42 s, which is more than `Timing.stop_s`; no request takes as long
        # as one is waited for.
        simulator.configure(
            link=Link(first_byte_median_ms=5, first_byte_p99_ms=20, upload_total_mb_s=0.2)
        )
        (made.directory / "w").mkdir()
        for n in range(40):
            (made.directory / "w" / f"{n}").write_bytes(DATA[n << 16 :][: len(DATA) // 40])
        by_the_kernel(made)
        for pid in pids.values():
            wait_until(lambda pid=pid: not processes.runs(pid), f"process {pid} to end", 120)
        assert "not in the lake yet" not in made.log()
    client = s3_server(simulator).client()
    assert client.list_objects_v2(Bucket=BUCKET, Prefix="w/")["KeyCount"] == 1 + 40


def test_a_lazy_unmount_waits_for_nothing(make: Made, simulator: Lakesim) -> None:
    with make("--unmount-flush", "inf") as made:
        simulator.configure(link=CRAWLING)
        write(made)
        pids = made.pids()
        result = tierfs("umount", "-l", made.directory, "--runtime-dir", made.runtime)
        assert result.returncode == 0, result.stderr
        assert processes.runs(pids["keeper"])
        wait_until(lambda: "are going into the lake" in made.log(), "the flush")
        for _ in range(2):
            # Two that come at once are one.
            heard = made.log().count("SIGTERM:")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pids["keeper"], signal.SIGTERM)
            wait_until(
                lambda heard=heard: (
                    made.log().count("SIGTERM:") > heard or not processes.runs(pids["keeper"])
                ),
                "the signal",
            )
        ended(pids)


def test_a_forced_unmount_does_not_wait_for_the_lake(make: Made, simulator: Lakesim) -> None:
    with make("--unmount-flush", "inf") as made:
        simulator.configure(link=CRAWLING)
        write(made)
        result = tierfs("umount", "-f", made.directory, "--runtime-dir", made.runtime)
        assert result.returncode == 3, result.stderr
        assert "go on with the next mount" in result.stderr


def test_what_is_not_in_the_lake_is_thrown_away_when_that_is_wanted(
    make: Made, simulator: Lakesim
) -> None:
    with make() as made:
        write(made, "there")
        made.command("flush", "--wait", made.directory)
        simulator.configure(link=CRAWLING)
        write(made, "not there")
        # No terminal: nobody can be asked, and nothing happens.
        command = ("umount", "--discard-unflushed", made.directory, "--runtime-dir", made.runtime)
        assert tierfs(*command).returncode == 1
        assert sorted(os.listdir(made.directory / "w")) == ["not there", "there"]
        result = tierfs(*command, "--yes")
        assert result.returncode == 0, result.stderr
        assert "thrown away: 1 files (8.00 MiB)" in result.stdout
        assert "w/not there" in made.log()
    simulator.configure(link=Link())
    with make() as made:
        assert os.listdir(made.directory / "w") == ["there"]
        assert (made.directory / "w" / "there").read_bytes() == DATA
        assert made.status()["writing"]["unflushed_changes"] == 0


def test_a_mount_in_use_is_not_unmounted_and_goes_on(make: Made, simulator: Lakesim) -> None:
    with make() as made:
        write(made)
        with (made.directory / "w" / "large").open("rb") as held:
            result = tierfs("umount", made.directory, "--runtime-dir", made.runtime)
            assert result.returncode == 1
            assert "in use by" in result.stderr
            assert held.read() == DATA
        write(made, "next")
        made.umount()
