"""A setting of a feature or a trainer: what values it takes, its default and what it means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tuner.errors import InvalidArgumentError
from tuner.space import Categorical, Domain, Float, Int, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting. It is fixed to a value, or tuned over a domain of such values.

    `type` is int, float, bool or str; numbers lie between `low` and `high`, words are among
    `choices`, or are free text of up to `high` characters where there are none. A `default` of
    None means a rule, which `meaning` tells.
    """

    name: str
    type: type[int] | type[float] | type[bool] | type[str]
    default: Value | None
    meaning: str
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()
    #: Whether it may be tuned.
    tunable: bool = True

    @property
    def allowed(self) -> str:
        """What values it takes, in words."""
        if self.type is bool:
            return "true or false"
        if self.type is str:
            text = f"text of 1 to {self.high:g} characters"
            return "one of " + ", ".join(self.choices) if self.choices else text
        noun = "a whole number" if self.type is int else "a number"
        return f"{noun} from {self.low:g} to {self.high:g}"

    def accepts(self, value: Value) -> bool:
        """Whether `value` is allowed; whole floats count as whole numbers."""
        if self.type is bool:
            return isinstance(value, bool)
        if self.type is str:
            return isinstance(value, str) and self._accepts_text(value)
        if isinstance(value, (bool, str)) or not self.low <= value <= self.high:
            return False
        return self.type is float or value == int(value)

    def check(self, value: Value) -> Value:
        """Returns `value` in the setting's own type; raises InvalidArgumentError."""
        if not self.accepts(value):
            raise InvalidArgumentError(f"`{self.name}` takes {self.allowed}, but got {value!r}.")
        return self.type(value)

    def check_domain(self, domain: Domain) -> None:
        """Raises InvalidArgumentError unless every value of `domain` is allowed."""
        if not self.tunable:
            raise InvalidArgumentError(f"`{self.name}` cannot be tuned; give it one value.")
        if not all(self.accepts(value) for value in self._extremes(domain)):
            raise InvalidArgumentError(
                f"`{self.name}` takes {self.allowed}, but is tuned over {domain.describe()}."
            )

    def _accepts_text(self, text: str) -> bool:
        return text in self.choices if self.choices else 0 < len(text) <= self.high

    def _extremes(self, domain: Domain) -> Sequence[Value]:
        """The values whose being allowed means that all are."""
        if isinstance(domain, Float):
            if self.type is not float:
                raise InvalidArgumentError(
                    f"`{self.name}` takes {self.allowed}, so it cannot be tuned over "
                    f"{domain.describe()}."
                )
            return (domain.low, domain.high)
        if isinstance(domain, Int):
            return (domain.low, domain.high)
        return domain.choices if isinstance(domain, Categorical) else domain.values
