"""What a study has seen so far: its trials in Optuna's terms, and the points it tried."""

from __future__ import annotations

import copy
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import optuna
from optuna.pruners import NopPruner
from optuna.trial import FrozenTrial, TrialState

from tuner.engine import earlier as warm
from tuner.engine import points
from tuner.engine.mirror import Mirror, WarmMirror
from tuner.engine.translation import (
    NOTHING,
    Translation,
    direction_of,
    is_informative,
    values_by_step,
)
from tuner.study import StudySpec, Trial


class History:
    """The trials of one study by number, from 0 without gaps; earlier ones inform samplers."""

    def __init__(self, name: str, spec: StudySpec, earlier: Sequence[warm.Earlier] = ()) -> None:
        self._name = name
        self._space = spec.space
        self._metric = spec.metric if len(spec.metrics) == 1 else None
        self._translation = Translation(spec)
        #: What samplers know of earlier studies.
        self.warm_start = warm.read(spec, self._translation, earlier)
        self._mirror = Mirror()
        self.directions = [direction_of(metric.goal) for metric in spec.metrics]
        self._study_id = self._mirror.create_new_study(self.directions, name)
        self._informed = WarmMirror(self._mirror, self.warm_start.trials)
        #: The points of trials in any state, as far as they lie in the space.
        self.tried: set[points.Key] = set()
        #: The number of each trial that came or changed, as often as it did.
        self.changes = array("q")
        self._informative = 0

    def __len__(self) -> int:
        return self._mirror.get_n_trials(self._study_id)

    @property
    def informative(self) -> int:
        """How many trials ended with a value, stopped and earlier ones included."""
        return self._informative + len(self.warm_start.trials)

    @property
    def trials(self) -> list[FrozenTrial]:
        """The study's own trials in Optuna's terms; not to be changed."""
        return self._mirror.get_all_trials(self._study_id, deepcopy=False)

    @property
    def known(self) -> list[FrozenTrial]:
        """What models learn from: the trials of earlier studies, then the study's own."""
        return [*self.warm_start.trials, *self.trials]

    def trial(self, number: int) -> FrozenTrial:
        """One of the study's own trials in Optuna's terms; not to be changed."""
        return self._mirror.get_trial(number)

    def study(self) -> optuna.Study:
        """The study's own trials in Optuna's terms, for its samplers, plots and importance."""
        return optuna.Study(self._name, self._mirror, pruner=NopPruner())

    def put(self, trial: Trial) -> None:
        """Takes in a trial, new or changed.

        Raises:
            ValueError: it is neither the next trial nor one already known.
        """
        trials = len(self)
        if trial.number > trials:
            raise ValueError(f"trial {trial.number} came before trial {trials}.")
        known = self.trial(trial.number) if trial.number < trials else None
        values = {} if self._metric is None else values_by_step(trial, self._metric)
        if not values and known is not None:
            values = known.intermediate_values
        projection = points.project(self._space, trial.parameters)
        if projection.complete:
            self.tried.add(points.key_of(projection.values))
        new = self._translation.frozen(trial.number, trial, projection.values, values)
        self._replace(known, new)

    def end(self, trial: Trial) -> None:
        """Takes in what became of a trial that is known, with the same parameters."""
        known = self.trial(trial.number)
        values = {} if self._metric is None else values_by_step(trial, self._metric)
        self._replace(known, self._translation.ended(known, trial, values))

    @contextmanager
    def supposing(self, trial: Trial) -> Iterator[None]:
        """Meanwhile a known trial has ended as it says; afterwards it is as it was."""
        known, changes = self.trial(trial.number), len(self.changes)
        self.end(trial)
        try:
            yield
        finally:
            self._replace(self.trial(trial.number), known)
            del self.changes[changes:]

    def report(self, number: int, step: int, value: float) -> None:
        """Takes in a value at a step; ignored with several metrics."""
        if self._metric is None:
            return
        trial = self.trial(number)
        before = is_informative(trial)
        if trial.intermediate_values is NOTHING:
            trial.intermediate_values = {}
        # In place, or else the price of a report would grow with the number of them.
        trial.intermediate_values[step] = value
        self._informative += is_informative(trial) - before

    def restart(self, number: int) -> None:
        """Forgets the values of a trial, which is pending again."""
        old = self.trial(number)
        new = copy.copy(old)
        new.state, new.values, new.datetime_complete = TrialState.RUNNING, None, None
        new.intermediate_values, new.system_attrs = NOTHING, NOTHING
        self._replace(old, new)

    def _replace(self, old: FrozenTrial | None, new: FrozenTrial) -> None:
        self._informative += is_informative(new) - (old is not None and is_informative(old))
        self._mirror.put(self._study_id, new)
        self.changes.append(new.number)
