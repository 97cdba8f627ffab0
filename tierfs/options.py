"""The table of options: names, kinds of values, groups and help, but nothing that merges them.

`tierfs.config` reads the three spellings through this table, the command line builds its flags from
it, and ``docs/configuration.md`` is printed from it. Defaults stand on the fields of
`tierfs.config.Config`.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tierfs import units
from tierfs.errors import ConfigError

LOG_LEVELS = ("error", "warning", "info", "debug")
FRONTS = ("auto", "native", "python")
#: Which rules there are for what stays in the cache (`tierfs.readahead.rules`): all of them, the
#: best of which is found out, or one.
POLICIES = ("adaptive", "epochs", "frequency", "lru")
#: What a native front asks of the kernel, as its ``--fuse-mask`` names it (fuse/init.rs there).
FUSE_FEATURES = (
    "passthrough",
    "readdirplus",
    "parallel_dirops",
    "async_read",
    "async_dio",
    "max_pages",
    "handle_killpriv_v2",
)

# --- what a value may look like ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value. *parse* raises ValueError with the remedy; *toml*: its types there;
    *several*: it may be given more than once, and all count."""

    name: str
    parse: Callable[[Any], Any]
    format: Callable[[Any], str] = str
    toml: tuple[type, ...] = (str,)
    several: bool = False
    #: Of a kind that only a file can hold, as an array: the value of that.
    parse_array: Callable[[list[Any]], Any] | None = None


def _path(text: str) -> Path:
    if not text:
        raise ValueError("a path cannot be empty")
    return Path(os.path.abspath(os.path.expanduser(text)))  # noqa: PTH100, PTH111


