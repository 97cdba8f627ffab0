"""How many connections are best for the bare client."""

from __future__ import annotations

from collections.abc import Callable, Sequence

#: From the most down.
CONNECTIONS = (64, 32, 16, 8, 4, 2, 1)
#: Of the least time so far: what takes longer than this ends the search.
SLOWER = 1.1


def fastest(seconds: Callable[[int], float], counts: Sequence[int] = CONNECTIONS) -> int:
    """The one of *counts*, the largest first, for which *seconds* is least. Once fewer take
    distinctly longer still fewer are not tried: where connections are the limit, half of them take
    twice as long, and one alone would be waited for longest."""
    best, least = counts[0], seconds(counts[0])
    for count in counts[1:]:
        taken = seconds(count)
        if taken < least:
            best, least = count, taken
        elif taken > SLOWER * least:
            break
    return best
