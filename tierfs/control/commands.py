"""What the control socket can ask of a live mount. Each command is one method named after it."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import trio

import tierfs
from tierfs.config import Config
from tierfs.control.order import tell_order
from tierfs.control.planner import Planner
from tierfs.control.server import Progress
from tierfs.control.warmup import evict_tree, warm_up
from tierfs.errors import InvalidRequest
from tierfs.front.port import FrontPort
from tierfs.index import Index
from tierfs.lake.protocol import Lake
from tierfs.namespace import Namespace
from tierfs.writeback.service import WriteBackService

#: How many keys that cannot be shown `status` lists; all of them are counted.
HIDDEN_LISTED = 100


class Serving(Protocol):
    """What serves the kernel, as far as `status` asks it."""

    #: ``python`` or ``native``.
    name: str

    @property
    def open_directories(self) -> int:
        """How many directory handles the kernel holds."""

    async def describe(self) -> dict[str, Any]:
        """More to say of it, by name; counters that `FrontPort.stats` gives are fresh then."""


class _Caches(Protocol):
    async def settled(self) -> None: ...


class Commands:
    """The commands of one mount (a `tierfs.control.server.Handler`)."""

    def __init__(
        self,
        config: Config,
        lake: Lake,
        index: Index,
        namespace: Namespace,
        front: FrontPort,
        planner: Planner,
        writing: WriteBackService | None = None,
    ) -> None:
        self._config = config
        self._lake = lake
        self._index = index
        self._namespace = namespace
        self._front = front
        self._planner = planner
        self._writing = writing
        self._serving: Serving | None = None
        self._caches: _Caches | None = None
        self._started_s = trio.current_time()
        self._by_name: dict[
            str, Callable[[dict[str, Any], Progress], Awaitable[dict[str, Any]]]
        ] = {
            "status": self._status,
            "warmup": self._warmup,
            "evict": self._evict,
            "refresh": self._refresh,
            "plan": self._plan,
            "flush": self._flush,
            "unmount": self._unmount,
        }

    def attach(self, serving: Serving, caches: _Caches) -> None:
        """The FUSE side is up: its gauges join the status, and a refresh waits for the kernel."""
        self._serving = serving
        self._caches = caches

    async def run(self, command: str, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
        handler = self._by_name.get(command)
        if handler is None:
            known = ", ".join(sorted(self._by_name))
            raise InvalidRequest("run a command", command, f"this mount knows {known}")
        return await handler(args, progress)

    async def _status(self, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
        config = self._config
        hidden_counts = self._namespace.hidden_counts()
        hidden = self._namespace.hidden(HIDDEN_LISTED)
        serving = self._serving
        front = {} if serving is None else await serving.describe()
        ours, theirs = self._lake.counters, self._front.lake_counters()
        keeper = _keepers_words(config.state_dir / "mount.json")
        pids = {"keeper": os.getppid(), "control": os.getpid(), **keeper.pop("pids")}
        return {
            "version": tierfs.__version__,
            "mountpoint": str(config.mountpoint),
            "lake": str(self._lake.identity),
            "lake_id": self._lake.identity.lake_id,
            "front": serving.name if serving is not None else None,
            "front_details": front,
            "kernel": platform.release(),
            "read_only": self._writing is None,
            **keeper,
            "pids": pids,
            "uptime_s": round(trio.current_time() - self._started_s, 3),
            "memory_bytes": memory_of_processes(tuple(pids.values())),
            "cache_directory": str(config.cache / self._lake.identity.lake_id),
            "lake_requests": {
                "get": ours.get_requests + theirs.get_requests,
                "head": ours.head_requests + theirs.head_requests,
                "list": ours.list_requests + theirs.list_requests,
                "retries": ours.retries + theirs.retries,
                "slow_downs": ours.slow_downs + theirs.slow_downs,
                "bytes_read": ours.bytes_read + theirs.bytes_read,
            },
            "cache": self._front.stats(),
            "reading": self._planner.describe(),
            **({} if self._writing is None else {"writing": self._writing.describe()}),
            "namespace": {
                "entries": self._namespace.entry_count(),
                "open_directories": serving.open_directories if serving else 0,
                "hidden": {reason.name.lower(): count for reason, count in hidden_counts.items()},
                "hidden_keys": [
                    {
                        "key": item.key.decode("utf-8", "backslashreplace"),
                        "reason": item.reason.name.lower(),
                    }
                    for item in hidden
                ],
            },
        }

    async def _warmup(self, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
        paths = _paths(args)
        dry_run = bool(args.get("dry_run", False))
        ahead = self._planner.ahead
        return await warm_up(self._namespace, self._front, ahead, paths, dry_run, progress)

    async def _evict(self, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
        ahead = self._planner.ahead
        if args.get("all"):
            ahead.clear()
            files, size = await self._front.evict_all()
        else:
            paths = _paths(args)
            files, size = await evict_tree(self._namespace, self._front, ahead, paths, progress)
        return {"files": files, "bytes": size}

    async def _refresh(self, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
        changed = 0
        for path in _paths(args):
            changed += await self._namespace.refresh(path)
        if self._caches is not None:
            await self._caches.settled()
        return {"changed": changed}

    async def _plan(self, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
        ahead_bytes = args.get("ahead_bytes")
        if ahead_bytes is not None:
            if not isinstance(ahead_bytes, int) or ahead_bytes < 0:
                raise InvalidRequest("read the request", "ahead_bytes", "give a number of bytes")
            self._planner.keep_ahead(ahead_bytes)
        if args.get("clear"):
            self._planner.order((), append=False)
        elif "paths" in args:
            paths = _paths(args) if args["paths"] else []
            append = bool(args.get("append", False))
            await tell_order(self._namespace, self._planner, paths, append)
        return self._planner.describe_order()

    async def _flush(self, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
        if self._writing is None:
            hint = "nothing is ever dirty; mount with --write-back to write"
            raise InvalidRequest("flush", "this mount is read-only", hint)
        action = str(args.get("action") or "")
        if action not in ("", "retry", "skip"):
            raise InvalidRequest("read the request", "action", "it is retry or skip")
        timeout_s = args.get("timeout_s")
        answer: dict[str, Any] = {"durable": False}
        with trio.move_on_after(math.inf if timeout_s is None else float(timeout_s)):
            for path in _paths(args):
                answer = await self._writing.flush(
                    path, wait=bool(args.get("wait")), action=action, told=progress
                )
                if not answer["durable"]:
                    return answer
            return answer
        return {**self._writing.describe(), "durable": False}

    async def _unmount(self, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
        if self._writing is None:
            return {}
        return await self._writing.leave(
            wait=bool(args.get("wait", True)),
            discard=bool(args.get("discard")),
            told=progress,
        )


def _paths(args: dict[str, Any]) -> list[bytes]:
    """Paths below the mount point, ``/``-separated, from their JSON form (surrogateescape)."""
    paths = args.get("paths")
    if not isinstance(paths, list) or not paths or not all(isinstance(p, str) for p in paths):
        raise InvalidRequest("read the request", "paths", "give at least one path")
    return [os.fsencode(path) for path in paths]


def _keepers_words(path: Path) -> dict[str, Any]:
    """What the keeper wrote down: where the log is, how often it had to start something again,
    whether the mount would survive its death, and which processes there are besides."""
    try:
        words = json.loads(path.read_bytes())
        return {
            "log": words["log"],
            "restarts": words["deaths"],
            "outlives_keeper": words["outlives_keeper"],
            "pids": dict(words["pids"]),
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {"log": None, "restarts": None, "outlives_keeper": None, "pids": {}}


def memory_of_processes(pids: tuple[int, ...]) -> int:
    """RssAnon + RssShmem of *pids* together, in bytes; a process that is gone counts nothing."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/status").read_bytes().splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith((b"RssAnon:", b"RssShmem:")):
                total += int(line.split()[1]) * 1024
    return total
