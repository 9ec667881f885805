"""Trials in Optuna's terms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from tuner.engine.encoding import Encoding
from tuner.space import Value
from tuner.study import Goal, Measurement, Metric, StudySpec, Trial, TrialState

_Optuna = optuna.trial.TrialState

# Where Optuna looks for how far a trial is beyond each constraint.
_CONSTRAINT = "constraints:"
# Optuna adds violations up, and sorts by the sum: one that was not measured comes last.
_LARGEST_VIOLATION = 1e100

#: Stands for every empty mapping of a trial: a study may have a hundred thousand of them.
NOTHING: dict[Any, Any] = {}


class Translation:
    """Writes trials of one study as Optuna's, always by the present version of the space.

    So samplers see one range for each parameter. With several metrics a trial has no values on
    the way and is not stopped early: Optuna allows neither there.
    """

    def __init__(self, spec: StudySpec) -> None:
        self._spec = spec
        self._encoding = Encoding(spec.space)
        # By the parameters that are active: trials share what they have in common.
        self._distributions: dict[tuple[str, ...], dict[str, BaseDistribution]] = {}

    def frozen(
        self,
        number: int,
        trial: Trial,
        point: Mapping[str, Value],
        values_by_step: dict[int, float],
    ) -> FrozenTrial:
        """The trial under a number of Optuna's.

        Args:
            number: Its number there.
            trial: What became of it.
            point: Its parameters as the present space reads them.
            values_by_step: What it reported; the trial keeps this very dict.
        """
        params, distributions = self._encoding.encode(point), self._shared(tuple(point))
        return self._frozen(number, trial, params, distributions, values_by_step)

    def ended(
        self, known: FrozenTrial, trial: Trial, values_by_step: dict[int, float]
    ) -> FrozenTrial:
        """What became of a trial with the parameters that it had.

        Args:
            known: The trial as it was.
            trial: What became of it.
            values_by_step: What it reported; empty if that is known.
        """
        values = values_by_step or known.intermediate_values
        return self._frozen(known.number, trial, known.params, known.distributions, values)

    def _frozen(
        self,
        number: int,
        trial: Trial,
        params: dict[str, Any],
        distributions: dict[str, BaseDistribution],
        values_by_step: dict[int, float],
    ) -> FrozenTrial:
        state, values = self._outcome(trial, values_by_step)
        if state is _Optuna.PRUNED and values and not values_by_step and trial.final_measurement:
            values_by_step = {trial.final_measurement.step: values[0]}
        ended = trial.state.is_finished
        return FrozenTrial(
            number=number,
            trial_id=number,
            state=state,
            value=None,
            values=values,
            datetime_start=_naive(trial.start_time or trial.create_time),
            datetime_complete=_naive(trial.end_time or trial.create_time) if ended else None,
            params=params,
            distributions=distributions,
            user_attrs=NOTHING,
            system_attrs=self._violations(trial) if values else NOTHING,
            intermediate_values=values_by_step or NOTHING,
        )

    def _shared(self, names: tuple[str, ...]) -> dict[str, BaseDistribution]:
        known = self._distributions.get(names)
        if known is None:
            known = {name: self._encoding.distributions[name] for name in names}
            self._distributions[names] = known
        return known

    def _violations(self, trial: Trial) -> dict[str, Any]:
        if not self._spec.constraints:
            return NOTHING
        metrics = {} if trial.final_measurement is None else trial.final_measurement.metrics
        found: dict[str, float] = {}
        for constraint in self._spec.constraints:
            violation = constraint.violation(metrics.get(constraint.metric))
            key = _CONSTRAINT + constraint.metric
            # Of two bounds of one metric at most one is violated.
            found[key] = max(min(violation, _LARGEST_VIOLATION), found.get(key, -math.inf))
        return found

    def _outcome(
        self, trial: Trial, values_by_step: Mapping[int, float]
    ) -> tuple[optuna.trial.TrialState, list[float] | None]:
        if not trial.state.is_finished:
            return _Optuna.RUNNING, None
        if trial.state not in (TrialState.SUCCEEDED, TrialState.PRUNED):
            return _Optuna.FAIL, None
        final = _finite(trial.final_measurement, self._spec.metrics)
        if trial.state is TrialState.PRUNED and len(self._spec.metrics) == 1:
            last = [values_by_step[max(values_by_step)]] if values_by_step else final
            return _Optuna.PRUNED, last if last and math.isfinite(last[0]) else None
        return (_Optuna.FAIL, None) if final is None else (_Optuna.COMPLETE, final)


def direction_of(goal: Goal) -> StudyDirection:
    """The goal in Optuna's terms."""
    return StudyDirection.MAXIMIZE if goal is Goal.MAXIMIZE else StudyDirection.MINIMIZE


def value_of(measurement: Measurement | None, metric: Metric) -> float | None:
    """The metric's value, perhaps NaN; None if it was not measured."""
    value = None if measurement is None else measurement.metrics.get(metric.name)
    return None if value is None else float(value)


def values_by_step(trial: Trial, metric: Metric) -> dict[int, float]:
    """The metric's values that the trial reported."""
    return {
        measurement.step: value
        for measurement in trial.measurements
        if (value := value_of(measurement, metric)) is not None
    }


def is_informative(trial: FrozenTrial) -> bool:
    """Whether a model learns from the trial: it ended with a value, or was stopped with one."""
    if trial.state != _Optuna.PRUNED or not trial.intermediate_values:
        return trial.state == _Optuna.COMPLETE
    return not math.isnan(trial.intermediate_values[max(trial.intermediate_values)])


def _finite(measurement: Measurement | None, metrics: tuple[Metric, ...]) -> list[float] | None:
    """The value of each metric; None unless all were measured and are finite."""
    found = list[float]()
    for metric in metrics:
        value = value_of(measurement, metric)
        if value is None or not math.isfinite(value):
            return None
        found.append(value)
    return found


def _naive(moment: datetime) -> datetime:
    # Optuna's own times are local ones without a zone, and the two kinds do not compare.
    return datetime.fromtimestamp(moment.timestamp())
