"""What one node has written, another one shows as it was: modes, owners, times, directories and
links; through both fronts, also where nothing can be written."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.mount.mounting import Mount

Make = Callable[..., Mount]

RULE = ("--write-back", "w/**")
TIME_NS = 1_700_000_000_123_456_789


class Seen(NamedTuple):
    """What lstat says of a path, and where it leads."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    target: str


def tree(top: Path) -> dict[str, Seen]:
    found = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        is_link = stat.S_ISLNK(status.st_mode)
        # A link has no mode of its own, and what is in a directory changes its time.
        mtime_ns = 0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns
        target = os.readlink(path) if is_link else ""
        found[str(path.relative_to(top))] = Seen(
            status.st_mode, status.st_uid, status.st_gid, mtime_ns, target
        )
    return found


def write(top: Path) -> None:
    (top / "step-7" / "empty").mkdir(parents=True)
    (top / "step-7" / "empty").chmod(0o700)
    for name, mode in (("model.pt", 0o640), ("run.sh", 0o755)):
        path = top / "step-7" / name
        path.write_bytes(name.encode())
        path.chmod(mode)
        os.chown(path, 7, 8)
        os.utime(path, ns=(TIME_NS, TIME_NS))
    (top / "latest").symlink_to("step-7")
    (top / "step-7" / "absolute").symlink_to("/nowhere")
    os.utime(top / "latest", ns=(TIME_NS, TIME_NS), follow_symlinks=False)


def written(mount: Make) -> dict[str, Seen]:
    """What a mount that is gone has written below ``w``."""
    with mount(*RULE) as made:
        (made.directory / "w").mkdir(exist_ok=True)
        write(made.directory / "w")
        wrote = tree(made.directory / "w")
        made.umount()
    return wrote


@pytest.mark.parametrize("writes", [True, False])
def test_another_node_shows_it_as_it_was(mount: Make, tmp_path: Path, *, writes: bool) -> None:
    wrote = written(mount)
    options = RULE if writes else ("--read-metadata", "w")
    with mount(*options, cache=tmp_path / "other") as made:
        top = made.directory / "w"
        assert tree(top) == wrote
        assert (top / "latest" / "model.pt").read_bytes() == b"model.pt"
        with pytest.raises(OSError, match="Invalid argument"):
            os.readlink(top / "step-7" / "model.pt")
    with mount("--read-metadata", "none", cache=tmp_path / "third") as made:
        # A link is a file, and owners are the mount's.
        top = made.directory / "w"
        assert (top / "latest").read_bytes() == b"step-7"
        assert (top / "step-7" / "model.pt").stat().st_uid == os.getuid()


def test_a_link_of_another_nodes_is_renamed(mount: Make, tmp_path: Path) -> None:
    wrote = written(mount)
    with mount(*RULE, cache=tmp_path / "other") as made:
        top = made.directory / "w"
        (top / "latest").rename(top / "last")
        assert tree(top)["last"] == wrote["latest"]
        assert made.status()["writing"]["conflicts"] == []
        made.umount()
    with mount("--read-metadata", "w", cache=tmp_path / "third") as made:
        found = tree(made.directory / "w")
        assert found["last"] == wrote["latest"]
        assert "latest" not in found
