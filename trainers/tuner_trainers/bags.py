"""The network's layer over the tokens of a text, whatever their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tuner_trainers.texts import BagFeature


@keras.saving.register_keras_serializable(package="tuner")
class Bag(keras.layers.Layer):  # type: ignore[misc]
    """The learned vectors of the ids of a row, pooled. Those of the reserved ids start at zero.

    Call: int32 [batch, length] -> float32 [batch, units], 0 for a row without ids above 0.

    Args:
        size: how many ids there are.
        reserved: how many of the first start at zero.
        units: the dimensions of a vector.
        pooling: "sum", "mean", or "tfidf": the mean weighted by `weights`.
        weights: the weight of each id.
        initial: the initializer of the other vectors.
    """

    def __init__(
        self,
        size: int,
        reserved: int,
        units: int,
        pooling: str,
        weights: Sequence[float] = (),
        initial: str = "glorot_uniform",
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.size, self.reserved, self.units = size, reserved, units
        self.pooling, self.by_id, self.initial = pooling, list(weights), initial

    @classmethod
    def over(cls, feature: BagFeature, units: int, **base: Any) -> Bag:
        """The layer for a feature."""
        return cls(feature.size, feature.reserved, units, feature.pooling, feature.weights, **base)

    def build(self, _: Any) -> None:
        """Makes the table."""
        self.table = self.add_weight(
            shape=(self.size, self.units), initializer=self._initial, name="table"
        )

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        """int32 [batch, length] -> float32 [batch, units]."""
        known = tf.cast(ids > 0, self.compute_dtype)
        weights = known
        if self.pooling == "tfidf":
            weights = known * tf.gather(tf.constant(self.by_id, self.compute_dtype), ids)
        total = tf.einsum("bl,blu->bu", weights, tf.gather(self.table, ids))
        if self.pooling == "sum":
            return total
        return tf.math.divide_no_nan(total, tf.reduce_sum(weights, axis=1, keepdims=True))

    def compute_output_spec(self, ids: keras.KerasTensor, **_: Any) -> keras.KerasTensor:
        """The shape and dtype of the output."""
        return keras.KerasTensor((ids.shape[0], self.units), dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The layer's state, from which it can be built again."""
        names = ("size", "reserved", "units", "pooling", "initial")
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in names},
            "weights": self.by_id,
        }

    def _initial(self, shape: tuple[int, ...], dtype: str) -> tf.Tensor:
        values = keras.initializers.get(self.initial)(shape, dtype)
        learned = np.arange(self.size)[:, None] >= self.reserved
        return values * tf.constant(learned, dtype)
