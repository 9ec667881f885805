"""Whether versions differ in what became of their predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from scipy import special

from tuner.endpoint import Result


def compared(results: Sequence[Result]) -> list[Result]:
    """Results of the same name compared with those of the version that has the most.

    Args:
        results: Those of a name beside each other.
    """
    found = list[Result]()
    for _, group in groupby(results, key=lambda result: result.result):
        same = list(group)
        usual = max(same, key=lambda result: (result.count, -result.version))
        found += (each if each is usual else _beside(each, usual) for each in same)
    return found


def _beside(result: Result, usual: Result) -> Result:
    return replace(result, difference=result.mean - usual.mean, p_value=welch(result, usual))


def welch(one: Result, other: Result) -> float | None:
    """The probability of such a difference of the means by chance: Welch's t test, two-sided.

    None where a side has fewer than two results, or neither spreads. The same numbers as
    scipy.stats.ttest_ind_from_stats, whose import takes a second.
    """
    if min(one.count, other.count) < 2:
        return None
    parts = [each.standard_deviation**2 / each.count for each in (one, other)]
    whole = sum(parts)
    if not whole:
        return None
    freedom = 1 / sum(
        (part / whole) ** 2 / (each.count - 1)
        for part, each in zip(parts, (one, other), strict=True)
    )
    statistic = (one.mean - other.mean) / math.sqrt(whole)
    return float(2 * special.stdtr(freedom, -abs(statistic)))
