"""Builds a trial's preprocessing, from the statistics: raw columns in, numbers and ids out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import keras
import numpy as np
import tensorflow as tf

from tuner.errors import DataError
from tuner.feature_kinds import CROSS_NUMBER_BUCKETS, DEFAULT_VOCABULARY
from tuner.features import (
    all_settings,
    default_embedding,
    expression_of,
    expressions_of,
    parameter_name,
    shared_tables,
    source_columns,
)
from tuner.space import Value
from tuner.study import Feature
from tuner_trainers import layers, times
from tuner_trainers.column_statistics import ColumnStatistics
from tuner_trainers.datetimes import time_layers
from tuner_trainers.derived import Values
from tuner_trainers.expression_layers import ExpressionValue
from tuner_trainers.images import ImageFeature, image_feature
from tuner_trainers.scaling import scale_of
from tuner_trainers.statistics import Statistics
from tuner_trainers.texts import BagFeature, text_layer
from tuner_trainers.time_layers import TimePart

Settings = Mapping[str, Value | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class IdFeature:
    """A feature that reaches the network as an id below `size`.

    The first `reserved` ids stand for missing and unseen values; `embedding` is the dimensions of
    its learned vector, 0 for one-hot. Features of one `table` share their vectors; it is empty for
    one that has its own.
    """

    name: str
    size: int
    reserved: int
    embedding: int
    table: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """The preprocessing of a trial.

    `model` maps the raw `columns`, [batch] each, to `numbers` float32 [batch, width], made of
    `number_columns`, and `ids` int32 [batch, len(ids)], each made of its `id_columns`; either is
    absent where no feature makes it. Each of the `bags` is an output of its own, int32
    [batch, length], under the name that `bag_name` gives, and so is each of the `images`, uint8
    [batch, height, width, channels], under that of `image_name`.
    """

    model: keras.Model
    columns: tuple[str, ...]
    number_columns: tuple[str, ...]
    bag_columns: tuple[str, ...]
    numbers: int
    bags: tuple[BagFeature, ...]
    images: tuple[ImageFeature, ...]
    ids: tuple[IdFeature, ...]
    id_columns: tuple[tuple[str, ...], ...]
    #: The ids one by one, int32 [batch] each.
    id_tensors: tuple[keras.KerasTensor, ...]

    def encode(self, raw: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        """Encodes rows; columns that no feature uses are ignored."""
        encoded: Mapping[str, tf.Tensor] = self.model([raw[name] for name in self.columns])
        return encoded

    def part(self, places: Sequence[int], *, others: bool = False) -> Encoder:
        """The preprocessing of some of the ids, of numbers and texts, or of both, by the same
        layers.
        """
        tensors = tuple(self.id_tensors[place] for place in places)
        id_columns = tuple(self.id_columns[place] for place in places)
        left_out = {"ids", *(image_name(index) for index in range(len(self.images)))}
        outputs = {
            name: tensor
            for name, tensor in self.model.output.items()
            if others and name not in left_out
        }
        if tensors:
            outputs["ids"] = keras.ops.stack(tensors, axis=1)
        needed = {name for columns in id_columns for name in columns}
        needed |= {*self.number_columns, *self.bag_columns} if others else set()
        inputs = dict(zip(self.columns, self.model.inputs, strict=True))
        columns = tuple(name for name in self.columns if name in needed)
        return Encoder(
            model=keras.Model([inputs[name] for name in columns], outputs),
            columns=columns,
            number_columns=self.number_columns if others else (),
            bag_columns=self.bag_columns if others else (),
            numbers=self.numbers if others else 0,
            bags=self.bags if others else (),
            images=(),
            ids=tuple(self.ids[place] for place in places),
            id_columns=id_columns,
            id_tensors=tensors,
        )


def bag_name(index: int) -> str:
    """The name of an output of the encoder with the tokens of a text."""
    return f"bag_{index + 1}"


def image_name(index: int) -> str:
    """The name of an output of the encoder with images."""
    return f"image_{index + 1}"


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
    builder = _Builder(features, statistics, missing_values)
    settings = all_settings(features, parameters)
    for feature in features:
        builder.add(feature, settings[feature.name])
    return builder.build()


def input_kinds(features: Sequence[Feature], statistics: Statistics) -> dict[str, str]:
    """The columns that features are made of, in order of first use, each with its kind."""
    names = dict.fromkeys(name for f in features for name in source_columns(f, features))
    return {name: _column(statistics, name).kind for name in names}


class _Builder:
    """Collects the encoded parts of each feature."""

    def __init__(
        self,
        features: Sequence[Feature],
        statistics: Statistics,
        missing_values: Sequence[str],
    ) -> None:
        self._features, self._statistics = features, statistics
        self._expressions = expressions_of(features)
        self._shared = {
            table: reduce(ColumnStatistics.merge, (self._column(f.columns[0]) for f in members))
            for table, members in shared_tables(features).items()
        }
        words = [word.strip() for word in missing_values]
        self._missing_words = tuple(word for word in dict.fromkeys(words) if word)
        self._missing_numbers = _numbers(self._missing_words)
        self._inputs: dict[str, keras.KerasTensor] = {}
        self._known: dict[str, keras.KerasTensor] = {}
        self._values: dict[str, keras.KerasTensor] = {}
        self._tokens: dict[tuple[str, bool], keras.KerasTensor] = {}
        self._numbers: list[tuple[tuple[str, ...], keras.KerasTensor]] = []
        self._ids: list[keras.KerasTensor] = []
        self._id_columns: list[tuple[str, ...]] = []
        self._id_features: list[IdFeature] = []
        self._bags: list[tuple[str, keras.KerasTensor, BagFeature]] = []
        self._images: list[tuple[keras.KerasTensor, ImageFeature]] = []

    def add(self, feature: Feature, settings: Settings) -> None:
        if feature.kind == "numeric":
            self._add_numeric(feature, settings)
        elif feature.kind == "expression":
            self._add_number(feature, settings, *self._expression(feature))
        elif feature.kind == "categorical":
            self._add_categorical(feature, settings)
        elif feature.kind == "datetime":
            self._add_datetime(feature, settings)
        elif feature.kind == "text":
            self._add_text(feature, settings)
        elif feature.kind == "image":
            self._add_image(feature, settings)
        else:
            self._add_cross(feature, settings)

    def build(self) -> Encoder:
        outputs: dict[str, keras.KerasTensor] = {}
        blocks = [block for _, block in self._numbers]
        if blocks:
            outputs["numbers"] = keras.ops.concatenate(blocks, axis=1)
        if self._ids:
            outputs["ids"] = keras.ops.stack(self._ids, axis=1)
        outputs |= {bag_name(index): tensor for index, (_, tensor, _) in enumerate(self._bags)}
        outputs |= {image_name(index): tensor for index, (tensor, _) in enumerate(self._images)}
        return Encoder(
            model=keras.Model(list(self._inputs.values()), outputs, name="preprocessing"),
            columns=tuple(self._inputs),
            number_columns=tuple(name for names, _ in self._numbers for name in names),
            bag_columns=tuple(column for column, _, _ in self._bags),
            numbers=sum(block.shape[1] for block in blocks),
            bags=tuple(bag for _, _, bag in self._bags),
            images=tuple(image for _, image in self._images),
            ids=tuple(self._id_features),
            id_columns=tuple(self._id_columns),
            id_tensors=tuple(self._ids),
        )

    def _add_numeric(self, feature: Feature, settings: Settings) -> None:
        column = self._column(feature.columns[0])
        if column.kind != "number":
            raise DataError(
                f"the numeric feature {feature.name!r} needs numbers, but the column "
                f"{column.name!r} holds strings; give it `kind: categorical`."
            )
        self._add_number(feature, settings, column, self._input(column))

    def _add_number(
        self,
        feature: Feature,
        settings: Settings,
        column: ColumnStatistics,
        raw: keras.KerasTensor,
    ) -> None:
        scale = scale_of(column, str(settings["scaling"]), float(settings["clip"] or 0.0))
        self._numbers.append((feature.columns, scale(raw)))
        buckets = _whole(settings, "buckets")
        if buckets and buckets > 1:
            boundaries = column.quantiles(buckets).tolist()
            ids = layers.Buckets(boundaries)(raw)
            self._add_ids(feature, ids, size=len(boundaries) + 2, reserved=1, embedding=0)

    def _add_categorical(self, feature: Feature, settings: Settings) -> None:
        column = self._column(feature.columns[0])
        tokens = self._token(column)
        table = str(settings["share"] or "")
        column = self._shared.get(table, column)
        buckets = _whole(settings, "hash_buckets")
        if buckets:
            ids, size, reserved = layers.Hash(buckets)(tokens), 1 + buckets, 1
        else:
            oov_buckets = _whole(settings, "oov_buckets") or 1
            words = self._words(column, _whole(settings, "vocabulary") or DEFAULT_VOCABULARY)
            ids = layers.Vocabulary(words, oov_buckets)(tokens)
            reserved = 1 + oov_buckets
            size = reserved + len(words)
        embedding = _whole(settings, "embedding")
        if embedding is None:
            embedding = default_embedding(size, one_hot=not table)
        self._add_ids(feature, ids, size, reserved, embedding, table=table)

    def _add_datetime(self, feature: Feature, settings: Settings) -> None:
        column = self._column(feature.columns[0])
        chosen = time_layers(column, self._statistics, settings)
        text = column.kind == "string"
        time = chosen.read(self._token(column) if text else self._input(column))
        if chosen.numbers is not None:
            self._numbers.append((feature.columns, chosen.numbers(time)))
        for part in chosen.one_hot:
            ids, size = TimePart(part)(time), 1 + times.PARTS[part][1]
            self._add_ids(feature, ids, size, 1, 0, name=parameter_name(feature.name, part))

    def _add_text(self, feature: Feature, settings: Settings) -> None:
        column = self._column(feature.columns[0])
        layer, bag = text_layer(feature.name, column, self._statistics, settings)
        self._bags.append((column.name, layer(self._token(column)), bag))

    def _add_image(self, feature: Feature, settings: Settings) -> None:
        column = self._column(feature.columns[0])
        image = image_feature(feature.name, column, self._statistics, settings)
        self._images.append((image.layer()(self._input(column)), image))

    def _add_cross(self, feature: Feature, settings: Settings) -> None:
        buckets = _whole(settings, "buckets") or 2
        ids = layers.Cross(buckets)([self._crossed(name) for name in feature.columns])
        self._add_ids(feature, ids, 1 + buckets, 1, _whole(settings, "embedding"))

    def _add_ids(
        self,
        feature: Feature,
        ids: keras.KerasTensor,
        size: int,
        reserved: int,
        embedding: int | None,
        *,
        name: str = "",
        table: str = "",
    ) -> None:
        dimensions = default_embedding(size) if embedding is None else embedding
        self._ids.append(ids)
        self._id_columns.append(source_columns(feature, self._features))
        self._id_features.append(
            IdFeature(
                name=name or feature.name,
                size=size,
                reserved=reserved,
                embedding=dimensions,
                table=table,
            )
        )

    def _crossed(self, name: str) -> keras.KerasTensor:
        """The token by which a column or an expression enters a cross."""
        if name not in self._expressions:
            return self._token(self._column(name), coarse=True)
        column, value = self._expression(self._expressions[name])
        # Its last bits may depend on where in a batch a row is, so buckets it is in any case.
        return layers.NumberToken(column.quantiles(CROSS_NUMBER_BUCKETS).tolist())(value)

    def _expression(self, feature: Feature) -> tuple[ColumnStatistics, keras.KerasTensor]:
        """The statistics of an expression, and its value."""
        text = str(feature.settings["expression"])
        (key,) = Values(text).keys
        if key not in self._statistics.derived:
            raise DataError(
                f"nothing was learned of the expression {text!r}; make the statistics again."
            )
        if key not in self._values:
            columns = [self._column(name) for name in expression_of(feature).columns]
            inputs = [
                self._token(column) if column.kind == "string" else self._input(column)
                for column in columns
            ]
            self._values[key] = ExpressionValue(text)(inputs)
        return self._statistics.derived[key], self._values[key]

    def _column(self, name: str) -> ColumnStatistics:
        return _column(self._statistics, name)

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
