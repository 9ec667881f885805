"""Domains as ranges: their sizes, their n-th values, and values by a coordinate from 0 to 1."""

from __future__ import annotations

import math
from decimal import Decimal

from tuner.space import Categorical, Discrete, Domain, Float, Int, Value


def count(domain: Domain) -> int | None:
    """How many values the domain has; None if they cannot be counted."""
    match domain:
        case Categorical():
            return len(domain.choices)
        case Discrete():
            return len(domain.values)
        case Int():
            return (domain.high - domain.low) // domain.step + 1
        case Float(step=None):
            return 1 if domain.low == domain.high else None
        case Float():
            return _float_steps(domain) + 1


def nth(domain: Domain, index: int) -> Value:
    """The value at `index`, from 0, of a domain that can be counted."""
    match domain:
        case Categorical():
            return domain.choices[index]
        case Discrete():
            return domain.values[index]
        case Int():
            return domain.low + index * domain.step
        case Float():
            if domain.step is None:
                return domain.low
            return float(_decimal(domain.low) + index * _decimal(domain.step))


def at(domain: Domain, u: float) -> Value:
    """The value at the coordinate `u`, at least 0 and below 1; uniform there, uniform here.

    On a log scale equal ratios get equal shares, and whole numbers the share of their rounding.
    """
    match domain:
        case Float(step=None):
            return _between(domain.low, domain.high, u, log=domain.log)
        case Int(log=True):
            x = _between(domain.low - 0.5, domain.high + 0.5, u, log=True)
            return min(max(round(x), domain.low), domain.high)
        case _:
            size = count(domain) or 1
            return nth(domain, min(int(u * size), size - 1))


def centre(domain: Domain) -> Value:
    """The middle of an ordered domain; the first choice of one without an order."""
    return domain.choices[0] if isinstance(domain, Categorical) else at(domain, 0.5)


def canonical(domain: Domain, value: Value) -> Value | None:
    """The domain's own value equal to `value`, on its step and of its type; None if outside."""
    # Nearly always it is the domain's own already; a history of 100,000 trials is read so.
    if type(value) is float and isinstance(domain, Float) and domain.step is None:
        if domain.low <= value <= domain.high:
            return value
    elif type(value) is int and isinstance(domain, Int):
        inside = domain.low <= value <= domain.high
        return value if inside and (value - domain.low) % domain.step == 0 else None
    elif type(value) is str and isinstance(domain, Categorical):
        return value if value in domain.choices else None
    if not domain.contains(value):
        return None
    match domain:
        case Int():
            return int(value)
        case Float(step=None):
            return min(max(float(value), domain.low), domain.high)
        case Float():
            steps = round((float(value) - domain.low) / (domain.step or 1.0))
            return nth(domain, min(max(steps, 0), _float_steps(domain)))
        case Discrete():
            return float(value)
        case Categorical():
            return value


def _between(low: float, high: float, u: float, *, log: bool) -> float:
    if log:
        x = math.exp((1 - u) * math.log(low) + u * math.log(high))
    else:
        x = (1 - u) * low + u * high
    return min(max(x, low), high)


def _float_steps(domain: Float) -> int:
    span = _decimal(domain.high) - _decimal(domain.low)
    return int(span / _decimal(domain.step or 1.0))


def _decimal(x: float) -> Decimal:
    # By its shortest text, so that 0.1 + 2 * 0.1 is 0.3.
    return Decimal(repr(float(x)))
