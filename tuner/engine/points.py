"""Points of a space: from coordinates, at its centre, and as other values are read in it."""

from __future__ import annotations

import hashlib
import marshal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tuner.engine import domains
from tuner.space import Parameter, Space, Value

#: A point as something to compare and hash; tells 1, 1.0 and True apart. A digest: a study may
#: keep a hundred thousand of them.
Key = bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """A trial's parameters as the space reads them."""

    #: Parents before children; only active parameters that have a value inside their domain.
    values: Mapping[str, Value]
    #: Whether every active parameter has one.
    complete: bool


def walk(space: Space, choose: Callable[[Parameter], Value]) -> dict[str, Value]:
    """Builds a point by asking for the value of each active parameter, parents first."""
    point: dict[str, Value] = {}
    pending = list(reversed(space.parameters))
    while pending:
        parameter = pending.pop()
        value = point[parameter.name] = choose(parameter)
        pending.extend(reversed(list(parameter.active_children(value))))
    return point


def key_of(point: Mapping[str, Value]) -> Key:
    """What makes the point equal to another."""
    # Version 2 writes equal values as equal bytes; later ones depend on who else refers to them.
    told = marshal.dumps(sorted(point.items()), 2)
    return hashlib.blake2b(told, digest_size=16).digest()


def centre(space: Space) -> dict[str, Value]:
    """The point to start from: each parameter's default, or else the middle of its domain."""

    def choose(parameter: Parameter) -> Value:
        if parameter.default is not None:
            value = domains.canonical(parameter.domain, parameter.default)
            if value is not None:
                return value
        return domains.centre(parameter.domain)

    return walk(space, choose)


class UnitCube:
    """The space as a cube with one side for each parameter of the tree, active or not."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._side = {parameter.name: i for i, parameter in enumerate(space.walk())}

    @property
    def sides(self) -> int:
        """The cube's dimension."""
        return len(self._side)

    def point(self, coordinates: Sequence[float]) -> dict[str, Value]:
        """The point at `coordinates`, each at least 0 and below 1; inactive ones are not read."""
        return walk(
            self._space,
            lambda parameter: domains.at(
                parameter.domain, coordinates[self._side[parameter.name]]
            ),
        )


def project(space: Space, parameters: Mapping[str, Value]) -> Projection:
    """Reads `parameters`, perhaps drawn from an earlier version of the space, as a point of it.

    Where a parameter has no value its default is taken. One without a default, or with a value
    outside its domain, is left out together with its children.
    """
    values: dict[str, Value] = {}
    complete = True
    pending = list(reversed(space.parameters))
    while pending:
        parameter = pending.pop()
        raw = parameters.get(parameter.name, parameter.default)
        value = None if raw is None else domains.canonical(parameter.domain, raw)
        if value is None:
            complete = False
            continue
        values[parameter.name] = value
        if parameter.children:
            pending.extend(reversed(list(parameter.active_children(value))))
    return Projection(values=values, complete=complete)
