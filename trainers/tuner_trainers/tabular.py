"""The tabular trainer's network: a deep part and a wide, linear one over encoded columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tuner.space import Value
from tuner_trainers.bags import pooled
from tuner_trainers.preprocessing import Encoder, IdFeature, bag_name, image_name
from tuner_trainers.texts import BagFeature

#: Up to this many rows, a product with the one-hot is faster than gathering and adding rows.
MATMUL_LIMIT = 1024

Tensors = Mapping[str, keras.KerasTensor]
Parts = list[keras.KerasTensor]
#: Makes float32 [batch, width] of a text, its ids and the name of its input.
Pool = Callable[[BagFeature, keras.KerasTensor, str], keras.KerasTensor]


def build_network(encoder: Encoder, parameters: Mapping[str, Value], units: int) -> keras.Model:
    """Builds the network of a trial.

    Args:
        encoder: the preprocessing whose outputs it takes.
        parameters: the trainer's effective parameters.
        units: how many outputs it has.

    Returns:
        A model from the encoder's outputs to float32 [batch, units], without an activation.
    """
    inputs = _inputs(encoder)
    depth, width = int(parameters["layers"]), int(parameters["units"])
    outputs: keras.KerasTensor | None = None
    for index in range(depth):
        outputs = _dense(inputs, encoder, outputs, width, f"hidden_{index + 1}")
        outputs = keras.layers.Activation(str(parameters["activation"]))(outputs)
        outputs = _dropped(outputs, parameters)
    outputs = _dense(inputs, encoder, outputs, units, "output")
    if parameters["wide"] and depth:
        wide = list(_wide(inputs, encoder, units))
        outputs = keras.layers.Add()([outputs, *wide]) if wide else outputs
    return keras.Model(inputs, outputs, name="tabular")


def encoded(encoder: Encoder, pool: Pool | None = None) -> tuple[Tensors, Parts]:
    """The inputs of a network, and what they hold as parts, each float32 [batch, width].

    That is the numbers, pooled texts, the learned vectors of ids that have some, and the others
    one-hot; images are left to the caller.

    Args:
        encoder: the preprocessing whose outputs they are.
        pool: makes a vector of a text, in place of the usual.
    """
    inputs = _inputs(encoder)
    parts = _parts(inputs, encoder, pool or _pooled)
    for place, feature in enumerate(encoder.ids):
        if not feature.embedding:
            parts.append(keras.ops.one_hot(inputs["ids"][:, place], feature.size))
    return inputs, parts


def together(parts: Parts) -> keras.KerasTensor:
    """The parts as one tensor, float32 [batch, width]."""
    return keras.layers.Concatenate()(parts) if len(parts) > 1 else parts[0]


def dense(
    below: keras.KerasTensor, parameters: Mapping[str, Value], units: int
) -> keras.KerasTensor:
    """Hidden layers, and one for the outputs, float32 [batch, units]; each drops of its inputs."""
    for index in range(int(parameters["layers"])):
        below = _dropped(below, parameters)
        below = keras.layers.Dense(int(parameters["units"]), name=f"hidden_{index + 1}")(below)
        below = keras.layers.Activation(str(parameters["activation"]))(below)
    return keras.layers.Dense(units, name="output")(_dropped(below, parameters))


def _dropped(below: keras.KerasTensor, parameters: Mapping[str, Value]) -> keras.KerasTensor:
    rate = float(parameters["dropout"])
    return keras.layers.Dropout(rate)(below) if rate else below


def _inputs(encoder: Encoder) -> Tensors:
    inputs = {}
    for index, image in enumerate(encoder.images):
        name = image_name(index)
        inputs[name] = keras.Input(image.shape, dtype="uint8", name=name)
    if encoder.numbers:
        inputs["numbers"] = keras.Input((encoder.numbers,), name="numbers")
    if encoder.ids:
        inputs["ids"] = keras.Input((len(encoder.ids),), dtype="int32", name="ids")
    for index, bag in enumerate(encoder.bags):
        name = bag_name(index)
        inputs[name] = keras.Input((bag.length,), dtype="int32", name=name)
    return inputs


def _wide(inputs: Tensors, encoder: Encoder, units: int) -> Iterator[keras.KerasTensor]:
    """What each id and each token adds to the outputs by itself."""
    if encoder.ids:
        wide = Lookup.over(encoder.ids, encoder.ids, units, "sum", initial="zeros", name="wide")
        yield wide(inputs["ids"])
    for index, bag in enumerate(encoder.bags):
        name = bag_name(index)
        if bag.pooling in ("max", "attention"):  # which no token adds to by itself
            bag = replace(bag, pooling="mean")
        yield pooled(bag, inputs[name], units, f"wide_{name}", initial="zeros")


def _dense(
    inputs: Tensors,
    encoder: Encoder,
    below: keras.KerasTensor | None,
    units: int,
    name: str,
) -> keras.KerasTensor:
    """A dense layer over the one `below`, or over all that the encoder gives."""
    if below is not None:
        return keras.layers.Dense(units, name=name)(below)
    parts = _parts(inputs, encoder, _pooled)
    ids = encoder.ids
    one_hot = [feature for feature in ids if not feature.embedding]
    sums = []
    if parts:
        block = together(parts)
        # TensorFlow's optimizer of graphs breaks on a product, its bias, a sum and a relu in this
        # order, so the bias goes with the other summand.
        sums.append(keras.layers.Dense(units, use_bias=not one_hot, name=name)(block))
    if one_hot:
        lookup = Lookup.over(one_hot, ids, units, "sum", bias=True, name=f"{name}_one_hot")
        sums.append(lookup(inputs["ids"]))
    return keras.layers.Add()(sums) if len(sums) > 1 else sums[0]


def _pooled(bag: BagFeature, ids: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """The vector of a text: those of its tokens, pooled."""
    return pooled(bag, ids, bag.embedding, f"embedding_{name}")


def _parts(inputs: Tensors, encoder: Encoder, pool: Pool) -> Parts:
    """Numbers, pooled texts and embeddings, those of equal dimensions from one table."""
    parts = [inputs["numbers"]] if "numbers" in inputs else []
    for index, bag in enumerate(encoder.bags):
        name = bag_name(index)
        parts.append(pool(bag, inputs[name], name))
    ids = encoder.ids
    embedded = sorted((f for f in ids if f.embedding), key=lambda feature: feature.embedding)
    for dimensions, group in groupby(embedded, key=lambda feature: feature.embedding):
        name = f"embedding_{dimensions}"
        lookup = Lookup.over(list(group), ids, dimensions, "concatenate", name=name)
        parts.append(lookup(inputs["ids"]))
    return parts


@keras.saving.register_keras_serializable(package="tuner")
class Lookup(keras.layers.Layer):  # type: ignore[misc]
    """Rows of a table for several id features: embeddings, or a product with their one-hot.

    One operation for all features, where a layer for each would cost as many. The rows of ids
    that stand for missing and unseen values start at zero: what was never seen says nothing.

    Call: int32 [batch, ids] -> float32 [batch, len(positions) * units] for "concatenate",
    [batch, units] for "sum".

    Args:
        positions: the columns of the ids that are looked up.
        sizes: how many rows of the table each column has, or those that share them.
        reserved: how many of these rows, the first, start at zero.
        tables: which of the sizes each position has; each its own if none are given.
        units: the width of the table.
        combine: "concatenate" or "sum".
        initial: the initializer of the other rows.
        bias: whether a bias is added.
    """

    def __init__(
        self,
        positions: Sequence[int],
        sizes: Sequence[int],
        reserved: Sequence[int],
        units: int,
        combine: str,
        initial: str = "glorot_uniform",
        bias: bool = False,
        tables: Sequence[int] | None = None,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.tables = list(range(len(sizes)) if tables is None else tables)
        self.positions, self.sizes, self.reserved = list(positions), list(sizes), list(reserved)
        self.units, self.combine, self.initial, self.bias = units, combine, initial, bias
        self._starts = np.cumsum([0, *self.sizes[:-1]]).astype(np.int32)
        self._offsets = self._starts[self.tables]

    @classmethod
    def over(
        cls,
        features: Sequence[IdFeature],
        of: Sequence[IdFeature],
        units: int,
        combine: str,
        **base: Any,
    ) -> Lookup:
        """The layer for `features`, a part `of` the encoder's."""
        places = {feature.name: index for index, feature in enumerate(of)}
        # Vectors of values are shared, but what a value means in a sum depends on its column.
        shared = combine == "concatenate"
        names = [
            feature.table if shared and feature.table else feature.name for feature in features
        ]
        owners = dict(zip(reversed(names), reversed(features), strict=True))
        tables = {name: index for index, name in enumerate(dict.fromkeys(names))}
        return cls(
            [places[feature.name] for feature in features],
            [owners[name].size for name in tables],
            [owners[name].reserved for name in tables],
            units,
            combine,
            tables=[tables[name] for name in names],
            **base,
        )

    def build(self, _: Any) -> None:
        """Makes the table."""
        shape = (sum(self.sizes), self.units)
        self.table = self.add_weight(shape=shape, initializer=self._initial, name="table")
        if self.bias:
            self.offset = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        """int32 [batch, ids] -> float32 [batch, ...]."""
        places = tf.gather(ids, self.positions, axis=1) + self._offsets
        if self.combine == "concatenate":
            rows = tf.gather(self.table, places)
            return tf.reshape(rows, (-1, len(self.positions) * self.units))
        total = self._summed(places)
        return total + self.offset if self.bias else total

    def _summed(self, places: tf.Tensor) -> tf.Tensor:
        size = sum(self.sizes)
        if size > MATMUL_LIMIT:
            return tf.reduce_sum(tf.gather(self.table, places), axis=1)
        hot = tf.raw_ops.DenseBincount(
            input=places, size=size, weights=tf.zeros((0,)), binary_output=True
        )
        hot = tf.cast(tf.ensure_shape(hot, (None, size)), self.compute_dtype)
        return tf.matmul(hot, self.table)

    def compute_output_spec(self, ids: keras.KerasTensor, **_: Any) -> keras.KerasTensor:
        """The shape and dtype of the output."""
        columns = len(self.positions) if self.combine == "concatenate" else 1
        return keras.KerasTensor((ids.shape[0], columns * self.units), dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The layer's state, from which it can be built again."""
        names = ("positions", "sizes", "reserved", "tables", "units", "combine", "initial", "bias")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

    def _initial(self, shape: tuple[int, ...], dtype: str) -> tf.Tensor:
        values = keras.initializers.get(self.initial)(shape, dtype)
        return values * tf.constant(self._learned_rows()[:, None], dtype)

    def _learned_rows(self) -> npt.NDArray[np.float32]:
        """0 for the rows that start at zero, 1 for the others."""
        rows = np.ones(sum(self.sizes), np.float32)
        for offset, reserved in zip(self._starts.tolist(), self.reserved, strict=True):
            rows[offset : offset + reserved] = 0.0
        return rows
