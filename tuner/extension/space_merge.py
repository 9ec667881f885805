"""The space of a study that is submitted again, merged into the one it has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

from tuner.extension.refusals import ABSENT, Refusal, is_in, listed, same, text
from tuner.space import Categorical, Child, Discrete, Domain, Parameter, Space, Value
from tuner.study import StudySpec


class SpaceMerge:
    """Merges what is submitted into the space; what may not be lands in `refusals`."""

    def __init__(self, old: StudySpec, before: StudySpec, now: StudySpec) -> None:
        self._old, self._now = old.space, now.space
        self._known = {parameter.name for parameter in old.space.walk()}
        self._before = {parameter.name: parameter for parameter in before.space.walk()}
        self._names = {parameter.name for parameter in now.space.walk()}
        self._fixed = dict(fixed_values(old))
        self._fixed_now = dict(fixed_values(now))
        self.refusals: list[Refusal] = []

    def space(self) -> Space:
        """The merged space; of no use if anything was refused."""
        # A root exists under every value of nothing, as a child does under some of its parent.
        roots = self._children(
            None,
            [Child((True,), parameter) for parameter in self._old.parameters],
            [Child((True,), parameter) for parameter in self._now.parameters],
        )
        return self._old if self.refusals else Space(tuple(root.parameter for root in roots))

    def _children(
        self, parent: Parameter | None, old: Sequence[Child], now: Sequence[Child]
    ) -> list[Child]:
        submitted = {child.parameter.name: child for child in now}
        existing = {child.parameter.name for child in old}
        merged = [self._kept(parent, child, submitted) for child in old]
        new = [self._new(parent, child) for child in now if child.parameter.name not in existing]
        return merged + new

    def _kept(self, parent: Parameter | None, old: Child, submitted: Mapping[str, Child]) -> Child:
        name, child = old.parameter.name, submitted.get(old.parameter.name)
        if child is not None:
            values = old.parent_values if parent is None else self._values(parent, old, child)
            return Child(values, self._widened(old.parameter, child.parameter))
        if name in self._fixed_now:
            fixed = f"fixed {text(self._fixed_now[name])}"
            self._refuse(old.parameter, fixed, "a range may only widen")
        elif name in self._before and name not in self._names:
            self._refuse(old.parameter, ABSENT, "trials so far have it")
        return old

    def _new(self, parent: Parameter | None, child: Child) -> Child:
        parameter = child.parameter
        for inner in Space((parameter,)).walk():
            if inner.name in self._known:
                self._refuse_new(inner, "elsewhere in the tree", "it stays where it is")
            elif inner.name in self._fixed and (parent is not None or inner is not parameter):
                fixed = f"fixed {text(self._fixed[inner.name])}"
                self._refuse_new(inner, fixed, "trials so far have it under every value")
        if parent is None and parameter.name in self._fixed:
            parameter = self._was_fixed(parameter, self._fixed[parameter.name])
        # Under a value that is new no trial can lack it.
        elif parent is None or any(parent.domain.contains(v) for v in child.parent_values):
            self._check_readable(parameter)
        return Child(child.parent_values, parameter)

    def _values(self, parent: Parameter, old: Child, now: Child) -> tuple[Value, ...]:
        """The values of the parent under which the child exists from now on."""
        if _is_one(self._values_before(parent, now), now.parent_values):
            return old.parent_values
        added = [v for v in now.parent_values if not is_in(v, old.parent_values)]
        if any(not is_in(v, now.parent_values) for v in old.parent_values):
            self.refusals.append(
                Refusal(
                    f"parameter {now.parameter.name!r} of {parent.name!r}",
                    listed(old.parent_values),
                    listed(now.parent_values),
                    "trials so far have it under the other values",
                )
            )
        elif any(parent.domain.contains(value) for value in added):
            self._check_readable(now.parameter)
        return (*old.parent_values, *added)

    def _values_before(self, parent: Parameter, now: Child) -> tuple[Value, ...] | None:
        before = self._before.get(parent.name)
        for child in before.children if before else ():
            if child.parameter.name == now.parameter.name:
                return child.parent_values
        return None

    def _widened(self, old: Parameter, now: Parameter) -> Parameter:
        before = self._before.get(old.name)
        domain = old.domain if before and _is_one(before.domain, now.domain) else now.domain
        why = _why_not_widened(old.domain, domain)
        if why is not None:
            self._refuse(old, now.domain.describe(), why)
        children = self._children(old, old.children, now.children)
        if self.refusals:
            return old
        default = old.default
        if now.default is not None and not (before and _is_one(before.default, now.default)):
            default = now.default
        group = old.group if before and before.group == now.group else now.group
        return replace(old, domain=domain, group=group, default=default, children=tuple(children))

    def _was_fixed(self, parameter: Parameter, value: Value) -> Parameter:
        """A setting that is tuned from now on; trials so far had its value."""
        default = value if parameter.default is None else parameter.default
        if parameter.domain.contains(value) and same(default, value):
            widened = replace(parameter, default=value)
            for child in widened.active_children(value):
                self._check_readable(child)
            return widened
        why = f"its range and its default must include {text(value)}, which trials so far had"
        self._refuse_new(parameter, f"fixed {text(value)}", why)
        return parameter

    def _check_readable(self, parameter: Parameter) -> None:
        """Whether trials without the parameter can be read as if they had its default."""
        if parameter.default is None:
            why = "give it a `default`: trials that were drawn without it are read with that"
            self._refuse_new(parameter, ABSENT, why)
            return
        for child in parameter.active_children(parameter.default):
            self._check_readable(child)

    def _refuse(self, old: Parameter, new: str, why: str) -> None:
        what = f"parameter {old.name!r}"
        self.refusals.append(Refusal(what, old.domain.describe(), new, why))

    def _refuse_new(self, new: Parameter, old: str, why: str) -> None:
        what = f"parameter {new.name!r}"
        self.refusals.append(Refusal(what, old, new.domain.describe(), why))


def _why_not_widened(old: Domain, new: Domain) -> str | None:
    """Why not every value of `old` is one of `new` on the same scale; None if it is."""
    if isinstance(old, Categorical) and isinstance(new, Categorical):
        kept = all(new.contains(choice) for choice in old.choices)
        return None if kept else "choices may only be added"
    if isinstance(old, Discrete) and isinstance(new, Discrete):
        kept = set(old.values) <= set(new.values)
        return None if kept else "values may only be added"
    if isinstance(old, (Categorical, Discrete)) or type(old) is not type(new):
        return "its kind is fixed"
    if isinstance(new, (Categorical, Discrete)):
        return "its kind is fixed"
    if old.log is not new.log:
        return "its scale is fixed"
    if old.step != new.step:
        return "its step is fixed"
    if new.low > old.low or new.high < old.high:
        return "a range may only widen"
    if old.step is not None and (_decimal(old.low) - _decimal(new.low)) % _decimal(old.step):
        return "it may only widen by whole steps"
    return None


def _decimal(number: float) -> Decimal:
    # By its shortest text, so that steps of 0.1 are just that.
    return Decimal(repr(number))


def _is_one(a: object, b: object) -> bool:
    # By their texts: Python calls choices equal that are not, such as 1 and True.
    return repr(a) == repr(b)


def fixed_values(spec: StudySpec) -> Iterator[tuple[str, Value]]:
    """What the study fixes, by the names that it would have as parameters."""
    yield from spec.settings.items()
    for feature in spec.features:
        for name, value in feature.settings.items():
            yield f"{feature.name}.{name}", value
