"""The command line: what is asked, how errors are answered, and that it starts quickly."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tierfs import cli, keeper
from tierfs.cli import arguments, live, mount_helper, progress, reference, status, warmup
from tierfs.cli.mount_options import parse_mount_options
from tierfs.config import Config
from tierfs.control.client import Mount
from tierfs.errors import ConfigError, MountError

ROOT = Path(__file__).resolve().parents[2]


class FakeKeeper:
    """Stands for the keeper: remembers the configurations that it was started with."""

    def __init__(self, code: int = 0) -> None:
        self.code = code
        self.spawned: list[Config] = []
        self.ran: list[Config] = []

    def spawn(self, config: Config) -> int:
        self.spawned.append(config)
        return self.code

    def run(self, config: Config) -> int:
        self.ran.append(config)
        return self.code


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeKeeper:
    fake = FakeKeeper()
    monkeypatch.setattr(keeper, "spawn", fake.spawn)
    monkeypatch.setattr(keeper, "run", fake.run)
    monkeypatch.setattr("tierfs.cli.preflight.check_fuse_device", lambda: None)
    return fake


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("lake", "mnt"):
        (tmp_path / name).mkdir()
    return tmp_path


def flags(place: Path) -> list[str]:
    return [f"file://{place}/lake", f"{place}/mnt", "--cache", f"{place}/cache"]


# --- the overview -------------------------------------------------------------------------------


def test_help_shows_every_command_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in cli.COMMANDS)
    assert "tierfs mount s3://bucket" in text


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_itself_with_examples(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert f"tierfs {command}" in capsys.readouterr().out.partition("examples:")[2]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("tierfs ")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["mout"], "did you mean mount?"),
        (["mount", "--cache-sise", "1G"], "did you mean --cache-size?"),
        (["mount", "--cache_sise=1G"], "did you mean --cache-size?"),
        (["mount", "--secret-key", "x"], "credentials are never options"),
        (["mount", "-o", "cache_sise=1G", "s3://bucket", "/mnt/x"], "did you mean -o cache_size?"),
        (["mount"], "which lake?"),
        (["mount", "s3://bucket"], "mount it where?"),
        (["mount", "s3://bucket", "/mnt/x", "third"], "unexpected argument third"),
        (["umount"], "required: DIR"),
        (["evict"], "a PATH, or --all"),
        (["evict", "--all", "a", "b"], "one mount at most"),
        (["status", "--jsn"], "did you mean --json?"),
    ],
)
def test_a_wrong_question_is_answered_in_one_line_with_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("tierfs: ")
    assert error.count("\n") == 1


def test_without_a_command_the_overview_goes_to_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main([]) == 2
    assert "usage: tierfs" in capsys.readouterr().err


def test_it_starts_without_the_heavy_libraries() -> None:
    program = (
        "import sys, tierfs.cli, tierfs.cli.mount, tierfs.cli.status, tierfs.cli.doctor,"
        " tierfs.cli.mount_helper, tierfs.cli.umount, tierfs.cli.warmup, tierfs.keeper;"
        "tierfs.cli.main(['--help']);"
        "heavy = {'trio', 'boto3', 'botocore', 'obstore', 'lmdb', 'pyfuse3', 'asyncio'};"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_reference_is_current() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    assert text == reference.reference(), "run: python -m tierfs.cli reference"


# --- mount --------------------------------------------------------------------------------------


def test_mount_spawns_a_keeper(place: Path, fake: FakeKeeper) -> None:
    argv = ["mount", *flags(place), "--cache_size", "1G", "-o", "ro,metadata-ttl=inf,nofail"]
    assert cli.main(argv) == 0
    (config,) = fake.spawned
    assert (config.cache_size, config.read_only) == (1 << 30, True)
    assert config.mountpoint == place / "mnt"


def test_mount_in_the_foreground_runs_one(place: Path, fake: FakeKeeper) -> None:
    fake.code = 1
    assert cli.main(["mount", *flags(place), "--foreground", "--no-allow-other"]) == 1
    (config,) = fake.ran
    assert config.allow_other is False


def test_mount_reads_everything_from_a_file(place: Path, fake: FakeKeeper) -> None:
    file = place / "lake.toml"
    file.write_text(
        f'url = "file://{place}/lake"\nmountpoint = "{place}/mnt"\ncache = "{place}/cache"\n'
    )
    assert cli.main(["mount", "--config", str(file)]) == 0
    assert len(fake.spawned) == 1


def test_preflight_errors_end_in_1(
    place: Path, fake: FakeKeeper, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "mnt" / "file").touch()
    assert cli.main(["mount", *flags(place)]) == 1
    assert "not empty" in capsys.readouterr().err
    assert not fake.spawned


# --- mount.tierfs -------------------------------------------------------------------------------


def helper(place: Path, *more: str) -> int:
    return mount_helper.main([f"file://{place}/lake", f"{place}/mnt", *more])


def test_the_helper_takes_what_mount_passes(place: Path, fake: FakeKeeper) -> None:
    options = (
        f"rw,noatime,nosuid,nodev,cache={place}/cache,cache_size=1G,_netdev,nofail,noauto,user=me,"
        "x-systemd.automount,X-mount.mkdir,comment=hello,uid=1000,defaults,relatime"
    )
    assert helper(place, "-n", "-v", "-t", "fuse.tierfs", "-o", options) == 0
    (config,) = fake.spawned
    assert (config.uid, config.cache_size, config.read_only) == (1000, 1 << 30, False)


def test_the_helper_answers_32(
    place: Path, fake: FakeKeeper, capsys: pytest.CaptureFixture[str]
) -> None:
    assert helper(place, "-o", f"cache={place}/cache,cache_sise=1G") == 32
    assert "did you mean -o cache_size?" in capsys.readouterr().err
    assert helper(place, "-o", "remount,ro") == 32
    assert helper(place, "-N", "/proc/1/ns/mnt") == 32
    assert helper(place, "third") == 32
    assert mount_helper.main(["--no-such-flag"]) == 32
    fake.code = 1
    assert helper(place, "-o", f"cache={place}/cache") == 32


def test_sloppy_passes_over_unknown_options(place: Path, fake: FakeKeeper) -> None:
    assert helper(place, "-s", "-o", f"cache={place}/cache,cache_sise=1G,whatever") == 0
    assert helper(place, "-s", "-o", f"cache={place}/cache,cache_size=1") == 32


def test_fake_mounts_nothing(place: Path, fake: FakeKeeper) -> None:
    assert helper(place, "-f", "-o", f"cache={place}/cache") == 0
    assert not fake.spawned


def test_a_file_may_name_the_lake(place: Path, fake: FakeKeeper) -> None:
    file = place / "lake.toml"
    file.write_text(f'url = "file://{place}/lake"\ncache = "{place}/cache"\n')
    assert mount_helper.main(["lake", f"{place}/mnt", "-o", f"config={file}"]) == 0
    assert fake.spawned[0].url == f"file://{place}/lake"


def test_the_environment_of_mount_units_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", environment := {"OTHER": "1"})
    mount_helper.complete_environment()
    assert environment["HOME"]
    assert "/usr/bin" in environment["PATH"]


# --- -o -----------------------------------------------------------------------------------------


def test_labels_keep_their_commas() -> None:
    label = 'context="system_u:object_r:tmp_t:s0:c0,c1"'
    options = parse_mount_options([f"ro,{label},noexec"])
    assert options.security == [label]
    assert options.values == {"read_only": "true", "noexec": "true"}


def test_values_may_be_quoted_and_escaped() -> None:
    options = parse_mount_options(['cache="/a,b",region=x\\,y', "rw", "exec"])
    assert options.values == {
        "cache": "/a,b",
        "region": "x,y",
        "read_only": "false",
        "noexec": "false",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("remount", "unmount and mount again"),
        ("bind", "mount --bind"),
        ("cache_size", "cache_size=SIZE"),
        ("url=s3://x", "argument, not an option"),
        ("config", "config="),
        ('context="open', "not closed"),
        ("nofial", "did you mean -o nofail?"),
        ("allow_root", "did you mean -o allow_other?"),
        ("password=x", "credentials are never options"),
    ],
)
def test_wrong_mount_options(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_mount_options([text])
    assert message in str(caught.value)


# --- what live commands print -------------------------------------------------------------------


def test_status_for_people() -> None:
    text = status.render(
        {
            "lake": "s3://bucket",
            "mountpoint": "/mnt/lake",
            "uptime_s": 7265,
            "memory_bytes": 3 << 20,
            "read_only": True,
            "pids": {"keeper": 12345},
            "cache": {"hit_rate": 0.5, "blocks": 1234567, "bytes": 1 << 30},
            "namespace": {"hidden": {}, "hidden_keys": [{"key": "a//b", "reason": "empty"}]},
        }
    )
    assert text.splitlines()[0] == "s3://bucket on /mnt/lake"
    for part in ("2 h 1 m", "3.00 MiB", "yes", "12345", "50.0%", "1,234,567", "1.00 GiB", "a//b"):
        assert part in text


def test_status_of_a_mount_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mount = Mount(Path("/mnt/lake"), "s3://b", "fuse.tierfs", 0)
    monkeypatch.setattr(status, "our_mounts", lambda: [mount])

    def refuse(*_: object, **__: object) -> dict[str, Any]:
        raise MountError("cannot reach the mount", "/mnt/lake", "start it")

    monkeypatch.setattr(status, "call", refuse)
    assert cli.main(["status"]) == 1
    assert "/mnt/lake: no answer" in capsys.readouterr().out
    assert cli.main(["status", "--json"]) == 1
    assert '"error"' in capsys.readouterr().out


WARMED = {
    "objects": 4,
    "bytes": 4 << 20,
    "requests": 3,
    "cached_objects": 1,
    "cached_bytes": 1 << 20,
    "fetched_objects": 2,
    "fetched_bytes": 2 << 20,
    "failed": 1,
    "failures": [{"path": "a/b", "error": "gone"}],
}


def test_warmup_reports_what_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []
    mount = Mount(Path("/mnt/lake"), "s3://b", "fuse.tierfs", 0)
    monkeypatch.setattr(live, "find_mount", lambda path: (mount, b"x/\xff"))

    def answer(mount: Mount, command: str, args: dict[str, Any], **_: object) -> dict[str, Any]:
        asked.append((command, args))
        return WARMED

    monkeypatch.setattr(warmup, "call", answer)
    assert cli.main(["warmup", "/mnt/lake/x", "--dry-run"]) == 1
    assert asked == [("warmup", {"paths": ["x/\udcff"], "dry_run": True})]
    text = capsys.readouterr().out
    assert "a/b: gone" in text
    assert "to fetch" in text
    assert "3 requests" in text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_drawn_on_terminals_only() -> None:
    now = iter([0.0, 2.0])
    terminal = Terminal()
    line = progress.ProgressLine(terminal, now=lambda: next(now))
    line(WARMED)
    line.close()
    assert " 75%" in terminal.getvalue()
    assert "3/4 objects" in terminal.getvalue()
    assert "1.00 MiB/s" in terminal.getvalue()
    quiet = io.StringIO()
    line = progress.ProgressLine(quiet)
    line(WARMED)
    line.close()
    assert not quiet.getvalue()


def test_the_only_mount_needs_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Mount(Path("/mnt/a"), "s3://b", "fuse.tierfs", 0)
    two = Mount(Path("/mnt/b"), "s3://b", "fuse.tierfs", 0)
    monkeypatch.setattr(live, "mounts", lambda: [one])
    assert live.the_mount(None) == one
    monkeypatch.setattr(live, "mounts", lambda: [one, two])
    with pytest.raises(MountError, match="several"):
        live.the_mount(None)
    monkeypatch.setattr(live, "mounts", list)
    with pytest.raises(MountError, match="nothing is mounted"):
        live.the_mount(None)


def test_a_broken_pipe_is_no_traceback() -> None:
    done = subprocess.run(
        [
            "bash",
            "-c",
            f"{sys.executable} -m tierfs.cli reference | head -1; exit ${{PIPESTATUS[0]}}",
        ],
        capture_output=True,
        cwd=ROOT,
        text=True,
    )
    assert "Traceback" not in done.stderr
    assert done.stdout == "# Configuration\n"


def test_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(status, "run", interrupt)
    assert cli.main(["status"]) == 130


def test_flags_stand_for_every_option() -> None:
    parser = arguments.Parser("x", "y")
    arguments.add_options(parser)
    text = parser.format_help()
    from tierfs.options import ARGV, OPTIONS, POSITIONAL

    flags = [option for name, option in OPTIONS.items() if name not in POSITIONAL]
    assert all((option.flag in text) == (option.kind is not ARGV) for option in flags)
