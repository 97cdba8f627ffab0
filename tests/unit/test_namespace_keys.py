"""Every awkward key has one result: the table in `tierfs.namespace.keys`, row by row."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.namespaces import WatchedLake, World, names_in, read_all
from tierfs.errors import InvalidRequest, NameTooLong
from tierfs.index.records import ROOT_INO, HiddenReason, Kind
from tierfs.lake.protocol import LakeIdentity, ListPage, ObjectInfo
from tierfs.namespace import Absent
from tierfs.namespace.keys import components, hidden_reason, max_key_bytes

LONG = b"n" * 256


async def shown(
    directory: Path, *keys: bytes
) -> tuple[list[bytes], set[tuple[bytes, HiddenReason]]]:
    """The paths that a lake of *keys* shows, directories ending in ``/``, and what it hides."""
    world = World(directory)
    for key in keys:
        world.lake.store(key, b"" if key.endswith(b"/") else b"content")
    paths = []
    async with world.mount() as namespace:
        stack = [(ROOT_INO, b"")]
        while stack:
            ino, prefix = stack.pop()
            for child, name, attributes in await read_all(namespace, ino):
                if attributes.kind is Kind.DIRECTORY:
                    stack.append((child, prefix + name + b"/"))
                    paths.append(prefix + name + b"/")
                else:
                    paths.append(prefix + name)
        hidden = {(item.key, item.reason) for item in namespace.hidden(100)}
        assert sum(namespace.hidden_counts().values()) == len(hidden)
    return sorted(paths), hidden


async def test_a_directory_hides_the_object_of_its_name(tmp_path: Path) -> None:
    paths, hidden = await shown(tmp_path, b"a", b"a/b")
    assert paths == [b"a/", b"a/b"]
    assert hidden == {(b"a", HiddenReason.SHADOWED_BY_DIRECTORY)}


async def test_names_between_an_object_and_its_directory(tmp_path: Path) -> None:
    """``a-`` and ``a.`` sort before ``a/``: the two may be pages apart."""
    world = World(tmp_path, WatchedLake(page_size=1))
    for key in (b"a", b"a-", b"a.", b"a/b", b"b"):
        world.lake.store(key, b"content")
    async with world.mount() as namespace:
        entries = await read_all(namespace, ROOT_INO, 1)
        assert sorted(name for _, name, _ in entries) == [b"a", b"a-", b"a.", b"b"]
        assert namespace.hidden_counts() == {HiddenReason.SHADOWED_BY_DIRECTORY: 1}
        ino = (await namespace.lookup(ROOT_INO, b"a")).ino
        world.clock.advance(61)
        assert (await namespace.lookup(ROOT_INO, b"a")).ino == ino
        assert not world.changes


async def test_an_empty_marker_is_a_directory(tmp_path: Path) -> None:
    assert await shown(tmp_path, b"d/", b"e/", b"e/f") == ([b"d/", b"e/", b"e/f"], set())


async def test_a_marker_with_content_is_a_directory_and_its_content_hidden(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.lake.store(b"d/", b"content")
    async with world.mount() as namespace:
        found = await namespace.lookup(ROOT_INO, b"d")
        assert found.kind is Kind.DIRECTORY
        assert await names_in(namespace, found.ino) == []
        assert [(item.key, item.reason) for item in namespace.hidden(9)] == [
            (b"d/", HiddenReason.MARKER_WITH_CONTENT)
        ]


@pytest.mark.parametrize(
    ("key", "paths", "hidden", "reason"),
    [
        (b"a//b", [b"a/"], b"a//", HiddenReason.EMPTY_COMPONENT),
        (b"/a", [], b"/", HiddenReason.EMPTY_COMPONENT),
        (b"a//", [b"a/"], b"a//", HiddenReason.EMPTY_COMPONENT),
        (b"a/./b", [b"a/"], b"a/./", HiddenReason.DOT_COMPONENT),
        (b"a/../../b", [b"a/"], b"a/../", HiddenReason.DOT_COMPONENT),
        (b"../etc/passwd", [], b"../", HiddenReason.DOT_COMPONENT),
        (b"a/..", [b"a/"], b"a/..", HiddenReason.DOT_COMPONENT),
        (LONG, [], LONG, HiddenReason.NAME_TOO_LONG),
        (b"a/" + LONG + b"/b", [b"a/"], b"a/" + LONG + b"/", HiddenReason.NAME_TOO_LONG),
        (b"a\0b", [], b"a\0b", HiddenReason.NUL_BYTE),
    ],
)
async def test_a_key_that_is_no_path_is_hidden_and_counted(
    tmp_path: Path, key: bytes, paths: list[bytes], hidden: bytes, reason: HiddenReason
) -> None:
    assert await shown(tmp_path, key) == (paths, {(hidden, reason)})


@pytest.mark.parametrize(
    "key",
    [
        b"line\nfeed\r\t",
        b"caf\xe9",
        b"\xff\xfe\x80",
        "naïve ☃".encode(),
        b"n" * 255,
        b"...",
        b"..a",
        b" ",
        b"a b/ c",
        b"%2e%2e+%2F",
        b"/".join([b"d" * 200] * 5) + b"/" + b"e" * 19,
        b"\\..\\a",
    ],
)
async def test_any_other_key_is_its_path_byte_for_byte(tmp_path: Path, key: bytes) -> None:
    world = World(tmp_path)
    world.lake.store(key, b"content")
    async with world.mount() as namespace:
        found = await namespace.resolve(key)
        assert (found.kind, found.size) == (Kind.FILE, 7)
        assert namespace.path_of(found.ino) == key
        assert (await namespace.open_object(found.ino))[0].key == key
        assert [entry.path async for entry in namespace.walk(ROOT_INO)] == [key]
        assert namespace.hidden_counts() == {}


async def test_a_key_of_1024_bytes_and_nothing_asked_beyond(tmp_path: Path) -> None:
    world = World(tmp_path)
    directory = b"/".join([b"d" * 200] * 5)
    key = directory + b"/" + b"e" * (1024 - len(directory) - 1)
    world.lake.store(key, b"content")
    async with world.mount() as namespace:
        assert (await namespace.resolve(key)).size == 7
        parent = await namespace.resolve(directory)
        assert isinstance(world.lake, WatchedLake)
        world.lake.asked.clear()
        with pytest.raises(Absent):
            await namespace.lookup(parent.ino, b"e" * 255)
        assert world.lake.asked == []


async def test_what_a_lake_cannot_spell_is_hidden(tmp_path: Path) -> None:
    class Sockets(WatchedLake):
        async def list_page(
            self,
            prefix: bytes,
            *,
            token: bytes | None = None,
            max_keys: int = 1000,
            recursive: bool = False,
            start_after: bytes = b"",
        ) -> ListPage:
            page = await super().list_page(prefix, token=token, max_keys=max_keys)
            return ListPage(page.objects, page.prefixes, page.next_token, [b"socket"])

    world = World(tmp_path, Sockets())
    world.lake.store(b"a", b"content")
    async with world.mount() as namespace:
        assert await names_in(namespace, ROOT_INO) == [b"a"]
        assert [(item.key, item.reason) for item in namespace.hidden(9)] == [
            (b"socket", HiddenReason.UNLISTABLE)
        ]


async def test_names_that_no_key_can_have_are_not_asked_for(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.mount() as namespace:
        for name in (b"", b".", b"..", b"a\0b"):
            with pytest.raises(Absent):
                await namespace.lookup(ROOT_INO, name)
        with pytest.raises(NameTooLong):
            await namespace.lookup(ROOT_INO, LONG)
        with pytest.raises(InvalidRequest):
            await namespace.lookup(ROOT_INO, b"a/b")
        with pytest.raises(InvalidRequest):
            await namespace.resolve(b"a/../../b")
        assert isinstance(world.lake, WatchedLake)
        assert world.lake.asked == []


def test_components() -> None:
    assert components(b"") == components(b"/") == components(b"./") == []
    assert components(b"/a//b/./c/") == [b"a", b"b", b"c"]
    with pytest.raises(InvalidRequest):
        components(b"a/..")


def test_hidden_reasons_of_ordinary_names() -> None:
    assert all(hidden_reason(name) is None for name in (b"a", b".a", b"..a", b"...", b"\xff"))


def test_the_longest_key_counts_the_prefix_of_the_mount() -> None:
    assert max_key_bytes(LakeIdentity("s3", "", "b", "")) == 1024
    assert max_key_bytes(LakeIdentity("s3", "", "b", "data")) == 1019
    assert max_key_bytes(LakeIdentity("file", "", "", "/srv")) == 4096


async def test_a_store_that_does_not_list_in_order(tmp_path: Path) -> None:
    """Nothing is held back for long, and a directory hides its object whichever comes first."""

    class Unordered(WatchedLake):
        async def list_page(
            self,
            prefix: bytes,
            *,
            token: bytes | None = None,
            max_keys: int = 1000,
            recursive: bool = False,
            start_after: bytes = b"",
        ) -> ListPage:
            whole = await super().list_page(prefix)
            entries: list[bytes | ObjectInfo] = [*whole.prefixes, *reversed(whole.objects)]
            at = int(token or b"0")
            some = entries[at : at + 2]
            return ListPage(
                [entry for entry in some if isinstance(entry, ObjectInfo)],
                [entry for entry in some if isinstance(entry, bytes)],
                b"%d" % (at + 2) if at + 2 < len(entries) else None,
            )

    world = World(tmp_path, Unordered())
    for key in (b"a", b"a/b", b"b", b"b/c", b"c", b"d", b"e"):
        world.lake.store(key, b"content")
    async with world.mount() as namespace:
        for _ in range(2):
            kinds = {name: found.kind for _, name, found in await read_all(namespace, ROOT_INO)}
            assert [name for name, kind in kinds.items() if kind is Kind.DIRECTORY] == [b"a", b"b"]
            assert sorted(kinds) == [b"a", b"b", b"c", b"d", b"e"]
            assert namespace.hidden_counts() == {HiddenReason.SHADOWED_BY_DIRECTORY: 2}
            world.clock.advance(61)
        assert world.changes == []
