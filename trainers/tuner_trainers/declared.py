"""Spaces that are declared by code: found by running it under the values that it asks for.

The code is given an object and asks it for values, `layers = trial.int("layers", 1, 4)`. It is
run with the defaults first, then with every other value of each parameter that can decide which
others there are: choices, booleans, and numbers of few values. A parameter that is asked for under
some values of another only is its child.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tuner.errors import InvalidArgumentError
from tuner.space import (
    Categorical,
    Child,
    Discrete,
    Domain,
    Float,
    Group,
    Int,
    Parameter,
    Space,
    Value,
)

#: A number of more values than this decides nothing of the space.
_MOST_VALUES = 32
#: How often code is run to find its space.
MOST_RUNS = 500

#: Called with the number of an epoch and the Keras network.
Callback = Callable[[int, Any], "Mapping[str, float] | None"]

#: In a class with methods of these names, they name the methods.
_Int: TypeAlias = int
_Float: TypeAlias = float
_Bool: TypeAlias = bool


class Declaration:
    """What declaring code is given: asks are answered by the trial's values, or the defaults.

    A parameter belongs to a group, `model` or `training`, so that a study can tell what mattered.

    Args:
        values: by name, tuned and fixed.
        domains: instead of those that are asked for, by name.
    """

    def __init__(
        self, values: Mapping[str, Value], domains: Mapping[str, Domain] | None = None
    ) -> None:
        self._values = values
        self._domains = domains or {}
        #: What was asked for, in this order.
        self.asked: dict[str, Parameter] = {}
        #: What is called after each epoch.
        self.callbacks: list[Callback] = []

    def int(
        self,
        name: str,
        low: _Int,
        high: _Int,
        *,
        log: _Bool = False,
        step: _Int = 1,
        default: _Int | None = None,
        group: str = "model",
    ) -> _Int:
        """A whole number from low to high, both included; the default is low."""
        return int(self._ask(name, Int(low, high, log=log, step=step), default, group))

    def float(
        self,
        name: str,
        low: _Float,
        high: _Float,
        *,
        log: _Bool = False,
        step: _Float | None = None,
        default: _Float | None = None,
        group: str = "model",
    ) -> _Float:
        """A real number from low to high, both included; the default is low."""
        return float(self._ask(name, Float(low, high, log=log, step=step), default, group))

    def choice(
        self,
        name: str,
        choices: Sequence[Value],
        *,
        default: Value | None = None,
        group: str = "model",
    ) -> Value:
        """One of some values, without an order; the default is the first."""
        return self._ask(name, Categorical(tuple(choices)), default, group)

    def boolean(self, name: str, *, default: _Bool = False, group: str = "model") -> _Bool:
        """True or false."""
        return bool(self._ask(name, Categorical((False, True)), default, group))

    def after_epoch(self, callback: Callback) -> Callback:
        """Has a function called after each epoch; it may be used as a decorator.

        Args:
            callback: called with the epoch, from 1, and the network that is trained, in every
                process of the trial and before the epoch is measured. Numbers that it returns by
                name are reported beside the trainer's metrics.
        """
        self.callbacks.append(callback)
        return callback

    def _ask(self, name: str, domain: Domain, default: Value | None, group: str) -> Value:
        parameter = Parameter(
            name=name,
            domain=self._domains.get(name, domain),
            group=Group(group),
            default=default if default is None or domain.contains(default) else None,
        )
        before = self.asked.setdefault(name, parameter)
        if before != parameter:
            raise InvalidArgumentError(
                f"the parameter {name!r} is asked for as {before.domain.describe()} and as "
                f"{parameter.domain.describe()}; give each its own name."
            )
        if name in self._values:
            return self._values[name]
        own = parameter.domain
        return default if default is not None and own.contains(default) else _first(own)


def _first(domain: Domain) -> Value:
    match domain:
        case Categorical():
            return domain.choices[0]
        case Discrete():
            return domain.values[0]
        case _:
            return domain.low


def _deciding(domain: Domain) -> tuple[Value, ...]:
    """The values under which others may exist; none if there are too many."""
    values: Sequence[Value] = ()
    match domain:
        case Categorical():
            values = domain.choices
        case Discrete():
            values = domain.values
        case Int():
            values = range(domain.low, domain.high + 1, domain.step)
    return tuple(values) if len(values) <= _MOST_VALUES else ()


Declare = Callable[[Declaration], object]


def discover(
    declare: Declare,
    *,
    fixed: Mapping[str, Value] | None = None,
    domains: Mapping[str, Domain] | None = None,
) -> Space:
    """Finds the space of declaring code; it must ask for the same when it is given the same.

    Not found is what exists under two values at once of which neither is a default, unless one
    of the two exists under the other.

    Args:
        declare: the code.
        fixed: values that are not tuned, by name.
        domains: instead of those that are asked for, by name.

    Raises:
        InvalidArgumentError: the code asks for one parameter in two ways, or for too much.
        Exception: what the code raised.
    """
    search = _Search(declare, fixed or {}, domains or {})
    search.explore({})
    return search.space()


def complete(given: Space, fixed: Mapping[str, Value], declare: Declare) -> Space:
    """The space that code declares, with what a study file says of it.

    Args:
        given: domains that take the place of the declared ones, and parameters that the code
            does not ask for.
        fixed: values that are not tuned.
        declare: the code.
    """
    space = discover(
        declare,
        fixed=fixed,
        domains={parameter.name: parameter.domain for parameter in given.walk()},
    )
    names = {parameter.name for parameter in space.walk()}
    return Space((*space.parameters, *(p for p in given.parameters if p.name not in names)))


@dataclass(slots=True)
class _Found:
    """A parameter with what it hangs on."""

    parameter: Parameter
    parent: str | None = None
    values: tuple[Value, ...] = ()


@dataclass(slots=True)
class _Search:
    declare: Declare
    fixed: Mapping[str, Value]
    domains: Mapping[str, Domain]
    found: dict[str, _Found] = field(default_factory=dict)
    runs: int = 0

    def explore(self, path: Mapping[str, Value], above: frozenset[str] = frozenset()) -> None:
        """Finds what is asked for under some values, and what else under others of these.

        Args:
            path: the values; the others are defaults.
            above: names that were explored on the way here.
        """
        here = self._run(path)
        names = [name for name in here if name not in above]
        for name in names:
            self.found.setdefault(name, _Found(here[name]))
        seen = {
            name: [
                (value, self._run({**path, name: value})) for value in _deciding(here[name].domain)
            ]
            for name in names
        }
        for name, runs in seen.items():
            self._attach(name, runs)
        explored = above | here.keys()
        for name, runs in seen.items():
            for value, asked in runs:
                if asked.keys() - explored:
                    self.explore({**path, name: value}, explored)

    def _attach(self, name: str, runs: Sequence[tuple[Value, Mapping[str, Parameter]]]) -> None:
        """Notes what is asked for under some values of `name` only: the last such one decides."""
        for each in dict.fromkeys(other for _, asked in runs for other in asked):
            under = [(value, asked[each]) for value, asked in runs if each in asked]
            if len(under) < len(runs):
                found = self.found.setdefault(each, _Found(under[0][1]))
                found.parent, found.values = name, tuple(value for value, _ in under)

    def _run(self, path: Mapping[str, Value]) -> Mapping[str, Parameter]:
        self.runs += 1
        if self.runs > MOST_RUNS:
            raise InvalidArgumentError(
                f"the space was not found in {MOST_RUNS} runs of the code: give choices and "
                "small whole numbers fewer values, or write `parameters` in the study file."
            )
        declaration = Declaration({**self.fixed, **path}, self.domains)
        self.declare(declaration)
        asked = {name: p for name, p in declaration.asked.items() if name not in self.fixed}
        for name, parameter in asked.items():
            known = self.found.get(name)
            if known is not None and known.parameter != parameter:
                raise InvalidArgumentError(
                    f"the parameter {name!r} is asked for as "
                    f"{known.parameter.domain.describe()} and as {parameter.domain.describe()}; "
                    "give each its own name."
                )
        return asked

    def space(self) -> Space:
        return Space(tuple(self._under(None)))

    def _under(self, parent: str | None) -> Iterator[Parameter]:
        for name, found in self.found.items():
            if found.parent == parent:
                children = tuple(
                    Child(self.found[child.name].values, child) for child in self._under(name)
                )
                own = found.parameter
                yield Parameter(
                    name=own.name,
                    domain=own.domain,
                    group=own.group,
                    children=children,
                    default=own.default,
                )
