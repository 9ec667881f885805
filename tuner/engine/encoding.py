"""Parameters as Optuna knows them: distributions, and values there and back without loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from tuner.engine import domains, points
from tuner.space import Categorical, Discrete, Domain, Float, Int, Parameter, Space, Value

#: A value as Optuna holds it.
Encoded = float | int | str | bool


class Encoding:
    """Translates points of one version of a space.

    A Discrete is an integer there, the index of its value: samplers then see its order without
    its gaps. Choices that Python calls equal, such as 1 and True, are words there.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self.distributions: Mapping[str, BaseDistribution] = {
            parameter.name: distribution_of(parameter.domain) for parameter in space.walk()
        }
        # Those whose values are others there.
        self._translated = {
            parameter.name: parameter.domain
            for parameter in space.walk()
            if isinstance(parameter.domain, Discrete)
            or (isinstance(parameter.domain, Categorical) and _is_ambiguous(parameter.domain))
        }

    def encode(self, point: Mapping[str, Value]) -> dict[str, Encoded]:
        """The point's values as Optuna holds them."""
        encoded = dict(point)
        for name, domain in self._translated.items():
            if name in encoded:
                encoded[name] = encode(domain, encoded[name])
        return encoded

    def point(self, drawn: Mapping[str, Encoded]) -> dict[str, Value]:
        """The point that a sampler drew; it may leave out parameters with only one value."""

        def choose(parameter: Parameter) -> Value:
            if parameter.name in drawn:
                return decode(parameter.domain, drawn[parameter.name])
            return domains.nth(parameter.domain, 0)

        return points.walk(self._space, choose)

    def suggest(self, trial: optuna.Trial) -> dict[str, Value]:
        """Draws a point through a trial of Optuna's, so through its study's sampler."""

        def choose(parameter: Parameter) -> Value:
            drawn = suggest(trial, parameter.name, self.distributions[parameter.name])
            return decode(parameter.domain, drawn)

        return points.walk(self._space, choose)


def distribution_of(domain: Domain) -> BaseDistribution:
    """The domain as Optuna's distribution."""
    match domain:
        case Float(step=None):
            return FloatDistribution(domain.low, domain.high, log=domain.log)
        case Float():
            return FloatDistribution(domain.low, float(_last(domain)), step=domain.step)
        case Int():
            return IntDistribution(
                domain.low, int(_last(domain)), log=domain.log, step=domain.step
            )
        case Discrete():
            return IntDistribution(0, len(domain.values) - 1)
        case Categorical():
            return CategoricalDistribution([encode(domain, choice) for choice in domain.choices])


def encode(domain: Domain, value: Value) -> Encoded:
    """A value of the domain as Optuna holds it."""
    match domain:
        case Discrete():
            return domain.values.index(float(value))
        case Categorical() if _is_ambiguous(domain):
            return f"{type(value).__name__} {value}"
        case _:
            return value


def decode(domain: Domain, encoded: Encoded) -> Value:
    """The inverse of `encode`; what a sampler drew off the domain by rounding is put on it."""
    match domain:
        case Discrete():
            return domain.values[int(encoded)]
        case Categorical() if _is_ambiguous(domain):
            return next(choice for choice in domain.choices if encode(domain, choice) == encoded)
        case Categorical():
            return domain.choices[domain.choices.index(encoded)]
        case Int():
            steps = round((int(encoded) - domain.low) / domain.step)
            return domains.nth(domain, min(max(steps, 0), (domains.count(domain) or 1) - 1))
        case Float():
            inside = min(max(float(encoded), domain.low), domain.high)
            value = domains.canonical(domain, inside)
            return inside if value is None else value


def suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Encoded:
    """Draws one parameter by its distribution."""
    match distribution:
        case FloatDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_float(name, low, high, step=step, log=log)
        case IntDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_int(name, low, high, step=step, log=log)
        case CategoricalDistribution(choices=choices):
            return cast("Encoded", trial.suggest_categorical(name, choices))
    raise TypeError(f"{type(distribution).__name__} is not a distribution of ours.")


def _last(domain: Float | Int) -> Value:
    # Optuna warns of ranges that are not a whole number of steps.
    steps = domains.count(domain)
    return domain.high if steps is None else domains.nth(domain, steps - 1)


def _is_ambiguous(domain: Categorical) -> bool:
    return len(set(domain.choices)) != len(domain.choices)
