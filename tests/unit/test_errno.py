"""The boundary: every error of the domain has an errno, and the log hears of what matters."""

from __future__ import annotations

import errno

from tierfs import errors
from tierfs.fs.errno import ERRNO, errno_of, is_quiet
from tierfs.namespace import Absent


def every_error() -> list[type[errors.TierfsError]]:
    found = [errors.TierfsError]
    for kind in found:
        found += kind.__subclasses__()
    return found


def test_every_leaf_has_an_errno_of_its_own_choosing() -> None:
    in_module = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.TierfsError)
    }
    assert set(ERRNO) == in_module


def test_subclasses_made_elsewhere_inherit_theirs() -> None:
    for kind in every_error():
        assert any(parent in ERRNO for parent in kind.__mro__)
    assert errno_of(Absent("look up", b"x", ttl_s=1.0)) == errno.ENOENT


def test_ordinary_answers_are_quiet_and_a_lake_in_trouble_is_not() -> None:
    assert is_quiet(errors.NotFound("look up", b"x"))
    assert not is_quiet(errors.LakeUnavailable("get", b"x"))
    assert not is_quiet(errors.LakeArchived("get", b"x"))
    assert not is_quiet(errors.IntegrityError("read", b"x"))


def test_an_error_is_one_line_whatever_its_subject() -> None:
    error = errors.LakeDenied("get", b"a\nb\xff", "renew the credentials")
    assert str(error) == "get: a\\nb\\xff (renew the credentials)"
