"""The space as a cube: parameters as numbers from 0 to 1 and choices, as arrays and back."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: Where an ordered parameter lies in the points that do not have it, and a choice likewise.
_NOWHERE = 0.5
_NO_CHOICE = -1.0
# Of more choices not every one is tried at once.
_MOST_CHOICES = 50


@dataclass(frozen=True, slots=True)
class Axis:
    """One parameter: its distribution, and under which values of another one it exists.

    Coordinates are uniform on the parameter's own scale: equal ratios are equally long on a log
    scale, and every whole number or step has a cell with its coordinate at the centre. That of a
    choice is its index.
    """

    distribution: BaseDistribution
    #: The index of the axis that decides whether this one is active, and its coordinates there.
    parent: int | None = None
    when: tuple[float, ...] = ()

    @property
    def choices(self) -> int:
        """How many choices there are without an order; 0 for an ordered parameter."""
        distribution = self.distribution
        return (
            len(distribution.choices) if isinstance(distribution, CategoricalDistribution) else 0
        )

    @property
    def levels(self) -> int | None:
        """How many values there are; None if they cannot be counted."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return len(choices)
            case IntDistribution(low=low, high=high, step=step):
                return (high - low) // step + 1
            case FloatDistribution(low=low, high=high, step=float(step)):
                return round((high - low) / step) + 1
            case FloatDistribution(low=low, high=high):
                return 1 if low == high else None
        raise TypeError(f"{type(self.distribution).__name__} has no place in a cube.")

    def coordinates(self, values: Iterable[Any]) -> Array:
        """The coordinates of values; outside of 0 to 1 for those beyond the range."""
        internal = np.array([self.distribution.to_internal_repr(value) for value in values], float)
        return internal if self.choices else self._to_unit(internal)

    def value(self, coordinate: float) -> Any:
        """The value at a coordinate."""
        if self.choices:
            return self.distribution.to_external_repr(coordinate)
        internal = float(self._from_unit(np.array([coordinate]))[0])
        return self.distribution.to_external_repr(internal)

    def spread(self, u: Array) -> Array:
        """Coordinates for uniform numbers from 0 to 1, before rounding."""
        return np.floor(np.minimum(u, 1 - 1e-12) * self.choices) if self.choices else u

    def rounded(self, coordinates: Array) -> Array:
        """The nearest coordinates that have a value."""
        if self.choices or (self.levels is None):
            return coordinates
        return self._to_unit(self._from_unit(coordinates))

    def alternatives(self, coordinates: Array, few: int) -> Iterator[Array]:
        """Other coordinates for each of these: every one if there are few, or else some near."""
        levels, step = self.levels or 0, float(getattr(self.distribution, "step", None) or 1)
        if self.choices:
            turns = np.linspace(1, levels - 1, min(levels - 1, _MOST_CHOICES)).astype(int)
            yield from ((coordinates + turn) % levels for turn in turns)
        elif levels <= few:
            first = float(getattr(self.distribution, "low", 0.0))
            values = np.array([first + step * level for level in range(levels)])
            yield from (np.full_like(coordinates, one) for one in self._to_unit(values))
        else:
            for steps in (-3, -1, 1, 3):
                moved = self._from_unit(coordinates) + steps * step
                yield self.rounded(self._to_unit(moved))

    def _to_unit(self, values: Array) -> Array:
        low, high = self._bounds
        if self._is_log:
            values = np.log(np.maximum(values, 1e-300))
        return (values - low) / (high - low) if high > low else np.full_like(values, _NOWHERE)

    def _from_unit(self, coordinates: Array) -> Array:
        low, high = self._bounds
        values = low + np.clip(coordinates, 0.0, 1.0) * (high - low)
        if self._is_log:
            values = np.exp(values)
        distribution = self.distribution
        step = getattr(distribution, "step", None)
        first, last = getattr(distribution, "low", 0.0), getattr(distribution, "high", 0.0)
        if step is not None:
            steps = np.round((values - first) / step)
            values = first + np.clip(steps, 0, (self.levels or 1) - 1) * step
        return np.clip(values, first, last)

    @property
    def _is_log(self) -> bool:
        return bool(getattr(self.distribution, "log", False))

    @property
    def _bounds(self) -> tuple[float, float]:
        match self.distribution:
            case FloatDistribution(low=low, high=high, log=log, step=None):
                pass
            case FloatDistribution(low=low, high=high, log=log, step=float(step)):
                low, high = low - step / 2, high + step / 2
            case IntDistribution(low=low, high=high, log=log, step=step):
                low, high = low - step / 2, high + step / 2
            case _:
                raise TypeError(f"{type(self.distribution).__name__} is not a range.")
        return (math.log(low), math.log(high)) if log else (float(low), float(high))


