"""What all early-stopping rules share: the curves of the trials, and that the best goes on."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from tuner.early_stopping import Progress, Stopping
from tuner.engine.stopping.curves import Curve, Ladder, level_of, loss_of
from tuner.study import Goal, Metric

_ANYWHERE = "anywhere"


class Rule(ABC):
    """When to stop a trial."""

    def __init__(self, name: str, metric: Metric, stopping: Stopping) -> None:
        self._name = name
        self._metric = metric
        self._by = stopping.by

    @abstractmethod
    def record(self, number: int, place: float, value: float) -> None:
        """Takes note of what a trial measured.

        Args:
            number: The trial's.
            place: How far it is: the step or the seconds.
            value: What it measured; NaN is worse than all others.
        """

    @abstractmethod
    def restart(self, number: int) -> None:
        """Forgets what a trial measured: another attempt starts over."""

    def complete(self, number: int) -> None:  # noqa: B027 - most need not know
        """Takes note that a trial came to its end."""

    @abstractmethod
    def verdict(self, number: int, place: float) -> str | None:
        """Why the trial, which just reported at `place`, should stop; None if it should not."""

    def _stopped(self, place: float, why: str) -> str:
        where = f"step {place:.10g}" if self._by is Progress.STEPS else f"{place:.3g} s"
        return f"stopped by {self._name} at {where}: {why}"


class NoStopping(Rule):
    """Lets every trial finish."""

    def record(self, number: int, place: float, value: float) -> None:
        """Needs no note."""

    def restart(self, number: int) -> None:
        """Has nothing to forget."""

    def verdict(self, number: int, place: float) -> str | None:
        """Never stops."""
        return None


class Comparing(Rule):
    """A rule that compares trials, and never stops the best.

    A trial is judged by its best value so far, or by its last, as it will be in the end, wherever
    it reports: steps may be uneven, or seconds. What a report costs does not grow with the number
    of trials, but for the sorted lists that it is entered into.

    Args:
        name: The rule's name.
        metric: What trials are judged by.
        stopping: Its parameters, checked.
    """

    #: The step at which a trial is judged first, unless the study says another.
    FIRST = 2.0

    def __init__(self, name: str, metric: Metric, stopping: Stopping) -> None:
        super().__init__(name, metric, stopping)
        #: Whether the study takes the last value of a trial for its result, not the best.
        self.counts_last = False
        self._first = self.FIRST if stopping.first is None else stopping.first
        # Levels of steps are steps; of seconds, as fine as suits the first of them.
        self._unit = 1.0 if stopping.by is Progress.STEPS else self._first / 4
        self._curves: dict[int, Curve] = {}
        self._levels = Ladder()
        self._reached: dict[int, int] = {}
        # How far complete trials went.
        self._end = -math.inf

    def record(self, number: int, place: float, value: float) -> None:
        """Enters the trial at the levels that it has come to."""
        curve = self._curves.get(number)
        if curve is None:
            curve = self._curves[number] = Curve(last=self.counts_last)
        if curve.add(place, loss_of(value, self._metric.goal)):
            self._climb(number, curve, place)
            return
        # Rare: what came before is another now.
        self._forget(number)
        for earlier, _ in curve.reports():
            self._climb(number, curve, earlier)

    def restart(self, number: int) -> None:
        """Takes the trial off all levels."""
        if self._curves.pop(number, None) is not None:
            self._forget(number)

    def complete(self, number: int) -> None:
        """Another trial that comes as far is complete, too: there is nothing to stop any more."""
        curve = self._curves.get(number)
        if curve is not None:
            self._end = max(self._end, curve.end)

    def verdict(self, number: int, place: float) -> str | None:
        """Stops what the rule says, from `first` on, unless it is the best or at its end."""
        if place < self._first or place == self._end or number not in self._curves:
            return None
        why = self._why(number, self._curves[number], place)
        if why is None or self._is_best(number, place):
            return None
        return self._stopped(place, why)

    @abstractmethod
    def _why(self, number: int, curve: Curve, place: float) -> str | None:
        """Why the trial should stop, were it not the best."""

    def _climb(self, number: int, curve: Curve, place: float) -> None:
        """The trial came to `place`: what it brings to the levels up to there."""
        level, best = self._level(place), curve.best(place)
        below = self._reached.get(number)
        if below is not None and level > below + 1:
            # Where it did not report, it was as good as it had been before.
            passed = self._levels.loss(number, _ANYWHERE)
            for skipped in range(below + 1, level):
                self._levels.put(number, skipped, math.inf if passed is None else passed)
        if level != below:
            self._levels.put(number, level, best)
            self._reached[number] = level
        if best != self._levels.loss(number, _ANYWHERE):
            self._levels.put(number, _ANYWHERE, best)

    def _forget(self, number: int) -> None:
        self._levels.leave(number)
        self._reached.pop(number, None)

    def _others(self, number: int, place: float) -> list[float]:
        """The losses of all trials by `place`, ascending, and the trial's own among them."""
        return self._levels.ascending(self._level(place))

    def _level(self, place: float) -> int:
        return level_of(place / self._unit)

    def _is_best(self, number: int, place: float) -> bool:
        """Whether no other trial was better by then."""
        ascending = self._others(number, place)
        return not ascending or self._curves[number].best(place) <= ascending[0]

    def _is_best_of_all(self, number: int) -> bool:
        """Whether no other trial was ever better."""
        own = self._levels.loss(number, _ANYWHERE)
        return own is not None and own <= self._levels.ascending(_ANYWHERE)[0]

    def _told(self, loss: float) -> str:
        """A loss in terms of the metric."""
        if math.isinf(loss):
            return f"{self._metric.name}, without a value that counts,"
        return f"{self._metric.name} {self._value(loss):.6g}"

    def _value(self, loss: float) -> float:
        return loss if self._metric.goal is Goal.MINIMIZE else -loss
