"""A training job's data loader, reduced to what touches files: it knows paths and nothing of
tierfs.

``python reader.py ROOT MANIFEST SEED WORKERS``: reads every path of MANIFEST (lines ``sha256
path``, or ``- path`` where the digest is not known yet) once, in an order shuffled by SEED, with
WORKERS processes, and checks each digest. Prints ``done N`` lines while it reads, then one JSON
line.
"""

import hashlib
import json
import multiprocessing
import random
import sys
import time
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def shuffled(samples: Sequence[T], seed: int) -> list[T]:
    """The order in which they are read."""
    return random.Random(seed).sample(samples, len(samples))


def read_one(job: tuple[str, str]) -> tuple[str, int, str | None]:
    """Read one sample: (path, bytes, digest, or None where it is not the expected one)."""
    path, wanted = job
    with open(path, "rb") as file:
        data = file.read()
    digest = hashlib.sha256(data).hexdigest()
    return path, len(data), digest if wanted in ("-", digest) else None


def main() -> int:
    root, manifest, seed, workers = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    with open(manifest) as file:
        lines = [line.rstrip("\n").split(" ", 1) for line in file]
    jobs = shuffled([(f"{root}/{path}", digest) for digest, path in lines], seed)
    total = bad = 0
    digests = {}
    begin = time.perf_counter()
    with multiprocessing.Pool(workers) as pool:
        for count, (path, size, digest) in enumerate(pool.imap_unordered(read_one, jobs, 4), 1):
            total += size
            bad += digest is None
            digests[path[len(root) + 1 :]] = digest
            if count % 50 == 0:
                print(f"done {count}", flush=True)
    seconds = time.perf_counter() - begin
    summary = {"samples": len(jobs), "bytes": total, "seconds": seconds, "bad": bad}
    print(json.dumps({**summary, "digests": digests}), flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
