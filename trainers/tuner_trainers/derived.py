"""Columns that are computed from those of the data, for their statistics in the same pass.

What the model's graph makes of raw columns before it learns, such as a time of a text, is made
here of batches of the data. Each has a key, under which its statistics are found.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from tuner import expressions
from tuner.features import effective_settings, parameter_name
from tuner.space import Categorical, Discrete, Domain, Int, Space, Value
from tuner.study import Feature
from tuner_trainers import image_headers, times, tokens
from tuner_trainers.column_statistics import ColumnStatistics
from tuner_trainers.columns import is_bytes
from tuner_trainers.expression_values import fits, values
from tuner_trainers.tokens import Splitting

#: Texts of a batch that are looked at to see what it holds.
_LOOKED_AT = 256
#: Words of a text, on average, from which on it is taken for prose.
_SEVERAL_WORDS = 3.0

#: Encoded columns by name: float64 [rows], or a dictionary array of strings or bytes.
Numbers = npt.NDArray[np.float64]
Batch = Mapping[str, Any]


class Derived(Protocol):
    """Something computed from a batch."""

    @property
    def columns(self) -> Sequence[str]:
        """What it is computed from."""
        ...

    @property
    def keys(self) -> Sequence[str]:
        """Names what is computed, and how."""
        ...

    def statistics(self, batch: Batch) -> Iterable[ColumnStatistics]:
        """The statistics over a batch, one for each key."""
        ...


@dataclass(frozen=True, slots=True)
class Times:
    """The instants that the texts of a column tell; missing where one tells none."""

    column: str
    day_first: bool = False

    @property
    def columns(self) -> Sequence[str]:
        """See Derived."""
        return (self.column,)

    @property
    def keys(self) -> Sequence[str]:
        """See Derived."""
        return (_key("time", self.column, self.day_first),)

    def statistics(self, batch: Batch) -> Iterable[ColumnStatistics]:
        """See Derived."""
        texts = batch[self.column]
        if isinstance(texts, np.ndarray):  # numbers tell times by their own statistics
            return (ColumnStatistics.nothing(self.keys[0], "number", len(texts)),)
        of_words = times.of_texts(texts.dictionary, self.day_first)
        seconds = of_words[texts.indices.to_numpy()]
        return (ColumnStatistics.of_numbers(self.keys[0], seconds),)

    def are_in(self, batch: Batch) -> bool:
        """Whether some of the texts tell one."""
        found = times.of_texts(batch[self.column].dictionary[:_LOOKED_AT])
        return bool(np.isfinite(found).any())


@dataclass(frozen=True, slots=True)
class Values:
    """The values of an expression."""

    expression: str

    @property
    def columns(self) -> Sequence[str]:
        """See Derived."""
        return tuple(expressions.parse(self.expression).columns)

    @property
    def keys(self) -> Sequence[str]:
        """See Derived."""
        return (_key("expression", self.expression),)

    def statistics(self, batch: Batch) -> Iterable[ColumnStatistics]:
        """See Derived."""
        parsed = expressions.parse(self.expression)
        rows = len(next(iter(batch.values())))
        kinds = {
            name: "number" if isinstance(batch[name], np.ndarray) else "string"
            for name in parsed.columns
        }
        if fits(parsed, kinds):  # it will be refused
            return (ColumnStatistics.nothing(self.keys[0], "number", rows),)
        return (ColumnStatistics.of_numbers(self.keys[0], values(parsed, batch, rows)),)


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of the texts of a column, each counted by rows, and how many a row has."""

    column: str
    splitting: Splitting = field(default_factory=Splitting)

    @property
    def columns(self) -> Sequence[str]:
        """See Derived."""
        return (self.column,)

    @property
    def keys(self) -> Sequence[str]:
        """See Derived: the key of the tokens, and that of their number."""
        how = self.splitting
        told = (self.column, how.split, how.lower, how.ngrams)
        return _key("tokens", *told), _key("lengths", *told)

    def statistics(self, batch: Batch) -> Iterable[ColumnStatistics]:
        """See Derived."""
        texts, (key, lengths_key) = batch[self.column], self.keys
        if isinstance(texts, np.ndarray):  # a text feature of numbers is refused
            nothing = ColumnStatistics.nothing
            return nothing(key, "string", len(texts)), nothing(lengths_key, "number", len(texts))
        return tokens.statistics(key, lengths_key, texts, self.splitting)

    def are_in(self, batch: Batch) -> bool:
        """Whether the texts are of several words, and few of them recur."""
        texts = batch[self.column]
        words = pc.fill_null(pc.count_substring(texts.dictionary[:_LOOKED_AT], " "), 0)
        several = float(words.to_numpy().mean()) + 1.0 >= _SEVERAL_WORDS
        return several and len(np.unique(texts.indices)) > len(texts) / 2


