"""Makes a feature of a column, from its statistics, and says why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from tuner.feature_kinds import DEFAULT_VOCABULARY, ONE_HOT_LIMIT, TEXT_VOCABULARY
from tuner.features import default_embedding
from tuner.space import Categorical, Domain, Float, Int, Value
from tuner.study import Feature
from tuner_trainers import times
from tuner_trainers.column_statistics import BLURRED, ColumnStatistics
from tuner_trainers.columns import number_text
from tuner_trainers.derived import Images, Tokens, instants_of, unit_of
from tuner_trainers.statistics import Statistics

#: Whole numbers with no more values than this are also seen one value at a time.
_FEW_NUMBERS = 32
#: Strings with more values than this are hashed.
_MANY_STRINGS = 10_000
#: Deviations from the mean beyond which the farthest number makes a column long-tailed.
_LONG_TAIL = 8.0
#: Part of the label's entropy below which a column is not worth tuning.
TELLS_NOTHING = 0.002
_DEFAULT_BUCKETS = 16
#: The part of a column's values that are times, from which on it is taken to hold times.
_TIMES = 0.95
#: What the name of a column of numbers holds if they are times, and the years from which they
#: are then: 1990 to 2100, in seconds.
_TIME_WORDS = ("time", "date", "_at", "_ts", "epoch")
_RECENT = (631_152_000.0, 4_102_444_800.0)
#: Words of a text on average, and words that several rows have, from which on it is read.
_SEVERAL_WORDS, _FEW_WORDS = 2.0, 20
#: Numbers from here on are shown by their first digits.
_MANY_DIGITS = 1e15
_SCALINGS = ("log", "zscore", "quantile")
#: Rows clipped on each side, at most, of columns with a long tail.
_MAX_CLIP = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A feature with all settings fixed, and what could be tuned instead, the best first."""

    feature: Feature
    tunable: Mapping[str, Domain] = field(default_factory=dict)


def draft_of(
    column: ColumnStatistics,
    statistics: Statistics,
    relevance: float | None,
    leading: str = "",
) -> Draft | None:
    """The feature that a column becomes; None if it is useless.

    Args:
        column: its statistics.
        statistics: those of the whole data.
        relevance: how much the column tells of the label, 0 to 1, if that is known.
        leading: the kind of feature that the trainer is made for, if it is for one.
    """
    if column.kind == "bytes":
        return _image(column, statistics) if leading == "image" else None
    draft = _datetime(column, statistics) or _text(column, statistics, leading)
    if draft is not None or useless(column):
        return draft
    return _number(column, relevance) if column.kind == "number" else _string(column)


def useless(column: ColumnStatistics) -> str:
    """Why a column can teach nothing; empty if it can."""
    if not column.present:
        return "every value is missing"
    if column.kind == "bytes":
        return "bytes, of which only images are read, by `trainer: image`"
    if column.distinct == 1 and column.present == column.count:
        return f"every row has the value {column.top[0][0]!r}{_blurred(column)}"
    if column.kind == "string" and column.present >= 20 and column.distinct > column.present / 2:
        return (
            f"{column.distinct:,} different texts in {column.present:,} rows: an identifier or "
            "free text, of which nothing recurs"
        )
    if _counts_rows(column):
        return "different whole numbers in every row, without gaps: it numbers the rows"
    return ""


def _counts_rows(column: ColumnStatistics) -> bool:
    if column.minimum is None or column.maximum is None or not column.is_integer:
        return False
    span = column.maximum - column.minimum + 1.0
    return column.present >= 100 and column.distinct >= 0.95 * column.present >= 0.9 * span


def _datetime(column: ColumnStatistics, statistics: Statistics) -> Draft | None:
    """A datetime feature, if the column holds dates or times."""
    unit = _time_unit(column) if column.kind == "number" else None
    if column.kind == "number" and unit is None:
        return None
    found = instants_of(column, statistics.derived, unit=unit)
    if found.share < _TIMES or len(found.values) < 2:
        return None
    fixed: dict[str, Value] = {} if unit is None else {"unit": unit}
    parts = [part for part in times.PARTS if part != "minute" and times.covers(found.values, part)]
    first, last = (_date(found.values[place]) for place in (0, -1))
    seen = f", of which {' and '.join(parts)} come round" if parts else ""
    return Draft(
        feature=_feature(
            column,
            "datetime",
            f"dates or times from {first} to {last}{seen}",
            **fixed,
            **dict.fromkeys(parts, "cyclic"),
        ),
        tunable={part: Categorical(("cyclic", "one_hot", "none")) for part in reversed(parts)},
    )


def _image(column: ColumnStatistics, statistics: Statistics) -> Draft | None:
    """An image feature, if the column holds images."""
    heights, widths, colours = (statistics.derived.get(k) for k in Images(column.name).keys)
    if heights is None or widths is None or colours is None or not heights.present:
        return None
    sizes = (_from_to(of) for of in (heights, widths))
    hue = "with colours" if colours.maximum else "grey"
    reason = f"{heights.present:,} images of {' × '.join(sizes)} pixels, {hue}"
    return Draft(feature=_feature(column, "image", reason))


def _from_to(column: ColumnStatistics) -> str:
    low, high = column.minimum or 0.0, column.maximum or 0.0
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"


