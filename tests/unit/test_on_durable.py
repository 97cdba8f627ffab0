"""The hook: where its command may come from, what it is given, and that nobody waits for it."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.writing import PATIENCE_S, Lake, world
from tierfs import cli
from tierfs.cli.mount_options import parse_mount_options
from tierfs.config import Config
from tierfs.errors import ConfigError
from tierfs.writeback import on_durable, watch
from tierfs.writeback.episodes import Episode
from tierfs.writeback.on_durable import OnDurable

EPISODE = Episode(b"runs", 0, 1, 2, 3, 4, 3, 1234, 42, b"runs/a b;$(x)\n\xff{lsn}")

# ---- where it comes from -------------------------------------------------------------------------


def file_with(tmp_path: Path, command: str, mode: int = 0o600) -> Path:
    file = tmp_path / "lake.toml"
    text = f'url = "file:///lake"\nmountpoint = "/mnt/lake"\nwrite_back = "**"\n{command}\n'
    file.write_text(text)
    file.chmod(mode)
    return file


def test_a_command_comes_from_the_file_and_reaches_the_control_plane(tmp_path: Path) -> None:
    config = Config.assemble(
        file=file_with(tmp_path, 'on_durable = ["/bin/say", "{path}", "{x y}"]')
    )
    assert config.on_durable == ("/bin/say", "{path}", "{x y}")
    assert Config.from_json(config.to_json()) == config


def test_a_command_comes_from_nowhere_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["mount", "file:///lake", str(tmp_path), "--on-durable", "/bin/true"]
    assert cli.main(arguments) == 2
    assert "read from the file alone" in capsys.readouterr().err
    options = parse_mount_options(["on_durable=/bin/true"]).values
    with pytest.raises(ConfigError, match="read from the file alone"):
        Config.assemble(
            cli={"url": "file:///lake", "mountpoint": "/mnt/lake"}, mount_options=options
        )


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_gives_no_command(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match="chmod go-w"):
        Config.assemble(file=file_with(tmp_path, 'on_durable = ["/bin/true"]', mode))
    # Without a command it is as good as any.
    Config.assemble(file=file_with(tmp_path, "", mode))


@pytest.mark.parametrize(
    ("owner", "me", "fine"),
    [(0, 0, True), (7, 0, False), (0, 7, True), (7, 7, True), (7, 8, False)],
)
def test_a_file_of_another_user_gives_no_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: int, me: int, fine: bool
) -> None:
    file = file_with(tmp_path, 'on_durable = ["/bin/true"]')
    real = os.fstat

    def fstat(fd: int) -> os.stat_result:
        fields = list(real(fd))
        fields[4] = owner
        return os.stat_result(fields)

    monkeypatch.setattr(os, "fstat", fstat)
    monkeypatch.setattr(os, "geteuid", lambda: me)
    if fine:
        assert Config.assemble(file=file).on_durable == ("/bin/true",)
    else:
        with pytest.raises(ConfigError, match="chown it"):
            Config.assemble(file=file)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ('"/bin/true"', "array"),
        ("[]", "array of words"),
        ('["/bin/true", 1]', "array of words"),
        ('["/bin/true", ""]', "array of words"),
        ('["true"]', "absolute path"),
        ('["/{root}/x"]', "absolute path"),
        ('["/bin/true", "{key}"]', "{key} is none of"),
    ],
)
def test_a_command_that_cannot_be_meant_is_refused(
    tmp_path: Path, command: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.assemble(file=file_with(tmp_path, f"on_durable = {command}"))


def test_a_command_needs_something_that_is_written_back(tmp_path: Path) -> None:
    file = tmp_path / "lake.toml"
    file.write_text('url = "file:///lake"\nmountpoint = "/mnt/lake"\non_durable = ["/bin/true"]\n')
    with pytest.raises(ConfigError, match="nothing is written back"):
        Config.assemble(file=file)


# ---- what it is given ----------------------------------------------------------------------------


def test_names_are_one_argument_whatever_is_in_them() -> None:
    argv = ("/bin/say", "{root}", "at={path}", "{lsn} {files} {bytes}", "{", "x{}")
    assert OnDurable(argv, Path("/mnt/lake")).filled_in(EPISODE) == [
        b"/bin/say",
        b"/mnt/lake/runs",
        b"at=/mnt/lake/runs/a b;$(x)\n\xff{lsn}",
        b"42 3 1234",
        b"{",
        b"x{}",
    ]


def test_a_root_that_is_the_whole_mount_has_its_path() -> None:
    hook = OnDurable(("/bin/say", "{root}", "{path}"), Path("/mnt/lake"))
    whole = Episode(b"", last_path=b"dir/")
    assert hook.filled_in(whole)[1:] == [b"/mnt/lake", b"/mnt/lake/dir"]


REPORT = """
import json, os, sys
found = {
    "argv": sys.argv[2:], "environment": dict(os.environ), "cwd": os.getcwd(),
    "stdin": sys.stdin.read(), "files": sorted(os.listdir("/proc/self/fd")),
}
with open(sys.argv[1] + ".new", "w") as file:
    json.dump(found, file)
