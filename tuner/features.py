"""The kinds of features and their settings: the one table that checks, trainers and docs share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tuner.errors import InvalidArgumentError
from tuner.setting import Setting
from tuner.space import Domain, Value
from tuner.study import Feature

#: Values a vocabulary keeps where nothing says how many.
DEFAULT_VOCABULARY = 1000
#: Up to this many entries a category is one-hot where nothing says how to embed it.
ONE_HOT_LIMIT = 32
#: Quantile buckets by which a number column with more distinct values enters a cross.
CROSS_NUMBER_BUCKETS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureKind:
    """A kind of feature: how many columns of which kind it is made of, and its settings."""

    name: str
    meaning: str
    min_columns: int
    max_columns: int
    column_kinds: tuple[str, ...]
    settings: Mapping[str, Setting]


def _kind(
    name: str,
    meaning: str,
    *settings: Setting,
    columns: tuple[int, int] = (1, 1),
    column_kinds: tuple[str, ...] = ("number", "string"),
) -> FeatureKind:
    return FeatureKind(
        name=name,
        meaning=meaning,
        min_columns=columns[0],
        max_columns=columns[1],
        column_kinds=column_kinds,
        settings={setting.name: setting for setting in settings},
    )


_EMBEDDING = Setting(
    name="embedding",
    type=int,
    default=None,
    low=0,
    high=512,
    meaning=(
        "dimensions of a learned vector for each value; 0 means one-hot. "
        f"Left out: one-hot up to {ONE_HOT_LIMIT} entries, above them by their number."
    ),
)

#: Every kind of feature by name.
KINDS: Mapping[str, FeatureKind] = {
    kind.name: kind
    for kind in (
        _kind(
            "numeric",
            "a number, scaled, and beside it one-hot quantile buckets where they are asked for",
            Setting(
                name="scaling",
                type=str,
                default="zscore",
                choices=("zscore", "quantile", "log", "none"),
                meaning="how the number is scaled: by mean and deviation, to its rank between 0 "
                "and 1, by sign(x) log(1 + |x|) and then mean and deviation, or not at all.",
            ),
            Setting(
                name="buckets",
                type=int,
                default=0,
                low=0,
                high=1024,
                meaning="quantile buckets beside the scaled number; 0 means none.",
            ),
            column_kinds=("number",),
        ),
        _kind(
            "categorical",
            "a value of a list, by its place in a vocabulary or by a hash",
            Setting(
                name="vocabulary",
                type=int,
                default=None,
                low=1,
                high=1_000_000,
                meaning="the most frequent values kept; the others share the out-of-vocabulary "
                f"buckets. Left out: all, up to {DEFAULT_VOCABULARY}.",
            ),
            Setting(
                name="hash_buckets",
                type=int,
                default=None,
                low=2,
                high=1_000_000,
                meaning="buckets that values are hashed into, instead of a vocabulary.",
            ),
            Setting(
                name="oov_buckets",
                type=int,
                default=1,
                low=1,
                high=1000,
                meaning="buckets that values outside the vocabulary are hashed into.",
            ),
            _EMBEDDING,
        ),
        _kind(
            "cross",
            "the values of several columns taken together, by a hash",
            Setting(
                name="buckets",
                type=int,
                default=256,
                low=2,
                high=1_000_000,
                meaning="buckets that the combinations are hashed into; a number column with more "
                f"than {CROSS_NUMBER_BUCKETS} distinct values enters by so many quantile buckets.",
            ),
            _EMBEDDING,
            columns=(2, 8),
        ),
    )
}


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
