"""When it is of no use to look for a victim: the last look has shown it."""

from __future__ import annotations

#: Searches that are left out, at most, after one that was in vain: one more after each so many in a
#: row, or what is rare by now would be found too late.
MOST_LEFT_OUT = 16
_SLOWLY = 4


class Vain:
    """Searches that came across nothing worth little enough. After some of them the next are left
    out, unless they are for something worth more than all that the last one came across. In steady
    state that is nearly every search of a shuffled epoch."""

    def __init__(self) -> None:
        self._least = 0.0
        self._row = self._left_out = 0

    def again(self, limit: float) -> bool:
        """Whether to leave out a search for what is worth less than *limit*."""
        if not self._left_out or limit > self._least:
            return False
        self._left_out -= 1
        return True

    def note(self, least: float, limit: float) -> None:
        """*least* was the worth of the best that a search for less than *limit* came across."""
        self._least = least
        self._row = self._row + 1 if least >= limit else 0
        self._left_out = min(self._row // _SLOWLY, MOST_LEFT_OUT)
