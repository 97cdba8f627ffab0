"""The keeper reads the mount table and spells mount options right."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tierfs.config import Config
from tierfs.errors import MountError
from tierfs.keeper import mounting, mountpoint
from tierfs.mountinfo import MountEntry, parse, topmost, unescape

TABLE = rb"""22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
36 22 0:41 / /mnt/a\040b rw,nosuid,nodev master:7 propagate_from:2 - fuse.tierfs s3://b/c\134d rw
37 36 0:42 / /mnt/a\040b rw,nosuid - tmpfs none rw
38 22 0:43 / /mnt/lake rw - autofs systemd-1 rw
a damaged line
"""


def test_parse_undoes_the_kernels_escapes() -> None:
    entries = list(parse(TABLE))
    assert entries[1] == MountEntry(36, 22, "0:41", b"/mnt/a b", b"fuse.tierfs", rb"s3://b/c\d")
    assert [e.fs_type for e in entries] == [b"ext4", b"fuse.tierfs", b"tmpfs", b"autofs"]


def test_unescape_leaves_other_backslashes_and_bytes() -> None:
    assert unescape(rb"\011\012\043\xff\9" + b"\xff") == b"\t\n#" + rb"\xff\9" + b"\xff"


def test_topmost_is_what_a_path_walk_reaches() -> None:
    entries = list(parse(TABLE))
    assert topmost(b"/mnt/a b", entries) == entries[2]
    assert topmost(b"/mnt/a b", entries[1::-1]) == entries[1]
    assert topmost(b"/mnt", entries) is None


def test_fusermount_options_protect_commas_and_backslashes() -> None:
    spec = mounting.MountSpec("s3://b/a,ro\\c", b"/mnt", allow_other=False, read_only=True)
    assert mounting.fusermount_options(spec) == (
        "nosuid,nodev,default_permissions,ro,max_read=1048576,subtype=tierfs,"
        r"fsname=s3://b/a\,ro\\c"
    )


@pytest.mark.parametrize(("uid", "shared"), [(0, True), (1000, False)])
def test_only_roots_mounts_are_for_everybody_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, shared: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    config = Config(url="s3://b", mountpoint=tmp_path, runtime_dir=tmp_path, cache=tmp_path)
    assert mounting.MountSpec.from_config(config).allow_other is shared
    told = Config(
        url="s3://b",
        mountpoint=tmp_path,
        runtime_dir=tmp_path,
        cache=tmp_path,
        allow_other=not shared,
    )
    assert mounting.MountSpec.from_config(told).allow_other is not shared


def test_mount_point_must_be_an_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(MountError, match=r"does not exist.*mkdir"):
        mountpoint.clear_mountpoint(bytes(tmp_path / "none"))
    (tmp_path / "file").touch()
    with pytest.raises(MountError, match="not a directory"):
        mountpoint.clear_mountpoint(bytes(tmp_path / "file"))
    with pytest.raises(MountError, match="not empty"):
        mountpoint.clear_mountpoint(bytes(tmp_path))
    assert mountpoint.clear_mountpoint(bytes(tmp_path), nonempty=True) == 0


def test_automount_trigger_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening it would wait for the mount that we are about to make."""
    trigger = MountEntry(40, 22, "0:50", bytes(tmp_path / "none"), b"autofs", b"systemd-1")
    monkeypatch.setattr("tierfs.mountinfo.mounts", lambda: [trigger])
    assert mountpoint.clear_mountpoint(trigger.mountpoint) == 0


def test_missing_fuse_device_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: str, _flags: int) -> int:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(MountError, match="modprobe fuse"):
        mounting._open_fuse()


def test_user_without_fusermount_is_told_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    spec = mounting.MountSpec("s3://b", b"/mnt", allow_other=False)
    with pytest.raises(MountError, match="fuse3"):
        mounting._mount_as_user(spec)
