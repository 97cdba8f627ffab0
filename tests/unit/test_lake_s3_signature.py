"""Signatures: those of botocore, to the letter."""

from __future__ import annotations

import calendar
import datetime
import hashlib
import json
import time
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

import botocore.auth
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from hypothesis import given, settings
from hypothesis import strategies as st

from tierfs.lake.s3_credentials import Endpoint, Secret
from tierfs.lake.s3_signature import UNSIGNED_BODY, Signer

PLAIN = Endpoint("http", "127.0.0.1", 9000, "/bucket", "us-east-1", True)
AMAZON = Endpoint("https", "bucket.s3.eu-west-1.amazonaws.com", 443, "", "eu-west-1", False)
SECRET = Secret("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", None)

#: What the native front's signatures are held to as well.
GOLDEN = Path(__file__).parent.parent / "golden" / "sigv4" / "signatures.json"

texts = st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S", "Zs")), max_size=20)


def botocores(
    endpoint: Endpoint,
    method: str,
    target: str,
    headers: dict[str, str],
    secret: Secret,
    body: bytes | str | None = None,
) -> dict[str, str]:
    """What botocore would send; *body* is bytes, or what stands in the place of their hash."""
    data = body if isinstance(body, bytes) else None
    request = AWSRequest(method=method, url=endpoint.origin + target, headers=headers, data=data)
    credentials = ReadOnlyCredentials(secret.access_key, secret.secret_key, secret.token)
    auth = S3SigV4Auth(credentials, "s3", endpoint.region)
    if isinstance(body, str):
        auth.payload = lambda _request: body
    auth.add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


@settings(deadline=None)  # botocore's first signature loads much.
@given(
    endpoint=st.sampled_from([PLAIN, AMAZON]),
    method=st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE"]),
    path=st.sampled_from(["/", "/bucket/a/../b", "/a//b", "/%C3%A9%20%2B~", "/a%2Fb/"]),
    query=st.sampled_from(["", "list-type=2&prefix=a%2Fb%20c", "delimiter=%2F&prefix="]),
    headers=st.dictionaries(
        st.sampled_from(
            [
                "If-Match",
                "x-amz-request-payer",
                "Range",
                "Accept-Encoding",
                "content-type",
                "If-None-Match",
                "x-amz-checksum-crc64nvme",
                "x-amz-meta-tierfs-id",
            ]
        ),
        texts,
    ),
    token=st.sampled_from([None, "token=="]),
    body=st.none() | st.just(UNSIGNED_BODY) | st.binary(max_size=50),
)
def test_the_signature_is_botocores(
    endpoint: Endpoint,
    method: str,
    path: str,
    query: str,
    headers: dict[str, str],
    token: str | None,
    body: bytes | str | None,
) -> None:
    secret = Secret(SECRET.access_key, SECRET.secret_key, token)
    target = f"{path}?{query}" if query else path
    signer = Signer(endpoint)
    said = [hashlib.sha256(body).hexdigest() if isinstance(body, bytes) else body] if body else []
    while True:
        expected = botocores(endpoint, method, target, headers, secret, body)
        found = signer.headers(method, target, headers, secret, *said)
        if found["x-amz-date"] == expected["x-amz-date"]:
            break  # Otherwise a second began in between.
    host = found.pop("host")
    assert found == expected
    assert host == endpoint.origin.partition("//")[2]


def test_a_signing_key_is_kept_for_its_day_and_secret_only(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = ["20240102T030405Z", "20240102T235959Z", "20240103T000000Z"]
    signer = Signer(PLAIN)
    for secret in (SECRET, Secret("OTHER", "other", None)):
        for moment in moments:
            now = calendar.timegm(time.strptime(moment, "%Y%m%dT%H%M%SZ"))
            monkeypatch.setattr(time, "gmtime", lambda now=now, real=time.gmtime: real(now))
            kept = signer.headers("GET", "/", {}, secret)
            fresh = Signer(PLAIN).headers("GET", "/", {}, secret)
            monkeypatch.undo()
            assert kept == fresh
            assert kept["x-amz-date"] == moment


def test_nobodys_request_carries_no_signature() -> None:
    assert Signer(AMAZON).headers("GET", "/", {"If-Match": "x"}, None) == {
        "if-match": "x",
        "host": "bucket.s3.eu-west-1.amazonaws.com",
    }


CASES = json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_the_golden_signatures_are_botocores(case: dict[str, Any]) -> None:
    endpoint = Endpoint(case["scheme"], case["host"], case["port"], "", case["region"], True)
    secret = Secret(SECRET.access_key, SECRET.secret_key, case["token"] or None)
    moment = datetime.datetime.strptime(case["moment"], "%Y%m%dT%H%M%SZ")
    target = case["path"] + quote(bytes.fromhex(case["key"]), safe="/~")
    with mock.patch.object(botocore.auth, "get_current_datetime", return_value=moment):
        sent = botocores(endpoint, "GET", target, dict(case["headers"]), secret)
    assert (target, sent["authorization"]) == (case["target"], case["authorization"])
