"""What does a warm small file cost: 4,000 of 110 KB in random order, open-read-close, 4 readers?"""

from __future__ import annotations

import random

from bench.harness import (
    Result,
    against,
    contenders,
    cpu_s,
    drop_caches,
    make_small_files,
    median,
    read_files,
    spread,
    workspace,
)

COUNT, SIZE, READERS, ROUNDS = 4000, 110 * 1000, 4, 7


def run() -> list[Result]:
    with workspace() as work:
        lake = work / "lake"
        names = make_small_files(lake, COUNT, SIZE)
        with contenders(work, lake) as subjects:
            rates: dict[str, list[float]] = {subject.name: [] for subject in subjects}
            cpu: dict[str, list[float]] = {subject.name: [] for subject in subjects[1:]}
            pids = {subject.name: subject.pids() for subject in subjects}
            for subject in subjects[1:]:
                read_files(subject.directory, names, READERS, work)
            for round_number in range(ROUNDS):
                random.Random(round_number).shuffle(names)
                for subject in subjects:
                    drop_caches()
                    before = cpu_s(pids[subject.name])
                    seconds = read_files(subject.directory, names, READERS, work)
                    rates[subject.name].append(COUNT / seconds)
                    if subject.name in cpu:
                        spent = cpu_s(pids[subject.name]) - before
                        cpu[subject.name].append(spent / COUNT * 1e6)
    details = {f"{name} files/s": spread(values) for name, values in rates.items()}
    details |= {f"{name} CPU us/file": spread(values) for name, values in cpu.items()}
    return [
        Result(
            "warm small files: daemon CPU <= 300 us a file",
            f"{spread(cpu['tierfs'])} us",
            median(cpu["tierfs"]) <= 300,
            details,
        ),
        *against("warm small files: >= 2x rclone's files/s", rates, "rclone", 2),
    ]
