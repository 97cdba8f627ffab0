"""The native front between two control planes, of which the first dies right after its answer. Both
are played by the test, so that the second one is there at once, before the front has done anything
about what the first one said."""

from __future__ import annotations

import errno
import os
import queue
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.mount.mounting import detach
from tierfs.control import wire
from tierfs.control.wire import Ask, Command, Request
from tierfs.front.program import native_front
from tierfs.index.index import open_index
from tierfs.index.records import ROOT_INO
from tierfs.keeper.channel import Channel
from tierfs.keeper.mounting import MountSpec, make_mount

PATIENCE_S = 60.0
OPEN, CREATE = 14, 35
STAGED = 1
#: Opened at once: more than the front has threads that go on with them.
FILES = 32


class Control:
    """Control planes of one mount, one after the other. Every name is absent until it is made."""

    def __init__(self, end: socket.socket, directory: Path, front: int) -> None:
        self._end = end
        self._front = front
        self._directory = directory
        self._next_ino = 100
        self.session = 0
        #: The OPENs that wait until there are FILES of them, whose answers are the last ones of
        #: this control plane.
        self._held: list[Request] = []
        #: Their numbers, those of the handles that the front tells of after that, and those of the
        #: OPENs that it asks for again.
        self.opened: set[int] = set()
        self.told: set[int] = set()
        self.told_all = False
        self.asked: set[int] = set()

    def serve(self, *callers: threading.Thread) -> None:
        """Answer what is asked, until *callers* have what they want and the front has told of all
        its handles."""
        for caller in callers:
            caller.start()
        while any(caller.is_alive() for caller in callers) or (self.opened and not self.told_all):
            with suppress(TimeoutError):
                self._take(wire.parse_request(self._end.recv(wire.LONGEST)))

    def _take(self, request: Request) -> None:
        if request.ask is Ask.START and request.session > self.session:
            self._hello(request.session)
        elif request.session != self.session:
            return
        elif request.ask is Ask.HANDLES:
            self.told |= {handle.unique for handle in wire.handles(request.tail) if handle.ino}
            self.told_all = request.size == 1
        elif request.ask is Ask.CHANGE and request.size == CREATE:
            self._create(request)
        elif request.ask is Ask.CHANGE and request.size == OPEN:
            self._open(request)
        elif request.ask is Ask.LOOKUP:
            self._answer(request, errno=errno.ENOENT)
        elif request.ask is Ask.GETATTR:
            self._answer(request, tail=_attributes(request.ino))
        elif request.id:
            self._answer(request)

    def _hello(self, session: int) -> None:
        self.session = session
        rules = wire.pack_rules(
            ttl_s=60.0, negative_ttl_s=0.0, directory_mtime_ns=0, uid=0, gid=0, umask=0o022,
            max_requests=4, memory=64 << 20, cache_limit=None, min_free=0.0, writes=True,
            lake_directory=os.fsencode(self._directory),
        )  # fmt: skip
        self._end.send(wire.pack_command(Command.HELLO, session, 0, rules))

    def _create(self, request: Request) -> None:
        ino, self._next_ino = self._next_ino, self._next_ino + 1
        (self._directory / "staging" / f"{ino:016x}").touch()
        self._answer(request, count=STAGED, ttl_s=60.0, tail=_attributes(ino))

    def _open(self, request: Request) -> None:
        if self.opened:
            self.asked.add(request.offset)
            self._answer(request, count=STAGED)
            return
        self._held.append(request)
        if len(self._held) == FILES:
            self.opened = {held.offset for held in self._held}
            self.told.clear()
            self.told_all = False
            # All of this is there when it looks again.
            os.kill(self._front, signal.SIGSTOP)
            for held in self._held:
                self._answer(held, count=STAGED)
            # It dies, and here is the next one. What the front will say first is known: that it
            # begins a session.
            self._end.send(wire.pack_command(Command.READY, 0, 0))
            self._hello(self.session + 1)
            os.kill(self._front, signal.SIGCONT)

    def _answer(self, request: Request, **answer: Any) -> None:
        self._end.send(wire.pack_answer(request, **answer))


def _attributes(ino: int) -> bytes:
    mode = stat.S_IFDIR | 0o755 if ino == ROOT_INO else stat.S_IFREG | 0o644
    return wire.pack_attributes(ino, 0, 0, mode, 0, 0)


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    path = tmp_path / "mnt"
    path.mkdir()
    return path


@pytest.fixture
def control(tmp_path: Path, mountpoint: Path) -> Iterator[Control]:
    program = native_front()
    if program is None:
        pytest.skip("the native front is not built: no Rust toolchain")
    directory = tmp_path / "cache"
    trio.run(_make_index, directory)
    (directory / "staging").mkdir(exist_ok=True)
    with ExitStack() as stack:
        made = make_mount(MountSpec("lake", os.fsencode(mountpoint), allow_other=False))
        stack.callback(made.close)
        stack.callback(detach, mountpoint)
        channel = Channel.make()
        end = stack.enter_context(socket.socket(fileno=channel.control_fd))
        end.settimeout(0.05)
        report, reported = os.pipe()
        stack.callback(os.close, report)
        descriptors = {
            "--fuse-fd": made.fuse_fd, "--shared-fd": channel.shared_fd,
            "--upcall-fd": channel.front_fd, "--report-fd": reported,
        }  # fmt: skip
        arguments = [text for name, fd in descriptors.items() for text in (name, str(fd))]
        front = subprocess.Popen(
            [program, "--mountpoint", mountpoint, *arguments], pass_fds=descriptors.values()
        )
        for fd in (channel.shared_fd, channel.front_fd, reported):
            os.close(fd)
        stack.callback(front.wait)
        stack.callback(front.kill)
        yield Control(end, directory, front.pid)


async def _make_index(directory: Path) -> None:
    async with open_index(directory, "lake"):
        pass


def test_a_handle_is_known_to_whoever_serves_when_the_kernel_has_it(
    control: Control, mountpoint: Path
) -> None:
    """Else its closes are nobody's commit points."""
    descriptors: queue.Queue[int] = queue.Queue()

    def open_(path: Path, flags: int) -> threading.Thread:
        work = lambda: descriptors.put(os.open(path, flags | os.O_WRONLY))  # noqa: E731
        return threading.Thread(target=work, daemon=True)

    def close() -> threading.Thread:
        return threading.Thread(
            target=os.close, args=(descriptors.get(timeout=PATIENCE_S),), daemon=True
        )

    paths = [mountpoint / f"{n}" for n in range(FILES)]
    for path in paths:
        control.serve(open_(path, os.O_CREAT | os.O_EXCL))
        control.serve(close())
    control.serve(*(open_(path, 0) for path in paths))
    assert control.opened <= control.told | control.asked, "nobody knows of a handle"
    assert control.asked, "each was told of in time: this tests nothing"
    control.serve(*(close() for _ in paths))
