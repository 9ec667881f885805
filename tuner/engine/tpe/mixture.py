"""Parzen estimators: mixtures of kernels, one for each trial and one for the prior.

A kernel is a product over the parameters. It is a normal distribution cut to the range where the
parameter has an order, its mass over a cell where the parameter has steps, and the trial's choice
with most of the weight where there is no order. All is as in Optuna's `TPESampler`, version 5, but
on the unit cube: densities differ by a constant factor, the same for all mixtures of a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import ndtr, ndtri

from tuner.engine.tpe.axes import Axes, Choice, Floats, Indices, Stepped
from tuner.engine.tpe.kept import Kept, log_mass

# The logarithms of what adds nothing to 1, and of what does not overflow. A kernel is at most 90
# times as dense as the prior along an axis, so 150 axes would have to agree for the latter.
_LEAST, _MOST = -600.0, 700.0
# So many kernels at a time that what is computed of them stays in the processor's cache.
_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Normals:
    """The kernels along the continuous axes. The log density is a polynomial of the point."""

    #: float64 [axes, kernels], both.
    centres: Floats
    widths: Floats
    #: What `kept.polynomial` gives, float64 [2 axes + 1, kernels].
    coefficients: Floats


@dataclass(frozen=True, slots=True)
class Cells:
    """The kernels along a stepped axis. Many are equal, and are kept once."""

    #: float64 [distinct kernels], all.
    centres: Floats
    widths: Floats
    #: Of the kernels, which one of the distinct ones.
    index: Indices
    #: What `Kept.table` gives, if anything.
    table: Floats | None

    def log_mass(self, cells: PointsInCells) -> Floats:
        """The log mass of each distinct kernel in the cells of points; [kernels, points]."""
        if self.table is not None:
            return self.table.take(cells.indices, axis=1)
        low, high, place = cells.distinct
        return log_mass(self.centres, self.widths, low, high).take(place, axis=1)


@dataclass(frozen=True)
class PointsInCells:
    """Points along a stepped axis."""

    axis: Stepped
    #: Which cell each is in.
    indices: Indices

    @cached_property
    def distinct(self) -> tuple[Floats, Floats, Indices]:
        """The lower and upper ends of the cells they are in, and in which of them each is."""
        cells, place = np.unique(self.indices, return_inverse=True)
        return *self.axis.edges(cells.astype(np.float64)), place


@dataclass(frozen=True, slots=True)
class Points:
    """Points of a block, ready for mixtures to give their densities."""

    #: float64 [points, axes], in terms of the axes.
    coordinates: Floats
    #: Along the continuous axes what `polynomial` has coefficients of; [2 axes + 1, points].
    powers: Floats
    #: Along each stepped axis.
    cells: tuple[PointsInCells, ...]
    #: Along each axis without an order the choices.
    choices: tuple[Indices, ...]

    @classmethod
    def of(cls, axes: Axes, coordinates: Floats) -> Points:
        """Prepares points."""
        continuous, numeric = len(axes.continuous), len(axes.numeric)
        x = coordinates[:, :continuous].T
        indices = coordinates[:, continuous:].T.astype(np.intp)
        stepped = numeric - continuous
        return cls(
            coordinates,
            np.concatenate([x * x, x, np.ones((1, len(coordinates)))]),
            tuple(map(PointsInCells, axes.stepped, indices[:stepped])),
            tuple(indices[stepped:]),
        )


@dataclass(frozen=True, slots=True)
class Mixture:
    """Weighted kernels over a block of parameters; the last one is the prior.

    A point is a row of float64 [axes], in terms of the axes.
    """

    axes: Axes
    #: float64 [kernels], adding up to 1.
    weights: Floats
    normals: Normals
    cells: tuple[Cells, ...]
    #: The choices of each axis without an order, [kernels]; the prior's is one beyond the last.
    choices: tuple[Indices, ...]
    #: The share that any choice has of a kernel's weight, for 1 of the kernel's own choice.
    smoothing: float

    def sample(self, generator: np.random.Generator, size: int) -> Floats:
        """Draws points, float64 [size, axes]."""
        kernel_axis, *axes = generator.random((1 + len(self.axes.all), size))
        cumulated = np.cumsum(self.weights)
        kernels = np.searchsorted(cumulated, kernel_axis * cumulated[-1], side="right")
        points = np.empty((len(axes), size))
        numeric = self.axes.numeric
        if numeric:
            centres = np.array([*self.normals.centres[:, kernels], *self._of_cells(kernels, 0)])
            widths = np.array([*self.normals.widths[:, kernels], *self._of_cells(kernels, 1)])
            below, upto = ndtr(-centres / widths), ndtr((1 - centres) / widths)
            quantiles = below + np.array(axes[: len(numeric)]) * (upto - below)
            units = np.clip(centres + widths * ndtri(quantiles), 0, 1)
            for column, ordered in enumerate(numeric):
                points[column] = ordered.points(units[column])
        for column, (axis, chosen) in enumerate(
            zip(self.axes.choices, self.choices, strict=True), len(numeric)
        ):
            points[column] = self._choose(axis, chosen[kernels], axes[column])
        return points.T

    def log_density(self, points: Points) -> Floats:
        """The log density at points, float64 [points], up to a constant of the block."""
        tables = [
            (cells.log_mass(at), cells.index)
            for cells, at in zip(self.cells, points.cells, strict=True)
        ]
        tables += [
            (self._table(axis, choices), chosen)
            for axis, choices, chosen in zip(
                self.axes.choices, points.choices, self.choices, strict=True
            )
        ]
        # Relative to the prior, the last kernel: what is lost beside it adds nothing to the sum.
        base = self.normals.coefficients[:, -1] @ points.powers
        for table, index in tables:
            base += table[index[-1]]
        total = np.zeros(len(points.coordinates))
        for start in range(0, len(self.weights), _CHUNK):
            part = slice(start, start + _CHUNK)
            logs = self.normals.coefficients[:, part].T @ points.powers
            for table, index in tables:
                logs += table.take(index[part], axis=0)
            logs -= base
            # Results below the smallest normal number would also be slow to compute.
            np.clip(logs, _LEAST, _MOST, out=logs)
            total += self.weights[part] @ np.exp(logs, out=logs)
        return base + np.log(total)

    def _of_cells(self, kernels: Indices, which: int) -> list[Floats]:
        return [(cells.centres, cells.widths)[which][cells.index[kernels]] for cells in self.cells]

    def _table(self, axis: Choice, points: Indices) -> Floats:
        """The log probability of choices by the kernel's own choice; [choices + 1, points]."""
        total = 1 + axis.size * self.smoothing
        table = np.full((axis.size + 1, len(points)), np.log(self.smoothing / total))
        table[points, np.arange(len(points))] = np.log((1 + self.smoothing) / total)
        table[-1] = -np.log(axis.size)
        return table

    def _choose(self, axis: Choice, own: Indices, quantiles: Floats) -> Floats:
        place = quantiles * (1 + axis.size * self.smoothing)
        # The prior has no choice of its own: all of its weight is for any.
        prior = own == axis.size
        anyone = np.where(prior, quantiles * axis.size, (place - 1) / self.smoothing)
        drawn = np.where((place < 1) & ~prior, own, np.floor(anyone))
        return np.minimum(np.maximum(drawn, 0), axis.size - 1)


