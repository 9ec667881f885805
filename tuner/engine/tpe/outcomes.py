"""What became of a study's trials, and which of them are the good ones."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna._hypervolume.hssp import _solve_hssp
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tuner.engine import pareto
from tuner.engine.tpe.growing import Growing

_MOST_GOOD = 25
# Choosing by hypervolume from more at once than this takes much longer than it is worth.
_MOST_COMPARED = 100
# By class, then within it, then by number: those with a result, stopped ones, infeasible ones.
_Rank = tuple[int, float, float, int]


class Standing(IntEnum):
    """What a trial counts for."""

    #: Nothing: it failed, or has not started.
    NONE = 0
    #: A bad one, as long as it runs: so other trials stay away from it (a constant liar).
    RUNNING = 1
    #: Its result.
    ENDED = 2


_STANDINGS = {
    TrialState.RUNNING: Standing.RUNNING,
    TrialState.COMPLETE: Standing.ENDED,
    TrialState.PRUNED: Standing.ENDED,
}


class Outcomes:
    """The trials of a study by row, which is their order by number.

    A tenth is good, as in Optuna's `TPESampler`: first of the trials that ended with a result and
    within the constraints, by value; then of the stopped ones, those that came further first; then
    of those beyond the constraints, by how far. With one objective at most 25 are good. With
    several the good ones are the first fronts, and of the front that is too large, those that
    add most hypervolume; where that front has more than 100, it is chosen from in parts.

    Ozaki et al., Multiobjective Tree-Structured Parzen Estimator, JAIR 2022; Watanabe and Hutter,
    c-TPE, IJCAI 2023.
    """

    def __init__(self, directions: Sequence[StudyDirection]) -> None:
        self._signs = [-1.0 if d is StudyDirection.MAXIMIZE else 1.0 for d in directions]
        #: By row, what parameters the trial has, as Optuna gives them.
        self.parameters: list[Mapping[str, Any]] = []
        #: Rows whose parameters changed after they came, each time again.
        self.changed: list[int] = []
        self._standing = Growing(1, np.int8)
        self._ranks: list[_Rank | None] = []
        self._ranked: list[_Rank] = []
        # With several objectives: what is to be minimized, by row; NaN where there is no result.
        self._losses = Growing(len(self._signs), np.float64)
        self._chosen: tuple[bytes, NDArray[np.intp]] = (b"", np.empty(0, dtype=np.intp))
        #: How many trials ended with a result or were stopped.
        self.ended = 0
        self._good: NDArray[np.intp] | None = None

    @property
    def several(self) -> bool:
        """Whether there are several objectives."""
        return len(self._signs) > 1

    @property
    def standing(self) -> NDArray[np.int8]:
        """Of each row the `Standing`."""
        view: NDArray[np.int8] = self._standing.view[0]
        return view

    def put(
        self, row: int, trial: FrozenTrial, parameters: Mapping[str, Any] | None = None
    ) -> None:
        """Takes in a trial, new or changed.

        Args:
            row: Its row; that of a new one comes after all others.
            trial: What became of it.
            parameters: Its parameters, where it was told others than those it has.

        Raises:
            ValueError: a row before it is missing.
        """
        if row > len(self.parameters):
            raise ValueError(f"row {row} came before row {len(self.parameters)}.")
        known = trial.params if parameters is None else parameters
        standing = _STANDINGS.get(trial.state, Standing.NONE)
        rank = self._rank(row, trial) if standing is Standing.ENDED else None
        if row == len(self.parameters):
            self.parameters.append(known)
            self._standing.append(np.array([[standing]], dtype=np.int8))
            self._ranks.append(None)
            self._losses.append(np.full((len(self._signs), 1), np.nan))
        else:
            if known != self.parameters[row]:
                self.changed.append(row)
            self.parameters[row] = known
            self._standing.view[0, row] = standing
        self._move(row, self._ranks[row], rank)
        if self.several:
            has_result = rank is not None and rank[0] == 0
            self._losses.view[:, row] = self._signed(trial.values) if has_result else np.nan

    def good(self) -> NDArray[np.intp]:
        """The rows of the good trials, ascending."""
        if self._good is None:
            share = math.ceil(0.1 * self.ended)
            rows = self._leading(share) if self.several else self._first(min(share, _MOST_GOOD))
            self._good = np.sort(np.array(rows, dtype=np.intp))
        return self._good

    def _move(self, row: int, old: _Rank | None, new: _Rank | None) -> None:
        # With several objectives results may differ that rank alike.
        if old == new and not (self.several and new is not None):
            return
        self.ended += (new is not None) - (old is not None)
        if old is not None:
            del self._ranked[bisect_left(self._ranked, old)]
        if new is not None:
            insort(self._ranked, new)
        self._ranks[row] = new
        self._good = None

    def _rank(self, row: int, trial: FrozenTrial) -> _Rank:
        violation = sum(v for v in trial.constraints.values() if v > 0)
        if violation > 0:
            return 2, violation, 0.0, row
        if trial.state is TrialState.COMPLETE:
            return 0, 0.0 if self.several else self._signed(trial.values)[0], 0.0, row
        if not trial.intermediate_values:
            return 1, 1.0, 0.0, row
        step, value = max(trial.intermediate_values.items())
        return 1, -float(step), math.inf if math.isnan(value) else value * self._signs[0], row

    def _signed(self, values: Sequence[float]) -> list[float]:
        return [value * sign for value, sign in zip(values, self._signs, strict=True)]

    def _first(self, count: int) -> list[int]:
        return [rank[-1] for rank in self._ranked[:count]]

    def _leading(self, count: int) -> list[int]:
        """The first `count` by fronts; if results do not suffice, the others follow by rank."""
        (rows,) = (~np.isnan(self._losses.view[0])).nonzero()
        if count >= len(rows):
            return self._first(count)
        losses = self._losses.view[:, rows].T
        good: list[int] = []
        while len(good) < count:
            front = pareto.front(losses, [False] * losses.shape[1])
            if len(front) > count - len(good):
                front = front[self._largest(losses[front], count - len(good))]
            good += rows[front].tolist()
            rows, losses = np.delete(rows, front), np.delete(losses, front, axis=0)
        return good

    def _largest(self, front: NDArray[np.float64], count: int) -> NDArray[np.intp]:
        """Those of a front that add most hypervolume, chosen one after another."""
        key = b"%d " % count + front.tobytes()
        if self._chosen[0] != key:
            self._chosen = key, _largest(front, count)
        return self._chosen[1]


def _largest(front: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    worst = front.max(axis=0)
    reference = np.maximum(1.1 * worst, 0.9 * worst)
    reference[reference == 0] = 1e-12
    # Dealt out like cards, in lexical order, so that each hand is spread over all of the front.
    hands = -(-len(front) // _MOST_COMPARED)
    order = np.lexsort(front.T[::-1]) if hands > 1 else np.arange(len(front))
    chosen = [
        _solve_hssp(front[hand], hand, (count + hands - 1 - number) // hands, reference)
        for number, hand in enumerate(order[start::hands] for start in range(hands))
    ]
    return np.concatenate(chosen)
