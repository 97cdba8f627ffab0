"""The keeper with a fake control plane: mounts, deaths, signals, and nothing left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.mounting import detach, wait_until
from tests.mount.worlds import enter_user_world, in_child
from tierfs import keeper, mountinfo
from tierfs.config import Config
from tierfs.errors import MountError
from tierfs.keeper import fusectl, mounting, mountpoint

FAKE = Path(__file__).with_name("fake_control.py")
QUICK = keeper.Timing(
    watchdog_s=10.0,
    start_s=10.0,
    answer_s=5.0,
    drain_s=0.5,
    stop_s=2.0,
    abort_s=0.2,
    backoff_first_s=0.01,
    backoff_most_s=0.05,
    crash_window_s=60.0,
    crash_limit=4,
)


class Kept:
    """A mount point with at most one keeper, run in a child process of the test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / "mnt"
        self.directory.mkdir()
        self.config = Config(
            url="s3://bucket/a b,c",
            mountpoint=self.directory,
            runtime_dir=root / "run",
            front="python",
        )
        self.log = root / "stderr"
        self.pid = 0
        self.exit_code: int | None = None

    def run(
        self,
        mode: str = "serve",
        *,
        timing: keeper.Timing = QUICK,
        environment: dict[str, str] | None = None,
        uid: int = 0,
        wait: bool = True,
    ) -> Kept:
        """Start `keeper.run` with the fake in *mode*, and wait until the mount answers."""
        argv = (sys.executable, str(FAKE), mode, str(self.root / "marker"))
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                os.dup2(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), 2)
                os.environ.update(environment or {})
                if uid:
                    os.setgroups([])
                    os.setgid(uid)
                    os.setuid(uid)
                sys.stderr = sys.__stderr__
                code = keeper.run(self.config, control_argv=argv, timing=timing)
            finally:
                os._exit(code)
        self.exit_code = None
        if wait:
            wait_until(self.serving, f"the mount to be served; {self.said()}")
        return self

    def spawn(self, mode: str = "serve") -> tuple[int, str]:
        """`keeper.spawn` in a process of its own: exit code, and what it printed."""
        program = (
            "import sys; from tierfs import keeper; from tierfs.config import Config;"
            "sys.exit(keeper.spawn(Config.from_json(sys.argv[1]), control_argv=sys.argv[2:]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, self.config.to_json(), sys.executable, FAKE, mode],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        self.pid = keeper.keeper_pid(self.config.state_dir) or 0
        return done.returncode, done.stderr

    def serving(self) -> bool:
        assert not self.ended(), self.said()
        return self.state() == "serving"

    def state(self) -> str | None:
        """What this very keeper last wrote about itself."""
        try:
            record = json.loads((self.config.state_dir / "mount.json").read_bytes())
        except FileNotFoundError:
            return None
        return str(record["state"]) if record["pid"] == self.pid else None

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def control_pid(self) -> int:
        return int((self.directory / "pid").read_bytes())

    def served_by_another_than(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            return self.control_pid() != pid
        return False

    def mounted(self) -> list[mountinfo.MountEntry]:
        return [e for e in mountinfo.mounts() if e.mountpoint == bytes(self.directory)]

    def ended(self) -> bool:
        if self.exit_code is None and self.pid:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.exit_code = os.waitstatus_to_exitcode(status)
        return self.exit_code is not None

    def result(self) -> int:
        """Wait for the end: the exit code, with nothing left behind."""
        wait_until(self.ended, f"the keeper to end; {self.said()}")
        assert not self.mounted()
        assert keeper.keeper_pid(self.config.state_dir) is None
        assert not (self.config.state_dir / "keeper.pid").exists()
        assert self.exit_code is not None
        return self.exit_code

    def clean(self) -> None:
        """Whatever the test did: no process, no mount."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            if self.pid and self.exit_code is None:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
        detach(self.directory)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path)
    yield made
    made.clean()


@contextlib.contextmanager
def held_open(kept: Kept) -> Iterator[int]:
    """An open file of the mount, closed at the end even if its daemon is dead by then."""
    fd = os.open(kept.directory / "pid", os.O_RDONLY)
    try:
        yield fd
    finally:
        with contextlib.suppress(OSError):  # FLUSH to a dead daemon: closed all the same.
            os.close(fd)


def gone(pid: int) -> Callable[[], bool]:
    def check() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    return check


def background_limits(device: str) -> tuple[int, ...]:
    """What the kernel says of the connection behind *device*."""
    root = fusectl._mount_nowhere()
    try:
        found = []
        for name in ("max_background", "congestion_threshold"):
            path = f"{device.partition(':')[2]}/{name}"
            with open(os.open(path, os.O_RDONLY, dir_fd=root)) as file:
                found.append(int(file.read()))
        return tuple(found)
    finally:
        os.close(root)


def test_mount_is_made_served_and_ended_by_umount(kept: Kept) -> None:
    kept.run()
    (entry,) = kept.mounted()
    assert entry.fs_type == b"fuse.tierfs"
    assert entry.source == b"s3://bucket/a b,c"
    options = Path("/proc/self/mounts").read_text()
    line = next(line for line in options.splitlines() if str(kept.directory) in line)
    for option in ("nosuid", "nodev", "default_permissions", "allow_other", "max_read=1048576"):
        assert option in line
    read_ahead = Path(f"/sys/class/bdi/{entry.device}/read_ahead_kb")
    assert int(read_ahead.read_text()) == mounting.READ_AHEAD_KB
    assert background_limits(entry.device) == (
        mounting.MAX_BACKGROUND,
        mounting.CONGESTION_THRESHOLD,
    )
    control = kept.control_pid()
    assert keeper.keeper_pid(kept.config.state_dir) == kept.pid
    assert subprocess.run(["umount", "-i", kept.directory], check=False).returncode == 0
    assert kept.result() == 0
    assert gone(control)()


def test_control_plane_is_given_only_what_it_needs(kept: Kept) -> None:
    kept.run("environment", environment={"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "9000000"})
    given = json.loads((kept.directory / "pid").read_bytes())
    assert given["death_signal"] == signal.SIGKILL
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & set(given["environment"])
    assert kept.config.url not in " ".join(given["argv"])
    assert given["files"]["0"] == "/dev/null"
    others = sorted(given["files"][fd].split(":")[0] for fd in given["files"] if int(fd) > 2)
    assert others == ["/dev/fuse", "/memfd", "pipe"]


def test_killed_control_plane_means_a_fresh_mount(kept: Kept) -> None:
    kept.run()
    (before,) = kept.mounted()
    first = kept.control_pid()
    with held_open(kept) as held:
        os.kill(first, signal.SIGKILL)

        wait_until(lambda: kept.served_by_another_than(first), "a second control plane")
        with pytest.raises(OSError, match="Transport endpoint") as caught:
            os.read(held, 1)
        assert caught.value.errno == errno.ENOTCONN
        (after,) = kept.mounted()
        assert after.mount_id != before.mount_id
    assert "SIGKILL" in kept.said()


def test_crash_loop_gives_up_and_unmounts(kept: Kept) -> None:
    kept.run("crash-later")
    os.kill(kept.control_pid(), signal.SIGKILL)
    assert kept.result() == 1
    last = kept.said().splitlines()[-1]
    assert "died 4 times" in last
    assert "error" in last


def test_sigterm_unmounts(kept: Kept) -> None:
    kept.run()
    control = kept.control_pid()
    os.kill(kept.pid, signal.SIGTERM)
    assert kept.result() == 0
    assert gone(control)()


def test_sigterm_serves_readers_until_the_drain_deadline_then_detaches(kept: Kept) -> None:
    kept.run(timing=dataclasses.replace(QUICK, drain_s=5.0))
    with held_open(kept) as held:
        os.kill(kept.pid, signal.SIGTERM)
        wait_until(lambda: "draining" in kept.said(), "draining")
        assert os.read(held, 1)
        assert kept.result() == 0
        with pytest.raises(OSError, match="Transport endpoint"):
            os.read(held, 1)
    assert "still in use" in kept.said()


def test_second_sigterm_does_not_wait(kept: Kept) -> None:
    kept.run(timing=keeper.Timing(drain_s=60, stop_s=60))
    with held_open(kept):
        os.kill(kept.pid, signal.SIGTERM)
        wait_until(lambda: "draining" in kept.said(), "draining")
        os.kill(kept.pid, signal.SIGTERM)
        assert kept.result() == 0


def test_stopped_control_plane_is_killed_and_replaced(kept: Kept) -> None:
    kept.run(timing=dataclasses.replace(QUICK, watchdog_s=1.0))
    first = kept.control_pid()
    os.kill(first, signal.SIGSTOP)
    wait_until(gone(first), "the watchdog")
    wait_until(lambda: kept.served_by_another_than(first), "a fresh mount")
    assert "said nothing for 1 s" in kept.said()


def test_control_plane_that_never_says_alive_is_replaced(kept: Kept) -> None:
    kept.run("silent", timing=dataclasses.replace(QUICK, watchdog_s=0.1), wait=False)
    assert kept.result() == 1  # Again and again, until the crash loop's bound.
    assert "said nothing for 0.1 s" in kept.said()


def test_control_plane_that_does_not_answer_never_makes_a_mount_ready(kept: Kept) -> None:
    kept.run("mute", timing=keeper.Timing(answer_s=0.5, abort_s=0.0), wait=False)
    assert kept.result() == 1
    assert "did not answer" in kept.said()


def test_sighup_is_ignored(kept: Kept) -> None:
    kept.run()
    os.kill(kept.pid, signal.SIGHUP)
    wait_until(lambda: "SIGHUP" in kept.said(), "the log line")
    assert kept.control_pid()


def test_killed_keeper_takes_its_control_plane_along_and_the_next_cleans_up(kept: Kept) -> None:
    kept.run()
    control = kept.control_pid()
    os.kill(kept.pid, signal.SIGKILL)
    wait_until(kept.ended, "the keeper's death")
    wait_until(gone(control), "PDEATHSIG")
    assert kept.mounted()
    with pytest.raises(OSError, match="Transport endpoint"):
        os.statvfs(kept.directory)
    assert keeper.keeper_pid(kept.config.state_dir) is None
    kept.run()
    assert len(kept.mounted()) == 1
    assert "dead mount" in kept.said()


def test_second_keeper_is_refused(kept: Kept, capfd: pytest.CaptureFixture[str]) -> None:
    kept.run()
    assert keeper.run(kept.config) == 1
    assert f"pid {kept.pid}" in capfd.readouterr().err
    other = Config(url="s3://x", mountpoint=kept.directory, runtime_dir=kept.root / "run2")
    assert keeper.run(other) == 1
    assert "already mounted" in capfd.readouterr().err
    assert kept.control_pid()


def test_foreign_file_system_on_the_mount_point_is_refused(kept: Kept) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", kept.directory], check=True)
    with pytest.raises(MountError, match="tmpfs"):
        mountpoint.clear_mountpoint(bytes(kept.directory))
    assert kept.mounted()


def test_mount_that_does_not_answer_is_refused(kept: Kept) -> None:
    """Nobody reads this mount's requests; the check must come back all the same."""
    spec = mounting.MountSpec("s3://b", bytes(kept.directory), allow_other=False)
    mount = mounting.make_mount(spec)
    with pytest.raises(MountError, match="does not answer"):
        mountpoint.clear_mountpoint(spec.mountpoint, probe_s=0.2)
    with pytest.raises(MountError, match="does not answer"):
        # Another one, of which we know that it is dead.
        mountpoint.clear_mountpoint(spec.mountpoint, probe_s=0.2, orphan=[1, mount.device])
    mount.close()
    assert mountpoint.clear_mountpoint(spec.mountpoint) == 1
    assert not kept.mounted()


def test_mount_that_does_not_answer_and_has_lost_its_keeper_is_cut_off(kept: Kept) -> None:
    spec = mounting.MountSpec("s3://b", bytes(kept.directory), allow_other=False)
    mount = mounting.make_mount(spec)
    orphan = [mount.mount_id, mount.device]
    assert mountpoint.clear_mountpoint(spec.mountpoint, probe_s=0.2, orphan=orphan) == 1
    assert not kept.mounted()
    mount.close()


def test_service_manager_is_told(kept: Kept) -> None:
    """READY, watchdog and STOPPING, over an abstract socket as systemd may use one."""
    name = f"tierfs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        manager.settimeout(10)
        environment = {"NOTIFY_SOCKET": "@" + name, "WATCHDOG_USEC": "60000000"}
        kept.run(environment=environment)
        told: list[str] = []

        def hear(wanted: str) -> None:
            while not any(wanted in message.splitlines() for message in told):
                told.append(manager.recv(4096).decode())

        hear("READY=1")
        ready = next(message for message in told if "READY=1" in message)
        assert f"MAINPID={kept.pid}" in ready
        assert "STATUS=serving s3://bucket/a b,c" in ready
        told.clear()
        hear("WATCHDOG=1")
        os.kill(kept.pid, signal.SIGTERM)
        hear("STOPPING=1")
        assert kept.result() == 0


def test_service_manager_is_told_how_long_a_flush_may_take(kept: Kept) -> None:
    name = f"tierfs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        manager.settimeout(10)
        timing = dataclasses.replace(QUICK, flush_s=3600.0)
        kept.run(environment={"NOTIFY_SOCKET": "@" + name}, timing=timing)
        os.kill(kept.pid, signal.SIGTERM)
        message = ""
        while "STOPPING=1" not in message:
            message = manager.recv(4096).decode()
        (told,) = [line for line in message.splitlines() if line.startswith("EXTEND_TIMEOUT_USEC")]
        assert int(told.partition("=")[2]) > 3600_000_000
        assert kept.result() == 0


def test_a_slow_start_is_vouched_for_by_the_keeper(kept: Kept) -> None:
    """Until the start's own deadline: or an outage of the lake would cost the whole service."""
    name = f"tierfs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        manager.settimeout(10)
        environment = {"NOTIFY_SOCKET": "@" + name, "WATCHDOG_USEC": "60000000"}
        timing = dataclasses.replace(QUICK, start_s=60.0, pulse_s=0.1)
        kept.run("slow-later", environment=environment, timing=timing)
        os.kill(kept.control_pid(), signal.SIGKILL)
        wait_until(lambda: kept.state() == "starting", "the silent start")
        manager.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while manager.recv(4096):
                pass  # What was said before.
        manager.settimeout(10)
        for _ in range(3):
            assert manager.recv(4096) == b"WATCHDOG=1"
        assert kept.state() == "starting"
        (kept.root / "marker").unlink()
        wait_until(kept.serving, "the end of the start")


def test_silence_is_not_forwarded_to_the_service_manager(kept: Kept) -> None:
    name = f"tierfs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        environment = {"NOTIFY_SOCKET": "@" + name, "WATCHDOG_USEC": "60000000"}
        kept.run(environment=environment, timing=keeper.Timing())
        os.kill(kept.control_pid(), signal.SIGSTOP)
        manager.settimeout(0.5)
        told = None
        with contextlib.suppress(TimeoutError):
            while told != b"":
                told = manager.recv(4096)
        assert told is None or told.startswith((b"WATCHDOG", b"READY"))


def test_spawn_returns_when_the_mount_answers(kept: Kept) -> None:
    code, said = kept.spawn()
    assert (code, said) == (0, "")
    control = kept.control_pid()
    os.kill(kept.pid, signal.SIGTERM)
    assert keeper.wait_until_gone(kept.config.state_dir, 10)
    assert not kept.mounted()
    assert gone(control)()
    assert "serving" in (kept.config.state_dir / "tierfs.log").read_text()
    kept.pid = 0


@pytest.mark.parametrize(
    ("mode", "words"),
    [("error", "no such bucket: s3://bucket/a b,c (make it)"), ("vanish", "failed to start")],
)
def test_spawn_prints_the_control_planes_error(kept: Kept, mode: str, words: str) -> None:
    code, said = kept.spawn(mode)
    assert code == 1
    assert len(said.splitlines()) == 1
    assert words in said
    assert not kept.mounted()


def test_lazy_unmount_serves_open_files_to_the_end(kept: Kept) -> None:
    kept.run()
    with held_open(kept) as held:
        subprocess.run(["umount", "-i", "-l", kept.directory], check=True)
        assert os.read(held, 1)
        assert not kept.ended()
    assert kept.result() == 0


def test_umount_of_a_dead_mount_is_not_undone(kept: Kept) -> None:
    """K7: whoever unmounts while the control plane is dead means it."""
    slow = dataclasses.replace(QUICK, backoff_first_s=8.0, backoff_most_s=8.0)
    kept.run(timing=slow)
    os.kill(kept.control_pid(), signal.SIGKILL)
    wait_until(lambda: (kept.state() or "").startswith("waiting"), "the back-off")
    with pytest.raises(OSError, match="Transport endpoint"):  # K6: not an empty directory.
        list(kept.directory.iterdir())
    subprocess.run(["umount", "-i", kept.directory], check=True)
    assert kept.result() == 0


def test_sigterm_between_two_control_planes(kept: Kept) -> None:
    kept.run(timing=dataclasses.replace(QUICK, backoff_first_s=60.0, backoff_most_s=60.0))
    os.kill(kept.control_pid(), signal.SIGKILL)
    wait_until(lambda: (kept.state() or "").startswith("waiting"), "the back-off")
    os.kill(kept.pid, signal.SIGTERM)
    assert kept.result() == 0


def test_bind_mount_does_not_keep_a_keeper_from_ending(kept: Kept) -> None:
    """Another mount of the same file system is not ours: SIGTERM ends the service all the same."""
    kept.run()
    copy = kept.root / "copy"
    copy.mkdir()
    subprocess.run(["mount", "--bind", kept.directory, copy], check=True)
    try:
        os.kill(kept.pid, signal.SIGTERM)
        assert kept.result() == 0
        with pytest.raises(OSError, match="Transport endpoint"):
            os.statvfs(copy)
    finally:
        detach(copy)


def test_mount_covered_by_another_is_left_and_said(kept: Kept) -> None:
    kept.run()
    subprocess.run(["mount", "-t", "tmpfs", "none", kept.directory], check=True)
    os.kill(kept.pid, signal.SIGTERM)
    wait_until(kept.ended, "the keeper to end")
    assert kept.exit_code == 1
    assert "covered by another" in kept.said()
    assert [e.fs_type for e in kept.mounted()] == [b"fuse.tierfs", b"tmpfs"]


def test_missing_program_is_an_error_and_no_mount(kept: Kept) -> None:
    missing = (str(kept.root / "none"),)
    kept.pid = os.fork()
    if kept.pid == 0:
        os.dup2(os.open(kept.log, os.O_WRONLY | os.O_CREAT), 2)
        os._exit(keeper.run(kept.config, control_argv=missing, timing=QUICK))
    assert kept.result() == 1
    assert f"cannot start {missing[0]}" in kept.said()


def test_sigterm_while_the_mount_is_made_is_not_lost(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = mounting.make_mount

    def interrupted(spec: mounting.MountSpec) -> mounting.Mount:
        made = make(spec)
        os.kill(os.getpid(), signal.SIGTERM)
        return made

    monkeypatch.setattr("tierfs.keeper.make_mount", interrupted)
    kept.run(wait=False)
    assert kept.result() == 0


def test_an_ended_mount_spares_the_next_with_its_numbers(tmp_path: Path) -> None:
    in_child(lambda: _act_after_the_end(tmp_path))


def _act_after_the_end(tmp_path: Path) -> None:
    """Mounts and connections have the lowest free numbers: the next mount gets the ended one's."""
    enter_user_world(tmp_path)
    connections = "/sys/fs/fuse/connections"
    if not os.path.ismount(connections):
        subprocess.run(["mount", "-t", "fusectl", "none", connections], check=True)

    def make(name: str) -> mounting.Mount:
        directory = tmp_path / name
        directory.mkdir()
        spec = mounting.MountSpec("s3://bucket", os.fsencode(directory), allow_other=False)
        return mounting.make_mount(spec)

    def numbers(mount: mounting.Mount) -> tuple[int, str]:
        row = mountinfo.topmost(mount.spec.mountpoint)
        assert row is not None
        return row.mount_id, row.device

    def ended(mount: mounting.Mount) -> bool:
        poll = select.poll()
        poll.register(mount.fuse_fd, 0)
        return bool(poll.poll(0))

    first = make("first")
    wanted = numbers(first)
    first._close_root()  # As when it has answered: the descriptor would keep the numbers taken.
    detach(tmp_path / "first")
    others: list[mounting.Mount] = []
    try:
        # Mounts that other programs make meanwhile may take the numbers first.
        while not others or (numbers(others[-1]) != wanted and len(others) < 50):
            others.append(make(f"other{len(others)}"))
        heir = others[-1]
        assert numbers(heir) == wanted
        assert not first.present
        assert first.unmount(lazily=True)
        assert heir.present
        first.abort()
        assert not ended(heir)
        heir.abort()
        assert ended(heir)
        assert heir.present, "a dead mount is there until it is unmounted"
    finally:
        first.close()
        for n, other in enumerate(others):
            detach(tmp_path / f"other{n}")
            other.close()


def test_user_mounts_through_fusermount3(tmp_path: Path) -> None:
    if shutil.which("fusermount3") is None:
        pytest.skip("fusermount3 is not installed")
    in_child(lambda: _mount_as_user(tmp_path))


def _mount_as_user(tmp_path: Path) -> None:
    root = enter_user_world(tmp_path) / "user"
    root.mkdir()
    kept = Kept(root)
    for path in (root, kept.directory):
        os.chown(path, 1000, 1000)
    try:
        kept.run(uid=1000)
        (entry,) = kept.mounted()
        assert (entry.fs_type, entry.source) == (b"fuse.tierfs", b"s3://bucket/a b,c")
        table = Path("/proc/self/mounts").read_text().splitlines()
        (line,) = [line for line in table if str(kept.directory) in line]
        for option in ("nosuid", "nodev", "user_id=1000", "default_permissions"):
            assert option in line
        assert "max_read=1048576" in line
        assert "allow_other" not in line
        os.kill(kept.pid, signal.SIGTERM)
        assert kept.result() == 0
    finally:
        kept.clean()
