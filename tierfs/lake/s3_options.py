"""What an S3 lake needs to know, and the headers that follow from it."""

from __future__ import annotations

import base64
import hashlib
from functools import partial
from pathlib import Path
from typing import Protocol

from tierfs.errors import ConfigError


class IdentityOptions(Protocol):
    """Who asks, and where. None: as boto3's own configuration says."""

    @property
    def endpoint(self) -> str | None: ...
    @property
    def region(self) -> str | None: ...
    @property
    def profile(self) -> str | None: ...
    @property
    def path_style(self) -> bool | None: ...
    @property
    def ca_bundle(self) -> Path | None: ...
    @property
    def anonymous(self) -> bool: ...


class S3Options(IdentityOptions, Protocol):
    """How to ask. *request_timeout* is in seconds, over all attempts of one request."""

    @property
    def requester_pays(self) -> bool: ...
    @property
    def sse_c_key_file(self) -> Path | None: ...
    @property
    def max_connections(self) -> int: ...
    @property
    def request_timeout(self) -> float: ...


def extra_headers(options: S3Options) -> dict[str, str]:
    """The headers that every request for an object carries. Raises ConfigError."""
    headers: dict[str, str] = {}
    if options.requester_pays:
        headers["x-amz-request-payer"] = "requester"
    if options.sse_c_key_file is not None:
        key = read_sse_c_key(options.sse_c_key_file)
        digest = hashlib.md5(key, usedforsecurity=False).digest()
        prefix = "x-amz-server-side-encryption-customer-"
        headers[prefix + "algorithm"] = "AES256"
        headers[prefix + "key"] = base64.b64encode(key).decode("ascii")
        headers[prefix + "key-md5"] = base64.b64encode(digest).decode("ascii")
    return headers


def read_sse_c_key(path: Path) -> bytes:
    """The 32 bytes of a customer key: as they are, in base64 or in hexadecimal.

    Raises ConfigError.
    """
    hint = "the file holds 32 bytes, plain, in base64 or in hexadecimal"
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or hint
        raise ConfigError("the SSE-C key cannot be read", str(path), reason) from None
    if len(content) == 32:
        return content
    for decode in (bytes.fromhex, partial(base64.b64decode, validate=True)):
        try:
            key = decode(content.strip().decode("ascii"))
        except ValueError:
            continue
        if len(key) == 32:
            return key
    raise ConfigError("the SSE-C key has another length than 32 bytes", str(path), hint)
