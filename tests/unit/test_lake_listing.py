"""The parser of ListObjectsV2 answers, against a reference that builds a tree."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote_plus, unquote_to_bytes
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierfs.errors import LakeProtocolError
from tierfs.lake.protocol import ListPage
from tierfs.lake.s3_listing import ListingParser, normal_etag, parse_timestamp

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


def document(contents: str, *, truncated: str = "false", more: str = "") -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="{NAMESPACE}">'
        f"<Name>b</Name>{contents}{more}<EncodingType>url</EncodingType>"
        f"<IsTruncated>{truncated}</IsTruncated></ListBucketResult>"
    ).encode()


def item(key: str, size: int = 1, extra: str = "") -> str:
    return (
        f"<Contents><Key>{escape(key)}</Key><LastModified>2024-02-29T12:34:56.789Z</LastModified>"
        f"<ETag>&quot;abc&quot;</ETag><Size>{size}</Size>{extra}</Contents>"
    )


def parse(body: bytes, root: bytes = b"", *, step: int = 1 << 16) -> ListPage:
    parser = ListingParser(root)
    for at in range(0, len(body), step):
        parser.feed(body[at : at + step])
    return parser.finish()


def reference(body: bytes) -> tuple[list[tuple[bytes, int, bool, bool]], list[bytes], str | None]:
    """What a parser with all the time in the world reads."""
    tree = ElementTree.fromstring(body)

    def text(node: Any, name: str) -> str | None:
        found: str | None = node.findtext(f"{{{NAMESPACE}}}{name}")
        return found

    def decode(raw: str) -> bytes:
        return unquote_to_bytes(raw.replace("+", " "))

    objects = []
    for node in tree.findall(f"{{{NAMESPACE}}}Contents"):
        archived = text(node, "StorageClass") in ("GLACIER", "DEEP_ARCHIVE")
        whole = text(node, "ChecksumType") == "FULL_OBJECT"
        algorithm = text(node, "ChecksumAlgorithm") in ("CRC32", "CRC32C", "CRC64NVME")
        key, size = text(node, "Key"), text(node, "Size")
        assert key is not None
        assert size is not None
        objects.append((decode(key), int(size), archived, whole and algorithm))
    prefixes = [
        decode(text(node, "Prefix") or "")
        for node in tree.findall(f"{{{NAMESPACE}}}CommonPrefixes")
    ]
    return objects, prefixes, text(tree, "NextContinuationToken")


KEYS = st.binary(min_size=1, max_size=40).map(quote_plus)
EXTRAS = st.sampled_from(
    [
        "",
        "<StorageClass>STANDARD</StorageClass>",
        "<StorageClass>GLACIER</StorageClass>",
        "<StorageClass>DEEP_ARCHIVE</StorageClass>",
        "<StorageClass>INTELLIGENT_TIERING</StorageClass>",
        "<ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType>",
        "<ChecksumAlgorithm>SHA256</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType>",
        "<ChecksumType>COMPOSITE</ChecksumType><ChecksumAlgorithm>CRC32C</ChecksumAlgorithm>",
        "<Owner><ID>1</ID><DisplayName>Key</DisplayName><Key>decoy</Key></Owner>",
        "<!-- <Key>no</Key> --><New attribute='1'><Size>99</Size></New>",
    ]
)


@given(
    entries=st.lists(st.tuples(KEYS, st.integers(0, 2**63), EXTRAS), max_size=8),
    prefixes=st.lists(KEYS, max_size=4),
    token=st.none() | st.text("abc&<>/+=", min_size=1, max_size=10),
    step=st.integers(1, 400),
)
def test_agrees_with_the_reference(
    entries: list[tuple[str, int, str]], prefixes: list[str], token: str | None, step: int
) -> None:
    contents = "".join(item(key, size, extra) for key, size, extra in entries)
    contents += "".join(
        f"<CommonPrefixes><Prefix>{escape(p)}</Prefix></CommonPrefixes>" for p in prefixes
    )
    more = ""
    if token is not None:
        more = f"<NextContinuationToken>{escape(token)}</NextContinuationToken>"
    body = document(contents, truncated="true" if token is not None else "false", more=more)
    page = parse(body, step=step)
    objects, folded, next_token = reference(body)
    found = [(o.key, o.size, o.archived, o.has_checksum) for o in page.objects]
    assert (found, page.prefixes) == (objects, folded)
    assert page.next_token == (next_token.encode() if next_token is not None else None)


@given(cut=st.integers(0, 10_000), step=st.integers(1, 500))
def test_a_cut_answer_is_never_a_shorter_listing(cut: int, step: int) -> None:
    body = document("".join(item(f"key-{n}") for n in range(5)))
    cut = min(cut, len(body) - 1)
    with pytest.raises(LakeProtocolError):
        parse(body[:cut], step=step)


def test_cdata_references_and_prefixed_names() -> None:
    body = (
        b'<a:ListBucketResult xmlns:a="urn:x"><a:Contents><a:Key><![CDATA[a<b]]>&#99;&amp;</a:Key>'
        b"<a:Size>3</a:Size><a:ETag>abc</a:ETag>"
        b"<a:LastModified>2024-01-01T00:00:00.000Z</a:LastModified>"
        b"</a:Contents><a:IsTruncated>false</a:IsTruncated></a:ListBucketResult>"
    )
    (found,) = parse(body).objects
    assert (found.key, found.size, found.version.etag) == (b"a<bc&", 3, b'"abc"')


def test_keys_are_decoded_only_where_the_answer_says_so() -> None:
    body = document(item("a+b%2Fc")).replace(b"<EncodingType>url</EncodingType>", b"")
    assert [o.key for o in parse(body).objects] == [b"a+b%2Fc"]
    assert [o.key for o in parse(document(item("a+b%2Fc"))).objects] == [b"a b/c"]


def test_keys_are_relative_to_the_root_and_its_marker_has_no_name() -> None:
    body = document(item("root/") + item("root/a"))
    assert [o.key for o in parse(body, b"root/").objects] == [b"a"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not xml",
        b"<Error><Code>InternalError</Code></Error>",
        b"<html><body>proxy</body></html>",
        b"<ListBucketResult></ListBucketResult>",
        document(item("a")).replace(b"<Size>1</Size>", b""),
        document(item("a")).replace(b"<Size>1</Size>", b"<Size>one</Size>"),
        document(item("a", -1)),
        document(item("a")).replace(b"2024-02-29", b"2023-02-29"),
        document(item("a")).replace(b"<Key>a</Key>", b"<Key>a<b/></Key>"),
        document(item("elsewhere/a")).replace(b"elsewhere", b"other"),
        document("", truncated="true"),
        document("", truncated="perhaps"),
        b'<!DOCTYPE x [<!ENTITY a "aaaa">]>' + document("").partition(b"\n")[2],
        document(item("a")) + b"trailing",
        document(item("a")).replace(b"UTF-8", b"UTF-x"),
    ],
)
def test_bad_answers_are_errors(body: bytes) -> None:
    root = b"elsewhere/" if b"other" in body else b""
    with pytest.raises(LakeProtocolError):
        parse(body, root)


def test_a_listing_that_goes_in_circles_is_an_error() -> None:
    parser = ListingParser(b"")
    more = "<NextContinuationToken>same</NextContinuationToken>"
    parser.feed(document("", truncated="true", more=more))
    with pytest.raises(LakeProtocolError):
        parser.finish(b"same")


def test_etags_have_one_spelling() -> None:
    for text in ('"abc"', "abc", 'W/"abc"', ' "abc" '):
        assert normal_etag(text) == b'"abc"'


def test_times_are_whole_seconds() -> None:
    assert parse_timestamp("1970-01-01T00:00:01.999Z") == 1_000_000_000
    assert parse_timestamp("2024-02-29T12:34:56Z") == 1_709_210_096_000_000_000
    assert parse_timestamp("2024-02-29T12:34:56") == 1_709_210_096_000_000_000
