"""Pages in compiled code (`tierfs._listing`), against the parser and the packers in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.packing import packed
from tierfs.errors import LakeProtocolError
from tierfs.index.index import Index
from tierfs.index.names_batch import NamesBatch
from tierfs.index.records import ROOT_INO, Dentry, Inode, Kind, ObjectRef
from tierfs.lake import s3_listing
from tierfs.lake.protocol import ListPage, ObjectInfo, Version
from tierfs.lake.s3_listing import ListingParser, ListingReader, Objects, parse
from tierfs.namespace.keys import hidden_reason, names_of
from tierfs.namespace.packed import NewFiles, PackedFiles

pytestmark = pytest.mark.skipif(parse is None, reason="tierfs was installed without Rust")

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
ITEM = (
    "<Contents><Key>{key}</Key><LastModified>{when}</LastModified>"
    "<ETag>&quot;abc&quot;</ETag><Size>{size}</Size>{extra}</Contents>"
)
END = "<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated></ListBucketResult>"


def item(
    key: str = "k", when: str = "2024-02-29T12:34:56.789Z", size: str = "1", extra: str = ""
) -> str:
    return ITEM.format(key=key, when=when, size=size, extra=extra)


def document(contents: str, *, head: str = "", root: str = "", end: str = END) -> bytes:
    head = head or '<?xml version="1.0" encoding="UTF-8"?>\n'
    root = root or f'<ListBucketResult xmlns="{NAMESPACE}">'
    return f"{head}{root}{contents}{end}".encode()


def by_python(body: bytes, root: bytes = b"", asked: bytes | None = None) -> ListPage | str:
    """The page, or what is wrong with it."""
    parser = ListingParser(root)
    try:
        parser.feed(body)
        return parser.finish(asked)
    except LakeProtocolError as error:
        return str(error)


def by_both(body: bytes, root: bytes = b"", asked: bytes | None = None) -> ListPage | str:
    reader = ListingReader(root)
    try:
        reader.feed(body[:10])
        reader.feed(body[10:])
        page = reader.finish(asked)
    except LakeProtocolError as error:
        return str(error)
    return ListPage(list(page.objects), page.prefixes, page.next_token)


def is_plain(body: bytes, root: bytes = b"", asked: bytes | None = None) -> bool:
    assert parse is not None
    return parse(body, root, asked) is not None


@pytest.mark.parametrize(
    "body",
    [
        document(""),
        document(item()),
        document(item("a%2Fb+c%25%zz%4")),
        document(item(when="1969-12-31T23:59:59.999Z") + item(when="2000-02-29T00:00:00Z")),
        document(item(when="1900-03-01T00:00:00.123456Z") + item(when="2262-01-01T23:59:59.000Z")),
        document(item(extra="<StorageClass>GLACIER</StorageClass>")),
        document(item(extra="<Owner><ID>x</ID><DisplayName/></Owner><Unheard><of/></Unheard>")),
        document(
            item(
                extra="<ChecksumAlgorithm>SHA256</ChecksumAlgorithm>"
                "<ChecksumAlgorithm>CRC32C</ChecksumAlgorithm>"
                "<ChecksumType>FULL_OBJECT</ChecksumType>"
            )
        ),
        document("<CommonPrefixes><Prefix>a/</Prefix></CommonPrefixes>" + item()),
        document(f"\n  {item()}\n\t<Name>b</Name><Delimiter>/</Delimiter><Prefix/>\n"),
        document(item(key="a&amp;b&lt;&#x20AC;&#229;")),
        document(item(key="ä€😀"), end=END.replace("<EncodingType>url</EncodingType>", "")),
        document(item("a%2Fb"), end=END.replace("url", " URL ")),
        document(item(), root="<ListBucketResult>"),
        document(item(), head="  "),
        document(item().replace("&quot;", "")),
        document(item().replace("<ETag>", "<ETag>W/")),
        document(
            "",
            end=END.replace("false", " TRUE ").replace(
                "<EncodingType>",
                "<NextContinuationToken>t&amp;u</NextContinuationToken><EncodingType>",
            ),
        ),
    ],
)
def test_what_is_plainly_said_is_read_as_in_python(body: bytes) -> None:
    assert is_plain(body)
    assert by_both(body) == by_python(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no XML",
        document(item())[:-5],
        document(item()) + b"<More/>",
        document(item()).replace(b"</Key>", b"</Kez>"),
        document(item(), root="<Other>", end="</Other>"),
        document(item(), root="<!DOCTYPE a><ListBucketResult>"),
        document(item(), head='<?xml version="1.0" encoding="latin-1"?>'),
        document(f"<!-- {item()} -->"),
        document("<![CDATA[ ]]>" + item()),
        document("between" + item()),
        document(item("<b>k</b>")),
        document(item("&unknown;")),
        document(item("k") + item().replace("<Key>k</Key>", "")),
        document(item(size="-1")),
        document(item(size="1_0")),
        document(item(size="")),
        document(item(when="2024-02-30T12:34:56Z")),
        document(item(when="9999-12-31T23:59:59Z")),
        document(item(), head=' <?xml version="1.0"?>'),
        document(item(), head='<?xml version="1.1"?>'),
        document(item(when="2024-02-29T12:34:56+01:00")),
        document(item(when="2024-02-29 12:34:56")),
        document(item(extra="<Size>2</Size>")),
        document(item(), end=END.replace("false", "maybe")),
        document(item(), end=END.replace("false", "true")),
        document(item("\x01")),
        document(item("a\r\nb")),
        document(item("]]>")),
        document(f'<x:Contents xmlns:x="{NAMESPACE}"><Key>k</Key></x:Contents>'),
        document(item().replace("<Key>", '<Key a="b">')),
        document(item()).replace(b"<Name", b"\xff<Name").replace(b"abc", b"\xff"),
        document("<CommonPrefixes/>"),
        document(item(), root=f'<s:ListBucketResult xmlns:s="{NAMESPACE}">',
                 end=END.replace("</", "</s:").replace("</s:E", "</E").replace("</s:I", "</I")),
    ],
)  # fmt: skip
def test_the_rest_is_left_to_python(body: bytes) -> None:
    assert not is_plain(body)
    assert by_both(body) == by_python(body)


def test_keys_are_behind_the_root() -> None:
    body = document(item("root%2F") + item("root%2Fa"))
    assert is_plain(body, b"root/")
    assert by_both(body, b"root/") == by_python(body, b"root/")
    outside = document(item("root%2Fa") + item("elsewhere"))
    assert not is_plain(outside, b"root/")
    assert by_both(outside, b"root/") == by_python(outside, b"root/")


def test_a_token_that_was_asked_with_is_no_way_on() -> None:
    more = "<NextContinuationToken>t</NextContinuationToken>"
    body = document("", end=END.replace("false", "true").replace("<Is", more + "<Is"))
    assert is_plain(body, asked=b"s")
    assert not is_plain(body, asked=b"t")
    assert by_both(body, asked=b"t") == by_python(body, asked=b"t")


@given(body=st.binary(max_size=60), at=st.integers(0, 400))
def test_whatever_comes_is_read_as_in_python(body: bytes, at: int) -> None:
    whole = document(item() + item("a%2Fb"))
    for changed in (body, whole[:at] + body + whole[at:], whole[:at] + body):
        assert by_both(changed) == by_python(changed)


#: As lakes have them, and as they should not.
NAMES = st.one_of(
    st.sampled_from([b"a", b"a!", b"a-b", b"a.b", b"b", b".", b"..", b"", b"a/b", b"x" * 256]),
    st.binary(min_size=1, max_size=4),
)
INFOS = st.builds(
    lambda name, size, second, etag, archived, checksum: ObjectInfo(
        b"dir/" + name, size, second * 1_000_000_000, Version(b'"%s"' % etag), archived, checksum
    ),
    NAMES,
    st.integers(0, 1 << 50),
    st.integers(-1_000_000, 4_000_000_000),
    st.sampled_from([b"0123456789abcdef", b"e-12"]),
    st.booleans(),
    st.booleans(),
)


def page_of(infos: list[ObjectInfo]) -> ListPage:
    unique = {info.key: info for info in infos}
    page = packed(ListPage([unique[key] for key in sorted(unique)]))
    assert page.packed is not None
    return page


@given(infos=st.lists(INFOS, max_size=12), ordered=st.booleans())
def test_a_page_is_packed_if_all_its_keys_are_names(infos: list[ObjectInfo], ordered: bool) -> None:
    page = page_of(infos)
    assert page.packed is not None
    if not ordered and len(page.objects) > 1:
        page = packed(ListPage(list(reversed(page.objects))))
    in_python = names_of(b"dir/", ListPage(list(page.objects)))
    names = names_of(b"dir/", page)
    keys = [info.key for info in page.objects]
    plain = keys == sorted(keys) and not any(
        hidden_reason(key[4:]) or b"/" in key[4:] for key in keys
    )
    assert (names.packed is not None) == plain
    assert (names.first, names.last) == (in_python.first, in_python.last)
    assert names.file_count == in_python.file_count
    assert names.file_names() == in_python.file_names()
    for name in (*in_python.files, b"a", b"none"):
        assert names.has_file(name) == in_python.has_file(name)
    assert names.files == in_python.files
    assert names.packed is None
    assert names.hidden == in_python.hidden


@given(infos=st.lists(INFOS, min_size=1, max_size=12), data=st.data())
def test_rows_are_those_of_python(infos: list[ObjectInfo], data: Any) -> None:
    good = [
        info for info in infos if hidden_reason(info.key[4:]) is None and info.key.count(b"/") == 1
    ]
    page = page_of(good)
    if page.packed is None or not len(page.packed):
        return
    count = len(page.objects)
    without = sorted(data.draw(st.sets(st.integers(0, count - 1))))
    new = NewFiles(PackedFiles(page.packed, page.objects, b"dir/"), 77, 1000, -5, without)
    batch, ino = NamesBatch(), 1000
    for n, info in enumerate(page.objects):
        name = info.key[4:]
        if n in without:
            assert new.known(name) is None
            continue
        inode = Inode(Kind.FILE, 0, -1, -1, info.size, info.mtime_ns, 77)
        ref = ObjectRef(info.key, info.version, info.archived, info.has_checksum)
        batch.put_entry(77, name, ino, inode, ref, -5)
        assert new.known(name) == (Dentry(ino, Kind.FILE, -5), inode, ref)
        ino += 1
    assert len(new) == ino - 1000
    assert new.known(b"not there") is None
    rows = new.files.rows(77, 1000, -5, without)
    expected = batch.operations()
    number = [(1000 + n).to_bytes(8, "big") for n in range(len(expected))]
    parent = (77).to_bytes(8, "big")
    assert list(rows.inodes()) == [(key, op[4]) for key, op in zip(number, expected, strict=True)]
    assert list(rows.objects()) == [(key, op[5]) for key, op in zip(number, expected, strict=True)]
    assert list(rows.dentries()) == [(parent + op[2], op[6]) for op in expected]
    assert list(rows.children()) == [
        (parent + key, op[2]) for key, op in zip(number, expected, strict=True)
    ]


@given(infos=st.lists(INFOS, max_size=12), last=NAMES)
def test_what_a_directory_may_hide(infos: list[ObjectInfo], last: bytes) -> None:
    page = page_of(infos)
    assert page.packed is not None
    after = [n for n, info in enumerate(page.objects) if info.key + b"/" > b"dir/" + last]
    assert page.packed.open(b"dir/" + last) == after


@pytest.mark.parametrize(
    "keys",
    [
        [b"di"],
        [b"dir"],
        [b"dir/", b"dir/a"],
        [b"dir/a", b"dirXa"],
        [b"dir/a", b"dir0"],
        [b"other/long/key"],
    ],
)
def test_keys_of_other_directories_are_no_names(keys: list[bytes]) -> None:
    """Of a lake that gives more than it was asked for."""
    page = packed(ListPage([ObjectInfo(key, 0, 0, Version(b'"e"')) for key in keys]))
    assert page.packed is not None
    assert names_of(b"dir/", page).packed is None
    assert page.packed.names(4) == [key[4:] for key in keys]


def test_an_empty_page_has_no_ends() -> None:
    page = packed(ListPage())
    assert page.packed is not None
    with pytest.raises(IndexError):
        page.packed.ends()


def test_an_answer_without_an_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_listing, "MOST_BYTES", 1_000)
    reader = ListingReader(b"")
    reader.feed(bytes(1_000))
    with pytest.raises(LakeProtocolError, match="no end"):
        reader.feed(b"x")


async def test_a_packed_page_is_in_the_index(tmp_path: Path) -> None:
    infos = [
        ObjectInfo(b"%04d.jpg" % n, n, n * 1_000_000_000, Version(b'"e"')) for n in range(1_000)
    ]
    page = packed(ListPage(infos))
    assert page.packed is not None
    index = await Index.open(tmp_path, "lake")
    try:
        batch = NamesBatch()
        files = PackedFiles(page.packed, page.objects, b"")
        batch.put_page(ROOT_INO, files.rows(ROOT_INO, 5_000, 9, [3, 999]), 998)
        await index.names.commit(batch)
        assert index.names.entry_count() == 998
        rows = index.names.children(ROOT_INO, 0, 2_000)
        assert [name for _, name, _ in rows] == [
            info.key for n, info in enumerate(infos) if n not in (3, 999)
        ]
        assert [ino for ino, _, _ in rows] == list(range(5_000, 5_998))
        assert index.names.object(5_003) == ObjectRef(b"0004.jpg", Version(b'"e"'), False, False)
        assert index.names.dentry(ROOT_INO, b"0003.jpg") is None
        assert index.names.has_any(ROOT_INO, [b"0003.jpg", b"0004.jpg"])
        assert not index.names.has_any(ROOT_INO, [b"0003.jpg", b"0999.jpg"])
    finally:
        with trio.CancelScope(shield=True):
            await index.aclose()


def test_objects_are_a_sequence() -> None:
    infos = [ObjectInfo(b"%d" % n, n, 0, Version(b'"e"')) for n in range(5)]
    page = packed(ListPage(infos))
    assert isinstance(page.objects, Objects)
    assert list(page.objects) == infos
    assert page.objects[-1] == infos[-1]
    assert page.objects[1:3] == infos[1:3]
    with pytest.raises(IndexError):
        page.objects[5]
    with pytest.raises(IndexError):
        page.objects[-6]
