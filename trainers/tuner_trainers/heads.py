"""The end of every network: the loss of its outputs, and the layer that makes them predictions."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tuner.trainer_spaces import Task
from tuner_trainers.loop import Loss
from tuner_trainers.target import Target


def loss_of(task: Task) -> Loss:
    """The loss of each row from labels float32 [batch] and outputs float32 [batch, units].

    Labels are classes by place, or numbers in units of the target's deviation.
    """
    return _LOSSES[task]


def head_of(target: Target) -> Head:
    """The layer for a target."""
    return Head(task=target.task.value, mean=target.mean, deviation=target.deviation)


@keras.saving.register_keras_serializable(package="tuner")
class Head(keras.layers.Layer):  # type: ignore[misc]
    """Turns the network's outputs into predictions.

    Call: float32 [batch, units] -> the probability of each class, float32 [batch, classes]; of a
    regression the number in the label's own units, float32 [batch].
    """

    def __init__(self, task: str, mean: float, deviation: float, **base: Any) -> None:
        super().__init__(**base)
        self.task, self.mean, self.deviation = Task(task), mean, deviation

    def call(self, outputs: tf.Tensor) -> tf.Tensor:
        """float32 [batch, units] -> float32 [batch, classes] or [batch]."""
        if self.task is Task.REGRESSION:
            return outputs[:, 0] * self.deviation + self.mean
        if self.task is Task.MULTICLASS:
            return tf.nn.softmax(outputs)
        return tf.stack([tf.sigmoid(-outputs[:, 0]), tf.sigmoid(outputs[:, 0])], axis=1)

    def get_config(self) -> dict[str, Any]:
        """The layer's state, from which it can be built again."""
        own = {"task": self.task.value, "mean": self.mean, "deviation": self.deviation}
        return {**super().get_config(), **own}


def _binary(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    return tf.nn.sigmoid_cross_entropy_with_logits(labels, outputs[:, 0])


def _multiclass(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(labels, tf.int32), outputs)


def _regression(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    return tf.square(outputs[:, 0] - labels)


_LOSSES: dict[Task, Loss] = {
    Task.BINARY: _binary,
    Task.MULTICLASS: _multiclass,
    Task.REGRESSION: _regression,
}
