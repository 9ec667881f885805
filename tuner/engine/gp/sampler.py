"""The Gaussian process as a sampler of Optuna's kind."""

from __future__ import annotations

from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial

from tuner.engine.gp import tree
from tuner.engine.gp.cube import Array, Axis, Cube
from tuner.engine.gp.problem import problem_of
from tuner.engine.translation import is_informative


class GPSampler(BaseSampler):
    """Bayesian optimization with Gaussian processes; in plain Optuna too.

    The first trial is the centre of the space, the next ones are spread (scrambled Sobol), and
    from then on each goes where the expected improvement is largest. What it draws depends on
    the seed, the trial's number and the trials before it, and on nothing that it remembers.

    Args:
        cube: The space; without it the space is what the trials so far had, with the conditions
            that explain which parameters they had.
        startup: How many trials to end before the model starts.
        seed: Of everything drawn; without one it differs each time.
    """

    def __init__(
        self, cube: Cube | None = None, *, startup: int | None = None, seed: int | None = None
    ) -> None:
        self._cube = cube
        self._startup = startup
        self._random = RandomSampler(seed=seed)
        self._seed = _seed() if seed is None else seed

    def reseed_rng(self) -> None:
        """Takes a new seed; see BaseSampler, here and below."""
        self._seed = _seed()
        self._random.reseed_rng()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Every parameter known that has a choice."""
        cube = self._known(study)
        return {name: axis.distribution for name, axis in zip(cube.names, cube.axes, strict=True)}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draws the parameters that are active together."""
        if not search_space:
            return {}
        cube = self._known(study).with_only(search_space)
        trials = [t for t in study._get_trials(deepcopy=False) if t.number != trial.number]
        problem = problem_of(cube, trials, study.directions, (self._seed, trial.number))
        startup = startup_of(cube) if self._startup is None else self._startup
        if sum(map(is_informative, trials)) < startup:
            return cube.decode(_spread(cube, self._seed, trial.number))
        from tuner.engine.gp.propose import propose  # half a second, for scipy

        return cube.decode(propose(problem))

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draws a parameter that was not known: at the centre first, later at random."""
        if trial.number == 0:
            return centre(param_distribution)
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _known(self, study: Study) -> Cube:
        if self._cube is not None:
            return self._cube
        return tree.inferred(study._get_trials(deepcopy=False))


def centre(distribution: BaseDistribution) -> Any:
    """The middle of a range, on its scale; the first choice of those without an order."""
    axis = Axis(distribution)
    return axis.value(0.0 if axis.choices else 0.5)


def startup_of(cube: Cube) -> int:
    """How many trials are spread before a model is worth fitting."""
    return min(max(5, cube.dimension), 10)


def _spread(cube: Cube, seed: int, index: int) -> Array:
    from scipy.stats import qmc  # half a second

    sequence = qmc.Sobol(cube.dimension, scramble=True, rng=np.random.default_rng(seed))
    if index:
        sequence.fast_forward(index)
    point: Array = cube.spread(sequence.random(1))[0]
    return point


def _seed() -> int:
    return int(np.random.SeedSequence().generate_state(1)[0])
