"""Who may read: owners and modes, containers, and users who mount for themselves."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.mounting import Mount, detach
from tests.mount.worlds import REPOSITORY, enter_user_world, in_child

Make = Callable[..., Mount]
Content = Callable[[int, int], bytes]
AS_USER = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"]


@pytest.fixture(autouse=True)
def open_path(tmp_path: Path) -> None:
    """Let other users reach the test's directory (pytest makes its parents 0700)."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.name.startswith(("pytest-", "popen-")):
            parent.chmod(0o755)


def test_owner_and_modes_follow_the_options(mount: Make, lake: Path) -> None:
    (lake / "d").mkdir()
    (lake / "d" / "f").write_bytes(b"x")
    with mount("--uid", "1234", "--gid", "4321", "--umask", "027") as made:
        info = (made.directory / "d" / "f").stat()
        assert (info.st_uid, info.st_gid) == (1234, 4321)
        assert stat.S_IMODE(info.st_mode) == 0o640
        assert stat.S_IMODE((made.directory / "d").stat().st_mode) == 0o750
        denied = subprocess.run(
            [*AS_USER, "cat", made.directory / "d" / "f"], capture_output=True, check=False
        )
        assert denied.returncode != 0
        assert b"Permission denied" in denied.stderr


def test_every_user_can_read_a_root_mount(mount: Make, lake: Path, content: Content) -> None:
    (lake / "f").write_bytes(content(1, 5000))
    with mount() as made:
        out = subprocess.run(
            [*AS_USER, "cat", made.directory / "f"], capture_output=True, check=True
        ).stdout
        assert out == content(1, 5000)


def test_bind_mounted_into_a_container(
    mount: Make, lake: Path, content: Content, tmp_path: Path
) -> None:
    """A mount and PID namespace of its own with the lake bound at /data, read as uid 1000."""
    (lake / "f").write_bytes(content(1, 200_000))
    inside = tmp_path / "data"
    inside.mkdir()
    with mount() as made:
        script = (
            f"mount --bind {made.directory} {inside} && umount -l {made.directory} && "
            f"exec {' '.join(AS_USER)} cat {inside}/f"
        )
        out = subprocess.run(
            [
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--propagation",
                "private",
                "sh",
                "-c",
                script,
            ],
            capture_output=True,
            check=True,
        ).stdout
        assert out == content(1, 200_000)


def test_a_user_mounts_for_themselves(tmp_path: Path, lake: Path, content: Content) -> None:
    if shutil.which("fusermount3") is None:
        pytest.skip("fusermount3 is not installed")
    (lake / "f").write_bytes(content(1, 5000))
    in_child(lambda: _mount_as_user(tmp_path, content(1, 5000)))


def _mount_as_user(tmp_path: Path, wanted: bytes) -> None:
    world = enter_user_world(tmp_path)
    home = world / "home"
    directory = home / "mnt"
    directory.mkdir(parents=True)
    for path in (home, directory):
        os.chown(path, 1000, 1000)

    def as_user(*command: str | Path) -> bytes:
        done = subprocess.run(
            [*AS_USER, *map(str, command)],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(home),
                "PYTHONPATH": str(REPOSITORY),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    tierfs = (sys.executable, "-m", "tierfs.cli")
    places = ("--cache", home / "cache", "--cache-size", "1G", "--runtime-dir", home / "run")
    try:
        as_user(*tierfs, "mount", f"file://{world}/lake", directory, *places)
        assert as_user("cat", directory / "f") == wanted
        as_user(*tierfs, "umount", directory, "--runtime-dir", home / "run")
        assert not os.path.ismount(directory)
    finally:
        detach(directory)
