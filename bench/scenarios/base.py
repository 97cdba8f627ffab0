"""What a scenario is: one question, its data, and one measurement that is repeated in rounds."""

from __future__ import annotations

import abc
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from bench.lab import Lab
from bench.results import Metric
from bench.subjects.base import Subject

#: Measures round *n* (from 0) of one subject.
Measure = Callable[[int], dict[Metric, float]]


class Scenario(abc.ABC):
    """One question. Subclasses put it into their docstring's first paragraph."""

    name: str
    #: About how long one subject takes in all its rounds, for the first guess of the time left.
    expected_s = 60.0

    @property
    def question(self) -> str:
        """The docstring up to its first empty line, on one line."""
        return " ".join((self.__doc__ or "").split("\n\n")[0].split())

    @abc.abstractmethod
    def rounds(self, quick: bool) -> int:
        """How often it is repeated."""

    @abc.abstractmethod
    def sizes(self, quick: bool) -> dict[str, Any]:
        """The numbers that a reader of the result has to know."""

    @abc.abstractmethod
    def prepare(self, lab: Lab) -> None:
        """Make the data. Not measured."""

    @abc.abstractmethod
    def session(self, lab: Lab, subject: Subject) -> AbstractContextManager[Measure]:
        """Everything that *subject* needs through all rounds; gives what measures one round.

        Both may raise CannotError and ReadFailedError (the subject sits out the rest), and
        WrongBytesError (the run fails).
        """
