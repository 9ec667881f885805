"""What a proposal depends on, as arrays read from trials."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tuner.engine.gp.cube import Array, Cube

# What may yet end otherwise, or might have.
_UNDECIDED = (TrialState.PRUNED, TrialState.RUNNING)
# Where each trial was stopped at another step, each is compared with all curves anew.
_MOST_STOPPED, _MOST_CURVES = 500, 200
# A posterior takes at most so many points.
_MOST_KNOWN = 400
# Of failed trials the latest are enough to keep away from.
_MOST_FAILED = 100


@dataclass(frozen=True, kw_only=True)
class Problem:
    """All that a proposal depends on; another process may compute it."""

    cube: Cube
    #: Where trials have a value, [trials, axes], in the order of their numbers.
    points: Array
    #: Their values, less is better, finite, [trials, objectives].
    losses: Array
    #: How far each of them came, [trials]: 1 at its end, where its value is no guess.
    progress: Array
    #: How far they were beyond each constraint, 0 or less within it, [trials, constraints].
    violations: Array
    #: Where trials are running that have no value yet, [running, axes].
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
    coming: Sequence[Mapping[str, Any]] = (),
) -> Problem:
    """Reads trials of Optuna's kind, and the parameters of some that are about to run.

    A trial that was stopped, or is running, counts with the value that it might end with, and as
    one that came only so far; a failed one, or one stopped before it reported anything, only as a
    place where nothing was found. What running trials measure of constraints is not known yet, so
    with constraints they are pending. Of very many trials only some are read.
    """
    signs = np.array([-1.0 if d is StudyDirection.MAXIMIZE else 1.0 for d in directions])
    names = sorted({name for trial in trials for name in trial.constraints})
    trials = _without_old_stops(trials)
    curves = _Curves(trials, float(signs[0]))
    seen: list[FrozenTrial] = []
    losses: list[Array] = []
    pending: list[FrozenTrial] = []
    lost: list[FrozenTrial] = []
    for trial in trials:
        partial = trial.state == TrialState.PRUNED or not names
        if trial.state == TrialState.COMPLETE:
            seen.append(trial)
            losses.append(np.array(trial.values) * signs)
        elif trial.state in _UNDECIDED and partial and _last(trial) is not None:
            seen.append(trial)
            losses.append(np.array([curves.end_of(trial)]))
        elif trial.state == TrialState.RUNNING and trial.params:
            pending.append(trial)
        elif trial.state in (TrialState.FAIL, TrialState.PRUNED) and trial.params:
            lost.append(trial)
    known = _finite(np.array(losses).reshape(len(seen), len(signs)))
    ranks = np.argsort(np.argsort(known, axis=0, kind="stable"), axis=0).min(1)
    part = subset(ranks.astype(float), _MOST_KNOWN)
    seen = [seen[index] for index in part]
    violations = [[trial.constraints.get(name, np.inf) for name in names] for trial in seen]
    return Problem(
        cube=cube,
        points=cube.encode([trial.params for trial in seen]),
        losses=known[part],
        progress=np.array([curves.progress_of(trial) for trial in seen]),
        violations=np.array(violations).reshape(len(seen), len(names)),
        pending=cube.encode([*(trial.params for trial in pending), *coming]),
        failed=cube.encode([trial.params for trial in lost[-_MOST_FAILED:]]),
        seed=seed,
    )


def subset(losses: Array, most: int) -> npt.NDArray[np.intp]:
    """The indices of at most so many losses: one half are the best, the other evenly the rest."""
    order = np.argsort(losses, kind="stable")
    if len(order) <= most:
        return np.sort(order)
    best, rest = order[: most // 2], np.sort(order[most // 2 :])
    picked = rest[np.linspace(0, len(rest) - 1, most - len(best)).astype(np.intp)]
    return np.sort(np.concatenate([best, picked]))


def _without_old_stops(trials: Sequence[FrozenTrial]) -> Sequence[FrozenTrial]:
    """The trials without all but the latest of those that were stopped early."""
    stopped = [place for place, trial in enumerate(trials) if trial.state == TrialState.PRUNED]
    dropped = set(stopped[:-_MOST_STOPPED])
    return [t for place, t in enumerate(trials) if place not in dropped] if dropped else trials


class _Curves:
    """Guesses how trials will end, or would have ended, by those that did.

    A value at a step is worth what the same quantile of complete trials had in the end, and
    beyond the worst of those as much more as it was worse at that step. So a trial that was
    stopped early is compared with the others as they were then, not as they ended. While none is
    complete, the one that came furthest stands for them.
    """

    def __init__(self, trials: Sequence[FrozenTrial], sign: float) -> None:
        self._sign = sign
        reported = [trial for trial in trials if trial.intermediate_values]
        complete = [trial for trial in reported if trial.state == TrialState.COMPLETE]
        if not complete:
            furthest = [trial for trial in reported if _last(trial) is not None]
            complete = sorted(furthest, key=lambda t: -max(t.intermediate_values))[:1]
        complete = complete[:: math.ceil(len(complete) / _MOST_CURVES) or 1]
        self._known = [
            (sorted(trial.intermediate_values), trial.intermediate_values, sign * _end(trial))
            for trial in complete
        ]
        self._last_step = max((steps[-1] for steps, _, _ in self._known), default=0)
        self._at: dict[int, tuple[Array, Array]] = {}

    def end_of(self, trial: FrozenTrial) -> float:
        """The loss that the trial might end with."""
        step = max(trial.intermediate_values)
        loss = self._sign * trial.intermediate_values[step]
        if step not in self._at:
            self._at[step] = self._quantiles(step)
        then, ends = self._at[step]
        if not len(then) or not np.isfinite(loss):
            return float(loss)
        return float(np.interp(loss, then, ends)) + max(0.0, float(loss - then[-1]))

    def progress_of(self, trial: FrozenTrial) -> float:
        """How far the trial came: 1 if to its end, or else less, by the logarithm of its step.

        So the first tenth of the way counts as much as the rest.
        """
        if trial.state == TrialState.COMPLETE:
            return 1.0
        step = max(trial.intermediate_values)
        return float(np.log1p(step) / np.log1p(max(self._last_step, 2 * step, 1)))

    def _quantiles(self, step: int) -> tuple[Array, Array]:
        pairs = []
        for steps, values, end in self._known:
            index = bisect_right(steps, step)
            if index:
                pairs.append((self._sign * values[steps[index - 1]], end))
        table = np.array(pairs).reshape(len(pairs), 2)
        table = table[np.isfinite(table).all(1)]
        return np.sort(table[:, 0]), np.sort(table[:, 1])


def _end(trial: FrozenTrial) -> float:
    """The value that a trial has so far."""
    values = trial.intermediate_values
    return float(values[max(values)] if trial.values is None else trial.values[0])


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
