"""Runs that nobody measured: what the reporting side of the benchmark is tested on."""

from __future__ import annotations

import random

from bench.results import Better, Cannot, Metric, Run

THROUGHPUT = Metric("throughput", "B/s", Better.HIGHER, headline=True)
FOUR_READERS = Metric("throughput", "B/s", Better.HIGHER, "4 readers", headline=True)
LATENCY = Metric("latency", "us", Better.LOWER, headline=True)
CPU = Metric("daemon CPU", "s/GB", Better.LOWER)
REQUESTS = Metric("requests to the lake", "", Better.LOWER)
MEMORY = Metric("memory", "B", Better.LOWER)
SPACE = Metric("space on disk", "B", Better.NEITHER)

#: Speed of each subject, as a share of the local file system's.
SPEED = {
    "local": 1.0,
    "client": 0.8,
    "tierfs": 0.98,
    "rclone": 0.4,
    "s3fs": 0.3,
    "mount-s3": 0.5,
    "juicefs": 0.45,
    "geesefs": 0.35,
}


def build_run(
    *,
    rounds: int = 7,
    seed: int = 1,
    noise: float = 0.02,
    machine: float = 1.0,
    speed: dict[str, float] | None = None,
    memory: float = 100e6,
) -> Run:
    """A run in which subjects differ as *speed* says (over `SPEED`), on a computer *machine* times
    as fast, with a relative *noise* of each value and a common one of each round."""
    random_numbers = random.Random(seed)
    shares = SPEED | (speed or {})
    run = Run(
        started="2026-01-02T03:04:05+00:00",
        options={"quick": False, "seed": 1, "subjects": list(shares)},
        machine={
            "cpu": "A <fast> CPU",
            "cores": 2,
            "memory_bytes": 8 << 30,
            "kernel": "6.18.0",
            "file_system": "ext4",
        },
        versions={subject: f"1.{n}" for n, subject in enumerate(shares)}
        | {"tierfs": "0.1.0, commit 0123456789ab"},
        settings={
            subject: {
                "command": f"{subject} mount --cache CACHE BUCKET DIRECTORY",
                "source": f"https://{subject}.example/docs",
                "notes": [f"{subject} & its cache"],
            }
            for subject in shares
            if subject not in ("local", "client")
        },
        scenarios={
            "warm-seq": {
                "question": "How fast are cached files read from start to end?",
                "files": 4,
                "size_bytes": 4 << 30,
            },
            "warm-rand4k": {"question": "How long does one cached read of 4 KiB take?"},
        },
    )
    for round_number in range(rounds):
        together = machine * (1 + random_numbers.uniform(-0.1, 0.1))

        def value(exact: float, weather: float = 1.0) -> float:
            return exact * weather * (1 + random_numbers.uniform(-noise, noise))

        for subject, share in shares.items():
            if subject == "s3fs":
                continue
            figures = {
                THROUGHPUT: value(3e9 * share, together),
                FOUR_READERS: value(5e9 * share, together),
            }
            if subject != "local":
                figures |= {
                    CPU: value(0.1 / share**2),
                    REQUESTS: 0.0,
                    MEMORY: value(memory),
                    SPACE: 4.0 * 2**30,
                }
            run.record("warm-seq", subject, round_number, figures)
            if subject != "client":
                run.record(
                    "warm-rand4k",
                    subject,
                    round_number,
                    {LATENCY: value(2 / share**4, 1 / together)},
                )
    run.cannot = [
        Cannot("warm-seq", "s3fs", "s3fs: unable to access <MOUNTPOINT>:\n  Input/output error"),
        Cannot("warm-rand4k", "client", "no random reads", "8 deep"),
    ]
    return run
