"""Gaussian-process regression: an ARD Matern-5/2 kernel, its parameters learned with priors.

Where there are choices a trend is added. With a short lengthscale of a choice, the Matern part
knows nothing of a branch that few trials took; what all branches share, it learns from all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack
from scipy.optimize import minimize

from tuner.engine.gp.cube import Array
from tuner.engine.gp.warp import bend, bend_with_slopes

_JITTER = 1e-6


@dataclass(frozen=True, slots=True)
class Kernel:
    """The parameters of a kernel: how each axis is bent, its lengthscale, and three variances."""

    #: Of each column, [2, columns].
    exponents: Array
    lengthscales: Array
    signal: float
    noise: float
    #: Of the weights of a trend's features; of no account without choices.
    trend: float = 0.0


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
LENGTHSCALE = Prior(math.log(0.3), 0.6, -3.5, 4.0)
#: Where less is expected to happen along an axis.
LONG_LENGTHSCALE = Prior(math.log(0.6), 0.9, -3.5, 4.0)
SIGNAL = Prior(0.0, 1.0, -3.0, 3.0)
#: Most results are nearly the same if repeated, but not all.
NOISE = Prior(-8.0, 2.0, -14.0, 0.0)
#: Of the weights of a trend.
TREND = Prior(-2.0, 1.5, -9.0, 3.0)
#: Of the exponents that bend an axis: most need none.
EXPONENT = Prior(0.0, 0.4, -1.5, 1.5)
# Where a fit starts its noise: from less, it ends where noise is taken for a shape.
_START_NOISE = -4.0
_ITERATIONS = 25


def fit(
    points: Array, owners: npt.NDArray[np.intp], values: Array, lengthscale: Prior = LENGTHSCALE
) -> tuple[Kernel, float]:
    """The most probable kernel given values at points, by its analytic gradient (L-BFGS).

    Args:
        points: Embedded, [points, columns].
        owners: The axis of each column.
        values: Of mean 0 and about unit variance, [points].
        lengthscale: The prior of each axis.
    """
    axes = int(owners.max()) + 1
    numbers = np.flatnonzero(np.bincount(owners)[owners] == 1)
    priors = [lengthscale] * axes + [SIGNAL, NOISE, TREND] + [EXPONENT] * (2 * len(numbers))
    mean = np.array([prior.mean for prior in priors])
    mean[:axes] += 0.5 * math.log(axes)
    deviation = np.array([prior.deviation for prior in priors])
    start = mean.copy()
    start[axes + 1] = _START_NOISE
    shared = features(points, owners)
    # Matrices are symmetric: what takes long is computed below the diagonal alone.
    rows, columns = np.tril_indices(len(values), -1)
    below, diagonal = rows * len(values) + columns, np.diag_indices(len(values))
    gram = (shared @ shared.T).take(below)
    squares_of_shared = np.einsum("ij,ij->i", shared, shared)
    covariance = np.empty((len(values), len(values)))

    def kernel_of(theta: Array) -> Kernel:
        lengthscales, variances, bent = np.split(np.exp(theta), [axes, axes + 3])
        exponents = np.ones((2, len(owners)))
        exponents[:, numbers] = bent.reshape(2, -1)
        return Kernel(exponents, lengthscales, *map(float, variances))

    def loss(theta: Array) -> tuple[float, Array]:
        kernel = kernel_of(theta)
        scale = 1 / kernel.lengthscales[owners]
        bent, _, by_exponents = bend_with_slopes(points, kernel.exponents)
        scaled = bent * scale
        correlation, slope = matern(squares(scaled, scaled).take(below))
        covariance.put(below, kernel.signal * correlation + kernel.trend * gram)
        own = kernel.signal + kernel.noise + _JITTER + kernel.trend * squares_of_shared
        covariance[diagonal] = own
        # LAPACK counts columns first: the upper triangle of the transpose.
        factor, failed = lapack.dpotrf(covariance.T)
        if failed:
            return 1e10, np.zeros_like(theta)
        weights = lapack.dpotrs(factor, values)[0]
        inverse = lapack.dpotri(factor)[0].T
        data = 0.5 * values @ weights + np.log(factor[diagonal]).sum()
        # The derivative by each entry of the covariance; entries off the diagonal count twice.
        off = inverse.take(below) - weights[rows] * weights[columns]
        on = 0.5 * (inverse[diagonal] - weights**2)
        # By squared distances: all of them at once, as the Laplacian of a graph.
        pull = np.zeros_like(covariance)
        pull.put(below, -kernel.signal * off * slope)
        pull += pull.T
        pull[diagonal] = -pull.sum(1)
        pulled = pull @ scaled
        gradient = np.empty_like(theta)
        gradient[:axes] = -2 * np.bincount(owners, np.einsum("ij,ij->j", scaled, pulled))
        gradient[axes] = kernel.signal * (off @ correlation + on.sum())
        gradient[axes + 1] = kernel.noise * on.sum()
        gradient[axes + 2] = kernel.trend * (off @ gram + on @ squares_of_shared)
        by_bends = 2 * np.einsum("kij,ij->kj", by_exponents, pulled * scale)
        gradient[axes + 3 :] = by_bends[:, numbers].ravel()
        distance = (theta - mean) / deviation
        return data + 0.5 * distance @ distance, gradient + distance / deviation

    found = minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(prior.low, prior.high) for prior in priors],
        options={"maxiter": _ITERATIONS, "ftol": 1e-5, "gtol": 1e-3},
    )
    return kernel_of(found.x), -float(found.fun)


def features(points: Array, owners: npt.NDArray[np.intp]) -> Array:
    """What a trend weighs: a constant, and each column with its square, from the middle.

    Basis functions with a normal prior of their weights (Rasmussen and Williams, Gaussian
    Processes for Machine Learning, 2006, section 2.7); of second order, as losses have a bottom
    (Snoek et al., Scalable Bayesian Optimization Using Deep Neural Networks, ICML 2015).

    A trend is what choices have in common: without choices there is none, [points, 0].
    """
    if len(owners) == owners.max() + 1:
        return np.empty((len(points), 0))
    off = 2 * points - 1
    return np.column_stack([np.ones(len(points)), off, off**2])


def squares(points: Array, others: Array) -> Array:
    """The squared distances between points, [points, others]."""
    own, theirs = (np.einsum("ij,ij->i", x, x) for x in (points, others))
    found: Array = np.maximum(own[:, None] + theirs - 2 * points @ others.T, 0.0)
    return found


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
        doubts: Variances of single values beside the noise of all, [points].
    """

    def __init__(
        self,
        kernel: Kernel,
        points: Array,
        owners: npt.NDArray[np.intp],
        values: Array,
        doubts: Array | None = None,
    ) -> None:
        self.kernel = kernel
        self._scale = 1 / kernel.lengthscales[owners]
        self._owners = owners
        self._points = points
        self._scaled = bend(points, kernel.exponents) * self._scale
        self._values = values
        self._doubts = np.zeros(len(values)) if doubts is None else doubts
        self._features = kernel.trend * features(points, owners)
        covariance = self._cross(points, self._scaled)[0]
        covariance[np.diag_indices(len(values))] += kernel.noise + _JITTER + self._doubts
        factor = np.linalg.cholesky(covariance)
        self._inverse = lapack.dtrtri(factor, lower=1)[0]
        self._weights = self._inverse.T @ (self._inverse @ values)

    def with_values(self, points: Array, values: Array, doubts: Array | None = None) -> Regressor:
        """The posterior given more values, with the same kernel."""
        return Regressor(
            self.kernel,
            np.vstack([self._points, self._whole(points)]),
            self._owners,
            np.concatenate([self._values, values]),
            np.concatenate([self._doubts, np.zeros(len(values)) if doubts is None else doubts]),
        )

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Mean and deviation of the noise-free value at points [points, columns]."""
        points = self._whole(points)
        cross = self._cross(points, bend(points, self.kernel.exponents) * self._scale)[0]
        half = cross @ self._inverse.T
        variance = self._before(points) - np.einsum("ij,ij->i", half, half)
        return cross @ self._weights, np.sqrt(np.maximum(variance, 1e-12))

    def predict_with_gradient(self, points: Array) -> tuple[Array, Array, Array, Array]:
        """Mean, deviation, and the gradients of both by the columns given, [points, columns]."""
        columns = points.shape[1]
        points = self._whole(points)
        bent, by_points, _ = bend_with_slopes(points, self.kernel.exponents)
        scaled, by_points = bent * self._scale, by_points * self._scale
        cross, slope = self._cross(points, scaled)

        def pulled(weights: Array) -> Array:
            """The sum over the known points of a weight times the gradient of the covariance."""
            pull = slope * weights
            along = scaled * pull.sum(1, keepdims=True) - pull @ self._scaled
            result: Array = 2 * along * by_points + _along(points, weights @ self._features)
            return result

        half = cross @ self._inverse.T
        variance = np.maximum(self._before(points) - np.einsum("ij,ij->i", half, half), 1e-12)
        deviation = np.sqrt(variance)
        own = self.kernel.trend * self._shared(points)
        variance_gradient = 2 * _along(points, own) - 2 * pulled(half @ self._inverse)
        return (
            cross @ self._weights,
            deviation,
            pulled(np.broadcast_to(self._weights, cross.shape))[:, :columns],
            variance_gradient[:, :columns] / (2 * deviation[:, None]),
        )

    def _before(self, points: Array) -> Array:
        """The variance at points before any value is known."""
        shared = self._shared(points)
        before: Array = self.kernel.signal + self.kernel.trend * np.sum(shared**2, axis=1)
        return before

    def _shared(self, points: Array) -> Array:
        return features(points, self._owners)

    def _whole(self, points: Array) -> Array:
        missing = len(self._owners) - points.shape[1]
        return np.column_stack([points, np.ones((len(points), missing))]) if missing else points

    def _cross(self, points: Array, scaled: Array) -> tuple[Array, Array]:
        """The covariance with the known points, and its slope by the squared distances."""
        correlation, slope = matern(squares(scaled, self._scaled))
        signal = self.kernel.signal
        return signal * correlation + self._shared(points) @ self._features.T, signal * slope


def _along(points: Array, weights: Array) -> Array:
    """The gradient of the features at points, weighed, [points, columns]."""
    if not weights.shape[1]:
        return np.zeros_like(points)
    linear, square = np.hsplit(weights[:, 1:], 2)
    along: Array = 2 * linear + 4 * (2 * points - 1) * square
    return along
