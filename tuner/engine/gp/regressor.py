"""Gaussian-process regression: an ARD Matern-5/2 kernel, its parameters learned with priors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack
from scipy.optimize import minimize

from tuner.engine.gp.cube import Array

_JITTER = 1e-6


@dataclass(frozen=True, slots=True)
class Kernel:
    """The parameters of a kernel: a lengthscale for each axis, and two variances."""

    lengthscales: Array
    signal: float
    noise: float


@dataclass(frozen=True, slots=True)
class Prior:
    """A normal distribution of a parameter's logarithm, and the range that is searched."""

    mean: float
    deviation: float
    low: float
    high: float


#: Plus the logarithm of the root of the dimension, so that more parameters do not make for a
#: wilder function: Hvarfner, Hellsten and Nardi, Vanilla Bayesian Optimization Performs Great in
#: High Dimensions, ICML 2024.
LENGTHSCALE = Prior(math.log(0.6), 0.9, -3.5, 4.0)
SIGNAL = Prior(0.0, 1.0, -3.0, 3.0)
#: Most results are nearly the same if repeated, but not all.
NOISE = Prior(-8.0, 2.0, -14.0, 0.0)
_ITERATIONS = 25


def fit(points: Array, owners: npt.NDArray[np.intp], values: Array) -> tuple[Kernel, float]:
    """The most probable kernel given values at points, by its analytic gradient (L-BFGS).

    Args:
        points: Embedded, [points, columns].
        owners: The axis of each column.
        values: Of mean 0 and about unit variance, [points].
    """
    axes = int(owners.max()) + 1
    rows, columns = np.tril_indices(len(values), -1)
    gaps = np.zeros((axes, len(rows)))
    for column, axis in enumerate(owners):
        gaps[axis] += (points[rows, column] - points[columns, column]) ** 2
    priors = [LENGTHSCALE] * axes + [SIGNAL, NOISE]
    mean = np.array([prior.mean for prior in priors])
    mean[:axes] += 0.5 * math.log(axes)
    deviation = np.array([prior.deviation for prior in priors])
    covariance = np.empty((len(values), len(values)), order="F")

    def loss(theta: Array) -> tuple[float, Array]:
        inverse_squares = np.exp(-2 * theta[:axes])
        signal, noise = np.exp(theta[axes:])
        correlation, slope = matern(inverse_squares @ gaps)
        covariance[rows, columns] = signal * correlation
        np.fill_diagonal(covariance, signal + noise + _JITTER)
        factor, failed = lapack.dpotrf(covariance, lower=1, overwrite_a=0)
        if failed:
            return 1e10, np.zeros_like(theta)
        weights = lapack.dpotrs(factor, values, lower=1)[0]
        inverse = lapack.dpotri(factor, lower=1)[0]
        data = 0.5 * values @ weights + np.log(np.diag(factor)).sum()
        # The derivative by each entry of the covariance; entries off the diagonal count twice.
        off = inverse[rows, columns] - weights[rows] * weights[columns]
        diagonal = 0.5 * float((np.diag(inverse) - weights**2).sum())
        gradient = np.empty_like(theta)
        gradient[:axes] = -2 * inverse_squares * (gaps @ (signal * off * slope))
        gradient[axes] = signal * (off @ correlation + diagonal)
        gradient[axes + 1] = noise * diagonal
        distance = (theta - mean) / deviation
        return data + 0.5 * distance @ distance, gradient + distance / deviation

    found = minimize(
        loss,
        mean,
        jac=True,
        method="L-BFGS-B",
        bounds=[(prior.low, prior.high) for prior in priors],
        options={"maxiter": _ITERATIONS, "ftol": 1e-5, "gtol": 1e-3},
    )
    theta = found.x
    kernel = Kernel(np.exp(theta[:axes]), math.exp(theta[axes]), math.exp(theta[axes + 1]))
    return kernel, -float(found.fun)


def matern(squares: Array) -> tuple[Array, Array]:
    """The Matern-5/2 correlation at squared distances, and its derivative by those."""
    root = np.sqrt(5 * squares)
    decay = np.exp(-root)
    return (1 + root + 5 / 3 * squares) * decay, -5 / 6 * (1 + root) * decay


class Regressor:
    """The posterior of a kernel given values at points.

    Its methods take points without the last columns, too: those are 1 then.

    Args:
        kernel: Its parameters.
        points: Embedded, [points, columns].
        owners: The axis of each column.
        values: [points].
    """

    def __init__(
        self, kernel: Kernel, points: Array, owners: npt.NDArray[np.intp], values: Array
    ) -> None:
        self.kernel = kernel
        self._scale = 1 / kernel.lengthscales[owners]
        self._owners = owners
        self._points = points
        self._scaled = points * self._scale
        self._values = values
        covariance = self._cross(self._scaled)[0]
        covariance[np.diag_indices(len(values))] += kernel.noise + _JITTER
        factor = np.linalg.cholesky(covariance)
        self._inverse = lapack.dtrtri(factor, lower=1)[0]
        self._weights = self._inverse.T @ (self._inverse @ values)

    def with_values(self, points: Array, values: Array) -> Regressor:
        """The posterior given more values, with the same kernel."""
        return Regressor(
            self.kernel,
            np.vstack([self._points, self._whole(points)]),
            self._owners,
            np.concatenate([self._values, values]),
        )

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Mean and deviation of the noise-free value at points [points, columns]."""
        cross = self._cross(self._whole(points) * self._scale)[0]
        half = cross @ self._inverse.T
        variance = self.kernel.signal - np.einsum("ij,ij->i", half, half)
        return cross @ self._weights, np.sqrt(np.maximum(variance, 1e-12))

    def predict_with_gradient(self, points: Array) -> tuple[Array, Array, Array, Array]:
        """Mean, deviation, and the gradients of both by the columns given, [points, columns]."""
        columns = points.shape[1]
        scaled = self._whole(points) * self._scale
        cross, slope = self._cross(scaled)
        half = cross @ self._inverse.T
        variance = np.maximum(self.kernel.signal - np.einsum("ij,ij->i", half, half), 1e-12)
        deviation = np.sqrt(variance)
        mean_gradient = self._pulled(scaled, slope * self._weights)
        variance_gradient = -2 * self._pulled(scaled, slope * (half @ self._inverse))
        return (
            cross @ self._weights,
            deviation,
            mean_gradient[:, :columns],
            variance_gradient[:, :columns] / (2 * deviation[:, None]),
        )

    def _whole(self, points: Array) -> Array:
        missing = len(self._owners) - points.shape[1]
        return np.column_stack([points, np.ones((len(points), missing))]) if missing else points

    def _pulled(self, scaled: Array, weights: Array) -> Array:
        # The sum over the points of weight times the gradient of the squared distance to it.
        total = weights.sum(1, keepdims=True)
        pulled: Array = 2 * (scaled * total - weights @ self._scaled) * self._scale
        return pulled

    def _cross(self, scaled: Array) -> tuple[Array, Array]:
        squares = (
            np.einsum("ij,ij->i", scaled, scaled)[:, None]
            + np.einsum("ij,ij->i", self._scaled, self._scaled)
            - 2 * scaled @ self._scaled.T
        )
        correlation, slope = matern(np.maximum(squares, 0))
        return self.kernel.signal * correlation, self.kernel.signal * slope
