"""Does every read give the right bytes while one request in ten goes wrong at the lake?"""

from __future__ import annotations

import random

from bench.bars.harness import MIB, Result, fronts
from bench.data import small_files
from bench.lab import Lab
from bench.lakesim import Fault, FaultKind, lakesim
from bench.loadgen import File, Loadgen, ReadFailedError, WrongBytesError
from bench.subjects.tierfs import Tierfs
from bench.workspace import workspace

#: Of all requests, listings too.
RATE = 0.1
SMALL, LARGE, READERS, ROUNDS = 2000, 8, 16, 3
LARGE_BYTES = 48 * MIB
#: Each as likely as the others; but a HEAD that names a version that never was cannot be told from
#: the truth, nor a flipped byte but in small files, which the lake sends with their checksum.
KINDS: list[FaultKind] = [
    "slow_down",
    "internal_error",
    "reset_before",
    "reset_after",
    "truncate",
    "stall",
    "short_body",
    "ignore_range",
]


def _faults() -> list[Fault]:
    share = RATE / (len(KINDS) + 2)
    return [
        *(Fault(kind, rate=share) for kind in KINDS),
        Fault("wrong_etag", rate=share, operations=("GetObject",)),
        Fault("flip_byte", rate=share, operations=("GetObject",), key_contains="/small/"),
    ]


def run() -> list[Result]:
    return [_read_through(front) for front in fronts()]


def _read_through(front: Tierfs) -> Result:
    small = tuple(File(f"small/{file.path}", file.size) for file in small_files(SMALL, 110_000))
    large = tuple(File(f"large/{n}.bin", LARGE_BYTES) for n in range(LARGE))
    errors: list[str] = []
    read_bytes = requests = struck = wrong = 0
    kinds: dict[str, int] = {}
    with workspace() as work, lakesim(seed=1) as server:
        lab = Lab(work, server, Loadgen(), "standard", True, 1)
        lab.create_bucket()
        data = lab.dataset("faults", small + large)
        for n in range(ROUNDS):
            order = list(small)
            random.Random(n).shuffle(order)
            with lab.mounted(front, data, cache_bytes=2 * data.bytes) as mounted:
                server.reset()
                server.configure(faults=_faults())
                try:
                    for answer in (
                        lab.loadgen.small(mounted.directory, data.seed, order, READERS),
                        lab.loadgen.sequential(mounted.directory, data.seed, large),
                    ):
                        read_bytes += answer["bytes"]
                except ReadFailedError as error:
                    errors.append(str(error))
                except WrongBytesError as error:
                    wrong += 1
                    errors.append(str(error))
                finally:
                    server.configure(faults=[])
                stats = server.stats()
                requests += stats.requests
                struck += sum(stats.faults.values())
                for kind, count in stats.faults.items():
                    kinds[kind] = kinds.get(kind, 0) + count
    return Result(
        f"{front.name}: right bytes, no error, with {RATE:.0%} of all requests failing",
        f"{read_bytes / 1e9:.1f} GB read and compared, {wrong} wrong, {len(errors)} errors;"
        f" {struck} of {requests} requests failed ({struck / requests:.0%})",
        not errors and read_bytes == ROUNDS * data.bytes and struck > RATE / 2 * requests,
        {**kinds, **({"errors": "; ".join(errors)} if errors else {})},
    )
