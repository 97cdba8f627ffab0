"""The judge of order on random histories: a right uploader passes, one that errs does not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.writeback.history import History, check
from tests.writeback.made_up import PREFIX, Log
from tests.writeback.recording import Content, Recorder
from tests.writeback.scenarios import Checkpoints
from tests.writeback.states import ABSENT, MARKER, State

#: An operation of the log, its path and size.
Request = tuple[str, str, int]


@pytest.fixture(params=range(10))
def history(request: pytest.FixtureRequest, tmp_path: Path) -> History:
    """Files that are written, overwritten, renamed and removed, in two directories."""
    recorder, source = Recorder(tmp_path), random.Random(request.param)
    recorder.mkdir("d")
    files: list[str] = []
    for number in range(30):
        kind = source.choice(("write", "write", "write", "rename", "unlink", "overwrite"))
        name = f"{source.choice(('', 'd/'))}{number}"
        if kind == "write" or not files:
            files.append(name)
            recorder.write(name, recorder.unique(1))
        elif kind == "overwrite":
            recorder.write(source.choice(files), recorder.unique(1))
        else:
            old = files.pop(source.randrange(len(files)))
            if kind == "unlink":
                recorder.unlink(old)
            else:
                recorder.rename(old, name)
                files.append(name)
    return History(recorder.events, PREFIX)


def sizes(state: State) -> dict[str, int]:
    """What has to be in the lake."""
    found = {}
    for key, values in state.items():
        (value,) = values - {ABSENT, MARKER} or {MARKER}
        if isinstance(value, Content):
            found[key.removeprefix(PREFIX)] = value.size
        elif ABSENT not in values:
            found[key.removeprefix(PREFIX)] = 0
    return found


def upload(history: History) -> list[Request]:
    """A right uploader: in each step first what appears, then what goes."""
    done: list[Request] = []
    lake: dict[str, int] = {}
    for step in history.steps:
        wanted = sizes(step.state)
        # A marker stays for as long as the directory.
        wanted |= {path: 0 for path in lake if path.endswith("/") and PREFIX + path in step.state}
        new = [path for path in wanted if wanted[path] != lake.get(path)]
        new.sort(key=lambda path: PREFIX + path == step.last)
        done += [("PutObject", path, wanted[path]) for path in new]
        done += [("DeleteObject", path, 0) for path in lake.keys() - wanted.keys()]
        lake = wanted
    return done


def kinds(requests: list[Request], history: History) -> set[str]:
    log = Log()
    for request in requests:
        log.add(*request)
    return {violation.kind for violation in check(log.requests, history)}


def test_a_right_uploader_passes(history: History) -> None:
    requests = upload(history)
    assert kinds(requests, history) == set()
    # What is sent twice changes nothing, and is still not right.
    for n, request in enumerate(requests):
        again = kinds([*requests[: n + 1], *requests[n:]], history)
        marker = request[1].endswith("/")
        assert again == (set() if marker or request[0] == "DeleteObject" else {"duplicate"})


def matters(requests: list[Request], n: int) -> bool:
    """Whether the request at *n* surely has its place: it is not the marker of a directory that
    gets a file, nor of a version that goes with the next step, which may take two requests."""
    path = requests[n][1]
    return not path.endswith("/") and path not in [other for _, other, _ in requests[n + 1 : n + 3]]


def test_nothing_can_be_left_out(history: History) -> None:
    requests = upload(history)
    for n, request in enumerate(requests):
        if matters(requests, n):
            assert kinds(requests[:n] + requests[n + 1 :], history), request


def test_nothing_can_be_sent_before_its_turn(history: History) -> None:
    requests = upload(history)
    for n in range(len(requests) - 1):
        swapped = [*requests[:n], requests[n + 1], requests[n], *requests[n + 2 :]]
        if matters(requests, n):
            assert kinds(swapped, history), requests[n : n + 2]


@pytest.mark.parametrize("seed", range(3))
def test_checkpoints(tmp_path: Path, seed: int) -> None:
    recorder = Recorder(tmp_path)
    checkpoints = Checkpoints(recorder, seed)
    for step in range(12):
        checkpoints.save(step)
    history = History(recorder.events, PREFIX)
    requests = upload(history)
    assert kinds(requests, history) == set()
    markers = [n for n, (_, path, _) in enumerate(requests) if path == "latest"]
    assert len(markers) == 3
    for n in markers:
        early = [*requests[: n - 1], requests[n], requests[n - 1], *requests[n + 1 :]]
        assert "order" in kinds(early, history)
