"""kill -9 while a writer writes, again and again: ``python -m tests.crash.process_kills``.

A writer changes files in a write-back directory of a real mount, over an S3 server that logs each
request (lakesim). At some moment one process of the mount is killed, or several, or all, which is
then mounted again. With the native front the writer goes on where not all were killed, and must not
notice. Then all is flushed, and the log of the server and what it holds are judged by what the
writer was told: nothing that was acknowledged is missing, nothing is there twice, before its time,
under a name that is held, or with other bytes (`tests.writeback.history`).

With ``--steps`` the moment is not any: the control plane dies before or after a named step of what
is written on its way into the lake (`tests.crash.steps`), in turn of each of them, and with it at
times everybody else.

Each round finds what the ones before have left. Exit status: 0; 1, the first thing that is wrong is
on standard error; 2, it cannot be done here.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.lakesim import Lakesim, Link, lakesim
from tests.crash.acknowledged import Wrong
from tests.crash.mortal import FAILED
from tests.crash.steps import MOMENTS, STEPS, Armed
from tests.mount.mounting import Mount, cut_off, fuse_missing, tierfs, wait_until
from tests.servers import TEST_CREDENTIALS, s3_server
from tests.writeback.history import History, check
from tests.writeback.recording import bytes_of, load
from tierfs.keeper.timing import Timing

BUCKET = "lake"
#: So slow that something is on its way at most moments.
LINK = Link(first_byte_median_ms=5, first_byte_p99_ms=20, upload_connection_mb_s=40)
#: Who is killed at once, for each front.
KILLED: dict[str, list[tuple[str, ...]]] = {
    "native": [("front",), ("control",), ("front", "control"), ("keeper", "control", "front")],
    "python": [("control",), ("keeper", "control")],
}
#: Fewer than a loop of crashes is.
MOST_DEATHS = Timing().crash_limit - 1
#: The longest time from the writer's first change to the kill, and from there to its end.
BEFORE_S, AFTER_S = 0.8, 0.4
#: Within this time somebody comes to a named step, which is passed so often before at most.
REACHED_S = 30.0
PASSES = 4


class Kills:
    """A mount, a server, and rounds."""

    def __init__(
        self,
        work: Path,
        server: Lakesim,
        front: str,
        whom: list[tuple[str, ...]],
        seed: int,
        *,
        steps: bool = False,
    ) -> None:
        self._work = work
        self._server = server
        self._front = front
        self._whom = whom
        self._steps = [(step, moment) for step in STEPS for moment in MOMENTS] if steps else []
        self._armed = Armed(work / "dies-at")
        self._choose = random.Random(seed)
        self.client: Any = s3_server(server).client()
        options = ["--endpoint", server.endpoint, "--region", "us-east-1", "--front", front]
        options += ["--cache-size", "1G", "--write-back", "w/**"]
        environment = {**TEST_CREDENTIALS, **(self._armed.environment() if steps else {})}
        self.mount = Mount(
            f"s3://{BUCKET}", work / "mnt", work / "cache", work / "run", options, environment
        )
        #: When processes were killed, since the mount.
        self._deaths: list[float] = []
        #: How often whom, and at which step.
        self.counted: Counter[str] = Counter()
        self.events = 0

    def start(self) -> None:
        """Mount. Raises Wrong."""
        started = self.mount.start()
        if started.returncode:
            raise Wrong(f"it does not mount: {started.stderr}{self.mount.log()}")

    def round(self, number: int) -> None:
        """One kill. Raises Wrong."""
        root, log = self.mount.directory / "w" / f"r{number}", self._work / f"log-{number}"
        root.mkdir()
        self._flush()
        self._server.reset()
        self._server.configure(link=LINK)
        who = self._choose_whom()
        pids = self.mount.pids()
        argv = [sys.executable, "-m", "tests.crash.mortal", str(root), str(log)]
        argv.append(str(self._choose.randrange(1 << 30)))
        if self._steps:
            argv.append("large")
        # Its words about what it died of are of interest where it should not have.
        words = None if self._must_go_on(who) else subprocess.DEVNULL
        with subprocess.Popen(argv, stderr=words) as writer:
            try:
                wait_until(lambda: log.exists() and log.stat().st_size, "the writer to begin")
                if self._steps:
                    self._die_at(*self._steps[number % len(self._steps)])
                else:
                    time.sleep(self._choose.uniform(0, BEFORE_S))
                for role in who:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pids[role], signal.SIGKILL)
                self._mourn(writer, who)
            finally:
                writer.kill()
        self._come_back(who, pids)
        self._flush()
        self._judge(number, log)
        self.counted["+".join(who)] += 1
        log.unlink()

    def _die_at(self, step: str, moment: str) -> None:
        """The control plane comes to this moment, and dies."""
        self._armed.arm(step, moment, self._choose.randrange(PASSES))
        wait_until(lambda: not self._armed.is_armed, f"somebody {moment} {step}", REACHED_S)
        self.counted[step] += 1

    def _choose_whom(self) -> tuple[str, ...]:
        """All of them, where more deaths of some would be a loop that the keeper gives up."""
        now = time.monotonic()
        self._deaths = [at for at in self._deaths if now - at < Timing().crash_window_s]
        too_often = len(self._deaths) + 2 > MOST_DEATHS
        who = KILLED[self._front][-1] if too_often else self._choose.choice(self._whom)
        self._deaths = [] if "keeper" in who else [*self._deaths, *[now] * len(who)]
        return who

    def _must_go_on(self, who: tuple[str, ...]) -> bool:
        """Whether the writer may not notice that *who* were killed."""
        return self._front == "native" and "keeper" not in who

    def _mourn(self, writer: subprocess.Popen[bytes], who: tuple[str, ...]) -> None:
        """Wait for the end of the writer, which is told to end where it can go on."""
        if self._must_go_on(who):
            time.sleep(self._choose.uniform(0, AFTER_S))
            writer.terminate()
            if writer.wait(60):
                raise Wrong(f"the writer noticed that {who} were killed: {writer.returncode}")
            return
        if "keeper" in who:
            cut_off(self.mount.directory)
        # It may just not have come to a call that fails.
        writer.terminate()
        if writer.wait(60) not in (0, FAILED, -signal.SIGTERM):
            raise Wrong(f"the writer ended with {writer.returncode}")

    def _come_back(self, who: tuple[str, ...], pids: dict[str, int]) -> None:
        if "keeper" in who:
            self.start()
            return

        def back() -> bool:
            try:
                now = self.mount.pids()
            except AssertionError:
                return False
            mounted = os.path.ismount(self.mount.directory)
            return mounted and all(now.get(role) not in (None, pids[role]) for role in who)

        wait_until(back, f"another {who}", 30)

    def _flush(self) -> None:
        self._server.configure(link=Link())
        directory = self.mount.directory / "w"
        done = tierfs("flush", "--wait", directory, "--runtime-dir", self.mount.runtime)
        if done.returncode:
            raise Wrong(f"flush: {done.stdout}{done.stderr}{self.mount.log()}")

    def _judge(self, number: int, log: Path) -> None:
        prefix = f"w/r{number}/"
        history = History(load(log), prefix)
        self.events += history.acknowledged
        sizes = self._server.sizes(BUCKET, prefix)
        requests = [each for each in self._server.log() if (each.key or "").startswith(prefix)]
        found = check(requests, history, bucket=BUCKET, sizes=sizes)
        if found:
            raise Wrong("\n".join(map(str, found)))
        for key, size in sizes.items():
            if size:
                body = self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
                if body != bytes_of(size):
                    raise Wrong(f"{key} has other bytes than were written")
                local = (self.mount.directory / key).read_bytes()
                if local != body:
                    raise Wrong(f"{key} has other bytes here than in the lake")

    def close(self) -> None:
        """Leave nothing behind."""
        self.mount.kill()
        self.client.close()


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.process_kills")
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--front", choices=list(KILLED), default="native")
    parser.add_argument(
        "--whom",
        action="append",
        metavar="ROLE[+ROLE...]",
        help="kill only these, and all where that would be a loop of crashes (repeatable)",
    )
    parser.add_argument("--steps", action="store_true", help="die at named steps, in turn")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="default: in the temporary directory")
    arguments = parser.parse_args(argv)
    known = [who for who in KILLED[arguments.front] if "control" in who or not arguments.steps]
    whom = [tuple(roles.split("+")) for roles in arguments.whom or ()] or known
    if not set(whom) <= set(known):
        parser.error(f"--whom: there are {', '.join(map('+'.join, known))}")
    if reason := fuse_missing():
        print(f"process_kills: {reason}", file=sys.stderr)
        return 2
    work = Path(tempfile.mkdtemp(prefix="tierfs-kills-", dir=arguments.work))
    try:
        with lakesim(seed=arguments.seed) as server:
            s3_server(server).make_bucket(BUCKET)
            kills = Kills(
                work, server, arguments.front, whom, arguments.seed, steps=arguments.steps
            )
            number = 0
            try:
                kills.start()
                (work / "mnt" / "w").mkdir()
                for number in range(1, arguments.kills + 1):
                    kills.round(number)
                    if number % 25 == 0 or number == arguments.kills:
                        counts = ", ".join(f"{each} {n}" for each, n in kills.counted.most_common())
                        print(f"{number} kills ({counts}), {kills.events} changes", flush=True)
            except (Wrong, AssertionError) as wrong:
                print(f"seed {arguments.seed}: round {number}: {wrong}", file=sys.stderr)
                print(kills.mount.log()[-8000:], file=sys.stderr)
                return 1
            finally:
                kills.close()
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
