"""Successive halving without waiting: at rungs ever further apart, only the best go on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tuner.early_stopping import Stopping
from tuner.engine.stopping.curves import Curve, Ladder
from tuner.engine.stopping.rule import Comparing
from tuner.study import Metric

_SHARES: dict[float, str] = {2: "half", 3: "third", 4: "quarter", 5: "fifth"}
_GOLDEN = (math.sqrt(5) - 1) / 2


class Asha(Comparing):
    """Asynchronous successive halving: at steps 2, 6, 18, ... only the best third goes on.

    A report belongs to the last rung at or before its step, so rungs that uneven steps leave out
    are left out, and a trial is judged once at each. It is compared with the trials that have
    been there by then: the first one goes on, and so does the best of them. No trial waits for
    others, so parallel workers always have something to do.

    Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020 (the variant that
    stops trials instead of promoting them).
    """

    ETA = 3.0

    def __init__(self, name: str, metric: Metric, stopping: Stopping) -> None:
        super().__init__(name, metric, stopping)
        self._eta = self.ETA if stopping.eta is None else stopping.eta
        self._rungs = Ladder()

    def _climb(self, number: int, curve: Curve, place: float) -> None:
        super()._climb(number, curve, place)
        rung = self._rung(number, place)
        if rung is not None and self._rungs.loss(number, rung) is None:
            self._rungs.put(number, rung, curve.best(place))

    def _forget(self, number: int) -> None:
        super()._forget(number)
        self._rungs.leave(number)

    def _why(self, number: int, curve: Curve, place: float) -> str | None:
        rung = self._rung(number, place)
        if rung is None or curve.first(self._start(*rung)) != place:
            return None
        ascending = self._rungs.ascending(rung)
        last_good = ascending[max(1, int(len(ascending) / self._eta)) - 1]
        own = curve.best(place)
        if own <= last_good and own < math.inf:
            return None
        share = _SHARES.get(self._eta, f"1/{self._eta:g}")
        told = f"{self._told(own)} is not among the best {share} of {len(ascending)} trials there"
        return told + self._where(*rung)

    def _rung(self, number: int, place: float) -> tuple[int, int] | None:
        """The bracket, and the rung of it that a report at `place` belongs to, from 0."""
        bracket = self._bracket(number)
        if place < self._start(bracket, 0):
            return None
        rung = int(math.log(place / self._start(bracket, 0), self._eta))
        # The logarithm may be off by a hair.
        if self._start(bracket, rung + 1) <= place:
            rung += 1
        elif self._start(bracket, rung) > place:
            rung -= 1
        return bracket, rung

    def _start(self, bracket: int, rung: int) -> float:
        # Rounded, so that a rung that should lie at a whole step does.
        return round(self._first * self._eta ** (bracket + rung), 9)

    def _bracket(self, number: int) -> int:
        return 0

    def _where(self, bracket: int, rung: int) -> str:
        return ""


class Hyperband(Asha):
    """Asynchronous successive halving in brackets, each of which judges later than the one before.

    It hedges against curves that say little early on: trials of the first bracket are judged from
    `first` on, those of the next from eta times that, and so on. The number of a trial says its
    bracket, in the shares that Hyperband gives them, and it is compared with trials of its own.

    Li et al., Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization, JMLR 2018;
    asynchronous as in Li et al., MLSys 2020.
    """

    BRACKETS = 3

    def __init__(self, name: str, metric: Metric, stopping: Stopping) -> None:
        super().__init__(name, metric, stopping)
        brackets = stopping.brackets or self.BRACKETS
        self._brackets = _shares(brackets, self._eta)

    def _bracket(self, number: int) -> int:
        # Spread by the golden ratio, so that any few numbers in a row are shared out rightly.
        chance = (number * _GOLDEN) % 1.0
        return next(i for i, bound in enumerate(self._brackets) if chance < bound)

    def _where(self, bracket: int, rung: int) -> str:
        return f" (bracket {bracket + 1} of {len(self._brackets)})"


def _shares(brackets: int, eta: float) -> Sequence[float]:
    """The shares of trials that start in each bracket, added up."""
    last = brackets - 1
    sizes = [(last + 1) / (last - i + 1) * eta ** (last - i) for i in range(brackets)]
    return [*(sum(sizes[: i + 1]) / sum(sizes) for i in range(last)), 1.0]
