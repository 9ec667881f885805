"""A trial's model: preprocessing, network and head, from raw columns to predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tuner.errors import InvalidArgumentError
from tuner.space import Value
from tuner.trainer_spaces import effective_parameters
from tuner_trainers import built, image, own, tabular, text
from tuner_trainers.context import TrialTask
from tuner_trainers.declared import Callback
from tuner_trainers.heads import head_of
from tuner_trainers.preprocessing import Encoder, build_encoder
from tuner_trainers.statistics import Statistics
from tuner_trainers.target import Target

#: Rows that are predicted at once, and what the outputs of one layer may take.
CHUNK_ROWS, CHUNK_BYTES = 8192, 128 << 20

_NETWORKS: Mapping[str, Callable[[Encoder, Mapping[str, Value], int], keras.Model]] = {
    "tabular": tabular.build_network,
    "image": image.build_network,
    "text": text.build_network,
}

Forward = Callable[[Mapping[str, tf.Tensor]], npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The parts of a trial's model and the trainer's effective parameters."""

    encoder: Encoder
    network: keras.Model
    target: Target
    parameters: Mapping[str, Value]
    #: The user's own, called after each epoch.
    callbacks: Sequence[Callback] = ()

    def after_epoch(self, epoch: int) -> Mapping[str, float]:
        """Calls the user's callbacks; returns what they give."""
        given: dict[str, float] = {}
        for callback in self.callbacks:
            numbers = callback(epoch, self.network)
            if numbers is not None and not isinstance(numbers, Mapping):
                raise InvalidArgumentError(
                    "what is called after an epoch returns None or a mapping from names to "
                    f"numbers, but got {numbers!r:.200}."
                )
            given |= {str(name): float(number) for name, number in (numbers or {}).items()}
        return given

    @property
    def rows_at_once(self) -> int:
        """How many rows are predicted together, so that what layers give fits into memory."""
        widest: int = max(math.prod(layer.output.shape[1:]) for layer in self.network.layers)
        return max(1, min(CHUNK_ROWS, CHUNK_BYTES // (4 * widest)))

    def forward(self) -> Forward:
        """A function from encoded rows to predictions, traced once."""
        head, size = head_of(self.target), self.rows_at_once
        specs = {
            name: tf.TensorSpec(tensor.shape, tensor.dtype)
            for name, tensor in self.network.input.items()
        }

        @tf.function(input_signature=[specs], autograph=False)  # type: ignore[untyped-decorator]
        def predict(inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
            return head(self.network(inputs, training=False))

        def forward(inputs: Mapping[str, tf.Tensor]) -> npt.NDArray[np.float32]:
            rows = next(iter(inputs.values())).shape[0]
            parts = [
                predict({name: t[start : start + size] for name, t in inputs.items()}).numpy()
                for start in range(0, max(rows, 1), size)
            ]
            return np.concatenate(parts)

        return forward

    def serving(self) -> keras.Model:
        """The whole as one Keras model: raw columns, in the encoder's order, to predictions."""
        inputs = self.encoder.model.inputs
        outputs = head_of(self.target)(self.network(self.encoder.model(inputs)))
        return keras.Model(inputs, outputs, name="model")


def build_model(
    task: TrialTask,
    statistics: Statistics,
    target: Target,
    strategy: tf.distribute.Strategy | None = None,
) -> Model:
    """Builds the model of a trial; the network's variables lie in the strategy's scope."""
    parameters = effective_parameters(task.trainer, task.settings, task.parameters)
    encoder = build_encoder(task.features, task.parameters, statistics, task.data.missing_values)
    with (strategy or tf.distribute.get_strategy()).scope():
        network, callbacks = _network(task, encoder, parameters, target)
    return Model(
        encoder=encoder,
        network=network,
        target=target,
        parameters=parameters,
        callbacks=callbacks,
    )


def trained_model(task: TrialTask, model: Model, strategy: tf.distribute.Strategy) -> Model:
    """Another model with the values of `model`, for training.

    It computes in the trial's precision, and its variables lie in the strategy's scope, which may
    be on other machines.
    """
    with _precision(str(model.parameters["precision"])), strategy.scope():
        network, callbacks = _network(task, model.encoder, model.parameters, model.target)
    for variable, value in zip(network.variables, model.network.variables, strict=True):
        variable.assign(value.numpy())
    return replace(model, network=network, callbacks=callbacks)


def _network(
    task: TrialTask, encoder: Encoder, parameters: Mapping[str, Value], target: Target
) -> tuple[keras.Model, Sequence[Callback]]:
    if task.trainer in _NETWORKS:
        return _NETWORKS[task.trainer](encoder, parameters, target.units), ()
    with own.found(task.trainer, task.code, Path(task.artifacts)) as build:
        return built.build_network(build, encoder, parameters, target.units)


@contextmanager
def _precision(policy: str) -> Iterator[None]:
    """Layers that are made meanwhile compute in it."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
