"""How much each parameter, and each group of them, mattered."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tuner.engine.mirror import Mirror
from tuner.space import Space

#: With fewer trials nothing can be said.
AT_LEAST = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """Shares that sum to 1, or empty while too few trials have finished."""

    #: By parameter, the largest first; parameters that no trial had are left out.
    parameters: Mapping[str, float] = field(default_factory=dict)
    #: By group: `model`, `preprocessing`, `training`.
    groups: Mapping[str, float] = field(default_factory=dict)
    #: The finished trials with a value.
    trials: int = 0


def measure(space: Space, direction: StudyDirection, trials: Iterable[FrozenTrial]) -> Importance:
    """Compares the best trials with all by PED-ANOVA, conditional parameters included.

    What counts is the first metric, with the `direction` given. Stopped trials count with the
    value they had: leaving them out would leave the bad ones out. At least five trials are among
    the best, or half of them.

    Watanabe et al., PED-ANOVA, IJCAI 2023.
    """
    finished = [
        _completed(trial, trial.values[0])
        for trial in trials
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        and trial.values
        and math.isfinite(trial.values[0])
    ]
    if len(finished) < AT_LEAST or not any(trial.params for trial in finished):
        return Importance(trials=len(finished))
    study = _study_of(direction, finished)
    # Where scikit-learn is installed, this imports it: more than a second of a server's start.
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    evaluator = PedAnovaImportanceEvaluator(target_quantile=min(0.5, max(0.1, 5 / len(finished))))
    with warnings.catch_warnings():
        # It warns of every conditional parameter that few trials had.
        warnings.simplefilter("ignore")
        shares = get_param_importances(study, evaluator=evaluator)
    return Importance(
        parameters=dict(sorted(shares.items(), key=lambda item: (-item[1], item[0]))),
        groups=_by_group(space, shares),
        trials=len(finished),
    )


def _by_group(space: Space, shares: Mapping[str, float]) -> dict[str, float]:
    groups: dict[str, float] = {}
    for parameter in space.walk():
        if parameter.name in shares:
            name = parameter.group.value
            groups[name] = groups.get(name, 0.0) + shares[parameter.name]
    return groups


def _completed(trial: FrozenTrial, value: float) -> FrozenTrial:
    completed = copy.copy(trial)
    completed.state, completed.values = TrialState.COMPLETE, [value]
    return completed


def _study_of(direction: StudyDirection, trials: list[FrozenTrial]) -> optuna.Study:
    mirror = Mirror()
    study_id = mirror.create_new_study([direction], "importance")
    for number, trial in enumerate(trials):
        trial.number = number
        mirror.put(study_id, trial)
    return optuna.Study("importance", mirror)
