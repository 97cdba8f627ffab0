"""What is wrong with a mount point, a device, a key or a cache is said before anything starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tierfs.cli import preflight
from tierfs.config import Config
from tierfs.control.client import Mount
from tierfs.errors import CacheError, ConfigError, LakeMissing, MountError, TierfsError


def one_line(error: TierfsError) -> bool:
    return "\n" not in str(error) and bool(error.hint)


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> list[Mount]:
    """The mount table, to be filled by the test."""
    table: list[Mount] = []
    monkeypatch.setattr(preflight, "mounts", lambda: table)
    monkeypatch.setattr(
        preflight,
        "mount_at",
        lambda path: next((m for m in reversed(table) if m.mountpoint == path), None),
    )
    return table


def test_the_mount_point(tmp_path: Path, mounted: list[Mount]) -> None:
    preflight.check_mountpoint(tmp_path)
    file = tmp_path / "file"
    with pytest.raises(MountError, match=r"does not exist.*mkdir -p") as caught:
        preflight.check_mountpoint(file)
    assert one_line(caught.value)
    file.touch()
    with pytest.raises(MountError, match="not a directory") as caught:
        preflight.check_mountpoint(file)
    assert one_line(caught.value)
    with pytest.raises(MountError, match=r"not empty.*--nonempty") as caught:
        preflight.check_mountpoint(tmp_path)
    assert one_line(caught.value)
    preflight.check_mountpoint(tmp_path, nonempty=True)
    with pytest.raises(MountError, match="cannot be read"):
        preflight.check_mountpoint(file / "below")


def test_a_mount_that_is_there_is_the_keepers_matter(tmp_path: Path, mounted: list[Mount]) -> None:
    # The path does not exist: a check that touched it would say so.
    place = tmp_path / "mnt"
    mounted.append(Mount(place, "s3://b", "fuse.tierfs", 0))
    preflight.check_mountpoint(place)
    mounted.append(Mount(place, "systemd-1", "autofs", 0))
    preflight.check_mountpoint(place)


def test_the_device(tmp_path: Path) -> None:
    with pytest.raises(MountError, match=r"no FUSE device.*modprobe") as caught:
        preflight.check_fuse_device(tmp_path / "fuse")
    assert one_line(caught.value)
    (tmp_path / "fuse").mkdir()
    with pytest.raises(MountError, match=r"cannot be opened.*modprobe"):
        preflight.check_fuse_device(tmp_path / "fuse")


def test_users_need_fusermount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = tmp_path / "fuse.conf"
    conf.write_text("# user_allow_other\n")
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/fusermount3")
    preflight.check_user_mount(tmp_path, allow_other=False, conf=conf)
    with pytest.raises(MountError, match=r"allow_other is not granted.*user_allow_other"):
        preflight.check_user_mount(tmp_path, allow_other=True, conf=conf)
    conf.write_text("user_allow_other\n")
    preflight.check_user_mount(tmp_path, allow_other=True, conf=conf)
    with pytest.raises(MountError, match="no permission to mount there"):
        preflight.check_user_mount(tmp_path / "missing", allow_other=False, conf=conf)
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(MountError, match=r"fusermount3.*install the package fuse3"):
        preflight.check_user_mount(tmp_path, allow_other=False, conf=conf)


def config(tmp_path: Path, **more: object) -> Config:
    values = {"url": f"file://{tmp_path}", "mountpoint": tmp_path / "mnt"} | more
    return Config(**values)  # type: ignore[arg-type]


def test_the_root_of_a_local_lake(tmp_path: Path) -> None:
    preflight.check_files(config(tmp_path))
    with pytest.raises(LakeMissing, match="does not exist"):
        preflight.check_files(config(tmp_path, url=f"file://{tmp_path}/nowhere"))


def test_the_customer_key(tmp_path: Path) -> None:
    key = tmp_path / "key"
    with pytest.raises(ConfigError, match="32 bytes"):
        preflight.check_files(config(tmp_path, sse_c_key_file=key))
    key.write_bytes(b"k" * 44)
    with pytest.raises(ConfigError, match=r"44 bytes.*not base64"):
        preflight.check_files(config(tmp_path, sse_c_key_file=key))
    key.write_bytes(b"k" * 32)
    key.chmod(0o644)
    with pytest.raises(ConfigError, match=r"open to others.*chmod 600"):
        preflight.check_files(config(tmp_path, sse_c_key_file=key))
    key.chmod(0o600)
    preflight.check_files(config(tmp_path, sse_c_key_file=key))


def test_the_ca_bundle(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ca_bundle cannot be read"):
        preflight.check_files(config(tmp_path, ca_bundle=tmp_path / "nothing.pem"))


def test_the_cache(tmp_path: Path, mounted: list[Mount], monkeypatch: pytest.MonkeyPatch) -> None:
    preflight.check_cache(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CacheError, match="not a directory") as caught:
            preflight.check_cache(path)
        assert one_line(caught.value)
    mounted.append(Mount(tmp_path / "a", "s3://b", "fuse.tierfs", 0))
    with pytest.raises(CacheError, match=r"on a fuse\.tierfs file system.*local disk"):
        preflight.check_cache(tmp_path / "a" / "b")
    # Said before anything is made there: a lake's own refusal (EROFS) would hide the reason.
    with pytest.raises(CacheError, match=r"on a fuse\.tierfs file system"):
        preflight.check_cache(tmp_path / "a" / "new")
    assert not (tmp_path / "a" / "new").exists()
    mounted[:] = [Mount(tmp_path, "server:/x", "nfs4", 0)]
    with pytest.raises(CacheError, match="on a nfs4 file system"):
        preflight.check_cache(tmp_path / "a" / "b")
    mounted.clear()

    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(CacheError, match=r"cannot be written.*free some space"):
        preflight.check_cache(tmp_path / "a" / "b")


def test_a_cache_that_cannot_be_created() -> None:
    with pytest.raises(CacheError, match=r"cannot be created|not a directory"):
        preflight.check_cache(Path("/proc/tierfs-cache"))


def test_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "check_fuse_device", lambda: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (tmp_path / "mnt").mkdir()
    (tmp_path / "lake").mkdir()
    preflight.preflight(config(tmp_path, url=f"file://{tmp_path}/lake", cache=tmp_path / "cache"))
