"""A mount from start to end: unmounts, signals, deaths, and what the next mount finds."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.mounting import Mount, detach, tierfs, wait_until

Make = Callable[..., Mount]
Content = Callable[[int, int], bytes]


def mounts_on(directory: Path) -> list[str]:
    """The lines of /proc/self/mounts for *directory*."""
    with open("/proc/self/mounts") as table:
        return [line for line in table if line.split()[1] == str(directory)]


def test_mount_table_shows_type_source_and_safety(mount: Make, lake: Path) -> None:
    with mount() as made:
        (line,) = mounts_on(made.directory)
        source, _, kind, options = line.split()[:4]
        assert source == f"file://{lake}"
        assert kind == "fuse.tierfs"
        assert {"nosuid", "nodev", "default_permissions", "allow_other"} <= set(options.split(","))


def test_umount_ends_every_process_and_clears_the_runtime_directory(
    mount: Make, lake: Path
) -> None:
    with mount() as made:
        pids = made.pids()
        made.umount()
        for pid in pids.values():
            wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), f"{pid} to end")
        assert not list(made.runtime.glob("*/control.sock"))
        assert not mounts_on(made.directory)


def test_plain_umount_ends_the_daemon_too(mount: Make, lake: Path) -> None:
    with mount() as made:
        pids = made.pids()
        subprocess.run(["umount", "-i", made.directory], check=True)
        for pid in pids.values():
            wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), f"{pid} to end")


def test_sigterm_unmounts_and_ends(mount: Make, lake: Path, content: Content) -> None:
    (lake / "f").write_bytes(content(1, 100))
    with mount() as made:
        assert (made.directory / "f").read_bytes() == content(1, 100)
        pids = made.pids()
        os.kill(pids["keeper"], signal.SIGTERM)
        for pid in pids.values():
            wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), f"{pid} to end")
        assert not mounts_on(made.directory)


@pytest.mark.parametrize("front", ["python"], indirect=True)
def test_killed_control_plane_is_replaced_by_a_fresh_mount(
    mount: Make, lake: Path, content: Content
) -> None:
    (lake / "f").write_bytes(content(1, 5000))
    with mount() as made:
        assert (made.directory / "f").read_bytes() == content(1, 5000)
        ino = (made.directory / "f").stat().st_ino
        held = os.open(made.directory / "f", os.O_RDONLY)
        first = made.pids()
        os.kill(first["control"], signal.SIGKILL)

        def serves() -> bool:
            try:
                return (made.directory / "f").read_bytes() == content(1, 5000)
            except OSError:
                return False

        wait_until(serves, "a fresh mount")
        second = made.pids()
        assert second["keeper"] == first["keeper"]
        assert second["control"] != first["control"]
        assert (made.directory / "f").stat().st_ino == ino
        # What the kernel still knows of the old handle it may tell; what it must ask for, it
        # cannot.
        os.posix_fadvise(held, 0, 0, os.POSIX_FADV_DONTNEED)
        with pytest.raises(OSError, match="not connected"):
            os.pread(held, 5000, 0)
        os.close(held)
        assert len(mounts_on(made.directory)) == 1


def test_everything_killed_leaves_a_mount_that_the_next_one_replaces(
    mount: Make, lake: Path, content: Content
) -> None:
    (lake / "f").write_bytes(content(1, 5000))
    with mount() as made:
        assert (made.directory / "f").read_bytes() == content(1, 5000)
        pids = made.pids()
        os.kill(pids["keeper"], signal.SIGKILL)
        # The control plane dies with its keeper, so that two can never serve at once.
        wait_until(
            lambda: not Path(f"/proc/{pids['control']}").exists(), "the control plane to end"
        )
        # A front may be ending still.
        assert made.start().returncode == 0
        assert (made.directory / "f").read_bytes() == content(1, 5000)
        assert made.lake_bytes() == 0
        assert len(mounts_on(made.directory)) == 1


def test_mounting_twice_on_one_directory_is_refused(mount: Make, lake: Path) -> None:
    with mount() as made:
        result = made.start()
        assert result.returncode != 0
        assert str(made.directory) in result.stderr
        assert os.listdir(made.directory) == []


def test_mount_helper_follows_mount_8(tmp_path: Path, lake: Path, content: Content) -> None:
    """What ``mount -t tierfs`` runs, with the options that fstab brings along."""
    (lake / "f").write_bytes(content(1, 100))
    directory = tmp_path / "mnt"
    directory.mkdir()
    options = (
        f"rw,noatime,nofail,_netdev,x-systemd.automount,user=someone,"
        f"cache={tmp_path}/cache,cache_size=1G,runtime_dir={tmp_path}/run"
    )
    helper = [sys.executable, "-m", "tierfs.cli.mount_helper", f"file://{lake}", str(directory)]
    try:
        subprocess.run([*helper, "-f", "-o", options], check=True, timeout=60)
        assert not mounts_on(directory), "-f is a fake"
        subprocess.run([*helper, "-n", "-v", "-o", options], check=True, timeout=60)
        assert mounts_on(directory)
        assert (directory / "f").read_bytes() == content(1, 100)
        again = subprocess.run(
            [*helper, "-o", options], capture_output=True, timeout=60, check=False
        )
        assert again.returncode == 32
        unknown = subprocess.run(
            [*helper, "-o", "cach=/x"], capture_output=True, timeout=60, check=False
        )
        assert unknown.returncode == 32
        assert b"cache" in unknown.stderr
        subprocess.run(
            [sys.executable, "-m", "tierfs.cli.umount_helper", str(directory)],
            check=True,
            timeout=60,
            env={**os.environ, "TIERFS_RUNTIME_DIR": f"{tmp_path}/run"},
        )
        assert not mounts_on(directory)
    finally:
        detach(directory)


def test_warmup_evict_and_dry_run(mount: Make, lake: Path, content: Content) -> None:
    (lake / "d").mkdir()
    for n in range(50):
        (lake / "d" / f"{n:03}").write_bytes(content(n, 2000 + n))
    (lake / "other").write_bytes(content(99, 100))
    total = sum(2000 + n for n in range(50))
    with mount() as made:
        dry = made.command("warmup", "--dry-run", made.directory / "d").stdout
        assert "50" in dry
        assert made.lake_bytes() == 0
        made.command("warmup", made.directory / "d")
        assert made.lake_bytes() == total
        made.command("warmup", made.directory / "d")
        assert made.lake_bytes() == total, "what is complete is passed over"
        for n in range(50):
            assert (made.directory / "d" / f"{n:03}").read_bytes() == content(n, 2000 + n)
        assert made.lake_bytes() == total
        made.command("evict", made.directory / "d")
        wait_until(lambda: made.status()["cache"]["cached_bytes"] == 0, "an empty cache")
        # Blocks leave the index before their file goes, and the file before its record.
        wait_until(
            lambda: (
                not [n for top, _, names in os.walk(made.cache) for n in names if "objects" in top]
            ),
            "the cache files to go",
        )


def test_live_commands_without_a_mount_say_so(tmp_path: Path) -> None:
    result = tierfs("status", tmp_path, "--runtime-dir", tmp_path / "run")
    assert result.returncode == 1
    assert str(tmp_path) in result.stderr
    assert "Traceback" not in result.stderr


def test_killed_readers_never_stop_the_loop(mount: Make, lake: Path) -> None:
    """The kernel takes back the request of a reader that is killed: nobody may block on it."""
    with mount() as made:
        (control,) = made.runtime.glob("*/control.sock")
        for _ in range(60):
            readers = [_spin(made.directory) for _ in range(6)]
            time.sleep(0.01)
            for pid in readers:
                os.kill(pid, signal.SIGKILL)
            # Asked over the socket, because a request to the mount would wake the loop.
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(10)
                client.connect(os.fspath(control))
                client.sendall(b'{"v": 1, "command": "none"}\n')
                assert b"error" in client.recv(4096)
            for pid in readers:
                os.waitpid(pid, 0)


def _spin(directory: Path) -> int:
    """A process that asks the mount something all the time; its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            while True:
                os.statvfs(directory)
        finally:
            os._exit(1)
    return pid


