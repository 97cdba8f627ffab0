"""Tell a mount in which order files will be read, from the program that reads them.

::

    from tierfs.order import PlannedSampler, plan

    sampler = PlannedSampler(RandomSampler(dataset), dataset.path_of, "/mnt/lake")
    loader = DataLoader(dataset, sampler=sampler, num_workers=8)

    plan("/mnt/lake", ["train/0007.png", "train/0003.png"])     # or any order, by hand

The mount then fetches files ahead in this order, and evicts what is read last. An order that is
wrong costs speed, never a byte. A mount knows one: processes that each tell their own take each
other's place, so let one of them tell what all of them read, in the order of time.

Only the standard library; PyTorch is used where it is there.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tierfs.control.client import find_mount
from tierfs.control.telling import NAMES_AT_ONCE, AnyPath, relative, tell

log = logging.getLogger(__name__)


def plan(mount: AnyPath, paths: Iterable[AnyPath], append: bool = False) -> dict[str, Any]:
    """Tell the mount that *mount* is, or is on, that files will be read in the order of *paths*:
    absolute, or relative to *mount*. With *append* after what it was told before, else instead.

    Streams: *paths* may be a generator of any length. Returns when all is told, with what the mount
    knows then: `entries`, `position`, `hits`, `unknown` (names that are no files there), `believed`
    and more. Raises MountError where there is no mount, and what the lake says when it is asked for
    names.
    """
    found, below = find_mount(Path(os.fsdecode(mount)))
    return tell(found, relative(paths, os.fsencode(mount), found, below), append=append)


class AnySampler(Protocol):
    """What is iterated over once in each epoch: indices, or lists of them."""

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int: ...


def _base() -> Any:
    try:
        return importlib.import_module("torch.utils.data").Sampler
    except (ImportError, OSError):  # Or it is there and one of its libraries is not.
        return object


if TYPE_CHECKING:
    _Base = object
else:
    _Base = _base()


class PlannedSampler(_Base):
    """*sampler*, with its order told to *mount* at the beginning of each epoch; *path_of_index*
    says what is read for an index. A `torch.utils.data.Sampler` where there is PyTorch.

    Yields what *sampler* yields, whose epochs must end: one is taken whole before its first index
    is given. Its beginning is told before that, and the rest beside, in a thread that calls
    *path_of_index*. An epoch comes after the one before if that was given to its end, and takes the
    place of what was told otherwise. Everything else is asked of *sampler* (`set_epoch`, say).

    Never raises because of tierfs: an order that cannot be told costs one warning in the log.
    """

    def __init__(
        self, sampler: AnySampler, path_of_index: Callable[[Any], AnyPath], mount: AnyPath
    ) -> None:
        # Not that of torch's Sampler, which is for a data source.
        self._sampler = sampler
        self._path_of_index = path_of_index
        self._mount = mount
        self._append = False
        self._warned = False
        self._telling: _Telling | None = None

    def __iter__(self) -> Iterator[Any]:
        order = list(self._sampler)
        if self._telling is not None:
            self._telling.stop()
        paths = self._paths(order)
        first = list(islice(paths, NAMES_AT_ONCE))
        if self._tell(first, self._append):
            self._telling = _Telling(self._tell, paths)
        self._append = False
        yield from order
        self._append = True

    def __len__(self) -> int:
        return len(self._sampler)

    def __getattr__(self, name: str) -> Any:
        if name == "_sampler":  # While it is being unpickled.
            raise AttributeError(name)
        return getattr(self._sampler, name)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_telling": None}

    def _tell(self, paths: Iterable[AnyPath], append: bool) -> bool:
        try:
            plan(self._mount, paths, append)
        except Exception as error:
            if not self._warned:
                log.warning("the order of reads is not told: %s", error)
            self._warned = True
            return False
        return True

    def _paths(self, order: Iterable[Any]) -> Iterator[AnyPath]:
        for index in order:
            if isinstance(index, list | tuple):  # A batch.
                yield from self._paths(index)
            else:
                yield self._path_of_index(index)


class _Telling:
    """A thread that tells *paths*, until they end or it is stopped."""

    def __init__(
        self, tell: Callable[[Iterable[AnyPath], bool], bool], paths: Iterator[AnyPath]
    ) -> None:
        self._stopped = False
        self._thread = threading.Thread(
            target=self._run, args=(tell, paths), name="tierfs-order", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Tell no more; waits for the piece under way."""
        self._stopped = True
        self._thread.join()

    def _run(
        self, tell: Callable[[Iterable[AnyPath], bool], bool], paths: Iterator[AnyPath]
    ) -> None:
        first = next(paths, None)
        if first is not None:
            tell(self._until_stopped(chain([first], paths)), True)

    def _until_stopped(self, paths: Iterator[AnyPath]) -> Iterator[AnyPath]:
        for path in paths:
            if self._stopped:
                return
            yield path
