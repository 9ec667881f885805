"""The features of a study file, each with its columns, fixed settings and tuned ones."""

from __future__ import annotations

import yaml

from tuner.errors import InvalidArgumentError
from tuner.expressions import parse
from tuner.feature_kinds import KINDS, FeatureKind
from tuner.features import find_setting, share_problems
from tuner.space import Domain, Group
from tuner.study import Feature
from tuner.study_file import parameters
from tuner.study_file.nodes import Section, listed
from tuner.study_file.parameters import Found

_CROSS = " x "


def features(
    top: Section, label: str | None, trainer: str | None, found: Found
) -> tuple[Feature, ...]:
    """The features; their tuned settings become parameters in `found`."""
    section = top.section("features", None, "{age: {kind: numeric}}")
    if section is None:
        return ()
    if not section.entries:
        top.reject("features", "features is empty; leave it out to have features proposed")
    known = len(found.parameters)
    read = [_feature(section, name, label, trainer, found) for name in section.entries]
    features = tuple(feature for feature in read if feature is not None)
    tuned: dict[str, dict[str, Domain]] = {feature.name: {} for feature in features}
    for parameter in found.parameters[known:]:
        owner = find_setting(parameter.name, features)
        if owner is not None:
            tuned[owner[0].name][owner[1]] = parameter.domain
    for feature, setting, why in share_problems(features, tuned):
        key = _key(section.entries[feature.name][1], setting)
        section.problems.add(key, f"{section.name(feature.name)}: {why}")
    return features


def _feature(
    parent: Section, name: str, label: str | None, trainer: str | None, found: Found
) -> Feature | None:
    key_node, value_node = parent.entries[name]
    if not isinstance(value_node, yaml.MappingNode):
        parent.expect(name, f"a mapping such as {{kind: {next(iter(KINDS))}}}")
        return None
    kind = _kind(Section(parent.problems, key_node, value_node, parent.name(name), None))
    if kind is None:
        return None
    if kind.trainers and trainer is not None and trainer not in kind.trainers:
        message = f"{parent.name(name)} is an {kind.name}; write `trainer: {kind.trainers[0]}`"
        parent.problems.add(key_node, message)
    source = "column" if kind.max_columns == 1 else "columns"
    sources = () if kind.name == "expression" else (source,)
    allowed = (*kind.settings, "kind", *sources)
    section = Section(parent.problems, key_node, value_node, parent.name(name), allowed)
    columns = _columns(section, name, kind)
    if label is not None and label in columns:
        message = f"{section.path} uses the label {label!r}; a model cannot see what it predicts"
        parent.problems.add(key_node, message)
    own = Found(lines=found.lines)
    groups = dict.fromkeys(kind.settings, Group.PREPROCESSING)
    lookup = parameters.known(kind.settings, groups)
    parameters.read_entries(section.without("kind", *sources), lookup, own, f"{name}.")
    found.parameters += own.parameters
    if section.has("vocabulary") and section.has("hash_buckets"):
        section.problems.add(
            section.entries["hash_buckets"][0],
            f"{section.path} has both vocabulary and hash_buckets; keep one",
        )
    settings = {key.removeprefix(f"{name}."): value for key, value in own.settings.items()}
    return Feature(name=name, kind=kind.name, columns=columns, settings=settings)


def _expression(section: Section) -> tuple[str, ...]:
    """The columns of an expression."""
    section.require("expression", "an expression such as log1p(price / area)")
    text = section.text("expression", "an expression such as log1p(price / area)")
    if text is None:
        return ()
    try:
        return tuple(parse(text).columns)
    except InvalidArgumentError as error:
        section.reject("expression", f"{section.name('expression')}: {error.message.rstrip('.')}")
        return ()


def _key(feature: yaml.Node, setting: str) -> yaml.Node:
    """The node of a setting in that of its feature."""
    keys: list[yaml.Node] = [key for key, _ in feature.value if key.value == setting]
    return keys[0]


def _kind(section: Section) -> FeatureKind | None:
    kinds = tuple(KINDS)
    section.require("kind", f"`kind: {kinds[0]}`, or {listed(kinds[1:])}")
    name = section.choice("kind", kinds, "kind of feature")
    return None if name is None else KINDS[name]


def _columns(section: Section, name: str, kind: FeatureKind) -> tuple[str, ...]:
    if kind.name == "expression":
        return _expression(section)
    if kind.max_columns == 1:
        return (section.text("column", "a column's name") or name,)
    if section.has("columns"):
        columns = section.texts("columns", "[age, hours_per_week]")
        where = section.entries["columns"][1]
    else:
        columns = tuple(part.strip() for part in name.split(_CROSS))
        where = section.where
    if not kind.min_columns <= len(columns) <= kind.max_columns:
        section.problems.add(
            where,
            f"{section.path} takes {kind.min_columns} to {kind.max_columns} columns, but got "
            f"{len(columns)}; name it `a x b`, or give `columns: [a, b]`",
        )
    elif len(set(columns)) != len(columns):
        section.problems.add(where, f"{section.path} names a column twice")
    return columns
