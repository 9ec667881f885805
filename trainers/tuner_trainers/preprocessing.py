"""Builds a trial's preprocessing, raw columns in and numbers and ids out, from the statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tuner.errors import DataError
from tuner.features import (
    CROSS_NUMBER_BUCKETS,
    DEFAULT_VOCABULARY,
    default_embedding,
    effective_settings,
)
from tuner.space import Value
from tuner.study import Feature
from tuner_trainers import layers
from tuner_trainers.statistics import ColumnStatistics, Statistics

#: The points through which "quantile" scaling draws its curve.
QUANTILE_POINTS = 64

Numbers = npt.NDArray[np.float64]
Settings = Mapping[str, Value | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class IdFeature:
    """A feature that reaches the network as an id below `size`.

    The first `reserved` ids stand for missing and unseen values; `embedding` is the dimensions of
    its learned vector, 0 for one-hot.
    """

    name: str
    size: int
    reserved: int
    embedding: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """The preprocessing of a trial.

    `model` maps the raw `columns`, [batch] each, to `numbers` float32 [batch, width], made of
    `number_columns`, and `ids` int32 [batch, len(ids)], each made of its `id_columns`; either is
    absent where no feature makes it.
    """

    model: keras.Model
    columns: tuple[str, ...]
    number_columns: tuple[str, ...]
    numbers: int
    ids: tuple[IdFeature, ...]
    id_columns: tuple[tuple[str, ...], ...]
    #: The ids one by one, int32 [batch] each.
    id_tensors: tuple[keras.KerasTensor, ...]

    def encode(self, raw: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        """Encodes rows; columns that no feature uses are ignored."""
        encoded: Mapping[str, tf.Tensor] = self.model([raw[name] for name in self.columns])
        return encoded

    def part(self, places: Sequence[int], *, numbers: bool = False) -> Encoder:
        """The preprocessing of some of the ids, or of the numbers, or both, by the same layers."""
        tensors = tuple(self.id_tensors[place] for place in places)
        id_columns = tuple(self.id_columns[place] for place in places)
        numbers = numbers and self.numbers > 0
        outputs = {"numbers": self.model.output["numbers"]} if numbers else {}
        if tensors:
            outputs["ids"] = keras.ops.stack(tensors, axis=1)
        needed = {name for columns in id_columns for name in columns}
        needed |= set(self.number_columns) if numbers else set()
        inputs = dict(zip(self.columns, self.model.inputs, strict=True))
        columns = tuple(name for name in self.columns if name in needed)
        return Encoder(
            model=keras.Model([inputs[name] for name in columns], outputs),
            columns=columns,
            number_columns=self.number_columns if numbers else (),
            numbers=self.numbers if numbers else 0,
            ids=tuple(self.ids[place] for place in places),
            id_columns=id_columns,
            id_tensors=tensors,
        )


def build_encoder(
    features: Sequence[Feature],
    parameters: Mapping[str, Value],
    statistics: Statistics,
    missing_values: Sequence[str] = (),
) -> Encoder:
    """Builds the preprocessing of a trial.

    Args:
        features: what the model sees.
        parameters: the trial's parameters, of which those named `{feature}.{setting}` are used.
        statistics: of the training data.
        missing_values: the words that mean missing, besides the empty one.
    """
    builder = _Builder(statistics, missing_values)
    for feature in features:
        builder.add(feature, effective_settings(feature, parameters))
    return builder.build()


def input_kinds(features: Sequence[Feature], statistics: Statistics) -> dict[str, str]:
    """The columns that features are made of, in order of first use, each with its kind."""
    names = dict.fromkeys(column for feature in features for column in feature.columns)
    return {name: _column(statistics, name).kind for name in names}


class _Builder:
    """Collects the encoded parts of each feature."""

    def __init__(self, statistics: Statistics, missing_values: Sequence[str]) -> None:
        self._statistics = statistics
        words = [word.strip() for word in missing_values]
        self._missing_words = tuple(word for word in dict.fromkeys(words) if word)
        self._missing_numbers = _numbers(self._missing_words)
        self._inputs: dict[str, keras.KerasTensor] = {}
        self._known: dict[str, keras.KerasTensor] = {}
        self._tokens: dict[tuple[str, bool], keras.KerasTensor] = {}
        self._numbers: list[tuple[str, keras.KerasTensor]] = []
        self._ids: list[keras.KerasTensor] = []
        self._id_columns: list[tuple[str, ...]] = []
        self._id_features: list[IdFeature] = []

    def add(self, feature: Feature, settings: Settings) -> None:
        if feature.kind == "numeric":
            self._add_numeric(feature, settings)
        elif feature.kind == "categorical":
            self._add_categorical(feature, settings)
        else:
            self._add_cross(feature, settings)

    def build(self) -> Encoder:
        outputs: dict[str, keras.KerasTensor] = {}
        blocks = [block for _, block in self._numbers]
        if blocks:
            outputs["numbers"] = keras.ops.concatenate(blocks, axis=1)
        if self._ids:
            outputs["ids"] = keras.ops.stack(self._ids, axis=1)
        return Encoder(
            model=keras.Model(list(self._inputs.values()), outputs, name="preprocessing"),
            columns=tuple(self._inputs),
            number_columns=tuple(name for name, _ in self._numbers),
            numbers=sum(block.shape[1] for block in blocks),
            ids=tuple(self._id_features),
            id_columns=tuple(self._id_columns),
            id_tensors=tuple(self._ids),
        )

    def _add_numeric(self, feature: Feature, settings: Settings) -> None:
        column = _column(self._statistics, feature.columns[0])
        if column.kind != "number":
            raise DataError(
                f"the numeric feature {feature.name!r} needs numbers, but the column "
                f"{column.name!r} holds strings; give it `kind: categorical`."
            )
        raw = self._input(column)
        self._numbers.append((column.name, _scale(column, str(settings["scaling"]))(raw)))
        buckets = _whole(settings, "buckets")
        if buckets and buckets > 1:
            boundaries = column.quantiles(buckets).tolist()
            ids = layers.Buckets(boundaries)(raw)
            self._add_ids(feature, ids, size=len(boundaries) + 2, reserved=1, embedding=0)

    def _add_categorical(self, feature: Feature, settings: Settings) -> None:
        column = _column(self._statistics, feature.columns[0])
        tokens = self._token(column)
        buckets = _whole(settings, "hash_buckets")
        if buckets:
            ids, size, reserved = layers.Hash(buckets)(tokens), 1 + buckets, 1
        else:
            oov_buckets = _whole(settings, "oov_buckets") or 1
            words = self._words(column, _whole(settings, "vocabulary") or DEFAULT_VOCABULARY)
            ids = layers.Vocabulary(words, oov_buckets)(tokens)
            reserved = 1 + oov_buckets
            size = reserved + len(words)
        self._add_ids(feature, ids, size, reserved, _whole(settings, "embedding"))

    def _add_cross(self, feature: Feature, settings: Settings) -> None:
        columns = [_column(self._statistics, name) for name in feature.columns]
        buckets = _whole(settings, "buckets") or 2
        ids = layers.Cross(buckets)([self._token(column, coarse=True) for column in columns])
        self._add_ids(feature, ids, 1 + buckets, 1, _whole(settings, "embedding"))

    def _add_ids(
        self,
        feature: Feature,
        ids: keras.KerasTensor,
        size: int,
        reserved: int,
        embedding: int | None,
    ) -> None:
        dimensions = default_embedding(size) if embedding is None else embedding
        self._ids.append(ids)
        self._id_columns.append(feature.columns)
        self._id_features.append(
            IdFeature(name=feature.name, size=size, reserved=reserved, embedding=dimensions)
        )

    def _input(self, column: ColumnStatistics) -> keras.KerasTensor:
        """The raw column, but for numbers that mean missing."""
        if column.name not in self._known:
            dtype = "float64" if column.kind == "number" else "string"
            # Keras forbids "/" in names; the signature has the column's own name.
            raw = keras.Input((), dtype=dtype, name=f"column_{len(self._inputs)}")
            self._inputs[column.name] = self._known[column.name] = raw
            if column.kind == "number" and self._missing_numbers:
                self._known[column.name] = layers.Known(self._missing_numbers)(raw)
        return self._known[column.name]

    def _token(self, column: ColumnStatistics, coarse: bool = False) -> keras.KerasTensor:
        """The column's tokens; `coarse` puts numbers of many values into buckets."""
        coarse = coarse and column.kind == "number" and column.distinct > CROSS_NUMBER_BUCKETS
        key = (column.name, coarse)
        if key not in self._tokens:
            self._tokens[key] = self._new_token(column, coarse)
        return self._tokens[key]

    def _new_token(self, column: ColumnStatistics, coarse: bool) -> keras.KerasTensor:
        raw = self._input(column)
        if column.kind == "string":
            return layers.TextToken(self._missing_words)(raw)
        boundaries = column.quantiles(CROSS_NUMBER_BUCKETS).tolist() if coarse else None
        return layers.NumberToken(boundaries)(raw)

    def _words(self, column: ColumnStatistics, limit: int) -> list[str]:
        """The tokens of the most frequent values."""
        if column.kind == "number":
            return [layers.NumberToken.of(float(value)) for value, _ in column.top[:limit]]
        missing = {"", *self._missing_words}
        return [value for value, _ in column.top if value not in missing][:limit]


