"""The text trainer's network: tokens, pooled or convolved, and dense layers over all features."""

from __future__ import annotations

from collections.abc import Mapping

import keras

from tuner.space import Value
from tuner_trainers.bags import Pooling, Vectors
from tuner_trainers.preprocessing import Encoder
from tuner_trainers.tabular import dense, encoded, together
from tuner_trainers.texts import BagFeature


def build_network(encoder: Encoder, parameters: Mapping[str, Value], units: int) -> keras.Model:
    """Builds the network of a trial.

    Args:
        encoder: the preprocessing whose outputs it takes.
        parameters: the trainer's effective parameters.
        units: how many outputs it has.

    Returns:
        A model from the encoder's outputs to float32 [batch, units], without an activation.
    """

    def read(bag: BagFeature, ids: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return _read(bag, ids, name, parameters)

    inputs, parts = encoded(encoder, read)
    return keras.Model(inputs, dense(together(parts), parameters, units), name="text")


def _read(
    bag: BagFeature, ids: keras.KerasTensor, name: str, parameters: Mapping[str, Value]
) -> keras.KerasTensor:
    """int32 [batch, length] -> float32 [batch, what was found]."""
    read = Vectors.over(bag, bag.embedding, name=f"embedding_{name}")(ids)
    for _ in range(int(parameters["convolutions"])):
        read = keras.layers.Conv1D(
            int(parameters["filters"]),
            int(parameters["kernel"]),
            padding="same",
            activation=str(parameters["activation"]),
        )(read)
    return Pooling(bag.pooling, bag.weights)([ids, read])
