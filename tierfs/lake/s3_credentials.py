"""Who we are and where the bucket is: boto3's chain (profile, SSO, assumed role, credential
process, web identity, container and instance identity), read through botocore, which implements it.

Everything here blocks (files, subprocesses, HTTP to identity services): call it in a worker thread.
Thread-safe.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import botocore.session
from botocore import UNSIGNED
from botocore.config import Config as BotoConfig
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    InvalidRegionError,
    NoRegionError,
    ProfileNotFound,
    ReadTimeoutError,
)

from tierfs.errors import ConfigError, LakeDenied
from tierfs.lake.retry import Transient
from tierfs.lake.s3_options import IdentityOptions

#: A denied request makes the chain look again, but not more often than this.
_RENEW_INTERVAL_S = 5.0
_NO_CREDENTIALS = (
    "give a profile, set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use the anonymous option "
    "for a public bucket"
)


class NotAtHand(Exception):
    """The credentials have to be looked up or renewed, which may take a while."""


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """One set of credentials, frozen. Its text shows none of it."""

    access_key: str
    secret_key: str
    token: str | None

    def __repr__(self) -> str:
        return "Secret(...)"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a bucket is: ``scheme://host:port`` and the path before the key, without its ``/``.

    *custom*: somebody named the endpoint, it does not follow from the region.
    """

    scheme: str
    host: str
    port: int
    bucket_path: str
    region: str
    custom: bool

    @property
    def origin(self) -> str:
        """``scheme://host[:port]``, without the scheme's default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return f"{self.scheme}://{host}" + ("" if self.port == default else f":{self.port}")


def quiet_client_loggers() -> None:
    """botocore writes canonical requests, session tokens included, to its debug log: never let
    it."""
    for name in ("botocore", "boto3", "urllib3"):
        logger = logging.getLogger(name)
        if logger.level < logging.INFO:
            logger.setLevel(logging.INFO)


class Identity:
    """Credentials that renew themselves, and the endpoint of a bucket."""

    def __init__(self, options: IdentityOptions) -> None:
        quiet_client_loggers()
        self._options = options
        self._lock = threading.Lock()
        self._session: Any = None
        self._credentials: Any = None
        self._renewed_at = float("-inf")
        #: Counts renewals; a client that holds credentials of an older generation asks again.
        self.generation = 0

    def secret(self) -> Secret | None:
        """The credentials to sign with now; None: anonymous. Refreshes them when they are about to
        expire. Raises LakeDenied, ConfigError, `Transient`.
        """
        if self._options.anonymous:
            return None
        with self._lock:
            credentials = self._resolve()
        try:
            frozen = credentials.get_frozen_credentials()
        except (BotoCoreError, ClientError) as error:
            raise _explain(error) from None
        return Secret(frozen.access_key, frozen.secret_key, frozen.token)

    def secret_at_hand(self) -> Secret | None:
        """As `secret` where that asks nobody and waits for nothing. Raises `NotAtHand`."""
        if self._options.anonymous:
            return None
        credentials = self._credentials
        # Credentials that do not expire have no such question.
        due = getattr(credentials, "refresh_needed", None)
        if credentials is None or (due is not None and due()):
            raise NotAtHand
        frozen = credentials.get_frozen_credentials()
        return Secret(frozen.access_key, frozen.secret_key, frozen.token)

    def renew(self, generation: int) -> bool:
        """Look the whole chain up anew, once for all who were denied with *generation*.

        True: there is something new to try with. False: this was done a moment ago.
        """
        with self._lock:
            if generation != self.generation:
                return True
            now = time.monotonic()
            if self._options.anonymous or now - self._renewed_at < _RENEW_INTERVAL_S:
                return False
            self._renewed_at = now
            self._credentials = None
            self._session = None
            self._resolve()
            self.generation += 1
            return True

    def _resolve(self) -> Any:
        if self._credentials is None:
            try:
                self._credentials = self._open_session().get_credentials()
            except (BotoCoreError, ClientError) as error:
                raise _explain(error) from None
            if self._credentials is None:
                raise LakeDenied("no credentials found", "", _NO_CREDENTIALS)
        return self._credentials

    def _open_session(self) -> Any:
        if self._session is None:
            session = botocore.session.Session(profile=self._options.profile)
            if self._options.ca_bundle is not None:
                session.set_config_variable("ca_bundle", str(self._options.ca_bundle))
            self._session = session
        return self._session

    def ca_bundle(self) -> str | None:
        """The CA bundle to trust instead of the usual: the option, else AWS_CA_BUNDLE or the
        profile's."""
        with self._lock:
            try:
                bundle = self._open_session().get_config_variable("ca_bundle")
            except BotoCoreError as error:
                raise _explain(error) from None
        return str(bundle) if bundle else None

    def endpoint(self, bucket: str, region: str | None = None) -> Endpoint:
        """Where *bucket* is, in *region* or the configured one. Raises ConfigError."""
        options = self._options
        try:
            with self._lock:
                session = self._open_session()
                region = str(
                    region or options.region or session.get_config_variable("region") or "us-east-1"
                )
            # Only without an endpoint is botocore's knowledge of regions (20 MB of it) needed.
            url = options.endpoint or self._regional_endpoint(region)
        except InvalidRegionError as error:
            raise ConfigError("not a region", region or "", str(error)) from None
        except ValueError as error:
            hint = f"{error}; AWS_ENDPOINT_URL or the profile names it"
            raise ConfigError("not an endpoint URL", "", hint) from None
        except (BotoCoreError, ClientError) as error:
            raise _explain(error) from None
        return place_bucket(url, bucket, region, options.endpoint, options.path_style)

    def _regional_endpoint(self, region: str) -> str:
        """What AWS's rules, the profile and the environment say (dual stack, FIPS,
        AWS_ENDPOINT_URL). In a session of its own, which takes the service's model with it.
        """
        session = botocore.session.Session(profile=self._options.profile)
        client = session.create_client(
            "s3", region_name=region, config=BotoConfig(signature_version=UNSIGNED)
        )
        try:
            return str(client.meta.endpoint_url)
        finally:
            client.close()


