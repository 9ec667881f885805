"""Rules that stop what is worse than a quantile of the other trials at the same point."""

from __future__ import annotations

import math
from bisect import bisect_left

from tuner.early_stopping import Stopping
from tuner.engine.stopping.curves import Curve
from tuner.engine.stopping.rule import Comparing
from tuner.study import Metric


class Percentile(Comparing):
    """Stops a trial that is not among the best quarter of the others that came as far.

    Trials that were stopped are compared with, too, as far as they came. Judged is each report.
    """

    #: Fewer other trials are too few to judge by.
    TRIALS = 5
    PERCENTILE = 25.0

    def __init__(self, name: str, metric: Metric, stopping: Stopping) -> None:
        super().__init__(name, metric, stopping)
        self._trials = stopping.trials or self.TRIALS
        self._quantile = (stopping.percentile or self.PERCENTILE) / 100

    def _why(self, number: int, curve: Curve, place: float) -> str | None:
        ascending, own = self._others(number, place), curve.best(place)
        others = len(ascending) - 1
        if others < self._trials:
            return None
        # The list has the trial's own entry, too: it is passed over.
        entered = self._levels.loss(number, self._level(place))
        mine = bisect_left(ascending, math.inf if entered is None else entered)
        at = self._quantile * (others - 1)
        below, above = (ascending[i + (i >= mine)] for i in (math.floor(at), math.ceil(at)))
        bound = below if below == above else below + (above - below) * (at % 1)
        if own <= bound and own < math.inf:
            return None
        value = "none" if math.isinf(bound) else f"{self._value(bound):.6g}"
        return f"{self._told(own)} is worse than {self._named()} of {others} other trials, {value}"

    def _named(self) -> str:
        return f"the best {100 * self._quantile:g} %"


class Median(Percentile):
    """Stops a trial that is worse than the median of the others that came as far.

    Golovin et al., Google Vizier, KDD 2017; compared is the best so far, with stopped trials too.
    """

    PERCENTILE = 50.0

    def _named(self) -> str:
        return "the median"
