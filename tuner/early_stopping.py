"""What a study says of early stopping: the rules by name, and the parameters of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum

from tuner.errors import InvalidArgumentError


class Progress(StrEnum):
    """What trials are compared by: how far they are."""

    #: The step of a measurement.
    STEPS = "steps"
    #: The running time of the attempt.
    SECONDS = "seconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """The parameters of an early-stopping rule; None leaves one to the rule.

    Steps and seconds are meant where it says "so far", as `by` says.
    """

    by: Progress = Progress.STEPS
    #: So far a trial may come before it is judged at all.
    first: float | None = None
    #: `asha`, `hyperband`: one in so many goes on from each rung, which lie a factor of it apart.
    eta: float | None = None
    #: `hyperband`: how many brackets, each of which judges later than the one before.
    brackets: int | None = None
    #: `percentile`: a trial goes on if it is among the best so many percent of the others.
    percentile: float | None = None
    #: `median`, `percentile`: how many other trials must have come as far.
    trials: int | None = None
    #: `no-progress`: so far a trial may go without getting better.
    patience: float | None = None
    #: `no-progress`: how much better it has to get.
    min_change: float | None = None
    #: `threshold`: bounds of the metric.
    at_least: float | None = None
    at_most: float | None = None

    def given(self) -> Iterator[tuple[str, float]]:
        """The parameters that are set, by name, except for `by`."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "by" and value is not None:
                yield field.name, value

    def describe(self) -> str:
        """The parameters that are set, such as `eta 4, first 10, by seconds`."""
        parts = [f"{name.replace('_', ' ')} {value:g}" for name, value in self.given()]
        return ", ".join([*parts, *(["by seconds"] if self.by is Progress.SECONDS else [])])


#: What is a whole number.
WHOLE = ("brackets", "trials")
#: The rules by their names, and the parameters that each takes besides `by`.
RULES: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "asha": ("first", "eta"),
    "hyperband": ("first", "eta", "brackets"),
    "median": ("first", "trials"),
    "percentile": ("first", "percentile", "trials"),
    "no-progress": ("first", "patience", "min_change"),
    "threshold": ("first", "at_least", "at_most"),
}
#: What the parameters may be, in words and as a test.
_RANGES: Mapping[str, tuple[str, Callable[[float], bool]]] = {
    "first": ("a number from 1e-6 on", lambda value: 1e-6 <= value < math.inf),
    "eta": ("a number from 1.5 to 10", lambda value: 1.5 <= value <= 10),
    "brackets": ("a whole number from 1 to 10", lambda value: 1 <= value <= 10),
    "percentile": ("a number above 0 and below 100", lambda value: 0 < value < 100),
    "trials": ("a whole number from 1", lambda value: value >= 1),
    "patience": ("a number above 0", lambda value: 0 < value < math.inf),
    "min_change": ("a number from 0", lambda value: 0 <= value < math.inf),
    "at_least": ("a finite number", math.isfinite),
    "at_most": ("a finite number", math.isfinite),
}


def problems(rule: str, stopping: Stopping) -> Iterator[tuple[str, str]]:
    """What is wrong with the parameters of a known rule: which one, and why.

    The rule's name itself goes by `rule`.
    """
    taken = RULES[rule]
    for name, value in stopping.given():
        example, is_in_range = _RANGES[name]
        if name not in taken:
            yield name, f"`{rule}` takes no `{name}`; it takes {', '.join(taken) or 'nothing'}"
        elif not is_in_range(value):
            yield name, f"`{name}` must be {example}, but got {value:g}"
    if rule == "none":
        return
    if stopping.by is Progress.SECONDS:
        for name in ("first", "patience"):
            if name in taken and getattr(stopping, name) is None:
                yield "by", f"by seconds `{rule}` needs `{name}`: a number of seconds"
    low_bound, high_bound = stopping.at_least, stopping.at_most
    if rule == "threshold" and low_bound is None and high_bound is None:
        yield "rule", "`threshold` needs a bound: `at_least`, `at_most` or both"
    if low_bound is not None and high_bound is not None and low_bound > high_bound:
        yield "at_least", f"no value is at least {low_bound:g} and at most {high_bound:g}"


def check(rule: str, stopping: Stopping) -> None:
    """Raises InvalidArgumentError unless there is such a rule and it takes these parameters."""
    if rule not in RULES:
        raise InvalidArgumentError(
            f"`early_stopping` must be one of {', '.join(RULES)}, but got {rule!r}."
        )
    for _, problem in problems(rule, stopping):
        raise InvalidArgumentError(f"{problem}; correct `early_stopping`.")
