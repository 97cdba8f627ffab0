"""One configuration, three spellings; every wrong one is one line with its remedy."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path

import pytest

from tierfs.config import Config, default_runtime_dir, resolve_mountpoint, runtime_dirs
from tierfs.errors import ConfigError
from tierfs.options import OPTIONS

BASE = {"url": "s3://bucket/data", "mountpoint": "/mnt/lake", "cache": "/nvme/tierfs"}


def assemble(**cli: str) -> Config:
    return Config.assemble(cli=BASE | cli)


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "lake.toml"
    file.write_text(text)
    return file


def test_the_table_and_the_fields_agree() -> None:
    fields = {field.name for field in dataclasses.fields(Config)}
    assert fields - set(OPTIONS) == {"security"}
    assert set(OPTIONS) <= fields


def test_every_default_is_written_as_its_parser_reads_it() -> None:
    for option in OPTIONS.values():
        default = Config.__dataclass_fields__[option.name].default
        if default is not dataclasses.MISSING and default is not None:
            assert option.parse(option.kind.format(default), "x") == default


def test_defaults() -> None:
    config = assemble()
    assert config.memory == 1 << 30
    assert config.metadata_ttl == 60.0
    assert config.umask == 0o022
    assert config.cache_size is None


def test_three_spellings_say_the_same(tmp_path: Path) -> None:
    on_line = assemble(**{"cache-size": "800G", "metadata-ttl": "inf", "read-only": "true"})
    by_option = Config.assemble(
        cli=BASE,
        mount_options={"cache_size": "800G", "metadata_ttl": "inf", "read_only": "true"},
    )
    file = write(tmp_path, 'cache_size = "800G"\nmetadata-ttl = "inf"\nread_only = true\n')
    assert on_line == by_option == Config.assemble(cli=BASE, file=file)
    assert on_line.cache_size == 800 << 30
    assert math.isinf(on_line.metadata_ttl)


def test_precedence_is_line_then_option_then_file_then_default(tmp_path: Path) -> None:
    file = write(tmp_path, 'region = "file"\nprofile = "file"\nmemory = "64M"\n')
    config = Config.assemble(
        cli=BASE | {"region": "line"},
        mount_options={"region": "option", "profile": "option"},
        file=file,
    )
    assert (config.region, config.profile, config.memory) == ("line", "option", 64 << 20)
    assert config.max_connections == 128


def test_json_round_trip_keeps_everything() -> None:
    config = Config(
        url="file:///data",
        mountpoint=Path(os.fsdecode(b"/mnt/\xff")),
        cache=Path("/c"),
        metadata_ttl=math.inf,
        ca_bundle=Path("/etc/ca.pem"),
        security=("context=a",),
    )
    assert Config.from_json(config.to_json()) == config
    assert Config.from_json(config.to_json().encode()) == config


@pytest.mark.parametrize("text", ["{}", "[]", "nonsense", '{"url": 1}'])
def test_json_of_another_version_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="configuration cannot be read"):
        Config.from_json(text)


@pytest.mark.parametrize(
    ("cli", "message"),
    [
        ({"cache_sise": "1G"}, "--cache-sise .did you mean --cache-size"),
        ({"cache_size": "800"}, "a size needs a unit.*800G"),
        ({"cache_size": "800GB"}, "ambiguous.*800G"),
        ({"cache_size": "4K"}, "smaller than one block"),
        ({"staging_size": "4K"}, "staging_size is too small"),
        ({"memory": "1M"}, "memory is too small.*16M"),
        ({"metadata_ttl": "60"}, "a duration needs a unit.*60s"),
        ({"min_free": "100%"}, "between 0% and 99%"),
        ({"umask": "999"}, "octal"),
        ({"uid": "no-such-user-here"}, "no such user"),
        ({"gid": "no-such-group-here"}, "no such group"),
        ({"max_connections": "0"}, "1 or more"),
        ({"anonymous": "perhaps"}, "true or false"),
        ({"front": "nativ"}, "auto, native, python"),
        ({"policy": "fifo"}, "adaptive, epochs, frequency, lru"),
        ({"log_level": "loud"}, "error, warning, info, debug"),
        ({"link": "1,2"}, "FIRST_BYTE_MS"),
        ({"endpoint": "minio:9000"}, "http://HOST:PORT"),
        ({"endpoint": "https://user:pw@minio"}, "without path or credentials"),
        ({"request_timeout": "inf"}, "an answer some day"),
        ({"secret_access_key": "x"}, "credentials are never options"),
        ({"url": "/data"}, "file:///data"),
        ({"url": "file://data"}, "three slashes"),
        ({"url": "s3://"}, "s3://BUCKET/PREFIX"),
        ({"url": "s3://key:secret@bucket/x"}, "no credentials"),
        ({"url": "gs://bucket"}, "s3://BUCKET/PREFIX or file:///PATH"),
        ({"cache": "/mnt/lake/cache"}, "cache is inside the mount point"),
        ({"cache": "/mnt/lake"}, "cache is inside the mount point"),
        ({"cache": "/mnt"}, "mount point is inside the cache"),
        ({"runtime_dir": "/mnt/lake/run"}, "runtime_dir is inside the mount point"),
        ({"mountpoint": "/"}, "cannot mount over"),
        ({"url": "file:///nvme"}, "the cache is on the lake"),
        ({"url": "file:///nvme/tierfs"}, "the cache is on the lake"),
        ({"url": "file:///nvme/tierfs/lake"}, "the lake is inside the cache"),
        ({"url": "file:///mnt"}, "mount point is inside the lake"),
        ({"url": "file:///mnt/lake/data"}, "the lake is inside the mount point"),
        ({"url": "file:///data", "region": "eu-west-1"}, "nothing about a local lake"),
        ({"anonymous": "true", "profile": "lab"}, "exclude each other"),
        ({"anonymous": "true", "requester_pays": "true"}, "must sign"),
        ({"sse_c_key_file": "/k", "endpoint": "http://minio:9000"}, "https"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(cli: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        assemble(**cli)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cache_sise = 1", "did you mean cache_size"),
        ("cache_size = 800", 'must be a string, for example "800G"'),
        ("metadata_ttl = 60", 'must be a string, for example "60s"'),
        ("metadata_ttl = inf", 'must be a string, for example "60s"'),
        ("umask = 22", "must be a string"),
        ('read_only = "yes"', "true or false"),
        ("max_connections = true", "must be a number"),
        ('cache = "relative"', "must be absolute"),
        ("[mount]", "unknown option"),
        ('cache_size = "1G"\ncache-size = "2G"', "set twice"),
        ("cache_size =", "not TOML"),
    ],
)
def test_what_is_wrong_in_a_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Config.assemble(cli=BASE, file=write(tmp_path, text))
    assert "lake.toml" in str(caught.value)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"No such file.*--config"):
        Config.assemble(cli=BASE, file=Path("/nonexistent/lake.toml"))


@pytest.mark.parametrize("missing", ["url", "mountpoint"])
def test_url_and_mount_point_are_needed(missing: str) -> None:
    cli = {name: text for name, text in BASE.items() if name != missing}
    with pytest.raises(ConfigError, match=f"no {missing}"):
        Config.assemble(cli=cli)


def test_url_and_mount_point_may_come_from_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, 'url = "s3://bucket/p/"\nmountpoint = "/mnt/x"\n')
    config = Config.assemble(file=file)
    assert (config.url, config.mountpoint) == ("s3://bucket/p", Path("/mnt/x"))


def test_links_do_not_hide_a_cache_inside_the_mount_point(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mnt")
    with pytest.raises(ConfigError, match="inside the mount point"):
        assemble(mountpoint=str(tmp_path / "mnt"), cache=str(tmp_path / "link" / "cache"))
    (tmp_path / "data").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="the lake"):
        assemble(
            mountpoint=str(tmp_path / "mnt"),
            url=f"file://{tmp_path / 'data'}",
            cache="/nvme/tierfs",
        )


def test_a_mount_point_is_resolved_without_entering_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert resolve_mountpoint(tmp_path / "link") == tmp_path / "real"
    assert resolve_mountpoint(tmp_path / "link" / "deep") == tmp_path / "real" / "deep"
    assert resolve_mountpoint(tmp_path / "real" / ".." / "real") == tmp_path / "real"


def test_runtime_directories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert runtime_dirs(0) == [Path("/run/tierfs")]
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_runtime_dir() == tmp_path / "tierfs"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert default_runtime_dir().name == "tierfs-4711"


def test_places_below_the_runtime_directory() -> None:
    config = assemble(runtime_dir="/run/t")
    assert config.control_socket.parent == config.state_dir
    assert config.state_dir.parent == Path("/run/t")
    assert len(config.state_dir.name) == 16


def test_another_versions_configuration_is_read_where_that_is_asked_for() -> None:
    config = Config(url="s3://b", mountpoint=Path("/mnt"), cache=Path("/c"), memory=1 << 26)
    values = json.loads(config.to_json())
    del values["fuse_mask"], values["ca_bundle"]
    values["from_the_future"] = 7
    with pytest.raises(ConfigError):
        Config.from_json(json.dumps(values))
    assert Config.from_json(json.dumps(values), strict=False) == config