def place_bucket(
    url: str, bucket: str, region: str, asked: str | None, path_style: bool | None
) -> Endpoint:
    """The endpoint *url* with *bucket* in its host name or its path.

    Path style unless said otherwise: when the endpoint was named (*asked*, or by the environment),
    and when the bucket's dots would not match a wildcard certificate.
    """
    hint = "use http://host:port or https://host"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError("not an endpoint URL", url, hint) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise ConfigError("not an endpoint URL", url, hint)
    if parts.username is not None:
        raise ConfigError(
            "an endpoint URL cannot hold credentials", parts.hostname, "use a profile"
        )
    host = parts.hostname
    aws = host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
    custom = asked is not None or not aws
    if path_style is None:
        path_style = custom or "." in bucket
    base = parts.path.rstrip("/")
    if path_style:
        base += f"/{bucket}"
    else:
        host = f"{bucket}.{host}"
    default = 443 if parts.scheme == "https" else 80
    return Endpoint(parts.scheme, host, port or default, base, region, custom)


def _explain(error: Exception) -> Exception:
    """What a botocore exception means to whoever mounts."""
    if isinstance(error, ProfileNotFound):
        return ConfigError("no such profile", "", str(error))
    if isinstance(error, NoRegionError):
        return ConfigError("no region is configured", "", "give the region option")
    if isinstance(error, (EndpointConnectionError, ConnectTimeoutError, ReadTimeoutError)):
        return Transient(f"the identity service does not answer: {error}")
    name = type(error).__name__
    hint = "sign in again: aws sso login" if "SSO" in name or "Token" in name else ""
    return LakeDenied("credentials cannot be had", str(error).replace("\n", " "), hint)