def _text(column: ColumnStatistics, statistics: Statistics, leading: str) -> Draft | None:
    """A text feature, if the column holds prose."""
    tokens, lengths = (statistics.derived.get(key) for key in Tokens(column.name).keys)
    if tokens is None or lengths is None or tokens.present < column.present / 2:
        return None
    known = sum(count > 1 for _, count in tokens.top)
    if (lengths.mean or 0.0) < _SEVERAL_WORDS or known < _FEW_WORDS:
        return None
    vocabulary = min(known, TEXT_VOCABULARY)
    embedding = default_embedding(vocabulary, one_hot=False)
    pooling = {"pooling": Categorical(("mean", "max", "attention"))} if leading == "text" else {}
    return Draft(
        feature=_feature(
            column,
            "text",
            f"text of {lengths.mean:.0f} words on average, of which {known:,} are in several rows",
            vocabulary=vocabulary,
            embedding=embedding,
        ),
        tunable={
            "vocabulary": _log_range(vocabulary // 10, known),
            "embedding": _log_range(4, 2 * embedding),
            **pooling,
        },
    )


def _time_unit(column: ColumnStatistics) -> str | None:
    """The unit of numbers that are times, as far as their size, form and name tell."""
    if not column.is_integer or column.distinct < _FEW_NUMBERS:
        return None
    low, high = column.minimum or 0.0, column.maximum or 0.0
    if 1900_01_01 <= low and high <= 2100_12_31:
        return times.YYYYMMDD
    if not any(word in column.name.lower() for word in _TIME_WORDS):
        return None
    unit = unit_of(column)
    recent = _RECENT[0] <= low * times.UNITS[unit] and high * times.UNITS[unit] <= _RECENT[1]
    return unit if recent else None


def _date(instant: float) -> str:
    year, month, day = times.date_of(int(instant // 86400))
    return f"{year:04d}-{month:02d}-{day:02d}"


def _number(column: ColumnStatistics, relevance: float | None) -> Draft:
    if column.is_integer and column.distinct <= _FEW_NUMBERS and not column.is_blurred:
        buckets = column.distinct if column.distinct > 2 else 0
        each = ", each also seen by itself" if buckets else ""
        return Draft(
            feature=_feature(
                column,
                "numeric",
                f"{column.distinct} different whole numbers{each}",
                scaling="zscore",
                buckets=buckets,
            )
        )
    scaling = "log" if _is_long_tailed(column) else "zscore"
    low, high = _shown(column.minimum or 0.0), _shown(column.maximum or 0.0)
    tail = ", with a long tail that the logarithm shortens" if scaling == "log" else ""
    silent = relevance is not None and relevance < TELLS_NOTHING
    return Draft(
        feature=_feature(
            column,
            "numeric",
            f"{column.distinct:,} different numbers from {low} to {high}{tail}{_blurred(column)}",
            scaling=scaling,
            buckets=0 if silent else min(_DEFAULT_BUCKETS, column.distinct),
        ),
        tunable={} if silent else _tunable_number(column, scaling),
    )


def _blurred(column: ColumnStatistics) -> str:
    if not column.is_blurred:
        return ""
    return f"; {BLURRED}: if they are identifiers, write `types: {{{column.name}: string}}`"


def _shown(number: float) -> str:
    return number_text(number) if abs(number) < _MANY_DIGITS else f"{number:g}"


def _tunable_number(column: ColumnStatistics, scaling: str) -> Mapping[str, Domain]:
    buckets = {"buckets": _log_range(2, min(64, column.distinct))}
    if scaling == "zscore":
        return buckets
    # A logarithm tames a long tail, but hides what is in proportion to it; clipping does not.
    return {**buckets, "scaling": Categorical(_SCALINGS), "clip": Float(0.0, _MAX_CLIP)}


def _is_long_tailed(column: ColumnStatistics) -> bool:
    if column.mean is None or not column.variance or column.minimum is None:
        return False
    reach = max((column.maximum or 0.0) - column.mean, column.mean - column.minimum)
    return bool(reach > _LONG_TAIL * column.variance**0.5)


def _string(column: ColumnStatistics) -> Draft:
    if column.distinct > _MANY_STRINGS or not column.is_exact:
        return _hashed(column)
    reason = f"{column.distinct:,} different texts"
    vocabulary = min(column.distinct, DEFAULT_VOCABULARY)
    if column.distinct <= ONE_HOT_LIMIT:
        return Draft(feature=_feature(column, "categorical", reason, vocabulary=vocabulary))
    embedding = default_embedding(vocabulary + 2) or 4
    halfway = _values_covering(column, 0.5)
    return Draft(
        feature=_feature(
            column,
            "categorical",
            f"{reason}, of which the most frequent {_counted(halfway)} half of the rows",
            vocabulary=vocabulary,
            embedding=embedding,
        ),
        tunable={
            "vocabulary": _log_range(min(max(4, halfway), column.distinct), column.distinct),
            "embedding": _log_range(2, 2 * embedding),
        },
    )


def _hashed(column: ColumnStatistics) -> Draft:
    largest = min(1 << (column.distinct.bit_length() - 1), 1 << 16)
    buckets = min(4096, largest)
    embedding = default_embedding(buckets)
    return Draft(
        feature=_feature(
            column,
            "categorical",
            f"{column.distinct:,} different texts, too many for a vocabulary, so hashed",
            hash_buckets=buckets,
            embedding=embedding,
        ),
        tunable={
            "hash_buckets": _log_range(256, largest),
            "embedding": _log_range(2, min(64, 2 * embedding)),
        },
    )


def _values_covering(column: ColumnStatistics, share: float) -> int:
    """How many of the most frequent values make up this share of the rows that have one."""
    enough = share * column.present
    totals = accumulate(count for _, count in column.top)
    return next((n for n, total in enumerate(totals, start=1) if total >= enough), 1)


def _counted(values: int) -> str:
    return "makes up" if values == 1 else f"{values:,} make up"


def _feature(column: ColumnStatistics, kind: str, reason: str, **settings: Value) -> Feature:
    return Feature(
        name=column.name, kind=kind, columns=(column.name,), settings=settings, reason=reason
    )


def _log_range(low: int, high: int) -> Int:
    return Int(min(low, high), high, log=True)