@dataclass(frozen=True)
class Cube:
    """The axes by name, parents before children.

    Points are rows of coordinates, [points, axes]. Where a parameter is not active, its row has
    the centre of its range, or no choice: points without it agree, and those with it differ from
    them the less, the nearer they are to the centre.
    """

    names: tuple[str, ...]
    axes: tuple[Axis, ...]

    @property
    def dimension(self) -> int:
        """How many axes there are."""
        return len(self.axes)

    def with_only(self, names: Container[str]) -> Cube:
        """The cube without other axes; one whose parent is left out is always active."""
        kept = [index for index, name in enumerate(self.names) if name in names]
        if len(kept) == self.dimension:
            return self
        place = {old: new for new, old in enumerate(kept)}
        axes = []
        for index in kept:
            axis = self.axes[index]
            parent = None if axis.parent is None else place.get(axis.parent)
            axes.append(Axis(axis.distribution, parent, () if parent is None else axis.when))
        return Cube(tuple(self.names[index] for index in kept), tuple(axes))

    def encode(self, parameters: Sequence[Mapping[str, Any]]) -> Array:
        """Points of dicts of values; a parameter without one is not active."""
        points = np.tile(self._nowhere, (len(parameters), 1))
        for index, (name, axis) in enumerate(zip(self.names, self.axes, strict=True)):
            having = [row for row, values in enumerate(parameters) if name in values]
            own = axis.coordinates([parameters[row][name] for row in having])
            # From a range that was wider: at its end, where what is beyond would be tried.
            points[having, index] = own if axis.choices else np.clip(own, 0.0, 1.0)
        return points

    def decode(self, point: Array) -> dict[str, Any]:
        """The values of the parameters that are active at a point [axes]."""
        active = self.active(point[None])[0]
        return {
            name: axis.value(float(coordinate))
            for name, axis, coordinate, is_active in zip(
                self.names, self.axes, point, active, strict=True
            )
            if is_active
        }

    def spread(self, uniform: Array) -> Array:
        """Points for uniform numbers from 0 to 1, [points, axes]."""
        points = np.empty_like(uniform)
        for index, axis in enumerate(self.axes):
            points[:, index] = axis.spread(uniform[:, index])
        return self.canonical(points)

    def canonical(self, points: Array) -> Array:
        """The points rounded to values that exist, and without what is not active."""
        rounded = points.copy()
        for index in self._rounded:
            rounded[:, index] = self.axes[index].rounded(points[:, index])
        if self.is_conditional:
            rounded = np.where(self.active(rounded), rounded, self._nowhere)
        return rounded

    def active(self, points: Array) -> Mask:
        """Which parameters exist at rounded points, [points, axes]."""
        active = np.ones(points.shape, dtype=bool)
        for index, axis in enumerate(self.axes):
            if axis.parent is not None:
                own = np.isclose(points[:, axis.parent, None], axis.when, rtol=0, atol=1e-9)
                active[:, index] = own.any(1) & active[:, axis.parent]
        return active

    def embed(self, points: Array) -> Array:
        """The points in a Euclidean space, [points, columns]; a choice has a column for each.

        Two choices are at distance 1, so distances there count choices that differ (Hamming).
        """
        embedded = np.empty((len(points), len(self.owners)))
        embedded[:, : len(self.ordered)] = points[:, self.ordered]
        column = len(self.ordered)
        for index, axis in enumerate(self.axes):
            if axis.choices:
                own = points[:, index, None] == np.arange(axis.choices)
                embedded[:, column : column + axis.choices] = own * math.sqrt(0.5)
                column += axis.choices
        return embedded

    @cached_property
    def ordered(self) -> npt.NDArray[np.intp]:
        """The axes with an order; their columns come first, in this order."""
        return np.array([i for i, a in enumerate(self.axes) if not a.choices], dtype=np.intp)

    @cached_property
    def owners(self) -> npt.NDArray[np.intp]:
        """The axis of each column."""
        choices = [i for i, axis in enumerate(self.axes) for _ in range(axis.choices)]
        return np.array([*self.ordered, *choices], dtype=np.intp)

    @cached_property
    def is_conditional(self) -> bool:
        """Whether some parameter exists only at times."""
        return any(axis.parent is not None for axis in self.axes)

    @cached_property
    def _rounded(self) -> list[int]:
        return [i for i, a in enumerate(self.axes) if not a.choices and a.levels is not None]

    @cached_property
    def _nowhere(self) -> Array:
        return np.array([_NO_CHOICE if axis.choices else _NOWHERE for axis in self.axes])
