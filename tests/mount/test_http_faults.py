"""A server that misbehaves at the level of HTTP, below a real mount: right bytes, or a clear error
within the deadline, and nothing wrong is kept."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bench.lakesim import ACCESS_KEY, SECRET_KEY, Fault, FaultKind, Lakesim, lakesim
from tests.mount.mounting import Mount, wait_until
from tests.servers import S3Server, need_lakesim, s3_server

MIB = 1 << 20
SMALL, COUNT, LARGE = 110_000, 16, 33 * MIB + 5
#: Over all attempts of one request.
DEADLINE_S = 3.0
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}

Make = Callable[..., Mount]
Content = Callable[[int, int], bytes]

#: What a retry heals.
TRANSIENT: list[FaultKind] = [
    "slow_down",
    "internal_error",
    "reset_before",
    "reset_after",
    "truncate",
    "stall",
]
#: What may be believed by nobody, however often it is said.
LIES: list[FaultKind] = ["short_body", "wrong_etag", "ignore_range"]


@pytest.fixture(scope="module")
def simulator() -> Iterator[Lakesim]:
    need_lakesim()
    with lakesim(seed=11) as server:
        yield server


@pytest.fixture
def lake(simulator: Lakesim, content: Content) -> Iterator[dict[str, bytes]]:
    """Small files and a large one in a bucket of the test's own; name -> content."""
    simulator.configure(faults=[])
    server = s3_server(simulator)
    name = "faults"
    if name not in _buckets(server):
        server.make_bucket(name)
    files = {f"{n:03}.bin": content(n, SMALL) for n in range(COUNT)}
    files["large.bin"] = content(COUNT, LARGE)
    client: Any = server.client()
    for key, data in files.items():
        client.put_object(Bucket=name, Key=key, Body=data)
    client.close()
    yield files
    simulator.configure(faults=[])


def _buckets(server: S3Server) -> set[str]:
    client: Any = server.client()
    try:
        return {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    finally:
        client.close()


@pytest.fixture
def faulty(mount: Make, simulator: Lakesim) -> Callable[..., Mount]:
    """A mount of that bucket."""

    def make(*options: str) -> Mount:
        return mount(
            "--endpoint",
            simulator.endpoint,
            "--region",
            "us-east-1",
            "--request-timeout",
            f"{DEADLINE_S:g}s",
            *options,
            url="s3://faults",
            env=ENVIRONMENT,
        )

    return make


def _struck(simulator: Lakesim) -> int:
    return sum(simulator.stats().faults.values())


@pytest.mark.parametrize("kind", TRANSIENT)
def test_what_a_retry_heals_is_not_seen(
    kind: FaultKind, faulty: Make, lake: dict[str, bytes], simulator: Lakesim
) -> None:
    with faulty() as made:
        simulator.reset()
        # Once each: three of one request would be as long as it may take.
        simulator.configure(
            faults=[Fault(kind, key_contains=name, fault_budget=1) for name in lake]
        )
        for name, data in lake.items():
            assert (made.directory / name).read_bytes() == data, name
        assert _struck(simulator) > 0


@pytest.mark.parametrize("kind", [*TRANSIENT, *LIES])
def test_what_does_not_end_is_an_error_in_time_and_nothing_wrong_is_kept(
    kind: FaultKind, faulty: Make, lake: dict[str, bytes], simulator: Lakesim
) -> None:
    name = "large.bin" if kind == "ignore_range" else "007.bin"
    with faulty() as made:
        os.listdir(made.directory)
        simulator.reset()
        simulator.configure(faults=[Fault(kind, operations=("GetObject",))])
        begin = time.monotonic()
        with pytest.raises(OSError) as caught:
            (made.directory / name).read_bytes()
        # A generous bound, which a mount that waits for ever does not keep.
        assert time.monotonic() - begin < 5 * DEADLINE_S
        assert caught.value.errno in (errno.EIO, errno.ETIMEDOUT, errno.EAGAIN, errno.ESTALE)
        assert _struck(simulator) > 0
        wait_until(lambda: name in made.log(), "the log to name the file")
        simulator.configure(faults=[])
        for other, data in lake.items():
            assert (made.directory / other).read_bytes() == data, other


def test_a_flipped_byte_of_a_whole_object_never_reaches_a_reader(
    faulty: Make, lake: dict[str, bytes], simulator: Lakesim
) -> None:
    """The server keeps a checksum of each object and sends it with the whole."""
    with faulty() as made:
        simulator.reset()
        simulator.configure(faults=[Fault("flip_byte", rate=0.3, operations=("GetObject",))])
        for name, data in lake.items():
            if len(data) == SMALL:
                assert (made.directory / name).read_bytes() == data, name
        assert _struck(simulator) > 0


def test_a_flipped_byte_of_a_range_does_not_outlive_the_whole(
    faulty: Make, lake: dict[str, bytes], simulator: Lakesim
) -> None:
    """Ranges carry no checksum: what came in ranges is compared when it is whole, and goes."""
    data = lake["large.bin"]
    with faulty() as made:
        simulator.configure(faults=[Fault("flip_byte", operations=("GetObject",), fault_budget=1)])
        (made.directory / "large.bin").read_bytes()
        wait_until(
            lambda: made.status()["cache"]["checksum_failures"] > 0, "the whole to be compared"
        )
        assert (made.directory / "large.bin").read_bytes() == data


def test_ignored_conditions_never_mix_two_versions(
    faulty: Make, lake: dict[str, bytes], simulator: Lakesim, content: Content
) -> None:
    """The server answers a condition on the old version with the new one's bytes."""
    server = s3_server(simulator)
    client: Any = server.client()
    new = content(1000, LARGE)
    with faulty("--metadata-ttl", "inf") as made, contextlib.closing(client):
        with open(made.directory / "large.bin", "rb") as file:
            first = file.read(MIB)
            assert first == lake["large.bin"][:MIB]
            simulator.reset()
            simulator.configure(
                faults=[Fault("ignore_conditions"), Fault("ignore_range", rate=0.5)]
            )
            client.put_object(Bucket="faults", Key="large.bin", Body=new)
            # Further than what was read is read ahead of.
            file.seek(32 * MIB)
            with pytest.raises(OSError) as caught:
                file.read(MIB)
        assert caught.value.errno in (errno.ESTALE, errno.EIO)
        assert _struck(simulator) > 0
