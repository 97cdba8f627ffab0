"""Random operations on a directory under test and on a local one; the first difference is reported.

    python -m tests.writeback.posix DIR --reference DIR2 --operations 100000 --seed 1

Each run makes a directory of its own in both, and takes it away when they agree. A difference is
looked for again with ever more of the last operations, so that the report shows few of them, and
the command that does just these.
"""

from __future__ import annotations

import argparse
import errno
import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.writeback.generate import operations
from tests.writeback.kinds import chosen_kinds
from tests.writeback.operations import Op, Side
from tests.writeback.pair import Pair

#: The trees are compared after each of so many first operations, and then now and then.
_FIRST = 100

#: Operations in one report, the last ones.
_MOST_SHOWN = 60

#: An operation with its place in the sequence of its seed.
Numbered = tuple[int, Op]


class Difference(NamedTuple):
    """What differed, after which operation."""

    number: int
    op: Op | None
    text: str


@dataclass
class Checker:
    """Runs sequences in fresh directories of *subject* and *reference*."""

    subject: Path
    reference: Path
    make_subject: Callable[[Path], Side] = Side
    make_reference: Callable[[Path], Side] = Side
    without: Collection[str] = ()
    allowed: Collection[str] = ()
    every: int = 500
    #: Called after each operation of a run, with its number: whatever must make no difference.
    disturb: Callable[[int], None] | None = None
    #: How long to look for fewer operations.
    patience_s: float = 60.0
    refused: dict[str, int] = field(default_factory=dict)

    def run(self, ops: Iterable[Numbered]) -> Difference | None:
        """Does *ops* to both. The first difference, or None."""
        with self._pair() as pair:
            return self._run(pair, ops)

    def _run(self, pair: Pair, ops: Iterable[Numbered]) -> Difference | None:
        number, op, done = 0, None, 0
        for done, (number, op) in enumerate(ops, 1):
            text = pair.step(op)
            if self.disturb is not None:
                self.disturb(number)
            if text is None and (done % self.every == 0 or done < _FIRST):
                text = pair.compare_trees()
            if text is not None:
                return Difference(number, op, text)
        text = pair.compare_trees()
        return None if text is None else Difference(number, op, text)

    @contextmanager
    def _pair(self) -> Iterator[Pair]:
        subject = Path(tempfile.mkdtemp(prefix="posix-", dir=self.subject))
        reference = Path(tempfile.mkdtemp(prefix="posix-", dir=self.reference))
        xattrs = "setxattr" in chosen_kinds(self.without)
        pair = Pair(
            self.make_subject(subject),
            self.make_reference(reference),
            allowed=self.allowed,
            xattrs=xattrs,
        )
        try:
            yield pair
        finally:
            pair.close()
            for refusal, count in pair.refused.items():
                text = f"{refusal.operation}: {errno.errorcode[refusal.error]}, {refusal.why}"
                self.refused[text] = self.refused.get(text, 0) + count
            shutil.rmtree(os.fsencode(subject))
            shutil.rmtree(os.fsencode(reference))

    def shorten(self, ops: Sequence[Numbered]) -> list[Numbered]:
        """The fewest of the last of *ops* that still differ, and of these those that matter.

        Empty if none of the attempts differs: then it takes more than this order of operations.
        """
        length = 1
        while (found := self._differing(ops[-length:])) is None:
            if length >= len(ops):
                return []
            length = min(2 * length, len(ops))
        low, high = length // 2, length
        while high - low > 1:
            middle = (low + high) // 2
            again = self._differing(ops[-middle:])
            if again is None:
                low = middle
            else:
                high, found = middle, again
        return self._thin(found)

    def _differing(self, ops: Sequence[Numbered]) -> list[Numbered] | None:
        """*ops* up to where they differ, or None."""
        found = self.run(ops)
        if found is None:
            return None
        return [item for item in ops if item[0] <= found.number]

    def _thin(self, ops: list[Numbered]) -> list[Numbered]:
        """Without all that can be left out: large pieces first, then one by one."""
        deadline = time.monotonic() + self.patience_s
        piece = max(1, len(ops) // 2)
        while True:
            end = len(ops)
            while end > 0:
                if time.monotonic() > deadline:
                    return ops
                fewer = self._differing(ops[: max(0, end - piece)] + ops[end:])
                if fewer:
                    ops = fewer
                end = min(end, len(ops) + piece) - piece
            if piece == 1:
                return ops
            piece = max(1, piece // 2)


def parse_numbers(text: str) -> list[int]:
    """``3,7-9`` is 3, 7, 8, 9."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def show_numbers(numbers: Iterable[int]) -> str:
    """What `parse_numbers` reads."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def numbered(seed: int, count: int, without: Collection[str] = ()) -> list[Numbered]:
    """The first *count* operations of *seed*."""
    return list(enumerate(itertools.islice(operations(seed, without=without), count)))


def report(
    difference: Difference, fewest: Sequence[Numbered], *, seed: int, command: Sequence[str]
) -> str:
    """A difference in words, with the operations that lead to it and the *command* for them."""
    lines = [f"seed {seed}, operation {difference.number}: {difference.op}", difference.text, ""]
    if not fewest:
        lines += ["It did not happen again: it depends on more than the operations. All of it:"]
        return "\n".join([*lines, " ".join(command)])
    lines += [f"These {len(fewest)} operations are enough:"]
    lines += [f"{number:8} {op}" for number, op in fewest[-_MOST_SHOWN:]]
    only = show_numbers(number for number, _ in fewest)
    return "\n".join([*lines, "", " ".join([*command, "--only", only])])


def check(
    checker: Checker, *, seed: int, count: int, only: Collection[int] = (), shorten: bool = True
) -> str | None:
    """A report of the first difference among *count* operations of *seed*, or None."""
    ops = numbered(seed, count, checker.without)
    if only:
        ops = [ops[number] for number in only]
    difference = checker.run(ops)
    if difference is None:
        return None
    until = [item for item in ops if item[0] <= difference.number]
    fewest = checker.shorten(until) if shorten else []
    command = ["python -m tests.writeback.posix", str(checker.subject)]
    command += [f"--reference {checker.reference} --seed {seed} --operations {count}"]
    if checker.without:
        command += ["--without", ",".join(sorted(checker.without))]
    if checker.allowed:
        command += ["--allow", ",".join(sorted(checker.allowed))]
    return report(difference, fewest, seed=seed, command=command)


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m tests.writeback.posix")
    parser.add_argument("subject", type=Path, metavar="DIR")
    parser.add_argument("--reference", type=Path, required=True, metavar="DIR")
    parser.add_argument("--operations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=int, default=500, help="operations between whole trees")
    parser.add_argument("--without", type=_words, default=[], help="features or kinds, by commas")
    parser.add_argument("--allow", type=_words, default=[], help="kinds that may be refused")
    parser.add_argument("--only", type=parse_numbers, default=[], help="these of the sequence")
    parser.add_argument("--no-shorten", action="store_true")
    given = parser.parse_args(arguments)
    checker = Checker(
        given.subject,
        given.reference,
        without=given.without,
        allowed=given.allow,
        every=given.every,
    )
    start_s = time.monotonic()
    found = check(
        checker,
        seed=given.seed,
        count=given.operations,
        only=given.only,
        shorten=not given.no_shorten,
    )
    for text, count in checker.refused.items():
        print(f"refused {count} times, as it may: {text}")
    if found is not None:
        print(found)
        return 1
    took_s = time.monotonic() - start_s
    print(f"{given.operations:,} operations of seed {given.seed} agree ({took_s:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
