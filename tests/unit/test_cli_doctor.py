"""Each check of `doctor`: when it is content, and what it advises when it is not."""

from __future__ import annotations

import errno
import json
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from tierfs import cli
from tierfs.cli import checks, doctor, lake_checks
from tierfs.cli.checks import Level, Result
from tierfs.cli.install import LINKS
from tierfs.config import Config
from tierfs.control.client import Mount
from tierfs.errors import LakeDenied, LakeUnavailable


def test_kernels() -> None:
    assert checks.kernel("4.19.0-5").level is Level.FAIL
    assert "copied" in checks.kernel("5.15.0-91-generic").message
    assert "pass-through" in checks.kernel("6.10.3").message
    assert checks.kernel("nonsense").level is Level.FAIL


def test_the_device(tmp_path: Path) -> None:
    result = checks.fuse_device(tmp_path / "fuse")
    assert (result.level, "modprobe" in result.remedy) == (Level.FAIL, True)


def test_capabilities(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tx\nCapEff:\t000001ffffffffff\n")
    assert checks.capabilities(status, euid=0).level is Level.OK
    status.write_text("Name:\tx\nCapEff:\t00000000a80425fb\n")
    result = checks.capabilities(status, euid=0)
    assert (result.level, "--cap-add SYS_ADMIN" in result.remedy) == (Level.FAIL, True)
    assert checks.capabilities(status, euid=1000).level is Level.OK


def test_user_mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = tmp_path / "fuse.conf"
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/fusermount3")
    assert "user_allow_other" in checks.user_mounts(conf).remedy
    conf.write_text("user_allow_other\n")
    assert not checks.user_mounts(conf).remedy
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert checks.user_mounts(conf, euid=0).level is Level.WARN
    assert checks.user_mounts(conf, euid=1000).level is Level.FAIL


def test_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (256, 1024))
    assert checks.open_files().level is Level.WARN
    monkeypatch.setattr("resource.getrlimit", lambda _: (256, 1 << 20))
    assert checks.open_files().level is Level.OK


def test_the_cache_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def on(kind: str) -> Result:
        mount = Mount(tmp_path, "x", kind, 0)
        monkeypatch.setattr(checks, "mount_of", lambda _: mount)
        return checks.cache_disk(tmp_path / "not" / "yet")

    monkeypatch.setattr(checks, "_rotates", lambda _: False)
    monkeypatch.setattr(checks, "MIN_CACHE_FREE_BYTES", 1)
    assert on("ext4").level is Level.OK
    assert not (tmp_path / "not").exists()
    assert on("nfs4").level is Level.FAIL
    assert on("fuse.sshfs").level is Level.FAIL
    assert on("overlay").level is Level.WARN
    monkeypatch.setattr(checks, "_rotates", lambda _: True)
    assert "NVMe" in on("ext4").remedy
    monkeypatch.setattr(checks, "MIN_CACHE_FREE_BYTES", 1 << 62)
    assert "free some space" in on("ext4").remedy
    (tmp_path / "file").touch()
    assert checks.cache_disk(tmp_path / "file").level is Level.FAIL


def test_the_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(tmp_path) in checks.front(tmp_path).message
    monkeypatch.setattr(checks, "native_front", lambda: None)
    result = checks.front()
    assert (result.level, "Rust" in result.remedy) == (Level.OK, True)


def test_updatedb(tmp_path: Path) -> None:
    conf = tmp_path / "updatedb.conf"
    assert checks.updatedb(conf).level is Level.OK
    conf.write_text('PRUNEFS="NFS fuse.glusterfs"\n')
    result = checks.updatedb(conf)
    assert (result.level, "fuse.tierfs" in result.remedy) == (Level.WARN, True)
    conf.write_text('# PRUNEFS="x"\nPRUNEFS = "NFS fuse.tierfs"\n')
    assert checks.updatedb(conf).level is Level.OK


def test_mount_helpers(tmp_path: Path) -> None:
    assert "tierfs install" in checks.mount_helpers(tmp_path).remedy
    for name in LINKS:
        (tmp_path / name).touch()
    assert checks.mount_helpers(tmp_path).level is Level.OK


@pytest.mark.parametrize(
    ("number", "level"),
    [(0, Level.OK), (errno.ENOTCONN, Level.FAIL), (errno.ETIMEDOUT, Level.FAIL)],
)
def test_dead_mounts(number: int, level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = Mount(Path("/mnt/lake"), "s3://b", "fuse.tierfs", 0)
    monkeypatch.setattr(checks, "our_mounts", lambda: [mount])
    (result,) = checks.dead_mounts(lambda _: number)
    assert result.level is level
    assert bool(result.remedy) == (level is Level.FAIL)


@pytest.mark.parametrize(
    ("off", "level"), [(0, Level.OK), (120, Level.WARN), (-120, Level.WARN), (3600, Level.FAIL)]
)
def test_clock_skew(off: float, level: Level) -> None:
    now = time.time()
    assert lake_checks.skew(formatdate(now, usegmt=True), now + off).level is level


def test_a_server_without_a_clock() -> None:
    assert lake_checks.skew("", 0).level is Level.WARN


def test_a_server_that_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    # Port 9 of the loopback: nobody listens.
    config = Config(url="s3://bucket", mountpoint=Path("/x"), endpoint="http://127.0.0.1:9")
    result = lake_checks.clock(config)
    assert result.level is Level.FAIL
    assert "cannot be asked" in result.message
    assert "endpoint" in result.remedy


def test_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    config = Config(url="s3://bucket", mountpoint=Path("/x"))
    result = lake_checks.credentials(config)
    assert result.level is Level.OK
    assert "hush" not in str(result)
    assert "AKIDEXAMPLE" not in str(result)
    anonymous = Config(url="s3://bucket", mountpoint=Path("/x"), anonymous=True)
    assert lake_checks.credentials(anonymous).level is Level.OK
    absent = Config(url="s3://bucket", mountpoint=Path("/x"), profile="no-such-profile")
    assert lake_checks.credentials(absent).level is Level.FAIL


def test_the_lake(tmp_path: Path) -> None:
    config = Config(url=f"file://{tmp_path}", mountpoint=Path("/x"))
    assert lake_checks.reach(config, lambda _: None).level is Level.OK

    def deny(_: Config) -> None:
        raise LakeDenied("list", "s3://bucket", "allow s3:ListBucket")

    result = lake_checks.reach(config, deny)
    assert (result.level, result.remedy) == (Level.FAIL, "allow s3:ListBucket")


def test_the_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results = [Result(Level.OK, "a", "fine"), Result(Level.WARN, "b", "hm", "do this")]
    monkeypatch.setattr(doctor, "_results", lambda config, cache: iter(results))
    assert cli.main(["doctor"]) == 0
    assert "-> do this" in capsys.readouterr().out
    results.append(Result(Level.FAIL, "c", "bad", "do that"))
    assert cli.main(["doctor", f"file://{tmp_path}", "--json", "--cache", "/nvme/c"]) == 1
    assert json.loads(capsys.readouterr().out)[2]["level"] == "fail"


def test_a_failed_check_shows_keys_as_text() -> None:
    result = checks.failed("lake", LakeUnavailable("list", b"data/\n", "no answer"))
    assert (result.message, result.remedy) == ("list: data/\\n", "no answer")
