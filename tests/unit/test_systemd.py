"""The unit, its companions, and the command that puts them in place."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tierfs import cli
from tierfs.cli import install
from tierfs.config import Config
from tierfs.keeper import Timing

ROOT = Path(__file__).resolve().parents[2]
SYSTEMD = ROOT / "systemd"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    text = (SYSTEMD / "tierfs@.service").read_text()
    assert f"ExecStart={install.UNIT_PROGRAM} " in text
    unit = tmp_path / "tierfs@.service"
    unit.write_text(text.replace(install.UNIT_PROGRAM, sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "tierfs@lake.service")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # Warnings do not change the exit code: a key that systemd does not know is one.
    assert "tierfs@" not in done.stderr, done.stderr


def settings() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (SYSTEMD / "tierfs@.service").read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_nothing_hides_the_mount_in_a_namespace() -> None:
    namespaced = {
        "PrivateMounts",
        "PrivateTmp",
        "PrivateDevices",
        "ProtectSystem",
        "ProtectHome",
        "ProtectKernelTunables",
        "ProtectKernelModules",
        "ProtectKernelLogs",
        "ProtectControlGroups",
        "ProtectProc",
        "ReadWritePaths",
        "ReadOnlyPaths",
        "InaccessiblePaths",
        "DynamicUser",
        "RootDirectory",
        "MountFlags",
    }
    assert not namespaced & set(settings())


def test_jobs_are_told_apart() -> None:
    """By the programs that they run: `tierfs.readahead.processes`."""
    assert "CAP_SYS_PTRACE" in settings()["CapabilityBoundingSet"][0].split()


def test_a_lake_that_is_away_is_waited_for() -> None:
    """Starts that fail for that are further apart than what stops the service for good."""
    unit = settings()
    seconds = Config(url="file:///lake", mountpoint=Path("/mnt/lake")).request_timeout
    seconds += float(unit["RestartSec"][0])
    assert int(unit["StartLimitBurst"][0]) * seconds > int(unit["StartLimitIntervalSec"][0])


def test_the_service_is_supervised() -> None:
    unit = settings()
    assert unit["Type"] == ["notify"]
    assert unit["NotifyAccess"] == ["main"]
    assert unit["KillMode"] == ["mixed"]
    assert "--foreground" in unit["ExecStart"][0]
    assert {"WatchdogSec", "TimeoutStopSec", "StartLimitBurst", "LimitNOFILE"} <= set(unit)


def test_a_stop_may_take_as_long_as_the_keeper_waits() -> None:
    config = Config(url="file:///lake", mountpoint=Path("/mnt/lake"))
    timing = Timing(flush_s=config.unmount_flush)
    most_s = timing.drain_s + timing.end_s + timing.abort_s
    assert most_s < int(settings()["TimeoutStopSec"][0])


def test_the_example_is_a_configuration() -> None:
    example = SYSTEMD / "lake.toml"
    config = Config.assemble(file=example)
    assert config.url == "s3://bucket/datasets"
    # What is commented out must be right, too.
    text = example.read_text().replace("# endpoint", "endpoint").replace("# profile", "profile")
    assert tomllib.loads(text)["profile"] == "lab"


def test_no_secret_is_shipped() -> None:
    for line in (SYSTEMD / "lake.env").read_text().splitlines():
        assert line.startswith("#")


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("tierfs", "mount.tierfs", "umount.tierfs"):
        (directory / name).touch()
    monkeypatch.setattr(sys, "argv", [str(directory / "tierfs")])
    return directory


def test_install_and_uninstall(tmp_path: Path, scripts: Path) -> None:
    prefix = tmp_path / "root"
    for _ in range(2):
        assert cli.main(["install", "--prefix", str(prefix)]) == 0
    for name, script in install.LINKS.items():
        assert (prefix / "sbin" / name).readlink() == scripts / script
    assert (prefix / install.FILES["lake.env"]).stat().st_mode & 0o777 == 0o600
    unit = (prefix / install.FILES["tierfs@.service"]).read_text()
    assert f"ExecStart={scripts}/tierfs mount" in unit
    assert install.UNIT_PROGRAM not in unit
    assert cli.main(["install", "--uninstall", "--prefix", str(prefix)]) == 0
    assert not [path for path in prefix.rglob("*") if not path.is_dir()]


def test_install_leaves_foreign_files_alone(
    tmp_path: Path, scripts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = tmp_path / "root" / "sbin" / "mount.tierfs"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("#!/bin/sh\n")
    for argv in (["install"], ["install", "--uninstall"]):
        assert cli.main([*argv, "--prefix", str(tmp_path / "root")]) == 1
        assert "will not touch" in capsys.readouterr().err
    assert foreign.read_text() == "#!/bin/sh\n"
    assert os.listdir(foreign.parent) == ["mount.tierfs"]


def test_install_where_nothing_can_be_made(
    tmp_path: Path, scripts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert cli.main(["install", "--prefix", str(tmp_path / "file")]) == 1
    message = capsys.readouterr().err
    assert "--prefix" in message
    assert len(message.splitlines()) == 1


def test_install_without_scripts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "tierfs")])
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    assert cli.main(["install", "--prefix", str(tmp_path)]) == 1
