"""A control plane in a hundred lines, for tests of the keeper, which starts it like the real one.

Speaks FUSE 7.31 by hand (struct layouts of <linux/fuse.h>): a root directory with one file ``pid``
that holds this process's pid. What it does wrong is chosen by its first argument::

    serve             nothing
    error             report an error instead of ready
    vanish            exit with 3 instead of ready
    crash             report ready, serve, and exit with 3 at the first read of ``pid``
    crash-later       serve at the first start, afterwards exit with 3 instead of ready
    slow-later        serve at the first start, afterwards wait until the marker is gone
    silent            report ready and never alive
    mute              report ready and alive, and answer no request
    environment       serve; ``pid`` holds the environment, argv and open files as JSON
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import stat
import struct
import sys
import time
from pathlib import Path

LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE, FLUSH = 1, 2, 3, 14, 15, 17, 18, 25
INIT, OPENDIR, READDIR, RELEASEDIR, INTERRUPT, DESTROY, BATCH_FORGET = 26, 27, 28, 29, 36, 38, 42
DIRECT_IO = 1
ROOT, FILE = 1, 2
ALIVE_S = 0.1
CACHED_S = 60
"""How long the kernel may keep attributes: a stat then succeeds on a dead mount too."""


def attributes(ino: int, size: int) -> bytes:
    mode = stat.S_IFDIR | 0o755 if ino == ROOT else stat.S_IFREG | 0o444
    return struct.pack("<QQQQQQIIIIIIIIII", ino, size, 1, *[0] * 6, mode, 1, 0, 0, 0, 4096, 0)


class FakeControl:
    def __init__(self, mode: str, fuse_fd: int, report_fd: int, content: bytes) -> None:
        self.mode = mode
        self.fuse_fd = fuse_fd
        self.report_fd = report_fd
        self.content = content

    def report(self, line: str) -> None:
        os.write(self.report_fd, line.encode() + b"\n")

    def serve(self) -> int:
        os.set_blocking(self.fuse_fd, False)
        self.report("ready")
        next_alive = 0.0
        while True:
            if self.mode != "silent" and time.monotonic() >= next_alive:
                next_alive = time.monotonic() + ALIVE_S
                self.report("alive")
            if self.mode == "mute":
                time.sleep(ALIVE_S)
                continue
            select.select([self.fuse_fd], [], [], ALIVE_S)
            try:
                request = os.read(self.fuse_fd, 2 << 20)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return 0
                if error.errno in (errno.EAGAIN, errno.EINTR, errno.ENOENT):
                    continue
                raise
            self.answer(request)

    def answer(self, request: bytes) -> None:
        _, opcode, unique, ino = struct.unpack_from("<IIQQ", request)
        body = request[40:]
        if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
            return
        code, payload = self.handle(opcode, ino, body)
        header = struct.pack("<IiQ", 16 + len(payload), -code, unique)
        with contextlib.suppress(FileNotFoundError):  # The caller was interrupted.
            os.write(self.fuse_fd, header + payload)

    def handle(self, opcode: int, ino: int, body: bytes) -> tuple[int, bytes]:
        size = len(self.content) if ino == FILE else 0
        if opcode == INIT:
            read_ahead = struct.unpack_from("<III", body)[2]
            return 0, struct.pack("<IIIIHHIIHH8I", 7, 31, read_ahead, 0, 16, 12, 4096, 1, *[0] * 10)
        if opcode == GETATTR:
            return 0, struct.pack("<QII", CACHED_S, 0, 0) + attributes(ino, size)
        if opcode == LOOKUP:
            if body.rstrip(b"\0") != b"pid":
                return errno.ENOENT, b""
            attr = attributes(FILE, len(self.content))
            return 0, struct.pack("<QQQQII", FILE, 0, 0, CACHED_S, 0, 0) + attr
        if opcode in (OPEN, OPENDIR):
            return 0, struct.pack("<QII", 0, DIRECT_IO if opcode == OPEN else 0, 0)
        if opcode == READ:
            if self.mode == "crash":
                os._exit(3)
            _, offset, length = struct.unpack_from("<QQI", body)
            return 0, self.content[offset : offset + length]
        if opcode == STATFS:
            return 0, struct.pack("<QQQQQIIII6I", 0, 0, 0, 0, 0, 4096, 255, 4096, *[0] * 7)
        if opcode in (READDIR, RELEASE, RELEASEDIR, FLUSH, DESTROY):
            return 0, b""
        return errno.ENOSYS, b""


def surroundings() -> bytes:
    """What this process was given, as JSON."""
    death_signal = ctypes.c_int()
    ctypes.CDLL(None).prctl(2, ctypes.byref(death_signal))  # PR_GET_PDEATHSIG
    files = {}
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # The descriptor of this very listing.
            files[link.name] = str(link.readlink())
    return json.dumps(
        {
            "environment": dict(os.environ),
            "files": files,
            "argv": sys.argv,
            "death_signal": death_signal.value,
        }
    ).encode()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode")
    parser.add_argument("marker", nargs="?")
    for name in ("--fuse-fd", "--config-fd", "--report-fd"):
        parser.add_argument(name, type=int, required=True)
    arguments = parser.parse_args()
    content = surroundings() if arguments.mode == "environment" else b"%d" % os.getpid()
    with os.fdopen(arguments.config_fd, "rb") as source:
        url = json.loads(source.read())["url"]
    fake = FakeControl(arguments.mode, arguments.fuse_fd, arguments.report_fd, content)

    def stop(*_: object) -> None:
        fake.report("stopping")
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    if fake.mode == "error":
        error = {"kind": "LakeMissing", "op": "no such bucket", "subject": url, "hint": "make it"}
        fake.report("error " + json.dumps(error))
        return 1
    if fake.mode == "vanish":
        return 3
    if fake.mode == "crash-later":
        if Path(arguments.marker).exists():
            return 3
        Path(arguments.marker).touch()
    if fake.mode == "slow-later":
        marker = Path(arguments.marker)
        if not marker.exists():
            marker.touch()
        else:
            while marker.exists():
                time.sleep(0.01)
    return fake.serve()


if __name__ == "__main__":
    sys.exit(main())
