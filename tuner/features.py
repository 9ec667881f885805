"""Rules of features: which settings one takes, and what they are in a trial."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

from tuner.errors import InvalidArgumentError
from tuner.expressions import Expression, parse
from tuner.feature_kinds import KINDS, ONE_HOT_LIMIT, TABLE_SETTINGS, FeatureKind
from tuner.setting import Setting
from tuner.space import Domain, Value
from tuner.study import Feature


def kind_of(name: str) -> FeatureKind:
    """Returns the kind `name`; raises InvalidArgumentError."""
    if name not in KINDS:
        raise InvalidArgumentError(
            f"a feature's kind is one of {', '.join(KINDS)}, but got {name!r}."
        )
    return KINDS[name]


def setting_of(kind: str, name: str) -> Setting:
    """Returns the setting `name` of features of `kind`; raises InvalidArgumentError."""
    settings = kind_of(kind).settings
    if name not in settings:
        raise InvalidArgumentError(
            f"a {kind} feature has no setting {name!r}; it has {', '.join(settings)}."
        )
    return settings[name]


def parameter_name(feature: str, setting: str) -> str:
    """The name of the parameter that tunes `setting` of `feature`."""
    return f"{feature}.{setting}"


def find_setting(parameter: str, features: Iterable[Feature]) -> tuple[Feature, str] | None:
    """Returns the feature and the setting that `parameter` tunes, or None if it tunes neither."""
    owner: Feature | None = None
    for feature in features:
        longer = owner is None or len(feature.name) > len(owner.name)
        if parameter.startswith(f"{feature.name}.") and longer:
            owner = feature
    return None if owner is None else (owner, parameter[len(owner.name) + 1 :])


def source_columns(feature: Feature, features: Iterable[Feature]) -> tuple[str, ...]:
    """The columns of the data that a feature is made of: a cross may name an expression."""
    if feature.kind != "cross":
        return feature.columns
    named = expressions_of(features)
    found = (named[name].columns if name in named else (name,) for name in feature.columns)
    return tuple(dict.fromkeys(chain.from_iterable(found)))


def expressions_of(features: Iterable[Feature]) -> Mapping[str, Feature]:
    """The features that are expressions, by their names."""
    return {feature.name: feature for feature in features if feature.kind == "expression"}


def expression_of(feature: Feature) -> Expression:
    """The expression of such a feature; raises InvalidArgumentError if there is none."""
    if "expression" not in feature.settings:
        raise InvalidArgumentError("an expression feature needs the setting `expression`.")
    return parse(str(feature.settings["expression"]))


def check_feature(feature: Feature, tuned: Mapping[str, Domain]) -> None:
    """Raises InvalidArgumentError unless the feature is one that can be made.

    Args:
        feature: what was asked for; its columns are not looked up.
        tuned: the domains of its tuned settings, by setting.
    """
    kind = kind_of(feature.kind)
    if not kind.min_columns <= len(feature.columns) <= kind.max_columns:
        raise InvalidArgumentError(
            f"the {kind.name} feature {feature.name!r} is made of {_columns(kind)}, "
            f"but got {len(feature.columns)}."
        )
    try:
        for name, value in feature.settings.items():
            setting_of(feature.kind, name).check(value)
        for name, domain in tuned.items():
            setting_of(feature.kind, name).check_domain(domain)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"feature {feature.name!r}: {error.message}") from None
    if feature.kind == "expression":
        _check_expression(feature)
    named = {*feature.settings, *tuned}
    if {"vocabulary", "hash_buckets"} <= named:
        raise InvalidArgumentError(
            f"feature {feature.name!r} names both `vocabulary` and `hash_buckets`; keep one."
        )


def effective_settings(
    feature: Feature, parameters: Mapping[str, Value]
) -> Mapping[str, Value | None]:
    """The feature's settings in a trial, in their own types: default < fixed < tuned.

    A setting that nobody gave and whose default is a rule is None.
    """
    settings: dict[str, Value | None] = {}
    for name, setting in kind_of(feature.kind).settings.items():
        tuned = parameters.get(parameter_name(feature.name, name))
        value = feature.settings.get(name) if tuned is None else tuned
        settings[name] = setting.default if value is None else setting.check(value)
    return settings


def all_settings(
    features: Iterable[Feature], parameters: Mapping[str, Value]
) -> Mapping[str, Mapping[str, Value | None]]:
    """The effective settings of each feature by its name; those of a shared table are one's."""
    settings = {feature.name: effective_settings(feature, parameters) for feature in features}
    for members in shared_tables(features).values():
        given = {
            name: settings[feature.name][name]
            for feature in members
            for name in TABLE_SETTINGS
            if name in feature.settings or parameter_name(feature.name, name) in parameters
        }
        for feature in members:
            settings[feature.name] = {**settings[feature.name], **given}
    return settings


def shared_tables(features: Iterable[Feature]) -> Mapping[str, Sequence[Feature]]:
    """The features that share a table, by its name."""
    tables: dict[str, list[Feature]] = {}
    for feature in features:
        if feature.kind == "categorical" and "share" in feature.settings:
            tables.setdefault(str(feature.settings["share"]), []).append(feature)
    return tables


def share_problems(
    features: Iterable[Feature], tuned: Mapping[str, Mapping[str, Domain]]
) -> Iterator[tuple[Feature, str, str]]:
    """What is wrong with shared tables: the feature, its setting that is at fault, and why.

    Args:
        features: all that the user wrote.
        tuned: the domains of tuned settings, by feature and setting.
    """
    for table, members in shared_tables(features).items():
        if len(members) == 1:
            yield members[0], "share", f"nothing else shares the table {table!r}; name it twice"
        owners: dict[str, Feature] = {}
        for feature in members:
            domains = tuned.get(feature.name, {})
            for name in TABLE_SETTINGS:
                if name not in feature.settings and name not in domains:
                    continue
                owner = owners.setdefault(name, feature)
                if owner is not feature:
                    why = (
                        f"shares the table {table!r}, whose {name} {owner.name!r} gives; keep one"
                    )
                    yield feature, name, why
            may_be_0 = "embedding" in domains and domains["embedding"].contains(0)
            if feature.settings.get("embedding") == 0 or may_be_0:
                yield feature, "embedding", "a shared table has vectors: embedding starts at 1"
        if {"vocabulary", "hash_buckets"} <= owners.keys():
            owner = owners["hash_buckets"]
            yield owner, "hash_buckets", f"the table {table!r} has a vocabulary, too; keep one"


def default_embedding(entries: int, *, one_hot: bool = True) -> int:
    """The dimensions for a category of so many entries where none were given; 0 means one-hot.

    Args:
        entries: how many.
        one_hot: whether few entries are one-hot.
    """
    few = one_hot and entries <= ONE_HOT_LIMIT
    return 0 if few else min(64, round(2.0 * float(entries) ** 0.4))


def _check_expression(feature: Feature) -> None:
    try:
        needed = tuple(expression_of(feature).columns)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"feature {feature.name!r}: {error.message}") from None
    if set(needed) != set(feature.columns):
        raise InvalidArgumentError(
            f"feature {feature.name!r} has the columns {', '.join(feature.columns)}, but its "
            f"expression {', '.join(needed)}."
        )


def _columns(kind: FeatureKind) -> str:
    if kind.max_columns == 1:
        return "one column"
    return f"{kind.min_columns} to {kind.max_columns} columns"
