"""How the control plane's conversation with the kernel ends, and what it is wired to."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import trio
import trio.testing

from tierfs.config import Config
from tierfs.control import main as control
from tierfs.control.pyfuse3_loop import Session
from tierfs.control.report import Reporter
from tierfs.control.wiring import DRAIN_S, receiving_signals
from tierfs.errors import MountError
from tierfs.index import Index
from tierfs.options import POLICIES
from tierfs.readahead.rules import LEARNT, Rule


@pytest.fixture
def reporter() -> Reporter:
    return Reporter(os.open("/dev/null", os.O_WRONLY))


def test_an_end_before_the_beginning_is_an_error(reporter: Reporter) -> None:
    session = Session(reporter)
    with pytest.raises(MountError, match="before the mount was in use"):
        session.check_end()
    session.begun()
    session.check_end()


@pytest.mark.mockclock
async def test_a_signal_drains_and_then_gives_requests_up(
    reporter: Reporter, signals: None
) -> None:
    session = Session(reporter)
    terminated = trio.Event()
    with trio.CancelScope() as requests:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.end_on_signal, terminated.set, requests)
            await trio.testing.wait_all_tasks_blocked()
            begun = trio.current_time()
            os.kill(os.getpid(), signal.SIGTERM)
            await terminated.wait()
            await trio.sleep_forever()  # A request that waits for a lake that is gone.
    assert requests.cancelled_caught
    assert trio.current_time() - begun == pytest.approx(DRAIN_S, abs=1)
    session.check_end()


async def test_a_signal_after_the_end_ends_no_commit(reporter: Reporter, signals: None) -> None:
    """The keeper's may come when the kernel has said already that the mount is gone."""
    session = Session(reporter)
    with trio.CancelScope() as requests:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.end_on_signal, lambda: None, requests)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    os.kill(os.getpid(), signal.SIGTERM)
    await trio.testing.wait_all_tasks_blocked()


async def test_who_receives_signals_around_a_session_goes_on_with_that(
    reporter: Reporter, signals: None
) -> None:
    """What is flushed then starts commands, which are not to ignore them."""
    session = Session(reporter)
    with receiving_signals(signal.SIGTERM) as received:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.end_on_signal, lambda: None, trio.CancelScope())
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        os.kill(os.getpid(), signal.SIGTERM)
        with trio.fail_after(60):
            assert await anext(received) == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


@pytest.mark.parametrize("name", POLICIES)
def test_files_are_kept_by_the_rules_that_the_configuration_names(name: str) -> None:
    config = Config(url="file:///data", mountpoint=Path("/mnt/lake"), policy=name)
    policy = control._policy(config, cast("Index", SimpleNamespace(cache=None)))
    assert set(policy.misses) == (set(LEARNT) if name == "adaptive" else {Rule(name)})
    assert policy.rule is (Rule.EPOCHS if name == "adaptive" else Rule(name))
