"""The one configuration: what can be set, its three spellings, and how they come together.

An option is spelled ``--cache-size 800G`` on the command line, ``-o cache_size=800G`` for mount(8)
and ``cache_size = "800G"`` in TOML; ``-`` and ``_`` are equal everywhere. `OPTIONS` is the only
definition: the command line, the ``-o`` parser, the TOML reader and ``docs/configuration.md`` are
made from it, and defaults stand once, on the fields of `Config`. What mount(8) may put into ``-o``
is `tierfs.cli.mount_options`'s matter.

Precedence: command line, then ``-o``, then TOML, then the default (`Config.assemble`). No option
holds a secret: credentials come from the environment, a profile or the instance, as boto3 finds
them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tierfs.errors import ConfigError
from tierfs.options import ARGV, OPTIONS, PATH, Option, find_option
from tierfs.units import format_duration, format_size

__all__ = ["OPTIONS", "Config"]

#: The smallest cache is one block, the unit of checksums.
MIN_CACHE_BYTES = 1 << 20
#: Below this not even one sequential stream (8 MiB parts, one ahead) can run.
MIN_MEMORY_BYTES = 16 << 20


def default_cache() -> Path:
    """The cache root of whoever asks: the system's for root, the user's own otherwise."""
    if os.geteuid() == 0:
        return Path("/var/cache/tierfs")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    return Path(home, "tierfs")


def runtime_dirs(uid: int) -> list[Path]:
    """Where mounts of user *uid* may keep their sockets and pid files, most likely first."""
    if uid == 0:
        return [Path("/run/tierfs")]
    found = [Path(f"/run/user/{uid}/tierfs"), Path(tempfile.gettempdir(), f"tierfs-{uid}")]
    if uid == os.geteuid() and (own := os.environ.get("XDG_RUNTIME_DIR")):
        found.insert(0, Path(own, "tierfs"))
    return found


def default_runtime_dir() -> Path:
    """The runtime directory for mounts of the calling user. It need not exist yet."""
    uid = os.geteuid()
    candidates = runtime_dirs(uid)
    return next((path for path in candidates[:-1] if path.parent.is_dir()), candidates[-1])


def mount_id(mountpoint: str | os.PathLike[str]) -> str:
    """Sixteen hexadecimal digits: a mount point's directory under the runtime directory."""
    return hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:16]


def file_root(url: str) -> Path | None:
    """The directory of a ``file://`` lake, or None. Nothing is percent-decoded."""
    return Path(url.removeprefix("file://")) if url.startswith("file://") else None


