"""Rules of features: which settings one takes, and what they are in a trial."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tuner.errors import InvalidArgumentError
from tuner.feature_kinds import KINDS, ONE_HOT_LIMIT, FeatureKind
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


def default_embedding(entries: int) -> int:
    """The dimensions for a category of so many entries where none were given; 0 means one-hot."""
    return 0 if entries <= ONE_HOT_LIMIT else min(64, round(2.0 * float(entries) ** 0.4))


def _columns(kind: FeatureKind) -> str:
    if kind.max_columns == 1:
        return "one column"
    return f"{kind.min_columns} to {kind.max_columns} columns"
