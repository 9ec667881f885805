"""Keras layers with given state that turn raw columns into numbers and ids.

A number column is float64 [batch] with NaN where missing; a text column is string [batch] with ""
where missing. A *token* is a string [batch] that stands for a value, "" where it is missing: what
vocabularies, hashes and crosses are made of. Ids are int32 [batch]; id 0 always means missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

#: Between the tokens of a cross; no UTF-8 text of a data file holds it.
SEPARATOR = "\x1f"

#: Scaled numbers are cut here, so that no number, however large, overflows the network.
LIMIT = 1e18


class RawLayer(keras.layers.Layer):  # type: ignore[misc]
    """A layer without variables that sees raw columns as they are.

    Its output is described by `output_dtype` and `output_width` (0 for a vector), so that Keras
    need not trace the layer to learn it.
    """

    output_dtype = "int32"
    output_width = 0

    def __init__(self, **config: Any) -> None:
        name = config.pop("name", None)
        for key in ("dtype", "trainable"):
            config.pop(key, None)
        # Keras would cast float64 to float32 before the layer sees it.
        super().__init__(name=name, dtype="float64", autocast=False, trainable=False)
        self._config = config

    def build(self, *_: Any) -> None:
        """Makes no variables."""

    def compute_output_spec(self, *inputs: Any, **_: Any) -> keras.KerasTensor:
        """The shape and dtype of the output."""
        batch = keras.tree.flatten(inputs)[0].shape[0]
        shape = (batch, self.output_width) if self.output_width else (batch,)
        return keras.KerasTensor(shape, dtype=self.output_dtype)

    def get_config(self) -> dict[str, Any]:
        """The layer's state, from which it can be built again."""
        return {"name": self.name, **self._config}


@keras.saving.register_keras_serializable(package="tuner")
class Scale(RawLayer):
    """Scales numbers; beside them, where asked for, whether they are missing.

    Call: float64 [batch] -> float32 [batch, 1], or [batch, 2] with `indicator`.

    Args:
        scaling: "zscore", "log" (sign(x) log(1 + |x|), then as zscore), "quantile" or "none".
        center: what is subtracted, after the log.
        spread: what is divided by, then.
        fill: what a missing number becomes, after all of that.
        bounds: the smallest and the largest number, to which others are clipped first.
        points: for "quantile": strictly increasing numbers.
        ranks: for "quantile": the rank of each point, between 0 and 1.
        indicator: whether a second column says 1 where the number is missing.
    """

    output_dtype = "float32"

    def __init__(
        self,
        scaling: str,
        center: float = 0.0,
        spread: float = 1.0,
        fill: float = 0.0,
        bounds: Sequence[float] | None = None,
        points: Sequence[float] = (),
        ranks: Sequence[float] = (),
        indicator: bool = False,
        **base: Any,
    ) -> None:
        super().__init__(
            scaling=scaling,
            center=center,
            spread=spread,
            fill=fill,
            bounds=None if bounds is None else list(bounds),
            points=list(points),
            ranks=list(ranks),
            indicator=indicator,
            **base,
        )
        self.scaling, self.center, self.spread, self.fill = scaling, center, spread, fill
        self.bounds = bounds
        self.points, self.ranks = np.asarray(points, float), np.asarray(ranks, float)
        self.indicator = indicator
        self.output_width = 2 if indicator else 1

    def call(self, numbers: tf.Tensor) -> tf.Tensor:
        """float64 [batch] -> float32 [batch, 1 or 2]."""
        known = tf.math.is_finite(numbers)
        fill = tf.constant(self.fill, tf.float64)
        scaled = tf.where(known, self._scaled(tf.where(known, numbers, 0.0)), fill)
        columns = [tf.cast(tf.clip_by_value(scaled, -LIMIT, LIMIT), tf.float32)]
        if self.indicator:
            columns.append(tf.cast(~known, tf.float32))
        return tf.stack(columns, axis=1)

    def _scaled(self, numbers: tf.Tensor) -> tf.Tensor:
        if self.bounds is not None:
            numbers = tf.clip_by_value(numbers, *self.bounds)
        if self.scaling == "quantile":
            return _interpolate(numbers, self.points, self.ranks)
        if self.scaling == "log":
            numbers = tf.sign(numbers) * tf.math.log1p(tf.abs(numbers))
        return (numbers - self.center) / self.spread


@keras.saving.register_keras_serializable(package="tuner")
class Buckets(RawLayer):
    """The bucket of a number: 1 below the first boundary, one more from each boundary on.

    Call: float64 [batch] -> int32 [batch], 0 where the number is missing.
    """

    def __init__(self, boundaries: Sequence[float], **base: Any) -> None:
        super().__init__(boundaries=list(boundaries), **base)
        self.boundaries = np.asarray(boundaries, float)

    def call(self, numbers: tf.Tensor) -> tf.Tensor:
        """float64 [batch] -> int32 [batch]."""
        known = tf.math.is_finite(numbers)
        return tf.where(known, 1 + _place(tf.where(known, numbers, 0.0), self.boundaries), 0)


@keras.saving.register_keras_serializable(package="tuner")
class TextToken(RawLayer):
    """The token of a text: itself without the space around it, "" for words that mean missing.

    Call: string [batch] -> string [batch].
    """

    output_dtype = "string"

    def __init__(self, missing_values: Sequence[str] = (), **base: Any) -> None:
        super().__init__(missing_values=list(missing_values), **base)
        self.missing_values = tuple(missing_values)

    def call(self, texts: tf.Tensor) -> tf.Tensor:
        """string [batch] -> string [batch]."""
        tokens = tf.strings.strip(texts)
        for word in self.missing_values:
            tokens = tf.where(tokens == word, "", tokens)
        return tokens


