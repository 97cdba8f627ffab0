"""lakesim's own parts: what it does on purpose, and what it says about it."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from bench.lakesim import (
    BINARY,
    SLOPPY,
    Fault,
    FaultKind,
    Lakesim,
    LakesimError,
    Link,
    Objects,
    lakesim,
)
from tests.servers import need_lakesim, s3_server

BODY = bytes(range(256)) * 400
BUCKET = "bucket"


@pytest.fixture
def simulator() -> Iterator[Lakesim]:
    need_lakesim()
    with lakesim(seed=7) as server:
        yield server


@pytest.fixture
def client(simulator: Lakesim) -> Iterator[Any]:
    """A client that tries once, of a server that holds one object."""
    client = s3_server(simulator).client(
        retries={"total_max_attempts": 1},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key="k", Body=BODY)
    simulator.reset()
    yield client
    client.close()


def get(client: Any, key: str = "k", **more: Any) -> bytes:
    body: bytes = client.get_object(Bucket=BUCKET, Key=key, **more)["Body"].read()
    return body


def put(client: Any, key: str = "k", body: bytes = b"new", **more: Any) -> None:
    client.put_object(Bucket=BUCKET, Key=key, Body=body, **more)


# Faults


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [("slow_down", 503, "SlowDown"), ("internal_error", 500, "InternalError")],
)
def test_refusals_have_no_effect(
    simulator: Lakesim, client: Any, kind: FaultKind, status: int, code: str
) -> None:
    simulator.configure(faults=[Fault(kind, fault_budget=1)])
    with pytest.raises(ClientError) as refused:
        put(client)
    answer: Any = refused.value.response
    assert answer["Error"]["Code"] == code
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == status
    assert get(client) == BODY
    assert simulator.stats().faults == {kind: 1}


@pytest.mark.parametrize(("kind", "after"), [("reset_before", BODY), ("reset_after", b"new")])
def test_resets(simulator: Lakesim, client: Any, kind: FaultKind, after: bytes) -> None:
    simulator.configure(faults=[Fault(kind, fault_budget=1)])
    with pytest.raises(ConnectionClosedError):
        put(client)
    assert get(client) == after
    lost, _ = simulator.log()
    assert (lost.operation, lost.fault, lost.status) == ("PutObject", kind, None)
    assert (lost.commit is not None) == (kind == "reset_after")


def test_a_reset_is_one_and_not_an_orderly_end(simulator: Lakesim) -> None:
    simulator.configure(faults=[Fault("reset_before")])
    where = urllib.parse.urlsplit(simulator.endpoint)
    with socket.create_connection((where.hostname, where.port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_a_truncated_body(simulator: Lakesim, client: Any) -> None:
    simulator.configure(faults=[Fault("truncate", fault_budget=1, after_bytes=1000)])
    with pytest.raises((IncompleteReadError, ResponseStreamingError)):
        get(client)
    assert get(client) == BODY
    cut, _ = simulator.log()
    assert (cut.status, cut.bytes_out) == (200, 1000)


def test_a_stalled_body(simulator: Lakesim, client: Any) -> None:
    simulator.configure(faults=[Fault("stall", after_bytes=1000, stall_ms=600_000)])
    impatient = s3_server(simulator).client(retries={"total_max_attempts": 1}, read_timeout=2)
    body = impatient.get_object(Bucket=BUCKET, Key="k")["Body"]
    assert body.read(1000) == BODY[:1000]
    with pytest.raises(ReadTimeoutError):
        body.read(1)
    body.close()
    impatient.close()
    simulator.configure(faults=[Fault("stall", after_bytes=1000, stall_ms=1)])
    assert get(client) == BODY


def test_a_slow_body(simulator: Lakesim, client: Any) -> None:
    simulator.configure(faults=[Fault("slow", bytes_per_s=500_000)])
    begun = time.monotonic()
    assert get(client) == BODY
    assert time.monotonic() - begun > 0.15  # 102,400 bytes take at least 0.2 s


def test_a_flipped_byte(simulator: Lakesim, client: Any) -> None:
    simulator.configure(faults=[Fault("flip_byte", fault_budget=1)])
    found = get(client)
    assert sum(a != b for a, b in zip(found, BODY, strict=True)) == 1


def test_a_flipped_byte_is_caught_by_a_checksum(simulator: Lakesim, client: Any) -> None:
    simulator.configure(faults=[Fault("flip_byte", fault_budget=1)])
    with pytest.raises(Exception, match="checksum"):
        get(client, ChecksumMode="ENABLED")


def test_a_body_that_is_short_and_says_so(simulator: Lakesim, client: Any) -> None:
    simulator.configure(faults=[Fault("short_body", fault_budget=2, after_bytes=1000)])
    assert get(client) == BODY[:1000]
    answer = client.get_object(Bucket=BUCKET, Key="k", Range="bytes=100-5000")
    assert answer["ContentLength"] == 1000
    assert answer["ContentRange"] == f"bytes 100-5000/{len(BODY)}"
    assert answer["Body"].read() == BODY[100:1100]


def test_another_etag(simulator: Lakesim, client: Any) -> None:
    right = client.head_object(Bucket=BUCKET, Key="k")["ETag"]
    simulator.configure(faults=[Fault("wrong_etag", fault_budget=1)])
    first, second = (client.head_object(Bucket=BUCKET, Key="k")["ETag"] for _ in range(2))
    assert (first != right, second == right) == (True, True)


def test_a_sloppy_server(simulator: Lakesim, client: Any) -> None:
    simulator.configure(faults=SLOPPY)
    answer = client.get_object(Bucket=BUCKET, Key="k", Range="bytes=0-9")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert (answer.get("ContentRange"), answer["Body"].read()) == (None, BODY)
    assert get(client, IfMatch='"other"') == BODY
    put(client, IfNoneMatch="*")
    assert get(client) == b"new"
    assert simulator.stats().faults == {"ignore_range": 1, "ignore_conditions": 2}


def test_filters_choose(simulator: Lakesim, client: Any) -> None:
    put(client, "other")
    simulator.configure(
        faults=[
            Fault("slow_down", operations=("GetObject",), key_contains="k"),
            Fault("internal_error", methods=("HEAD",)),
        ]
    )
    with pytest.raises(ClientError, match="SlowDown"):
        get(client)
    assert get(client, "other") == b"new"
    put(client)
    with pytest.raises(ClientError, match="500"):
        client.head_object(Bucket=BUCKET, Key="other")


def test_what_cannot_have_the_fault_does_not_cost_budget(simulator: Lakesim, client: Any) -> None:
    put(client, "empty", b"")
    simulator.reset()
    simulator.configure(faults=[Fault("truncate", fault_budget=1)])
    assert get(client, "empty") == b""
    assert (simulator.log()[0].fault, simulator.stats().faults) == (None, {})
    with pytest.raises(ClientError, match="NoSuchKey"):
        get(client, "missing")
    with pytest.raises((IncompleteReadError, ResponseStreamingError)):
        get(client)


def test_a_seed_repeats_its_faults() -> None:
    need_lakesim()

    def struck(seed: int) -> list[bool]:
        with lakesim(seed=seed, faults=[Fault("slow_down", rate=0.5)]) as simulator:
            client = s3_server(simulator).client(retries={"total_max_attempts": 1})
            for _ in range(40):
                with pytest.raises(ClientError):
                    client.head_bucket(Bucket="none")
            client.close()
            return [request.fault is not None for request in simulator.log()]

    first = struck(3)
    assert 5 < sum(first) < 35
    assert (struck(3) == first, struck(4) == first) == (True, False)


# The link


def test_the_first_byte_is_late(simulator: Lakesim, client: Any) -> None:
    """That it is no later than it should be is tested in virtual time, beside the model."""
    simulator.configure(Link(first_byte_median_ms=50.0))
    begun = time.monotonic()
    get(client)
    assert time.monotonic() - begun > 0.049


@pytest.mark.parametrize("direction", ["download", "upload"])
@pytest.mark.parametrize(("share", "least_s"), [("connection", 0.29), ("total", 1.19)])
def test_bandwidth(
    simulator: Lakesim, client: Any, direction: str, share: str, least_s: float
) -> None:
    """Four transfers of 3 MB at once, at 10 MB/s for each or for all."""
    body = bytes(3_000_000)
    put(client, body=body)
    simulator.change({"link": {f"{direction}_{share}_mb_s": 10}})

    def transfer(n: int) -> None:
        if direction == "download":
            assert get(client) == body
        else:
            put(client, f"{n}", body)

    begun = time.monotonic()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(transfer, range(4)))
    assert time.monotonic() - begun > least_s


# The admin port


def test_the_log_tells_what_was_asked(simulator: Lakesim, client: Any) -> None:
    before = time.time_ns()
    put(client, "a//\u00e9", b"12345")
    get(client, Range="bytes=5-9")
    client.list_objects_v2(Bucket=BUCKET, Prefix="a/")
    with pytest.raises(ClientError):
        get(client, "missing")
    client.delete_object(Bucket=BUCKET, Key="k")
    written, read, listed, missing, deleted = simulator.log()
    assert (written.operation, written.bucket, written.key) == ("PutObject", BUCKET, "a//\u00e9")
    assert (written.status, written.bytes_in) == (200, 5)
    assert written.commit is not None
    assert written.committed_ns is not None
    assert before <= written.arrived_ns <= written.committed_ns <= time.time_ns()
    assert (read.operation, read.range, read.status) == ("GetObject", "bytes=5-9", 206)
    assert (read.bytes_out, read.commit) == (5, None)
    assert (written.first_sent_ns, written.last_sent_ns) == (None, None)
    assert read.first_sent_ns is not None
    assert read.last_sent_ns is not None
    assert read.arrived_ns <= read.first_sent_ns <= read.last_sent_ns <= time.time_ns()
    assert (listed.operation, listed.key) == ("ListObjectsV2", "")
    assert "prefix=a%2F" in (listed.query or "")
    assert (missing.status, missing.commit) == (404, None)
    assert deleted.commit == written.commit + 1
    assert [r.sequence for r in simulator.log(read.sequence)] == [
        r.sequence for r in (read, listed, missing, deleted)
    ]
    simulator.reset()
    assert simulator.log() == []


def test_the_sizes_of_what_is_there(simulator: Lakesim, client: Any) -> None:
    for key, body in (("a/\u00e9 &=", b"12345"), ("a/b", b""), ("ab", b"1")):
        put(client, key, body)
    mark, before = simulator.mark(), simulator.stats().requests
    assert simulator.sizes(BUCKET, "a/") == {"a/\u00e9 &=": 5, "a/b": 0}
    client.delete_object(Bucket=BUCKET, Key="a/b")
    assert simulator.sizes(BUCKET, "a/") == {"a/\u00e9 &=": 5}
    assert simulator.sizes("no-such-bucket", "") == {}
    # Asked beside S3: not counted, not in the log.
    assert simulator.stats().requests == before + 1
    assert [request.operation for request in simulator.log(mark)] == ["DeleteObject"]


def test_statistics(simulator: Lakesim, client: Any) -> None:
    put(client, body=b"12345")
    for _ in range(2):
        get(client)
    with pytest.raises(ClientError):
        get(client, "missing")
    stats = simulator.stats()
    assert (stats.requests, stats.by_method) == (4, {"GET": 3, "PUT": 1})
    assert stats.by_operation == {"GetObject": 3, "PutObject": 1}
    assert stats.by_status == {"200": 3, "404": 1}
    assert stats.bytes_in == 5
    assert stats.bytes_out > 10  # the error has a body too
    assert stats.in_flight_max >= 1
    simulator.reset()
    assert simulator.stats().requests == simulator.stats().bytes_in == 0


def test_how_many_at_once(simulator: Lakesim, client: Any) -> None:
    simulator.configure(Link(first_byte_median_ms=1000.0))
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda _n: get(client), range(6)))
    stats = simulator.stats()
    assert stats.in_flight_max == 6
    assert stats.connections_open >= 6


def test_a_configuration_is_changed_in_part(simulator: Lakesim) -> None:
    simulator.configure(Link(first_byte_median_ms=1.0), [Fault("stall", rate=0.0)])
    changed = simulator.change({"link": {"download_total_mb_s": 5}})
    assert changed["link"]["first_byte_median_ms"] == 1.0
    assert changed["link"]["download_total_mb_s"] == 5.0
    assert [rule["kind"] for rule in changed["faults"]] == ["stall"]
    for wrong in (
        {"unknown": 1},
        {"link": {"unknown": 1}},
        {"faults": [{"kind": "stall", "unknown": 1}]},
        {"faults": [{"kind": "unknown"}]},
    ):
        with pytest.raises(LakesimError, match="unknown"):
            simulator.change(wrong)
        assert simulator.change({}) == changed


@pytest.mark.parametrize("size", [0, 1, 110_000, 3_000_000])
def test_planted_objects_are_what_can_be_computed(
    simulator: Lakesim, client: Any, size: int
) -> None:
    objects = Objects(BUCKET, 250, size, prefix="p/", suffix=".bin", seed=size, fanout=100)
    simulator.plant(objects)
    keys = [objects.key(n) for n in range(250)]
    assert (keys[0], keys[-1]) == ("p/00000/00000000.bin", "p/00002/00000249.bin")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="p/")
    assert [entry["Key"] for page in pages for entry in page["Contents"]] == keys
    bodies = {get(client, key, ChecksumMode="ENABLED") for key in keys[::50]}
    assert bodies == {objects.body(key) for key in keys[::50]}


# The process


def test_it_ends_when_it_is_told_to() -> None:
    need_lakesim()
    process = subprocess.Popen([BINARY], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["s3"].startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_it_ends_with_whoever_started_it() -> None:
    need_lakesim()
    command = [str(BINARY), "--exit-with-stdin"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        process.stdin.close()
        assert process.wait(30) == 0


def test_a_wrong_command_line() -> None:
    need_lakesim()
    for wrong in (["--unknown"], ["--config", '{"unknown": 1}'], ["--listen", "nowhere"]):
        done = subprocess.run([BINARY, *wrong], capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert done.stderr.startswith("lakesim: ")


def test_anonymous_requests_where_they_are_allowed() -> None:
    need_lakesim()
    with lakesim(anonymous=True) as simulator:
        server = s3_server(simulator)
        server.make_bucket(BUCKET)
        signed = server.client(secret_key="wrong", retries={"total_max_attempts": 1})
        with pytest.raises(ClientError, match="403"):
            signed.head_bucket(Bucket=BUCKET)
        signed.close()
        where = urllib.parse.urlsplit(simulator.endpoint)
        connection = http.client.HTTPConnection(where.hostname or "", where.port)
        connection.request("PUT", f"/{BUCKET}/k", b"body")
        with connection.getresponse() as answer:
            assert answer.status == 200
        connection.request("GET", f"/{BUCKET}/k")
        with connection.getresponse() as answer:
            assert answer.read() == b"body"
        connection.close()
