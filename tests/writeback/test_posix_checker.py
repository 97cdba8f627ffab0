"""The checker of random operations: two right directories agree, a wrong one is found."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.writeback.operations import Outcome, Side, same
from tests.writeback.posix import Checker, check, main, numbered, parse_numbers, show_numbers
from tests.writeback.trees import differences, tree


@pytest.fixture
def directories(tmp_path: Path) -> tuple[Path, Path]:
    pair = (tmp_path / "subject", tmp_path / "reference")
    for directory in pair:
        directory.mkdir()
    return pair


class EveryNth(Side):
    """Does something wrong each *n*-th time."""

    n = 50

    def __init__(self, root: str | os.PathLike[str]) -> None:
        super().__init__(root)
        self._count = 0

    def now(self) -> bool:
        self._count += 1
        return self._count % self.n == 0


class LosesTruncates(EveryNth):
    def do_truncate(self, path: bytes, size: int) -> None:
        if self.now():
            os.stat(self.path(path))
        else:
            super().do_truncate(path, size)


class RenamesWithoutReplacing(Side):
    def do_rename(self, source: bytes, target: bytes) -> None:
        if os.path.isfile(self.path(source)) and os.path.isfile(self.path(target)):
            os.unlink(self.path(source))
        else:
            super().do_rename(source, target)


class WritesBytesWrong(EveryNth):
    n = 100

    def do_pwrite(self, slot: int, offset: int, seed: int, size: int) -> int:
        return super().do_pwrite(slot, offset, seed + (size > 0 and self.now()), size)


class ForgetsModes(EveryNth):
    def do_fchmod(self, slot: int, mode: int) -> None:
        self.fd(slot)


class ForgetsTimesOnRename(EveryNth):
    n = 10

    def do_rename(self, source: bytes, target: bytes) -> None:
        super().do_rename(source, target)
        if self.now() and os.path.isfile(self.path(target)):
            os.utime(self.path(target))


class DropsAttributes(EveryNth):
    n = 10

    def do_setxattr(self, path: bytes, name: str, seed: int, size: int, flags: int) -> None:
        super().do_setxattr(path, name, seed, size, flags)
        if self.now():
            os.removexattr(self.path(path), name)


class LosesWhatIsUnlinked(Side):
    """As if an open file went away with its name."""

    def do_unlink(self, path: bytes) -> None:
        if os.path.isfile(self.path(path)) and not os.path.islink(self.path(path)):
            os.truncate(self.path(path), 0)
        super().do_unlink(path)


class SaysExistsForNotEmpty(Side):
    def do_rmdir(self, path: bytes) -> None:
        try:
            super().do_rmdir(path)
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:
                raise OSError(errno.EEXIST, "not empty") from None
            raise


class RefusesLinks(Side):
    def do_link(self, source: bytes, target: bytes) -> None:
        raise OSError(errno.EPERM, "no hard links here")


SABOTAGE = [
    LosesTruncates,
    RenamesWithoutReplacing,
    WritesBytesWrong,
    ForgetsModes,
    ForgetsTimesOnRename,
    DropsAttributes,
    LosesWhatIsUnlinked,
]


def test_two_local_directories_agree(directories: tuple[Path, Path]) -> None:
    for seed in (1, 2):
        assert check(Checker(*directories), seed=seed, count=1000) is None
    assert not os.listdir(directories[0])
    assert not os.listdir(directories[1])


@pytest.mark.long
@pytest.mark.parametrize("seed", range(8))
def test_two_local_directories_agree_for_long(directories: tuple[Path, Path], seed: int) -> None:
    assert check(Checker(*directories), seed=seed, count=20_000) is None


@pytest.mark.parametrize("wrong", SABOTAGE)
def test_what_is_wrong_is_found(directories: tuple[Path, Path], wrong: type[Side]) -> None:
    for seed in range(5):
        checker = Checker(*directories, make_subject=wrong)
        if checker.run(numbered(seed, 3000)) is not None:
            return
    pytest.fail(f"{wrong.__name__} was not noticed")


def test_a_report_shows_few_operations_and_a_command_that_does_them(
    directories: tuple[Path, Path],
) -> None:
    checker = Checker(*directories, make_subject=RenamesWithoutReplacing)
    found = check(checker, seed=1, count=3000)
    assert found is not None
    *_, command = found.splitlines()
    only = parse_numbers(command.rpartition("--only ")[2])
    assert len(only) <= 8
    assert "--seed 1 --operations 3000" in command
    # These operations differ again there, and nowhere else.
    assert check(checker, seed=1, count=3000, only=only, shorten=False) is not None
    assert check(Checker(*directories), seed=1, count=3000, only=only) is None


def test_what_may_be_refused_is_counted_and_not_done(directories: tuple[Path, Path]) -> None:
    checker = Checker(*directories, make_subject=RefusesLinks)
    assert check(checker, seed=1, count=2000) is None
    (line,) = checker.refused
    assert line.startswith("link: EPERM")


def test_errors_that_mean_the_same(directories: tuple[Path, Path]) -> None:
    assert (
        check(Checker(*directories, make_subject=SaysExistsForNotEmpty), seed=1, count=1000) is None
    )
    assert same(Outcome(errno.EEXIST), Outcome(errno.ENOTEMPTY))
    assert not same(Outcome(errno.EEXIST), Outcome(errno.ENOENT))
    assert not same(Outcome(0, b"one"), Outcome(0, b"two"))


def test_whatever_disturbs_is_called_after_each_operation(directories: tuple[Path, Path]) -> None:
    called: list[int] = []
    assert check(Checker(*directories, disturb=called.append), seed=1, count=50) is None
    assert called == list(range(50))


def test_trees_tell_what_differs(directories: tuple[Path, Path]) -> None:
    one, other = directories
    for directory in directories:
        (directory / "same").write_bytes(b"same")
        (directory / "d").mkdir()
    (one / "d" / "extra").write_bytes(b"")
    (one / "content").write_bytes(b"one")
    (other / "content").write_bytes(b"two")
    os.symlink("a", one / "link")
    os.symlink("b", other / "link")
    found = differences(tree(os.fsencode(one)), tree(os.fsencode(other)))
    assert [line.partition(":")[0] for line in found] == ["b'content'", "b'd/extra'", "b'link'"]
    assert "sha256" in found[0]
    assert "nothing in the reference" in found[1]


def test_numbers() -> None:
    assert parse_numbers("3,7-9,11") == [3, 7, 8, 9, 11]
    assert show_numbers([3, 7, 8, 9, 11]) == "3,7-9,11"


def test_the_command_line(
    directories: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    subject, reference = map(str, directories)
    options = [subject, "--reference", reference, "--operations", "300", "--without", "xattr,mmap"]
    assert main(options) == 0
    assert "300 operations of seed 1 agree" in capsys.readouterr().out
    with pytest.raises(ValueError, match="unknown: nonsense"):
        main([*options, "--without", "nonsense"])
