"""From the lake into the cache, each block once.

A `Flight` is one GET and what becomes of its bytes. It runs in a task of the front, not of the
reader that asked first: a cancelled reader takes nothing from the others (C7). Its life::

    start() --> memory granted --> GET --> done: readers go on from memory
       |                            |       |
       |                            |       +--> room made --> written, recorded --> landed
       |                            |            (or not: C8)
       |                            +--> error: for all who wait; the next who asks asks the lake
       |                                 anew
       +--> room there already is taken first; for a FILL, for which nobody waits, it is made first

No reader waits for an eviction. Without room the bytes wait in memory until they were read, and are
not kept. A FILL is not sent for then (`Fetcher.not_kept`), unless somebody has joined it.

While blocks of a flight are not recorded, readers find the flight and take its bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import trio

from tierfs.cache.blocks import block_extent, checksum_of, whole_blocks
from tierfs.cache.budget import Budget, Priority, Ticket
from tierfs.cache.hot import HotBlocks
from tierfs.cache.objects import CachedObject
from tierfs.cache.space import (
    Capacity,
    Claim,
    Health,
    NotWorthKeeping,
    Reservation,
)
from tierfs.cache.store import Piece, Store
from tierfs.cache.table import ObjectTable
from tierfs.errors import (
    CacheFull,
    IntegrityError,
    LakeProtocolError,
    PreconditionFailed,
    StaleVersion,
    TierfsError,
    show,
)
from tierfs.index.records import BLOCK_SIZE, BlockRecord, overhead_bytes
from tierfs.lake.protocol import Body, ChecksumKind, Lake

#: An object up to this size is fetched in one request, whose answer carries its checksum.
WHOLE_OBJECT_BYTES = 8 << 20
#: An object that so often in a row is not what its checksum says is damaged in the lake.
CHECKSUM_TRIES = 4

_log = logging.getLogger(__name__)


class Flight:
    """One GET of ``[lo, hi)``, or of what no earlier flight brings of it. *data* is set when *done*
    is, unless *error* is."""

    __slots__ = (
        "blocks", "data", "declined", "done", "error", "hi", "kept", "landed", "lender", "life",
        "lo", "ordered", "ticket",
    )  # fmt: skip

    def __init__(
        self,
        lo: int,
        hi: int,
        blocks: list[int],
        life: int,
        ticket: Ticket,
        lender: Flight | None,
    ) -> None:
        self.lo = lo
        self.hi = hi
        #: An earlier flight that brings one end of this one, which need not come twice.
        self.lender = lender
        #: The blocks it brings whole and that were missing when it began.
        self.blocks = blocks
        self.life = life
        self.ticket = ticket
        self.data: Body = b""
        self.error: Exception | None = None
        #: A warm-up waits for it: it is kept whatever it is worth, whoever else waits.
        self.ordered = ticket.priority is Priority.WARM_UP
        #: Its blocks were not worth what would have had to go for them.
        self.declined = False
        #: All its blocks went into the cache.
        self.kept = False
        self.done = trio.Event()
        self.landed = trio.Event()

    @property
    def priority(self) -> Priority:
        """As what it asks for room on disk."""
        return Priority.WARM_UP if self.ordered else self.ticket.priority

    async def bytes(self, lo: int, hi: int) -> memoryview:
        """``[lo, hi)`` of the object. Raises what the flight failed with."""
        if not self.done.is_set():
            await self.done.wait()
        if self.error is not None:
            raise again(self.error)
        return memoryview(self.data)[lo - self.lo : hi - self.lo]


def again(error: Exception) -> Exception:
    """A fresh copy of an error that several tasks will raise, caused by it."""
    copy = error
    if isinstance(error, TierfsError):
        copy = type(error)(error.op, error.subject, error.hint)
        copy.__cause__ = error
    return copy


class Fetcher:
    """Starts flights and carries their bytes into the cache."""

    def __init__(
        self,
        lake: Lake,
        table: ObjectTable,
        store: Store,
        hot: HotBlocks,
        budget: Budget,
        capacity: Capacity,
        health: Health,
        *,
        spawn: Callable[[Callable[..., Awaitable[None]], CachedObject, Flight], None],
        filled: Callable[[CachedObject], None],
    ) -> None:
        self._lake = lake
        self._table = table
        self._store = store
        self._hot = hot
        self._budget = budget
        self._capacity = capacity
        self._health = health
        self._spawn = spawn
        self._filled = filled
        self.in_flight = 0
        #: Flights whose bytes are here and not yet in the cache; who waits for there to be none.
        self._keeping = 0
        self._settling = trio.lowlevel.ParkingLot()
        self.bytes_from_lake = 0
        self.checksum_failures = 0
        #: Flights whose blocks were not worth keeping, and the bytes of these.
        self.declined = 0
        self.declined_bytes = 0

    def start(self, o: CachedObject, lo: int, hi: int, priority: Priority) -> Flight:
        """Send for ``[lo, hi)``, none of whose whole blocks is present or on its way.

        The caller is a user of *o*; the flight becomes one too.
        """
        blocks = [n for n in whole_blocks(lo, hi, o.size) if not o.has(n) and n not in o.flights]
        lender = _lender(o, lo, hi)
        if lender is not None:
            self._budget.promote(lender.ticket, priority)
        flight = Flight(lo, hi, blocks, o.life, self._budget.ticket(hi - lo, priority), lender)
        for n in blocks:
            o.flights[n] = flight
        o.partial_flights.setdefault((lo, hi), flight)
        if priority < Priority.WARM_UP:
            o.unread.update(dict.fromkeys(blocks, 0))
        self._table.retain(o)
        self.in_flight += 1
        self._spawn(self._fly, o, flight)
        return flight

    def join(self, flight: Flight, priority: Priority) -> Flight:
        """Wait for a flight that is under way, with this urgency."""
        flight.ordered = flight.ordered or priority is Priority.WARM_UP
        self._budget.promote(flight.ticket, priority)
        return flight

    def not_kept(self, o: CachedObject, flight: Flight) -> CacheFull:
        """The error of whoever wanted the flight's blocks in the cache, where they are not."""
        if flight.declined:
            hint = "it is not worth keeping, because what would have to go is worth more"
            return NotWorthKeeping("keep in the cache", o.ref.key, hint)
        hint = self._health.reason or "there is no room for it"
        return CacheFull("keep in the cache", o.ref.key, hint)

    async def settle(self) -> None:
        """Wait until all that has come from the lake is in the cache, or cannot be."""
        while self._keeping:
            await self._settling.park()

    async def _fly(self, o: CachedObject, flight: Flight) -> None:
        reservation: Reservation | None = None
        try:
            if self._may_be_kept(o, flight):
                reservation = self._capacity.try_reserve(_room_bytes(o, flight))
            if reservation is None and flight.priority is Priority.FILL:
                reservation = await self._room(o, flight)
                if reservation is None and flight.priority is Priority.FILL:
                    raise self.not_kept(o, flight)
            await self._budget.wait(flight.ticket)
            flight.data, checked = await self._get(o, flight)
            flight.done.set()
            with self._keeps():
                if reservation is None:
                    # For a fill that somebody has joined, too: to them it may be worth more.
                    reservation = await self._room(o, flight)
                if reservation is None:
                    self._remember(o, flight)
                else:
                    await self._keep(o, flight, reservation, checked)
        except PreconditionFailed as error:
            o.stale = True
            flight.error = StaleVersion("read", o.ref.key, "it changed in the lake; open it again")
            flight.error.__cause__ = error
        except TierfsError as error:
            flight.error = error
        except Exception as error:
            _log.exception("fetching failed: %s", show(o.ref.key))
            flight.error = error
        except BaseException:
            flight.error = CacheFull("fetch", o.ref.key, "the mount is shutting down")
            raise
        finally:
            self._land(o, flight)
            if reservation is not None:
                self._capacity.release(reservation)
            if flight.declined:
                self.declined += 1
                self.declined_bytes += _block_bytes(o, flight)
            self._budget.release(flight.ticket)
            self.in_flight -= 1
            self._table.release(o)

    def _land(self, o: CachedObject, flight: Flight) -> None:
        # Unregistered before anyone is woken, so that whoever asks next after an error asks anew.
        for n in flight.blocks:
            if o.flights.get(n) is flight:
                del o.flights[n]
        if o.partial_flights.get((flight.lo, flight.hi)) is flight:
            del o.partial_flights[flight.lo, flight.hi]
        flight.done.set()
        flight.landed.set()

    def _may_be_kept(self, o: CachedObject, flight: Flight) -> bool:
        return bool(flight.blocks) and not o.bypass and not self._health.streaming

    async def _room(self, o: CachedObject, flight: Flight) -> Reservation | None:
        """Room on disk for the blocks of the flight, made if need be, or None: then they are
        streamed."""
        reservation = await self._make_room(o, flight)
        o.is_kept = reservation is not None
        return reservation

    async def _make_room(self, o: CachedObject, flight: Flight) -> Reservation | None:
        flight.declined = False
        while self._may_be_kept(o, flight):
            priority = flight.priority
            claim = Claim(o.ino, priority)
            try:
                return await self._capacity.reserve(_room_bytes(o, flight), claim)
            except NotWorthKeeping:
                if flight.priority is priority:
                    # What was ordered is declined only by others that were.
                    flight.declined = not flight.ordered
                    return None
                if not flight.done.is_set():
                    return None
                # To whoever joined meanwhile it may be worth more.
            except CacheFull:
                return None
        return None

    async def _get(self, o: CachedObject, flight: Flight) -> tuple[Body, bool]:
        """The bytes, of the right length, and whether the object's own checksum was compared."""
        length = flight.hi - flight.lo
        if length != o.size or length > WHOLE_OBJECT_BYTES:
            return await self._get_range(o, flight), False
        for _ in range(CHECKSUM_TRIES):
            data, checksum = await self._lake.get_whole(
                o.ref.key, o.ref.version, o.size, checksum=o.ref.has_checksum
            )
            self.bytes_from_lake += len(data)
            _check_length(o, data, length)
            if checksum is None or checksum.kind is ChecksumKind.NONE:
                return data, False
            if checksum_of(checksum.kind, data) == checksum.value:
                return data, True
            self.checksum_failures += 1
            _log.error("bytes from the lake do not match its checksum: %s", show(o.ref.key))
        raise IntegrityError(
            "check what the lake sent",
            o.ref.key,
            f"its checksum differs; tried {CHECKSUM_TRIES} times",
        )

    async def _get_range(self, o: CachedObject, flight: Flight) -> Body:
        """The bytes, from the lake but for the end of them that the lender brings."""
        lo, hi, lender = flight.lo, flight.hi, flight.lender
        if lender is None:
            return await self._get_extent(o, lo, hi)
        flight.lender = None
        if lender.lo <= lo:
            own = await self._get_extent(o, lender.hi, hi)
        else:
            own = await self._get_extent(o, lo, lender.lo)
        await lender.done.wait()
        if lender.error is not None:
            return await self._get_extent(o, lo, hi)
        lent = memoryview(lender.data)[max(lo - lender.lo, 0) : hi - lender.lo]
        return b"".join((lent, own) if lender.lo <= lo else (own, lent))

    async def _get_extent(self, o: CachedObject, lo: int, hi: int) -> Body:
        data = await self._lake.get(o.ref.key, o.ref.version, lo, hi - lo)
        self.bytes_from_lake += len(data)
        _check_length(o, data, hi - lo)
        return data

    def _remember(self, o: CachedObject, flight: Flight) -> None:
        """There is no room on disk: keep whole blocks in memory until the reader has had them."""
        if o.size > BLOCK_SIZE:
            self._hot.passing.add(o.ino)
        view = memoryview(flight.data)
        for n in flight.blocks:
            lo, hi = block_extent(n, o.size)
            self._hot.put(o.ino, n, bytes(view[lo - flight.lo : hi - flight.lo]))

    @contextmanager
    def _keeps(self) -> Iterator[None]:
        """The body carries what has come from the lake into the cache."""
        self._keeping += 1
        try:
            yield
        finally:
            self._keeping -= 1
            if not self._keeping:
                self._settling.unpark_all()

    async def _keep(
        self, o: CachedObject, flight: Flight, reservation: Reservation, checked: bool
    ) -> None:
        """Write the blocks, then have them recorded (C2). Trouble with the disk ends here (C8)."""
        view = memoryview(flight.data)
        pieces = []
        for n in flight.blocks:
            lo, hi = block_extent(n, o.size)
            pieces.append((n, lo, view[lo - flight.lo : hi - flight.lo]))
        try:
            records = await self._write(o, flight, reservation, pieces)
        except Exception as error:
            self._health.failed("write a cache file", error)
            self._capacity.disk_changed()
            self._remember(o, flight)
            return
        self._health.worked()
        if records is not None and o.life == flight.life:
            self._add(o, records, reservation, checked)
            flight.kept = True

    def _add(
        self,
        o: CachedObject,
        records: dict[int, BlockRecord],
        reservation: Reservation,
        checked: bool,
    ) -> None:
        self._capacity.spend(reservation, o.add(records))
        self._hot.passing.discard(o.ino)
        if checked:
            o.checksum_ok = True
        self._table.recorder.mark(o)
        if o.whole:
            self._filled(o)

    async def _write(
        self, o: CachedObject, flight: Flight, reservation: Reservation, pieces: Sequence[Piece]
    ) -> dict[int, BlockRecord] | None:
        """Write *pieces* to *o*'s cache file, creating it once its record is committed (C3). None:
        the copy was thrown away meanwhile, nothing was written."""
        while o.making is not None:
            await o.making.wait()
        if o.fd < 0:
            o.making = trio.Event()
            try:
                return await self._make(o, flight, reservation, pieces)
            finally:
                o.making.set()
                o.making = None
        if o.life != flight.life:
            return None
        return await self._store.write_blocks(o.fd, pieces)

    async def _make(
        self, o: CachedObject, flight: Flight, reservation: Reservation, pieces: Sequence[Piece]
    ) -> dict[int, BlockRecord] | None:
        if not o.announced:
            await self._table.recorder.announce(o)
        if not o.accounted:
            o.accounted = True
            self._capacity.spend(reservation, overhead_bytes(o.size))
        if o.life != flight.life:
            return None
        o.fd, records = await self._store.create(o.ino, pieces)
        return records


def _lender(o: CachedObject, lo: int, hi: int) -> Flight | None:
    """A flight under way that brings one end of ``[lo, hi)``.

    The kernel divides a file that several processes read from its beginning among them at any page,
    and may send the second piece first: it is taken for a read at random, and brings less than a
    block just before the block is sent for. A flight without memory lends nothing: it might wait
    for what the borrower holds.
    """
    for flight in o.partial_flights.values():
        at_an_end = flight.lo <= lo < flight.hi < hi or lo < flight.lo < hi <= flight.hi
        if at_an_end and flight.ticket.granted.is_set() and not flight.done.is_set():
            return flight
    return None


def _block_bytes(o: CachedObject, flight: Flight) -> int:
    return sum(hi - lo for lo, hi in (block_extent(n, o.size) for n in flight.blocks))


def _room_bytes(o: CachedObject, flight: Flight) -> int:
    """What its blocks take of the disk, with their file if it is new."""
    return _block_bytes(o, flight) + overhead_bytes(o.size)


def _check_length(o: CachedObject, data: Body, length: int) -> None:
    if len(data) != length:
        raise LakeProtocolError(
            "read from the lake", o.ref.key, f"{len(data)} bytes came where {length} were asked for"
        )