_PATH_FIELDS = tuple(option.name for option in OPTIONS.values() if option.kind is PATH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that one mount is told. Sizes are bytes, durations seconds; see `OPTIONS`.

    ``None`` means that the value is found when the mount starts: *cache_size* from the disk,
    *uid* and *gid* from whoever mounts, *allow_other* yes for root, *path_style* from the endpoint.
    The constructor checks nothing (tests use it); `Config.assemble` does.
    """

    url: str
    mountpoint: Path
    cache: Path = field(default_factory=default_cache)
    cache_size: int | None = None
    min_free: float = 0.10
    policy: str = "adaptive"
    fill: bool = True
    fill_limit: int | None = None
    memory: int = 1 << 30
    metadata_ttl: float = 60.0
    negative_ttl: float = 5.0
    #: As `tierfs.namespace.described.within` takes them.
    read_metadata: tuple[str, ...] | None = None
    #: As `tierfs.writeback.rule.parse_rule` takes them.
    write_back: tuple[str, ...] | None = None
    upload_limit: int | None = None
    on_durable: tuple[str, ...] | None = None
    unmount_flush: float = 60.0
    max_unflushed_age: float = 3600.0
    staging_size: int | None = None
    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    path_style: bool | None = None
    ca_bundle: Path | None = None
    requester_pays: bool = False
    sse_c_key_file: Path | None = None
    anonymous: bool = False
    max_connections: int = 128
    request_timeout: float = 60.0
    allow_empty_prefix: bool = False
    front: str = "auto"
    fuse_mask: str = ""
    uid: int | None = None
    gid: int | None = None
    umask: int = 0o022
    allow_other: bool | None = None
    read_only: bool = False
    noexec: bool = False
    nonempty: bool = False
    log_level: str = "info"
    foreground: bool = False
    link: str = "none"
    runtime_dir: Path = field(default_factory=default_runtime_dir)
    #: SELinux labels (``context=...``) for mount(2), as mount(8) gave them. Only ``-o`` sets these.
    security: tuple[str, ...] = ()

    @property
    def state_dir(self) -> Path:
        """Where this mount keeps its control socket and ``keeper.pid``."""
        return self.runtime_dir / mount_id(self.mountpoint)

    @property
    def control_socket(self) -> Path:
        """The control socket's path."""
        return self.state_dir / "control.sock"

    @property
    def file_root(self) -> Path | None:
        """The lake's directory when it is a ``file://`` lake, else None."""
        return file_root(self.url)

    def to_json(self) -> str:
        """One line that `from_json` reads: how the keeper hands this to the control plane."""
        return json.dumps(dataclasses.asdict(self), default=os.fspath)

    @classmethod
    def from_json(cls, text: str | bytes, *, strict: bool = True) -> Config:
        """The inverse of `to_json`; raises ConfigError when *text* is another version's. If not
        *strict*, options that this version does not know are left out, and those that the other did
        not know have their defaults."""
        try:
            values: dict[str, Any] = json.loads(text)
            if not strict:
                known = {field.name for field in dataclasses.fields(cls)}
                values = {name: value for name, value in values.items() if name in known}
                values.setdefault("security", ())
            for name in _PATH_FIELDS:
                if (strict or name in values) and values[name] is not None:
                    values[name] = Path(values[name])
            values["security"] = tuple(values["security"])
            for name in ("read_metadata", "write_back", "on_durable"):
                if values.get(name) is not None:
                    values[name] = tuple(values[name])
            return cls(**values)
        except (ValueError, TypeError, KeyError) as error:
            hint = "keeper and control plane are different versions; unmount and mount again"
            raise ConfigError("configuration cannot be read", repr(error), hint) from error

    @classmethod
    def assemble(
        cls,
        *,
        cli: Mapping[str, str | list[str]] | None = None,
        mount_options: Mapping[str, str | list[str]] | None = None,
        file: Path | None = None,
        security: Iterable[str] = (),
    ) -> Config:
        """Merge the three spellings by precedence, parse, and check each option and all together.

        *cli* and *mount_options* map option names to unparsed text (``url`` and ``mountpoint``
        among *cli*), or to lists of it where an option may be given several times. Reads *file* and
        resolves symbolic links in paths, so it waits for the disk. Raises ConfigError.
        """
        values: dict[str, Any] = {"security": tuple(security)}
        if file is not None:
            values |= read_toml(file)
        for prefix, given in (("-o ", mount_options or {}), ("--", cli or {})):
            for name, text in given.items():
                option = find_option(name, prefix)
                spelled = option.flag if prefix == "--" else f"-o {option.name}"
                values[option.name] = option.parse(text, spelled)
        for name, missing in (("url", "which lake?"), ("mountpoint", "mount it where?")):
            if name not in values:
                hint = f"give it as an argument, or `{name}` in a file named by --config"
                raise ConfigError(missing, f"no {name}", hint)
        values["mountpoint"] = resolve_mountpoint(values["mountpoint"])
        for name, default in (("cache", default_cache), ("runtime_dir", default_runtime_dir)):
            values[name] = Path(os.path.realpath(values.get(name) or default()))
        config = cls(**values)
        validate(config)
        return config


def default_text(option: Option) -> str:
    """What holds for *option* when nobody sets it, in words or as it would be written."""
    if option.unset:
        return option.unset
    if option.name in ("cache", "runtime_dir"):
        # The same words for everybody: the generated reference must not depend on who prints it.
        return _DEFAULT_PLACES[option.name]
    default = Config.__dataclass_fields__[option.name].default
    return "required" if default is dataclasses.MISSING else option.kind.format(default)


_DEFAULT_PLACES = {
    "cache": "/var/cache/tierfs; for other users than root ~/.cache/tierfs",
    "runtime_dir": "/run/tierfs; for other users than root $XDG_RUNTIME_DIR/tierfs",
}


def read_toml(path: Path) -> dict[str, Any]:
    """Field names and typed values of the file at *path*. Waits for the disk; ConfigError."""
    try:
        with path.open("rb") as source:
            status = os.fstat(source.fileno())
            table = tomllib.loads(source.read().decode("utf-8"))
    except OSError as error:
        hint = "--config names a TOML file; systemd's tierfs@NAME reads /etc/tierfs/NAME.toml"
        raise ConfigError(f"configuration file: {error.strerror}", str(path), hint) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("configuration file is not TOML", str(path), str(error)) from None
    values: dict[str, Any] = {}
    for key, value in table.items():
        option = find_option(key, f"{path}: ")
        if option.name in values:
            raise ConfigError(f"{path}: {option.name}", "", "it is set twice; keep one")
        values[option.name] = option.parse_toml(value, f"{path}: {option.name}")
        if option.kind is ARGV:
            _check_trusted(path, status, option.name)
    return values


def _check_trusted(path: Path, status: os.stat_result, name: str) -> None:
    """Raise ConfigError if anybody else could write the command that *path* has for *name*."""
    if status.st_uid not in (0, os.geteuid()):
        hint = f"whoever owns it would run commands as you: chown it, or leave {name} out"
        raise ConfigError(f"{name} in a file of user {status.st_uid}", str(path), hint)
    if status.st_mode & 0o022:
        hint = f"others would run commands as you: chmod go-w it, or leave {name} out"
        raise ConfigError(f"{name} in a file that others can write", str(path), hint)


def resolve_mountpoint(path: Path) -> Path:
    """*path* without symbolic links, and without asking a file system that is mounted on it.

    A dead or hanging mount must be nameable, or it could never be unmounted: only the parent is
    looked at, and the last name if it is itself a link (readlink(2) does not enter the mount).
    """
    absolute = Path(os.path.abspath(path))  # noqa: PTH100
    joined = Path(os.path.realpath(absolute.parent), absolute.name)
    try:
        joined.readlink()
    except OSError:
        return joined
    return Path(os.path.realpath(joined))


def validate(config: Config) -> None:
    """Check what single options cannot know about each other. Raises ConfigError; asks no disk."""
    _validate_sizes(config)
    _validate_places(config)
    _validate_lake(config)
    _validate_writing(config)


def _validate_sizes(config: Config) -> None:
    if config.cache_size is not None and config.cache_size < MIN_CACHE_BYTES:
        hint = "one block is 1M and must fit; a useful cache holds a few thousand of them"
        raise ConfigError(
            "cache_size is smaller than one block", format_size(config.cache_size), hint
        )
    if config.staging_size is not None and config.staging_size < MIN_CACHE_BYTES:
        hint = "give writers room for several files of theirs"
        raise ConfigError("staging_size is too small", format_size(config.staging_size), hint)
    if config.memory < MIN_MEMORY_BYTES:
        hint = f"give at least {format_size(MIN_MEMORY_BYTES)}"
        raise ConfigError("memory is too small", format_size(config.memory), hint)
    if config.request_timeout <= 0 or math.isinf(config.request_timeout):
        hint = "readers must get an answer some day; give for example 60s"
        raise ConfigError("request_timeout", format_duration(config.request_timeout), hint)


def _inside(inner: Path, outer: Path) -> bool:
    return inner == outer or outer in inner.parents


def _validate_places(config: Config) -> None:
    mountpoint, cache, runtime = config.mountpoint, config.cache, config.runtime_dir
    root = config.file_root
    if root is not None:
        root = Path(os.path.realpath(root))
    if mountpoint == Path("/"):
        raise ConfigError(
            "cannot mount over", "/", "give a directory of its own, such as /mnt/lake"
        )
    if _inside(cache, mountpoint):
        hint = (
            f"it would be hidden by the mount on {mountpoint}; put it elsewhere on the local disk"
        )
        raise ConfigError("the cache is inside the mount point", str(cache), hint)
    if _inside(mountpoint, cache):
        hint = f"the cache {cache} is tierfs's alone; mount outside of it"
        raise ConfigError("the mount point is inside the cache", str(mountpoint), hint)
    if _inside(runtime, mountpoint):
        hint = f"it would be hidden by the mount on {mountpoint}; put it elsewhere"
        raise ConfigError("runtime_dir is inside the mount point", str(runtime), hint)
    if root is None:
        return
    if _inside(cache, root):
        hint = f"the lake {root} would show its own cache; put the cache elsewhere"
        raise ConfigError("the cache is on the lake", str(cache), hint)
    if _inside(root, cache):
        hint = f"the cache {cache} is tierfs's alone; move the lake or the cache"
        raise ConfigError("the lake is inside the cache", str(root), hint)
    if _inside(mountpoint, root):
        hint = f"the lake {root} would show itself in itself; mount outside of it"
        raise ConfigError("the mount point is inside the lake", str(mountpoint), hint)
    if _inside(root, mountpoint):
        hint = f"it would be hidden by the mount on {mountpoint}; mount elsewhere"
        raise ConfigError("the lake is inside the mount point", str(root), hint)


def _validate_writing(config: Config) -> None:
    if config.write_back is None:
        if config.on_durable is not None:
            hint = "give write_back rules, or leave it out"
            raise ConfigError("on_durable, and nothing is written back", config.url, hint)
        return
    rules = " ".join(config.write_back)
    if config.read_only:
        hint = "leave one of them out"
        raise ConfigError("read_only and write_back exclude each other", rules, hint)
    if config.anonymous:
        hint = "a writer must sign its requests; leave anonymous out"
        raise ConfigError("anonymous and write_back exclude each other", rules, hint)
    _validate_rules(config, config.write_back)


def _validate_rules(config: Config, write_back: tuple[str, ...]) -> None:
    from tierfs.lake.writing import AS_USUAL
    from tierfs.writeback.rules import Rules

    for rule, _ in Rules(write_back):
        if config.file_root is not None and rule.storage != AS_USUAL:
            hint = "leave storage_class, tags and kms_key out"
            raise ConfigError("a local lake has no storage classes, tags or keys", str(rule), hint)
        if config.sse_c_key_file is not None and rule.storage.kms_key:
            hint = "an object is encrypted with one of them; keep one"
            raise ConfigError("sse_c_key_file and kms_key exclude each other", str(rule), hint)


_S3_ONLY = (
    "endpoint", "region", "profile", "path_style", "ca_bundle", "anonymous", "requester_pays",
    "sse_c_key_file",
)  # fmt: skip


def _validate_lake(config: Config) -> None:
    if config.file_root is not None:
        for name in _S3_ONLY:
            if getattr(config, name):
                raise ConfigError(
                    f"{name} says nothing about a local lake", config.url, "leave it out"
                )
    if config.anonymous and config.profile is not None:
        raise ConfigError("anonymous and profile exclude each other", config.profile, "keep one")
    if config.anonymous and config.requester_pays:
        hint = "a requester who pays must sign; leave anonymous out"
        raise ConfigError("anonymous and requester_pays exclude each other", "", hint)
    plain = config.endpoint is not None and config.endpoint.startswith("http://")
    if config.sse_c_key_file is not None and plain:
        hint = "the key would cross the network in clear; use https"
        raise ConfigError(
            "sse_c_key_file needs an encrypted connection", config.endpoint or "", hint
        )
