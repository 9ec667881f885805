"""The part of a study file that says what a parameter takes: a domain, conditions, or a value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import yaml

from tuner.errors import InvalidArgumentError
from tuner.setting import Setting
from tuner.space import (
    Categorical,
    Child,
    Discrete,
    Domain,
    Float,
    Group,
    Int,
    Parameter,
    Value,
)
from tuner.study_file.nodes import Problems, Section, hint, is_null, scalar, show

DOMAINS = ("int", "float", "discrete", "categorical")
_KEYS = (*DOMAINS, "log", "step", "default", "when")
_EXAMPLE = "{int: [1, 4]}, {float: [0.1, 0.9]}, {discrete: [16, 32]} or {categorical: [a, b]}"
#: Conditions inside conditions, as deep as the server takes them.
_MAX_DEPTH = 16
_INT64 = 2**63

T = TypeVar("T")

#: Whether a name may stand in a section; returns its group and what it takes, None for anything.
Lookup = Callable[[str], tuple[Group, Setting | None]]


class UnknownNameError(Exception):
    """A section allows no parameter of this name; the message ends with what it allows."""


def free(group: Group) -> Lookup:
    """A lookup that allows every name."""
    return lambda name: (group, None)


def known(settings: Mapping[str, Setting], groups: Mapping[str, Group]) -> Lookup:
    """A lookup that allows the names of a table."""

    def look(name: str) -> tuple[Group, Setting | None]:
        if name not in settings:
            raise UnknownNameError(hint(name, tuple(settings)))
        return groups[name], settings[name]

    return look


@dataclass(slots=True)
class Found:
    """What the sections gave so far; names are unique over all of them."""

    parameters: list[Parameter] = field(default_factory=list)
    settings: dict[str, Value] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)


def read_entries(section: Section, lookup: Lookup, found: Found, prefix: str = "") -> None:
    """Reads every key of a section as a parameter or a fixed setting.

    Args:
        section: the keys.
        lookup: which names are allowed.
        found: where the results go.
        prefix: put before each key to make the parameter's name.
    """
    reader = _Reader(section.problems, lookup, found, prefix)
    for key, (key_node, value_node) in section.entries.items():
        path = section.name(key)
        if isinstance(value_node, yaml.ScalarNode):
            value = reader.fixed(key, key_node, value_node, path)
            if value is not None:
                found.settings[prefix + key] = value
        else:
            parameter = reader.parameter(key, key_node, value_node, path, 1)
            if parameter is not None:
                found.parameters.append(parameter)


class _Reader:
    """Reads the parameters of one section."""

    def __init__(self, problems: Problems, lookup: Lookup, found: Found, prefix: str) -> None:
        self._problems = problems
        self._lookup = lookup
        self._found = found
        self._prefix = prefix

    def fixed(
        self, key: str, key_node: yaml.Node, value_node: yaml.ScalarNode, path: str
    ) -> Value | None:
        """The value of a setting; None after a mistake."""
        looked = self._look(key, key_node, path)
        value = self._value(key_node, value_node, path)
        if looked is None or value is None or not self._claim(key, key_node, path):
            return None
        setting = looked[1]
        if setting is None:
            return value
        return self._tried(value_node, path, lambda: setting.check(value))

    def parameter(
        self, key: str, key_node: yaml.Node, value_node: yaml.Node, path: str, depth: int
    ) -> Parameter | None:
        """A parameter with its children; None after a mistake."""
        looked = self._look(key, key_node, path)
        if looked is None or not self._claim(key, key_node, path):
            return None
        group, setting = looked
        domain = self._domain(key_node, value_node, path)
        if domain is None:
            return None
        if setting is not None:
            self._tried(value_node, path, lambda: setting.check_domain(domain))
        children = self._children(key_node, value_node, path, domain, depth)
        default = self._default(value_node, path, domain)
        name = self._prefix + key
        return self._tried(
            key_node,
            path,
            lambda: Parameter(
                name=name, domain=domain, group=group, children=children, default=default
            ),
        )

    def _look(
        self, key: str, key_node: yaml.Node, path: str
    ) -> tuple[Group, Setting | None] | None:
        try:
            return self._lookup(key)
        except UnknownNameError as error:
            inside = path.rpartition(".")[0]
            self._problems.add(key_node, f"unknown key {key!r} in {inside}{error}")
            return None

    def _claim(self, key: str, key_node: yaml.Node, path: str) -> bool:
        name = self._prefix + key
        if name in self._found.lines:
            line = self._found.lines[name]
            self._problems.add(key_node, f"{path} was given before, in line {line}; keep one")
            return False
        self._found.lines[name] = key_node.start_mark.line + 1
        return True

    def _value(self, key_node: yaml.Node, value_node: yaml.Node, path: str) -> Value | None:
        try:
            value = scalar(value_node)
        except ValueError:
            self._problems.add(value_node, f"{path} has the tag {value_node.tag!r}; remove it")
            return None
        if value is None:
            self._problems.add(key_node, f"{path} has no value; give one, or {_EXAMPLE}")
            return None
        if isinstance(value, float) and not math.isfinite(value):
            self._problems.add(value_node, f"{path} must be finite, but got {value}")
            return None
        if isinstance(value, int) and not -_INT64 <= value < _INT64:
            self._problems.add(value_node, f"{path} must fit in 64 bits, but got {value}")
            return None
        return value

    def _tried(self, node: yaml.Node, path: str, make: Callable[[], T]) -> T | None:
        """What `make` returns; None after noting what it refuses."""
        try:
            return make()
        except InvalidArgumentError as error:
            self._problems.add(node, f"{path}: {error.message.rstrip('.')}")
            return None

    # --- domains ---------------------------------------------------------------------------

    def _domain(self, key_node: yaml.Node, value_node: yaml.Node, path: str) -> Domain | None:
        if isinstance(value_node, yaml.SequenceNode):
            message = f"{path} is a list; write {{discrete: [...]}} or {{categorical: [...]}}"
            self._problems.add(value_node, message)
            return None
        if not isinstance(value_node, yaml.MappingNode):
            self._problems.add(key_node, f"{path} must be {_EXAMPLE}, but got {show(value_node)}")
            return None
        section = Section(self._problems, key_node, value_node, path, _KEYS)
        kinds = [kind for kind in DOMAINS if section.has(kind)]
        if len(kinds) == 1:
            return self._one_domain(section, kinds[0])
        if kinds:
            self._problems.add(key_node, f"{path} has both {' and '.join(kinds)}; keep one")
        elif not section.has_unknown:
            self._problems.add(key_node, f"{path} needs {_EXAMPLE}")
        return None

    def _one_domain(self, section: Section, kind: str) -> Domain | None:
        self._refuse_options(section, kind)
        values = self._values(section, kind)
        if values is None:
            return None
        if kind in ("int", "float"):
            return self._range(section, kind, values)
        node = section.entries[kind][1]
        if kind == "categorical":
            return self._tried(node, section.path, lambda: Categorical(tuple(values)))
        numbers = [v for v in values if not isinstance(v, (bool, str))]
        if len(numbers) != len(values):
            section.reject(kind, f"{section.name(kind)} must hold numbers; words are categorical")
            return None
        return self._tried(node, section.path, lambda: Discrete(tuple(numbers)))

    def _refuse_options(self, section: Section, kind: str) -> None:
        refused = {
            "int": (),
            "float": ("when",),
            "discrete": ("log", "step"),
            "categorical": ("log", "step"),
        }[kind]
        for option in refused:
            if section.has(option):
                self._problems.add(
                    section.entries[option][0],
                    f"{section.name(option)} does not go with {kind}; remove it",
                )

    def _values(self, section: Section, kind: str) -> list[Value] | None:
        key_node, node = section.entries[kind]
        path = section.name(kind)
        what = "[low, high]" if kind in ("int", "float") else "a list of values"
        if not isinstance(node, yaml.SequenceNode):
            section.expect(kind, what)
            return None
        if not node.value:
            self._problems.add(node, f"{path} is empty; give it {what}")
            return None
        values: list[Value | None] = []
        for item in node.value:
            if isinstance(item, yaml.ScalarNode) and not is_null(item):
                values.append(self._value(key_node, item, path))
            else:
                self._problems.add(item, f"{path} must hold values, but got {show(item)}")
                values.append(None)
        good = [value for value in values if value is not None]
        return good if len(good) == len(values) else None

    def _range(self, section: Section, kind: str, values: list[Value]) -> Domain | None:
        path, node = section.name(kind), section.entries[kind][1]
        log, step = self._log(section), section.number("step", "a number above 0", 5e-324, 1e300)
        numbers = [v for v in values if not isinstance(v, (bool, str))]
        if len(numbers) != len(values):
            section.reject(kind, f"{path} must be two numbers, [low, high]")
            return None
        if len(numbers) != 2:
            section.reject(
                kind,
                f"{path} takes two numbers, [low, high], but got {len(numbers)}; "
                "a list of numbers is {discrete: [...]}",
            )
            return None
        low, high = numbers
        if kind == "float":
            real = (float(low), float(high))
            return self._tried(node, section.path, lambda: Float(*real, log=log, step=step))
        whole = [int(n) for n in (low, high, step if step is not None else 1)]
        if whole != [low, high, step if step is not None else 1]:
            section.reject(kind, f"{path} takes whole numbers; use float for others")
            return None
        return self._tried(
            node, section.path, lambda: Int(whole[0], whole[1], log=log, step=whole[2])
        )

    def _default(self, node: yaml.Node, path: str, domain: Domain) -> Value | None:
        """What trials that were drawn without the parameter are read with, and where to start."""
        pair = next((pair for pair in node.value if pair[0].value == "default"), None)
        if pair is None:
            return None
        if not isinstance(pair[1], yaml.ScalarNode) or is_null(pair[1]):
            message = f"{path}.default must be one value, but got {show(pair[1])}"
            self._problems.add(pair[0], message)
            return None
        value = self._value(pair[0], pair[1], f"{path}.default")
        if value is None:
            return None
        if not domain.contains(value):
            message = f"{path}.default: {show(pair[1])} is not in {domain.describe()}"
            self._problems.add(pair[1], message)
            return None
        if isinstance(domain, (Float, Discrete)):
            return float(value)
        return int(value) if isinstance(domain, Int) else value

    def _log(self, section: Section) -> bool:
        value = section.value("log")
        if section.has("log") and not isinstance(value, bool):
            section.expect("log", "true or false")
        return value is True

    # --- conditions ------------------------------------------------------------------------

    def _children(
        self, key_node: yaml.Node, node: yaml.Node, path: str, domain: Domain, depth: int
    ) -> tuple[Child, ...]:
        when = next((v for k, v in node.value if k.value == "when"), None)
        if when is None or isinstance(domain, Float):
            return ()
        if not isinstance(when, yaml.MappingNode) or not when.value:
            example = "{sgd: {momentum: {float: [0, 0.99]}}}"
            self._problems.add(when, f"{path}.when must be a mapping such as {example}")
            return ()
        if depth >= _MAX_DEPTH:
            self._problems.add(when, f"{path}.when lies deeper than {_MAX_DEPTH} conditions")
            return ()
        children: list[Child] = []
        for value_node, inner in when.value:
            values = self._parent_values(value_node, path, domain)
            if not isinstance(inner, yaml.MappingNode) or not inner.value:
                message = f"{path}.when must name parameters, but got {show(inner)}"
                self._problems.add(value_node, message)
            elif values:
                where = f"{path}.when.{'/'.join(str(v) for v in values)}"
                section = Section(self._problems, value_node, inner, where, None)
                children += self._active(section, values, depth)
        return tuple(children)

    def _parent_values(self, node: yaml.Node, path: str, domain: Domain) -> tuple[Value, ...]:
        items = node.value if isinstance(node, yaml.SequenceNode) else [node]
        values: list[Value] = []
        for item in items:
            value = self._value(item, item, f"{path}.when")
            if value is None:
                continue
            if isinstance(domain, Discrete) and not isinstance(value, (bool, str)):
                value = float(value)
            if domain.contains(value):
                values.append(value)
            else:
                self._problems.add(
                    item, f"{path}.when: {show(item)} is not in {domain.describe()}"
                )
        return tuple(values)

    def _active(self, section: Section, values: tuple[Value, ...], depth: int) -> list[Child]:
        children = []
        for key, (key_node, value_node) in section.entries.items():
            path = section.name(key)
            if isinstance(value_node, yaml.ScalarNode):
                value = self.fixed(key, key_node, value_node, path)
                parameter = None if value is None else self._constant(key, value)
            else:
                parameter = self.parameter(key, key_node, value_node, path, depth + 1)
            if parameter is not None:
                children.append(Child(values, parameter))
        return children

    def _constant(self, key: str, value: Value) -> Parameter:
        """A value that holds under a condition only: a parameter with one choice."""
        group = self._lookup(key)[0]
        return Parameter(name=self._prefix + key, domain=Categorical((value,)), group=group)
