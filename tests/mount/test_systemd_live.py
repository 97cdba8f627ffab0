"""The units, the fstab entry and the tmpfiles under a systemd that runs, installed and used as the
README says. `SystemManager` makes it, out of reach of the machine's own."""

from __future__ import annotations

import json
import re
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mount import system_manager
from tests.mount.mounting import wait_until
from tests.mount.system_manager import SystemManager
from tierfs import mountinfo
from tierfs.front.program import native_front

_MISSING = system_manager.missing()
pytestmark = pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING))

TIERFS = Path(sys.executable).parent / "tierfs"
WORDS = "the bytes of the lake"


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemManager]:
    """A running systemd on which tierfs is installed."""
    with SystemManager(tmp_path_factory.mktemp("systemd")) as made:
        made.run(TIERFS, "install")
        made.run("systemd-tmpfiles", "--create", "tierfs.conf")
        made.systemctl("daemon-reload")
        yield made


@dataclass
class Lake:
    """A lake with one file, and where one unit shows it."""

    manager: SystemManager
    name: str
    unit: str

    @property
    def mountpoint(self) -> str:
        return f"/mnt/{self.name}"

    @property
    def directory(self) -> Path:
        return self.manager.directory / self.name

    def make(self) -> None:
        (self.directory / "lake").mkdir(parents=True)
        (self.directory / "lake" / "f").write_text(WORDS)
        self.manager.inside(self.mountpoint).mkdir()

    def write_configuration(self, *lines: str) -> None:
        text = (
            f'url = "file://{self.directory}/lake"\nmountpoint = "{self.mountpoint}"\n'
            f'cache = "{self.directory}/cache"\ncache_size = "1G"\n'
        )
        self.manager.write(f"/etc/tierfs/{self.name}.toml", text + "\n".join(lines))

    def write_drop_in(self, text: str) -> None:
        self.manager.write(system_manager.UNITS / f"{self.unit}.d" / "test.conf", text)
        self.manager.systemctl("daemon-reload")

    def read(self) -> str:
        return self.manager.read(f"{self.mountpoint}/f")

    def answers(self) -> bool:
        """Whether a read gives the right bytes; an error is a no, a hang fails the test."""
        done = self.manager.run("cat", f"{self.mountpoint}/f", check=False, timeout_s=30)
        assert done.returncode or done.stdout == WORDS
        return done.returncode == 0

    def show(self, name: str) -> str:
        return self.manager.show(self.unit, name)

    def processes(self) -> dict[str, int]:
        """The pids of keeper and control plane."""
        told = self.manager.run(TIERFS, "status", self.mountpoint, "--json").stdout
        pids: dict[str, int] = json.loads(told)["pids"]
        return pids

    def mounts(self) -> list[bytes]:
        """What is mounted on the directory, bottom first."""
        return [entry.fs_type for entry in self.manager.mounts_on(self.mountpoint)]

    def ours(self) -> dict[int, list[str]]:
        """All processes of tierfs inside."""
        found = self.manager.processes().items()
        return {pid: argv for pid, argv in found if any("tierfs" in word for word in argv)}


@pytest.fixture
def lakes(
    manager: SystemManager, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], Lake]]:
    """Makes the lake of a test: named after it, and stopped behind it."""
    with ExitStack() as stack:

        def make(unit: str) -> Lake:
            name = re.sub(r"\W|_|^test", "", request.node.name)
            lake = Lake(manager, name, unit.format(name=name))
            lake.make()
            stack.callback(manager.systemctl, "stop", lake.unit, check=False)
            return lake

        yield make


@pytest.fixture
def service(lakes: Callable[[str], Lake]) -> Lake:
    """A lake with /etc/tierfs/NAME.toml, for tierfs@NAME, not started."""
    lake = lakes("tierfs@{name}.service")
    lake.write_configuration()
    return lake


@pytest.fixture
def automounted(lakes: Callable[[str], Lake]) -> Iterator[Lake]:
    """A lake in /etc/fstab whose automount waits for the first access."""
    if not Path("/dev/autofs").exists():
        pytest.skip("no autofs: /dev/autofs does not exist")
    lake = lakes("mnt-{name}.mount")
    options = f"cache={lake.directory}/cache,cache_size=1G,_netdev,nofail,x-systemd.automount"
    options += ",front=python"
    line = f"file://{lake.directory}/lake {lake.mountpoint} tierfs {options} 0 0\n"
    lake.manager.write("/etc/fstab", line)
    lake.manager.systemctl("daemon-reload")
    trigger = lake.unit.replace(".mount", ".automount")
    lake.manager.systemctl("start", trigger)
    assert lake.mounts() == [b"autofs"]
    yield lake
    lake.manager.systemctl("stop", lake.unit, trigger, check=False)
    lake.manager.write("/etc/fstab", "")
    lake.manager.systemctl("daemon-reload")


