"""Finding the mount that a path is on, and talking to it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tierfs.cli import unmounting
from tierfs.config import mount_id
from tierfs.control import client
from tierfs.control.client import Mount, call, find_mount, mount_at, mounts
from tierfs.errors import InvalidRequest, LakeDenied, MountError
from tierfs.keeper.runtime import Runtime

TABLE = rb"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /mnt/lake rw,nosuid,nodev - fuse.tierfs s3://bucket/a\040b rw,user_id=1000,group_id=0
31 22 0:41 / /mnt/sp\040ace rw - fuse.tierfs file:///data rw,user_id=0
32 30 0:42 / /mnt/lake/inner rw - tmpfs none rw
33 22 0:43 / /mnt/twice rw - fuse.tierfs s3://lower rw,user_id=0
34 33 0:44 / /mnt/twice rw - ext4 /dev/sdb rw
bad line
"""


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mountinfo"
    file.write_bytes(TABLE)
    monkeypatch.setattr("tierfs.mountinfo.MOUNTINFO", file)


@pytest.mark.usefixtures("table")
class TestTable:
    def test_it_is_parsed(self) -> None:
        lake = mounts()[1]
        assert lake == Mount(
            Path("/mnt/lake"), "s3://bucket/a b", "fuse.tierfs", 1000, device="0:40"
        )
        assert mounts()[2].mountpoint == Path("/mnt/sp ace")
        assert len(mounts()) == 6

    @pytest.mark.parametrize(
        ("path", "mountpoint", "below"),
        [
            ("/mnt/lake", "/mnt/lake", b""),
            ("/mnt/lake/", "/mnt/lake", b""),
            ("/mnt/lake/a/b", "/mnt/lake", b"a/b"),
            ("/mnt/./lake/x/../a", "/mnt/lake", b"a"),
            ("/mnt/sp ace/\udcff", "/mnt/sp ace", b"\xff"),
        ],
    )
    def test_a_path_finds_its_mount(self, path: str, mountpoint: str, below: bytes) -> None:
        mount, rest = find_mount(Path(path))
        assert (mount.mountpoint, rest) == (Path(mountpoint), below)

    @pytest.mark.parametrize("path", ["/mnt", "/mnt/lakeside", "/mnt/lake/inner/x", "/mnt/twice"])
    def test_a_path_on_no_lake(self, path: str) -> None:
        with pytest.raises(MountError, match=r"not on a tierfs mount.*mounted here: /mnt/lake"):
            find_mount(Path(path))

    def test_a_link_to_a_lake(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("/mnt/lake")
        mount, rest = find_mount(tmp_path / "link" / "a")
        assert (mount.mountpoint, rest) == (Path("/mnt/lake"), b"a")

    def test_the_topmost_counts(self) -> None:
        assert (found := mount_at(Path("/mnt/twice"))) is not None
        assert found.type == "ext4"
        assert mount_at(Path("/mnt/nothing")) is None

    def test_unmounting_refuses_what_is_not_ours(self) -> None:
        with pytest.raises(MountError, match=r"a tmpfs file system, not tierfs.*use umount"):
            unmounting.unmount(Path("/mnt/lake/inner"))
        with pytest.raises(MountError, match="nothing is mounted there"):
            unmounting.unmount(Path("/mnt"))


# --- the socket ---------------------------------------------------------------------------------


class Server:
    """A control socket that answers one connection with given lines and keeps the request."""

    def __init__(self, runtime: Path, mount: Mount, lines: list[bytes]) -> None:
        directory = runtime / mount_id(mount.mountpoint)
        directory.mkdir(exist_ok=True)
        self.request: dict[str, Any] = {}
        self._lines = lines
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(os.fspath(directory / "control.sock"))
        self._socket.listen(1)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        # The listener is shut down by a test whose client never comes.
        with contextlib.suppress(OSError):
            connection, _ = self._socket.accept()
            with connection, connection.makefile("rb") as lines:
                self.request = json.loads(lines.readline())
                connection.sendall(b"".join(self._lines))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._socket.close()


@pytest.fixture
def runtime() -> Iterator[Path]:
    # A socket's path is bounded to 108 bytes, which pytest's directories may pass.
    with tempfile.TemporaryDirectory(prefix="tierfs-") as directory:
        yield Path(directory)


@pytest.fixture
def mount() -> Mount:
    return Mount(Path("/mnt/lake"), "s3://b", "fuse.tierfs", os.geteuid())


def talk(
    runtime: Path, mount: Mount, *lines: bytes, seen: list[dict[str, Any]] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    server = Server(runtime, mount, list(lines))
    try:
        progress = seen.append if seen is not None else None
        answer = call(mount, "status", {"a": 1}, progress=progress, runtime_dir=runtime)
    finally:
        server.close()
    return server.request, answer


def test_a_request_and_its_answer(runtime: Path, mount: Mount) -> None:
    seen: list[dict[str, Any]] = []
    request, answer = talk(
        runtime, mount, b'{"progress": {"n": 1}}\n', b'{"ok": {"x": 2}}\n', seen=seen
    )
    assert request == {"v": 1, "command": "status", "args": {"a": 1}}
    assert (answer, seen) == ({"x": 2}, [{"n": 1}])


def test_errors_keep_their_kind(runtime: Path, mount: Mount) -> None:
    line = b'{"error": {"kind": "LakeDenied", "op": "list", "subject": "x", "hint": "log in"}}\n'
    with pytest.raises(LakeDenied, match=r"list: x \(log in\)"):
        talk(runtime, mount, line)


@pytest.mark.parametrize("kind", ["FutureError", "annotations", "show"])
def test_an_unknown_kind_of_error_is_still_one_of_ours(
    runtime: Path, mount: Mount, kind: str
) -> None:
    line = json.dumps({"error": {"kind": kind, "op": "x"}}).encode() + b"\n"
    with pytest.raises(InvalidRequest):
        talk(runtime, mount, line)


@pytest.mark.parametrize(
    ("line", "message"), [(b"", "stopped meanwhile"), (b"junk\n", "answer was lost")]
)
def test_an_answer_that_does_not_come(
    runtime: Path, mount: Mount, line: bytes, message: str
) -> None:
    with pytest.raises(MountError, match=message):
        talk(runtime, mount, line)


def test_a_mount_without_a_socket(runtime: Path, mount: Mount) -> None:
    with pytest.raises(MountError, match=r"no control socket.*tierfs umount"):
        call(mount, "status", runtime_dir=runtime)
    directory = runtime / mount_id(mount.mountpoint)
    directory.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(directory / "control.sock"))
    with pytest.raises(MountError, match=r"refused.*tierfs umount"):
        call(mount, "status", runtime_dir=runtime)


def test_a_control_plane_that_is_started_again_is_waited_for(
    runtime: Path, mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = runtime / mount_id(mount.mountpoint)
    keeper = Runtime.claim(directory, os.fspath(mount.mountpoint))
    servers: list[Server] = []

    def wait(_: float) -> None:
        servers.append(Server(runtime, mount, [b'{"ok": {"x": 2}}\n']))

    monkeypatch.setattr("tierfs.control.client.time.sleep", wait)
    try:
        assert call(mount, "status", runtime_dir=runtime) == {"x": 2}
        (server,) = servers
        server.close()
        monkeypatch.setattr(client, "RESTART_S", 0.0)
        with pytest.raises(MountError, match=r"refused.*not started again"):
            call(mount, "status", runtime_dir=runtime)
    finally:
        keeper.release()


def test_a_foreign_socket_is_not_spoken_to(runtime: Path, mount: Mount) -> None:
    directory = runtime / mount_id(mount.mountpoint)
    directory.mkdir()
    (directory / "control.sock").touch()
    with pytest.raises(MountError, match="foreign control socket"):
        call(mount, "status", runtime_dir=runtime)


# --- unmounting ---------------------------------------------------------------------------------


def test_a_busy_mount_names_who_uses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = Mount(tmp_path, "s3://b", "fuse.tierfs", 0)
    monkeypatch.setattr(unmounting, "mount_at", lambda _: mount)
    monkeypatch.setattr(unmounting, "_umount2", lambda *_, **__: 16)
    monkeypatch.setattr(unmounting, "_fusermount", lambda *_, **__: 16)
    with (
        (tmp_path / "file").open("w"),
        pytest.raises(MountError, match=rf"in use by .*\(pid {os.getpid()}\).*umount -l"),
    ):
        unmounting.unmount(tmp_path)


def test_a_mount_that_its_keeper_is_just_asking_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = Mount(tmp_path, "s3://b", "fuse.tierfs", 0)
    answers = [16, 16, 0]
    monkeypatch.setattr(unmounting, "mount_at", lambda _: mount)
    monkeypatch.setattr(unmounting, "_umount2", lambda *_, **__: answers.pop(0))
    monkeypatch.setattr(unmounting, "_fusermount", lambda *_, **__: answers.pop(0))
    monkeypatch.setattr(unmounting, "keeper_pid", lambda _: os.getpid())
    monkeypatch.setattr(unmounting, "wait_until_gone", lambda *_: True)
    with (tmp_path / "file").open("w"):
        unmounting.unmount(tmp_path)
        assert answers == []
        # The child of the keeper that asks counts as the keeper; anybody else does not.
        answers[:] = [16, 0]
        child = subprocess.Popen(["sleep", "60"], cwd=tmp_path)
        try:
            unmounting.unmount(tmp_path)
            answers[:] = [16]
            monkeypatch.setattr(unmounting, "keeper_pid", lambda _: child.pid)
            with pytest.raises(MountError, match=rf"in use by .*\(pid {os.getpid()}\)"):
                unmounting.unmount(tmp_path)
        finally:
            child.kill()
            child.wait()


def test_it_waits_for_the_keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = Mount(tmp_path, "s3://b", "fuse.tierfs", 0)
    waited: list[Path] = []
    alive = True

    def wait(state: Path, _: float) -> bool:
        waited.append(state)
        return not alive

    monkeypatch.setattr(unmounting, "mount_at", lambda _: mount)
    monkeypatch.setattr(unmounting, "_detach", lambda *_, **__: None)
    monkeypatch.setattr(unmounting, "keeper_pid", lambda _: 77)
    monkeypatch.setattr(unmounting, "wait_until_gone", wait)
    with pytest.raises(MountError, match=r"the daemon has not ended.*pid 77"):
        unmounting.unmount(tmp_path)
    alive = False
    unmounting.unmount(tmp_path)
    assert waited == [mount.state_dirs()[0]] * 2
    unmounting.unmount(tmp_path, lazy=True)
    assert len(waited) == 2