def test_an_aborted_mount_does_not_wait_for_the_lake(mount: Make, lake: Path) -> None:
    """When the connection is cut nobody waits for what is still in flight."""
    (lake / "f").write_bytes(b"x")
    with mount("--link", "20000,20000,90,400") as made:
        control = made.pids()["control"]
        asking = subprocess.Popen(["stat", made.directory / "f"], stderr=subprocess.DEVNULL)
        time.sleep(0.3)
        begun = time.monotonic()
        subprocess.run(["umount", "-i", "-f", made.directory], stderr=subprocess.DEVNULL)
        assert asking.wait(timeout=10) != 0
        wait_until(lambda: not Path(f"/proc/{control}").exists(), "the control plane to end", 10)
        assert time.monotonic() - begun < 10
        detach(made.directory)


def test_the_control_plane_may_open_as_many_files_as_it_can(mount: Make, lake: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:
        with mount() as made:
            limits = resource.prlimit(made.pids()["control"], resource.RLIMIT_NOFILE)
            assert limits == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_many_who_wait_for_the_lake_hold_up_nobody_else(mount: Make, lake: Path) -> None:
    waiting = 150  # More than pyfuse3 would serve at once by itself.
    for n in range(waiting):
        (lake / f"d{n}").mkdir()
        (lake / f"d{n}" / "f").write_bytes(b"x")
    with mount("--link", "2500,2500,90,400") as made:
        os.listdir(made.directory)
        readers = [
            threading.Thread(target=os.stat, args=(made.directory / f"d{n}" / "f",))
            for n in range(waiting)
        ]
        for reader in readers:
            reader.start()
        time.sleep(0.7)
        begun = time.monotonic()
        os.statvfs(made.directory)
        took_s = time.monotonic() - begun
        still = sum(reader.is_alive() for reader in readers)
        for reader in readers:
            reader.join()
        assert still == waiting
        assert took_s < 1
