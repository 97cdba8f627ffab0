"""The judge of order and durability, on made-up logs: right ones, and each kind of wrong one."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from bench.lakesim import Request
from tests.writeback.history import History, check, commits
from tests.writeback.made_up import PREFIX, Log
from tests.writeback.recording import Content, Recorder, load
from tests.writeback.states import held


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    root = tmp_path / "w"
    root.mkdir()
    return Recorder(root)


def found(recorder: Recorder, log: Log, *, complete: bool = True) -> list[str]:
    """The kinds of what is wrong."""
    history = History(recorder.events, PREFIX)
    return [violation.kind for violation in check(log.requests, history, complete=complete)]


def checkpoint(recorder: Recorder) -> None:
    """Two shards of 10 and 20 bytes, then a marker of 3."""
    recorder.write("one", bytes(10))
    recorder.write("two", bytes(20))
    recorder.write("latest", bytes(3))


def test_in_order(recorder: Recorder) -> None:
    checkpoint(recorder)
    assert not found(recorder, Log().put("one", 10).upload("two", 15, 5).put("latest", 3))


@pytest.mark.parametrize("order", [*itertools.permutations(("one", "two", "latest"))])
def test_any_other_order_is_found(recorder: Recorder, order: tuple[str, ...]) -> None:
    checkpoint(recorder)
    sizes = {"one": 10, "two": 20, "latest": 3}
    log = Log()
    for name in order:
        log.put(name, sizes[name])
    expected = [] if order == ("one", "two", "latest") else ["order"]
    assert found(recorder, log) == expected


def test_a_marker_before_its_shards_is_told_in_words(recorder: Recorder) -> None:
    checkpoint(recorder)
    log = Log().put("one", 10).put("latest", 3).put("two", 20)
    (violation,) = check(log.requests, History(recorder.events, PREFIX))
    assert violation.kind == "order"
    assert "PutObject 'w/latest' (3 bytes)" in str(violation)
    assert "close 'latest'" in str(violation)
    assert "'w/two' is not there, not 20 bytes" in str(violation)


def test_a_held_name(recorder: Recorder) -> None:
    recorder.write(".metadata.tmp", bytes(5))
    recorder.rename(".metadata.tmp", ".metadata")
    assert not found(recorder, Log().put(".metadata", 5))
    log = Log().put(".metadata.tmp", 5).copy(".metadata").delete(".metadata.tmp")
    assert found(recorder, log) == ["held"]


def test_a_version_twice(recorder: Recorder) -> None:
    recorder.write("a", bytes(1))
    recorder.write("b", bytes(2))
    assert found(recorder, Log().put("a", 1).put("b", 2).put("b", 2)) == ["duplicate"]
    assert found(recorder, Log().put("a", 1).upload("a", 1).put("b", 2)) == ["duplicate"]


def test_the_same_bytes_twice_are_two_versions(recorder: Recorder) -> None:
    recorder.write("a", bytes(1))
    recorder.write("a", bytes(1))
    assert not found(recorder, Log().put("a", 1).put("a", 1))
    assert not found(recorder, Log().put("a", 1))


def test_what_was_lost(recorder: Recorder) -> None:
    checkpoint(recorder)
    recorder.unlink("one")
    assert found(recorder, Log().put("one", 10).put("two", 20)) == ["lost"]
    assert found(recorder, Log().put("one", 10).put("two", 20).put("latest", 3)) == ["lost"]
    assert found(recorder, Log().put("one", 10).put("two", 20), complete=False) == []
    assert found(recorder, Log()) == ["lost"]


def test_wrong_content(recorder: Recorder) -> None:
    checkpoint(recorder)
    assert "content" in found(recorder, Log().put("one", 9))
    assert "content" in found(recorder, Log().upload("one", 5, 4))
    assert "content" in found(recorder, Log().put("three", 10))


def test_back_to_an_earlier_version(recorder: Recorder) -> None:
    recorder.write("a", bytes(1))
    recorder.write("a", bytes(2))
    recorder.write("b", bytes(3))
    log = Log().put("a", 1).put("a", 2).put("a", 1)
    assert set(found(recorder, log, complete=False)) == {"backwards", "duplicate"}
    log = Log().put("a", 2).put("b", 3).delete("a")
    assert found(recorder, log, complete=False) == ["backwards"]


def test_overwritten_versions_may_be_left_out(recorder: Recorder) -> None:
    for size in (1, 2, 3):
        recorder.write("latest", bytes(size))
    recorder.write("b", bytes(4))
    assert not found(recorder, Log().put("latest", 3).put("b", 4))
    # But not across something else: with b this was never there.
    recorder.write("latest", bytes(5))
    recorder.write("c", bytes(6))
    assert found(recorder, Log().put("latest", 5).put("b", 4).put("c", 6)) == ["order"]


def test_deletes_keep_their_place(recorder: Recorder) -> None:
    recorder.write("old", bytes(1))
    recorder.write("new", bytes(2))
    recorder.unlink("old")
    assert not found(recorder, Log().put("old", 1).put("new", 2).delete("old"))
    log = Log().put("old", 1).delete("old").put("new", 2)
    assert found(recorder, log) == ["order"]


def test_a_rename_copies_first(recorder: Recorder) -> None:
    recorder.write("a", bytes(1))
    recorder.rename("a", "b")
    assert not found(recorder, Log().put("a", 1).copy("b").delete("a"))
    assert not found(recorder, Log().put("b", 1))
    log = Log().put("a", 1).delete("a").copy("b")
    assert found(recorder, log, complete=False) == ["order"]


def test_empty_directories_are_markers(recorder: Recorder) -> None:
    recorder.mkdir("d")
    recorder.mkdir("d/e")
    recorder.write("d/f", bytes(1))
    recorder.unlink("d/f")
    recorder.rmdir("d/e")
    log = Log().put("d/").put("d/e/").put("d/f", 1).delete("d/f").delete("d/e/")
    assert not found(recorder, log)
    # The marker may go while there is something in the directory, and must then come again first.
    log = Log().put("d/").put("d/e/").delete("d/").put("d/f", 1).delete("d/f")
    assert not found(recorder, log.put("d/").delete("d/e/"))
    log = Log().put("d/").put("d/e/").delete("d/").put("d/f", 1).delete("d/f")
    assert found(recorder, log.delete("d/e/")) == ["order", "lost"]


def orbax(recorder: Recorder, *, hidden: bool) -> None:
    """A directory that gets its final name when it is complete."""
    name = "step.orbax-checkpoint-tmp-1" if hidden else "made"
    recorder.mkdir(name)
    for number, file in enumerate(("a", "b", "commit_success"), 1):
        recorder.write(f"{name}/{file}", bytes(number))
    recorder.rename(name, "step")


def test_a_held_directory_appears_with_its_marker_last(recorder: Recorder) -> None:
    orbax(recorder, hidden=True)
    assert not found(
        recorder, Log().put("step/b", 2).put("step/a", 1).put("step/commit_success", 3)
    )
    log = Log().put("step/a", 1).put("step/commit_success", 3).put("step/b", 2)
    assert found(recorder, log) == ["order"]
    name = "step.orbax-checkpoint-tmp-1"
    assert found(recorder, Log().put(f"{name}/a", 1))[0] == "held"
    assert found(recorder, Log().put(f"{name}/"))[0] == "held"


def test_a_directory_is_renamed_by_copies_then_deletes(recorder: Recorder) -> None:
    orbax(recorder, hidden=False)
    names = ("a", "b", "commit_success")

    def published() -> Log:
        log = Log().put("made/")
        for number, name in enumerate(names, 1):
            log.put(f"made/{name}", number)
        return log

    log = published()
    for name in names:
        log.copy(f"step/{name}")
    for name in ("b", "a", "commit_success", ""):
        log.delete(f"made/{name}")
    assert not found(recorder, log)
    log = published().copy("step/a").copy("step/commit_success").copy("step/b")
    assert found(recorder, log, complete=False) == ["order"]
    log = published().copy("step/a").delete("made/a").copy("step/b").copy("step/commit_success")
    assert found(recorder, log, complete=False) == ["order"]


def test_a_file_that_is_renamed_while_open_has_its_place_at_the_close(recorder: Recorder) -> None:
    with recorder.open(".tmpxyz") as handle:
        handle.write(bytes(5))
        recorder.rename(".tmpxyz", "model")
        recorder.write("other", bytes(1))
        handle.write(bytes(2))
    assert not found(recorder, Log().put("other", 1).put("model", 7))
    assert found(recorder, Log().put("model", 7).put("other", 1)) == ["order"]
    assert "content" in found(recorder, Log().put("model", 5).put("other", 1).put("model", 7))


def test_what_is_being_overwritten_stays_until_the_close(recorder: Recorder) -> None:
    recorder.write("a", bytes(1))
    with recorder.open("a") as handle:
        recorder.write("b", bytes(2))
        handle.write(bytes(3))
    assert not found(recorder, Log().put("a", 1).put("b", 2).put("a", 3))
    assert found(recorder, Log().put("a", 1).put("a", 3).put("b", 2)) == ["order"]
    assert "content" in found(recorder, Log().put("a", 1).put("a", 0))


def test_the_close_of_one_of_several_writers_may_be_published(recorder: Recorder) -> None:
    with recorder.open("a") as outer:
        with recorder.open("a", os.O_RDWR) as inner:
            inner.write(bytes(1))
        outer.write(bytes(2))
    assert not found(recorder, Log().put("a", 3))
    assert not found(recorder, Log().put("a", 1).put("a", 3))
    assert found(recorder, Log().put("a", 3).put("a", 1), complete=False) != []


def test_an_unlinked_file_is_never_published(recorder: Recorder) -> None:
    with recorder.open("a") as handle:
        recorder.unlink("a")
        handle.write(bytes(1))
    assert not found(recorder, Log())
    assert found(recorder, Log().put("a", 1), complete=False) == ["content"]


def test_before_it_was_asked_for(recorder: Recorder) -> None:
    recorder.write("a", bytes(1))
    started_ns = recorder.events[-1].started_ns
    assert not found(recorder, Log(started_ns).put("a", 1))
    assert found(recorder, Log(started_ns - 1).put("a", 1)) == ["early"]


def test_what_the_log_does_not_tell(recorder: Recorder) -> None:
    recorder.write("a", bytes(1))
    recorder.unlink("a")
    assert "unjudged" in found(recorder, Log().put("a", 1).add("DeleteObjects", ""))


def test_links_are_there_or_not(recorder: Recorder) -> None:
    recorder.write("step", bytes(1))
    recorder.symlink("step", "latest")
    assert not found(recorder, Log().put("step", 1).put("latest", 4))
    assert found(recorder, Log().put("latest", 4).put("step", 1)) == ["order"]


def test_what_was_there_before(recorder: Recorder) -> None:
    recorder.write("new", bytes(2))
    history = History(recorder.events, PREFIX, initial={"d/old": Content(1, "md5")})
    assert not check(Log().put("new", 2).requests, history)
    log = Log().put("new", 2).delete("d/old")
    assert [v.kind for v in check(log.requests, history)] == ["lost", "lost"]
    assert [v.kind for v in check(Log().put("d/old", 1).requests, history)] == ["duplicate", "lost"]


def test_what_the_lake_holds_in_the_end(recorder: Recorder) -> None:
    recorder.write("a", bytes(1))
    log, history = Log().put("a", 1).requests, History(recorder.events, PREFIX)
    assert not check(log, history, sizes={"w/a": 1})
    for sizes in ({"w/a": 2}, {}, {"w/a": 1, "w/b": 1}):
        assert [v.kind for v in check(log, history, sizes=sizes)] == ["lost"]


def test_what_was_not_acknowledged_may_be_there(tmp_path: Path) -> None:
    root, log = tmp_path / "w", tmp_path / "log"
    root.mkdir()
    recorder = Recorder(root, log)
    recorder.write("a", bytes(1))
    recorder.write("b", bytes(2))
    with pytest.raises(FileNotFoundError):
        recorder.unlink("nothing")
    recorder.close()
    assert load(log) == recorder.events
    # Killed before the last answer came.
    log.write_bytes(log.read_bytes().rpartition(b'{"begun": {"kind": "unlink"')[0])
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-1]))
    history = History(load(log), PREFIX)
    assert history.acknowledged == len(history.events) - 1
    assert not check(Log().put("a", 1).requests, history)
    assert not check(Log().put("a", 1).put("b", 2).requests, history)
    assert [v.kind for v in check([], history)] == ["lost"]


def test_only_what_took_effect_counts() -> None:
    log = Log().put("a", 1).put("b", 1).requests
    refused = [Request(**{**vars(log[0]), "commit": None, "status": 412}), log[1]]
    assert [commit.key for commit in commits(refused)] == ["w/b"]
    assert not list(commits(log, bucket="another"))


def test_names_that_are_held() -> None:
    hold = ("*.tmp", "*.part/")
    assert held("a/b.tmp", hold)
    assert held("a.part/b", hold)
    assert held("a.part", hold, directory=True)
    assert not held("a.part", hold)
    assert not held("a.tmpx/b", hold)
