"""Warm start: finished trials of earlier studies, as the model of a new one reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from tuner.engine import points
from tuner.engine.translation import Translation, is_informative, values_by_step
from tuner.space import Value
from tuner.study import StudySpec, Trial, TrialState

#: An earlier study with its trials.
Earlier = tuple[StudySpec, Sequence[Trial]]

_WITH_RESULT = (TrialState.SUCCEEDED, TrialState.PRUNED)


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStart:
    """What the model knows before the study's first trial."""

    #: With negative numbers, the oldest first, so that a study's own trials keep theirs.
    trials: tuple[FrozenTrial, ...] = ()
    #: The point of the best of them by the first metric, within the constraints.
    best: Mapping[str, Value] | None = None
    #: How many results were left out because the study cannot read them.
    left_out: int = 0

    @property
    def summary(self) -> str:
        """How many results were used and left out, for people; empty if there were none."""
        used = f"{len(self.trials)} earlier results"
        if self.left_out:
            return f"{used}, {self.left_out} left out"
        return used if self.trials else ""


def read(spec: StudySpec, translation: Translation, earlier: Sequence[Earlier]) -> WarmStart:
    """Reads the results of earlier studies as the study of `spec` would have got them.

    Parameters and settings are matched by name, and the study's defaults fill in. Values count
    as they are, so a study counts only if it sought the same metrics with the same goals. Left
    out is a result whose point does not lie in the space, that was tuned away from what is fixed
    now, or that lacks a metric, optimized or constrained.
    """
    results = [
        (old, trial)
        for old, trials in earlier
        for trial in sorted(trials, key=lambda trial: trial.number)
        if trial.state in _WITH_RESULT
    ]
    read_as = [(trial, _point(spec, old, trial)) for old, trial in results]
    usable = [(trial, point) for trial, point in read_as if point is not None]
    frozen = [
        translation.frozen(
            index - len(usable),
            trial,
            point,
            values_by_step(trial, spec.metric) if len(spec.metrics) == 1 else {},
        )
        for index, (trial, point) in enumerate(usable)
    ]
    kept = tuple(trial for trial in frozen if is_informative(trial))
    return WarmStart(trials=kept, best=_best(spec, usable), left_out=len(results) - len(kept))


def _point(spec: StudySpec, old: StudySpec, trial: Trial) -> Mapping[str, Value] | None:
    """The trial's point in the space of `spec`; None if it does not count."""
    if not set(spec.metrics) <= set(old.metrics):
        return None
    measured = {} if trial.final_measurement is None else trial.final_measurement.metrics
    if any(name not in measured for name in spec.metric_names):
        return None
    fixed = dict(_settings(spec))
    if any(name in fixed and fixed[name] != value for name, value in trial.parameters.items()):
        return None
    projection = points.project(spec.space, {**dict(_settings(old)), **trial.parameters})
    return projection.values if projection.complete else None


def _settings(spec: StudySpec) -> Iterator[tuple[str, Value]]:
    """What the study fixes, by the names that it would have as parameters."""
    yield from spec.settings.items()
    for feature in spec.features:
        for name, value in feature.settings.items():
            yield f"{feature.name}.{name}", value


def _best(
    spec: StudySpec, usable: Sequence[tuple[Trial, Mapping[str, Value]]]
) -> Mapping[str, Value] | None:
    best: Mapping[str, Value] | None = None
    best_score: float | None = None
    for trial, point in usable:
        score = spec.score(trial.final_measurement)
        if score is not None and (best_score is None or score > best_score):
            best, best_score = point, score
    return best
