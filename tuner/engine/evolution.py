"""Search by generations: CMA-ES and NSGA-II, as functions of what has ended so far.

Optuna's samplers for both leave their state in attributes of trials and studies, which would have
to be stored with every trial. Here a generation is some trials in the order in which they ended,
whatever they were proposed from, so the state follows from the history, in this process or in one
that was just started, with any number of workers. What is done with a generation is done by the
library that Optuna uses (`cmaes`), and by Optuna's own parts (NSGA-II).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
from optuna.samplers._lazy_random_state import LazyRandomState
from optuna.samplers.nsgaii import UniformCrossover
from optuna.samplers.nsgaii._child_generation_strategy import NSGAIIChildGenerationStrategy
from optuna.samplers.nsgaii._elite_population_selection_strategy import (
    NSGAIIElitePopulationSelectionStrategy,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tuner.engine import domains, encoding, gp, points
from tuner.engine.encoding import Encoding
from tuner.engine.gp import Array
from tuner.engine.history import History
from tuner.engine.policy import Policy, generator, uniforms
from tuner.space import Space, Value

_RESULTS = (TrialState.COMPLETE, TrialState.PRUNED)
#: Hansen, The CMA Evolution Strategy: A Tutorial, 2016: so that the optimum is within reach.
_SIGMA = 0.3
_POPULATION = 20


class Endings:
    """The trials with a result, earlier studies' first, in the order in which they ended.

    Args:
        history: Of the study.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._keys = [
            (datetime.min, trial.number)
            for trial in history.warm_start.trials
            if _has_result(trial)
        ]
        self.trials = [trial for trial in history.warm_start.trials if _has_result(trial)]
        self._known = {trial.number for trial in self.trials}
        self._read = 0

    def read(self) -> int:
        """Takes in what is new; returns how many at the front are as they were."""
        same = len(self.trials)
        for number in self._history.changes[self._read :]:
            trial = self._history.trial(number)
            if number in self._known:
                same = min(same, self._forget(number))
            if _has_result(trial):
                same = min(same, self._insert(trial))
        self._read = len(self._history.changes)
        return same

    def _insert(self, trial: FrozenTrial) -> int:
        key = (trial.datetime_complete or datetime.min, trial.number)
        at = bisect_right(self._keys, key)
        self._keys.insert(at, key)
        self.trials.insert(at, trial)
        self._known.add(trial.number)
        return at

    def _forget(self, number: int) -> int:
        at = next(i for i, (_, known) in enumerate(self._keys) if known == number)
        del self._keys[at], self.trials[at]
        self._known.discard(number)
        return at


def _has_result(trial: FrozenTrial) -> bool:
    values = trial.values
    return trial.state in _RESULTS and bool(values) and all(map(math.isfinite, values))


class CmaEsPolicy(Policy):
    """CMA-ES: a normal distribution over the cube that moves and stretches to what was good.

    Hansen and Ostermeier, Evolutionary Computation 2001; steps keep a margin, so that they do
    not get stuck (Hamano et al., CMA-ES with Margin, GECCO 2022). A stopped trial counts with its
    last value, one beyond the constraints is worse than all within. Where the distribution has
    shrunk to nothing, it starts again elsewhere.
    """

    def __init__(self, space: Space, seed: int, history: History) -> None:
        self._encoding = Encoding(space)
        self._cube = gp.cube_of(space)
        self._seed = seed
        self._sign = -1.0 if history.directions[0] is StudyDirection.MAXIMIZE else 1.0
        self._centre = self._cube.encode([self._encoding.encode(points.centre(space))])[0]
        self._endings = Endings(history)
        self._told = 0
        self._starts = 0
        self._optimizer: Any = None

    @property
    def in_use(self) -> str:
        """How many trials make a generation."""
        size = 4 + math.floor(3 * math.log(max(1, self._cube.dimension)))
        return f"cma-es (generations of {size})"

    def propose(self, number: int, attempt: int) -> Mapping[str, Value]:
        """A point that the distribution gives."""
        if not self._cube.axes:
            return self._encoding.point({})
        optimizer = self._distribution()
        optimizer.reseed_rng(int(generator(self._seed, number, attempt).integers(2**32)))
        drawn, _ = optimizer.ask()
        return self._encoding.point(self._cube.decode(self._cube.canonical(drawn[None])[0]))

    def _distribution(self) -> Any:
        """The distribution after all generations that are complete."""
        if self._endings.read() < self._told or self._optimizer is None:
            self._told = self._starts = 0
            self._optimizer = self._started()
        while len(self._endings.trials) - self._told >= self._optimizer.population_size:
            past = self._told + self._optimizer.population_size
            self._tell(self._endings.trials[self._told : past])
            self._told = past
            if self._optimizer._cma.should_stop():
                self._starts += 1
                self._optimizer = self._started()
        return self._optimizer

    def _started(self) -> Any:
        from cmaes import CMAwM  # half a second of a server's start, for scipy.stats

        steps = np.array([self._step(index) for index in range(self._cube.dimension)])
        bounds = np.column_stack([steps / 2, 1 - steps / 2])
        mean = self._centre
        if self._starts:
            drawn = uniforms(self._cube.dimension, self._seed, self._starts)
            mean = np.array(drawn)
        mean = np.clip(mean, bounds[:, 0], bounds[:, 1])
        return CMAwM(mean=mean, sigma=_SIGMA, bounds=bounds, steps=steps, seed=0)

    def _step(self, index: int) -> float:
        """How far apart an axis' values are, if they are few and evenly spread, or else 0."""
        axis = self._cube.axes[index]
        levels = axis.levels or 0
        is_log = bool(getattr(axis.distribution, "log", False))
        return 0.0 if is_log or not levels else 1 / levels

    def _tell(self, trials: list[FrozenTrial]) -> None:
        """Moves the distribution; only ranks count."""
        placed = np.clip(self._cube.encode([trial.params for trial in trials]), 0.0, 1.0)
        order = sorted(range(len(trials)), key=lambda i: self._badness(trials[i]))
        ranks = {index: float(rank) for rank, index in enumerate(order)}
        self._optimizer.tell([(self._near(x), ranks[i]) for i, x in enumerate(placed)])

    def _badness(self, trial: FrozenTrial) -> tuple[float, float]:
        violation = sum(max(0.0, value) for value in trial.constraints.values())
        return violation, self._sign * (trial.values or [0.0])[0]

    def _near(self, point: Array) -> Array:
        """The point, or the nearest one in its direction that the distribution might have given.

        Trials of users, and those drawn from the distribution long ago, may lie far off.

        Hansen, Injecting External Solutions Into CMA-ES, 2011, with its limit.
        """
        cma, size = self._optimizer._cma, self._cube.dimension
        rotation, scales = cma._eigen_decomposition()
        step = (point - cma.mean) / cma._sigma
        length = float(np.linalg.norm((rotation.T @ step) / scales))
        limit = math.sqrt(size) + 2 * size / (size + 2)
        near: Array = cma.mean + (point - cma.mean) * min(1.0, limit / max(length, 1e-12))
        return near


