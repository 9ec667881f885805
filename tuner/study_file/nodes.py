"""YAML with positions: a file as nodes, and sections that take their keys one by one."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import yaml

#: The longest list of allowed words a message spells out.
_MAX_LISTED = 16


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """A mistake; line and column count from 1."""

    line: int
    column: int
    message: str

    def describe(self, path: str) -> str:
        """The mistake in the way compilers write it."""
        return f"{path}:{self.line}:{self.column}: {self.message}"


class Problems:
    """Collects mistakes while a file is read on."""

    def __init__(self) -> None:
        self._found: set[Problem] = set()

    def __len__(self) -> int:
        return len(self._found)

    def add(self, node: yaml.Node, message: str) -> None:
        """Notes a mistake where `node` starts."""
        mark = node.start_mark
        self._found.add(Problem(mark.line + 1, mark.column + 1, message))

    def sorted(self) -> list[Problem]:
        """The mistakes from top to bottom."""
        return sorted(self._found)


class _Loader(yaml.SafeLoader):
    """Safe YAML with the scalars of YAML 1.2: 1e-4 is a number, and `on` or `no` are words."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}  # type: ignore[misc]


_BOOL, _NULL, _INT, _FLOAT, _STR = (
    f"tag:yaml.org,2002:{name}" for name in ("bool", "null", "int", "float", "str")
)
_SCALARS = (
    (_BOOL, r"true|True|TRUE|false|False|FALSE", "tTfF"),
    (_NULL, r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    (_INT, r"[-+]?[0-9][0-9_]*", "-+0123456789"),
    (
        _FLOAT,
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)"
        r"|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
)
for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})\\Z"), list(_first))

#: A scalar of the file.
Scalar = str | int | float | bool | None


def compose(text: str) -> yaml.Node | None:
    """The document as nodes, None if it is empty; raises yaml.YAMLError or RecursionError."""
    node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    return node


def scalar(node: yaml.Node) -> Scalar:
    """The value of a scalar node; raises ValueError for another node or a foreign tag."""
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError
    text = str(node.value)
    match node.tag:
        case t if t == _STR:
            return text
        case t if t == _BOOL:
            return text.lower() == "true"
        case t if t == _NULL:
            return None
        case t if t == _INT:
            return int(text)
        case t if t == _FLOAT:
            return float(re.sub(r"\.(inf|nan)", r"\1", text, flags=re.IGNORECASE))
        case _:
            raise ValueError


def is_null(node: yaml.Node) -> bool:
    """Whether nothing is written there."""
    return isinstance(node, yaml.ScalarNode) and node.tag == _NULL


