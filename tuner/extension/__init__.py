"""What a study becomes when it is submitted again with changes, and which changes are refused.

A change is accepted if the trials so far stay comparable with those to come, and readable in the
new space. A managed study is submitted incomplete, and completed by a runner: what was not
submitted stays as the runner proposed it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import TypeVar

from tuner.errors import AlreadyExistsError
from tuner.extension.refusals import ABSENT, Refusal, same, text
from tuner.extension.space_merge import SpaceMerge
from tuner.space import Value
from tuner.study import (
    Constraint,
    DataSource,
    Feature,
    Limits,
    Metric,
    Resources,
    Search,
    StudySpec,
)

__all__ = ["extend"]

#: How many refused changes a message spells out.
_SHOWN = 5
_MEASURED = "trials so far would not compare with those to come"

D = TypeVar("D", Limits, Resources, Search)
T = TypeVar("T")


def extend(old: StudySpec, before: StudySpec, now: StudySpec) -> StudySpec:
    """What the study becomes. What was submitted unchanged stays as it is.

    Limits, labels, the exported model, resources, the algorithm and early stopping may change.
    Choices and discrete values may be added, and ranges widened; a step and its raster stay. A
    parameter may be added, at the root or under a value, with a `default`: trials that were drawn
    without it are read with that. One that is new only under new values of its parent needs none,
    and one that was a fixed setting has its value for a default. Defaults and groups may change.

    Args:
        old: The study as it is, completed by a runner if it is managed.
        before: What was submitted to get there.
        now: What is submitted this time.

    Raises:
        AlreadyExistsError: with what cannot change, from what to what, and why.
    """
    merge = SpaceMerge(old, before, now)
    space = merge.space()
    refusals = [
        *_fixed_changes(before, now),
        *_setting_changes(old, before, now),
        *_feature_changes(old, before, now),
        *merge.refusals,
    ]
    if refusals:
        raise AlreadyExistsError(_message(refusals))
    merged = replace(old, space=space)
    tuned = _tuned(merged)
    return replace(
        merged,
        settings={name: value for name, value in old.settings.items() if name not in tuned},
        features=tuple(_without(feature, tuned) for feature in old.features),
        search=_merged(old.search, before.search, now.search),
        limits=_merged(old.limits, before.limits, now.limits),
        resources=_merged(old.resources, before.resources, now.resources),
        export_model=_changed(old.export_model, before.export_model, now.export_model),
        labels=_changed(old.labels, before.labels, now.labels),
    )


def _message(refusals: Sequence[Refusal]) -> str:
    shown = "; ".join(map(str, refusals[:_SHOWN]))
    more = f"; and {len(refusals) - _SHOWN} more" if len(refusals) > _SHOWN else ""
    return (
        f"the study exists, and this cannot change: {shown}{more}. Undo it, or submit it under "
        "another name."
    )


def _changed(old: T, before: T, now: T) -> T:
    """What was changed by the user, or else what is."""
    return old if now == before else now


def _merged(old: D, before: D, now: D) -> D:
    """The same, field by field."""
    changed = {
        field.name: _changed(*(getattr(value, field.name) for value in (old, before, now)))
        for field in fields(old)
    }
    return replace(old, **changed)


# --- what is fixed -------------------------------------------------------------------------


def _fixed_changes(before: StudySpec, now: StudySpec) -> Iterator[Refusal]:
    rows: tuple[tuple[str, Callable[[StudySpec], str], str], ...] = (
        ("metrics", lambda spec: _metrics(spec.metrics), _MEASURED),
        ("constraints", lambda spec: _constraints(spec.constraints), "they decide what is best"),
        ("measurement", lambda spec: spec.selection.value.lower(), _MEASURED),
        ("trainer", lambda spec: spec.trainer or ABSENT, _MEASURED),
        ("trainer.command", lambda spec: shlex.join(spec.own.command) or ABSENT, _MEASURED),
        ("trainer.env", lambda spec: _words(spec.own.environment) or ABSENT, _MEASURED),
        ("trainer.code", lambda spec: spec.own.code[:12] or ABSENT, _MEASURED),
        (
            "warm_start",
            lambda spec: ", ".join(spec.warm_start) or ABSENT,
            "earlier results are read once, when a study is created",
        ),
        (
            "search.seed",
            lambda spec: str(spec.search.seed),
            "it drew the validation rows and the points so far",
        ),
    )
    for what, told, why in rows:
        if told(before) != told(now):
            yield Refusal(what, told(before), told(now), why)
    yield from _data_changes(before.data, now.data)


def _words(words: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={word}" for name, word in sorted(words.items()))


def _metrics(metrics: Iterable[Metric]) -> str:
    return ", ".join(f"{metric.goal.value} {metric.name}" for metric in metrics)


def _constraints(constraints: Iterable[Constraint]) -> str:
    # Their order means nothing, and numbers are told apart to the last digit.
    bounds = [
        f"{c.metric} at least {c.at_least!r}"
        if c.at_most is None
        else f"{c.metric} at most {c.at_most!r}"
        for c in constraints
    ]
    return ", ".join(sorted(bounds)) or ABSENT


def _data_changes(before: DataSource | None, now: DataSource | None) -> Iterator[Refusal]:
    if before is None or now is None:
        if before is not now:
            old, new = (ABSENT if data is None else data.train_uri for data in (before, now))
            yield Refusal("data", old, new, _MEASURED)
        return
    for field in fields(DataSource):
        was, is_now = getattr(before, field.name), getattr(now, field.name)
        if was != is_now:
            yield Refusal(f"data.{field.name}", text(was), text(is_now), _MEASURED)


# --- settings and features -----------------------------------------------------------------


def _setting_changes(old: StudySpec, before: StudySpec, now: StudySpec) -> Iterator[Refusal]:
    tuned = _tuned(old, now)
    yield from _fixed_value_changes(old.settings, before.settings, now.settings, tuned)


def _tuned(*specs: StudySpec) -> set[str]:
    return {parameter.name for spec in specs for parameter in spec.space.walk()}


def _fixed_value_changes(
    old: Mapping[str, Value],
    before: Mapping[str, Value],
    now: Mapping[str, Value],
    tuned: set[str],
    prefix: str = "",
) -> Iterator[Refusal]:
    """A fixed value stays, unless it is tuned from now on; what was tuned is the space's."""
    for name, value in now.items():
        if prefix + name in tuned or (name in before and same(before[name], value)):
            continue
        known = old.get(name)
        if known is None or not same(known, value):
            yield Refusal(prefix + name, text(known), text(value), _MEASURED)
    for name, value in before.items():
        if name not in now and prefix + name not in tuned:
            yield Refusal(prefix + name, text(value), ABSENT, _MEASURED)


