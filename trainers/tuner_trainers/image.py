"""The image trainer's network: convolutions over images, and dense layers over all features."""

from __future__ import annotations

from collections.abc import Mapping

import keras

from tuner.space import Value
from tuner_trainers.image_layers import Augment
from tuner_trainers.images import ImageFeature
from tuner_trainers.preprocessing import Encoder, image_name
from tuner_trainers.tabular import dense, encoded, together

#: Each convolution has twice the filters of the one before, up to this many.
_MOST_FILTERS = 512
#: How pixels are scaled: the factor, and what is added then.
_SCALINGS = {"unit": (1 / 255, 0.0), "signed": (2 / 255, -1.0)}


def build_network(encoder: Encoder, parameters: Mapping[str, Value], units: int) -> keras.Model:
    """Builds the network of a trial.

    Args:
        encoder: the preprocessing whose outputs it takes.
        parameters: the trainer's effective parameters.
        units: how many outputs it has.

    Returns:
        A model from the encoder's outputs to float32 [batch, units], without an activation.
    """
    inputs, parts = encoded(encoder)
    for index, image in enumerate(encoder.images):
        parts.append(_seen(inputs[image_name(index)], image, parameters))
    return keras.Model(inputs, dense(together(parts), parameters, units), name="image")


def _seen(
    pixels: keras.KerasTensor, image: ImageFeature, parameters: Mapping[str, Value]
) -> keras.KerasTensor:
    """uint8 [batch, height, width, channels] -> float32 [batch, what the convolutions found]."""
    seen = keras.layers.Rescaling(*_SCALINGS[image.scaling])(pixels)
    flip, shift = str(parameters["flip"]), float(parameters["shift"])
    rotation = float(parameters["rotation"])
    if flip != "none" or shift or rotation:
        seen = Augment(flip, shift, rotation)(seen)
    filters, stride = int(parameters["filters"]), int(parameters["stride"])
    for _ in range(int(parameters["blocks"])):
        seen = keras.layers.Conv2D(
            filters,
            int(parameters["kernel"]),
            strides=stride,
            padding="same",
            activation=str(parameters["activation"]),
            kernel_initializer="he_normal",
        )(seen)
        if stride == 1:
            seen = keras.layers.MaxPooling2D(2, padding="same")(seen)
        filters = max(filters, min(2 * filters, _MOST_FILTERS))
    match parameters["pooling"]:
        case "mean":
            return keras.layers.GlobalAveragePooling2D()(seen)
        case "max":
            return keras.layers.GlobalMaxPooling2D()(seen)
    return keras.layers.Flatten()(seen)
