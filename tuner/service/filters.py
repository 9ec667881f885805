"""The filter of a list of trials: comparisons joined by AND, OR, NOT, as a jsonpath predicate.

The language is a part of AIP-160's (https://google.aip.dev/160), with comparisons in full:

    metrics.auc > 0.9 AND (parameters.units >= 64 OR NOT labels.team = "research")

A name that is not made of letters, digits and _ alone is quoted: `metrics."val/auc"`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

from tuner.errors import InvalidArgumentError
from tuner.study import Origin, TrialState

_TOKEN = re.compile(
    r"\s*(?:(?P<word>[A-Za-z_][A-Za-z0-9_-]*)|(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
    r'|(?P<text>"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\')|(?P<sign><=|>=|!=|=|<|>|\(|\)|\.))'
)
_SIGNS = {"=": "==", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_FIELDS = ("number", "state", "attempt", "worker_id", "origin")
_WHOLE = ("number", "attempt")
_STATES = {
    "state": tuple(state.value for state in TrialState),
    "origin": tuple(origin.value for origin in Origin),
}
_MAPS = ("metrics", "parameters", "labels")
_LONGEST, _DEEPEST = 2_000, 20
#: More digits than these are read as a float.
_DIGITS = 20


def to_jsonpath(text: str) -> str:
    """The filter as a jsonpath predicate over `tuner.trial_document`.

    Raises:
        InvalidArgumentError: it cannot be read; the message says where.
    """
    if len(text) > _LONGEST:
        raise InvalidArgumentError(
            f"`filter` may have {_LONGEST} characters, but has {len(text)}."
        )
    return _Parser(text).whole()


class _Parser:
    """Recursive descent: either = both (OR both)*, both = one (AND one)*."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._read())
        self._next = 0
        self._depth = 0

    def whole(self) -> str:
        found = self._either()
        if self._next < len(self._tokens):
            raise self._refused("AND, OR or the end")
        return found

    def _read(self) -> Iterator[tuple[str, str, int]]:
        place, end = 0, len(self._text.rstrip())
        while place < end:
            match = _TOKEN.match(self._text, place)
            if match is None or match.lastgroup is None:
                rest = self._text[place:end].lstrip()
                raise InvalidArgumentError(
                    f"`filter` has {rest[:20]!r} at character {end - len(rest) + 1}, which is no "
                    "word, number or sign of it."
                )
            yield match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)
            place = match.end()

    def _peek(self) -> tuple[str, str]:
        if self._next < len(self._tokens):
            kind, token, _ = self._tokens[self._next]
            return kind, token
        return "end", ""

    def _take(self, token: str) -> bool:
        if self._peek()[1].upper() == token and self._peek()[0] in ("word", "sign"):
            self._next += 1
            return True
        return False

    def _refused(self, wanted: str) -> InvalidArgumentError:
        kind, token = self._peek()
        got = "its end" if kind == "end" else repr(token[:40])
        place = len(self._text) if kind == "end" else self._tokens[self._next][2]
        return InvalidArgumentError(
            f"`filter` needs {wanted} at character {place + 1}, but got {got}."
        )

    def _either(self) -> str:
        parts = [self._both()]
        while self._take("OR"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else "(" + " || ".join(parts) + ")"

    def _both(self) -> str:
        parts = [self._one()]
        while self._take("AND"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else "(" + " && ".join(parts) + ")"

    def _one(self) -> str:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise InvalidArgumentError(f"`filter` may be nested {_DEEPEST} deep at most.")
        try:
            if self._take("NOT"):
                return f"!({self._one()})"
            if self._take("("):
                inside = self._either()
                if not self._take(")"):
                    raise self._refused("`)`")
                return f"({inside})"
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> str:
        field = self._field()
        kind, sign = self._peek()
        if kind != "sign" or sign not in _SIGNS:
            raise self._refused("one of " + " ".join(_SIGNS))
        self._next += 1
        name = field.removeprefix("$.")
        value = self._state(name) if name in _STATES else self._value(name in _WHOLE)
        return f"({field} {_SIGNS[sign]} {value})"

    def _state(self, name: str) -> str:
        """A word of a fixed list, in whatever case."""
        kind, token = self._peek()
        word = (token[1:-1] if kind == "text" else token).upper()
        if kind not in ("word", "text") or word not in _STATES[name]:
            raise self._refused(f"one of {', '.join(_STATES[name])}")
        self._next += 1
        return json.dumps(word)

    def _field(self) -> str:
        kind, word = self._peek()
        if kind == "word" and word in _FIELDS:
            self._next += 1
            return f"$.{word}"
        if kind != "word" or word not in _MAPS:
            raise self._refused(f"one of {', '.join(_FIELDS)}, or {', '.join(_MAPS)} with a name")
        self._next += 1
        if not self._take("."):
            raise self._refused(f"a name, as in {word}.NAME")
        return f"$.{word}.{json.dumps(self._name())}"

    def _name(self) -> str:
        kind, token = self._peek()
        if kind not in ("word", "text"):
            raise self._refused("a name")
        name = self._unquoted(token) if kind == "text" else token
        self._next += 1
        # A tuned setting of a feature is called `feature.setting`.
        while self._take("."):
            kind, token = self._peek()
            if kind != "word":
                raise self._refused("a name")
            self._next += 1
            name += f".{token}"
        return name

    def _value(self, is_whole: bool) -> str:
        kind, token = self._peek()
        if is_whole and kind != "number":
            raise self._refused("a number")
        match kind:
            case "number":
                value = self._number(token)
            case "text":
                value = json.dumps(self._unquoted(token))
            case "word":
                lower = token.lower()
                value = lower if lower in ("true", "false") else json.dumps(token)
            case _:
                raise self._refused("a number, a word, true or false")
        self._next += 1
        return value

    def _number(self, token: str) -> str:
        # A whole number in full: a float has no place for all of 64 bits.
        if token.lstrip("+-").isdecimal() and len(token) <= _DIGITS:
            return str(int(token))
        if not math.isfinite(float(token)):
            raise self._refused("a number that is not too large")
        return json.dumps(float(token))

    def _unquoted(self, token: str) -> str:
        if "\0" in token:
            raise self._refused("words without NUL")
        return re.sub(r"\\(.)", r"\1", token[1:-1])