def _feature_changes(old: StudySpec, before: StudySpec, now: StudySpec) -> Iterator[Refusal]:
    known = {feature.name: feature for feature in old.features}
    was = {feature.name: feature for feature in before.features}
    tuned = _tuned(old, now)
    why = "models of trials so far see other features"
    for feature in now.features:
        own = known.get(feature.name)
        if own is None or (own.kind, own.columns) != (feature.kind, feature.columns):
            made_of = ABSENT if own is None else _made_of(own)
            yield Refusal(f"feature {feature.name!r}", made_of, _made_of(feature), why)
            continue
        earlier = was[feature.name].settings if feature.name in was else {}
        yield from _fixed_value_changes(
            own.settings, earlier, feature.settings, tuned, f"{feature.name}."
        )
    named = {feature.name for feature in now.features}
    for feature in before.features:
        if feature.name not in named:
            yield Refusal(f"feature {feature.name!r}", _made_of(feature), ABSENT, why)


def _made_of(feature: Feature) -> str:
    return f"{feature.kind} of {', '.join(feature.columns)}"


def _without(feature: Feature, tuned: set[str]) -> Feature:
    kept = {
        name: value
        for name, value in feature.settings.items()
        if f"{feature.name}.{name}" not in tuned
    }
    return replace(feature, settings=kept)
