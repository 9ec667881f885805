"""Checks of what a study asks of its search, before it is accepted."""

from __future__ import annotations

from scipy.stats import qmc

from tuner.engine import domains
from tuner.engine.policies import ALGORITHMS
from tuner.engine.stopping import RULES
from tuner.errors import InvalidArgumentError
from tuner.space import Space
from tuner.study import StudySpec


def check_search(spec: StudySpec, *, prepared: bool = False) -> None:
    """Checks that the engine can search what `spec` asks for.

    Args:
        spec: The study. One with a trainer may have no parameters yet, unless it is `prepared`.
        prepared: Whether the space is complete.

    Raises:
        InvalidArgumentError: with the cause and the remedy.
    """
    search = spec.search
    if search.algorithm not in ALGORITHMS:
        raise InvalidArgumentError(
            f"`algorithm` must be one of {', '.join(ALGORITHMS)}, but got {search.algorithm!r}."
        )
    if search.early_stopping not in RULES:
        raise InvalidArgumentError(
            f"`early_stopping` must be one of {', '.join(RULES)}, "
            f"but got {search.early_stopping!r}."
        )
    if not spec.space.parameters and (prepared or not spec.is_managed):
        raise InvalidArgumentError("the space is empty; add at least one parameter to tune.")
    if search.algorithm == "grid":
        _check_finite(spec.space)
    if search.algorithm in ("auto", "qmc"):
        _check_dimensions(spec.space)


def _check_finite(space: Space) -> None:
    for parameter in space.walk():
        if domains.count(parameter.domain) is None:
            raise InvalidArgumentError(
                f"a grid needs a finite space, but {parameter.name!r} is "
                f"{parameter.domain.describe()}; give it a `step`, list its values as discrete, "
                "or choose another algorithm."
            )


def _check_dimensions(space: Space) -> None:
    parameters = sum(1 for _ in space.walk())
    if parameters > qmc.Sobol.MAXDIM:
        raise InvalidArgumentError(
            f"a Sobol sequence has at most {qmc.Sobol.MAXDIM} parameters, but the space has "
            f"{parameters}; choose `random`."
        )
