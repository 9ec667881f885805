"""What a proposal depends on, as arrays read from trials."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tuner.engine.gp.cube import Array, Cube

# So many trials have to have run to their end before it is guessed how others would have ended.
_FEWEST_CURVES = 3


@dataclass(frozen=True, kw_only=True)
class Problem:
    """All that a proposal depends on; another process may compute it."""

    cube: Cube
    #: Where trials ended with a value, [trials, axes], in the order of their numbers.
    points: Array
    #: Their values, less is better, finite, [trials, objectives].
    losses: Array
    #: How far they were beyond each constraint, 0 or less within it, [trials, constraints].
    violations: Array
    #: Where trials are running, [running, axes].
    pending: Array
    #: Where trials failed, [failed, axes].
    failed: Array
    #: Randomness for this proposal alone.
    seed: tuple[int, ...]


def problem_of(
    cube: Cube,
    trials: Sequence[FrozenTrial],
    directions: Sequence[StudyDirection],
    seed: tuple[int, ...],
    *,
    pending: Sequence[Mapping[str, Any]] = (),
) -> Problem:
    """Reads trials of Optuna's kind, and the parameters of some that are about to run.

    A stopped trial counts with the value that it might have ended with; one that failed, or
    stopped before it reported anything, only as a place where nothing was found.
    """
    signs = np.array([-1.0 if d is StudyDirection.MAXIMIZE else 1.0 for d in directions])
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    curves = _Curves(complete, float(signs[0]))
    ended: list[FrozenTrial] = []
    losses: list[Array] = []
    lost: list[FrozenTrial] = []
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            ended.append(trial)
            losses.append(np.array(trial.values) * signs)
        elif trial.state == TrialState.PRUNED and _last(trial) is not None:
            ended.append(trial)
            losses.append(np.array([curves.end_of(trial)]))
        elif trial.state in (TrialState.FAIL, TrialState.PRUNED) and trial.params:
            lost.append(trial)
    names = sorted({name for trial in ended for name in trial.constraints})
    violations = [[trial.constraints.get(name, np.inf) for name in names] for trial in ended]
    running = [t for t in trials if t.state == TrialState.RUNNING and t.params]
    return Problem(
        cube=cube,
        points=cube.encode([trial.params for trial in ended]),
        losses=_finite(np.array(losses).reshape(len(ended), len(signs))),
        violations=np.array(violations).reshape(len(ended), len(names)),
        pending=cube.encode([*(trial.params for trial in running), *pending]),
        failed=cube.encode([trial.params for trial in lost]),
        seed=seed,
    )


class _Curves:
    """Guesses how stopped trials would have ended, by those that were not stopped.

    A value at a step is worth what the same quantile of complete trials had in the end, and
    beyond the worst of those as much more as it was worse at that step.
    """

    def __init__(self, complete: Sequence[FrozenTrial], sign: float) -> None:
        self._sign = sign
        self._known = [
            (sorted(t.intermediate_values), t.intermediate_values, sign * t.values[0])
            for t in complete
            if t.intermediate_values and t.values is not None
        ]
        self._at: dict[int, tuple[Array, Array]] = {}

    def end_of(self, trial: FrozenTrial) -> float:
        """The loss that the trial might have ended with."""
        step = max(trial.intermediate_values)
        loss = self._sign * trial.intermediate_values[step]
        if step not in self._at:
            self._at[step] = self._quantiles(step)
        then, ends = self._at[step]
        if len(then) < _FEWEST_CURVES or not np.isfinite(loss):
            return float(loss)
        return float(np.interp(loss, then, ends)) + max(0.0, float(loss - then[-1]))

    def _quantiles(self, step: int) -> tuple[Array, Array]:
        pairs = []
        for steps, values, end in self._known:
            index = bisect_right(steps, step)
            if index:
                pairs.append((self._sign * values[steps[index - 1]], end))
        table = np.array(pairs).reshape(len(pairs), 2)
        table = table[np.isfinite(table).all(1)]
        return np.sort(table[:, 0]), np.sort(table[:, 1])


def _last(trial: FrozenTrial) -> float | None:
    values = trial.intermediate_values
    last = values[max(values)] if values else None
    return None if last is None or np.isnan(last) else last


def _finite(losses: Array) -> Array:
    """The losses with infinite ones as good or bad as the best or worst of the others."""
    for column in losses.T:
        finite = column[np.isfinite(column)]
        low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
        np.clip(column, low, high, out=column)
    return losses
