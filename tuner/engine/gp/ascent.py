"""Finds where an acquisition is largest: over a cube with choices, steps and conditions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from tuner.engine.gp.acquisition import Acquisition
from tuner.engine.gp.cube import Array, Cube

_GLOBAL = 384
_LOCAL = 256
_STARTS = 6
_CLIMBS = 30
_ROUNDS = 2
_MOVES = 6
# Of very many choices not all are looked at in each move.
_MOST_NEIGHBOURS = 1500
# An axis with fewer values is left to the local moves.
_FEW = 12


def maximize(acquisition: Acquisition, cube: Cube, good: Array, rng: np.random.Generator) -> Array:
    """Candidates by their value, the best first, [candidates, axes].

    Args:
        acquisition: Over embedded points.
        cube: Where to look.
        good: The best points so far, whose surroundings are worth a look.
        rng: Of everything drawn.
    """
    drawn = np.vstack(
        [
            cube.spread(rng.random((_GLOBAL, cube.dimension))),
            _mutated(cube, good, rng),
            good,
        ]
    )
    values = acquisition.value(cube.embed(drawn))
    starts = drawn[_different(drawn, values, _STARTS)]
    for _ in range(_ROUNDS):
        starts = _moved(acquisition, cube, _climbed(acquisition, cube, starts), rng)
    points = np.vstack([starts, drawn])
    values = np.concatenate([acquisition.value(cube.embed(starts)), values])
    result: Array = points[np.argsort(-values, kind="stable")]
    return result


def _mutated(cube: Cube, good: Array, rng: np.random.Generator) -> Array:
    """Points near the good ones: some coordinates moved a little, or drawn anew."""
    parents = good[rng.integers(len(good), size=_LOCAL)]
    share = max(0.25, 1.5 / cube.dimension)
    chosen = rng.random(parents.shape) < share
    chosen[np.arange(_LOCAL), rng.integers(cube.dimension, size=_LOCAL)] = True
    steps = rng.choice([0.02, 0.08, 0.2], size=(_LOCAL, 1)) * rng.standard_normal(parents.shape)
    anew = rng.random(parents.shape) < 0.2
    choices = np.array([bool(axis.choices) for axis in cube.axes])
    drawn = np.column_stack([axis.spread(rng.random(_LOCAL)) for axis in cube.axes])
    moved = np.where(anew | choices | (parents < 0), drawn, np.clip(parents + steps, 0, 1))
    return cube.canonical(np.where(chosen | (parents < 0), moved, parents))


def _different(points: Array, values: Array, count: int) -> list[int]:
    """The indices of the best points that are not all in one place."""
    found: list[int] = []
    for index in np.argsort(-values, kind="stable"):
        gaps = np.abs(points[found] - points[index])
        if not found or float(gaps.max(1).min()) > 0.05:
            found.append(int(index))
            if len(found) == count:
                break
    return found


def _climbed(acquisition: Acquisition, cube: Cube, points: Array) -> Array:
    """The points after gradient ascent along the axes with many values, all at once."""
    free = cube.ordered[[(cube.axes[i].levels or _FEW) >= _FEW for i in cube.ordered]]
    columns = np.flatnonzero(np.isin(cube.ordered, free))
    if not len(free):
        return points
    active = cube.active(points)[:, free]
    embedded = cube.embed(points)
    shape = (len(points), len(free))

    def loss(flat: Array) -> tuple[float, Array]:
        embedded[:, columns] = flat.reshape(shape)
        values, gradient = acquisition.gradient(embedded)
        return -float(values.sum()), -(gradient[:, columns] * active).ravel()

    found = minimize(
        loss,
        points[:, free].ravel(),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, 1.0)] * (shape[0] * shape[1]),
        options={"maxiter": _CLIMBS},
    ).x
    climbed = points.copy()
    climbed[:, free] = found.reshape(shape)
    return cube.canonical(climbed)


def _moved(acquisition: Acquisition, cube: Cube, points: Array, rng: np.random.Generator) -> Array:
    """The points after steps to the best neighbour by one finite parameter each."""
    points, going = points.copy(), np.arange(len(points))
    values = acquisition.value(cube.embed(points))
    for _ in range(_MOVES):
        neighbours, owners = _neighbours(cube, points[going])
        if len(neighbours) > _MOST_NEIGHBOURS:
            some = rng.choice(len(neighbours), _MOST_NEIGHBOURS, replace=False)
            neighbours, owners = neighbours[some], owners[some]
        if not len(neighbours):
            break
        found = acquisition.value(cube.embed(neighbours))
        order = np.lexsort((-found, owners))
        whose, first = np.unique(owners[order], return_index=True)
        best, whose = order[first], going[whose]
        better = found[best] > values[whose] + 1e-9
        best, going = best[better], whose[better]
        points[going], values[going] = neighbours[best], found[best]
    return points


def _neighbours(cube: Cube, points: Array) -> tuple[Array, npt.NDArray[np.intp]]:
    """The points that differ in one finite parameter, and the index of whose they are."""
    active = cube.active(points)
    found, owners = [], []
    for index, axis in enumerate(cube.axes):
        levels = axis.levels
        if levels is None or levels < 2:
            continue
        own = np.flatnonzero(active[:, index])
        for value in axis.alternatives(points[own, index], _FEW):
            moved = points[own].copy()
            moved[:, index] = value
            found.append(moved)
            owners.append(own)
    if not found:
        return points[:0], np.empty(0, dtype=np.intp)
    return cube.canonical(np.vstack(found)), np.concatenate(owners)
