"""lakesim, the S3 server for tests and measurements (``native/lakesim``), and its admin port.

`lakesim` starts one and gives a `Lakesim`, which says how the link behaves and what goes wrong, and
tells afterwards what was asked for. Needs the binary that ``make`` builds where there is Rust.
"""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

BINARY = Path(__file__).parents[1] / "native/target/release/lakesim"
ACCESS_KEY = "testing"
SECRET_KEY = "testing-secret"
_STOP_S = 10.0

FaultKind = Literal[
    "slow_down",
    "internal_error",
    "reset_before",
    "reset_after",
    "truncate",
    "stall",
    "slow",
    "flip_byte",
    "short_body",
    "wrong_etag",
    "ignore_range",
    "ignore_conditions",
]


class LakesimError(Exception):
    """The server did not start, or its admin port refused."""


@dataclass(frozen=True)
class Link:
    """Times in milliseconds, rates in megabytes (10^6 bytes) per second; 0: no delay, no limit.

    The time to the first byte is lognormal. Rates are per connection and in total.
    """

    first_byte_median_ms: float = 0.0
    first_byte_p99_ms: float = 0.0
    download_connection_mb_s: float = 0.0
    download_total_mb_s: float = 0.0
    upload_connection_mb_s: float = 0.0
    upload_total_mb_s: float = 0.0


#: What measurements assume between a node and its lake: a client of two cores saturates it.
STANDARD_LINK = Link(20.0, 100.0, 90.0, 400.0, 90.0, 400.0)


@dataclass(frozen=True)
class Fault:
    """What goes wrong, at a share *rate* of the requests that match every filter.

    *fault_budget*: how often at most. *after_bytes*: where in the body; None is anywhere.
    The kinds are described in ``native/lakesim/src/faults.rs``.
    """

    kind: FaultKind
    rate: float = 1.0
    methods: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    key_contains: str = ""
    fault_budget: int | None = None
    after_bytes: int | None = None
    stall_ms: int = 60_000
    bytes_per_s: int = 1024


#: A server that knows neither conditions nor ranges; there are such.
SLOPPY = (Fault("ignore_conditions"), Fault("ignore_range"))


@dataclass(frozen=True)
class Stats:
    """Counters since the last reset; ``connections_open`` and ``in_flight`` are gauges. Bytes are
    those of bodies."""

    requests: int
    by_method: dict[str, int]
    by_operation: dict[str, int]
    by_status: dict[str, int]
    faults: dict[str, int]
    connections: int
    connections_open: int
    in_flight: int
    in_flight_max: int
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True)
class Request:
    """A line of the request log, in the order of arrival. Times are `time.time_ns`.

    *status* is None while there is no answer. A mutation that took effect has a *commit*: its place
    among all of them. *first_sent_ns* and *last_sent_ns* are when the first and the latest piece of
    the answer's body left; None where none did.
    """

    sequence: int
    method: str
    operation: str
    bucket: str
    key: str
    query: str | None
    range: str | None
    arrived_ns: int
    status: int | None
    fault: str | None
    commit: int | None
    committed_ns: int | None
    bytes_in: int
    bytes_out: int
    first_sent_ns: int | None
    last_sent_ns: int | None


