"""Power cuts, one after the other: ``python -m tests.crash.power_cuts --cuts 100``.

The cache directory lies on an ext4 file system on a disk that forgets what it was not made to keep
(`tests.crash.cut_disk`). A writer works in a write-back directory and notes what was acknowledged.
At some moment all processes stop, the power is cut, and what the disk has for certain, with some of
the rest, is what the next mount finds, in another boot. Then it is asked:

* does it mount, with nobody's help;
* is each file there that was synced before it was closed, as it was, and each gone that was
  removed, on the node and, when all is flushed, in the lake;
* is what was read of the lake before, and is cached in part or whole, what the lake has;
* is every object in the lake, now and at the moment of the cut, one that its writer had closed
  under this name, whole. What was not synced may be lost: its root is frozen there until
  ``tierfs flush --skip`` gives it up.

Each cut finds what the ones before have left. It is all in a mount namespace of its own, so that
another boot is a file bound over the kernel's, and no mount outlives it. Exit status: 0; 1, the
first thing that is wrong is on standard error; 2, it cannot be done here; 3, the disk's own file
system did not outlive the cut, which is no fault of the mount's (only with ``--lies``).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from tests.crash.acknowledged import DATA, Model, Wrong, data
from tests.mount.mounting import Mount, cut_off, tierfs, wait_until

DISK_MIB = 512
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_libc = ctypes.CDLL(None)
#: SYNC_FILE_RANGE_WRITE, <fcntl.h>
_WRITE = 2
#: Marks the process that is in a mount namespace of its own.
_INSIDE = "TIERFS_TEST_CUTTING"


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class FileSystemLost(Wrong):
    """The disk's own file system did not outlive the cut: nothing can be said of what lay on it."""


class Node:
    """A machine with one disk and a mount."""

    def __init__(self, work: Path, front: str) -> None:
        self.work = work
        self.lake = work / "lake"
        self.nvme = work / "nvme"
        for directory in (self.lake, self.nvme, work / "disk", work / "mnt"):
            directory.mkdir()
        (self.lake / "data").mkdir()
        for name in DATA:
            (self.lake / "data" / name).write_bytes(data(name))
        boot = work / "boot_id"
        boot.write_text(f"{uuid.uuid4()}\n")
        run("mount", "--bind", boot, BOOT_ID)
        argv = [sys.executable, "-m", "tests.crash.cut_disk"]
        self._disk = subprocess.Popen(
            [*argv, str(work / "disk"), str(work / "state"), str(DISK_MIB)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self._said() == "ready"
        self._mount_disk("mkfs.ext4", "-q", "-E", "nodiscard")
        options = ["--front", front, "--cache-size", "100M", "--write-back", "w/**"]
        self.mount = Mount(
            f"file://{self.lake}", work / "mnt", self.nvme / "cache", work / "run", options
        )
        self.root = work / "mnt" / "w"
        self._writer: subprocess.Popen[bytes] | None = None

    def _said(self) -> str:
        assert self._disk.stdout is not None
        return self._disk.stdout.readline().strip()

    def _ask(self, line: str) -> str:
        assert self._disk.stdin is not None
        self._disk.stdin.write(line + "\n")
        return self._said()

    def _mount_disk(self, *prepare: str) -> None:
        device = run("losetup", "-f", "--show", self.work / "disk" / "image")
        try:
            if prepare:
                run(*prepare, device)
            run("mount", device, self.nvme)
        finally:
            # Once nobody uses it, even if that is because all of this was killed.
            run("losetup", "-d", device)

    def lie(self) -> None:
        """From now on the disk keeps nothing that it says it does."""
        run("sync", "--file-system", self.nvme)
        self._ask("lie")

    def start(self) -> None:
        """Mount the lake."""
        started = self.mount.start()
        if started.returncode:
            raise Wrong(f"it does not mount: {started.stderr}{self.mount.log()}")

    def write(self, log: Path, seed: int, first: int) -> None:
        """Let the writer begin."""
        argv = [sys.executable, "-m", "tests.crash.acknowledged", str(self.root), str(log)]
        self._writer = subprocess.Popen([*argv, str(seed), str(first)])

    def cut(self, seed: int, *, hurry: bool) -> str:
        """The power is gone, at once, and comes back; what the disk says of it."""
        assert self._writer is not None
        pids = [self._writer.pid, *self.mount.pids().values()]
        if hurry:
            self._hurry()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        said = self._ask(f"cut {seed}")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        cut_off(self.mount.directory)
        self._writer.wait()
        shutil.rmtree(self.work / "run", ignore_errors=True)
        self._unmount_disk()
        self._ask("restore")
        (self.work / "boot_id").write_text(f"{uuid.uuid4()}\n")
        try:
            self._mount_disk()
        except subprocess.CalledProcessError as failed:
            raise FileSystemLost(f"the disk's own file system is lost: {failed.stderr}") from failed
        return said

    def _unmount_disk(self) -> None:
        def done() -> bool:
            tried = subprocess.run(["umount", self.nvme], capture_output=True, check=False)
            return tried.returncode == 0

        wait_until(done, "the disk not to be used", 30)

    def _hurry(self) -> None:
        """Have the kernel write to the disk what files hold; nobody flushes that."""
        for file in self.mount.cache.rglob("*"):
            if file.is_file() and file.suffix != ".mdb":
                with contextlib.suppress(OSError):
                    fd = os.open(file, os.O_RDONLY)
                    _libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), _WRITE)
                    os.close(fd)

    def flush(self) -> int:
        """Bring all of it into the lake; gives up what may be lost, and says how much that was."""
        for skipped in range(1000):
            done = tierfs("flush", "--wait", self.root, "--runtime-dir", self.mount.runtime)
            if done.returncode == 0:
                return skipped
            again = tierfs("flush", "--skip", self.root, "--runtime-dir", self.mount.runtime)
            if again.returncode:
                raise Wrong(f"flush --skip: {again.stdout}{again.stderr}")
        raise Wrong("there is no end of what is lost")

    def close(self) -> None:
        """Leave nothing behind."""
        if self._writer is not None and self._writer.poll() is None:
            self._writer.kill()
        self.mount.kill()
        with contextlib.suppress(Exception):
            self._unmount_disk()
        self._disk.communicate("quit\n")


