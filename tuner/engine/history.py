"""What a study has seen so far: its trials in Optuna's terms, and the points it tried."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

import optuna
from optuna.pruners import NopPruner
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from tuner.engine import points
from tuner.engine.encoding import Encoding
from tuner.engine.mirror import Mirror
from tuner.space import Value
from tuner.study import Goal, Measurement, Metric, StudySpec, Trial, TrialState

_Optuna = optuna.trial.TrialState


class History:
    """The trials of one study, by number from 0 without gaps."""

    def __init__(self, name: str, spec: StudySpec) -> None:
        self._name = name
        self._space = spec.space
        self._metric = spec.metric
        self._encoding = Encoding(spec.space)
        self._mirror = Mirror()
        self._study_id = self._mirror.create_new_study([direction_of(spec.metric.goal)], name)
        #: The points of trials in any state, as far as they lie in the space.
        self.tried: set[points.Key] = set()
        #: How many trials ended with a value, stopped ones included.
        self.informative = 0

    def __len__(self) -> int:
        return self._mirror.get_n_trials(self._study_id)

    @property
    def trials(self) -> list[FrozenTrial]:
        """The trials in Optuna's terms; not to be changed."""
        return self._mirror.get_all_trials(self._study_id, deepcopy=False)

    def study(self, sampler: BaseSampler | None = None) -> optuna.Study:
        """The study in Optuna's terms, for its samplers, plots and importance."""
        return optuna.Study(self._name, self._mirror, sampler, NopPruner())

    @contextmanager
    def draft(self, sampler: BaseSampler) -> Iterator[optuna.Trial]:
        """A next trial to draw parameters through; forgotten at the end."""
        study = self.study(sampler)
        trial_id = self._mirror.create_new_trial(self._study_id)
        try:
            yield optuna.Trial(study, trial_id)
        finally:
            self._mirror.drop_last(self._study_id)

    def put(self, trial: Trial) -> None:
        """Takes in a trial, new or changed.

        Raises:
            ValueError: it is neither the next trial nor one already known.
        """
        if trial.number > len(self):
            raise ValueError(f"trial {trial.number} came before trial {len(self)}.")
        known = self._mirror.get_trial(trial.number) if trial.number < len(self) else None
        projection = points.project(self._space, trial.parameters)
        if projection.complete:
            self.tried.add(points.key_of(projection.values))
        self._replace(known, self._mirrored(trial, projection.values, known))

    def report(self, number: int, step: int, value: float) -> None:
        """Takes in a value at a step."""
        old = self._mirror.get_trial(number)
        new = copy.copy(old)
        new.intermediate_values = {**old.intermediate_values, step: value}
        self._replace(old, new)

    def restart(self, number: int) -> None:
        """Forgets the values of a trial, which is pending again."""
        old = self._mirror.get_trial(number)
        new = copy.copy(old)
        new.intermediate_values = {}
        new.state, new.values, new.datetime_complete = _Optuna.RUNNING, None, None
        self._replace(old, new)

    def _replace(self, old: FrozenTrial | None, new: FrozenTrial) -> None:
        self.informative += _is_informative(new) - (old is not None and _is_informative(old))
        self._mirror.put(self._study_id, new)

    def _mirrored(
        self, trial: Trial, point: Mapping[str, Value], known: FrozenTrial | None
    ) -> FrozenTrial:
        # Always by the present space, so that samplers see one range for each parameter.
        values = values_by_step(trial, self._metric)
        if not values and known is not None:
            values = known.intermediate_values
        state, value = _outcome(trial, self._metric, values)
        ended = trial.state.is_finished
        return FrozenTrial(
            number=trial.number,
            trial_id=trial.number,
            state=state,
            value=value,
            datetime_start=_naive(trial.start_time or trial.create_time),
            datetime_complete=_naive(trial.end_time or trial.create_time) if ended else None,
            params=self._encoding.encode(point),
            distributions={name: self._encoding.distributions[name] for name in point},
            user_attrs={},
            system_attrs={},
            intermediate_values=values,
        )


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


def _outcome(
    trial: Trial, metric: Metric, values: Mapping[int, float]
) -> tuple[optuna.trial.TrialState, float | None]:
    final = value_of(trial.final_measurement, metric)
    match trial.state:
        case TrialState.QUEUED | TrialState.RUNNING:
            return _Optuna.RUNNING, None
        case TrialState.SUCCEEDED if final is not None and math.isfinite(final):
            return _Optuna.COMPLETE, final
        case TrialState.PRUNED:
            last = values[max(values)] if values else final
            return _Optuna.PRUNED, None if last is None or not math.isfinite(last) else last
        case _:
            return _Optuna.FAIL, None


def _is_informative(trial: FrozenTrial) -> bool:
    return trial.state == _Optuna.COMPLETE or (
        trial.state == _Optuna.PRUNED and bool(trial.intermediate_values)
    )


def _naive(moment: datetime) -> datetime:
    # Optuna's own times are local ones without a zone, and the two kinds do not compare.
    return moment.astimezone().replace(tzinfo=None)
