"""Optuna's TPE over a tree of parameters: those that become active together are drawn jointly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial

from tuner.engine import domains, encoding
from tuner.space import Parameter, Space


class TreeTPESampler(TPESampler):
    """TPE that is told the space instead of guessing it from the trials.

    Optuna's own guess is the parameters that all trials share, with the same range: one trial of
    an earlier version of the space, and the rest are drawn one by one. Here the parameters that
    are always active are drawn jointly, then the children that those values activate, from the
    trials that have them, and so on down. Usable in plain Optuna.

    Args:
        space: What the objective asks for, by the names and distributions of `encoding`.
        startup: How many finished trials to draw at random before the model starts.
        seed: Of everything drawn.
    """

    def __init__(self, space: Space, *, startup: int, seed: int) -> None:
        super().__init__(n_startup_trials=startup, seed=seed, multivariate=True)
        self._space = space
        self._distributions = encoding.Encoding(space).distributions

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Every parameter of the tree that has a choice."""
        return {
            name: distribution
            for name, distribution in self._distributions.items()
            if not distribution.single()
        }

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draws the active parameters, a generation at a time."""
        drawn: dict[str, Any] = {}
        generation: list[Parameter] = list(self._space.parameters)
        while generation:
            block = {p.name: search_space[p.name] for p in generation if p.name in search_space}
            values = super().sample_relative(study, trial, block)
            drawn.update(values)
            generation = [
                child for parent in generation for child in self._children(parent, values)
            ]
        return drawn

    def _children(self, parent: Parameter, values: dict[str, Any]) -> Iterator[Parameter]:
        if self._distributions[parent.name].single():
            yield from parent.active_children(domains.nth(parent.domain, 0))
        elif parent.name in values:
            value = encoding.decode(parent.domain, values[parent.name])
            yield from parent.active_children(value)
