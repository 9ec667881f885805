"""The optimizers of the box, by name, with what becomes of rate and gradients on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import keras
import tensorflow as tf

from tuner.space import Value
from tuner_trainers.schedules import Schedule

Gradients = Sequence[tuple[tf.Tensor, tf.Variable]]


class _Summed:
    """Takes gradients that are summed over the replicas; clips each value, then all together."""

    #: 0 for no bound.
    clip_value = 0.0
    clip_norm = 0.0

    def _all_reduce_sum_gradients(self, grads_and_vars: Gradients) -> Gradients:
        return grads_and_vars

    def _clip_gradients(self, gradients: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
        if self.clip_value:
            bound = self.clip_value
            gradients = [tf.clip_by_value(gradient, -bound, bound) for gradient in gradients]
        if self.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self.clip_norm)
        return gradients


@keras.saving.register_keras_serializable(package="tuner")
class Adam(_Summed, keras.optimizers.Adam):  # type: ignore[misc]
    """Keras's Adam with one operation for each variable, where Keras takes a dozen.

    On small networks it is operations that cost time, in the graph's making and in each step.
    """

    def _backend_update_step(
        self, gradients: Sequence[tf.Tensor], variables: Sequence[tf.Variable], rate: tf.Tensor
    ) -> None:
        """Updates all variables; called by Keras. The powers are the same for each of them."""
        step = tf.cast(self.iterations.value + 1, tf.float32)
        betas = (self.beta_1, self.beta_2)
        self._powers = [tf.pow(tf.cast(beta, tf.float32), step) for beta in betas]
        super()._backend_update_step(gradients, variables, rate)
        self._powers = []  # tensors of a graph, which would be kept with them

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, rate: tf.Tensor) -> None:
        """Updates one variable; called by Keras."""
        index = self._get_variable_index(variable)
        beta1_power, beta2_power = self._powers
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=beta1_power,
            beta2_power=beta2_power,
            lr=tf.cast(rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


@keras.saving.register_keras_serializable(package="tuner")
class SGD(_Summed, keras.optimizers.SGD):  # type: ignore[misc]
    """Keras's."""


@keras.saving.register_keras_serializable(package="tuner")
class RMSprop(_Summed, keras.optimizers.RMSprop):  # type: ignore[misc]
    """Keras's."""


@keras.saving.register_keras_serializable(package="tuner")
class Adagrad(_Summed, keras.optimizers.Adagrad):  # type: ignore[misc]
    """Keras's."""


_OPTIMIZERS: Mapping[str, Callable[..., keras.optimizers.Optimizer]] = {
    "adam": Adam,
    "sgd": partial(SGD, momentum=0.9),
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
}


def build_optimizer(
    parameters: Mapping[str, Value], network: keras.Model, steps: int
) -> keras.optimizers.Optimizer:
    """Builds the optimizer that a trial's parameters name, for the network's variables.

    With float16, which has no gradients below 6e-8, the loss is scaled: by 2**15 at first, by
    half of that after each step whose gradients are not finite, which is left out, and by twice
    that after 2,000 steps without one (Micikevicius et al., Mixed Precision Training, 2018).

    Args:
        parameters: the trainer's effective ones.
        network: whose variables are trained.
        steps: how many the trial has in all.
    """
    optimizer = _OPTIMIZERS[str(parameters["optimizer"])](
        learning_rate=_rate(parameters, steps),
        weight_decay=float(parameters["weight_decay"]) or None,
    )
    optimizer.clip_value = float(parameters["clip_value"])
    optimizer.clip_norm = float(parameters["clip_norm"])
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    if parameters["precision"] == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(network.trainable_variables)
    return optimizer


def _rate(parameters: Mapping[str, Value], steps: int) -> float | Schedule:
    """The learning rate, or how it changes."""
    rate, kind = float(parameters["learning_rate"]), str(parameters["schedule"])
    warmup = float(parameters["warmup"])
    if kind == "constant" and not warmup:
        return rate
    return Schedule(rate, kind, steps, warmup, float(parameters["final_rate"]))
