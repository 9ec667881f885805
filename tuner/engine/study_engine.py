"""The engine of one live study: proposes its trials and says which to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

import optuna

from tuner.engine import importance, points
from tuner.engine.earlier import Earlier
from tuner.engine.fit import ATTEMPTS, Fit, solve_here
from tuner.engine.grid import Grid
from tuner.engine.history import History
from tuner.engine.importance import Importance
from tuner.engine.policies import RandomPolicy, policy_of
from tuner.engine.stopping import judged, place_of, rule_of
from tuner.engine.translation import direction_of, value_of
from tuner.space import Value
from tuner.study import Measurement, StudySpec, Trial, TrialState

# What others are not to be measured by.
_WITHOUT_RESULT = frozenset({TrialState.FAILED, TrialState.INFEASIBLE})


class StudyEngine:
    """Proposes trials and decides early stopping; knows no clock, network or disk.

    What it answers depends on its arguments and the trials alone: built anew from them, it goes on
    as the old one would have. Not thread-safe: its owner guards it.

    Args:
        study_id: The study's id.
        spec: What is searched and how; accepted by `check_search`.
        trials: The history in number order, from 0 without gaps, with measurements. They may have
            been drawn from earlier versions of the space.
        earlier: Studies to start from, in the order that the spec names them, with their trials.
            They inform the model, and count for nothing else.
    """

    def __init__(
        self,
        study_id: str,
        spec: StudySpec,
        trials: Iterable[Trial] = (),
        earlier: Sequence[Earlier] = (),
    ) -> None:
        self._spec = spec
        self._history = History(study_id, spec, earlier)
        self._grid = Grid(spec.space, spec.search.seed)
        self._policy = policy_of(spec, self._grid, self._history)
        self._random = RandomPolicy(spec.space, spec.search.seed)
        self._rule = rule_of(spec)
        for trial in trials:
            self._take(trial)

    @property
    def algorithm_in_use(self) -> str:
        """What proposes trials at present and, with `auto`, why; for people."""
        return self._policy.in_use

    def suggest(self, number: int) -> Mapping[str, Value] | None:
        """Proposes the parameters of the next trial; None if every point has been tried.

        Points of a finite space are not repeated. Running trials count as pending. Where a model
        is fitted this may take long; `fit`, `accept` and `suggest_quickly` are the same in parts.

        Raises:
            ValueError: `number` is not that of the next trial.
        """
        fit = self.fit(number)
        return self.suggest_quickly(number) if fit is None else self.accept(fit.solve(solve_here))

    @property
    def fits(self) -> bool:
        """Whether `fit` ever gives something."""
        return self._policy.fits

    @property
    def takes_fit(self) -> bool:
        """Whether `fit` gives something now, unless every point has been tried."""
        return self._policy.takes_fit

    @property
    def fits_soon(self) -> bool:
        """Whether it does, or will after another result or two."""
        return self._policy.fits_soon

    def fit(self, number: int, pending: Sequence[Mapping[str, Value]] = ()) -> Fit | None:
        """The model to be fitted for the next trial; None if `suggest_quickly` is as good.

        It reads the study as it is now, and is solved apart from it.

        Args:
            number: The trial's; with `pending` points, that of the trial after theirs.
            pending: Points that are accepted, and whose trials are still to be added.

        Raises:
            ValueError: the number is another one.
        """
        self._check_number(number - len(pending))
        return None if self._is_exhausted(len(pending)) else self._policy.fit(number, pending)

    def accept(self, point: Mapping[str, Value]) -> Mapping[str, Value] | None:
        """The point that a fit found, or another one if that has been tried; None if all have."""
        tried = self._history.tried
        if points.key_of(point) not in tried:
            return point
        if self._grid.size is not None:
            return self._grid.first_untried(tried)
        # Its choices leave nothing to try, but others do.
        number = len(self._history)
        others = (self._random.propose(number, attempt) for attempt in range(1, 1 + ATTEMPTS))
        return next((each for each in others if points.key_of(each) not in tried), point)

    def suggest_quickly(self, number: int) -> Mapping[str, Value] | None:
        """Proposes as `suggest` does, without fitting a model: in a few milliseconds."""
        self._check_number(number)
        if self._is_exhausted():
            return None
        tried, point = self._history.tried, None
        for attempt in range(ATTEMPTS):
            point = self._policy.propose(number, attempt)
            if point is None or points.key_of(point) not in tried:
                return point
        return None if point is None else self.accept(point)

    def _check_number(self, number: int) -> None:
        if number != len(self._history):
            raise ValueError(f"the next trial is {len(self._history)}, but got {number=}.")

    def _is_exhausted(self, more: int = 0) -> bool:
        size = self._grid.size
        return size is not None and len(self._history.tried) + more >= size

    def supposing(self, trial: Trial) -> AbstractContextManager[None]:
        """Meanwhile a trial that was added has ended as it says; afterwards it runs as before.

        Only `fit` may be called meanwhile.
        """
        return self._history.supposing(trial)

    def add(self, trial: Trial) -> None:
        """Takes in a trial that was created; one with the number of a known trial replaces it."""
        self._rule.restart(trial.number)
        self._take(trial)

    def _take(self, trial: Trial) -> None:
        self._history.put(trial)
        if trial.state in _WITHOUT_RESULT:
            return
        for measurement in trial.measurements:
            value = judged(self._spec, measurement)
            if value is not None:
                self._rule.record(trial.number, place_of(self._spec, measurement), value)
        if trial.state is TrialState.SUCCEEDED:
            self._rule.complete(trial.number)

    def report(self, number: int, measurement: Measurement) -> str | None:
        """Takes in a measurement; returns why the trial should stop, or None to go on."""
        value = value_of(measurement, self._spec.metric)
        counted = judged(self._spec, measurement)
        if value is None or counted is None:
            return None
        self._history.report(number, measurement.step, value)
        place = place_of(self._spec, measurement)
        self._rule.record(number, place, counted)
        return self._rule.verdict(number, place)

    def restart(self, number: int) -> None:
        """A new attempt of a trial: it is pending, and its measurements start over."""
        self._history.restart(number)
        self._rule.restart(number)

    def finish(self, trial: Trial) -> None:
        """Takes in what became of a trial that was added."""
        self._history.end(trial)
        if trial.state in _WITHOUT_RESULT:
            self._rule.restart(trial.number)
        elif trial.state is TrialState.SUCCEEDED:
            self._rule.complete(trial.number)

    def importance(self) -> Importance:
        """How much each parameter and each group of them mattered to the first metric."""
        return self.importance_later()()

    def importance_later(self) -> Callable[[], Importance]:
        """What computes the importance as of now.

        It does not need the engine any more, and may take seconds where there are many trials.
        """
        space, direction = self._spec.space, direction_of(self._spec.metric.goal)
        trials = self._history.trials
        return lambda: importance.measure(space, direction, trials)

    def optuna_study(self) -> optuna.Study:
        """The study in Optuna's terms, to read: for its samplers, plots and importance.

        Trials of earlier studies are not in it.
        """
        return self._history.study()
