"""Bends coordinates, so that a function changes as fast at one end of an axis as at the other.

Snoek, Swersky, Zemel and Adams, Input Warping for Bayesian Optimization of Non-Stationary
Functions, ICML 2014, with Kumaraswamy's distribution: x becomes 1 - (1 - x^a)^b.
"""

from __future__ import annotations

import numpy as np

from tuner.engine.gp.cube import Array

# Slopes have poles at 0 and 1.
_EDGE = 1e-6


def bend(points: Array, exponents: Array) -> Array:
    """The points [points, columns] bent by a and b of each column, [2, columns].

    Where both are 1 a column stays as it is.
    """
    a, b = exponents
    bent: Array = 1 - (1 - _inside(points) ** a) ** b
    return bent


def bend_with_slopes(points: Array, exponents: Array) -> tuple[Array, Array, Array]:
    """The points bent, and what that changes by: the points, and the logarithms of a and b.

    Returns:
        Arrays [points, columns], twice, and [2, points, columns].
    """
    a, b = exponents
    points = _inside(points)
    power = points**a
    rest = 1 - power
    above = rest**b
    by_power = b * above / rest
    by_a, by_b = by_power * power * np.log(points) * a, -above * np.log(rest) * b
    return 1 - above, by_power * a * power / points, np.stack([by_a, by_b])


def _inside(points: Array) -> Array:
    return np.clip(points, _EDGE, 1 - _EDGE)
