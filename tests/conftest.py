"""What every kind of test shares.

* Coroutine tests run under trio; those marked ``mockclock`` on a virtual clock that jumps when
  idle.
* ``--allowed-skips FILE``: a skip that no line of the file matches fails the run.
"""

from __future__ import annotations

import inspect
import re
import signal
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import trio
import trio.testing

# Suites that test modules import: their assertions say as much as a test module's own.
pytest.register_assert_rewrite(
    "tests.lake_conformance", "tests.lake_writing_conformance", "tests.s3_conformance"
)

# How long an example takes says nothing on a machine that others use as well, and CI finds the same
# as whoever repeats it.
hypothesis.settings.register_profile(
    "tierfs",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("tierfs")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run ``async def`` tests with ``trio.run``."""
    function: Callable[..., Any] = pyfuncitem.obj
    if not inspect.iscoroutinefunction(function):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    clock = None
    if pyfuncitem.get_closest_marker("mockclock") is not None:
        clock = trio.testing.MockClock(autojump_threshold=0.01)

    async def run() -> None:
        coroutine: Coroutine[Any, Any, None] = function(**arguments)
        await coroutine

    trio.run(run, clock=clock)
    return True


@pytest.fixture
def signals() -> Iterator[None]:
    """A control plane ignores them at its end; this process does not."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    handlers = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--allowed-skips", type=Path, help="patterns of skips that do not fail the run"
    )


_skips: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        _skips.append(f"{report.nodeid}: {report.longrepr[2]}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    path: Path | None = session.config.getoption("--allowed-skips")
    if path is None:
        return
    lines = path.read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    unexpected = [skip for skip in _skips if not any(re.search(p, skip) for p in patterns)]
    if unexpected:
        print("\nSkipped, and on no list of skips:")
        for skip in unexpected:
            print(f"  {skip}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
