"""What a point is worth: the logarithm of the expected improvement, within the constraints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import erfcx, log_ndtr, ndtr

from tuner.engine.gp.cube import Array
from tuner.engine.gp.regressor import Regressor

_LOG_ROOT_TAU = 0.5 * math.log(2 * math.pi)
# Beyond this many deviations the series below is more accurate than the closed form.
_FAR = 1e4
# Much more than logarithms of improvements differ by.
_NOTHING = 1e9


class Acquisition(Protocol):
    """Something to maximize over embedded points [points, columns]."""

    def value(self, points: Array) -> Array:
        """The value at each point."""
        ...

    def gradient(self, points: Array) -> tuple[Array, Array]:
        """The value at each point, and its gradient [points, columns]."""
        ...


@dataclass(frozen=True, slots=True)
class LogImprovement:
    """Log expected improvement below `best`.

    Ament et al., Unexpected Improvements to Expected Improvement for Bayesian Optimization,
    NeurIPS 2023: the logarithm has a gradient where the improvement itself is rounded to 0.
    """

    regressor: Regressor
    best: float

    def value(self, points: Array) -> Array:
        """The value at each point."""
        mean, deviation = self.regressor.predict(points)
        value: Array = np.log(deviation) + log_improvement((self.best - mean) / deviation)[0]
        return value

    def gradient(self, points: Array) -> tuple[Array, Array]:
        """The value at each point, and its gradient."""
        mean, deviation, by_mean, by_deviation = self.regressor.predict_with_gradient(points)
        z = (self.best - mean) / deviation
        log, ratio = log_improvement(z)
        gradient = (1 - ratio * z)[:, None] * by_deviation - ratio[:, None] * by_mean
        return np.log(deviation) + log, gradient / deviation[:, None]


@dataclass(frozen=True, slots=True)
class Only:
    """Nothing where an embedded column is 0, as that of a choice is where another one is made."""

    column: int

    def value(self, points: Array) -> Array:
        """The value at each point."""
        value: Array = np.where(points[:, self.column] > 0, 0.0, -_NOTHING)
        return value

    def gradient(self, points: Array) -> tuple[Array, Array]:
        """The value at each point, and its gradient."""
        return self.value(points), np.zeros_like(points)


@dataclass(frozen=True, slots=True)
class LogFeasibility:
    """Log probability that a value is at most `bound`."""

    regressor: Regressor
    bound: float

    def value(self, points: Array) -> Array:
        """The value at each point."""
        mean, deviation = self.regressor.predict(points)
        result: Array = log_ndtr((self.bound - mean) / deviation)
        return result

    def gradient(self, points: Array) -> tuple[Array, Array]:
        """The value at each point, and its gradient."""
        mean, deviation, by_mean, by_deviation = self.regressor.predict_with_gradient(points)
        z = (self.bound - mean) / deviation
        log: Array = log_ndtr(z)
        slope = np.exp(-0.5 * z**2 - _LOG_ROOT_TAU - log) / deviation
        return log, -slope[:, None] * (by_mean + z[:, None] * by_deviation)


@dataclass(frozen=True, slots=True)
class LogHypervolumeImprovement:
    """Log expected growth of the hypervolume that several objectives dominate.

    Exact for independent objectives: the room that is not dominated is cut into boxes, and in a
    box the expectation is a product (Yang et al., Efficient Computation of Expected Hypervolume
    Improvement Using Box Decomposition Algorithms, JOGO 2019).
    """

    regressors: Sequence[Regressor]
    #: The boxes' corners, [boxes, objectives]; lower ones may be -inf.
    lower: Array
    upper: Array

    def value(self, points: Array) -> Array:
        """The value at each point."""
        product = np.ones((len(points), len(self.lower)))
        for index, regressor in enumerate(self.regressors):
            mean, deviation = regressor.predict(points)
            product *= self._length(index, mean, deviation)[0]
        value: Array = np.log(np.maximum(product.sum(1), 1e-300))
        return value

    def gradient(self, points: Array) -> tuple[Array, Array]:
        """The value at each point, and its gradient."""
        lengths, by_points = [], []
        for index, regressor in enumerate(self.regressors):
            mean, deviation, by_mean, by_deviation = regressor.predict_with_gradient(points)
            length, mean_slope, deviation_slope = self._length(index, mean, deviation)
            lengths.append(length)
            by_points.append((mean_slope, by_mean, deviation_slope, by_deviation))
        total = np.maximum(np.prod(lengths, axis=0).sum(1), 1e-300)
        gradient = np.zeros_like(points)
        for index, (mean_slope, by_mean, deviation_slope, by_deviation) in enumerate(by_points):
            others = np.prod([x for i, x in enumerate(lengths) if i != index], axis=0)
            gradient += (others * mean_slope).sum(1)[:, None] * by_mean
            gradient += (others * deviation_slope).sum(1)[:, None] * by_deviation
        return np.log(total), gradient / total[:, None]

    def _length(self, index: int, mean: Array, deviation: Array) -> tuple[Array, Array, Array]:
        """The expected length within each box, and its slopes by mean and deviation."""
        mean, deviation = mean[:, None], deviation[:, None]
        result = [np.zeros((len(mean), len(self.lower))) for _ in range(3)]
        for sign, corner in ((1.0, self.upper[:, index]), (-1.0, self.lower[:, index])):
            z = np.clip((corner - mean) / deviation, -40.0, 1e8)
            density, below = np.exp(-0.5 * z**2 - _LOG_ROOT_TAU), ndtr(z)
            finite = np.isfinite(corner)
            result[0] += sign * np.where(finite, deviation * (density + z * below), 0.0)
            result[1] -= sign * np.where(finite, below, 0.0)
            result[2] += sign * np.where(finite, density, 0.0)
        return np.maximum(result[0], 0.0), result[1], result[2]


@dataclass(frozen=True, slots=True)
class Sum:
    """The sum of logarithms: independent events together.

    Gardner et al., Bayesian Optimization with Inequality Constraints, ICML 2014.
    """

    terms: Sequence[Acquisition]

    def value(self, points: Array) -> Array:
        """The value at each point."""
        value: Array = np.sum([term.value(points) for term in self.terms], axis=0)
        return value

    def gradient(self, points: Array) -> tuple[Array, Array]:
        """The value at each point, and its gradient."""
        parts = [term.gradient(points) for term in self.terms]
        return np.sum([p[0] for p in parts], axis=0), np.sum([p[1] for p in parts], axis=0)


def log_improvement(z: Array) -> tuple[Array, Array]:
    """log h(z) for h(z) = phi(z) + z Phi(z), and the ratio Phi(z) / h(z), its derivative."""
    near = z > -1
    up, down = np.where(near, z, 0.0), np.where(near, 1.0, -z)
    above = np.exp(-0.5 * up**2 - _LOG_ROOT_TAU) + up * ndtr(up)
    mills = math.sqrt(math.pi / 2) * erfcx(down / math.sqrt(2))
    rest = np.where(down < _FAR, 1 - down * mills, down**-2.0)
    log = np.where(near, np.log(above), -0.5 * down**2 - _LOG_ROOT_TAU + np.log(rest))
    return log, np.where(near, ndtr(up) / above, mills / rest)
