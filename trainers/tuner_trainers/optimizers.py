"""The optimizers of the box, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras
import tensorflow as tf

from tuner.space import Value


@keras.saving.register_keras_serializable(package="tuner")
class Adam(keras.optimizers.Adam):  # type: ignore[misc]
    """Keras's Adam with one operation for each variable, where Keras takes a dozen.

    On small networks it is operations that cost time, in the graph's making and in each step.
    """

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, rate: tf.Tensor) -> None:
        """Updates one variable; called by Keras."""
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations.value + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(tf.cast(self.beta_1, variable.dtype), step),
            beta2_power=tf.pow(tf.cast(self.beta_2, variable.dtype), step),
            lr=tf.cast(rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


def _sgd(**settings: float | None) -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(momentum=0.9, **settings)


_OPTIMIZERS: Mapping[str, Callable[..., keras.optimizers.Optimizer]] = {
    "adam": Adam,
    "sgd": _sgd,
    "rmsprop": keras.optimizers.RMSprop,
    "adagrad": keras.optimizers.Adagrad,
}


def build_optimizer(
    parameters: Mapping[str, Value], network: keras.Model
) -> keras.optimizers.Optimizer:
    """Builds the optimizer that a trial's parameters name, for the network's variables."""
    optimizer = _OPTIMIZERS[str(parameters["optimizer"])](
        learning_rate=float(parameters["learning_rate"]),
        weight_decay=float(parameters["weight_decay"]) or None,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.build(network.trainable_variables)
    return optimizer
