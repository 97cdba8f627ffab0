"""From a URL and options to a lake: what is refused, and what is made of them."""

from __future__ import annotations

import base64
import logging
from pathlib import Path

import pytest

from tests.lake_options import Options
from tierfs.errors import ConfigError, LakeDenied
from tierfs.lake.link import ModelledLake
from tierfs.lake.local import LocalLake
from tierfs.lake.open import open_lake
from tierfs.lake.s3 import S3Lake
from tierfs.lake.s3_bytes import spellable
from tierfs.lake.s3_credentials import Identity, Secret, place_bucket
from tierfs.lake.s3_options import read_sse_c_key
from tierfs.lake.url import LakeUrl, parse_lake_url


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        ("s3://bucket", LakeUrl("s3", "bucket", b"")),
        ("s3://bucket/", LakeUrl("s3", "bucket", b"")),
        ("s3://bucket/a/b/", LakeUrl("s3", "bucket", b"a/b")),
        ("s3://bucket/a%20b?c#d", LakeUrl("s3", "bucket", b"a%20b?c#d")),
        ("s3://my.bucket_1/\u00e9\udcff", LakeUrl("s3", "my.bucket_1", b"\xc3\xa9\xff")),
        ("file:///data", LakeUrl("file", "", b"/data")),
        ("file:///data/../x//y/", LakeUrl("file", "", b"/x/y")),
        ("file:////data", LakeUrl("file", "", b"/data")),
        ("file:///", LakeUrl("file", "", b"/")),
    ],
)
def test_good_urls(url: str, parsed: LakeUrl) -> None:
    assert parse_lake_url(url) == parsed


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("/data", "file:///data"),
        ("bucket", "s3://"),
        ("", "s3://"),
        ("s3://", "s3://bucket"),
        ("s3:///prefix", "s3://bucket"),
        ("s3://-bad", "s3://bucket"),
        ("s3://a b", "s3://bucket"),
        ("s3://arn:aws:s3:eu-west-1:1:accesspoint/x", "alias"),
        ("s3://bucket--use1-az4--x-s3", "session"),
        ("gs://bucket", "s3://"),
        ("file://data", "three slashes"),
        ("file://host/data", "three slashes"),
    ],
)
def test_bad_urls_name_the_remedy(url: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        parse_lake_url(url)


@pytest.mark.parametrize(
    ("asked", "bucket", "style", "where"),
    [
        (None, "plain", None, ("plain.s3.eu-west-1.amazonaws.com", "", False)),
        (None, "with.dots", None, ("s3.eu-west-1.amazonaws.com", "/with.dots", False)),
        (None, "plain", True, ("s3.eu-west-1.amazonaws.com", "/plain", False)),
        ("http://box:9000", "plain", None, ("box", "/plain", True)),
        ("http://box:9000", "plain", False, ("plain.box", "", True)),
        ("https://box/base/", "plain", None, ("box", "/base/plain", True)),
    ],
)
def test_where_a_bucket_is(
    asked: str | None, bucket: str, style: bool | None, where: tuple[str, str, bool]
) -> None:
    url = asked or "https://s3.eu-west-1.amazonaws.com"
    found = place_bucket(url, bucket, "eu-west-1", asked, style)
    assert (found.host, found.bucket_path, found.custom) == where


def test_origins_leave_default_ports_out() -> None:
    def origin(url: str) -> str:
        return place_bucket(url, "b", "r", url, True).origin

    assert origin("https://box:443") == "https://box"
    assert origin("http://box:80") == "http://box"
    assert origin("http://box:9000") == "http://box:9000"
    assert origin("http://[::1]:9000") == "http://[::1]:9000"


@pytest.mark.parametrize("endpoint", ["box:9000", "ftp://box", "https://user:pw@box", "http://b:x"])
async def test_bad_endpoints(endpoint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await open_lake(Options(endpoint=endpoint, anonymous=True))
    assert "pw" not in str(caught.value)


async def test_kinds_of_lake(tmp_path: Path) -> None:
    lake = await open_lake(Options(url=f"file://{tmp_path}"))
    assert isinstance(lake, LocalLake)
    await lake.aclose()
    lake = await open_lake(Options(url=f"file://{tmp_path}", link="standard"))
    assert isinstance(lake, ModelledLake)
    await lake.aclose()
    lake = await open_lake(Options(url="s3://bkt/p/", endpoint="http://box:80/", anonymous=True))
    assert isinstance(lake, S3Lake)
    identity = lake.identity
    assert (identity.endpoint, identity.bucket, identity.prefix) == ("http://box", "bkt", "p")
    await lake.aclose()
    lake = await open_lake(Options(url="s3://bkt", region="eu-west-1", anonymous=True))
    assert lake.identity.endpoint == "", "the same bucket from every region"
    await lake.aclose()
    with pytest.raises(ConfigError):
        await open_lake(Options(url=f"file://{tmp_path}", link="fast"))


async def test_an_unknown_profile_is_said() -> None:
    with pytest.raises(ConfigError, match="profile"):
        await open_lake(Options(endpoint="http://box", profile="no-such-profile"))


async def test_a_missing_ca_bundle_is_said(tmp_path: Path) -> None:
    options = Options(endpoint="https://box", anonymous=True, ca_bundle=tmp_path / "missing.pem")
    with pytest.raises(ConfigError, match="CA bundle"):
        await open_lake(options)


def test_credential_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config"
    helper = tmp_path / "helper"
    helper.write_text('#!/bin/sh\necho \'{"Version":1,"AccessKeyId":"A","SecretAccessKey":"S"}\'\n')
    helper.chmod(0o755)
    config.write_text(f"[profile p]\ncredential_process = {helper}\nregion = eu-north-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    who = Identity(Options(profile="p"))
    assert who.secret() == Secret("A", "S", None)
    assert who.endpoint("bucket").host == "bucket.s3.eu-north-1.amazonaws.com"
    helper.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(LakeDenied):
        Identity(Options(profile="p")).secret()


def test_renewals_are_shared_and_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "one")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    who = Identity(Options())
    first = who.secret()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "two")
    assert who.secret() == first
    assert who.renew(0)
    assert who.renew(0), "somebody else did it: try again with what there is"
    assert not who.renew(1), "not again so soon"
    found = who.secret()
    assert found is not None
    assert found.access_key == "two"


def test_secrets_do_not_print() -> None:
    secret = Secret("AKIA", "very-secret", "token")
    for text in (repr(secret), str(secret), f"{secret}"):
        assert "AKIA" not in text
        assert "very" not in text
    Identity(Options())
    assert not logging.getLogger("botocore.auth").isEnabledFor(logging.DEBUG)


def test_customer_keys(tmp_path: Path) -> None:
    key = bytes(range(32))
    path = tmp_path / "key"
    for content in (key, key.hex().encode() + b"\n", base64.b64encode(key) + b"\n"):
        path.write_bytes(content)
        assert read_sse_c_key(path) == key
    for content in (b"", b"short", b"\xff" * 31, b"0" * 66):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="32 bytes"):
            read_sse_c_key(path)
    with pytest.raises(ConfigError):
        read_sse_c_key(tmp_path / "missing")


def test_what_obstore_can_spell() -> None:
    for key in (b"a/b", b"a b", b"a%2Fb", "\u00e9".encode(), b"...", b"a..b", b".hidden"):
        assert spellable(key)
    for key in (b"a//b", b"/a", b"a/", b"a/./b", b"..", b"a\nb", b"\x7f", b"\xff", b""):
        assert not spellable(key)