def _column(statistics: Statistics, name: str) -> ColumnStatistics:
    if name not in statistics.columns:
        raise DataError(
            f"the column {name!r} is not in the data; it has {', '.join(statistics.columns)}."
        )
    return statistics.columns[name]


def _scale(column: ColumnStatistics, scaling: str) -> layers.Scale:
    """The layer that scales a column; what is missing takes the place of the mean."""
    indicator = column.missing + column.nonfinite > 0
    mean, variance = column.mean or 0.0, column.variance or 0.0
    if scaling == "none":
        return layers.Scale(scaling, fill=mean, indicator=indicator)
    if scaling == "zscore":
        spread = float(np.sqrt(variance)) or 1.0
        return layers.Scale(scaling, center=mean, spread=spread, indicator=indicator)
    values, weights = _distribution(column)
    if scaling == "quantile":
        points, ranks = _curve(values, weights)
        return layers.Scale(scaling, points=points, ranks=ranks, fill=0.5, indicator=indicator)
    logs = np.sign(values) * np.log1p(np.abs(values))
    center = float(weights @ logs)
    spread = float(np.sqrt(weights @ np.square(logs - center))) or 1.0
    return layers.Scale(scaling, center=center, spread=spread, indicator=indicator)


def _distribution(column: ColumnStatistics) -> tuple[Numbers, Numbers]:
    """The column's numbers, increasing, or a sample of them, and the part of the rows of each."""
    values, counts = column.summary.spread()
    return values, counts / max(counts.sum(), 1)


def _curve(values: Numbers, weights: Numbers) -> tuple[list[float], list[float]]:
    """Some of the numbers, increasing, and the rank of each: the middle of its rows, 0 to 1."""
    ranks = np.cumsum(weights) - weights / 2
    levels = np.linspace(0.0, 1.0, QUANTILE_POINTS)
    chosen = np.unique(np.searchsorted(ranks, levels).clip(max=max(len(values) - 1, 0)))
    chosen = chosen[: len(values)]
    return values[chosen].tolist(), ranks[chosen].tolist()


def _whole(settings: Settings, name: str) -> int | None:
    value = settings[name]
    return None if value is None else int(value)


def _numbers(words: Sequence[str]) -> list[float]:
    """The words that are numbers; NaN is missing anyway."""
    numbers = []
    for word in words:
        try:
            number = float(word)
        except ValueError:
            continue
        if not np.isnan(number):
            numbers.append(number)
    return numbers