def show(node: yaml.Node) -> str:
    """What a message says was found."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    if is_null(node):
        return "nothing"
    text = str(node.value)
    text = text if len(text) <= 40 else text[:37] + "..."
    return repr(text) if node.tag == _STR else text


def listed(words: Iterable[str]) -> str:
    """Words with commas, cut short if there are many."""
    words = list(words)
    more = f", ... ({len(words)} in all)" if len(words) > _MAX_LISTED else ""
    return ", ".join(words[:_MAX_LISTED]) + more


def hint(word: str, allowed: Sequence[str]) -> str:
    """`; did you mean 'x'? allowed: ...`, the first part only if something is near."""
    near = difflib.get_close_matches(word, allowed, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return f"; {guess}allowed: {listed(allowed)}"


class Section:
    """A mapping of the file: unknown and repeated keys are noted at once, the rest on reading.

    Args:
        problems: where mistakes go.
        where: the node a missing key is noted at: the section's own key.
        node: the mapping.
        path: the section's name in messages; empty for the whole file.
        allowed: the keys it may have; None for any.
    """

    def __init__(
        self,
        problems: Problems,
        where: yaml.Node,
        node: yaml.MappingNode,
        path: str,
        allowed: Sequence[str] | None,
    ) -> None:
        self.problems = problems
        self.where = where
        self.path = path
        self.has_unknown = False
        self.entries: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key_node, value_node in node.value:
            self._add(key_node, value_node, allowed)

    def _add(
        self, key_node: yaml.Node, value_node: yaml.Node, allowed: Sequence[str] | None
    ) -> None:
        if not isinstance(key_node, yaml.ScalarNode) or is_null(key_node):
            self.problems.add(key_node, f"a key must be a word, but got {show(key_node)}")
            return
        key = str(key_node.value)
        if key in self.entries:
            line = self.entries[key][0].start_mark.line + 1
            self.problems.add(key_node, f"{self.name(key)} appears twice; first in line {line}")
        elif allowed is not None and key not in allowed:
            self.has_unknown = True
            inside = f" in {self.path}" if self.path else ""
            self.problems.add(key_node, f"unknown key {key!r}{inside}{hint(key, allowed)}")
        else:
            self.entries[key] = (key_node, value_node)

    def name(self, key: str) -> str:
        """The key with the section's path."""
        return f"{self.path}.{key}" if self.path else key

    def without(self, *keys: str) -> Section:
        """The same section, some keys left out."""
        rest = copy.copy(self)
        rest.entries = {key: pair for key, pair in self.entries.items() if key not in keys}
        return rest

    def has(self, key: str) -> bool:
        """Whether the key is there."""
        return key in self.entries

    def is_mapping(self, key: str) -> bool:
        """Whether there is a mapping under the key."""
        return key in self.entries and isinstance(self.entries[key][1], yaml.MappingNode)

    def require(self, key: str, example: str) -> None:
        """Notes a missing key."""
        if key not in self.entries:
            self.problems.add(self.where, f"missing key {self.name(key)!r}; add {example}")

    def reject(self, key: str, message: str) -> None:
        """Notes a mistake at the key's value, or at its key if there is nothing."""
        key_node, value_node = self.entries[key]
        self.problems.add(key_node if is_null(value_node) else value_node, message)

    def expect(self, key: str, what: str) -> None:
        """Notes that the key's value is not what it must be."""
        self.reject(key, f"{self.name(key)} must be {what}, but got {show(self.entries[key][1])}")

    def value(self, key: str) -> Scalar:
        """The scalar under the key; None if there is none or it is no scalar."""
        if key not in self.entries:
            return None
        try:
            return scalar(self.entries[key][1])
        except ValueError:
            return None

    def text(self, key: str, what: str = "text") -> str | None:
        """The text under the key; a number is text where text is wanted."""
        if key not in self.entries:
            return None
        value = self.value(key)
        if value is None or isinstance(value, bool) or value == "":
            self.expect(key, what)
            return None
        return str(self.entries[key][1].value)

    def choice(self, key: str, allowed: Sequence[str], noun: str) -> str | None:
        """One of some words under the key."""
        word = self.text(key, f"one of {listed(allowed)}")
        if word is None or word in allowed:
            return word
        self.reject(key, f"unknown {noun} {word!r}{hint(word, allowed)}")
        return None

    def integer(self, key: str, low: int, high: int) -> int | None:
        """A whole number from low to high under the key."""
        what = f"a whole number from {low} to {high}"
        number = self.number(key, what, low, high)
        if number is None:
            return None
        if number != int(number):
            self.expect(key, what)
            return None
        return int(number)

    def number(self, key: str, what: str, low: float, high: float) -> float | None:
        """A number from low to high under the key; `what` says so in words."""
        if key not in self.entries:
            return None
        value = self.value(key)
        if value is None or isinstance(value, (bool, str)) or not low <= value <= high:
            self.expect(key, what)
            return None
        return value

    def section(self, key: str, allowed: Sequence[str] | None, example: str) -> Section | None:
        """The mapping under the key."""
        if key not in self.entries:
            return None
        key_node, value_node = self.entries[key]
        if not isinstance(value_node, yaml.MappingNode):
            self.expect(key, f"a mapping such as {example}")
            return None
        return Section(self.problems, key_node, value_node, self.name(key), allowed)

    def texts(self, key: str, example: str) -> tuple[str, ...]:
        """A list of words under the key."""
        if key not in self.entries:
            return ()
        value_node = self.entries[key][1]
        if not isinstance(value_node, yaml.SequenceNode):
            self.expect(key, f"a list such as {example}")
            return ()
        words = []
        for item in value_node.value:
            if isinstance(item, yaml.ScalarNode):
                words.append(str(item.value))
            else:
                message = f"{self.name(key)} must hold words, but got {show(item)}"
                self.problems.add(item, message)
        return tuple(words)
