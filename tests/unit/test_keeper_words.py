"""What the keeper hears and says: reports, log lines, messages to the service manager, patience."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from tierfs.keeper.child import Child, parse_error
from tierfs.keeper.log import Log, is_journal
from tierfs.keeper.notify import Notifier
from tierfs.keeper.timing import Deaths, Timing


def test_crash_loop_ends_at_the_bound_within_the_window() -> None:
    deaths = Deaths(Timing())
    waits = [deaths.record(now) for now in (0.0, 1.0, 2.0, 3.0)]
    assert waits == [0.1, 0.4, 1.6, 6.4]
    assert deaths.record(4.0) is None


def test_deaths_far_apart_never_end_it() -> None:
    deaths = Deaths(Timing())
    assert {deaths.record(now * 60.0) for now in range(100)} == {0.1}
    assert deaths.total == 100


def test_back_off_has_a_ceiling() -> None:
    deaths = Deaths(Timing(crash_limit=100))
    assert max(deaths.record(0.0) or 0 for _ in range(50)) == 10.0


def test_report_lines_arrive_whole_in_any_pieces() -> None:
    read, write = os.pipe()
    os.set_blocking(read, False)
    child = Child(0, read)
    assert child.lines() == []
    os.write(write, b"rea")
    assert child.lines() == []
    os.write(write, b"dy\nalive\nsto")
    assert child.lines() == ["ready", "alive"]
    os.close(write)
    assert child.lines() == []
    assert child.report_fd == -1


def test_error_report_keeps_op_subject_and_hint() -> None:
    line = 'error {"kind": "LakeDenied", "op": "no access", "subject": "s3://b", "hint": "log in"}'
    assert str(parse_error(line)) == "no access: s3://b (log in)"
    assert parse_error("ready") is None
    assert "garbage" in str(parse_error("error garbage"))
    assert "[1]" in str(parse_error("error [1]"))


def test_endings_in_words() -> None:
    child = Child(0, -1)
    child.status = 3
    assert child.ending() == "exited with 3"
    child.status = -signal.SIGKILL
    assert child.ending() == "was ended by SIGKILL"
    child.status = -60
    assert child.ending() == "was ended by signal 60"


def test_log_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    with (tmp_path / "log").open("wb") as sink:
        log = Log(b"/mnt/\xff", fd=sink.fileno())
        log.debug("left out")
        log.warning("two\nlines")
    assert (tmp_path / "log").read_bytes() == rb"tierfs[/mnt/\xff]: warning: two\nlines" + b"\n"


def test_log_lines_carry_their_priority_to_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "log").open("wb") as sink:
        status = os.fstat(sink.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        Log("/mnt", fd=sink.fileno()).error("x")
    assert (tmp_path / "log").read_bytes() == b"<3>tierfs[/mnt]: error: x\n"


def test_journal_is_known_by_its_very_stream(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as sink:
        assert not is_journal(sink.fileno(), {"JOURNAL_STREAM": "8:1"})
        assert not is_journal(sink.fileno(), {"JOURNAL_STREAM": "nonsense"})
        assert not is_journal(sink.fileno(), {"X": "1"})
        assert not is_journal(9999, {"JOURNAL_STREAM": "8:1"})


def test_notifier_takes_its_variables_away_and_sends_one_datagram(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000", "PATH": "/bin"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        notifier = Notifier(environment)
        assert environment == {"PATH": "/bin"}
        assert notifier.watchdog_s == 30.0
        notifier.send(READY=1, STATUS="well")
        assert manager.recv(100) == b"READY=1\nSTATUS=well"
        notifier.watchdog()
        assert manager.recv(100) == b"WATCHDOG=1"
    notifier.send(STOPPING=1)  # The service manager is gone: no error.


def test_notifier_outside_a_service_is_silent() -> None:
    notifier = Notifier({})
    notifier.send(READY=1)
    notifier.watchdog()
    assert not notifier.enabled
    assert notifier.watchdog_s is None


def test_watchdog_of_another_process_is_not_ours() -> None:
    assert Notifier({"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}).watchdog_s is None
