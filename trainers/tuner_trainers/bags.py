"""The network's layers over the tokens of a text: their vectors, and how these become one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tuner_trainers.texts import BagFeature


def pooled(
    bag: BagFeature, ids: keras.KerasTensor, units: int, name: str, initial: str = "glorot_uniform"
) -> keras.KerasTensor:
    """A text as one vector, whatever the order of its tokens, float32 [batch, units]."""
    vectors = Vectors.over(bag, units, initial=initial, name=name)(ids)
    return Pooling(bag.pooling, bag.weights)([ids, vectors])


@keras.saving.register_keras_serializable(package="tuner")
class Vectors(keras.layers.Layer):  # type: ignore[misc]
    """The learned vectors of ids; those of the reserved ids start at zero.

    Call: int32 [batch, length] -> float32 [batch, length, units].

    Args:
        size: how many ids there are.
        reserved: how many of the first start at zero.
        units: the dimensions of a vector.
        initial: the initializer of the other vectors.
    """

    def __init__(
        self, size: int, reserved: int, units: int, initial: str = "glorot_uniform", **base: Any
    ) -> None:
        super().__init__(**base)
        self.size, self.reserved, self.units, self.initial = size, reserved, units, initial

    @classmethod
    def over(cls, bag: BagFeature, units: int, **base: Any) -> Vectors:
        """The layer for a feature."""
        return cls(bag.size, bag.reserved, units, **base)

    def build(self, _: Any) -> None:
        """Makes the table."""
        self.table = self.add_weight(
            shape=(self.size, self.units), initializer=self._initial, name="table"
        )

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        """int32 [batch, length] -> float32 [batch, length, units]."""
        return tf.gather(self.table, ids)

    def compute_output_spec(self, ids: keras.KerasTensor, **_: Any) -> keras.KerasTensor:
        """The shape and dtype of the output."""
        return keras.KerasTensor((*ids.shape, self.units), dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The layer's state, from which it can be built again."""
        names = ("size", "reserved", "units", "initial")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

    def _initial(self, shape: tuple[int, ...], dtype: str) -> tf.Tensor:
        values = keras.initializers.get(self.initial)(shape, dtype)
        learned = np.arange(self.size)[:, None] >= self.reserved
        return values * tf.constant(learned, dtype)


@keras.saving.register_keras_serializable(package="tuner")
class Pooling(keras.layers.Layer):  # type: ignore[misc]
    """What stands at the tokens of a row, made one vector; 0 for a row without ids above 0.

    Call: int32 [batch, length] and float32 [batch, length, units] -> float32 [batch, units].

    Args:
        pooling: "sum", "mean", "tfidf": the mean weighted by `weights`, "max", or "attention":
            the mean weighted by the softmax of a learned product, at first the mean.
        weights: the weight of each id.
    """

    def __init__(self, pooling: str, weights: Sequence[float] = (), **base: Any) -> None:
        # Scores of what is no token, and sums over many, go beyond what 16 bits hold.
        super().__init__(**{"dtype": "float32", **base})
        self.pooling, self.by_id = pooling, list(weights)

    def build(self, shapes: Sequence[Sequence[int]]) -> None:
        """Makes what attention learns."""
        if self.pooling == "attention":
            self.query = self.add_weight(shape=(shapes[1][-1],), initializer="zeros", name="query")

    def call(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """int32 [batch, length], float32 [batch, length, units] -> float32 [batch, units]."""
        ids, vectors = tensors
        known = ids > 0
        if self.pooling == "max":
            lowest = tf.where(known[:, :, None], vectors, vectors.dtype.min)
            some = tf.reduce_any(known, axis=1, keepdims=True)
            return tf.where(some, tf.reduce_max(lowest, axis=1), 0.0)
        weights = self._weights(ids, tf.cast(known, vectors.dtype), vectors)
        total = tf.einsum("bl,blu->bu", weights, vectors)
        if self.pooling == "sum":
            return total
        return tf.math.divide_no_nan(total, tf.reduce_sum(weights, axis=1, keepdims=True))

    def _weights(self, ids: tf.Tensor, known: tf.Tensor, vectors: tf.Tensor) -> tf.Tensor:
        """float32 [batch, length], 0 where there is no token."""
        if self.pooling == "tfidf":
            return known * tf.gather(tf.constant(self.by_id, known.dtype), ids)
        if self.pooling == "attention":
            scores = tf.einsum("blu,u->bl", vectors, self.query)
            scores += (known - 1.0) * 1e9
            return known * tf.nn.softmax(scores)
        return known

    def compute_output_spec(
        self, tensors: Sequence[keras.KerasTensor], **_: Any
    ) -> keras.KerasTensor:
        """The shape and dtype of the output."""
        vectors = tensors[1]
        return keras.KerasTensor((vectors.shape[0], vectors.shape[2]), dtype="float32")

    def get_config(self) -> dict[str, Any]:
        """The layer's state, from which it can be built again."""
        return {**super().get_config(), "pooling": self.pooling, "weights": self.by_id}
