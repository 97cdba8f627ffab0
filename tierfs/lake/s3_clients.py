"""The ways to a bucket, made together: whoever replaces one replaces all (invariant S1).

============================  ==============  ====================================================
way                           for             why
============================  ==============  ====================================================
`s3_direct.DirectHttp`        small objects   no thread: what a thread costs is most of a small GET
`s3_bytes.ByteReader`         ranges          a compiled client (obstore), which shows no headers
`s3_signed.SignedHttp`        all the rest    all of HTTP, every key, listings, errors
============================  ==============  ====================================================
"""

from __future__ import annotations

from dataclasses import dataclass

from tierfs.lake.s3_bytes import ByteReader
from tierfs.lake.s3_credentials import Identity
from tierfs.lake.s3_direct import DirectHttp
from tierfs.lake.s3_options import S3Options
from tierfs.lake.s3_signed import SignedHttp, proxy_for, tls_context

#: A body, or an answer's head, that makes no progress for this long is given up and asked for
#: again.
_STALL_S = 15.0


@dataclass(frozen=True, slots=True)
class Clients:
    """The ways to one bucket, with the credentials' generation they were made under. *direct* is
    None where a proxy is in between; *ca_bundle*, *stall_s* as all of them have it."""

    http: SignedHttp
    bytes: ByteReader
    direct: DirectHttp | None
    generation: int
    ca_bundle: str | None
    stall_s: float


def make_clients(bucket: str, options: S3Options, who: Identity, region: str | None) -> Clients:
    """Find the credentials and the endpoint in *region*, or in the configured one. Blocks.

    Raises ConfigError, LakeDenied, `Transient`.
    """
    generation = who.generation
    who.secret()  # Whether there are credentials at all is said now, not at the first read.
    endpoint = who.endpoint(bucket, region)
    ca_bundle = who.ca_bundle()
    tls = tls_context(ca_bundle) if endpoint.scheme == "https" else None
    proxy = proxy_for(endpoint)
    connections = options.max_connections
    stall_s = min(_STALL_S, max(0.5, options.request_timeout / 3))
    reader = ByteReader(
        endpoint,
        bucket,
        who.secret,
        signed=not options.anonymous,
        requester_pays=options.requester_pays,
        stall_s=stall_s,
        deadline_s=options.request_timeout,
        ca_bundle=ca_bundle,
    )
    return Clients(
        SignedHttp(endpoint, connections=connections, stall_s=stall_s, tls=tls, proxy=proxy),
        reader,
        DirectHttp(endpoint, connections=connections, stall_s=stall_s, tls=tls)
        if proxy is None
        else None,
        generation,
        ca_bundle,
        stall_s,
    )