class Lakesim:
    """A running lakesim. *endpoint* and *admin* are URLs; *seed* repeats its faults."""

    def __init__(self, process: subprocess.Popen[bytes], ready: dict[str, Any]) -> None:
        self.pid = process.pid
        self.endpoint: str = ready["s3"]
        self.admin: str = ready["admin"]
        self.seed: int = ready["seed"]
        # Without the environment's proxies: it is on this machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        try:
            with self._opener.open(urllib.request.Request(self.admin + path, data)) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise LakesimError(f"{path}: {error.read().decode()}") from None

    def configure(self, link: Link | None = None, faults: Sequence[Fault] | None = None) -> None:
        """Changes the link, or all faults, or both."""
        change: dict[str, Any] = {}
        if link is not None:
            change["link"] = asdict(link)
        if faults is not None:
            change["faults"] = [asdict(fault) for fault in faults]
        self._ask("/config", change)

    def change(self, patch: dict[str, Any]) -> dict[str, Any]:
        """Changes what *patch* names, as the admin port takes it; gives the whole configuration."""
        changed: dict[str, Any] = self._ask("/config", patch)
        return changed

    def begin_turn(self, number: int) -> None:
        """From now on requests wait as those that ask for the same did in an earlier turn of that
        number: so that those who are compared have the same luck."""
        self._ask("/config", {"turn": number})

    def stats(self) -> Stats:
        return Stats(**self._ask("/stats"))

    def log(self, since: int = 0) -> list[Request]:
        """The requests from sequence number *since* on."""
        return [Request(**entry) for entry in self._ask(f"/log?since={since}")["requests"]]

    def mark(self) -> int:
        """The sequence number of the next request, for `log`."""
        return int(self._ask(f"/log?since={1 << 62}")["next"])

    def sizes(self, bucket: str, prefix: str) -> dict[str, int]:
        """The objects whose keys begin with *prefix*, with their sizes in bytes; without a
        request to S3, which would be counted and wait for the link."""
        query = urllib.parse.urlencode(
            {"bucket": bucket, "prefix": prefix}, quote_via=urllib.parse.quote
        )
        found: dict[str, int] = self._ask(f"/objects?{query}")["objects"]
        return found

    def wait_until_quiet(self, still_s: float = 0.1, limit_s: float = 5.0) -> None:
        """Until no request was under way or came for *still_s*, or for *limit_s*."""
        deadline = time.monotonic() + limit_s
        before = self.stats()
        while time.monotonic() < deadline:
            time.sleep(still_s)
            stats = self.stats()
            if not before.in_flight and not stats.in_flight and before.requests == stats.requests:
                return
            before = stats

    def reset(self) -> None:
        """Forgets the log and zeroes the counters."""
        self._ask("/stats/reset", {})
        self._ask("/log/reset", {})

    def plant(self, objects: Objects) -> None:
        """Makes *objects*, at once and without uploads."""
        self._ask("/seed", asdict(objects))


@dataclass(frozen=True)
class Objects:
    """Many objects of one size, whose keys and bodies can be computed: see
    ``native/lakesim/src/backend/seeded.rs``."""

    bucket: str
    count: int
    size: int
    prefix: str = ""
    suffix: str = ""
    seed: int = 0
    fanout: int | None = None

    def key(self, index: int) -> str:
        directory = "" if self.fanout is None else f"{index // self.fanout:05}/"
        return f"{self.prefix}{directory}{index:08}{self.suffix}"

    def body(self, key: str) -> bytes:
        variants = min(max((1 << 27) // max(self.size, 1), 16), 1024)
        offset = 1021 * (zlib.crc32(key.encode()) % variants)
        stream = _stream(self.seed)
        repeated = stream * ((offset + self.size) // len(stream) + 1)
        return repeated[offset : offset + self.size]


@functools.lru_cache(maxsize=4)
def _stream(seed: int) -> bytes:
    """One period of what seeded bodies are cut from."""
    period = 1_048_573
    hashes = (
        hashlib.sha256(b"lakesim:%d:%d" % (seed, n)).digest() for n in range(-(-period // 32))
    )
    return b"".join(hashes)[:period]


@contextmanager
def lakesim(
    *,
    link: Link | None = None,
    faults: Sequence[Fault] = (),
    seed: int | None = None,
    anonymous: bool = False,
) -> Iterator[Lakesim]:
    """A lakesim on free ports, for as long as the context lasts; it also ends with this process."""
    command = [str(BINARY), "--exit-with-stdin"]
    command += ["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]
    if seed is not None:
        command += ["--seed", str(seed)]
    if anonymous:
        command.append("--anonymous")
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise LakesimError(f"lakesim ended with {process.wait()}")
            server = Lakesim(process, json.loads(line))
            server.configure(link, faults)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
