"""A systemd of its own for tests: pid 1 of private namespaces, over a root whose changes vanish.

`SystemManager` starts this module as a program, the *guardian*, which makes the namespaces::

    pytest -- stdin --> guardian -- pid 1 --> systemd, and all that it starts
                          keeps the console's log, removes the cgroup

The guardian kills everything when its standard input ends, so that not even a killed pytest leaves
a process, a mount, or a cgroup behind.

A systemd boots a machine: it starts what it finds, wipes ``/tmp``, sets the host's name, writes
sysctls and builds cgroups. None of that may reach the machine outside:

* its root is an overlay in memory, and the old root is gone from its mount table; of the machine
  it can write only the directory that the test gave it;
* it knows no units but the targets of `STANDARD_TARGETS` and those the test writes, and no
  generator but that of fstab, which is empty;
* its cgroup hierarchy begins at a cgroup made for it; network, host name and IPC are its own, and
  ``/proc/sys`` is read-only;
* `refuse_unless_private` looks at the mount table before systemd is started.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.mount.mounting import MNT_DETACH, wait_until
from tests.mount.worlds import CLONE_NEWNS, REPOSITORY
from tierfs import mountinfo

SYSTEMD = Path("/lib/systemd/systemd")
FSTAB_GENERATOR = Path("/usr/lib/systemd/system-generators/systemd-fstab-generator")
UNITS = Path("/run/systemd/system")
"""Where a test writes units, by this name inside."""

CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x02000000, 0x04000000, 0x08000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
NAMESPACES = ("--mount", "--pid", "--cgroup", "--uts", "--ipc", "--net")
PR_SET_PDEATHSIG = 1

#: Empty file systems in memory are put over these, should anything look past the overlay.
COVERED = (
    *("/tmp", "/var/tmp", "/var/log", "/var/cache", "/var/lib/systemd", "/run", "/mnt", "/dev"),
    *("/etc/systemd", "/usr/local/lib/systemd"),
)
#: Likewise, where they exist; they tell a systemd what to start.
INSTRUCTIONS = ("system", "system-generators", "user-generators", "system-environment-generators")
#: Kernel interfaces of which there is only one, whoever mounts it.
SINGLE = (b"cgroup2", b"fusectl")
DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "fuse", "autofs")
STANDARD_TARGETS = (
    *("sysinit", "basic", "multi-user", "shutdown", "umount", "emergency", "local-fs"),
    *("local-fs-pre", "remote-fs", "remote-fs-pre", "network", "network-online", "nss-lookup"),
    *("time-sync", "time-set", "swap", "sockets", "timers", "paths", "slices"),
)
IDLE_TARGET = "[Unit]\nDescription=Nothing\nDefaultDependencies=no\n"
#: There is no journal: what units print is in `SystemManager.printed`.
OUTPUT = "[{kind}]\nStandardOutput=append:{file}\nStandardError=append:{file}\n"

_libc = ctypes.CDLL(None, use_errno=True)


def missing() -> str | None:
    """Why no private systemd can be made here, or None."""
    if os.geteuid() != 0:
        return "a private systemd needs root"
    if not SYSTEMD.exists():
        return f"no systemd: {SYSTEMD} does not exist"
    for program in ("systemctl", "nsenter", "pivot_root"):
        if shutil.which(program) is None:
            return f"no {program}"
    # Not for this process: it stays where it is.
    tried = subprocess.run(
        ["unshare", *NAMESPACES, "--fork", "true"], capture_output=True, text=True, check=False
    )
    return f"namespaces are refused: {tried.stderr.strip()}" if tried.returncode else None


class SystemManager:
    """One private systemd; a context manager. *directory* is shared with it under its own name."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._guardian: subprocess.Popen[bytes] | None = None
        self._pid = 0

    def __enter__(self) -> SystemManager:
        self._guardian = subprocess.Popen(
            [sys.executable, "-m", __name__, self.directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
            start_new_session=True,  # ^C is for pytest, which then ends it in order.
        )
        assert self._guardian.stdout is not None
        try:
            line = self._guardian.stdout.readline()
            assert line, f"no private systemd; {self.console()}"
            self._pid = int(line)
            wait_until(self._booted, "systemd to boot", 30)
        except BaseException:
            print(self.console())
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill all of it and wait until nothing is left."""
        guardian, self._guardian = self._guardian, None
        if guardian is not None:
            assert guardian.stdin is not None
            assert guardian.stdout is not None
            guardian.stdin.close()
            try:
                assert guardian.wait(timeout=30) == 0, "the private systemd was not cleaned up"
            finally:
                guardian.stdout.close()

    def _booted(self) -> bool:
        assert self._guardian is not None
        assert self._guardian.poll() is None, f"systemd did not start; {self.console()}"
        return self.run("systemctl", "is-active", "idle.target", check=False).returncode == 0

    def run(
        self, *argv: str | Path, check: bool = True, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside, as root and not as a child of systemd. It must succeed if
        *check*."""
        done = subprocess.run(
            ["nsenter", f"--target={self._pid}", *NAMESPACES, "--", *argv],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}{self.said()}"
        return done

    def systemctl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("systemctl", *arguments, check=check)

    def show(self, unit: str, name: str) -> str:
        """One property of *unit*."""
        return self.systemctl("show", "--value", f"--property={name}", unit).stdout.strip()

    def inside(self, path: str | Path) -> Path:
        """The name by which this process reaches *path* of the inside. Not for what may hang."""
        return Path(f"/proc/{self._pid}/root") / str(path).lstrip("/")

    def write(self, path: str | Path, text: str) -> None:
        """Write a file inside, with its directories."""
        place = self.inside(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def read(self, path: str) -> str:
        """The text of a file inside, read there; fails the test if that takes too long."""
        return self.run("cat", path, timeout_s=30).stdout

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Signal a process by its number inside."""
        self.run("sh", "-c", f"kill -{number.value} {pid}")

    def processes(self) -> dict[int, list[str]]:
        """The command lines of all processes inside, by their numbers inside."""
        found = {}
        for entry in self.inside("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    line = (entry / "cmdline").read_bytes()
                    found[int(entry.name)] = os.fsdecode(line).split("\0")[:-1]
        return {pid: argv for pid, argv in found.items() if argv}

    def mounts_on(self, directory: str) -> list[mountinfo.MountEntry]:
        """The rows of the mount table inside for *directory*, bottom first."""
        table = (self.inside("/proc") / "1" / "mountinfo").read_bytes()
        return [e for e in mountinfo.parse(table) if e.mountpoint == os.fsencode(directory)]

    def console(self) -> str:
        """What systemd logged."""
        log = self.directory / "console.log"
        return log.read_text("utf-8", "replace") if log.exists() else ""

    def printed(self) -> str:
        """What units printed; their journal."""
        log = self.directory / "units.log"
        return log.read_text("utf-8", "replace") if log.exists() else ""

    def said(self) -> str:
        return f"\n--- console\n{self.console()}\n--- units\n{self.printed()}"


# The guardian, and what it does before it is systemd.


@dataclass(frozen=True)
class _Machine:
    """What is remembered of the machine where it cannot be seen any more."""

    mounted: frozenset[str]
    """The devices of its mount table."""
    characters: dict[str, int]
    """The device numbers of `DEVICES`."""
    targets: dict[str, str]
    """The text of `STANDARD_TARGETS`."""
    fstab_generator: bytes
    """What makes units of /etc/fstab."""

    @classmethod
    def look(cls) -> _Machine:
        devices = {name: Path("/dev", name) for name in DEVICES}
        targets = {name: Path("/lib/systemd/system", f"{name}.target") for name in STANDARD_TARGETS}
        return cls(
            frozenset(entry.device for entry in mountinfo.mounts()),
            {name: path.stat().st_rdev for name, path in devices.items() if path.exists()},
            {path.name: path.read_text() for path in targets.values() if path.exists()},
            FSTAB_GENERATOR.read_bytes(),
        )


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


def guard(directory: Path) -> int:
    """Run a private systemd until standard input ends; 0 when nothing is left of it."""
    _call("unshare", CLONE_NEWNS)
    _mount("--make-rprivate", "/")
    for entry in mountinfo.mounts():
        if entry.fs_type.startswith(b"fuse."):
            # Our copy would keep its daemon alive after the machine's unmount.
            _libc.umount2(entry.mountpoint, MNT_DETACH)
    # The numbers of these devices are not used again while this namespace has them mounted.
    machine = _Machine.look()
    hierarchy = directory / "cgroup"
    hierarchy.mkdir()
    _mount("-t", "cgroup2", "none", hierarchy)
    with open("/proc/self/cgroup") as lines:
        own = next(line.strip()[3:] for line in lines if line.startswith("0::"))
    cgroup = hierarchy / own.lstrip("/") / f"tierfs-test-{os.getpid()}"
    cgroup.mkdir()
    try:
        ours, theirs = socket.socketpair()
        _call("unshare", CLONE_NEWPID)  # The next child is pid 1.
        pid = os.fork()
        if pid == 0:
            _become_systemd(directory, cgroup, theirs, machine)
        theirs.close()
        try:
            message, consoles, _, _ = socket.recv_fds(ours, 4096, 1)
            # Nobody may enter its namespaces before they are its own: exec closes the socket.
            if refusal := ours.recv(4096) if consoles else message:
                sys.stderr.buffer.write(refusal)
                return 1
            os.write(1, b"%d\n" % pid)
            _log_console(consoles[0], directory / "console.log")
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    finally:
        _remove_cgroup(cgroup)
    return 0


def _log_console(master: int, log: Path) -> None:
    """Keep what systemd says until nobody wants it any more, or it ends."""
    poller = select.poll()
    poller.register(master, select.POLLIN)
    poller.register(0, select.POLLIN)
    with open(log, "ab", buffering=0) as file:
        while True:
            events = dict(poller.poll())
            if 0 in events:
                return
            try:
                file.write(os.read(master, 65536).replace(b"\r\n", b"\n"))
            except OSError:
                # EIO: for now nobody has the terminal open. Pid 1 opens it for every line.
                if select.select([0], [], [], 0.02)[0]:
                    return


def _remove_cgroup(cgroup: Path) -> None:
    # A cgroup is busy for a moment after its last process was reaped.
    deadline = time.monotonic() + 10
    while cgroup.exists():
        for directory, _, _ in os.walk(cgroup, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        if time.monotonic() > deadline:
            raise TimeoutError(f"{cgroup} cannot be removed")
        time.sleep(0.01)


def _become_systemd(
    directory: Path, cgroup: Path, guardian: socket.socket, machine: _Machine
) -> None:
    """Leave the machine and exec systemd. Sends *guardian* the console, or why there is none.
    Never returns."""
    try:
        _call("prctl", PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
        os.setsid()
        (cgroup / "cgroup.procs").write_text("0")
        _call("unshare", CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET)
        shared = _enter_root(directory)
        _mount_kernel_interfaces(machine)
        _write_instructions(directory, machine)
        refuse_unless_private(mountinfo.mounts(), machine.mounted, shared)
        console, terminal = os.openpty()
        _mount("--bind", os.ttyname(terminal), "/dev/console")
        socket.send_fds(guardian, [b"c"], [console])
        for fd in (0, 1, 2):
            os.dup2(terminal, fd)
        environment = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "container": "test"}
        options = ("--system", "--unit=idle.target", "--log-target=console", "--show-status=0")
        os.execve(SYSTEMD, [str(SYSTEMD), *options], environment)
    except BaseException as error:
        guardian.send(f"no private systemd: {error}\n".encode())
    finally:
        os._exit(1)


def _enter_root(directory: Path) -> set[bytes]:
    """Change to a root in memory over the machine's; the mount points that are the machine's."""
    stage = directory / "stage"
    stage.mkdir()
    _mount("-t", "tmpfs", "none", stage)
    for name in ("upper", "work", "root"):
        (stage / name).mkdir()
    root = stage / "root"
    layers = f"lowerdir=/,upperdir={stage}/upper,workdir={stage}/work"
    _mount("-t", "overlay", "-o", layers, "none", root)
    for name in COVERED:
        place = root / name[1:]
        place.mkdir(parents=True, exist_ok=True)
        _mount("-t", "tmpfs", "-o", "mode=755", "none", place)
    for name in INSTRUCTIONS:
        place = root / "usr/lib/systemd" / name
        if place.is_dir():
            _mount("-t", "tmpfs", "-o", "mode=755", "none", place)
    shared = set()
    for path in _needed(directory):
        place = root / str(path)[1:]
        place.mkdir(parents=True, exist_ok=True)
        _mount("--bind", path, place)
        if path != directory:
            _mount("-o", "remount,bind,ro", place)
        shared.add(os.fsencode(path))
    (root / "old").mkdir()
    subprocess.run(["pivot_root", root, root / "old"], check=True)
    os.chdir("/")
    _mount("-t", "proc", "none", "/proc")
    _mount("-t", "sysfs", "none", "/sys")
    _mount("-t", "cgroup2", "none", "/sys/fs/cgroup")
    _call("umount2", b"/old", MNT_DETACH)
    os.rmdir("/old")
    return shared


def _needed(directory: Path) -> Iterator[Path]:
    """What the overlay does not show, because it lies on other file systems than the root."""
    yield directory
    machine = os.stat("/").st_dev
    for path in sorted({Path(sys.base_prefix), Path(sys.prefix), REPOSITORY}):
        covered = any(path.is_relative_to(place) for place in COVERED)
        if covered or path.stat().st_dev != machine:
            yield path


def _mount_kernel_interfaces(machine: _Machine) -> None:
    """/dev with what a container has, and nothing in /proc by which the kernel is set."""
    for name, number in machine.characters.items():
        device = Path("/dev", name)
        os.mknod(device, 0o020666, number)
        device.chmod(0o666)
    for place in ("/dev/pts", "/dev/shm"):
        os.mkdir(place)
    Path("/dev/console").touch()
    _mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666,mode=620", "none", "/dev/pts")
    _mount("-t", "tmpfs", "none", "/dev/shm")
    os.symlink("pts/ptmx", "/dev/ptmx")
    os.symlink("/proc/self/fd", "/dev/fd")
    _mount("-t", "fusectl", "none", "/sys/fs/fuse/connections")
    for place in filter(os.path.exists, ("/proc/sys", "/proc/sysrq-trigger")):
        _mount("--bind", place, place)
        _mount("-o", "remount,bind,ro", place)


def _write_instructions(directory: Path, machine: _Machine) -> None:
    """The units that this systemd knows, and where their output goes."""
    UNITS.mkdir(parents=True)
    (UNITS / "idle.target").write_text(IDLE_TARGET)
    for name, text in machine.targets.items():
        (UNITS / name).write_text(text)
    for kind in ("Service", "Mount"):
        drop_in = UNITS / f"{kind.lower()}.d" / "output.conf"
        drop_in.parent.mkdir()
        drop_in.write_text(OUTPUT.format(kind=kind, file=directory / "units.log"))
    FSTAB_GENERATOR.write_bytes(machine.fstab_generator)
    FSTAB_GENERATOR.chmod(0o755)
    Path("/etc/fstab").write_text("")
    # Without one it is a first boot, on which systemd enables what it finds.
    Path("/etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")


def refuse_unless_private(
    mounts: Collection[mountinfo.MountEntry], mounted: Collection[str], shared: Collection[bytes]
) -> None:
    """Let nobody become systemd who sees the machine's file systems.

    *mounted* has the devices of the machine's mount table, *shared* the directories that are the
    machine's on purpose.

    Raises:
        RuntimeError: something is not covered.
    """
    table = list(mounts)
    for place in ("/", *COVERED, "/usr/lib/systemd/system", "/proc", "/sys"):
        entry = mountinfo.topmost(os.fsencode(place), table)
        if entry is None or entry.device in mounted:
            raise RuntimeError(f"{place} is the machine's own")
    for entry in table:
        known = entry.device in mounted and entry.fs_type not in SINGLE
        if known and entry.mountpoint not in shared:
            raise RuntimeError(f"{os.fsdecode(entry.mountpoint)} is the machine's own")


if __name__ == "__main__":
    sys.exit(guard(Path(sys.argv[1])))
