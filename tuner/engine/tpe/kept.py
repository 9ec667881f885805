"""What is kept of a block's kernels from one mixture to the next: only work that is saved."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from tuner.engine.tpe.axes import Axes, Floats, Indices
from tuner.engine.tpe.growing import Growing

# The logarithm of the square root of 2 pi.
_LOG_ROOT = 0.5 * float(np.log(2 * np.pi))
# In standard deviations; further off than this the mass of a cell is approximated.
_FAR = 8.0
# In standard deviations; a cell shorter than this has the density of its middle.
_NARROW = 1e-4
_LEAST_HALF = 1e-18
# With so few cells, what kernels give to all of them is worth keeping.
_FEW_CELLS = 64
_MOST_TABLES = 8


class Kept:
    """Coefficients by trial, as long as its kernel is the same, and tables of mass by kernels."""

    def __init__(self, axes: Axes) -> None:
        continuous = len(axes.continuous)
        self._widths = Growing(continuous, np.float64)
        self._coefficients = Growing(2 * continuous + 1, np.float64)
        #: The coefficients of the prior: the middle, as wide as the range; [2 axes + 1, 1].
        self.prior = polynomial(np.full((continuous, 1), 0.5), np.ones((continuous, 1)))
        self._axes = axes.stepped
        self._tables: list[dict[bytes, Floats]] = [{} for _ in axes.stepped]

    def extend(self, trials: int) -> None:
        """Makes room for more trials."""
        # No width is NaN, so the coefficients count as unknown; without widths they are zero.
        self._widths.append(np.full((len(self._widths.view), trials), np.nan))
        self._coefficients.append(np.zeros((len(self._coefficients.view), trials)))

    def coefficients(self, places: Indices, centres: Floats, widths: Floats) -> Floats:
        """As `polynomial` of the kernels of the trials at some places."""
        known = self._widths.view.take(places, axis=1)
        (changed,) = (known != widths).any(axis=0).nonzero()
        if len(changed):
            new = places[changed]
            self._widths.view[:, new] = widths[:, changed]
            self._coefficients.view[:, new] = polynomial(centres[:, changed], widths[:, changed])
        kept: Floats = self._coefficients.view.take(places, axis=1)
        return kept

    def table(self, column: int, centres: Floats, widths: Floats) -> Floats | None:
        """The log mass that kernels give to each cell of a stepped axis, [kernels, cells].

        None if the axis has too many cells.
        """
        axis, tables = self._axes[column], self._tables[column]
        if axis.cells > _FEW_CELLS:
            return None
        key = centres.tobytes() + widths.tobytes()
        known = tables.get(key)
        if known is None:
            if len(tables) == _MOST_TABLES:
                tables.clear()
            cells = np.arange(axis.cells, dtype=np.float64)
            known = tables[key] = log_mass(centres, widths, *axis.edges(cells))
        return known


def polynomial(centres: Floats, widths: Floats) -> Floats:
    """The log density of cut normal kernels as coefficients of x^2 for each axis, x, and 1.

    Args:
        centres: float64 [axes, kernels], from 0 to 1.
        widths: Their standard deviations, likewise.
    """
    inside = ndtr((1 - centres) / widths) - ndtr(-centres / widths)
    square = -0.5 / (widths * widths)
    linear = -2 * square * centres
    constant = square * centres * centres - np.log(widths * inside) - _LOG_ROOT
    return np.concatenate([square, linear, constant.sum(axis=0, keepdims=True)])


def log_mass(centres: Floats, widths: Floats, low: Floats, high: Floats) -> Floats:
    """The log mass of cut normal kernels between pairs of coordinates, [kernels, pairs].

    Args:
        centres: float64 [kernels], from 0 to 1.
        widths: Their standard deviations, likewise.
        low: The lower ends, float64 [pairs].
        high: The upper ends, likewise.
    """
    # Where there are very many cells, their ends may be the same number.
    half = np.maximum((high - low) / 2, _LEAST_HALF)
    # In standard deviations: to the nearer end, and from there to the other one.
    nearer = (np.abs(low + half - centres[:, None]) - half) / widths[:, None]
    inside = ndtr((1 - centres) / widths) - ndtr(-centres / widths)
    # Most pairs are far off, where the tail's mass is close to its density over z + 1 / length.
    far = np.maximum(nearer, 1.0)
    mass: Floats = -0.5 * far * far
    mass -= np.log(far + widths[:, None] / (2 * half))
    mass -= (np.log(inside) + _LOG_ROOT)[:, None]
    row, column = (nearer < _FAR).nonzero()
    near, sure = nearer[row, column], inside[row]
    length = 2 * half[column] / widths[row]
    # From the tail's end, where small probabilities are exact; differences of equals are not.
    inside_cell = ndtr(-near) - ndtr(-near - length)
    narrow = length < _NARROW
    if narrow.any():
        middle = near + length / 2
        density = np.exp(-0.5 * middle * middle - _LOG_ROOT)
        inside_cell = np.where(narrow, density * length, inside_cell)
    mass[row, column] = np.log(inside_cell / sure)
    return mass