def mixture(
    axes: Axes,
    weights: Floats,
    ordered: Floats,
    order: Indices,
    choices: Indices,
    places: Indices,
    kept: Kept,
    trials: int,
) -> Mixture:
    """The mixture of some trials of a block.

    Args:
        axes: The block's.
        weights: Of the trials, float64 [trials]; the prior has 1.
        ordered: The coordinates on each axis with an order, ascending; float64 [axes, trials].
        order: Which trial each of them belongs to; [axes, trials].
        choices: The indices of the trials' choices; [axes without an order, trials].
        places: The trials' places in the block, [trials].
        kept: What is kept of the block's kernels.
        trials: How many trials these stand for.
    """
    widths = kernel_widths(ordered)
    continuous = len(axes.continuous)
    # The trials by number, then the prior: the middle, as wide as the range.
    near = np.full((continuous, len(weights) + 1), 0.5)
    wide = np.full((continuous, len(weights) + 1), 1.0)
    for axis in range(continuous):
        near[axis, order[axis]] = ordered[axis]
        wide[axis, order[axis]] = widths[axis]
    fitted = kept.coefficients(places, near[:, :-1], wide[:, :-1])
    normals = Normals(near, wide, np.concatenate([fitted, kept.prior], axis=1))
    cells = tuple(
        _cells(ordered[axis], widths[axis], order[axis], kept, axis - continuous)
        for axis in range(continuous, len(ordered))
    )
    chosen = tuple(
        np.append(own, axis.size) for axis, own in zip(axes.choices, choices, strict=True)
    )
    total = np.append(weights, 1.0)
    return Mixture(axes, total / total.sum(), normals, cells, chosen, 1 / (trials + 1))


def kernel_widths(ordered: Floats) -> Floats:
    """The standard deviations of kernels: the distance to the further neighbour, within bounds.

    Bergstra et al., Algorithms for Hyper-Parameter Optimization, NeurIPS 2011. The ends of the
    range count as neighbours only where there is one trial.

    Args:
        ordered: The kernels' coordinates, ascending; float64 [axes, trials].
    """
    axes, trials = ordered.shape
    if not trials:
        return ordered
    bordered = np.empty((axes, trials + 2))
    bordered[:, 0], bordered[:, 1:-1], bordered[:, -1] = 0.0, ordered, 1.0
    gaps = bordered[:, 1:] - bordered[:, :-1]
    widths = np.maximum(gaps[:, :-1], gaps[:, 1:])
    if trials > 1:
        widths[:, 0], widths[:, -1] = gaps[:, 1], gaps[:, -2]
    # One more kernel than trials, and one more again.
    bounded: Floats = np.minimum(np.maximum(widths, 1 / min(100.0, trials + 2.0)), 1.0)
    return bounded


def _cells(ordered: Floats, widths: Floats, order: Indices, kept: Kept, column: int) -> Cells:
    is_new = np.ones(len(ordered) + 1, dtype=bool)
    is_new[1:-1] = (ordered[1:] != ordered[:-1]) | (widths[1:] != widths[:-1])
    number = is_new.cumsum() - 1
    index = np.empty_like(number)
    index[order], index[-1] = number[:-1], number[-1]
    centres, distinct = (
        np.append(each, last)[is_new] for each, last in ((ordered, 0.5), (widths, 1.0))
    )
    return Cells(centres, distinct, index, kept.table(column, centres, distinct))
