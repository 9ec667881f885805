"""What trials measured on their way, kept so that one is compared with all others at once."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Hashable

from tuner.study import Goal

# From here on levels are a sixteenth of their place apart.
_EXACT = 16


class Curve:
    """The values that one attempt reported, by its progress in any order, and the best so far.

    Values are losses: less is better, and one that is not finite is infinitely bad.

    Args:
        last: Whether the last value so far counts instead of the best.
    """

    __slots__ = ("_best", "_last", "_places", "_values")

    def __init__(self, *, last: bool = False) -> None:
        self._last = last
        self._places: list[float] = []
        self._values: list[float] = []
        self._best: list[float] = []

    def add(self, place: float, loss: float) -> bool:
        """Records a value, a new one where there was one. Returns whether it is the furthest."""
        if not self._places or place > self._places[-1]:
            # As it usually comes.
            self._places.append(place)
            self._values.append(loss)
            self._append(loss)
            return True
        at = bisect_left(self._places, place)
        if self._places[at] == place:
            self._values[at] = loss
        else:
            self._places.insert(at, place)
            self._values.insert(at, loss)
        del self._best[at:]
        for value in self._values[at:]:
            self._append(value)
        return False

    def _append(self, loss: float) -> None:
        self._best.append(min(loss, self._best[-1]) if self._best and not self._last else loss)

    def best(self, place: float) -> float:
        """The value up to there that counts; infinite if there is none."""
        at = bisect_right(self._places, place)
        return self._best[at - 1] if at else math.inf

    def first(self, place: float) -> float:
        """Where the first report at or after `place` lies; infinite if there is none."""
        at = bisect_left(self._places, place)
        return self._places[at] if at < len(self._places) else math.inf

    @property
    def end(self) -> float:
        """Where the last report lies; minus infinity if there is none."""
        return self._places[-1] if self._places else -math.inf

    def reports(self) -> list[tuple[float, float]]:
        """The places with their values, in order."""
        return list(zip(self._places, self._values, strict=True))


class Ladder:
    """How good each trial was when it came to a level; what is asked takes no walk over trials."""

    def __init__(self) -> None:
        self._losses: dict[int, dict[Hashable, float]] = {}
        self._ascending: defaultdict[Hashable, list[float]] = defaultdict(list)

    def put(self, number: int, level: Hashable, loss: float) -> None:
        """A trial came to a level, or is found to have been another there."""
        losses = self._losses.setdefault(number, {})
        if level in losses:
            self._remove(level, losses[level])
        losses[level] = loss
        insort(self._ascending[level], loss)

    def leave(self, number: int) -> None:
        """Takes a trial off every level."""
        for level, loss in self._losses.pop(number, {}).items():
            self._remove(level, loss)

    def loss(self, number: int, level: Hashable) -> float | None:
        """What the trial came with; None if it did not come."""
        return self._losses.get(number, {}).get(level)

    def ascending(self, level: Hashable) -> list[float]:
        """Those of all trials there, the best first; not to be changed."""
        return self._ascending[level] if level in self._ascending else []

    def _remove(self, level: Hashable, loss: float) -> None:
        ascending = self._ascending[level]
        del ascending[bisect_left(ascending, loss)]


def level_of(place: float) -> int:
    """The level of a place: exact where steps are few, and coarser by and by.

    So a trial passes at most 16 levels while it doubles its way, however often it reports.
    """
    if place < _EXACT:
        return math.floor(place)
    octave = math.floor(math.log2(place / _EXACT))
    return _EXACT * (octave + 1) + math.floor((place / (_EXACT * 2.0**octave) - 1) * _EXACT)


def loss_of(value: float, goal: Goal) -> float:
    """The value as a loss.

    A trial that diverged is no example, even where infinity would be the better way.
    """
    if not math.isfinite(value):
        return math.inf
    return value if goal is Goal.MINIMIZE else -value
