"""What does a warm small file cost: 4,000 of 110 KB in random order, open-read-close, 4 readers?"""

from __future__ import annotations

import random

from bench.harness import (
    Rclone,
    Result,
    Subject,
    Tierfs,
    cpu_s,
    drop_caches,
    make_small_files,
    median,
    rclone_binary,
    read_files,
    spread,
    workspace,
)

COUNT, SIZE, READERS, ROUNDS = 4000, 110 * 1000, 4, 7


def run() -> list[Result]:
    with workspace() as work:
        lake = work / "lake"
        names = make_small_files(lake, COUNT, SIZE)
        subjects: list[Subject] = [
            Subject(lake),
            Tierfs(work, f"file://{lake}", "--cache-size", "4G"),
        ]
        binary = rclone_binary()
        if binary:
            subjects.append(Rclone(work, lake, binary))
        rates: dict[str, list[float]] = {s.name: [] for s in subjects}
        cpu: dict[str, list[float]] = {s.name: [] for s in subjects[1:]}
        try:
            for subject in subjects[1:]:
                read_files(subject.directory, names, READERS, work)
            pids = {s.name: s.pids() for s in subjects}
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
        finally:
            for subject in subjects[1:]:
                subject.stop()
    details = {f"{name} files/s": spread(values) for name, values in rates.items()}
    details |= {f"{name} CPU us/file": spread(values) for name, values in cpu.items()}
    rows = [
        Result(
            "warm small files: daemon CPU <= 300 us a file",
            f"{spread(cpu['tierfs'])} us",
            median(cpu["tierfs"]) <= 300,
            details,
        )
    ]
    if "rclone" in rates:
        against = [t / r for t, r in zip(rates["tierfs"], rates["rclone"], strict=True)]
        rows.append(
            Result(
                "warm small files: >= 2x rclone's files/s",
                f"{spread(against, '{:.2f}')} x",
                median(against) >= 2,
            )
        )
    return rows
