"""Parameters as axes of the unit cube, on which the kernels of the model lie."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Scale:
    """The interval from `low` to `high`, on a log scale or a linear one, as the unit interval."""

    low: float
    span: float
    log: bool

    @classmethod
    def of(cls, low: float, high: float, *, log: bool) -> Scale:
        """The scale between two values."""
        start, end = (math.log(low), math.log(high)) if log else (low, high)
        # Values that differ may have the same logarithm.
        return cls(start, end - start or 1.0, log)

    def unit(self, value: float) -> float:
        """The value's coordinate; what lies outside the interval counts at its nearest end."""
        place = (math.log(value) if value > 0 else -math.inf) if self.log else value
        return min(max((place - self.low) / self.span, 0.0), 1.0)

    def units(self, values: Floats) -> Floats:
        """The coordinates of values inside the interval."""
        return ((np.log(values) if self.log else values) - self.low) / self.span

    def value(self, unit: float) -> float:
        """The inverse of `unit`."""
        place = self.low + unit * self.span
        return math.exp(place) if self.log else place

    def values(self, units: Floats) -> Floats:
        """The inverse of `units`."""
        places = self.low + units * self.span
        return np.exp(places) if self.log else places


@dataclass(frozen=True, slots=True)
class Continuous:
    """A parameter with a value everywhere. Points on the axis are its coordinates."""

    name: str
    distribution: FloatDistribution
    scale: Scale

    def kernel(self, value: Any) -> float:
        """Where the kernel of a trial with this value lies."""
        return self.scale.unit(float(value))

    def points(self, units: Floats) -> Floats:
        """The points at some coordinates."""
        return units

    def value(self, point: float) -> float:
        """The value at a point, as Optuna gives it."""
        return min(max(self.scale.value(point), self.distribution.low), self.distribution.high)


@dataclass(frozen=True, slots=True)
class Stepped:
    """A parameter with a value in the middle of each cell. Points are numbers of cells."""

    name: str
    distribution: FloatDistribution | IntDistribution
    scale: Scale
    step: float
    cells: int

    def kernel(self, value: Any) -> float:
        """Where the kernel of a trial with this value lies."""
        return self.scale.unit(float(value))

    def points(self, units: Floats) -> Floats:
        """The cells at some coordinates."""
        places = (self.scale.values(units) - self.distribution.low) / self.step
        return np.minimum(np.maximum(np.rint(places), 0), self.cells - 1)

    def edges(self, points: Floats) -> tuple[Floats, Floats]:
        """The coordinates of both ends of some cells."""
        middles = self.distribution.low + points * self.step
        half = self.step / 2
        return self.scale.units(middles - half), self.scale.units(middles + half)

    def value(self, point: float) -> float | int:
        """The value of a cell, as Optuna gives it."""
        value = min(self.distribution.low + point * self.step, self.distribution.high)
        return int(value) if isinstance(self.distribution, IntDistribution) else float(value)


@dataclass(frozen=True, slots=True)
class Choice:
    """A parameter without an order. Points are the indices of its choices."""

    name: str
    distribution: CategoricalDistribution

    @property
    def size(self) -> int:
        """How many choices there are."""
        return len(self.distribution.choices)

    def kernel(self, value: Any) -> float:
        """The index of the choice."""
        return self.distribution.to_internal_repr(value)

    def points(self, units: Floats) -> Floats:
        """The choices at some coordinates, each as likely."""
        return np.minimum(np.floor(units * self.size), self.size - 1)

    def value(self, point: float) -> Any:
        """The choice at an index."""
        return self.distribution.choices[int(point)]


@dataclass(frozen=True, slots=True)
class Axes:
    """The axes of a block of parameters, in the order of columns: first those with an order."""

    continuous: tuple[Continuous, ...]
    stepped: tuple[Stepped, ...]
    choices: tuple[Choice, ...]

    @classmethod
    def of(cls, block: Mapping[str, BaseDistribution]) -> Axes:
        """The axes of some parameters, none of which has only one value.

        Raises:
            TypeError: a distribution is none of Optuna's.
        """
        axes = [_axis(name, distribution) for name, distribution in block.items()]
        return cls(
            tuple(axis for axis in axes if isinstance(axis, Continuous)),
            tuple(axis for axis in axes if isinstance(axis, Stepped)),
            tuple(axis for axis in axes if isinstance(axis, Choice)),
        )

    @property
    def numeric(self) -> tuple[Continuous | Stepped, ...]:
        """The axes with an order."""
        return (*self.continuous, *self.stepped)

    @property
    def all(self) -> tuple[Continuous | Stepped | Choice, ...]:
        """All axes in the order of columns."""
        return (*self.continuous, *self.stepped, *self.choices)

    def values(self, point: Floats) -> dict[str, Any]:
        """The values at a point, float64 [axes], as Optuna gives them."""
        return {axis.name: axis.value(x) for axis, x in zip(self.all, point.tolist(), strict=True)}

    def spread(self, generator: np.random.Generator) -> dict[str, Any]:
        """Values at random, uniform on each parameter's scale."""
        units = generator.random((len(self.all), 1))
        points = [axis.points(unit) for axis, unit in zip(self.all, units, strict=True)]
        return self.values(np.concatenate(points))


def _axis(name: str, distribution: BaseDistribution) -> Continuous | Stepped | Choice:
    match distribution:
        case CategoricalDistribution():
            return Choice(name, distribution)
        case FloatDistribution(low=low, high=high, log=log, step=None):
            return Continuous(name, distribution, Scale.of(low, high, log=log))
        case FloatDistribution() | IntDistribution():
            step = float(distribution.step or 1)
            low, high = distribution.low, distribution.high
            scale = Scale.of(low - step / 2, high + step / 2, log=distribution.log)
            return Stepped(name, distribution, scale, step, round((high - low) / step) + 1)
    raise TypeError(f"{type(distribution).__name__} is not a distribution that TPE draws from.")
