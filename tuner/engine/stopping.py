"""Early stopping: rules that say, from the curves of all trials, which are not worth going on.

A trial is judged by its best value so far, as it will be in the end. A value that is not a number
is worse than all others, and so is one measured together with a violated constraint.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

from tuner.study import Goal, Measurement, Metric, StudySpec

#: The first step at which a trial may be stopped.
FIRST_STEP = 2


class Curve:
    """The values that one attempt reported, by step in any order, and the best up to each."""

    __slots__ = ("_best", "_goal", "_steps", "_values")

    def __init__(self, goal: Goal) -> None:
        self._goal = goal
        self._steps: list[int] = []
        self._values: list[float] = []
        self._best: list[float] = []

    def add(self, step: int, value: float) -> None:
        """Records a value; a step reported again takes the new one."""
        if not self._steps or step > self._steps[-1]:
            # As it usually comes.
            best = self._best[-1] if self._best else math.nan
            self._steps.append(step)
            self._values.append(value)
            self._best.append(value if self._goal.better(value, best) else best)
            return
        at = bisect_right(self._steps, step)
        if at and self._steps[at - 1] == step:
            at -= 1
            self._values[at] = value
        else:
            self._steps.insert(at, step)
            self._values.insert(at, value)
        del self._best[at:]
        for later in self._values[at:]:
            last = self._best[-1] if self._best else math.nan
            self._best.append(later if self._goal.better(later, last) else last)

    def best(self, step: int) -> float | None:
        """The best value up to `step`, perhaps NaN; None unless reports lie at or around it."""
        at = bisect_right(self._steps, step)
        return self._best[at - 1] if at and self._steps[-1] >= step else None


class Rule(ABC):
    """When to stop a trial."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._curves: dict[int, Curve] = {}

    def record(self, number: int, step: int, value: float) -> None:
        """Takes note of what a trial measured."""
        curve = self._curves.get(number)
        if curve is None:
            curve = self._curves[number] = Curve(self._metric.goal)
        curve.add(step, value)

    def restart(self, number: int) -> None:
        """Forgets what a trial measured: another attempt starts over."""
        self._curves.pop(number, None)

    def _is_beaten(self, number: int, step: int) -> bool:
        """Whether another trial was better by the same step, uneven steps or not."""
        own = self._curves[number].best(step)
        return any(
            self._metric.goal.better(best, math.nan if own is None else own)
            for other, curve in self._curves.items()
            if other != number and (best := curve.best(step)) is not None
        )

    @abstractmethod
    def verdict(self, number: int, step: int) -> str | None:
        """Why the trial, which just reported `step`, should stop; None if it should not."""


class NoStopping(Rule):
    """Lets every trial finish."""

    def record(self, number: int, step: int, value: float) -> None:
        """Needs no note."""

    def verdict(self, number: int, step: int) -> str | None:
        """Never stops."""
        return None


@dataclass(slots=True)
class _Rung:
    # How bad each trial was when it reached the rung, and at which step it was seen there.
    badness: dict[int, float] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)
    ascending: list[float] = field(default_factory=list)


class Asha(Rule):
    """Asynchronous successive halving: at steps 2, 6, 18, ... only the best third goes on.

    A report belongs to the last rung at or before its step, so rungs that uneven steps leave out
    are left out, and a trial is judged once at each. It is compared with the trials that have
    been there by then; fewer than three are too few, and the best of them always goes on.

    Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020.
    """

    ETA = 3

    def __init__(self, metric: Metric) -> None:
        super().__init__(metric)
        self._rungs: dict[int, _Rung] = defaultdict(_Rung)

    def record(self, number: int, step: int, value: float) -> None:
        """Takes note, and enters the trial at the rung if it is new there."""
        super().record(number, step, value)
        if step < FIRST_STEP:
            return
        rung = self._rungs[self._level(step)]
        seen = rung.steps.get(number)
        if seen is None or step <= seen:
            self._leave(rung, number)
            badness = _badness(self._curves[number].best(step), self._metric.goal)
            rung.steps[number] = step
            rung.badness[number] = badness
            insort(rung.ascending, badness)

    def restart(self, number: int) -> None:
        """Takes the trial off every rung."""
        super().restart(number)
        for rung in self._rungs.values():
            self._leave(rung, number)

    def verdict(self, number: int, step: int) -> str | None:
        """Stops a trial that is not among the best third of those that reached its rung."""
        if step < FIRST_STEP:
            return None
        rung = self._rungs[self._level(step)]
        trials = len(rung.ascending)
        if rung.steps.get(number) != step or trials < self.ETA:
            return None
        own, last_good = rung.badness[number], rung.ascending[trials // self.ETA - 1]
        if (own <= last_good and own < math.inf) or not self._is_beaten(number, step):
            return None
        told = _told(self._metric, self._curves[number].best(step), step)
        return f"{told} is not in the best third of {trials} trials"

    def _level(self, step: int) -> int:
        level, next_rung = 0, FIRST_STEP * self.ETA
        while next_rung <= step:
            level, next_rung = level + 1, next_rung * self.ETA
        return level

    @staticmethod
    def _leave(rung: _Rung, number: int) -> None:
        if number in rung.steps:
            del rung.steps[number]
            rung.ascending.remove(rung.badness.pop(number))


class Median(Rule):
    """Stops a trial that is worse than the median of the trials that came as far.

    Golovin et al., Google Vizier, KDD 2017; compared is the best so far, with stopped trials too.
    """

    #: Fewer other trials are too few to judge by.
    AT_LEAST = 5

    def verdict(self, number: int, step: int) -> str | None:
        """Stops below the median of at least five others."""
        if step < FIRST_STEP or number not in self._curves:
            return None
        goal = self._metric.goal
        others = [
            _badness(best, goal)
            for other, curve in self._curves.items()
            if other != number and (best := curve.best(step)) is not None
        ]
        if len(others) < self.AT_LEAST:
            return None
        middle, best = median(others), self._curves[number].best(step)
        own = _badness(best, goal)
        if (own <= middle and own < math.inf) or not self._is_beaten(number, step):
            return None
        told = _told(self._metric, best, step)
        value = f"{middle if goal is Goal.MINIMIZE else -middle:.6g}"
        return f"{told} is worse than the median {value} of {len(others)} other trials"


#: The rules by their names in a study file.
RULES: Mapping[str, Callable[[Metric], Rule]] = {
    "none": NoStopping,
    "asha": Asha,
    "median": Median,
}


def judged(spec: StudySpec, measurement: Measurement) -> float | None:
    """What a rule goes by: the metric's value, NaN where a constraint is measurably violated.

    A constrained metric that is not measured on the way may still turn out well. None: the metric
    itself was not measured.
    """
    value = measurement.metrics.get(spec.metric.name)
    if value is None:
        return None
    for constraint in spec.constraints:
        measured = measurement.metrics.get(constraint.metric)
        if measured is not None and constraint.violation(measured) > 0:
            return math.nan
    return float(value)


def _badness(value: float | None, goal: Goal) -> float:
    # A trial that diverged is no example, even where infinity would be the better way.
    if value is None or not math.isfinite(value):
        return math.inf
    return value if goal is Goal.MINIMIZE else -value


def _told(metric: Metric, value: float | None, step: int) -> str:
    if value is None or math.isnan(value):
        return f"{metric.name}, without a value that counts by step {step},"
    return f"{metric.name} {value:.6g} by step {step}"
