"""Values as a Gaussian process likes them: without outliers, of mean 0 and variance 1."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

from tuner.engine.gp.cube import Array


def standardised(values: Array) -> Array:
    """The values, less is better, on a scale where the good ones are told apart.

    Half of it are the ranks as normal scores, half the values themselves with outliers clipped.
    """
    ranks = ndtri((rankdata(values) - 0.5) / len(values))
    spread = values.std()
    if spread <= 1e-12 * max(1.0, float(np.abs(values).max())):
        return np.zeros_like(values)
    plain = np.clip((values - values.mean()) / spread, -3, 3)
    mixed = 0.5 * (ranks + plain)
    return (mixed - mixed.mean()) / mixed.std()


def scaled_violations(values: Array) -> Array:
    """The violations on a scale of their own, 0 kept where it is and outliers clipped."""
    spread = float(np.median(np.abs(values))) or float(np.abs(values).max()) or 1.0
    return np.clip(values / spread, -3.0, 3.0)
