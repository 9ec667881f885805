"""The rules by their names, and what of a study they go by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from tuner.early_stopping import Progress, Stopping
from tuner.engine.stopping.alone import NoProgress, Threshold
from tuner.engine.stopping.halving import Asha, Hyperband
from tuner.engine.stopping.quantile import Median, Percentile
from tuner.engine.stopping.rule import Comparing, NoStopping, Rule
from tuner.study import Measurement, Metric, Selection, StudySpec

#: The rules by their names in a study file.
RULES: Mapping[str, Callable[[str, Metric, Stopping], Rule]] = {
    "none": NoStopping,
    "asha": Asha,
    "hyperband": Hyperband,
    "median": Median,
    "percentile": Percentile,
    "no-progress": NoProgress,
    "threshold": Threshold,
}


def rule_of(spec: StudySpec) -> Rule:
    """The rule that stops the study's trials, new."""
    name = spec.early_stopping_in_use
    rule = RULES[name](name, spec.metric, spec.search.stopping)
    if isinstance(rule, Comparing):
        rule.counts_last = spec.selection is Selection.LAST
    return rule


def place_of(spec: StudySpec, measurement: Measurement) -> float:
    """How far a trial was by what the study's rule compares trials by: steps or seconds."""
    if spec.search.stopping.by is Progress.SECONDS:
        return measurement.elapsed.total_seconds()
    return float(measurement.step)


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
