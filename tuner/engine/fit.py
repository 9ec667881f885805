"""A proposal that takes a while: read from the history at once, worked out anywhere."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace

from tuner.engine import points
from tuner.engine.encoding import Encoding
from tuner.engine.gp import Array, Problem
from tuner.space import Value

#: How often a point may turn out to be tried already before another way is taken.
ATTEMPTS = 4

#: Solves a problem: the point [axes] of its cube that is worth most.
Solver = Callable[[Problem], Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A model to be fitted, apart from the study that it is for, which may go on meanwhile."""

    #: What the model is fitted to; its seed lacks the attempt.
    problem: Problem
    encoding: Encoding
    #: The points tried already. They may become more while this is solved.
    tried: Sequence[Container[points.Key]]

    def solve(self, solver: Solver) -> Mapping[str, Value]:
        """The point that the model thinks most of; after some attempts, one tried already."""
        attempt = 0
        while True:
            seed = (*self.problem.seed, attempt)
            found = self.problem.cube.decode(solver(replace(self.problem, seed=seed)))
            point, attempt = self.encoding.point(found), attempt + 1
            key = points.key_of(point)
            if attempt == ATTEMPTS or not any(key in tried for tried in self.tried):
                return point


def solve_here(problem: Problem) -> Array:
    """Solves a problem in this process."""
    from tuner.engine.gp.propose import propose  # half a second of a server's start

    return propose(problem)
