"""The same operations as a Hypothesis state machine, on any two directories.

What `posix` finds in long runs this finds in short ones, and shrinks. Names are drawn from few, so
that they meet; files that were made and handles that were opened come back from their bundles.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

import hypothesis.strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tests.writeback.kinds import chosen_kinds
from tests.writeback.operations import Op, Side
from tests.writeback.pair import Pair

#: Gives a directory for the subject and one for the reference. Both may hold other things.
Directories = Callable[[], tuple[Path, Path]]

NAMES = st.sampled_from([b"a", b"b", b"c", b"new\nline", b"not-utf8-\xff", b"n" * 255, b".tmp1"])
PLACES = st.sampled_from([0, 1, 4095, 4096, 10_000, 65_536, 131_073])
SIZES = st.sampled_from([0, 1, 17, 4096, 4097, 70_000])
SEEDS = st.integers(1, 1 << 16)
MODES = st.sampled_from([0o600, 0o644, 0o755, 0o444])
TIMES = st.integers(10**18, 16 * 10**17)
XATTRS = st.sampled_from(["user.a", "user.b"])
_ACCESS = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)
_EXTRA = (0, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_APPEND)
FLAGS = st.sampled_from(
    [access | extra for access in _ACCESS for extra in _EXTRA]
    + [access | os.O_TRUNC | extra for access in _ACCESS[1:] for extra in _EXTRA]
)


class PosixMachine(RuleBasedStateMachine):
    """Compares after each rule. `machine` says where."""

    directories: Directories
    without: Collection[str] = ()
    allowed: Collection[str] = ()
    make_subject: Callable[[Path], Side] = Side

    folders = Bundle("folders")
    paths = Bundle("paths")
    handles = Bundle("handles")

    def __init__(self) -> None:
        super().__init__()
        subject, reference = type(self).directories()
        self.roots = [Path(tempfile.mkdtemp(dir=place)) for place in (subject, reference)]
        self.kinds = chosen_kinds(self.without)
        self.pair = Pair(
            type(self).make_subject(self.roots[0]),
            Side(self.roots[1]),
            allowed=self.allowed,
            xattrs="setxattr" in self.kinds,
        )
        self.slots = 0

    def teardown(self) -> None:
        self.pair.close()
        for root in self.roots:
            shutil.rmtree(os.fsencode(root))

    def do(self, kind: str, *args: object) -> None:
        """An operation, unless its kind is left out."""
        if self.kinds.get(kind, 0):
            found = self.pair.step(Op(kind, args))
            assert found is None, f"{Op(kind, args)}: {found}"

    @invariant()
    def the_trees_are_equal(self) -> None:
        found = self.pair.compare_trees()
        assert found is None, found

    # Names.

    @rule(target=folders, name=NAMES, mode=st.sampled_from([0o700, 0o755]))
    def make_folder(self, name: bytes, mode: int) -> bytes:
        self.do("mkdir", name, mode)
        return name

    @rule(target=paths, name=NAMES)
    def name_a_path(self, name: bytes) -> bytes:
        return name

    @rule(target=paths, parent=folders, name=NAMES)
    def name_a_path_in_a_folder(self, parent: bytes, name: bytes) -> bytes:
        return parent + b"/" + name

    @rule(path=paths)
    def make_folder_inside(self, path: bytes) -> None:
        self.do("mkdir", path, 0o755)

    @rule(path=folders | paths)
    def remove_folder(self, path: bytes) -> None:
        self.do("rmdir", path)

    @rule(path=folders | paths)
    def unlink(self, path: bytes) -> None:
        self.do("unlink", path)

    @rule(source=folders | paths, to=folders | paths)
    def rename(self, source: bytes, to: bytes) -> None:
        self.do("rename", source, to)

    @rule(source=paths, to=paths)
    def rename_without_replacing(self, source: bytes, to: bytes) -> None:
        self.do("noreplace", source, to)

    @rule(source=paths, to=paths)
    def exchange(self, source: bytes, to: bytes) -> None:
        self.do("exchange", source, to)

    @rule(source=paths, to=paths)
    def link(self, source: bytes, to: bytes) -> None:
        self.do("link", source, to)

    @rule(text=NAMES, path=paths)
    def symlink(self, text: bytes, path: bytes) -> None:
        self.do("symlink", text, path)
        self.do("readlink", path)

    @rule(path=folders | paths)
    def look(self, path: bytes) -> None:
        for kind in ("stat", "lstat", "listdir", "readlink"):
            self.do(kind, path)

    @rule(path=folders | paths)
    def sync_folder(self, path: bytes) -> None:
        self.do("sync_directory", path)

    @rule(path=paths, size=PLACES)
    def truncate(self, path: bytes, size: int) -> None:
        self.do("truncate", path, size)

    # Open files.

    @rule(target=handles, path=paths, flags=FLAGS, mode=MODES)
    def open(self, path: bytes, flags: int, mode: int) -> int:
        self.slots += 1
        self.do("open", self.slots, path, flags, mode)
        return self.slots

    @rule(target=handles, path=paths, seed=SEEDS, size=SIZES)
    def create(self, path: bytes, seed: int, size: int) -> int:
        """What most programs do; the handle stays open."""
        self.slots += 1
        self.do("open", self.slots, path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self.do("append", self.slots, seed, size)
        return self.slots

    @rule(slot=consumes(handles))
    def close(self, slot: int) -> None:
        self.do("close", slot)

    @rule(slot=handles, offset=PLACES, seed=SEEDS, size=SIZES)
    def write(self, slot: int, offset: int, seed: int, size: int) -> None:
        self.do("pwrite", slot, offset, seed, size)

    @rule(slot=handles, seed=SEEDS, size=SIZES)
    def append(self, slot: int, seed: int, size: int) -> None:
        self.do("append", slot, seed, size)

    @rule(slot=handles, offset=PLACES, size=SIZES)
    def read(self, slot: int, offset: int, size: int) -> None:
        self.do("pread", slot, offset, size)
        self.do("fstat", slot)

    @rule(slot=handles, size=PLACES)
    def truncate_open(self, slot: int, size: int) -> None:
        self.do("ftruncate", slot, size)

    @rule(slot=handles, place=PLACES, seed=SEEDS, size=SIZES, at=TIMES)
    def store_through_a_map(self, slot: int, place: int, seed: int, size: int, at: int) -> None:
        self.do("mmap_store", slot, place, seed, size, at)

    @rule(slot=handles, place=PLACES, size=SIZES)
    def load_through_a_map(self, slot: int, place: int, size: int) -> None:
        self.do("mmap_load", slot, place, size)

    @rule(one=handles, other=handles, offset=PLACES, size=SIZES, at=PLACES)
    def copy(self, one: int, other: int, offset: int, size: int, at: int) -> None:
        self.do("sendfile", one, other, offset, size, at)
        self.do("copy_file_range", one, other, at, size, offset)

    @rule(slot=handles, only_data=st.booleans())
    def sync(self, slot: int, only_data: bool) -> None:
        self.do("fdatasync" if only_data else "fsync", slot)

    # Attributes.

    @rule(path=folders | paths, mode=st.sampled_from([0o700, 0o755]))
    def chmod(self, path: bytes, mode: int) -> None:
        self.do("chmod", path, mode)

    @rule(path=folders | paths, at=TIMES)
    def set_time(self, path: bytes, at: int) -> None:
        self.do("utimens", path, at)

    @rule(slot=handles, mode=MODES, at=TIMES)
    def set_open(self, slot: int, mode: int, at: int) -> None:
        self.do("fchmod", slot, mode)
        self.do("futimens", slot, at)

    @rule(path=folders | paths, name=XATTRS, seed=SEEDS, flags=st.sampled_from([0, 1, 2]))
    def set_attribute(self, path: bytes, name: str, seed: int, flags: int) -> None:
        self.do("setxattr", path, name, seed, 20, flags)

    @rule(path=folders | paths, name=XATTRS, remove=st.booleans())
    def look_at_attributes(self, path: bytes, name: str, remove: bool) -> None:
        self.do("listxattr", path)
        self.do("removexattr" if remove else "getxattr", path, name)


def machine(
    directories: Directories,
    *,
    without: Collection[str] = (),
    allowed: Collection[str] = (),
    make_subject: Callable[[Path], Side] = Side,
) -> type[PosixMachine]:
    """The machine for the two directories that *directories* gives at each example."""
    fields = {
        "directories": staticmethod(directories),
        "without": without,
        "allowed": allowed,
        "make_subject": staticmethod(make_subject),
    }
    return type("Machine", (PosixMachine,), fields)
