"""Rules that judge a trial by its own values: whether they get better, and keep within bounds."""

from __future__ import annotations

import math

from tuner.early_stopping import Progress, Stopping
from tuner.engine.stopping.curves import Curve
from tuner.engine.stopping.rule import Comparing, Rule
from tuner.study import Metric


class NoProgress(Comparing):
    """Stops a trial that has not become better for a while, unless it is the best of all.

    Prechelt, Early Stopping - But When?, in Neural Networks: Tricks of the Trade, 1998 (its third
    class of criteria, with the patience of Bengio, Practical Recommendations, 2012).
    """

    PATIENCE = 10.0

    def __init__(self, name: str, metric: Metric, stopping: Stopping) -> None:
        super().__init__(name, metric, stopping)
        self._patience = self.PATIENCE if stopping.patience is None else stopping.patience
        self._min_change = stopping.min_change or 0.0
        # Where each trial last became better, and how good.
        self._better: dict[int, tuple[float, float]] = {}

    def _climb(self, number: int, curve: Curve, place: float) -> None:
        super()._climb(number, curve, place)
        best, known = curve.best(place), self._better.get(number)
        if known is None or best < known[1] - self._min_change:
            self._better[number] = (place, best)

    def _forget(self, number: int) -> None:
        super()._forget(number)
        self._better.pop(number, None)

    def _why(self, number: int, curve: Curve, place: float) -> str | None:
        since, loss = self._better[number]
        if place - since < self._patience:
            return None
        unit = "steps" if self._by is Progress.STEPS else "s"
        return f"{self._told(loss)} has not become better for {place - since:.6g} {unit}"

    def _is_best(self, number: int, place: float) -> bool:
        return self._is_best_of_all(number)


class Threshold(Rule):
    """Stops a trial whose last value lies beyond a bound, or is none: even the best.

    The bounds are absolute: what lies beyond is of no use, whatever the others do. As the
    `ThresholdPruner` of Optuna (Akiba et al., KDD 2019).
    """

    def __init__(self, name: str, metric: Metric, stopping: Stopping) -> None:
        super().__init__(name, metric, stopping)
        self._first = stopping.first or 0.0
        self._at_least = -math.inf if stopping.at_least is None else stopping.at_least
        self._at_most = math.inf if stopping.at_most is None else stopping.at_most
        self._last: dict[int, float] = {}

    def record(self, number: int, place: float, value: float) -> None:
        """Only the last value counts."""
        self._last[number] = value

    def restart(self, number: int) -> None:
        """Forgets the last value."""
        self._last.pop(number, None)

    def verdict(self, number: int, place: float) -> str | None:
        """Stops beyond the bounds, from `first` on."""
        value = self._last.get(number)
        if value is None or place < self._first or self._at_least <= value <= self._at_most:
            return None
        name = self._metric.name
        if math.isnan(value):
            why = f"{name} has no value that counts"
        elif value < self._at_least:
            why = f"{name} {value:.6g} is below {self._at_least:.6g}"
        else:
            why = f"{name} {value:.6g} is above {self._at_most:.6g}"
        return self._stopped(place, why)
