"""What a scenario is: one question, its data, and one measurement that is repeated in rounds."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from bench.lab import Lab
from bench.loadgen import ReadFailedError
from bench.results import Metric, Run
from bench.subjects.base import CannotError, Subject

#: What a subject's turn may end with; anything else ends the run.
EXCUSES = (CannotError, ReadFailedError, TimeoutError)

#: Measures round *n* (from 0) of one subject.
Measure = Callable[[int], dict[Metric, float]]


class PartlyError(Exception):
    """A subject cannot do some variants: *errors* by variant, and the *figures* of the others."""

    def __init__(self, figures: dict[Metric, float], errors: dict[str, str]) -> None:
        super().__init__(str(errors))
        self.figures = figures
        self.errors = errors


class Attempts:
    """The variants that a subject still tries: one that it cannot do is said once, and left out of
    the later rounds of the session."""

    def __init__(self, variants: Iterable[str]) -> None:
        self._left = list(variants)
        self._errors: dict[str, str] = {}

    @property
    def left(self) -> list[str]:
        """Variants that are still tried; a list of the caller's own."""
        return list(self._left)

    @contextmanager
    def trying(self, variant: str) -> Iterator[None]:
        """An excuse that the body raises is *variant*'s, and ends no more than the body."""
        try:
            yield
        except EXCUSES as error:
            self._left.remove(variant)
            self._errors[variant] = str(error)

    def result(self, figures: dict[Metric, float]) -> dict[Metric, float]:
        """*figures*, for the runner. Raises PartlyError with them if a variant was given up since
        the last call."""
        errors, self._errors = self._errors, {}
        if errors:
            raise PartlyError(figures, errors)
        return figures


class Scenario(abc.ABC):
    """One question. Subclasses put it into their docstring's first paragraph."""

    name: str
    #: About how long one subject takes in all its rounds, for the first guess of the time left.
    expected_s = 60.0
    #: How long one subject is waited for in all its rounds; see `bench.runner`.
    patience_s = 30.0

    @property
    def question(self) -> str:
        """The docstring up to its first empty line, on one line."""
        return " ".join((self.__doc__ or "").split("\n\n")[0].split())

    @abc.abstractmethod
    def rounds(self, quick: bool) -> int:
        """How often it is repeated."""

    @abc.abstractmethod
    def sizes(self, quick: bool) -> dict[str, Any]:
        """The numbers that a reader of the result has to know; asked for after `prepare`."""

    @abc.abstractmethod
    def prepare(self, lab: Lab) -> None:
        """Make the data. Not measured."""

    def leaves_out(self, record: Run, subject: Subject) -> str:
        """Why *subject* need not take part: what *record* has of it already. "": it does."""
        return ""

    @abc.abstractmethod
    def session(self, lab: Lab, subject: Subject) -> AbstractContextManager[Measure]:
        """Everything that *subject* needs through all rounds; gives what measures one round.

        Both may raise CannotError and ReadFailedError (the subject sits out the rest), and
        WrongBytesError (the run fails). What measures may raise PartlyError (the subject goes on).
        """
