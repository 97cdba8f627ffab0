"""One name: what the index says while that is fresh, and what the lake says when it is not.

::

    Lookups.lookup --fresh_answer()--> entry or listing within the TTL: Attributes, or Absent
        | neither
        |- directory listed in <= RELIST_PAGES pages --> Listings.run(): one listing for all who ask
        `- otherwise: _ask(), single flight for each name
              HEAD key  ||  LIST key/ max-keys 1 --> Reconciler --> commit --> the same answer
              with the first of these in a directory: its first page, in the background
              after LISTING_AFTER of these: all of it
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import replace

import trio

from tierfs.errors import (
    InvalidRequest,
    NameTooLong,
    NotADirectory,
    NotFound,
    StaleVersion,
    TierfsError,
)
from tierfs.errors import IsADirectory as IsADirectoryProblem
from tierfs.index.journal_inodes import InodeAllocator
from tierfs.index.names import Names
from tierfs.index.records import (
    Dentry,
    Hidden,
    HiddenReason,
    Kind,
    Listing,
    ListingState,
    ObjectRef,
)
from tierfs.lake.protocol import Lake, ListPage, ObjectInfo
from tierfs.namespace import keys
from tierfs.namespace.absence import Absences, Absent
from tierfs.namespace.attributes import Attributes, Freshness, Presenter, is_newer
from tierfs.namespace.described import Describer
from tierfs.namespace.entries import Entries
from tierfs.namespace.flights import SingleFlight
from tierfs.namespace.listing import Listings
from tierfs.namespace.reconcile import Reconciler

#: Questions about single names in one directory before it is listed. A question is two requests, a
#: page of a listing one, so eight are what a directory of up to 16,000 entries costs to list.
LISTING_AFTER = 8
#: A directory whose listing took at most so many pages is relisted past its TTL, for all its names.
RELIST_PAGES = 10
#: Directories whose questions are counted; the longest unasked give way.
COUNTED_DIRECTORIES = 4_096


class Lookups:
    """See the module. All state here is bounded: by callers, or by the constants above."""

    def __init__(
        self,
        names: Names,
        entries: Entries,
        listings: Listings,
        lake: Lake,
        inodes: InodeAllocator,
        reconciler: Reconciler,
        absences: Absences,
        freshness: Freshness,
        presenter: Presenter,
        describer: Describer,
        relist_pages: int,
    ) -> None:
        self._names = names
        self._entries = entries
        self._listings = listings
        self._lake = lake
        self._inodes = inodes
        self._reconciler = reconciler
        self._absences = absences
        self._freshness = freshness
        self._presenter = presenter
        self._describer = describer
        self._relist_pages = relist_pages
        self._flights = SingleFlight()
        self._asked: OrderedDict[int, int] = OrderedDict()
        self._max_key_bytes = keys.max_key_bytes(lake.identity)

    # Answers without the lake.

    def lookup_cached(self, parent: int, name: bytes) -> Attributes | None:
        """The entry if it is known and fresh, else None (which does not mean that it is absent)."""
        dentry = self._names.dentry(parent, name)
        if dentry is None:
            return None
        left_s = self._left_s(parent, dentry)
        if left_s <= 0.0:
            return None
        inode = self._names.inode(dentry.ino)
        return None if inode is None else self._presenter.show(dentry.ino, inode, left_s)

    def _left_s(self, parent: int, dentry: Dentry, listing: Listing | None = None) -> float:
        """Seconds for which *dentry* is still believed: on its own, or by its directory's
        listing."""
        freshness = self._freshness
        now_ns = freshness.now_ns()
        left_s = freshness.left_s(dentry.checked_ns, now_ns)
        if left_s > 0.0:
            return left_s
        listing = listing or self._names.listing(parent)
        if listing.state is ListingState.COMPLETE:
            return freshness.left_s(listing.checked_ns, now_ns)
        return 0.0

    def _absent_left_s(self, parent: int, name: bytes, listing: Listing) -> float:
        """Seconds for which *name*, which has no entry, is still believed to be absent."""
        freshness = self._freshness
        now_ns = freshness.now_ns()
        left_s = 0.0
        if listing.state is ListingState.COMPLETE:
            left_s = min(freshness.left_s(listing.checked_ns, now_ns), freshness.negative_ttl_s)
        if left_s <= 0.0:
            checked_ns = self._absences.get(parent, name)
            if checked_ns is not None:
                left_s = freshness.negative_left_s(checked_ns, now_ns)
        return left_s

    # Look-ups.

    async def lookup(self, parent: int, name: bytes, *, force: bool = False) -> Attributes:
        """What *name* in directory *parent* is; asks the lake when nothing fresh is known, or
        *force*.

        Raises Absent, NameTooLong, NotADirectory, NotFound (no such directory), and the lake's
        errors.
        """
        if not force:
            known = self.lookup_cached(parent, name)
            if known is not None:
                await trio.lowlevel.checkpoint()
                return known
        self._check(parent, name)
        listing = self._names.listing(parent)
        if not force:
            if self._names.dentry(parent, name) is None:
                left_s = self._absent_left_s(parent, name, listing)
                if left_s > 0.0:
                    await trio.lowlevel.checkpoint()
                    raise Absent("look up", name, left_s)
            if self._relists(listing):
                await self._listings.run(parent)
                return self._settled(parent, name)
        await self._ask(parent, name, listing, force)
        return self._settled(parent, name)

    def _check(self, parent: int, name: bytes) -> None:
        """Refuse names and directories that no answer can be given for."""
        if len(name) > keys.MAX_NAME_BYTES:
            raise NameTooLong("look up", name)
        inode = self._entries.inode(parent)
        if inode is None:
            raise NotFound("look up in a directory", f"inode {parent}")
        if inode.kind is not Kind.DIRECTORY:
            raise NotADirectory("look up in a directory", f"inode {parent}")
        if b"/" in name:
            raise InvalidRequest("look up", name, "a name has no '/'")
        if keys.hidden_reason(name) is not None:
            raise Absent("look up", name, self._freshness.negative_ttl_s)

    def _relists(self, listing: Listing) -> bool:
        return listing.state is ListingState.COMPLETE and listing.pages <= self._relist_pages

    def _settled(self, parent: int, name: bytes) -> Attributes:
        """The answer right after the lake was asked, however short the TTL is."""
        dentry = self._names.dentry(parent, name)
        inode = None if dentry is None else self._names.inode(dentry.ino)
        if dentry is None or inode is None:
            raise Absent("look up", name, self._freshness.negative_ttl_s)
        return self._presenter.show(dentry.ino, inode, self._left_s(parent, dentry))

    # Questions.

    async def _ask(self, parent: int, name: bytes, listing: Listing, force: bool) -> None:
        """Ask the lake about one name and commit its answer; one question for all who ask at once,
        but for who is to have an answer of now (*force*)."""

        async def question() -> None:
            self._count(parent, listing)
            await self._question(parent, name, listing, force)

        if force:
            await question()
        else:
            await self._flights.run((parent, name), question)

    def _count(self, parent: int, listing: Listing) -> None:
        """Look into a directory when its first name is asked for, or the next one if too much is
        being listed then: most are known with that. Begin to list a larger one once LISTING_AFTER
        of its names were asked for one by one."""
        if listing.state is ListingState.COMPLETE:
            return
        asked = self._asked.pop(parent, 0) + 1
        looks = listing.state is ListingState.NONE and not self._listings.failed(parent)
        if looks and self._relist_pages:
            self._listings.start_in_background(parent, peeks=True)
        if asked > LISTING_AFTER and self._listings.start_in_background(parent):
            return
        self._asked[parent] = asked
        if len(self._asked) > COUNTED_DIRECTORIES:
            self._asked.popitem(last=False)

    async def _question(self, parent: int, name: bytes, listing: Listing, force: bool) -> None:
        checked_ns = self._freshness.now_ns()
        prefix = self._entries.prefix_of(parent)
        key = prefix + name
        info: ObjectInfo | None = None
        below = False
        if len(key) <= self._max_key_bytes:
            before = self._entries.known(parent, name)
            kind = None if before is None or force else before.dentry.kind
            page: ListPage | None = None
            if kind is Kind.DIRECTORY:
                page = await self._list_below(key)
                below = not _is_empty(page)
                if not below:
                    info = await self._head(key)
            elif kind is Kind.FILE and listing.state is ListingState.COMPLETE:
                # A large directory, known whole: one request while the file is there. That a
                # directory came to be beside it shows at the next listing.
                info = await self._head(key)
                if info is None:
                    page = await self._list_below(key)
                    below = not _is_empty(page)
            else:
                info, page = await self._head_and_list(key)
                below = not _is_empty(page)
        metadata = await self._describer.directory(key + b"/") if below else None
        if info is not None and not self._describer.wants(prefix):
            info = replace(info, metadata=None)
        await self._inodes.ensure(1)
        self._entries.prefix_of(parent)
        before = self._entries.known(parent, name)
        known_ns = before.dentry.checked_ns if before else self._absences.get(parent, name)
        if known_ns is not None and is_newer(known_ns, checked_ns, self._freshness.now_ns()):
            pass  # Who asked later was answered earlier, and knows better (N5).
        elif below:
            self._reconciler.directory(parent, name, before, checked_ns, metadata=metadata)
            if info is not None:
                self._entries.put_hidden(Hidden(parent, key, HiddenReason.SHADOWED_BY_DIRECTORY))
        elif info is not None:
            self._reconciler.file(parent, name, before, info, checked_ns)
        else:
            self._reconciler.absent(parent, name, before, checked_ns)
        await self._entries.commit()

    async def _head(self, key: bytes) -> ObjectInfo | None:
        try:
            return await self._lake.head(key)
        except NotFound:
            return None

    async def _list_below(self, key: bytes) -> ListPage:
        if len(key) >= self._max_key_bytes:
            return ListPage()
        return await self._lake.list_page(key + b"/", max_keys=1)

    async def _head_and_list(self, key: bytes) -> tuple[ObjectInfo | None, ListPage]:
        """Both questions at once. A directory is one even if its object cannot be asked for."""
        info: ObjectInfo | None = None
        page = ListPage()
        head_error: TierfsError | None = None
        list_error: TierfsError | None = None

        async def head() -> None:
            nonlocal info, head_error
            try:
                info = await self._head(key)
            except TierfsError as error:
                head_error = error

        async with trio.open_nursery() as nursery:
            nursery.start_soon(head)
            try:
                page = await self._list_below(key)
            except TierfsError as error:
                list_error = error
        if list_error is not None:
            raise list_error
        if head_error is not None and _is_empty(page):
            raise head_error
        return info, page

    # Opening.

    async def open_object(self, ino: int) -> tuple[ObjectRef, int]:
        """Where the bytes of file *ino* are, and how many; asks the lake when that is not fresh.

        Raises StaleVersion when the name has another inode by now (the caller looks the path up
        again), NotFound when it is gone, IsADirectory, and the lake's errors.
        """
        found = self.object_cached(ino)
        if found is not None:
            await trio.lowlevel.checkpoint()
            return found
        inode = self._entries.inode(ino)
        ref = self._names.object(ino)
        if inode is None:
            raise StaleVersion("open", f"inode {ino}", "its name means something else by now")
        if inode.kind is Kind.DIRECTORY or ref is None:
            raise IsADirectoryProblem("open", f"inode {ino}")
        name = ref.key.rpartition(b"/")[2]
        listing = self._names.listing(inode.parent)
        if self._relists(listing):
            await self._listings.run(inode.parent)
        else:
            await self._ask(inode.parent, name, listing, False)
        dentry = self._names.dentry(inode.parent, name)
        if dentry is None:
            raise NotFound("open", ref.key, "it was removed from the lake")
        ref, inode = self._names.object(ino), self._names.inode(ino)
        if dentry.ino != ino or ref is None or inode is None:
            raise StaleVersion("open", name, "the lake holds a newer version")
        return ref, inode.size

    def object_cached(self, ino: int) -> tuple[ObjectRef, int] | None:
        """As `open_object`, from the index alone: None means that the lake has to be asked, or that
        there is something to complain about. Never waits."""
        inode = self._names.inode(ino)
        if inode is None or inode.kind is not Kind.FILE:
            return None
        ref = self._names.object(ino)
        if ref is None:
            return None
        if not math.isinf(self._freshness.ttl_s):
            dentry = self._names.dentry(inode.parent, ref.key.rpartition(b"/")[2])
            if dentry is None or dentry.ino != ino or self._left_s(inode.parent, dentry) <= 0.0:
                return None
        return ref, inode.size


def _is_empty(page: ListPage) -> bool:
    return not (page.objects or page.prefixes or page.unlistable)
