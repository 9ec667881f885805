"""The Keras layer that computes an expression of columns in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tuner import expressions
from tuner.expressions import Library
from tuner_trainers.layers import RawLayer


def _lacks(column: tf.Tensor) -> tf.Tensor:
    return column == "" if column.dtype == tf.string else ~tf.math.is_finite(column)


_LIBRARY = Library(
    number=lambda truth: tf.cast(truth, tf.float64),
    constant=lambda number: tf.constant(number, tf.float64),
    where=tf.where,
    is_finite=tf.math.is_finite,
    lacks=_lacks,
    equals=lambda texts, word: texts == word,
    functions={
        "min": tf.minimum,
        "max": tf.maximum,
        "abs": tf.abs,
        "log": tf.math.log,
        "log1p": tf.math.log1p,
        "exp": tf.exp,
        "sqrt": tf.sqrt,
        "floor": tf.floor,
        "**": tf.pow,
    },
)


@keras.saving.register_keras_serializable(package="tuner")
class ExpressionValue(RawLayer):
    """The value of an expression, NaN where it is missing.

    Call: a list of the expression's columns, float64 or string [batch], -> float64 [batch].
    """

    output_dtype = "float64"

    def __init__(self, expression: str, **base: Any) -> None:
        super().__init__(expression=expression, **base)
        self.expression = expressions.parse(expression)

    def call(self, columns: Sequence[tf.Tensor]) -> tf.Tensor:
        """List of [batch] -> float64 [batch]."""
        named = dict(zip(self.expression.columns, columns, strict=True))
        value = expressions.evaluate(self.expression, named, _LIBRARY)
        return tf.broadcast_to(value, tf.shape(columns[0]))
