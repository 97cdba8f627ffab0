"""What `doctor` asks of a lake: who we are, whose clock is right, and whether it can be read.

Imports of boto3 and trio wait until a check runs.
"""

from __future__ import annotations

import dataclasses
import email.utils
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

from tierfs.cli.checks import Level, Result, failed
from tierfs.config import Config
from tierfs.errors import TierfsError

#: Servers refuse signatures that are more than 15 minutes off.
MAX_SKEW_S = 900.0
WARN_SKEW_S = 60.0
#: A check is not worth the patience of a reader.
DEADLINE_S = 15.0


def lake_checks(config: Config) -> Iterator[Result]:
    """Every check of the lake of *config*, in the order in which they build on each other."""
    if config.file_root is not None:
        yield reach(config)
        return
    who = credentials(config)
    yield who
    yield clock(config)
    if who.level is not Level.FAIL:
        yield reach(config)


def credentials(config: Config) -> Result:
    """Credentials can be found. Says where the search went, never what was found."""
    from tierfs.lake.s3_credentials import Identity

    name = "credentials"
    if config.anonymous:
        return Result(Level.OK, name, "none: anonymous")
    try:
        secret = Identity(config).secret()
    except TierfsError as error:
        return failed(name, error)
    except Exception as error:
        # Identity services that cannot be reached surface as the client library's own errors.
        return Result(Level.FAIL, name, str(error), "see the profile, or the identity service")
    if secret is None:
        return Result(Level.FAIL, name, "none found", "give a profile, or set AWS_* variables")
    kind = "temporary" if secret.token else "long-lived"
    source = f"profile {config.profile}" if config.profile else "the default chain"
    return Result(Level.OK, name, f"{kind} keys from {source}")


def clock(config: Config) -> Result:
    """This machine's clock agrees with the server's."""
    from tierfs.lake.s3_credentials import Identity

    name = "clock"
    try:
        bucket = config.url.removeprefix("s3://").partition("/")[0]
        identity = Identity(config)
        origin, bundle = identity.endpoint(bucket).origin, identity.ca_bundle()
        before = time.time()
        date = _date_of(origin, bundle)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        remedy = "check the endpoint, DNS, proxies (HTTPS_PROXY) and the firewall"
        return Result(Level.FAIL, name, f"the server cannot be asked: {reason}", remedy)
    except TierfsError as error:
        return failed(name, error)
    except Exception as error:
        return Result(Level.FAIL, name, f"the server cannot be asked: {error}", "see region")
    return skew(date, before)


def _date_of(origin: str, ca_bundle: str | None) -> str:
    context = ssl.create_default_context(cafile=ca_bundle)
    request = urllib.request.Request(origin, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_S, context=context) as answer:
            return str(answer.headers.get("Date", ""))
    except urllib.error.HTTPError as error:
        # Unsigned, we are refused; the refusal is dated, too.
        return str(error.headers.get("Date", ""))


def skew(date: str, now_s: float) -> Result:
    """Compare an HTTP *date* with our *now_s* (seconds since the epoch)."""
    name, remedy = "clock", "set the clock: timedatectl set-ntp true"
    try:
        there = email.utils.parsedate_to_datetime(date).timestamp()
    except ValueError:
        return Result(Level.WARN, name, "the server tells no time", "")
    off = now_s - there
    message = f"{abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} the server"
    if abs(off) > MAX_SKEW_S:
        return Result(Level.FAIL, name, message + ": signatures are refused", remedy)
    if abs(off) > WARN_SKEW_S:
        return Result(Level.WARN, name, message, remedy)
    return Result(Level.OK, name, "agrees with the server")


def reach(config: Config, check: Callable[[Config], None] | None = None) -> Result:
    """The lake answers, can be listed and read with these credentials."""
    try:
        (check or _check_lake)(dataclasses.replace(config, request_timeout=DEADLINE_S))
    except TierfsError as error:
        return failed("lake", error)
    return Result(Level.OK, "lake", f"{config.url} can be listed and read")


def _check_lake(config: Config) -> None:
    import trio

    from tierfs.lake.open import open_lake

    async def check() -> None:
        lake = await open_lake(config)
        try:
            await lake.check(allow_empty=config.allow_empty_prefix)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
                await lake.aclose()

    trio.run(check)