def test_no_systemd_is_started_that_sees_the_machine() -> None:
    """The guard of these tests: without it a mistake in them wipes the machine's /tmp."""
    machine = mountinfo.mounts()
    mounted = {entry.device for entry in machine}
    places = ["/", *system_manager.COVERED, "/usr/lib/systemd/system", "/proc", "/sys"]
    private = [
        mountinfo.MountEntry(number, 1, f"new:{number}", place.encode(), b"tmpfs", b"none")
        for number, place in enumerate(places, 2)
    ]
    # What is shared on purpose may not be one of these either.
    shared = [entry.mountpoint for entry in private]
    system_manager.refuse_unless_private(private, mounted, shared)
    for row in private:
        others = [entry for entry in private if entry is not row]
        own = row._replace(device=machine[0].device)
        for table in (others, [*others, own], [*private, own._replace(mountpoint=b"/else")]):
            with pytest.raises(RuntimeError, match="is the machine's own"):
                system_manager.refuse_unless_private(table, mounted, shared)


def test_the_service_serves_and_stops(service: Lake) -> None:
    service.manager.systemctl("start", service.unit)
    # Type=notify: start returned, so it answers; no waiting here.
    assert service.read() == WORDS
    assert service.show("StatusText") == f"serving file://{service.directory}/lake"
    assert service.show("SubState") == "running"
    assert service.processes()["keeper"] == int(service.show("MainPID"))
    assert service.mounts() == [b"fuse.tierfs"]
    service.manager.systemctl("stop", service.unit)
    assert service.mounts() == []
    assert service.ours() == {}
    assert service.show("ActiveState") == "inactive"
    assert service.show("Result") == "success"
    assert service.show("ExecMainStatus") == "0"


def test_a_restart_of_the_service(service: Lake) -> None:
    service.manager.systemctl("start", service.unit)
    first = service.processes()
    service.manager.systemctl("restart", service.unit)
    assert service.read() == WORDS
    assert not set(first.values()) & set(service.processes().values())
    assert service.mounts() == [b"fuse.tierfs"]


def test_an_unmount_by_hand_ends_the_service(service: Lake) -> None:
    service.manager.systemctl("start", service.unit)
    service.manager.run("umount", service.mountpoint)
    wait_until(lambda: service.show("ActiveState") == "inactive", "the service to end")
    assert service.show("Result") == "success"
    assert service.show("NRestarts") == "0"
    assert service.ours() == {}


def test_the_service_survives_its_control_plane(service: Lake) -> None:
    service.manager.systemctl("start", service.unit)
    first = service.processes()
    service.manager.kill(first["control"])
    wait_until(service.answers, "a fresh mount")
    second = service.processes()
    assert second["keeper"] == first["keeper"] == int(service.show("MainPID"))
    assert second["control"] != first["control"]
    assert service.show("NRestarts") == "0"
    assert service.mounts() == [b"fuse.tierfs"]


def test_a_killed_keeper_is_started_again(service: Lake) -> None:
    service.write_configuration('front = "python"')
    service.manager.systemctl("start", service.unit)
    first = service.processes()
    service.manager.kill(first["keeper"])
    wait_until(service.answers, "the service to be restarted")
    assert not set(first.values()) & set(service.processes().values())
    assert service.show("NRestarts") == "1"
    # The dead mount is gone, not covered.
    assert service.mounts() == [b"fuse.tierfs"]
    assert len(service.ours()) == 2


@pytest.fixture
def native(service: Lake) -> Lake:
    """The same lake with a native front."""
    if native_front() is None:
        pytest.skip("the native front is not built: no Rust toolchain")
    service.write_configuration('front = "native"')
    return service


def test_a_native_mount_outlives_its_keeper(native: Lake) -> None:
    native.write_drop_in("[Service]\nRestartSec=100ms\n")
    native.manager.systemctl("start", native.unit)
    told = native.manager.run(TIERFS, "status", native.mountpoint, "--json").stdout
    assert json.loads(told)["outlives_keeper"] is True
    first = native.processes()
    (entry,) = native.manager.mounts_on(native.mountpoint)
    # Holds the file open, kills the keeper, and goes on at once with it and with a new one.
    script = "exec 9<$2; kill -9 $1; cat $2 && cat <&9"
    path = f"{native.mountpoint}/f"
    done = native.manager.run("sh", "-c", script, "sh", str(first["keeper"]), path, timeout_s=60)
    assert done.stdout == WORDS * 2
    wait_until(lambda: native.show("SubState") == "running", "the service")
    second = native.processes()
    assert not set(first.values()) & set(second.values())
    assert native.show("NRestarts") == "1"
    assert native.manager.mounts_on(native.mountpoint) == [entry]
    assert "an earlier keeper died: going on with its mount" in native.manager.printed()
    native.manager.systemctl("stop", native.unit)
    assert native.mounts() == []
    assert native.ours() == {}