os.rename(sys.argv[1] + ".new", sys.argv[1])
"""


async def there(path: Path) -> None:
    with trio.fail_after(PATIENCE_S):
        while not path.exists():
            await trio.sleep(0.02)


async def test_it_runs_when_all_is_in_the_lake_and_has_no_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOK_S", 0.05)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy")
    out = tmp_path / "out"
    argv = (sys.executable, "-c", REPORT, str(out), "{root}", "{path}", "{files}", "{bytes}")
    hook = OnDurable(argv, Path("/mnt/lake"))
    lake, written = Lake(), trio.Event()

    async def before(op: str, key: bytes) -> None:
        await written.wait()  # Otherwise it is two, if this is slow.

    lake.before = before
    async with world(tmp_path / "cache", lake, "runs/**", on_durable=hook) as mount:
        await mount.mkdir(b"runs")
        await mount.write(b"runs/1", b"x" * 10)
        await mount.write(b"runs/latest", b"1")
        written.set()
        await there(out)
        assert lake.keys == [b"runs/", b"runs/1", b"runs/latest"]
    found: dict[str, Any] = json.loads(out.read_text())
    assert found["argv"] == ["/mnt/lake/runs", "/mnt/lake/runs/latest", "2", "11"]
    assert set(found["environment"]) <= {*on_durable.KEPT, "PWD", "LC_CTYPE"}
    assert (found["cwd"], found["stdin"]) == ("/", "")
    # The standard streams, and the directory that is listed.
    assert len(found["files"]) == 4


async def test_it_runs_before_the_mount_ends(tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = ("/usr/bin/touch", str(out))
    hook = OnDurable(argv, Path("/mnt/lake"))
    async with world(tmp_path / "cache", Lake(), on_durable=hook, unmount_flush_s=60.0) as mount:
        await mount.write(b"1", b"x")
        await mount.service.end()
        assert out.exists()


# ---- nobody waits for it -------------------------------------------------------------------------


async def test_a_command_that_hangs_is_killed_with_its_children_and_uploads_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch, "LOOK_S", 0.05)
    monkeypatch.setattr(on_durable, "TIMEOUT_S", 5.0)
    pid_file = tmp_path / "pid"
    script = f"sleep 1000 & echo $! > {pid_file}.new; mv {pid_file}.new {pid_file}; wait"
    hook = OnDurable(("/bin/sh", "-c", script), Path("/mnt/lake"))
    async with world(tmp_path / "cache", Lake(), on_durable=hook) as mount:
        await mount.write(b"1", b"x")
        await there(pid_file)
        await mount.write(b"2", b"y")
        assert await mount.flush()
        child = int(pid_file.read_text())
        with trio.fail_after(PATIENCE_S):
            while "was killed" not in caplog.text:
                await trio.sleep(0.05)
            while alive(child):
                await trio.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return b") Z" not in Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_command_that_may_not_be_killed_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As one with the set-uid bit is for the mount of a user."""
    monkeypatch.setattr(on_durable, "TIMEOUT_S", 0.05)
    monkeypatch.setattr(on_durable, "KILL_S", 0.05)
    end = tmp_path / "end"

    def refuse(pid: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "killpg", refuse)
    script = f"while ! test -e {end}; do sleep 0.05; done"
    hook = OnDurable(("/bin/sh", "-c", script), Path("/mnt/lake"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hook.run)
        with trio.fail_after(PATIENCE_S):
            for message in ("cannot be killed", "is not run"):
                hook.tell(EPISODE)
                await hook.finish()
                assert message in caplog.messages[-1]
            end.touch()
            assert hook._stuck is not None
            await hook._stuck.wait()
            monkeypatch.setattr(on_durable, "TIMEOUT_S", PATIENCE_S)
            hook.tell(EPISODE)
            await hook.finish()
        nursery.cancel_scope.cancel()
    assert len(caplog.messages) == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("/no/such/program",), "cannot run /no/such/program: No such file"),
        (("/bin/sh", "-c", "exit 3"), "/bin/sh ended with 3"),
        (("/bin/sh", "-c", "kill -9 $$"), f"/bin/sh ended with -{signal.SIGKILL:d}"),
    ],
)
async def test_what_fails_is_said_and_the_next_one_runs(
    argv: tuple[str, ...], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    hook = OnDurable(argv, Path("/mnt/lake"))
    async with trio.open_nursery() as nursery:
        hook.tell(EPISODE)
        hook.tell(EPISODE)
        nursery.start_soon(hook.run)
        with trio.fail_after(PATIENCE_S):
            await hook.finish()
        nursery.cancel_scope.cancel()
    assert [message in text for text in caplog.messages] == [True, True]


def test_more_than_wait_are_left_out_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        hook = OnDurable(("/bin/true",), Path("/mnt/lake"))
        for _ in range(on_durable.WAITING + 1):
            hook.tell(EPISODE)

    with caplog.at_level(logging.ERROR, "tierfs"):
        trio.run(main)
    (said,) = caplog.messages
    assert "is not run for /runs (lsn 42)" in said
