"""The kinds of features and their settings: the one table that checks, trainers and docs share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tuner.expressions import MAX_LENGTH
from tuner.setting import Setting

#: Settings of a categorical feature that shape its table, which features may share.
TABLE_SETTINGS = ("vocabulary", "hash_buckets", "oov_buckets", "embedding")
#: Values a vocabulary keeps where nothing says how many.
DEFAULT_VOCABULARY = 1000
#: Tokens of texts that a vocabulary keeps where nothing says how many.
TEXT_VOCABULARY = 10_000
#: Up to this many entries a category is one-hot where nothing says how to embed it.
ONE_HOT_LIMIT = 32
#: Quantile buckets by which a number column with more distinct values enters a cross.
CROSS_NUMBER_BUCKETS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureKind:
    """A kind of feature: how many columns of which kind it is made of, and its settings.

    Only the `trainers` can see it; all can if none are named.
    """

    name: str
    meaning: str
    min_columns: int
    max_columns: int
    column_kinds: tuple[str, ...]
    settings: Mapping[str, Setting]
    trainers: tuple[str, ...] = ()


def _kind(
    name: str,
    meaning: str,
    *settings: Setting,
    columns: tuple[int, int] = (1, 1),
    column_kinds: tuple[str, ...] = ("number", "string"),
    trainers: tuple[str, ...] = (),
) -> FeatureKind:
    return FeatureKind(
        name=name,
        meaning=meaning,
        min_columns=columns[0],
        max_columns=columns[1],
        column_kinds=column_kinds,
        settings={setting.name: setting for setting in settings},
        trainers=trainers,
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

_NUMBER = (
    Setting(
        name="scaling",
        type=str,
        default="zscore",
        choices=("zscore", "quantile", "log", "none"),
        meaning="how the number is scaled: by mean and deviation, to its rank between 0 "
        "and 1, by sign(x) log(1 + |x|) and then mean and deviation, or not at all.",
    ),
    Setting(
        name="clip",
        type=float,
        default=0.0,
        low=0.0,
        high=0.4,
        meaning="the part of the rows whose numbers are clipped on each side before they "
        "are scaled: 0.01 clips at the quantiles 0.01 and 0.99.",
    ),
    Setting(
        name="buckets",
        type=int,
        default=0,
        low=0,
        high=1024,
        meaning="quantile buckets beside the scaled number; 0 means none.",
    ),
)


def _part(name: str) -> Setting:
    rule = "none" if name == "minute" else "cyclic where the times span a round of it, else none"
    return Setting(
        name=name,
        type=str,
        default=None,
        choices=("none", "cyclic", "one_hot"),
        meaning=f"how the {name} is seen: as sine and cosine, one-hot or not at all. Left out: "
        f"{rule}.",
    )


#: Every kind of feature by name.
KINDS: Mapping[str, FeatureKind] = {
    kind.name: kind
    for kind in (
        _kind(
            "numeric",
            "a number, scaled, and beside it one-hot quantile buckets where they are asked for",
            *_NUMBER,
            column_kinds=("number",),
        ),
        _kind(
            "expression",
            "a number that is computed from columns, seen as a numeric feature is",
            Setting(
                name="expression",
                type=str,
                default=None,
                high=MAX_LENGTH,
                tunable=False,
                meaning="how it is computed, such as log1p(price / area).",
            ),
            *_NUMBER,
            columns=(1, 64),
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
            Setting(
                name="share",
                type=str,
                default=None,
                high=63,
                tunable=False,
                meaning="a name of your own for a table that several features share: one "
                "vocabulary, made of all their columns, and one learned vector for each value. "
                "One of the features has the settings of the table.",
            ),
        ),
        _kind(
            "datetime",
            "a date or a time: parts that come round, and how much time has passed",
            *(_part(part) for part in ("month", "day", "weekday", "hour", "minute")),
            Setting(
                name="year", type=bool, default=False, meaning="whether the year is a number."
            ),
            Setting(
                name="weekend",
                type=bool,
                default=False,
                meaning="whether Saturdays and Sundays are told from other days.",
            ),
            Setting(
                name="elapsed",
                type=bool,
                default=True,
                meaning="whether the time itself is a number, scaled by mean and deviation.",
            ),
            Setting(
                name="day_first",
                type=bool,
                default=False,
                tunable=False,
                meaning="whether 3/4/2013 is the third of April.",
            ),
            Setting(
                name="unit",
                type=str,
                default=None,
                tunable=False,
                choices=(
                    "seconds",
                    "milliseconds",
                    "microseconds",
                    "nanoseconds",
                    "days",
                    "yyyymmdd",
                ),
                meaning="what numbers count since 1970, or `yyyymmdd` for such as 20130314. Left "
                "out: seconds to nanoseconds, by their size.",
            ),
        ),
        _kind(
            "text",
            "words or groups of letters of a text, whatever their order: a learned vector for "
            "each, pooled into one",
            Setting(
                name="split",
                type=str,
                default="words",
                choices=("words", "characters"),
                meaning="what the tokens are made of.",
            ),
            Setting(
                name="lower",
                type=bool,
                default=True,
                meaning="whether the text is put into lower case.",
            ),
            Setting(
                name="ngrams",
                type=int,
                default=None,
                low=1,
                high=5,
                meaning="up to how many neighbouring words are one token as well, or how many "
                "characters a token has. Left out: 1 word, 3 characters.",
            ),
            Setting(
                name="vocabulary",
                type=int,
                default=None,
                low=1,
                high=1_000_000,
                meaning="the tokens kept that most rows have, of those that more than one has; "
                f"the others are one. Left out: up to {TEXT_VOCABULARY}.",
            ),
            Setting(
                name="hash_buckets",
                type=int,
                default=None,
                low=2,
                high=1_000_000,
                meaning="buckets that tokens are hashed into, instead of a vocabulary.",
            ),
            Setting(
                name="length",
                type=int,
                default=None,
                low=1,
                high=4096,
                meaning="the first tokens of a text that are seen. Left out: all of 99 % of the "
                "rows, up to 256.",
            ),
            Setting(
                name="embedding",
                type=int,
                default=None,
                low=1,
                high=512,
                meaning="dimensions of a token's vector. Left out: by their number.",
            ),
            Setting(
                name="pooling",
                type=str,
                default="mean",
                choices=("mean", "sum", "tfidf", "max", "attention"),
                meaning="how the vectors become one: `tfidf` is the mean weighted by how rare a "
                "token is, `attention` one weighted as is learned.",
            ),
            column_kinds=("string",),
        ),
        _kind(
            "image",
            "a PNG or JPEG image, as bytes or by the path of a file; served, always as bytes",
            Setting(
                name="height",
                type=int,
                default=None,
                low=1,
                high=2048,
                meaning="pixels that images are brought to. Left out: by the width and the shape "
                "of the median image, or its own up to 128 for the longer side.",
            ),
            Setting(
                name="width",
                type=int,
                default=None,
                low=1,
                high=2048,
                meaning="the same. Left out: by the height.",
            ),
            Setting(
                name="colours",
                type=bool,
                default=None,
                meaning="whether colours are seen. Left out: where an image has some.",
            ),
            Setting(
                name="scaling",
                type=str,
                default="unit",
                choices=("unit", "signed"),
                meaning="whether pixels are made from 0 to 1, or from -1 to 1.",
            ),
            column_kinds=("bytes",),
            trainers=("image",),
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
