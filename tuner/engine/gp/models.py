"""Models of what a study measured: each objective and constraint on a scale that suits it."""

from __future__ import annotations

import numpy as np

from tuner.engine.gp import regressor, scales
from tuner.engine.gp.cube import Array
from tuner.engine.gp.problem import Problem, subset
from tuner.engine.gp.regressor import LENGTHSCALE, LONG_LENGTHSCALE, Prior, Regressor

# Kernels are learned from at most so many points: their price grows with the cube of these.
_MOST_FITTED = 120


def objective(problem: Problem, losses: Array) -> Regressor:
    """The model of one objective, on the scale of most evidence.

    How far trials came is one more axis, and what is predicted is the end: so it is learned how
    much a value on the way says of it, as in Klein et al., Model-based Asynchronous Hyperparameter
    and Neural Architecture Search, 2020 - here with one value for each trial.
    """
    points, owners = problem.cube.embed(problem.points), problem.cube.owners
    if (problem.progress < 1).any():
        points = np.column_stack([points, problem.progress])
        owners = np.append(owners, problem.cube.dimension)
    part, prior = subset(losses, _MOST_FITTED), _prior(problem)
    fits = []
    for scaled in scales.of_losses(losses):
        kernel, evidence = regressor.fit(points[part], owners, scaled.values[part], prior)
        fits.append((evidence + scaled.log_slopes[part].sum(), kernel, scaled.values))
    _, kernel, values = max(fits, key=lambda fit: fit[0])
    return Regressor(kernel, points, owners, values)


def limit(problem: Problem, violations: Array) -> tuple[Regressor, float]:
    """The model of one constraint, and up to which of its values it is kept."""
    points, owners = problem.cube.embed(problem.points), problem.cube.owners
    values, bound = scales.of_violations(violations)
    part = subset(np.abs(violations), _MOST_FITTED)
    kernel, _ = regressor.fit(points[part], owners, values[part], _prior(problem))
    return Regressor(kernel, points, owners, values), bound


def believing(model: Regressor, problem: Problem) -> Regressor:
    """The model as if running trials had ended as it expects (the kriging believer).

    Ginsbourger, Le Riche and Carraro, Kriging Is Well-Suited to Parallelize Optimization, 2010.
    Of one that was stopped, half as much is believed: how it would have ended is not to be learned
    there, as what stopped it would mostly stop its neighbours. So after a few stops it is left.

    Failed trials are believed to be no better than the average, so that others keep away.
    """
    if len(problem.pending):
        points = problem.cube.embed(problem.pending)
        model = model.with_values(points, model.predict(points)[0])
    if (problem.progress < 1).any():
        points = problem.cube.embed(problem.points[problem.progress < 1])
        mean, deviation = model.predict(points)
        model = model.with_values(points, mean, deviation**2)
    if len(problem.failed):
        points = problem.cube.embed(problem.failed)
        model = model.with_values(points, np.maximum(model.predict(points)[0], 0.0))
    return model


def _prior(problem: Problem) -> Prior:
    """Of the lengthscales: long where parameters matter in some branches alone, and where values
    are guesses of how trials might have ended. A short one would take either for a shape."""
    guesses = (problem.progress < 1).any()
    return LONG_LENGTHSCALE if problem.cube.is_conditional or guesses else LENGTHSCALE
