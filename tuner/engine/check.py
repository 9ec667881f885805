"""Checks of what a study asks of its search, before it is accepted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tuner import early_stopping
from tuner.engine import domains
from tuner.engine.policies import ALGORITHMS
from tuner.errors import InvalidArgumentError
from tuner.space import Categorical, Space
from tuner.study import Constraint, StudySpec

#: How many studies one may start from.
MAX_EARLIER = 5
#: With more, almost every trial is on the front, and there is nothing left to learn from.
_MODELLED_METRICS = 5


#: scipy.stats.qmc.Sobol.MAXDIM, without the half second that its import takes.
SOBOL_DIMENSIONS = 21_201


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
    early_stopping.check(search.early_stopping, search.stopping)
    _check_metrics(spec)
    _check_constraints(spec.constraints)
    _check_warm_start(spec.warm_start)
    if not spec.space.parameters and (prepared or not spec.is_managed):
        raise InvalidArgumentError("the space is empty; add at least one parameter to tune.")
    if search.algorithm == "grid":
        _check_finite(spec.space)
    if search.algorithm in ("auto", "qmc", "gp", "nsga-ii"):
        _check_dimensions(spec.space)
    if search.algorithm == "cma-es":
        _check_numbers(spec)


def _check_metrics(spec: StudySpec) -> None:
    metrics, search = len(spec.metrics), spec.search
    _check_different("metric", (metric.name for metric in spec.metrics))
    if metrics > _MODELLED_METRICS and search.algorithm in ("auto", "tpe", "gp"):
        raise InvalidArgumentError(
            f"`{search.algorithm}` weighs at most {_MODELLED_METRICS} metrics, but got {metrics}; "
            "bound some of them by constraints, or choose `random`."
        )
    # `asha` is what a study gets that asks for nothing, so it is read as none.
    if metrics > 1 and search.early_stopping not in ("asha", "none"):
        raise InvalidArgumentError(
            f"`{search.early_stopping}` compares trials by one metric, but the study has "
            f"{metrics}; set `early_stopping` to none."
        )


def _check_constraints(constraints: Sequence[Constraint]) -> None:
    for bound in ("at_least", "at_most"):
        bounded = [c.metric for c in constraints if getattr(c, bound) is not None]
        _check_different(f"`{bound}` constraint of", bounded)
    least = {c.metric: c.at_least for c in constraints if c.at_least is not None}
    for constraint in constraints:
        low, high = least.get(constraint.metric), constraint.at_most
        if low is not None and high is not None and low > high:
            raise InvalidArgumentError(
                f"no {constraint.metric!r} is at least {low:g} and at most {high:g}; "
                "correct one of the constraints."
            )


def _check_warm_start(studies: Sequence[str]) -> None:
    _check_different("earlier study", studies)
    if len(studies) > MAX_EARLIER:
        raise InvalidArgumentError(
            f"a study starts from at most {MAX_EARLIER} earlier ones, but got {len(studies)}; "
            "name those that are most like it."
        )


def _check_different(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidArgumentError(f"the {what} {name!r} appears twice; name it once.")
        seen.add(name)


def _check_finite(space: Space) -> None:
    for parameter in space.walk():
        if domains.count(parameter.domain) is None:
            raise InvalidArgumentError(
                f"a grid needs a finite space, but {parameter.name!r} is "
                f"{parameter.domain.describe()}; give it a `step`, list its values as discrete, "
                "or choose another algorithm."
            )


def _check_numbers(spec: StudySpec) -> None:
    """CMA-ES moves a normal distribution: over numbers that all exist, towards one metric."""
    if len(spec.metrics) > 1:
        raise InvalidArgumentError(
            f"`cma-es` optimizes one metric, but the study has {len(spec.metrics)}; choose "
            "`nsga-ii`, or bound the others by constraints."
        )
    for parameter in spec.space.walk():
        if isinstance(parameter.domain, Categorical) and len(parameter.domain.choices) > 1:
            raise InvalidArgumentError(
                f"`cma-es` tunes numbers, but {parameter.name!r} is "
                f"{parameter.domain.describe()}; choose `auto`, `tpe` or `nsga-ii`, or fix it."
            )
        if parameter.children:
            raise InvalidArgumentError(
                f"`cma-es` tunes parameters that always exist, but some depend on "
                f"{parameter.name!r}; choose `auto`, `tpe` or `nsga-ii`."
            )


def _check_dimensions(space: Space) -> None:
    parameters = sum(1 for _ in space.walk())
    if parameters > SOBOL_DIMENSIONS:
        raise InvalidArgumentError(
            f"a Sobol sequence has at most {SOBOL_DIMENSIONS} parameters, but the space has "
            f"{parameters}; choose `random`."
        )
