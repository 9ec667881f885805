"""How the learning rate changes over the steps of a trial."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

KINDS = ("constant", "cosine", "exponential")


@keras.saving.register_keras_serializable(package="tuner")
class Schedule(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """A linear rise, then a fall to a part of the rate at the last step.

    With t the part of the steps after the rise that is done, `cosine` is
    final + (1 - final) (1 + cos(pi t)) / 2 times the rate (Loshchilov and Hutter, SGDR, 2017),
    `exponential` is final ** t times the rate, `constant` the rate itself.

    Args:
        rate: the largest learning rate.
        kind: one of KINDS.
        steps: of the whole trial.
        warmup: the part of them in which the rate rises from 0.
        final: the part of the rate at the end.
    """

    def __init__(self, rate: float, kind: str, steps: int, warmup: float, final: float) -> None:
        self.rate, self.kind, self.steps = rate, kind, steps
        self.warmup, self.final = warmup, final

    def __call__(self, step: Any) -> tf.Tensor:
        """The learning rate of a step, counted from 0: float32 []."""
        made = tf.cast(step, tf.float32)
        rising = math.ceil(self.warmup * self.steps)
        done = (made - rising) / max(1, self.steps - rising - 1)
        done = tf.clip_by_value(done, 0.0, 1.0)
        if self.kind == "cosine":
            left = self.final + (1 - self.final) * (1 + tf.cos(math.pi * done)) / 2
        elif self.kind == "exponential":
            left = self.final**done
        else:
            left = tf.ones_like(done)
        if not rising:
            return self.rate * left
        return self.rate * tf.minimum((made + 1) / (rising + 1), left)

    def get_config(self) -> dict[str, Any]:
        """What it is built from."""
        names = ("rate", "kind", "steps", "warmup", "final")
        return {name: getattr(self, name) for name in names}