@dataclass(frozen=True, slots=True)
class Images:
    """The height and the width of the images of a column, in pixels, and 1 for colours."""

    column: str

    @property
    def columns(self) -> Sequence[str]:
        """See Derived."""
        return (self.column,)

    @property
    def keys(self) -> Sequence[str]:
        """See Derived: the keys of heights, widths and colours."""
        return tuple(_key("image", self.column, what) for what in ("height", "width", "colours"))

    def statistics(self, batch: Batch) -> Iterable[ColumnStatistics]:
        """See Derived."""
        images = batch[self.column]
        if not are_bytes(images):  # an image feature of anything else is refused
            found = np.full((len(images), 3), np.nan)
        else:
            nothing = (np.nan, np.nan, np.nan)
            headers = (image_headers.read(image.as_py()) for image in images.dictionary)
            of_images = np.array([header or nothing for header in headers], np.float64)
            found = of_images.reshape(-1, 3)[images.indices.to_numpy()]
        return [
            ColumnStatistics.of_numbers(key, found[:, place])
            for place, key in enumerate(self.keys)
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Instants:
    """The times of a column: some or all, increasing, and the part of the rows of each."""

    values: Numbers
    weights: Numbers
    #: Whether there are rows without one.
    missing: bool
    #: The part of the column's values that tell one.
    share: float


def instants_of(
    column: ColumnStatistics,
    derived: Mapping[str, ColumnStatistics],
    day_first: bool = False,
    unit: str | None = None,
) -> Instants:
    """The times that a column tells, in seconds since 1970.

    Args:
        column: its statistics.
        derived: those of what is computed from columns.
        day_first: how its texts are read.
        unit: how its numbers are read; by their size if none is given.
    """
    if column.kind == "number":
        found, counts = column.summary.spread()
        found = times.of_numbers(found, unit or unit_of(column))
        lacking, present = column.missing + column.nonfinite, counts.sum()
    else:
        key = Times(column.name, day_first).keys[0]
        source = derived.get(key) or ColumnStatistics.nothing(key, "number", column.count)
        found, counts = source.summary.spread()
        lacking, present = source.missing, column.present
    known = np.isfinite(found)
    total = counts[known].sum()
    return Instants(
        values=found[known],
        weights=counts[known] / max(total, 1),
        missing=bool(lacking > 0 or not known.all()),
        share=float(total / max(present, 1)),
    )


def unit_of(column: ColumnStatistics) -> str:
    """The unit that the size of a column's numbers tells."""
    return times.unit_of(max(abs(column.minimum or 0.0), abs(column.maximum or 0.0)))


def no_times(column: ColumnStatistics) -> str:
    """Says that a column tells no time."""
    return (
        f"the column {column.name!r} holds {column.top[0][0]!r} and no date or time that is "
        "understood; give it another kind, or leave it out."
    )


def asked_for(features: Iterable[Feature], space: Space) -> tuple[Derived, ...]:
    """What features are made of besides columns, whatever a trial of the space draws."""
    domains = {parameter.name: parameter.domain for parameter in space.walk()}
    asked: list[Derived] = []
    for feature in features:
        if feature.kind == "datetime":
            asked.append(Times(feature.columns[0], bool(feature.settings.get("day_first"))))
        elif feature.kind == "expression":
            asked.append(Values(str(feature.settings["expression"])))
        elif feature.kind == "image":
            asked.append(Images(feature.columns[0]))
        elif feature.kind == "text":
            tuned = [parameter_name(feature.name, name) for name in ("split", "lower", "ngrams")]
            names = [name for name in tuned if name in domains]
            for drawn in product(*(_values(domains[name]) for name in names)):
                settings = effective_settings(feature, dict(zip(names, drawn, strict=True)))
                asked.append(Tokens(feature.columns[0], Splitting.of(settings)))
    return tuple(dict.fromkeys(asked))


def _values(domain: Domain) -> Sequence[Value]:
    """All values of a domain that has few."""
    if isinstance(domain, Int):
        return range(domain.low, domain.high + 1, domain.step)
    if isinstance(domain, Discrete):
        return domain.values
    return domain.choices if isinstance(domain, Categorical) else ()


def noticed(batch: Batch) -> Iterator[Derived]:
    """What a batch holds without having been asked for, so that it can be proposed."""
    for name, column in batch.items():
        if isinstance(column, np.ndarray):
            continue
        if are_bytes(column):
            yield Images(name)
        elif (instants := Times(name)).are_in(batch):
            yield instants
        elif (of_text := Tokens(name)).are_in(batch):
            yield of_text


def are_bytes(column: Any) -> bool:
    """Whether an encoded column holds bytes."""
    return not isinstance(column, np.ndarray) and is_bytes(column.type.value_type)


def _key(*of: str | int | bool) -> str:
    return json.dumps(of, ensure_ascii=False)
