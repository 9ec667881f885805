"""The early-stopping rules as pruners of Optuna's kind."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from optuna import Study
from optuna.pruners import BasePruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tuner import early_stopping
from tuner.early_stopping import Stopping
from tuner.engine.stopping.rule import Rule
from tuner.engine.stopping.rules import RULES
from tuner.study import Goal, Metric


@dataclass(slots=True)
class _Known:
    rule: Rule
    # The steps of each running trial whose values the rule has taken in.
    steps: dict[int, set[int]] = field(default_factory=dict)
    # Trials before this one have ended, and the rule knows all of them.
    ended: int = 0


class StoppingPruner(BasePruner):
    """A rule of ours in plain Optuna, by steps; for one process or several, and for threads.

    What it answers depends on what the study's storage holds alone.

        study = optuna.create_study(pruner=StoppingPruner("asha", first=1, eta=4))

    Args:
        rule: `asha`, `hyperband`, `median`, `percentile`, `no-progress`, `threshold` or `none`.
        parameters: Those of the rule, as `tuner.early_stopping.Stopping` names them.

    Raises:
        InvalidArgumentError: there is no such rule, or it does not take these parameters.
    """

    def __init__(self, rule: str = "asha", **parameters: Any) -> None:
        self._rule = rule
        self._parameters = parameters
        self._stopping = Stopping(**parameters)
        early_stopping.check(rule, self._stopping)
        self._lock = threading.Lock()
        self._known: WeakKeyDictionary[Study, _Known] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (self._rule, self._parameters)

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial should stop at the last step that it reported."""
        if not trial.intermediate_values:
            return False
        with self._lock:
            known = self._known.get(study)
            if known is None:
                known = self._known[study] = _Known(self._new(study))
            _take_in(known, study)
            return (
                known.rule.verdict(trial.number, float(max(trial.intermediate_values))) is not None
            )

    def _new(self, study: Study) -> Rule:
        maximizes = study.direction is StudyDirection.MAXIMIZE
        goal = Goal.MAXIMIZE if maximizes else Goal.MINIMIZE
        return RULES[self._rule](self._rule, Metric(name="value", goal=goal), self._stopping)


def _take_in(known: _Known, study: Study) -> None:
    trials = study.get_trials(deepcopy=False)
    for trial in trials[known.ended :]:
        if trial.state is TrialState.FAIL:
            # What came to nothing is no example.
            known.rule.restart(trial.number)
            continue
        values = trial.intermediate_values
        steps = known.steps.setdefault(trial.number, set())
        # By step, so that what several processes learn in another order is the same.
        for step in sorted(values.keys() - steps) if len(values) != len(steps) else ():
            known.rule.record(trial.number, float(step), values[step])
            steps.add(step)
        if trial.state is TrialState.COMPLETE:
            known.rule.complete(trial.number)
    while known.ended < len(trials) and trials[known.ended].state.is_finished():
        known.steps.pop(known.ended, None)
        known.ended += 1


def _made(rule: str, parameters: dict[str, Any]) -> StoppingPruner:
    return StoppingPruner(rule, **parameters)
