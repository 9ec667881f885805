"""The search space: a tree of parameters, each with its domain."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tuner.errors import InvalidArgumentError

#: Beyond this a float does not tell one step from the next.
_MOST_STEPS = 2**53

#: Of what is sent and stored in 64 bits.
_LARGEST_WHOLE = 2**63 - 1

#: What a parameter takes. A bool is a choice, never a number.
Value = float | int | str | bool


class Group(StrEnum):
    """What a parameter decides, so that importance can be told apart."""

    #: The shape of the model: layers, units, activation.
    MODEL = "model"
    #: What happens to the data before the model: buckets, vocabularies, crosses, embeddings.
    PREPROCESSING = "preprocessing"
    #: How the model is trained: learning rate, optimizer, batch size.
    TRAINING = "training"


@dataclass(frozen=True, slots=True)
class Float:
    """Real numbers from low to high, both included; `step` counts from `low`."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, self.log, self.step)
        object.__setattr__(self, "low", float(self.low))
        object.__setattr__(self, "high", float(self.high))

    def contains(self, value: Value) -> bool:
        """Whether `value` is a number between low and high."""
        if isinstance(value, (bool, str)):
            return False
        slack = 1e-12 * max(abs(self.low), abs(self.high), 1.0)
        return self.low - slack <= value <= self.high + slack

    def describe(self) -> str:
        """The domain in the words of a study file."""
        step = "" if self.step is None else f" step {self.step:g}"
        return f"float [{self.low:g}, {self.high:g}]{' log' if self.log else ''}{step}"


@dataclass(frozen=True, slots=True)
class Int:
    """Whole numbers from low to high, both included; `step` counts from `low`."""

    low: int
    high: int
    log: bool = False
    step: int = 1

    def __post_init__(self) -> None:
        for name, value in (
            ("low", self.low),
            ("high", self.high),
            ("step", self.step),
        ):
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not math.isfinite(value) or int(value) != value:
                raise InvalidArgumentError(f"`{name}` must be a whole number, but got {value!r}.")
            if abs(value) > _LARGEST_WHOLE:
                raise InvalidArgumentError(f"`{name}` must be within ±2^63, but got {value}.")
        _check_range(self.low, self.high, self.log, self.step if self.step != 1 else None)

    def contains(self, value: Value) -> bool:
        """Whether `value` is a whole number of the range, on a step."""
        if isinstance(value, (bool, str)) or int(value) != value:
            return False
        return self.low <= value <= self.high and (int(value) - self.low) % self.step == 0

    def describe(self) -> str:
        """The domain in the words of a study file."""
        step = "" if self.step == 1 else f" step {self.step}"
        return f"int [{self.low}, {self.high}]{' log' if self.log else ''}{step}"


@dataclass(frozen=True, slots=True)
class Discrete:
    """An ordered list of numbers, strictly increasing."""

    values: Sequence[float]

    def __post_init__(self) -> None:
        values = tuple(self.values)
        if not values:
            raise InvalidArgumentError("a discrete parameter needs at least one value.")
        if any(isinstance(v, (bool, str)) or not math.isfinite(v) for v in values):
            raise InvalidArgumentError(
                f"discrete values must be finite numbers, but got {values}."
            )
        if any(a >= b for a, b in itertools.pairwise(values)):
            raise InvalidArgumentError(f"discrete values must increase, but got {values}.")
        object.__setattr__(self, "values", tuple(float(v) for v in values))

    def contains(self, value: Value) -> bool:
        """Whether `value` is one of the numbers."""
        return not isinstance(value, (bool, str)) and value in self.values

    def describe(self) -> str:
        """The domain in the words of a study file."""
        return "discrete " + _listed(self.values)


@dataclass(frozen=True, slots=True)
class Categorical:
    """Values without an order."""

    choices: Sequence[Value]

    def __post_init__(self) -> None:
        if isinstance(self.choices, str):
            raise InvalidArgumentError(
                f"choices are a list such as ['sgd', 'adam'], but got {self.choices!r}."
            )
        choices = tuple(self.choices)
        if not choices:
            raise InvalidArgumentError("a categorical parameter needs at least one choice.")
        if any(isinstance(c, float) and not math.isfinite(c) for c in choices):
            raise InvalidArgumentError(f"numbers among choices must be finite, but got {choices}.")
        if len({(type(c), c) for c in choices}) != len(choices):
            raise InvalidArgumentError(f"choices must differ, but got {choices}.")
        object.__setattr__(self, "choices", choices)

    def contains(self, value: Value) -> bool:
        """Whether `value` is one of the choices, of the same type."""
        return any(type(c) is type(value) and c == value for c in self.choices)

    def describe(self) -> str:
        """The domain in the words of a study file."""
        return "categorical " + _listed(self.choices)


