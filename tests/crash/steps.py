"""The steps of what is written on its way into the lake, and a mount's processes that die at one.

Nothing of it is in the product. A mount that is given `environment` has every Python process of its
own wrap the functions of `STEPS` as they are imported; each asks, before and after, whether a file
names this very moment (`Armed.arm`), and if so removes the file and kills its process.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import inspect
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

_ROOT = Path(__file__).parents[2]
_VARIABLE = "TIERFS_TEST_DIES_AT"
_WRITE_BACK = "tierfs.writeback."
MOMENTS = ("before", "after")
#: The least that S3 takes for a part, so that parts are many.
PART_BYTES = 5 << 20


class Step(NamedTuple):
    """A function of the product that takes a file's content further (`tierfs.writeback`)."""

    module: str
    owner: str
    function: str


STEPS = {
    "open": Step("staging", "Staging", "create"),
    "freeze": Step("staging", "Staging", "freeze"),
    "close": Step("tree", "Names", "close"),
    "rename": Step("renames", "Tree", "rename"),
    "unlink": Step("tree", "Names", "unlink"),
    "collapse": Step("history", "History", "_collapse"),
    "begin": Step("history", "History", "begin"),
    "synced": Step("contents", "Contents", "_opened"),
    "upload": Step("uploads", "Uploads", "_begin"),
    "part": Step("uploads", "Uploads", "_part"),
    "complete": Step("uploads", "Uploads", "complete"),
    "put": Step("uploads", "Uploads", "put"),
    "copy": Step("placer", "Placer", "_copy"),
    "delete": Step("placer", "Placer", "_remove"),
    "source": Step("placer", "Placer", "_remove_source"),
    "published": Step("history", "History", "published"),
    "adopt": Step("adoption", "Adopter", "_adopt"),
}


class Armed:
    """The file that names a step and a moment, and how often that is to pass before."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._passed = 0

    def environment(self) -> dict[str, str]:
        """For the mount."""
        paths = [str(Path(__file__).parent / "injected"), str(_ROOT)]
        paths += filter(None, [os.environ.get("PYTHONPATH", "")])
        return {_VARIABLE: str(self._file), "PYTHONPATH": os.pathsep.join(paths)}

    def arm(self, step: str, moment: str, passes: int) -> None:
        """Whoever comes to it, and has passed it so often, dies."""
        aside = self._file.with_suffix(".new")
        aside.write_text(f"{step} {moment} {passes}")
        aside.rename(self._file)

    def disarm(self) -> None:
        """Nobody dies any more."""
        self._file.unlink(missing_ok=True)

    @property
    def is_armed(self) -> bool:
        """Whether nobody has died of it."""
        return self._file.exists()

    def here(self, step: str, moment: str) -> None:
        """A process is at this step."""
        try:
            named, when, passes = self._file.read_text().split()
        except FileNotFoundError:
            return
        if (named, when) != (step, moment):
            return
        self._passed += 1
        if self._passed > int(passes):
            self._file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


def install() -> None:
    """In a process of a mount with an `Armed.environment`."""
    file = os.environ.get(_VARIABLE)
    if file:
        sys.meta_path.insert(0, _Finder(Armed(Path(file))))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds modules of `STEPS` as the others do, and has their functions wrapped."""

    def __init__(self, armed: Armed) -> None:
        self._armed = armed

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(_WRITE_BACK):
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader.exec_module = functools.partial(  # type: ignore[method-assign]
                    self._execute, spec.loader.exec_module
                )
                return spec
        return None

    def _execute(self, execute: Callable[[ModuleType], None], module: ModuleType) -> None:
        execute(module)
        name = module.__name__.removeprefix(_WRITE_BACK)
        if name == "uploads":
            module.PART_BYTES = PART_BYTES  # type: ignore[attr-defined]
        for label, step in STEPS.items():
            if step.module == name:
                owner = getattr(module, step.owner)
                deadly = _deadly(getattr(owner, step.function), label, self._armed)
                setattr(owner, step.function, deadly)


def _deadly(function: Callable[..., Any], label: str, armed: Armed) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):

        async def awaited(*arguments: Any, **named: Any) -> Any:
            armed.here(label, "before")
            result = await function(*arguments, **named)
            armed.here(label, "after")
            return result

        return functools.wraps(function)(awaited)

    def called(*arguments: Any, **named: Any) -> Any:
        armed.here(label, "before")
        result = function(*arguments, **named)
        armed.here(label, "after")
        return result

    return functools.wraps(function)(called)