def cut_once(node: Node, model: Model, seed: int, number: int) -> str:
    """Write, cut, and judge; a line about it."""
    choose = random.Random(seed * 1_000_003 + number)
    log = node.work / f"log-{number}"
    log.touch()
    node.write(log, choose.randrange(1 << 30), number * 1_000_000)
    wait_until(lambda: log.stat().st_size > 500, "the writer to begin")
    time.sleep(choose.uniform(0, 1.5))
    said = node.cut(choose.randrange(1 << 30), hurry=choose.random() < 0.5)
    before = model.changes
    model.read(log)
    lake = node.lake / "w"
    model.judge_lake(lake)
    node.start()
    model.judge_node(node.root)
    skipped = node.flush()
    model.judge_lake(lake)
    model.judge_flushed(lake)
    model.judge_node(node.root)
    # So that the next cut is judged by what is sure, and the lake's files are fetched again.
    for path in model.unsure:
        (node.root / path).unlink(missing_ok=True)
    for rest in node.root.rglob("*.tmp"):
        rest.unlink()
    model.forget(model.unsure)
    node.mount.command("evict", node.root.parent / "data")
    node.flush()
    pending, kept = said.split()
    return (
        f"cut {number}: {model.changes - before} changes acknowledged; of {pending} writes that no"
        f" flush had followed {kept} were kept; {skipped} changes were lost and given up"
    )


@contextlib.contextmanager
def working(where: Path | None) -> Iterator[Path]:
    work = Path(tempfile.mkdtemp(prefix="tierfs-power-", dir=where))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def cut_all(arguments: argparse.Namespace, out: IO[str]) -> int:
    """All cuts, in this mount namespace."""
    model = Model(promised=False)
    with working(arguments.work) as work:
        node = Node(work, arguments.front)
        try:
            node.start()
            for directory in ("w", "w/a", "w/b"):
                (work / "mnt" / directory).mkdir()
            if arguments.lies:
                node.lie()
            for number in range(1, arguments.cuts + 1):
                print(cut_once(node, model, arguments.seed, number), file=out, flush=True)
        except FileSystemLost as lost:
            print(f"seed {arguments.seed}: {lost}", file=sys.stderr)
            return 3
        except Wrong as wrong:
            print(f"seed {arguments.seed}: {wrong}\n{node.mount.log()}", file=sys.stderr)
            return 1
        finally:
            node.close()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.power_cuts")
    parser.add_argument("--cuts", type=int, default=100)
    parser.add_argument("--front", choices=["python", "native"], default="native")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--lies", action="store_true", help="the disk does not flush: that must be found out"
    )
    parser.add_argument("--work", type=Path, help="for the disk; default: the temporary directory")
    arguments = parser.parse_args(argv)
    if _INSIDE in os.environ:
        return cut_all(arguments, sys.stdout)
    missing = [each for each in ("losetup", "mkfs.ext4", "unshare") if not shutil.which(each)]
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists() or missing:
        needed = "root, loop devices, losetup, mkfs.ext4 and unshare"
        print(f"power_cuts: it takes {needed}", file=sys.stderr)
        return 2
    inside = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m"]
    inside += ["tests.crash.power_cuts", *(sys.argv[1:] if argv is None else argv)]
    return subprocess.run(inside, env={**os.environ, _INSIDE: "1"}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
