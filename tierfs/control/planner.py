"""The planner: fetches ahead of whoever reads, with what the lake and the link have to spare.

::

    accessed() --> policy (epochs, plan, worth)
                     |
       run() --> a Source for each job: DataSet     what it will read, in no order that is known
             `-> or, while a plan is in charge: Ordered                  the order that was told
                     --> what is not cached and worth it, in batches
                     --> FrontPort.fill, behind everything that anybody waits for
                     --> not worth keeping: a pause

Whether a file displaces another one in a full cache is the policy's decision, at the moment when
there is no room (`AdaptivePolicy.choose_victims`).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import trio

from tierfs.control.data_set import DataSet
from tierfs.control.ordered import Ordered
from tierfs.errors import TierfsError
from tierfs.front.port import FrontPort
from tierfs.namespace import Namespace, WalkEntry
from tierfs.readahead.ahead import Ahead
from tierfs.readahead.policy import AdaptivePolicy

log = logging.getLogger(__name__)

#: A batch is at most so many files and, unless it is one, bytes; so many are under way.
BATCH_FILES = 32
BATCH_BYTES = 4 << 20
WIDTH = 16
#: Where several want something it is the next one's turn after so many.
TURN_BATCHES = 8
#: While a plan is in charge it is looked whether there is work after so many of its entries.
_WAKE_EVERY = 4
#: After an error of the lake, and after one that nobody expected.
RETRY_S = 5.0
UNEXPECTED_S = 30.0


class Source(Protocol):
    """Where the files come from that are fetched ahead; *number*: for whom, in `Ahead`."""

    number: int

    def begin(self) -> bool:
        """Whether there is anything to look at, as far as is known now."""

    def wanted_bytes(self) -> int:
        """How many bytes are to be fetched now."""

    async def batch(self, files: int, bytes_: int) -> list[WalkEntry]:
        """The next at most *files*, of *bytes_* bytes or one more, that are neither cached nor
        waiting to be read; none: that is all for now."""

    def put_back(self, files: list[WalkEntry]) -> None:
        """*files* were not worth what would have had to go: they come again, later."""

    def pause(self) -> None:
        """Want nothing for some reads."""


class Planner:
    """See the module. `run` it beside a front; `accessed` is told of every access. At most
    *bytes_per_s* are fetched ahead (None: what is to spare; 0: nothing)."""

    def __init__(
        self,
        namespace: Namespace,
        front: FrontPort,
        policy: AdaptivePolicy,
        *,
        bytes_per_s: int | None = None,
    ) -> None:
        self._namespace = namespace
        self._front = front
        self._policy = policy
        self._bytes_per_s = bytes_per_s
        #: When the next batch may begin.
        self._next_s = -math.inf
        #: By the identity of a job's epochs.
        self._data_sets: dict[int, DataSet] = {}
        self._forgotten = policy.jobs.forgotten
        #: Numbers that were given to them.
        self._numbers = itertools.count(1)
        self._ordered = Ordered(namespace, front, policy)
        #: The position in the order, when it was last looked.
        self._seen_position = 0
        self._work = trio.Event()
        #: Batches under way.
        self._slots = trio.Semaphore(WIDTH)
        #: Until then nothing is sent for.
        self._rest_until = -math.inf

    @property
    def ahead(self) -> Ahead:
        """What was fetched before it was read."""
        return self._policy.ahead

    # ---- what is read --------------------------------------------------------------------------

    def accessed(self, ino: int, job: int) -> None:
        """*job* reads *ino*. A plain call of microseconds."""
        epochs, began, ahead = self._policy.accessed(ino, job)
        plan = self._policy.plan
        if plan.in_charge and plan.position - self._seen_position >= _WAKE_EVERY:
            self._seen_position = plan.position
            self._work.set()
        if epochs is None:
            return  # Somebody looks around.
        if self._policy.jobs.forgotten != self._forgotten:
            self._forget()
        data_set = self._data_sets.get(id(epochs))
        if data_set is None:
            data_set = DataSet(
                self._namespace, self._front, self._policy, epochs, next(self._numbers)
            )
            self._data_sets[id(epochs)] = data_set
        if data_set.accessed(ino, job, began, ahead):
            self._work.set()

    def stalled(self, job: int, waited_ns: int, bytes_: int) -> None:
        """An open or a read by *job* has waited for so many bytes from the lake."""
        data_set = self._data_sets.get(id(self._policy.jobs.epochs_of(job)))
        if data_set is not None:
            data_set.stalled(waited_ns, bytes_)

    def _forget(self) -> None:
        """Whose epochs are no more is fetched ahead of no more."""
        self._forgotten = self._policy.jobs.forgotten
        there = {id(epochs) for epochs in self._policy.jobs.all}
        self._data_sets = {key: each for key, each in self._data_sets.items() if key in there}

    def describe(self) -> dict[str, Any]:
        """For `status`: by which rule files are kept and what each rule would miss, what became of
        the files fetched ahead, what is known of the order of reads, and of each job what it
        reads."""
        policy, ahead, plan = self._policy, self._policy.ahead.all, self._policy.plan
        return {
            "rule": policy.rule.value,
            **{f"{rule.value}_miss_share": round(policy.misses[rule], 3) for rule in policy.misses},
            "ahead_bytes": ahead.bytes,
            "ahead_files": ahead.files,
            "ahead_used": ahead.used,
            "ahead_wasted": ahead.wasted,
            "plan_entries": plan.entries,
            "plan_position": plan.position,
            "plan_believed": plan.entries > 0 and plan.believed,
            "jobs": [each.describe() for each in self._data_sets.values()],
        }

    # ---- an order that is told -----------------------------------------------------------------

    def order(self, inos: Sequence[int], unknown: int = 0, *, append: bool) -> None:
        """Files will be read in this order, after what was told before if *append*, instead of it
        if not; *unknown* names were left out. Raises InvalidRequest when it is too much."""
        self._ordered.told(inos, unknown, append=append)
        self._seen_position = self._policy.plan.position
        self._work.set()

    def keep_ahead(self, bytes_: int) -> None:
        """So many bytes of the order, from where it is read on, are to be in the cache."""
        self._ordered.ahead_bytes = bytes_
        self._work.set()

    def describe_order(self) -> dict[str, Any]:
        """What is known of the order of reads, and how it is followed."""
        return self._ordered.describe()

    # ---- fetching ahead ------------------------------------------------------------------------

    async def run(self) -> None:
        """Fetch ahead until cancelled."""
        async with trio.open_nursery() as batches:
            while True:
                await self._work.wait()
                self._work = trio.Event()
                sources: list[Source] = [*self._data_sets.values()]
                if self._policy.plan.in_charge:
                    sources = [self._ordered]
                for source in sources:
                    await trio.sleep_until(self._rest_until)
                    with self._resting_after_trouble():
                        await self._fill(source, sources, batches)

    @contextlib.contextmanager
    def _resting_after_trouble(self) -> Iterator[None]:
        """Whoever reads does without what is not fetched ahead."""
        try:
            yield
        except TierfsError as error:
            log.info("fetching ahead pauses for %g s: %s", RETRY_S, error)
            self._rest(RETRY_S)
        except Exception:
            log.exception("fetching ahead pauses for %g s: unexpected error", UNEXPECTED_S)
            self._rest(UNEXPECTED_S)

    def _rest(self, seconds: float) -> None:
        self._rest_until = max(self._rest_until, trio.current_time() + seconds)

    async def _fill(self, source: Source, sources: Sequence[Source], batches: trio.Nursery) -> None:
        """Send for what *source* wants, in *batches*, until that is all or it is another's turn."""
        if self._bytes_per_s == 0 or source.wanted_bytes() <= 0 or not source.begin():
            return
        for sent in itertools.count():
            if trio.current_time() < self._rest_until:
                return
            if sent >= TURN_BATCHES and self._waits(source, sources):
                self._work.set()
                return
            # Chosen when it can be sent, or it would be of files that have been read meanwhile.
            async with self._slots:
                room = source.wanted_bytes()
                batch = await source.batch(BATCH_FILES, min(room, BATCH_BYTES)) if room > 0 else []
            if not batch:
                return
            for entry in batch:
                self._policy.ahead.sent_for(entry.ino, entry.size, source.number)
            await self._keep_pace(sum(entry.size for entry in batch))
            await batches.start(self._fetch, source, batch)

    def _waits(self, source: Source, sources: Sequence[Source]) -> bool:
        """Whether another one of *sources* has something to fetch."""
        return any(
            other is not source and other.wanted_bytes() > 0 and other.begin() for other in sources
        )

    async def _keep_pace(self, bytes_: int) -> None:
        """Wait until the limit allows *bytes_* more."""
        if self._bytes_per_s:
            begin_s = max(self._next_s, trio.current_time())
            self._next_s = begin_s + bytes_ / self._bytes_per_s
            await trio.sleep_until(begin_s)

    async def _fetch(
        self, source: Source, batch: list[WalkEntry], *, task_status: trio.TaskStatus[None]
    ) -> None:
        async with self._slots:
            task_status.started()
            with self._resting_after_trouble():
                await self._fetch_now(source, batch)

    async def _fetch_now(self, source: Source, batch: list[WalkEntry]) -> None:
        ahead = self._policy.ahead
        again = False
        try:
            files = [(entry.ino, entry.reference, entry.size) for entry in batch]
            again = await self._front.fill(files) > 0
        except TierfsError as error:
            log.debug("fetch ahead: %s", error)
        finally:
            # What is not cached and does not wait has been read and has left again.
            waiting = (entry for entry in batch if entry.ino in ahead)
            left = [e for e in waiting if not self._front.file_state(e.ino).cached_bytes]
            for entry in left:
                ahead.not_kept(entry.ino, entry.size)
        if left:
            source.pause()
        if again:
            source.put_back(left)
