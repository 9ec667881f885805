"""What `create_study` is given, read into the parts of a specification."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from tuner.early_stopping import WHOLE, Progress, Stopping
from tuner.errors import InvalidArgumentError
from tuner.space import Domain, Parameter, Space
from tuner.study import Constraint, Goal, Metric, Selection, check_study_id

#: Bounds by metric, such as `{"latency_ms": {"at_most": 50}}`, or constraints as they are.
Constraints = Mapping[str, Mapping[str, float]] | Iterable[Constraint]
#: A rule by its name, or with its parameters, such as `{"rule": "asha", "eta": 4}`.
EarlyStopping = str | Mapping[str, str | float]

#: A space, its domains by name, or its parameters.
SpaceLike = Space | Mapping[str, Domain | Parameter] | Sequence[Parameter]

_BOUNDS = ("at_most", "at_least")


def space_of(space: SpaceLike) -> Space:
    """The space of domains by name or of a list of parameters; raises InvalidArgumentError."""
    if isinstance(space, Space):
        return space
    if isinstance(space, Mapping):
        return Space.of(space)
    if isinstance(space, Iterable) and all(isinstance(each, Parameter) for each in space):
        return Space(tuple(space))
    raise InvalidArgumentError(
        "the space is a mapping such as {'units': tuner.Int(16, 256)} or a list of "
        f"tuner.Parameter, but got {space!r}."
    )


def check_count(name: str, value: int | None, least: int) -> None:
    """Raises InvalidArgumentError unless the number is whole and large enough, or None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise InvalidArgumentError(f"`{name}` must be a whole number, but got {value!r}.")
    if value is not None and value < least:
        raise InvalidArgumentError(f"`{name}` must be at least {least}, but got {value}.")


def metrics_of(
    maximize: str | None, minimize: str | None, metrics: Mapping[str, str] | None
) -> tuple[Metric, ...]:
    """The one metric or the several; raises InvalidArgumentError unless just one way is used."""
    given = [value for value in (maximize, minimize, metrics) if value is not None]
    if len(given) != 1 or not given[0]:
        raise InvalidArgumentError(
            "name what to optimize in one way: maximize='auc', minimize='loss', or "
            "metrics={'auc': 'maximize', 'latency': 'minimize'}."
        )
    if metrics is None:
        goal = Goal.MINIMIZE if maximize is None else Goal.MAXIMIZE
        return (Metric(name=str(given[0]), goal=goal),)
    if not isinstance(metrics, Mapping):
        raise InvalidArgumentError(
            f"`metrics` is a mapping such as {{'auc': 'maximize'}}, but got {metrics!r}."
        )
    return tuple(Metric(name=name, goal=_goal(name, goal)) for name, goal in metrics.items())


def _goal(name: str, goal: str) -> Goal:
    if goal not in list(Goal):
        raise InvalidArgumentError(
            f"the goal of metric {name!r} must be 'maximize' or 'minimize', but got {goal!r}."
        )
    return Goal(goal)


def constraints_of(constraints: Constraints) -> tuple[Constraint, ...]:
    """The bounds; raises InvalidArgumentError for what is none."""
    if not isinstance(constraints, Mapping):
        found = tuple(constraints)
        if not all(isinstance(constraint, Constraint) for constraint in found):
            raise InvalidArgumentError(
                "`constraints` is a mapping such as {'latency': {'at_most': 50}} or a list of "
                f"tuner.Constraint, but got {constraints!r}."
            )
        return found
    return tuple(
        constraint for name, bounds in constraints.items() for constraint in _bounds(name, bounds)
    )


def _bounds(metric: str, bounds: Mapping[str, float]) -> list[Constraint]:
    if not isinstance(bounds, Mapping) or not bounds or not bounds.keys() <= set(_BOUNDS):
        raise InvalidArgumentError(
            f"a constraint of {metric!r} is {{'at_most': 50}} or {{'at_least': 50}}, but got "
            f"{bounds!r}."
        )
    for key, bound in bounds.items():
        if isinstance(bound, bool) or not isinstance(bound, (int, float)):
            raise InvalidArgumentError(
                f"`{key}` of the constraint of {metric!r} must be a number, but got {bound!r}."
            )
    at_most, at_least = bounds.get("at_most"), bounds.get("at_least")
    found = []
    if at_most is not None:
        found.append(Constraint(metric=metric, at_most=float(at_most)))
    if at_least is not None:
        found.append(Constraint(metric=metric, at_least=float(at_least)))
    return found


def early_stopping_of(asked: EarlyStopping) -> tuple[str, Stopping]:
    """The rule and its parameters; raises InvalidArgumentError for what is none."""
    if isinstance(asked, str):
        return asked, Stopping()
    known = {"rule", *(field.name for field in fields(Stopping))}
    if not isinstance(asked, Mapping) or "rule" not in asked or not asked.keys() <= known:
        raise InvalidArgumentError(
            "`early_stopping` is a rule such as 'asha', or one with its parameters such as "
            f"{{'rule': 'asha', 'eta': 4}}, of {', '.join(sorted(known))}; but got {asked!r}."
        )
    given: dict[str, Any] = {
        name: value for name, value in asked.items() if name not in ("rule", "by")
    }
    for name, value in given.items():
        whole = name in WHOLE
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            kind = "a whole number" if whole else "a number"
            raise InvalidArgumentError(
                f"`{name}` of `early_stopping` must be {kind}, but got {value!r}."
            )
    by = asked.get("by", Progress.STEPS)
    if by not in list(Progress):
        raise InvalidArgumentError(
            f"`by` of `early_stopping` must be one of {', '.join(Progress)}, but got {by!r}."
        )
    return str(asked["rule"]), Stopping(by=Progress(str(by)), **given)


def warm_start_of(studies: Sequence[str]) -> tuple[str, ...]:
    """The names of earlier studies; raises InvalidArgumentError for one that cannot be a name."""
    if isinstance(studies, str):
        raise InvalidArgumentError(f"`warm_start` is a list of studies; write [{studies!r}].")
    return tuple(check_study_id(study) for study in studies)


def selection_of(measurement: str | None) -> Selection | None:
    """Which measurement of a trial is its result; None for what is usual."""
    words = {selection.value.lower(): selection for selection in Selection}
    if measurement is not None and measurement not in words:
        raise InvalidArgumentError(
            f"`measurement` must be 'best' or 'last', but got {measurement!r}."
        )
    return None if measurement is None else words[measurement]
