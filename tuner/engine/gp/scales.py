"""Values on scales that a Gaussian process likes: smooth, of mean 0 and variance 1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tuner.engine.gp.cube import Array

# Squares of larger losses would not be numbers any more.
_LARGEST = 1e150
# Beyond so many times the spread of the good ones, a loss is as bad as can be.
_WORST = 1e6
# Powers that are tried: 1 leaves the values as they are, smaller ones draw bad ones together.
_POWERS = np.linspace(-2.0, 1.5, 29)
# A violation counts in multiples of the usual one, and not beyond so many.
_MOST_VIOLATED = 3.0
# One that was not measured is said to be larger than any.
_UNKNOWN = 1e99


@dataclass(frozen=True, slots=True)
class Scaled:
    """Losses on another scale, in the same order.

    With the evidence of a model, the slopes give that of the scale (Snelson, Ghahramani and
    Rasmussen, Warped Gaussian Processes, NeurIPS 2003).
    """

    values: Array
    #: The logarithm of the scale's slope at each loss.
    log_slopes: Array


def of_losses(losses: Array) -> Iterator[Scaled]:
    """The losses as they are, with the bad ones on a log scale, and at a power."""
    losses = np.clip(losses, -_LARGEST, _LARGEST)
    centre, good = float(np.median(losses)), float(np.quantile(losses, 0.1))
    spread = (centre - good) or float(np.ptp(losses))
    # Next to the good ones: a penalty, however large, says nothing of what they differ by.
    if not spread > 1e-12 * max(abs(centre), abs(good)):
        yield Scaled(np.zeros_like(losses), np.zeros_like(losses))
        return
    values = np.clip((losses - centre) / spread, -_WORST, _WORST)
    yield _normal(values, np.zeros_like(values))
    tail = np.log1p(np.maximum(values, 0.0))
    yield _normal(np.minimum(values, 0.0) + tail, -tail)
    yield _powered(values)


def of_violations(violations: Array) -> tuple[Array, float]:
    """The violations with outliers clipped, and where 0 lies on their scale."""
    sizes = np.abs(violations)
    usual = sizes[(sizes > 0) & (sizes < _UNKNOWN)]
    spread = float(np.median(usual)) if len(usual) else 1.0
    values = np.clip(violations / spread, -_MOST_VIOLATED, _MOST_VIOLATED)
    deviation = float(values.std()) or 1.0
    return (values - values.mean()) / deviation, -float(values.mean()) / deviation


def _powered(values: Array) -> Scaled:
    """The values at the power that makes them most normal.

    Yeo and Johnson, A New Family of Power Transformations to Improve Normality or Symmetry,
    Biometrika 2000.
    """
    values = values - values.mean()
    slope = -np.log(values.std())
    values = values * np.exp(slope)
    above, below = np.log1p(np.maximum(values, 0.0)), np.log1p(np.maximum(-values, 0.0))
    tried = (
        _normal(_raised(above, p) - _raised(below, 2 - p), slope + (p - 1) * (above - below))
        for p in _POWERS
    )
    return max(tried, key=lambda scaled: float(scaled.log_slopes.sum()))


def _raised(logs: Array, power: float) -> Array:
    return logs if abs(power) < 1e-9 else np.expm1(power * logs) / power


def _normal(values: Array, log_slopes: Array) -> Scaled:
    deviation = float(values.std())
    return Scaled((values - values.mean()) / deviation, log_slopes - np.log(deviation))