def _text(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("it cannot be empty or hold unprintable characters")
    return text


def _url(text: str) -> str:
    if text.startswith("s3://"):
        bucket, _, prefix = text.removeprefix("s3://").partition("/")
        if "@" in bucket:
            raise ValueError("a URL carries no credentials; see profile, or the environment")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", bucket):
            raise ValueError("an S3 lake is written s3://BUCKET or s3://BUCKET/PREFIX")
        return f"s3://{bucket}/{prefix.rstrip('/')}".rstrip("/")
    if text.startswith("file://"):
        path = text.removeprefix("file://")
        if not path.startswith("/"):
            raise ValueError(
                "a local lake has an absolute path and three slashes: file:///data/lake"
            )
        return "file://" + os.path.normpath("/" + path.lstrip("/"))
    if text.startswith("/"):
        raise ValueError(f"a lake is a URL; for a local directory write file://{text}")
    raise ValueError("a lake is s3://BUCKET/PREFIX or file:///PATH")


def _endpoint(text: str) -> str:
    if not re.fullmatch(r"https?://[^/@?#\s]+/?", text):
        raise ValueError(
            "an endpoint is http://HOST:PORT or https://HOST, without path or credentials"
        )
    return text.rstrip("/")


def _link(text: str) -> str:
    if text in ("none", "standard"):
        return text
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4 or not all(math.isfinite(n) and n > 0 for n in numbers):
        raise ValueError("none, standard, or FIRST_BYTE_MS,P99_MS,MBPS_PER_CONNECTION,MBPS_TOTAL")
    return text


def _features(text: str) -> str:
    for name in filter(None, text.split(",")):
        if name not in FUSE_FEATURES:
            raise ValueError(f"the features are {', '.join(FUSE_FEATURES)}")
    return text


def _rule(given: str | Mapping[str, object]) -> str:
    from tierfs.writeback.rule import parse_rule

    return str(parse_rule(given))


#: Instead of directories: none at all.
NO_DIRECTORY = "none"


def _directory(text: str) -> str:
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if not text or ".." in parts:
        raise ValueError("name directories below the mount; `.` is all of it, and `none` is none")
    return "/".join(parts) or "."


#: What stands for something in a command, and the words that do.
PLACEHOLDER = r"\{(root|path|lsn|files|bytes)\}"


def _argv(words: list[Any]) -> tuple[str, ...]:
    if not words or not all(isinstance(word, str) and word and "\0" not in word for word in words):
        raise ValueError("a command is an array of words that are not empty")
    if not words[0].startswith("/") or re.search(PLACEHOLDER, words[0]):
        raise ValueError("a command begins with the absolute path of a program")
    for word in words:
        for unknown in re.findall(r"\{\w*\}", re.sub(PLACEHOLDER, "", word)):
            raise ValueError(
                f"{unknown} is none of {{root}}, {{path}}, {{lsn}}, {{files}}, {{bytes}}"
            )
    return tuple(words)


def _not_here(text: str) -> tuple[str, ...]:
    raise ValueError("a command is read from the file alone that --config names")


def _owner(database: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if re.fullmatch(r"\d+", text):
            return int(text)
        try:
            if database == "user":
                import pwd

                return pwd.getpwnam(text).pw_uid
            import grp

            return grp.getgrnam(text).gr_gid
        except KeyError:
            raise ValueError(f"no such {database}; give a number or a {database}'s name") from None

    return parse


def _choice(*words: str) -> Kind:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"it is one of {', '.join(words)}")
        return text

    return Kind("|".join(words), parse)


SIZE = Kind("SIZE", units.parse_size, units.format_size)
RATE = Kind("RATE", units.parse_rate, units.format_rate)
DURATION = Kind("DURATION", units.parse_duration, units.format_duration)
SHARE = Kind("SHARE", units.parse_fraction, units.format_fraction, (str, float))
OCTAL = Kind("OCTAL", units.parse_octal, units.format_octal)
COUNT = Kind("N", units.parse_count, str, (int,))
BOOLEAN = Kind("", units.parse_boolean, units.format_boolean, (bool,))
PATH = Kind("PATH", _path)
TEXT = Kind("TEXT", _text)
USER = Kind("USER", _owner("user"), str, (int, str))
GROUP = Kind("GROUP", _owner("group"), str, (int, str))
#: Its options are `tierfs.writeback.rule.RULE_OPTIONS`.
RULES = Kind("GLOB[,NAME=VALUE]...", _rule, str, (str, dict, list), several=True)
DIRECTORIES = Kind("DIR", _directory, str, (str, list), several=True)
#: A command, which only a file can hold.
ARGV = Kind("[PROGRAM, ARGUMENT...]", _not_here, str, (list,), parse_array=_argv)


# --- the table -----------------------------------------------------------------------------------


#: The arguments of ``tierfs mount`` that are not flags, and what usage calls them.
POSITIONAL = {"url": "URL", "mountpoint": "DIR"}


@dataclass(frozen=True, slots=True)
class Option:
    """One option. *name* is its field of `Config` and TOML key; *unset* says what None means."""

    name: str
    kind: Kind
    group: str
    help: str
    unset: str = ""

    @property
    def flag(self) -> str:
        """Its spelling on the command line."""
        if self.name in POSITIONAL:
            return POSITIONAL[self.name]
        return "--" + self.name.replace("_", "-")

    def parse(self, given: Any, spelled: str) -> Any:
        """The typed value of the text *given*, or of all in a list of them; *spelled* names the
        option in the ConfigError."""
        if self.kind.several:
            several = given if isinstance(given, list) else [given]
            if not several:
                raise ConfigError(spelled, "nothing is in it", "leave it out, or give one")
            return tuple(self._parse(one, spelled) for one in several)
        return self._parse(given, spelled)

    def _parse(self, given: Any, spelled: str) -> Any:
        try:
            return self.kind.parse(given)
        except ValueError as error:
            raise ConfigError(spelled, str(given) or "''", str(error)) from None

    def parse_toml(self, value: object, spelled: str) -> Any:
        """The typed value of what tomllib read. Sizes and durations are strings there too."""
        if type(value) not in self.kind.toml:
            wanted = " or ".join(_TOML_WORDS[kind] for kind in self.kind.toml)
            example = (
                f', for example "{_EXAMPLES[self.kind.name]}"'
                if self.kind.name in _EXAMPLES
                else ""
            )
            raise ConfigError(spelled, repr(value), f"the value must be {wanted}{example}")
        if self.kind.several:
            for one in value if isinstance(value, list) else ():
                if type(one) not in self.kind.toml or isinstance(one, list):
                    raise ConfigError(spelled, repr(one), "write a string or a table")
            return self.parse(value, spelled)
        if self.kind.parse_array is not None and isinstance(value, list):
            try:
                return self.kind.parse_array(value)
            except ValueError as error:
                raise ConfigError(spelled, repr(value), str(error)) from None
        text = units.format_boolean(value) if isinstance(value, bool) else str(value)
        if self.kind is PATH and not text.startswith(("/", "~")):
            raise ConfigError(spelled, text, "a path in a file must be absolute")
        return self.parse(text, spelled)


_TOML_WORDS = {
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "true or false",
    dict: "a table",
    list: "an array",
}
_EXAMPLES = {"SIZE": "800G", "RATE": "200M/s", "DURATION": "60s", "OCTAL": "022"}

GROUPS = {
    "lake": "The lake",
    "cache": "Cache and memory",
    "names": "Names and freshness",
    "writing": "Write-back",
    "mount": "The mount",
    "process": "The process",
}

OPTIONS: dict[str, Option] = {
    option.name: option
    for option in (
        Option("url", Kind("URL", _url), "lake",
               "The lake: `s3://BUCKET/PREFIX` or `file:///PATH`. First argument of `mount`."),
        Option("endpoint", Kind("URL", _endpoint), "lake",
               "Where an S3-compatible server answers.", "AWS, or what the profile says"),
        Option("region", TEXT, "lake", "The bucket's region.",
               "from the environment or profile, else asked of the bucket"),
        Option("profile", TEXT, "lake",
               "A profile of `~/.aws/config`: keys, SSO, assume-role or credential_process.",
               "boto3's own order of places"),
        Option("path_style", BOOLEAN, "lake",
               "Address buckets as `https://HOST/BUCKET` instead of `https://BUCKET.HOST`.",
               "yes with an endpoint, no with AWS"),
        Option("ca_bundle", PATH, "lake", "Trust the certificates in this PEM file.",
               "the system's certificates"),
        Option("anonymous", BOOLEAN, "lake", "Send unsigned requests, for public buckets."),
        Option("requester_pays", BOOLEAN, "lake",
               "Agree to be billed for requests to such buckets."),
        Option("sse_c_key_file", PATH, "lake",
               "A file of 32 bytes, mode 0600: the key that objects are encrypted with (SSE-C).",
               "no customer key"),
        Option("max_connections", COUNT, "lake", "Most requests to the lake at one time."),
        Option("request_timeout", DURATION, "lake",
               "How long a request may take with all its retries before a reader gets an error."),
        Option("allow_empty_prefix", BOOLEAN, "lake",
               "Mount even if nothing is under the URL's prefix (a mistyped one looks like that)."),
        Option("link", Kind("MODEL", _link), "lake",
               "Slow the lake down like a remote one, for demonstrations and tests: `standard`"
               " (20 ms to the first byte, 90 MB/s a connection, 400 MB/s in total), or numbers"
               " `FIRST_BYTE_MS,P99_MS,MBPS_PER_CONNECTION,MBPS_TOTAL`."),
        Option("cache", PATH, "cache",
               "The cache root, on local NVMe. Several mounts may share one."),
        Option("cache_size", SIZE, "cache",
               "Most bytes that this mount keeps in the cache. A hard limit.",
               "what leaves min_free of the disk free"),
        Option("min_free", SHARE, "cache", "The share of the cache's disk that always stays free."),
        Option("policy", _choice(*POLICIES), "cache",
               "What stays in a cache that is full: what a shuffled epoch has not read yet"
               " (`epochs`), what is read most (`frequency`), what was read last (`lru`), or"
               " whichever of these proves best (`adaptive`)."),
        Option("fill", BOOLEAN, "cache",
               "Fetch ahead of jobs that read data sets, behind everything that anybody waits for;"
               " docs/tuning.md says when, and how much at most."),
        Option("fill_limit", RATE, "cache", "How fast to fetch ahead at most.",
               "with what bandwidth is to spare"),
        Option("memory", SIZE, "cache", "Most memory for buffers and requests in flight."),
        Option("metadata_ttl", DURATION, "names",
               "How long names, sizes and times are believed before the lake is asked again;"
               " `inf` for datasets that never change."),
        Option("negative_ttl", DURATION, "names",
               "How long the absence of a name is believed."),
        Option("read_metadata", DIRECTORIES, "names",
               "Directories below the mount in which modes, owners, times and symbolic links are"
               " what whoever wrote an object noted with it (tierfs, s3fs, rclone). That takes a"
               " request for each object that is listed for the first time, up to 4,000 in one"
               " directory. May be given several times; `.` is the whole mount, `none` is none.",
               "where write_back rules begin, unless that is the whole mount"),
        Option("write_back", RULES, "writing",
               "Paths that can be written, as globs below the mount (`checkpoints/**`): real files"
               " on the cache's disk, uploaded in the order in which they were closed, or as the"
               " [options of the rule](#write-back-rules) say. May be given several times.",
               "none: the mount is read-only"),
        Option("staging_size", SIZE, "writing",
               "Most bytes on the cache's disk that are written and not in the lake yet. Writers"
               " are slowed down before it is full, and wait when it is. What is cached goes for it"
               " if it must; `cache_size` does not count it.",
               "what leaves min_free of the disk free"),
        Option("upload_limit", RATE, "writing",
               "How fast to upload at most, all files together; reading is not held up.",
               "as fast as it goes"),
        Option("unmount_flush", DURATION, "writing",
               "How long an unmount, or a stop of the service, waits until what was written is in"
               " the lake. What is not stays on the disk for the next mount. `0`: it does not"
               " wait. In fstab give systemd as long (`x-systemd.mount-timeout=`, else 90 s)."),
        Option("max_unflushed_age", DURATION, "writing",
               "A change that has waited longer than that for the lake is an error in the log, and"
               " `late` in `tierfs status`; `inf` for never."),
        Option("on_durable", ARGV, "writing",
               "A command that is run when everything of a write-back root is in the lake, without"
               " a shell: an array in the TOML file, which only root may be able to write (or the"
               " user who mounts). `{root}` and `{path}` stand for the paths of the root and of"
               " what arrived last, `{lsn}` for its place in the journal, `{files}` and `{bytes}`"
               " for how much it was. It is killed after 60 s.",
               "nothing is run"),
        Option("mountpoint", PATH, "mount",
               "The directory to mount on. Second argument of `mount`."),
        Option("allow_other", BOOLEAN, "mount",
               "Let users other than the one who mounts in; permissions are checked by the kernel.",
               "yes for root, no for other users"),
        Option("uid", USER, "mount", "Who owns what is shown.", "whoever mounts"),
        Option("gid", GROUP, "mount", "Which group owns what is shown.",
               "the group of whoever mounts"),
        Option("umask", OCTAL, "mount",
               "Permission bits taken away from 0666 (files) and 0777 (directories)."),
        Option("read_only", BOOLEAN, "mount",
               "Mount read-only (`-o ro`), so that the kernel refuses writes before asking."),
        Option("noexec", BOOLEAN, "mount", "Refuse to run programs from the mount."),
        Option("nonempty", BOOLEAN, "mount",
               "Mount over a directory that is not empty, and hide what is in it."),
        Option("front", _choice(*FRONTS), "process",
               "What serves the kernel: `python` runs anywhere, `native` is faster, `auto` takes"
               " `native` where it is installed, the kernel has what it needs (Linux 5.4), and"
               " nothing is written back. `native` writes back where the kernel passes files"
               " through (Linux 6.9, root)."),
        Option("fuse_mask", Kind("FEATURE,...", _features), "process",
               "What a native front is not to ask the kernel for, to see how a mount is without:"
               f" {', '.join(f'`{name}`' for name in FUSE_FEATURES)}."),
        Option("foreground", BOOLEAN, "process",
               "Stay in the foreground and log to stderr (systemd, containers)."),
        Option("log_level", _choice(*LOG_LEVELS), "process", "How much is logged."),
        Option("runtime_dir", PATH, "process",
               "Where control sockets and pid files are kept."),
    )
}  # fmt: skip

SECRETS_HINT = "credentials are never options: use profile, AWS_* variables or an instance role"
#: Names that people try, and where the thing is said instead.
SECRETS = re.compile(r"secret|password|passwd|access_?key|token|credential")


def find_option(name: str, prefix: str = "", known: Iterable[str] = ()) -> Option:
    """The option called *name* (``-`` or ``_``). Raises ConfigError that names the nearest one.

    *prefix* (``--``, ``-o `` or a file's name) says in the message where it stood; *known* are
    other names that are valid there.
    """
    key = name.replace("-", "_")
    if key in OPTIONS:
        return OPTIONS[key]
    shown = prefix + (key.replace("_", "-") if prefix == "--" else name)
    if SECRETS.search(key.lower()):
        raise ConfigError("unknown option", shown, SECRETS_HINT)
    near = difflib.get_close_matches(key, [*OPTIONS, *known], n=1, cutoff=0.5)
    hint = "see docs/configuration.md"
    if near:
        best = near[0].replace("_", "-") if prefix == "--" else near[0]
        hint = f"did you mean {prefix if prefix in ('--', '-o ') else ''}{best}?"
    raise ConfigError("unknown option", shown, hint)
