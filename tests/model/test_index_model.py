"""Random operations on the names and cache environments, beside plain dictionaries."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.index_checks import cache_findings, names_findings
from tierfs.index import cache as cache_module
from tierfs.index import names as names_module
from tierfs.index import names_apply
from tierfs.index.cache import CacheBatch, CacheIndex
from tierfs.index.environments import Environment
from tierfs.index.names import Names, NamesBatch
from tierfs.index.records import (
    FIRST_INO,
    ROOT_INO,
    BlockRecord,
    CachedFile,
    Dentry,
    Hidden,
    HiddenReason,
    Inode,
    Kind,
    Listing,
    ListingState,
    ObjectRef,
)
from tierfs.lake.protocol import Version

LAKE = "file:///lake"
NAMES = st.sampled_from([b"a", b"b", b"c", b"\xff", b"a\n", b"n" * 255])
PICK = st.integers(0, 1 << 16)
TIMES = st.integers(-(2**63), 2**63 - 1)


class NamesModel:
    """What `Names` promises, said with dictionaries."""

    def __init__(self) -> None:
        self.dentries: dict[tuple[int, bytes], Dentry] = {}
        self.inodes: dict[int, Inode] = {}
        self.objects: dict[int, ObjectRef] = {}
        self.listings: dict[int, Listing] = {}
        self.hidden: dict[tuple[int, bytes], HiddenReason] = {}

    def directories(self) -> list[int]:
        found = [ino for ino, inode in self.inodes.items() if inode.kind is Kind.DIRECTORY]
        return [ROOT_INO, *sorted(found)]

    def below(self, ino: int) -> set[int]:
        found = {ino}
        for (parent, _), dentry in list(self.dentries.items()):
            if parent == ino:
                found |= self.below(dentry.ino)
        return found

    def place(self, ino: int) -> tuple[int, bytes] | None:
        return next((key for key, dentry in self.dentries.items() if dentry.ino == ino), None)

    def put(
        self, parent: int, name: bytes, ino: int, inode: Inode, ref: ObjectRef | None, at: int
    ) -> None:
        old = self.dentries.get((parent, name))
        if old is not None and old.ino != ino:
            self.remove(parent, name, spare=ino)
        place = self.place(ino)
        if place is not None:
            del self.dentries[place]
        self.dentries[parent, name] = Dentry(ino, inode.kind, at)
        self.inodes[ino] = inode
        self.objects.pop(ino, None)
        if ref is not None:
            self.objects[ino] = ref

    def remove(self, parent: int, name: bytes, spare: int = 0) -> None:
        old = self.dentries.pop((parent, name), None)
        if old is None:
            return
        gone = self.below(old.ino) - (self.below(spare) if spare else set())
        self.dentries = {
            key: dentry
            for key, dentry in self.dentries.items()
            if dentry.ino not in gone and (key[0] not in gone or dentry.ino == spare)
        }
        for ino in gone:
            self.inodes.pop(ino, None)
            self.objects.pop(ino, None)
            self.listings.pop(ino, None)
        self.hidden = {key: reason for key, reason in self.hidden.items() if key[0] not in gone}


class NamesMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="tierfs-names-"))
        self.slice = names_apply.PURGE_CHILDREN
        names_apply.PURGE_CHILDREN = 3  # So that small trees take several slices.
        self.model = NamesModel()
        self.batch = NamesBatch()
        self.next_ino = FIRST_INO
        self.open()

    def open(self) -> None:
        self.env = Environment(
            self.root / "names", name="names", databases=names_module.DATABASES, lake=LAKE
        )
        self.names = Names(self.env)

    def teardown(self) -> None:
        self.env.close()
        names_apply.PURGE_CHILDREN = self.slice
        shutil.rmtree(self.root)

    def directory(self, pick: int) -> int:
        directories = self.model.directories()
        return directories[pick % len(directories)]

    @rule(
        pick=PICK, name=NAMES, is_directory=st.booleans(), size=st.integers(0, 2**64 - 1), at=TIMES
    )
    def put_new(self, pick: int, name: bytes, is_directory: bool, size: int, at: int) -> None:
        parent, ino = self.directory(pick), self.next_ino
        self.next_ino += 1
        if is_directory:
            inode, ref = Inode(Kind.DIRECTORY, 0o755, -1, 7, 0, at, parent), None
        else:
            inode = Inode(Kind.FILE, 0, 1000, -1, size, at, parent)
            ref = ObjectRef(b"key/" + name, Version(b'"%d"' % ino), False, size % 2 == 0)
        self.batch.put_entry(parent, name, ino, inode, ref, at)
        self.model.put(parent, name, ino, inode, ref, at)

    @precondition(lambda self: self.model.inodes)
    @rule(what=PICK, pick=PICK, name=NAMES, at=TIMES)
    def put_known(self, what: int, pick: int, name: bytes, at: int) -> None:
        """Refresh, or move: a known inode under a name that may be another."""
        inos = sorted(self.model.inodes)
        ino = inos[what % len(inos)]
        parent = self.directory(pick)
        target = self.model.dentries.get((parent, name))
        if parent in self.model.below(ino):
            return  # No directory goes into itself.
        if target is not None and target.ino != ino and parent in self.model.below(target.ino):
            return
        inode = self.model.inodes[ino]._replace(parent=parent, mtime_ns=at)
        ref = self.model.objects.get(ino)
        self.batch.put_entry(parent, name, ino, inode, ref, at)
        self.model.put(parent, name, ino, inode, ref, at)

    @rule(pick=PICK, name=NAMES)
    def remove(self, pick: int, name: bytes) -> None:
        parent = self.directory(pick)
        self.batch.remove_entry(parent, name)
        self.model.remove(parent, name)

    @rule(pick=PICK, name=NAMES, at=TIMES)
    def touch(self, pick: int, name: bytes, at: int) -> None:
        parent = self.directory(pick)
        self.batch.touch(parent, name, at)
        if (old := self.model.dentries.get((parent, name))) is not None:
            self.model.dentries[parent, name] = old._replace(checked_ns=at)

    @rule(pick=PICK, state=st.sampled_from(ListingState), token=st.none() | st.binary(max_size=9))
    def put_listing(self, pick: int, state: ListingState, token: bytes | None) -> None:
        ino = self.directory(pick)
        listing = Listing(state, pick, 3, 2**40, token)
        self.batch.put_listing(ino, listing)
        self.model.listings[ino] = listing

    @rule(pick=PICK, key=NAMES, reason=st.sampled_from(HiddenReason))
    def put_hidden(self, pick: int, key: bytes, reason: HiddenReason) -> None:
        ino = self.directory(pick)
        self.batch.put_hidden(Hidden(ino, key, reason))
        self.model.hidden[ino, key] = reason

    @rule(pick=PICK)
    def clear_hidden(self, pick: int) -> None:
        ino = self.directory(pick)
        self.batch.clear_hidden(ino)
        self.model.hidden = {k: v for k, v in self.model.hidden.items() if k[0] != ino}

    @rule()
    def commit(self) -> None:
        trio.run(self.names.commit, self.batch)
        self.batch = NamesBatch()
        self.agree()

    @rule()
    def reopen(self) -> None:
        self.commit()
        self.env.close()
        self.open()
        self.agree()

    def agree(self) -> None:
        model, names = self.model, self.names
        trio.run(names.purge)
        assert names_findings(self.env) == []
        assert names.entry_count() == len(model.dentries)
        for ino in range(ROOT_INO, self.next_ino):
            assert names.inode(ino) == model.inodes.get(ino)
            assert names.object(ino) == model.objects.get(ino)
            expected = model.listings.get(ino, Listing(ListingState.NONE, 0, 0, 0, None))
            assert names.listing(ino) == expected
        for parent in model.directories():
            entries = {name: d for (p, name), d in model.dentries.items() if p == parent}
            assert names.entries(parent, b"", 1000) == sorted(entries.items())
            in_order = sorted((d.ino, name, model.inodes[d.ino]) for name, d in entries.items())
            assert names.children(parent, 0, 1000) == in_order
            assert list(names.child_inos(parent)) == [ino for ino, _, _ in in_order]
            asked = [*entries, b"never"]
            assert names.dentries(parent, asked) == [entries.get(name) for name in asked]
        hidden = {(h.directory, h.key): h.reason for h in names.hidden(1000)}
        assert hidden == model.hidden
        assert sum(names.hidden_counts().values()) == len(model.hidden)


class CacheMachine(RuleBasedStateMachine):
    INOS = st.integers(16, 21)
    NUMBERS = st.sets(st.sampled_from([0, 1, 2, 255, 256, 2**32 - 1]), min_size=1)

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="tierfs-cache-"))
        self.files: dict[int, CachedFile] = {}
        self.blocks: dict[int, dict[int, BlockRecord]] = {}
        self.batch = CacheBatch()
        self.open()

    def open(self) -> None:
        self.env = Environment(
            self.root / "cache", name="cache", databases=cache_module.DATABASES, lake=LAKE
        )
        self.cache = CacheIndex(self.env)

    def teardown(self) -> None:
        self.env.close()
        shutil.rmtree(self.root)

    @rule(ino=INOS, size=st.integers(0, 2**50), flags=st.integers(0, 3), used=st.integers(0, 99))
    def put_file(self, ino: int, size: int, flags: int, used: int) -> None:
        file = CachedFile(
            bytes([ino]) * 16, size, 77, bool(flags & 1), bool(flags & 2), b"bootid..", 5, -5, used
        )
        self.batch.put_file(ino, file)
        self.files[ino] = file
        self.blocks.setdefault(ino, {})

    @rule(ino=INOS, numbers=NUMBERS, length=st.integers(1, 1 << 20))
    def put_blocks(self, ino: int, numbers: set[int], length: int) -> None:
        put = {n: BlockRecord(length, n, 2**64 - 1) for n in numbers}
        self.batch.put_blocks(ino, put)
        if ino in self.files:
            self.blocks[ino].update(put)

    @rule(ino=INOS, numbers=NUMBERS)
    def drop_blocks(self, ino: int, numbers: set[int]) -> None:
        self.batch.drop_blocks(ino, numbers)
        for n in numbers:
            self.blocks.get(ino, {}).pop(n, None)

    @rule(ino=INOS)
    def drop_file(self, ino: int) -> None:
        self.batch.drop_file(ino)
        self.files.pop(ino, None)
        self.blocks.pop(ino, None)

    @rule(ino=INOS, used=st.integers(0, 99))
    def touch(self, ino: int, used: int) -> None:
        self.batch.touch(ino, used)
        if (file := self.files.get(ino)) is not None:
            self.files[ino] = file._replace(last_used_s=max(used, file.last_used_s))

    @rule(soon=st.booleans())
    def commit(self, soon: bool) -> None:
        if soon:
            self.cache.commit_soon(self.batch)
        else:
            trio.run(self.cache.commit, self.batch)
        self.batch = CacheBatch()

    @rule()
    def reopen(self) -> None:
        self.cache.commit_soon(self.batch)
        self.batch = CacheBatch()
        self.env.close()
        self.open()

    @invariant()
    def totals_are_sums(self) -> None:
        assert cache_findings(self.env) == []

    @precondition(lambda self: not len(self.batch))
    @rule(seed=PICK)
    def agree(self, seed: int) -> None:
        trio.run(self.env.write, lambda txn: None)  # Behind what commit_soon queued.
        expected = {}
        for ino, file in self.files.items():
            present = sum(block.length for block in self.blocks[ino].values())
            expected[ino] = file._replace(present_bytes=present)
            assert self.cache.file(ino) == expected[ino]
            assert self.cache.blocks(ino) == self.blocks[ino]
        assert dict(self.cache.scan_files(0, 100)) == expected
        assert self.cache.totals() == (
            len(expected),
            sum(file.present_bytes for file in expected.values()),
            sum(file.overhead_bytes for file in expected.values()),
        )
        sample = self.cache.sample_files(random.Random(seed), 3)
        assert all(expected[ino] == file for ino, file in sample)
        assert len(expected) > 3 or len(sample) == len(expected)


LIMITS = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)

TestNames = NamesMachine.TestCase
TestNames.settings = LIMITS
TestCache = CacheMachine.TestCase
TestCache.settings = LIMITS


def test_the_cache_model_finds_totals_that_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    real = CacheIndex._change_blocks

    def forgetful(self: CacheIndex, *arguments: object) -> int:
        return real(self, *arguments) and 1  # type: ignore[arg-type]

    monkeypatch.setattr(CacheIndex, "_change_blocks", forgetful)
    machine = CacheMachine()
    try:
        machine.put_file(16, 5, 0, 0)
        machine.put_blocks(16, {0, 1}, 100)
        machine.commit(False)
        with pytest.raises(AssertionError):
            machine.totals_are_sums()
    finally:
        machine.teardown()
