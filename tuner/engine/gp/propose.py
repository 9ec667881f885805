"""The next point of a study, as a pure function of arrays."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from optuna._hypervolume.box_decomposition import get_non_dominated_box_bounds
from threadpoolctl import threadpool_limits

from tuner.engine.gp import acquisition, ascent, models, scales
from tuner.engine.gp.cube import Array, Mask
from tuner.engine.gp.problem import Problem
from tuner.engine.gp.regressor import Regressor

# More objectives are weighed by chance into one: the boxes between them grow too many.
_MOST_OBJECTIVES = 3
# How often a choice is made that others were preferred to.
_NEGLECTED, _NEGLECTED_IN_THE_END = 1 / 8, 1 / 4
# The logarithm of an improvement that is hardly one, of values with a deviation of about 1.
_LITTLE = -2.5
# Around so many points it is searched more closely.
_GOOD = 5
_ALONE = threading.Lock()


def propose(problem: Problem) -> Array:
    """The point [axes] that is worth most given what is known; one at random if nothing is.

    It is none of those known already, unless there is hardly another. The matrices are too small
    to share, so one thread computes it.
    """
    # The limit is the process's: the end of one proposal would lift it under another.
    with _ALONE, threadpool_limits(1, "blas"):
        return _propose(problem, np.random.default_rng(problem.seed))


def _propose(problem: Problem, rng: np.random.Generator) -> Array:
    if problem.losses.shape[1] > _MOST_OBJECTIVES:
        problem = replace(problem, losses=_weighed(problem.losses, rng))
    cube = problem.cube
    if not len(problem.points):
        # All that was stopped had no value that counts.
        spread: Array = cube.spread(rng.random((1, cube.dimension)))[0]
        return spread
    objectives = [models.objective(problem, losses) for losses in problem.losses.T]
    limits = [models.limit(problem, violations) for violations in problem.violations.T]
    within: list[acquisition.Acquisition] = [
        acquisition.LogFeasibility(models.believing(model, problem), bound)
        for model, bound in limits
    ]
    believed = [models.believing(model, problem) for model in objectives]
    known, coming = cube.embed(problem.points), cube.embed(problem.pending)
    means = np.column_stack([model.predict(known)[0] for model in objectives])
    feasible: Mask = np.all(problem.violations <= 0, axis=1)
    # What running trials are believed to find is there to be improved on: elsewhere, that is.
    hopes = np.column_stack([model.predict(coming)[0] for model in objectives])
    hopeful = np.ones(len(coming), dtype=bool)
    for model, bound in limits:
        hopeful &= model.predict(coming)[0] <= bound
    beyond = np.clip(problem.violations, 0, None).sum(1)
    rank = np.where(feasible, means.sum(1), np.inf) if feasible.any() else beyond

    def goal(than: Mask, hoped: Mask) -> list[acquisition.Acquisition]:
        best = np.vstack([means[than], hopes[hoped]])
        return [*within, _improvement(believed, best)] if than.any() else within

    def found_for(terms: Sequence[acquisition.Acquisition], near: Mask) -> tuple[Array, float]:
        good = problem.points[np.lexsort((rank, ~near))[:_GOOD]]
        found = ascent.maximize(acquisition.Sum(terms), cube, good, rng)
        return found, float(acquisition.Sum(terms).value(cube.embed(found[:1]))[0])

    found, worth = found_for(goal(feasible, hopeful), feasible)
    neglected = _neglected(problem, worth, rng)
    if neglected is not None:
        # Better than the best with that choice: than the best of all next to nothing seems to be,
        # and most of it in corners that say little of the choice.
        made = known[:, neglected] > 0
        than, hoped = made & feasible, hopeful & (coming[:, neglected] > 0)
        if not than.any():
            than, hoped = feasible, hopeful
        found, _ = found_for([*goal(than, hoped), acquisition.Only(neglected)], made)
    tried = set(map(_key, np.vstack([problem.points, problem.pending, problem.failed])))
    return next((point for point in found if _key(point) not in tried), found[0])


def _neglected(problem: Problem, worth: float, rng: np.random.Generator) -> int | None:
    """At times the column of a choice to be made: one of those that fewest trials made.

    Among numbers a model sees a slope towards what it has not tried; among choices without an
    order it sees none, and may leave one for good after a few trials whose other parameters did
    not suit it. The less there is to improve otherwise, the more often one is made.
    """
    cube = problem.cube
    axes = [index for index, axis in enumerate(cube.axes) if axis.choices > 1]
    often = _NEGLECTED if worth > _LITTLE else _NEGLECTED_IN_THE_END
    if not axes or rng.random() >= often:
        return None
    columns = np.flatnonzero(cube.owners == axes[rng.integers(len(axes))])
    made = cube.embed(np.vstack([problem.points, problem.pending]))[:, columns] > 0
    counts = made.sum(0)
    return int(columns[rng.choice(np.flatnonzero(counts == counts.min()))])


def _improvement(models: Sequence[Regressor], means: Array) -> acquisition.Acquisition:
    if len(models) == 1:
        return acquisition.LogImprovement(models[0], float(means.min()))
    # Slightly beyond the worst of the front, so that its ends count too.
    worst = means.max(0)
    lower, upper = get_non_dominated_box_bounds(means, worst + 0.1 * np.ptp(means, axis=0) + 1e-6)
    return acquisition.LogHypervolumeImprovement(models, lower, upper)


def _weighed(losses: Array, rng: np.random.Generator) -> Array:
    """One loss of many, by random weights: each proposal seeks another part of the front.

    Knowles, ParEGO, IEEE Transactions on Evolutionary Computation 2006.
    """
    weights = rng.dirichlet(np.ones(losses.shape[1]))
    scaled = np.column_stack([next(scales.of_losses(column)).values for column in losses.T])
    parts = weights * (scaled - scaled.min(0))
    weighed: Array = parts.max(1) + 0.05 * parts.sum(1)
    return weighed[:, None]


def _key(point: Array) -> bytes:
    return (np.round(point, 9) + 0.0).tobytes()
