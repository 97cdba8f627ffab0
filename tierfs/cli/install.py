"""``tierfs install``: put in place what pip cannot, mount(8) helpers and systemd units."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tierfs.cli.arguments import Parser
from tierfs.errors import MountError

EXAMPLES = """\
  sudo tierfs install                # /sbin/mount.tierfs, systemd unit, tmpfiles, examples
  sudo tierfs install --uninstall
  tierfs install --prefix ./root     # into an image
"""

#: Link under sbin -> console script. umount(8) looks for its helper by the type in the mount table,
#: which is fuse.tierfs; the same type is valid in fstab.
LINKS = {
    "mount.tierfs": "mount.tierfs",
    "mount.fuse.tierfs": "mount.tierfs",
    "umount.tierfs": "umount.tierfs",
    "umount.fuse.tierfs": "umount.tierfs",
}
#: Shipped file -> its place below the prefix. /usr/local/lib is what systemd leaves to local
#: software, and searches.
FILES = {
    "tierfs@.service": "usr/local/lib/systemd/system/tierfs@.service",
    "tierfs.conf": "usr/local/lib/tmpfiles.d/tierfs.conf",
    "lake.toml": "etc/tierfs/lake.toml.example",
    "lake.env": "etc/tierfs/lake.env.example",
}
#: What is copied to hold keys is for root alone, as its copies are then.
SECRET = {"lake.env"}
#: The path in the shipped unit that is replaced by this installation's own.
UNIT_PROGRAM = "/usr/local/bin/tierfs"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to put in place: a link to *target*, or a file with *text*."""

    path: Path
    target: Path | None = None
    text: str = ""
    mode: int = 0o644

    def is_ours(self) -> bool:
        """What is there now may be replaced or removed: it was put there by this command."""
        if self.target is not None:
            return self.path.is_symlink() and self.path.readlink().name == self.target.name
        return self.path.is_file() and "tierfs" in self.path.read_text("utf-8", "replace")

    def put(self) -> None:
        """Write it, in one step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_name(f".{self.path.name}.new")
        scratch.unlink(missing_ok=True)
        if self.target is not None:
            scratch.symlink_to(self.target)
        else:
            scratch.write_text(self.text, "utf-8")
            scratch.chmod(self.mode)
        scratch.replace(self.path)


def run(argv: Sequence[str]) -> int:
    """Put everything in place, or take it away."""
    parser = Parser(
        "install",
        "Link the helpers of mount(8) and umount(8) into /sbin, and copy the systemd unit, its\n"
        "tmpfiles and examples. A program or link of somebody else's is never replaced.",
        EXAMPLES,
    )
    parser.add_argument("--uninstall", action="store_true", help="take all of it away again")
    parser.add_argument(
        "--prefix", type=Path, default=Path("/"), metavar="DIR", help="below this root [/]"
    )
    arguments = parser.parse(argv)
    things = list(items(arguments.prefix))
    for item in things:
        if os.path.lexists(item.path) and not item.is_ours():
            hint = "move it away first"
            raise MountError("will not touch what is not tierfs's", str(item.path), hint)
    try:
        for item in things:
            if arguments.uninstall:
                existed = os.path.lexists(item.path)
                item.path.unlink(missing_ok=True)
                if existed:
                    print(f"removed {item.path}")
            else:
                item.put()
                suffix = f" -> {item.target}" if item.target is not None else ""
                print(f"{item.path}{suffix}")
    except PermissionError as error:
        raise MountError("not permitted", str(error.filename), "run it as root") from None
    except OSError as error:
        hint = "give another root with --prefix, or make that place writable"
        raise MountError(
            f"cannot be changed: {error.strerror}", str(error.filename), hint
        ) from None
    if not arguments.uninstall and arguments.prefix.resolve() == Path("/"):
        print("next: systemctl daemon-reload; systemd-tmpfiles --create tierfs.conf")
        print("then: cp /etc/tierfs/lake.toml.example /etc/tierfs/lake.toml, and edit it")
    return 0


def items(prefix: Path) -> Iterator[Item]:
    """Everything that `run` puts below *prefix*."""
    scripts = scripts_directory()
    for name, script in LINKS.items():
        yield Item(prefix / "sbin" / name, target=scripts / script)
    shipped = shipped_directory()
    for name, place in FILES.items():
        text = (shipped / name).read_text("utf-8")
        text = text.replace(UNIT_PROGRAM, str(scripts / "tierfs"))
        yield Item(prefix / place, text=text, mode=0o600 if name in SECRET else 0o644)


def scripts_directory() -> Path:
    """Where this installation's ``tierfs`` script is."""
    candidates = [Path(sys.argv[0]).absolute().parent, Path(sysconfig.get_path("scripts"))]
    for directory in candidates:
        if (directory / "mount.tierfs").exists():
            return directory
    hint = "install the package first: pip install ."
    raise MountError("this tierfs has no scripts", str(candidates[-1]), hint)


def shipped_directory() -> Path:
    """Where the systemd files are: in a checkout, or where the wheel put them."""
    checkout = Path(__file__).resolve().parents[2] / "systemd"
    wheel = Path(sysconfig.get_path("data"), "share/tierfs/systemd")
    for directory in (checkout, wheel):
        if (directory / "tierfs@.service").is_file():
            return directory
    raise MountError("the systemd files are missing", str(wheel), "install the package again")
