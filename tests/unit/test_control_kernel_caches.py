"""The thread that tells the kernel of changed names: order, waiting, errors, the end."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing

from tierfs.control import kernel_caches
from tierfs.control.kernel_caches import KernelCaches


def unused(ino: int) -> None:
    raise AssertionError("nobody told of content")


async def test_settled_waits_for_what_the_kernel_holds_up() -> None:
    let_go = threading.Event()
    told: list[tuple[int, bytes]] = []

    def invalidate(parent: int, name: bytes) -> None:
        let_go.wait(10)
        told.append((parent, name))
        if name == b"unknown":
            raise FileNotFoundError

    caches = KernelCaches(invalidate, unused)
    for name in (b"unknown", b"b"):
        caches.entry_changed(1, name, 16)
    with trio.move_on_after(0.05) as early:
        await caches.settled()
    assert early.cancelled_caught
    let_go.set()
    with trio.fail_after(5):
        await caches.settled()
    assert told == [(1, b"unknown"), (1, b"b")]
    assert caches.close()


async def test_names_and_content_are_told_in_order() -> None:
    told: list[object] = []
    caches = KernelCaches(lambda *entry: told.append(entry), told.append)
    caches.content_dropped(17)
    caches.entry_changed(1, b"a", 16)
    caches.content_dropped(18)
    with trio.fail_after(5):
        await caches.settled()
    assert told == [17, (1, b"a"), 18]
    assert caches.close()


async def test_a_refusal_is_said_and_the_thread_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def invalidate(parent: int, name: bytes) -> None:
        raise OSError("no")

    caches = KernelCaches(invalidate, unused)
    caches.entry_changed(1, b"a", 0)
    with trio.fail_after(5):
        await caches.settled()
    assert "not told" in caplog.text
    assert caches.close()


def test_a_thread_that_the_kernel_holds_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_caches, "CLOSE_S", 0.01)
    let_go = threading.Event()
    entered = threading.Event()

    def invalidate(parent: int, name: bytes) -> None:
        entered.set()
        let_go.wait(10)

    caches = KernelCaches(invalidate, unused)
    caches.entry_changed(1, b"a", 0)
    assert entered.wait(5)
    assert not caches.close()
    let_go.set()
    caches._thread.join(5)