@keras.saving.register_keras_serializable(package="tuner")
class Known(RawLayer):
    """Numbers, with NaN for those that mean missing.

    Call: float64 [batch] -> float64 [batch].
    """

    output_dtype = "float64"

    def __init__(self, missing_values: Sequence[float], **base: Any) -> None:
        super().__init__(missing_values=list(missing_values), **base)
        self.missing_values = tuple(missing_values)

    def call(self, numbers: tf.Tensor) -> tf.Tensor:
        """float64 [batch] -> float64 [batch]."""
        nothing = tf.constant(np.nan, tf.float64)
        for value in self.missing_values:
            numbers = tf.where(numbers == value, nothing, numbers)
        return numbers


@keras.saving.register_keras_serializable(package="tuner")
class NumberToken(RawLayer):
    """The token of a number: its bits, or its bucket where boundaries are given.

    Call: float64 [batch] -> string [batch], "" where the number is missing.
    """

    output_dtype = "string"

    def __init__(self, boundaries: Sequence[float] | None = None, **base: Any) -> None:
        super().__init__(boundaries=None if boundaries is None else list(boundaries), **base)
        self.boundaries = None if boundaries is None else np.asarray(boundaries, float)

    def call(self, numbers: tf.Tensor) -> tf.Tensor:
        """float64 [batch] -> string [batch]."""
        known = tf.math.is_finite(numbers)
        numbers = tf.where(known & (numbers != 0.0), numbers, 0.0)  # -0.0 is 0.0
        if self.boundaries is None:
            whole = tf.bitcast(numbers, tf.int64)
        else:
            whole = _place(numbers, self.boundaries)
        return tf.where(known, tf.strings.as_string(whole), "")

    @staticmethod
    def of(number: float) -> str:
        """The token that the layer without boundaries gives to `number`."""
        return str(int(np.float64(number + 0.0).view(np.int64)))


@keras.saving.register_keras_serializable(package="tuner")
class Vocabulary(RawLayer):
    """The place of a token in a list; tokens outside of it share some buckets.

    Call: string [batch] -> int32 [batch]: 0 missing, then `oov_buckets`, then the tokens.
    """

    def __init__(self, tokens: Sequence[str], oov_buckets: int, **base: Any) -> None:
        super().__init__(tokens=list(tokens), oov_buckets=oov_buckets, **base)
        self.oov_buckets = oov_buckets
        with tf.init_scope():
            self.table = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(
                    tf.constant(["", *tokens]),
                    tf.constant([0, *range(1 + oov_buckets, 1 + oov_buckets + len(tokens))]),
                    tf.string,
                    tf.int32,
                ),
                default_value=-1,
            )

    def call(self, tokens: tf.Tensor) -> tf.Tensor:
        """string [batch] -> int32 [batch]."""
        found = self.table.lookup(tokens)
        return tf.where(found >= 0, found, 1 + _hash(tokens, self.oov_buckets))


@keras.saving.register_keras_serializable(package="tuner")
class Hash(RawLayer):
    """The bucket that a token falls into.

    Call: string [batch] -> int32 [batch]: 0 missing, then the buckets.
    """

    def __init__(self, buckets: int, **base: Any) -> None:
        super().__init__(buckets=buckets, **base)
        self.buckets = buckets

    def call(self, tokens: tf.Tensor) -> tf.Tensor:
        """string [batch] -> int32 [batch]."""
        return tf.where(tokens == "", 0, 1 + _hash(tokens, self.buckets))


@keras.saving.register_keras_serializable(package="tuner")
class Cross(RawLayer):
    """The bucket that tokens of several columns, taken together, fall into.

    Call: list of string [batch] -> int32 [batch]: 0 where all are missing, then the buckets.
    """

    def __init__(self, buckets: int, **base: Any) -> None:
        super().__init__(buckets=buckets, **base)
        self.buckets = buckets

    def call(self, tokens: Sequence[tf.Tensor]) -> tf.Tensor:
        """List of string [batch] -> int32 [batch]."""
        joined = tf.strings.join(list(tokens), SEPARATOR)
        missing = joined == SEPARATOR * (len(tokens) - 1)
        return tf.where(missing, 0, 1 + _hash(joined, self.buckets))


def _hash(tokens: tf.Tensor, buckets: int) -> tf.Tensor:
    """FarmHash's fingerprint, the same on every machine."""
    return tf.cast(tf.strings.to_hash_bucket_fast(tokens, buckets), tf.int32)


def _place(numbers: tf.Tensor, boundaries: np.ndarray) -> tf.Tensor:
    """How many boundaries are at or below each number, int32 [batch]."""
    return tf.searchsorted(tf.constant(boundaries, tf.float64), numbers, side="right")


def _interpolate(numbers: tf.Tensor, points: np.ndarray, ranks: np.ndarray) -> tf.Tensor:
    """The piecewise linear curve through the points, flat outside of them."""
    if len(points) < 2:
        return tf.fill(tf.shape(numbers), tf.constant(0.5, tf.float64))
    inside = tf.clip_by_value(numbers, points[0], points[-1])
    left = tf.minimum(_place(inside, points) - 1, len(points) - 2)
    start, slope = tf.constant(points), np.diff(ranks) / np.diff(points)
    part = (inside - tf.gather(start, left)) * tf.gather(tf.constant(slope), left)
    return tf.gather(tf.constant(ranks), left) + part
