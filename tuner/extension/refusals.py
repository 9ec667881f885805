"""A change that is refused, and values as its message tells and compares them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tuner.space import Value

#: What is not there.
ABSENT = "none"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What cannot change, from what to what, and why."""

    what: str
    old: str
    new: str
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.old} -> {self.new} ({self.why})"


def same(a: Value, b: Value) -> bool:
    """Whether two values are one."""
    # True == 1 in Python, but they are two choices.
    return a == b and isinstance(a, bool) is isinstance(b, bool)


def is_in(value: Value, values: Iterable[Value]) -> bool:
    """Whether `value` is one of some."""
    return any(same(value, other) for other in values)


def listed(values: Iterable[Value]) -> str:
    """Some values, for people."""
    return "[" + ", ".join(map(text, values)) + "]"


def text(value: object) -> str:
    """A value, for people."""
    if isinstance(value, bool):
        return str(value).lower()
    return ABSENT if value is None or value in ("", (), {}) else str(value)
