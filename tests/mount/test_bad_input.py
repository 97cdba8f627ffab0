"""Each wrong way to mount is one line that says what to do, an exit code, and no mount left
behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.mounting import Mount, tierfs
from tests.mount.worlds import REPOSITORY, enter_user_world, in_child

Make = Callable[..., Mount]


def refused(tmp_path: Path, *arguments: str | Path, env: dict[str, str] | None = None) -> str:
    """Mount with *arguments*, which must fail; returns the error line."""
    result = tierfs("mount", *arguments, "--runtime-dir", tmp_path / "run", env=env)
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    with open("/proc/self/mounts") as table:
        assert not [x for x in table if x.split()[1].startswith(f"{tmp_path}/") and "tierfs" in x]
    return lines[0]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    directory = tmp_path / "mnt"
    directory.mkdir()
    return directory


def test_file_lake_that_does_not_exist(tmp_path: Path, target: Path) -> None:
    line = refused(tmp_path, f"file://{tmp_path}/none", target, "--cache", tmp_path / "c")
    assert f"{tmp_path}/none" in line


def test_a_lake_that_does_not_answer(tmp_path: Path, target: Path) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "x"}
    options = ["--endpoint", "http://127.0.0.1:1", "--request-timeout", "5s"]
    line = refused(
        tmp_path, "s3://bucket/data", target, "--cache", tmp_path / "c", *options, env=keys
    )
    assert "s3://bucket/data" in line
    assert "check the endpoint" in line


def test_mount_point_missing_file_or_not_empty(tmp_path: Path, lake: Path) -> None:
    url, cache = f"file://{lake}", tmp_path / "c"
    assert "mkdir" in refused(tmp_path, url, tmp_path / "none", "--cache", cache)
    (tmp_path / "file").touch()
    assert "directory" in refused(tmp_path, url, tmp_path / "file", "--cache", cache)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    assert "empty" in refused(tmp_path, url, tmp_path / "full", "--cache", cache)


def test_cache_smaller_than_one_block(tmp_path: Path, lake: Path, target: Path) -> None:
    line = refused(
        tmp_path, f"file://{lake}", target, "--cache", tmp_path / "c", "--cache-size", "512K"
    )
    assert "1M" in line


def test_cache_inside_the_mount_or_on_the_lake(tmp_path: Path, lake: Path, target: Path) -> None:
    assert "cache" in refused(tmp_path, f"file://{lake}", target, "--cache", target / "c")
    assert "cache" in refused(tmp_path, f"file://{lake}", target, "--cache", lake / "c")


def test_cache_on_another_mount_of_the_lake(
    tmp_path: Path, mount: Make, lake: Path, target: Path
) -> None:
    with mount(directory=tmp_path / "first") as made:
        result = tierfs(
            "mount",
            f"file://{lake}",
            target,
            "--cache",
            made.directory / "c",
            "--runtime-dir",
            tmp_path / "run",
        )
        assert result.returncode != 0
        assert "--cache" in result.stderr


def test_cache_that_cannot_be_written(tmp_path: Path, lake: Path, target: Path) -> None:
    (tmp_path / "plain").touch()
    line = refused(tmp_path, f"file://{lake}", target, "--cache", tmp_path / "plain" / "c")
    assert "plain" in line


def test_same_lake_twice_on_one_cache_names_the_first(
    tmp_path: Path, mount: Make, lake: Path, target: Path
) -> None:
    with mount(directory=tmp_path / "first") as made:
        result = tierfs(
            "mount",
            f"file://{lake}",
            target,
            "--cache",
            made.cache,
            "--cache-size",
            "1G",
            "--runtime-dir",
            tmp_path / "run2",
        )
        assert result.returncode != 0
        assert str(made.pids()["control"]) in result.stderr
        assert not os.path.ismount(target)


def test_unknown_option_names_the_nearest(tmp_path: Path, lake: Path, target: Path) -> None:
    result = tierfs("mount", f"file://{lake}", target, "-o", "cache_sise=1G")
    assert result.returncode != 0
    assert "cache_size" in result.stderr


def test_ordinary_user_without_fusermount3(tmp_path: Path, lake: Path) -> None:
    in_child(lambda: _mount_without_fusermount3(tmp_path))


def _mount_without_fusermount3(tmp_path: Path) -> None:
    world = enter_user_world(tmp_path)
    home = world / "home"
    (home / "mnt").mkdir(parents=True)
    for path in (home, home / "mnt"):
        os.chown(path, 1000, 1000)
    done = subprocess.run(
        [
            "/usr/bin/setpriv",
            "--reuid=1000",
            "--regid=1000",
            "--clear-groups",
            sys.executable,
            "-m",
            "tierfs.cli",
            "mount",
            f"file://{world}/lake",
            str(home / "mnt"),
            "--cache",
            str(home / "cache"),
            "--runtime-dir",
            str(home / "run"),
        ],
        capture_output=True,
        text=True,
        env={"PATH": "/nonexistent", "HOME": str(home), "PYTHONPATH": str(REPOSITORY)},
        check=False,
        timeout=60,
    )
    assert done.returncode != 0
    assert "fusermount3" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_fuse_device(tmp_path: Path, lake: Path) -> None:
    in_child(lambda: _mount_without_device(tmp_path))


def _mount_without_device(tmp_path: Path) -> None:
    """In a mount namespace of its own, whose /dev has no fuse."""
    world = enter_user_world(tmp_path)
    device = Path("/dev/fuse")
    subprocess.run(["umount", "-l", device], check=True)  # the bind mount of this namespace
    empty = world / "dev"
    empty.mkdir()
    for name in ("null", "urandom"):
        (empty / name).touch()
        subprocess.run(["mount", "--bind", f"/dev/{name}", empty / name], check=True)
    subprocess.run(["mount", "--rbind", empty, "/dev"], check=True)
    (world / "mnt").mkdir()
    line = refused(world, f"file://{world}/lake", world / "mnt", "--cache", world / "cache")
    assert "/dev/fuse" in line
    assert "modprobe" in line or "--device" in line
