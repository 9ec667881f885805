"""A tree of parameters, drawn a generation at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from optuna.distributions import BaseDistribution

from tuner.engine import domains, encoding
from tuner.space import Parameter, Space


class Tree:
    """The parameters of a space, by the names and distributions of `encoding`."""

    def __init__(self, space: Space) -> None:
        self._space = space
        #: Every parameter that has a choice, active or not.
        self.choices: Mapping[str, BaseDistribution] = {
            name: distribution
            for name, distribution in encoding.Encoding(space).distributions.items()
            if not distribution.single()
        }

    def draw(
        self,
        draw: Callable[[Mapping[str, BaseDistribution]], Mapping[str, Any]],
        among: Mapping[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Draws jointly what is always active, then the children of those values, and so on.

        Args:
            draw: Draws a block of parameters.
            among: The parameters to draw; the children of others are not drawn either.
        """
        drawn: dict[str, Any] = {}
        generation: list[Parameter] = list(self._space.parameters)
        while generation:
            block = {p.name: among[p.name] for p in generation if p.name in among}
            values = draw(block)
            drawn.update(values)
            generation = [
                child for parent in generation for child in self._children(parent, values)
            ]
        return drawn

    def _children(self, parent: Parameter, values: Mapping[str, Any]) -> Iterator[Parameter]:
        if parent.name not in self.choices:
            yield from parent.active_children(domains.nth(parent.domain, 0))
        elif parent.name in values:
            value = encoding.decode(parent.domain, values[parent.name])
            yield from parent.active_children(value)