Domain = Float | Int | Discrete | Categorical


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One dimension of the space, with the parameters that depend on its value."""

    name: str
    domain: Domain
    group: Group = Group.MODEL
    children: tuple[Child, ...] = ()
    #: What trials drawn before this parameter existed are read with.
    default: Value | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.name) <= 128 or not self.name.isprintable():
            raise InvalidArgumentError(
                f"a parameter's name is 1 to 128 printable characters, but got {self.name!r}."
            )
        if not isinstance(self.domain, Domain):
            raise InvalidArgumentError(
                f"{self.name!r} takes a domain such as tuner.Float(0, 1) or "
                f"tuner.Categorical(['a', 'b']), but got {self.domain!r}."
            )
        for child in self.children:
            for value in child.parent_values:
                if not self.domain.contains(value):
                    raise InvalidArgumentError(
                        f"{child.parameter.name!r} depends on {self.name!r} being {value!r}, "
                        f"which is not in {self.domain.describe()}."
                    )
        if self.default is not None and not self.domain.contains(self.default):
            raise InvalidArgumentError(
                f"the default of {self.name!r}, {self.default!r}, is not in "
                f"{self.domain.describe()}."
            )

    def active_children(self, value: Value) -> Iterator[Parameter]:
        """The children that are active while this parameter has `value`."""
        for child in self.children:
            # True == 1 in Python, but they are two choices.
            if any(
                v == value and isinstance(v, bool) is isinstance(value, bool)
                for v in child.parent_values
            ):
                yield child.parameter


@dataclass(frozen=True, slots=True)
class Child:
    """A parameter that exists only while its parent has one of some values."""

    parent_values: tuple[Value, ...]
    parameter: Parameter

    def __post_init__(self) -> None:
        if not self.parent_values:
            raise InvalidArgumentError(
                f"{self.parameter.name!r} depends on no value of its parent, so it never exists."
            )


@dataclass(frozen=True, slots=True)
class Space:
    """What a study searches: the parameters active in every trial, each with its children."""

    parameters: tuple[Parameter, ...] = ()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for parameter in self.walk():
            if parameter.name in seen:
                raise InvalidArgumentError(
                    f"the parameter {parameter.name!r} appears twice; give one another name."
                )
            seen.add(parameter.name)

    @staticmethod
    def of(parameters: Mapping[str, Domain | Parameter]) -> Space:
        """Builds a space from `{name: domain}`; a Parameter brings its children and group.

        Raises:
            InvalidArgumentError: one is no domain, or a Parameter of another name.
        """
        for name, given in parameters.items():
            if isinstance(given, Parameter) and given.name != name:
                raise InvalidArgumentError(
                    f"the parameter {given.name!r} is given as {name!r}; use one name."
                )
        return Space(
            tuple(
                domain if isinstance(domain, Parameter) else Parameter(name=name, domain=domain)
                for name, domain in parameters.items()
            )
        )

    def walk(self) -> Iterator[Parameter]:
        """Every parameter of the tree, parents before children."""
        pending = list(reversed(self.parameters))
        while pending:
            parameter = pending.pop()
            yield parameter
            pending.extend(child.parameter for child in reversed(parameter.children))

    def active(self, values: Mapping[str, Value]) -> Iterator[Parameter]:
        """The parameters that exist under `values`, parents before children.

        Raises:
            InvalidArgumentError: an active parameter has no value.
        """
        pending = list(reversed(self.parameters))
        while pending:
            parameter = pending.pop()
            if parameter.name not in values:
                raise InvalidArgumentError(f"{parameter.name!r} is active but has no value.")
            yield parameter
            pending.extend(reversed(list(parameter.active_children(values[parameter.name]))))

    def check(self, values: Mapping[str, Value]) -> None:
        """Raises InvalidArgumentError unless `values` is one point of the space."""
        active = {parameter.name: parameter for parameter in self.active(values)}
        for name, value in values.items():
            if name not in active:
                raise InvalidArgumentError(f"{name!r} is not an active parameter of the space.")
            if not active[name].domain.contains(value):
                raise InvalidArgumentError(
                    f"{name!r} = {value!r} is not in {active[name].domain.describe()}."
                )

    @property
    def is_conditional(self) -> bool:
        """Whether some parameter exists only at times."""
        return any(parameter.children for parameter in self.walk())


def _check_range(low: float, high: float, log: bool, step: float | None) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InvalidArgumentError(f"`low` and `high` must be finite, but got {low=}, {high=}.")
    if not math.isfinite(high - low):
        raise InvalidArgumentError(
            f"`high - low` must be a number that a float can hold, but got {low=}, {high=}."
        )
    if step is not None and step > 0 and (high - low) / step > _MOST_STEPS:
        raise InvalidArgumentError(
            f"at most {_MOST_STEPS} steps may lie between low and high, but got {low=}, {high=}, "
            f"{step=}; leave `step` out."
        )
    if low > high:
        raise InvalidArgumentError(f"`low <= high` must hold, but got {low=}, {high=}.")
    if log and low <= 0:
        raise InvalidArgumentError(f"`low > 0` must hold on a log scale, but got {low=}.")
    if step is not None and (log or not step > 0):
        raise InvalidArgumentError(
            f"`step` must be above 0 and not be combined with log, but got {step=}, {log=}."
        )


def _listed(values: Sequence[Value]) -> str:
    return "[" + ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values) + "]"
