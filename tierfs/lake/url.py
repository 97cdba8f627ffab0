"""Lake URLs: ``s3://bucket/prefix`` and ``file:///path``, taken literally.

Nothing is percent-decoded: a key or a path is written as it is, as the AWS command line does. Bytes
that are not UTF-8 arrive from the command line as surrogate escapes and stay what they were.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from tierfs.errors import ConfigError

# AWS allows [a-z0-9.-]{3,63} today; older buckets and other servers allow more, so this only keeps
# out what could not be part of a URL's path or host name.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_EXAMPLES = "use s3://bucket/prefix or file:///directory"


@dataclass(frozen=True, slots=True)
class LakeUrl:
    """A parsed lake URL.

    *scheme* is ``s3`` or ``file``. *bucket* is empty for ``file``. *root* is the key prefix without
    slashes at its end (``s3``) or the absolute path of the directory (``file``).
    """

    scheme: str
    bucket: str
    root: bytes


def parse_lake_url(url: str) -> LakeUrl:
    """Parse *url*. Raises ConfigError with the remedy."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        hint = f"did you mean file://{url}?" if url.startswith("/") else _EXAMPLES
        raise ConfigError("not a lake URL", url, hint)
    if scheme == "s3":
        return _parse_s3(url, rest)
    if scheme == "file":
        return _parse_file(url, rest)
    raise ConfigError("unknown kind of lake", url, _EXAMPLES)


def _parse_s3(url: str, rest: str) -> LakeUrl:
    bucket, _, prefix = rest.partition("/")
    if not bucket:
        raise ConfigError("the URL names no bucket", url, _EXAMPLES)
    if bucket.startswith("arn:"):
        raise ConfigError("a bucket is named by ARN", url, "use the access point's alias instead")
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise ConfigError("not a bucket name", url, _EXAMPLES)
    if bucket.endswith("--x-s3"):
        hint = "directory buckets need session authentication, which is not supported"
        raise ConfigError("a directory bucket cannot be mounted", url, hint)
    root = prefix.encode("utf-8", "surrogateescape").rstrip(b"/")
    return LakeUrl("s3", bucket, root)


def _parse_file(url: str, rest: str) -> LakeUrl:
    if not rest.startswith("/"):
        hint = "a file lake is given by its absolute path, with three slashes: file:///directory"
        raise ConfigError("not an absolute path", url, hint)
    if "\0" in rest:
        raise ConfigError("a path cannot contain a zero byte", url)
    path = os.path.normpath(os.fsencode(rest))
    # POSIX lets two leading slashes mean something else, and normpath keeps them.
    return LakeUrl("file", "", b"/" + path.lstrip(b"/"))