def test_a_native_service_restarts_and_stops(native: Lake) -> None:
    native.manager.systemctl("start", native.unit)
    first = native.processes()
    native.manager.systemctl("restart", native.unit)
    assert native.read() == WORDS
    assert not set(first.values()) & set(native.processes().values())
    # Nothing of the first mount was kept for the second one.
    assert native.mounts() == [b"fuse.tierfs"]
    native.manager.systemctl("stop", native.unit)
    assert native.mounts() == []
    assert native.ours() == {}


@pytest.mark.parametrize("stopped", ["keeper", "control"])
def test_the_watchdog(service: Lake, stopped: str) -> None:
    """Both must live: the keeper passes on what the control plane reports."""
    # With a native front the keeper itself replaces who hangs (test_keeper_native.py).
    service.write_configuration('front = "python"')
    # The control plane reports every 2 s.
    service.write_drop_in("[Service]\nWatchdogSec=5\nRestartSec=100ms\n")
    service.manager.systemctl("start", service.unit)
    first = service.processes()
    told = service.show("WatchdogTimestampMonotonic")
    wait_until(lambda: service.show("WatchdogTimestampMonotonic") != told, "a sign of life")
    assert service.show("NRestarts") == "0"
    service.manager.kill(first[stopped], signal.SIGSTOP)
    wait_until(lambda: service.show("NRestarts") != "0", "the watchdog", 60)
    wait_until(service.answers, "the service to be restarted")
    assert "Watchdog timeout" in service.manager.console()
    assert not set(first.values()) & set(service.ours())
    assert service.mounts() == [b"fuse.tierfs"]


def test_a_wrong_configuration_fails_at_once_and_says_why(service: Lake) -> None:
    service.write_configuration('cache_sise = "1G"')
    before = service.manager.printed()
    assert service.manager.systemctl("start", service.unit, check=False).returncode == 1
    assert service.show("ActiveState") == "failed"
    assert service.show("ExecMainStatus") == "2"
    assert service.show("NRestarts") == "0"
    (line,) = service.manager.printed().removeprefix(before).splitlines()
    assert "cache_sise" in line
    assert "cache_size" in line.partition("cache_sise")[2]
    assert service.mounts() == []


def test_tmpfiles_makes_the_directories(manager: SystemManager) -> None:
    root = manager.directory / "root"
    manager.run(TIERFS, "install", "--prefix", root)
    manager.run("sh", "-c", f"umask 0; exec systemd-tmpfiles --create --root={root} tierfs.conf")
    for place, mode in (("run/tierfs", 0o755), ("var/cache/tierfs", 0o750)):
        made = (root / place).stat()
        assert (stat.S_IMODE(made.st_mode), made.st_uid, made.st_gid) == (mode, 0, 0), place


def test_an_automount_mounts_at_the_first_access(automounted: Lake) -> None:
    assert automounted.ours() == {}
    assert automounted.read() == WORDS
    assert automounted.mounts() == [b"autofs", b"fuse.tierfs"]
    assert len(automounted.ours()) == 2
    automounted.manager.systemctl("stop", automounted.unit)
    assert automounted.ours() == {}
    assert automounted.mounts() == [b"autofs"]
    assert automounted.read() == WORDS
    automounted.manager.run("umount", automounted.mountpoint)
    assert automounted.ours() == {}
    assert automounted.read() == WORDS


def test_an_automount_outlives_the_control_plane(automounted: Lake) -> None:
    """And deaths in a row do not make systemd give up, which would show an empty directory."""
    # The rate that systemd bears by default, 5 in 10 s, so that two deaths are too many.
    automounted.write_drop_in("[Unit]\nStartLimitIntervalSec=4\nStartLimitBurst=2\n")
    path = f"{automounted.mountpoint}/f"
    # Kill, and go on reading until the bytes are there: the first read in the gap triggers.
    script = "kill -9 $1; n=0; until cat $2 2>&1; do n=$((n+1)); [ $n -lt 50000 ] || exit 1; done"
    assert automounted.read() == WORDS
    for _ in range(2):
        first = automounted.processes()
        kill = ["env", "LC_ALL=C", "sh", "-c", script, "sh", str(first["control"]), path]
        *errors, last = automounted.manager.run(*kill).stdout.splitlines()
        assert last == WORDS
        # Until the dead mount is detached; then nobody sees more of it than a short wait.
        lost = ("Transport endpoint is not connected", "Software caused connection abort")
        assert not [line for line in errors if not line.endswith(lost)]
        wait_until(lambda: len(automounted.ours()) == 2, "the old keeper to end")
        assert automounted.mounts() == [b"autofs", b"fuse.tierfs"]
        assert not set(first.values()) & set(automounted.processes().values())


def test_an_automount_whose_keeper_was_killed_mounts_again_after_umount(automounted: Lake) -> None:
    assert automounted.read() == WORDS
    automounted.manager.kill(automounted.processes()["keeper"])
    wait_until(lambda: not automounted.ours(), "the control plane to end")
    assert not automounted.answers()
    automounted.manager.run("umount", automounted.mountpoint)
    assert automounted.read() == WORDS
    assert automounted.mounts() == [b"autofs", b"fuse.tierfs"]