class NsgaPolicy(Policy):
    """NSGA-II: children of the best so far, by crossover and mutation; made for several metrics.

    Deb et al., A Fast and Elitist Multiobjective Genetic Algorithm, 2002; parents are chosen, and
    children made, by Optuna's parts. A parameter that a parent does not have, because another one
    excludes it, has a value at random there, to be handed on to children that do have it.
    """

    def __init__(self, space: Space, seed: int, history: History, start: Policy) -> None:
        self._space = space
        self._encoding = Encoding(space)
        self._choices = {n: d for n, d in self._encoding.distributions.items() if not d.single()}
        self._seed = seed
        self._start = start
        self._study = history.study()
        self._endings = Endings(history)
        self._select = NSGAIIElitePopulationSelectionStrategy(population_size=_POPULATION)
        self._bred = 0
        self._parents: list[FrozenTrial] = []

    @property
    def in_use(self) -> str:
        """How many trials make a generation."""
        return f"nsga-ii (generations of {_POPULATION})"

    def propose(self, number: int, attempt: int) -> Mapping[str, Value] | None:
        """A spread point, and once a generation has ended a child of the best."""
        parents = self._chosen()
        if not parents or not self._choices:
            return self._start.propose(number, attempt)
        breed = NSGAIIChildGenerationStrategy(
            crossover=UniformCrossover(),
            crossover_prob=0.9,
            swapping_prob=0.5,
            rng=LazyRandomState(int(generator(self._seed, number, attempt).integers(2**32))),
        )
        child = breed(self._study, self._choices, parents)
        # What it mutates it leaves out.
        return self._encoding.point({**self._random(number, attempt), **child})

    def _chosen(self) -> list[FrozenTrial]:
        """The parents after all generations that are complete."""
        if self._endings.read() < self._bred:
            self._bred, self._parents = 0, []
        while len(self._endings.trials) - self._bred >= _POPULATION:
            ended = self._endings.trials[self._bred : self._bred + _POPULATION]
            whole = [self._whole(trial) for trial in ended]
            self._parents = self._select(self._study, [*self._parents, *whole])
            self._bred += _POPULATION
        return self._parents

    def _whole(self, trial: FrozenTrial) -> FrozenTrial:
        """The trial with a value for every parameter."""
        params = {**self._random(trial.number, -1), **trial.params}
        return FrozenTrial(
            number=trial.number,
            trial_id=trial._trial_id,
            state=trial.state,
            value=None,
            values=trial.values,
            datetime_start=trial.datetime_start,
            datetime_complete=trial.datetime_complete,
            params={name: params[name] for name in self._encoding.distributions},
            distributions=dict(self._encoding.distributions),
            user_attrs={},
            system_attrs=trial.system_attrs,
            intermediate_values={},
        )

    def _random(self, number: int, purpose: int) -> dict[str, Any]:
        every = list(self._space.walk())
        drawn = uniforms(len(every), self._seed, number, purpose)
        return {
            parameter.name: encoding.encode(parameter.domain, domains.at(parameter.domain, u))
            for parameter, u in zip(every, drawn, strict=True)
        }
