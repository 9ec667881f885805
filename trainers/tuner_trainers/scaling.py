"""Chooses how a number is clipped and scaled, from the statistics of its column."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tuner_trainers.column_statistics import ColumnStatistics
from tuner_trainers.layers import Scale

#: The points through which "quantile" scaling draws its curve.
QUANTILE_POINTS = 64

Numbers = npt.NDArray[np.float64]


def scale_of(column: ColumnStatistics, scaling: str, clip: float = 0.0) -> Scale:
    """The layer that scales a column; what is missing takes the place of the mean.

    Args:
        column: its statistics.
        scaling: one of those that Scale knows.
        clip: the part of the rows whose numbers are cut on each side, before all else. The mean
            and the deviation are those of the numbers that are left.
    """
    indicator = column.missing + column.nonfinite > 0
    mean, variance = column.mean or 0.0, column.variance or 0.0
    values, weights = distribution(column)
    bounds = quantile_bounds(values, weights, clip) if clip else None
    if bounds is not None:
        values = values.clip(*bounds)
        mean, variance = moments(values, weights)
    if scaling == "none":
        return Scale(scaling, fill=mean, bounds=bounds, indicator=indicator)
    if scaling == "quantile":
        points, ranks = _curve(values, weights)
        return Scale(
            scaling, points=points, ranks=ranks, fill=0.5, bounds=bounds, indicator=indicator
        )
    if scaling == "log":
        mean, variance = moments(np.sign(values) * np.log1p(np.abs(values)), weights)
    spread = float(np.sqrt(variance)) or 1.0
    return Scale(scaling, center=mean, spread=spread, bounds=bounds, indicator=indicator)


def distribution(column: ColumnStatistics) -> tuple[Numbers, Numbers]:
    """The column's numbers, increasing, or a sample of them, and the part of the rows of each."""
    values, counts = column.summary.spread()
    return values, counts / max(counts.sum(), 1)


def moments(values: Numbers, weights: Numbers) -> tuple[float, float]:
    """Mean and variance of increasing numbers; it is infinite where these are near the largest."""
    if values.size and values[0] == values[-1]:  # a rounded mean would differ from it
        return float(values[0]), 0.0
    mean = float(weights @ values)
    with np.errstate(over="ignore"):
        return mean, float(weights @ np.square(values - mean))


def quantile_bounds(values: Numbers, weights: Numbers, clip: float) -> tuple[float, float] | None:
    """The quantiles `clip` and 1 - `clip` of weighted numbers; None if there is none."""
    if not len(values):
        return None
    # Sums of weights are rounded: what is at a quantile but for that is at it.
    places = np.searchsorted(np.cumsum(weights), np.array([clip, 1.0 - clip]) - 1e-9)
    low, high = values[places.clip(max=len(values) - 1)].tolist()
    return low, high


def _curve(values: Numbers, weights: Numbers) -> tuple[list[float], list[float]]:
    """Some of the numbers, increasing, and the rank of each: the middle of its rows, 0 to 1."""
    values, first = np.unique(values, return_index=True)
    if len(first) < len(weights):  # clipping has made some of them one
        weights = np.add.reduceat(weights, first)
    ranks = np.cumsum(weights) - weights / 2
    levels = np.linspace(0.0, 1.0, QUANTILE_POINTS)
    chosen = np.unique(np.searchsorted(ranks, levels).clip(max=max(len(values) - 1, 0)))
    chosen = chosen[: len(values)]
    return values[chosen].tolist(), ranks[chosen].tolist()
