"""The next point of a study, as a pure function of arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from optuna._hypervolume.box_decomposition import get_non_dominated_box_bounds
from scipy.stats import qmc
from threadpoolctl import threadpool_limits

from tuner.engine.gp import acquisition, ascent, regressor, targets
from tuner.engine.gp.cube import Array, Cube
from tuner.engine.gp.regressor import Regressor

# Kernels are learned from at most so many points, and the posterior takes at most so many.
_MOST_FITTED = 120
_MOST_KNOWN = 400
_GOOD = 5


def _none() -> Array:
    return np.empty((0, 0))


@dataclass(frozen=True, kw_only=True)
class Problem:
    """All that a proposal depends on; to be pickled to another process as it is."""

    cube: Cube
    #: Where trials ended with a value, [trials, axes], in the order of their numbers.
    points: Array
    #: Their values, less is better, finite, [trials, objectives].
    losses: Array
    #: How far they were beyond each constraint, 0 or less within, [trials, constraints].
    violations: Array = field(default_factory=_none)
    #: Where trials are running, [running, axes].
    pending: Array = field(default_factory=_none)
    #: Where trials failed, [failed, axes].
    failed: Array = field(default_factory=_none)
    #: Randomness for this proposal alone.
    seed: tuple[int, ...] = (0,)


def spread(cube: Cube, seed: int, index: int) -> Array:
    """Point `index` of a scrambled Sobol sequence over the cube, [axes]."""
    sequence = qmc.Sobol(cube.dimension, scramble=True, rng=np.random.default_rng(seed))
    if index:
        sequence.fast_forward(index)
    return cube.spread(sequence.random(1))[0]


def propose(problem: Problem) -> Array:
    """The point [axes] that is worth most given what is known.

    One thread computes it: the matrices are too small to share.
    """
    with threadpool_limits(1, "blas"):
        return _propose(problem)


def _propose(problem: Problem) -> Array:
    cube, rng = problem.cube, np.random.default_rng(problem.seed)
    if len(problem.points) > _MOST_KNOWN:
        problem = _thinned(problem)
    embedded = cube.embed(problem.points)
    losses = np.column_stack([targets.standardised(column) for column in problem.losses.T])
    objectives = [_fitted(cube, embedded, column) for column in losses.T]
    limits = [
        (_fitted(cube, embedded, column - column.mean()), -float(column.mean()))
        for column in map(targets.scaled_violations, problem.violations.T)
    ]
    means = np.column_stack([one.predict(embedded)[0] for one in objectives])
    feasible = (problem.violations <= 0).all(1) if limits else np.ones(len(means), dtype=bool)
    objectives = [_believing(one, cube, problem) for one in objectives]
    limits = [(_believing(one, cube, problem), bound) for one, bound in limits]
    terms: list[acquisition.Acquisition] = [
        acquisition.LogFeasibility(one, bound) for one, bound in limits
    ]
    if feasible.any():
        terms.insert(0, _improvement(objectives, means[feasible]))
        order = np.argsort(np.where(feasible, means.sum(1), np.inf), kind="stable")
    else:
        order = np.argsort(np.maximum(problem.violations, 0).sum(1), kind="stable")
    goal = terms[0] if len(terms) == 1 else acquisition.Sum(terms)
    found = ascent.maximize(goal, cube, problem.points[order[:_GOOD]], rng)
    seen = {row.tobytes() for row in np.vstack([problem.points, *_others(problem)])}
    return next((row for row in found if row.tobytes() not in seen), found[0])


def _others(problem: Problem) -> list[Array]:
    return [rows for rows in (problem.pending, problem.failed) if len(rows)]


def _fitted(cube: Cube, embedded: Array, values: Array) -> Regressor:
    some = _some(values, _MOST_FITTED)
    kernel = regressor.fit(embedded[some], cube.owners, values[some])
    return Regressor(kernel, embedded, cube.owners, values)


def _believing(one: Regressor, cube: Cube, problem: Problem) -> Regressor:
    """The posterior as if running trials had ended as it expects (the kriging believer).

    Ginsbourger et al., Kriging Is Well-Suited to Parallelize Optimization, 2010. Failed ones are
    believed to be no better than the average, so that they are not tried again at once.
    """
    if len(problem.pending):
        rows = cube.embed(problem.pending)
        one = one.with_values(rows, one.predict(rows)[0])
    if len(problem.failed):
        rows = cube.embed(problem.failed)
        one = one.with_values(rows, np.maximum(one.predict(rows)[0], 0.0))
    return one


def _improvement(objectives: list[Regressor], means: Array) -> acquisition.Acquisition:
    if len(objectives) == 1:
        return acquisition.LogImprovement(objectives[0], float(means.min()))
    worst = means.max(0)
    reference = worst + 0.1 * (worst - means.min(0)) + 1e-6
    lower, upper = get_non_dominated_box_bounds(means, reference)
    return acquisition.LogHypervolumeImprovement(objectives, lower, upper)


def _some(values: Array, most: int) -> Array:
    """The indices of at most so many values: the best half of it, and the rest evenly."""
    if len(values) <= most:
        return np.arange(len(values))
    order = np.argsort(values, kind="stable")
    best, rest = order[: most // 2], np.sort(order[most // 2 :])
    picked = rest[np.linspace(0, len(rest) - 1, most - len(best)).astype(int)]
    return np.sort(np.concatenate([best, picked]))


def _thinned(problem: Problem) -> Problem:
    from dataclasses import replace

    ranks = np.argsort(np.argsort(problem.losses, axis=0, kind="stable"), axis=0).min(1)
    kept = _some(ranks.astype(float), _MOST_KNOWN)
    violations = problem.violations[kept] if len(problem.violations) else problem.violations
    return replace(
        problem, points=problem.points[kept], losses=problem.losses[kept], violations=violations
    )
