"""``mount -t tierfs`` and ``umount`` as an administrator types them, through /sbin's helpers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.mount.mounting import detach
from tests.mount.worlds import REPOSITORY, enter_user_world, in_child

Content = Callable[[int, int], bytes]


def test_mount_and_umount_through_the_helpers(tmp_path: Path, lake: Path, content: Content) -> None:
    (lake / "f").write_bytes(content(1, 5000))
    in_child(lambda: _mount_and_umount(tmp_path, content(1, 5000)))


def _mount_and_umount(tmp_path: Path, wanted: bytes) -> None:
    """In a mount namespace whose /usr/sbin has the helpers; the machine's own is not touched."""
    world = enter_user_world(tmp_path)
    upper, scratch = world / "upper", world / "scratch"
    upper.mkdir()
    scratch.mkdir()
    sbin = Path("/sbin").resolve()
    layers = f"lowerdir={sbin},upperdir={upper},workdir={scratch}"
    subprocess.run(["mount", "-t", "overlay", "-o", layers, "none", sbin], check=True)
    for name, module in (
        ("mount.tierfs", "mount_helper"),
        ("umount.tierfs", "umount_helper"),
        ("umount.fuse.tierfs", "umount_helper"),
    ):
        helper = sbin / name
        helper.unlink(missing_ok=True)
        helper.write_text(
            f"#!/bin/sh\nPYTHONPATH={REPOSITORY} exec {sys.executable} -m tierfs.cli.{module} "
            '"$@"\n'
        )
        helper.chmod(0o755)
    directory = world / "mnt"
    directory.mkdir()
    options = f"cache={world}/cache,cache_size=1G,_netdev,nofail,x-systemd.automount,noatime"
    url = f"file://{world}/lake"
    try:
        subprocess.run(
            ["mount", "-t", "tierfs", "-o", options, url, directory], check=True, timeout=60
        )
        with open("/proc/self/mounts") as table:
            (line,) = [line for line in table if line.split()[1] == str(directory)]
        assert line.split()[2] == "fuse.tierfs"
        assert (directory / "f").read_bytes() == wanted
        subprocess.run(["umount", directory], check=True, timeout=60)
        assert not os.path.ismount(directory)
        # umount(8) returned after the daemon had ended: its locks are free at once.
        begin = time.monotonic()
        subprocess.run(
            ["mount", "-t", "tierfs", "-o", options, url, directory], check=True, timeout=60
        )
        assert (directory / "f").read_bytes() == wanted, time.monotonic() - begin
        failed = subprocess.run(
            ["mount", "-t", "tierfs", "-o", f"{options},cache_sise=1G", url, directory],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert failed.returncode == 32
        assert "cache_size" in failed.stderr
        subprocess.run(["umount", directory], check=True, timeout=60)
    finally:
        detach(directory)
