"""The Pareto front: results that no other result betters in one metric without loss in another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from tuner.study import Goal, StudySpec, Trial, TrialState

_WITH_RESULT = (TrialState.SUCCEEDED, TrialState.PRUNED)


def front(values: NDArray[np.float64], maximize: Sequence[bool]) -> NDArray[np.intp]:
    """The points that no other point dominates, as ascending indices.

    A point dominates another if it is nowhere worse and somewhere better, so equal points stay
    together. One pass over the sorted points for two objectives; for more, one vectorised pass
    for each point of the front.

    Args:
        values: float64 [trials, objectives]; no NaN.
        maximize: For each objective whether larger is better.
    """
    losses = np.where(np.asarray(maximize, dtype=bool), -values, values)
    if not losses.size:
        return np.arange(len(losses), dtype=np.intp)
    # By the first objective, ties by the next: nothing is dominated by what comes later.
    order = np.lexsort(losses.T[::-1])
    ordered = losses[order]
    is_new = np.ones(len(ordered), dtype=bool)
    is_new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    rest = ordered[is_new, 1:]
    kept = _skyline_of_two(rest[:, 0]) if rest.shape[1] == 1 else _skyline(rest)
    group = np.cumsum(is_new) - 1
    return np.sort(order[kept[group]])


def _skyline_of_two(second: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Of distinct points by their first objective: those whose second is a new minimum."""
    kept = np.ones(len(second), dtype=bool)
    kept[1:] = second[1:] < np.minimum.accumulate(second)[:-1]
    return kept


def _skyline(rest: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Of distinct points in lexical order, given without their first objective."""
    kept = np.zeros(len(rest), dtype=bool)
    left = np.arange(len(rest))
    while left.size:
        # The first one left is on the front: whatever could dominate it came before.
        first = left[0]
        kept[first] = True
        left = left[(rest[left] < rest[first]).any(axis=1)]
    return kept


def optimal_numbers(spec: StudySpec, trials: Iterable[Trial]) -> list[int]:
    """The numbers of the trials on the front, ascending; with one metric, of those that tie best.

    A trial is considered if it ended with a result that is finite in every metric and keeps to
    the constraints; stopped ones have results too.
    """
    names = [metric.name for metric in spec.metrics]
    numbers: list[int] = []
    results: list[list[float]] = []
    for trial in trials:
        final = trial.final_measurement
        if trial.state not in _WITH_RESULT or final is None or not spec.within_constraints(final):
            continue
        result = [final.metrics.get(name, math.nan) for name in names]
        if all(map(math.isfinite, result)):
            numbers.append(trial.number)
            results.append(result)
    values = np.array(results, dtype=np.float64).reshape(len(results), len(names))
    maximize = [metric.goal is Goal.MAXIMIZE for metric in spec.metrics]
    return sorted(numbers[index] for index in front(values, maximize))
