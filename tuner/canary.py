"""Judges a canary by what it and the other versions did since its step began; pure."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta

from tuner.endpoint import Canary, CanaryState, Traffic

#: How improbable a larger share of errors must be by chance before it counts. It is looked at
#: again and again: each doubling of the requests is about one look, and has its part of it.
_SIGNIFICANCE = 0.01
#: A term that adds nothing; a variance that makes all distributions normal; and so many deviations
#: from the mean nothing happens.
_NEGLIGIBLE, _MANY, _FAR = 1e-12, 10_000, 40


def judged(canary: Canary, own: Traffic, others: Traffic, elapsed: timedelta) -> Canary:
    """The canary after what was counted in its step: the same, a step on, or at its end.

    It is rolled back as soon as it fails more often than the others, by more than it may and not
    by chance, or once it is slower by more than it may, each side having `min_requests` answers.
    It goes on when its step has lasted long enough and brought enough requests.

    Args:
        canary: One that runs.
        own: What it did since its step began.
        others: What the other versions did meanwhile.
        elapsed: How long ago its step began.
    """
    worse = _fails_more(canary, own, others) or _is_slower(canary, own, others)
    if worse:
        return replace(canary, state=CanaryState.ROLLED_BACK, reason=worse)
    if elapsed < canary.step_time or own.requests < canary.min_requests:
        return canary
    if canary.step + 1 < len(canary.steps):
        return replace(canary, step=canary.step + 1)
    reason = f"at {canary.steps[-1]} percent, {_failed(own)}."
    return replace(canary, state=CanaryState.SUCCEEDED, reason=reason)


def chance_of_more_errors(own: Traffic, others: Traffic) -> float:
    """The probability of as many errors of `own`, or more, if both sides fail equally often.

    Fisher's exact test, one-sided: it holds for the few requests that a canary begins with, too.
    Where errors abound, the normal distribution stands for the hypergeometric.
    """
    errors, total = own.errors + others.errors, own.requests + others.requests
    mean = own.requests * errors / total
    variance = mean * (total - errors) * others.requests / (total * max(total - 1, 1))
    if variance > _MANY:
        distance = (own.errors - 0.5 - mean) / math.sqrt(2 * variance)
        return math.erfc(distance) / 2
    whole, chance = _ways(total, errors), 0.0
    # Below, terms vanish; others cannot have had more errors than requests.
    least = max(own.errors, errors - others.requests, int(mean - _FAR * math.sqrt(variance)))
    for count in range(least, min(own.requests, errors) + 1):
        ways = _ways(own.requests, count) + _ways(others.requests, errors - count)
        term = math.exp(ways - whole)
        chance += term
        # Beyond its mean the distribution only falls.
        if count > mean and term < _NEGLIGIBLE * chance:
            break
    return min(chance, 1.0)


def _ways(of: int, chosen: int) -> float:
    """The logarithm of the binomial coefficient."""
    return math.lgamma(of + 1) - math.lgamma(chosen + 1) - math.lgamma(of - chosen + 1)


def _fails_more(canary: Canary, own: Traffic, others: Traffic) -> str:
    """Why its errors end it; empty if they do not."""
    if not own.requests or not others.requests:
        return ""
    increase = own.errors / own.requests - others.errors / others.requests
    if increase <= canary.max_error_increase:
        return ""
    chance = chance_of_more_errors(own, others)
    if chance >= _SIGNIFICANCE / (1 + math.log2(own.requests)):
        return ""
    return f"{_failed(own)}; of the others {_failed(others)} (p = {chance:.2g})."


def _is_slower(canary: Canary, own: Traffic, others: Traffic) -> str:
    """Why its latency ends it; empty if it does not."""
    if min(sum(own.latencies), sum(others.latencies)) < canary.min_requests:
        return ""
    median, usual = own.quantile(0.5), others.quantile(0.5)
    if not median or not usual or median <= canary.max_latency_ratio * usual:
        return ""
    return (
        f"its median latency is {1000 * median:.3g} ms, {median / usual:.2g} times that of the "
        f"others, {1000 * usual:.3g} ms."
    )


def _failed(traffic: Traffic) -> str:
    share = traffic.errors / traffic.requests if traffic.requests else 0.0
    return f"{traffic.errors:,} of {traffic.requests:,} requests failed ({share:.2%})"
