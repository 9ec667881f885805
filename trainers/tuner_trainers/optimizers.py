"""The optimizers of the box, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import keras
import tensorflow as tf

from tuner.space import Value

Gradients = Sequence[tuple[tf.Tensor, tf.Variable]]


class _Summing:
    """Sums gradients over replicas without a trace in TensorFlow's registry of gradients.

    Keras sums by `ReplicaContext.all_reduce`, which registers a gradient of its own for each
    graph: no graph would ever be freed, some megabytes for each trial.
    """

    def _all_reduce_sum_gradients(self, grads_and_vars: Gradients) -> Gradients:
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return grads_and_vars
        gradients, variables = zip(*grads_and_vars, strict=True)
        flat = tf.concat([tf.reshape(gradient, (-1,)) for gradient in gradients], axis=0)
        summed = tf.split(
            context.merge_call(_sum, args=(flat,)), [tf.size(gradient) for gradient in gradients]
        )
        shaped = map(tf.reshape, summed, [gradient.shape for gradient in gradients])
        return list(zip(shaped, variables, strict=True))


def _sum(strategy: tf.distribute.Strategy, value: tf.Tensor) -> tf.Tensor:
    return strategy.extended.reduce_to(tf.distribute.ReduceOp.SUM, value, value)


@keras.saving.register_keras_serializable(package="tuner")
class Adam(_Summing, keras.optimizers.Adam):  # type: ignore[misc]
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
class SGD(_Summing, keras.optimizers.SGD):  # type: ignore[misc]
    """Keras's."""


@keras.saving.register_keras_serializable(package="tuner")
class RMSprop(_Summing, keras.optimizers.RMSprop):  # type: ignore[misc]
    """Keras's."""


@keras.saving.register_keras_serializable(package="tuner")
class Adagrad(_Summing, keras.optimizers.Adagrad):  # type: ignore[misc]
    """Keras's."""


_OPTIMIZERS: Mapping[str, Callable[..., keras.optimizers.Optimizer]] = {
    "adam": Adam,
    "sgd": partial(SGD, momentum=0.9),
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
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
