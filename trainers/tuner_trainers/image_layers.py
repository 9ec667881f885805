"""The Keras layer that decodes images in the graph."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tuner_trainers.layers import RawLayer

#: How PNG and JPEG begin; what begins otherwise is no image.
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
#: By what the values 0 to 255 are multiplied, and what is added then.
_SCALINGS = {"none": (1.0, 0.0), "unit": (1 / 255, 0.0), "signed": (2 / 255, -1.0)}


@keras.saving.register_keras_serializable(package="tuner")
class DecodeImage(RawLayer):
    """Decodes PNG and JPEG, and brings them to one size.

    The layer takes the bytes of an image, never the path of a file: a served model would read any
    file of its machine for whoever asks.

    Call: string [batch] -> float32 [batch, height, width, channels]; 0, before it is scaled, for
    what is empty or neither PNG nor JPEG. An image that begins as one and is not whole raises
    tf.errors.InvalidArgumentError.

    Args:
        height: of the result, in pixels.
        width: the same.
        channels: 1 for grey, 3 for colours.
        scaling: "unit" makes values from 0 to 1, "signed" from -1 to 1, "none" from 0 to 255.
    """

    output_dtype = "float32"

    def __init__(
        self, height: int, width: int, channels: int = 3, scaling: str = "unit", **base: Any
    ) -> None:
        super().__init__(height=height, width=width, channels=channels, scaling=scaling, **base)
        self.height, self.width, self.channels = height, width, channels
        self.factor, self.offset = _SCALINGS[scaling]

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """string [batch] -> float32 [batch, height, width, channels]."""
        shape = (self.height, self.width, self.channels)
        decoded = tf.map_fn(
            self._decoded, images, fn_output_signature=tf.TensorSpec(shape, tf.float32)
        )
        return decoded * self.factor + self.offset

    def compute_output_spec(self, images: keras.KerasTensor, **_: Any) -> keras.KerasTensor:
        """The shape and dtype of the output."""
        shape = (images.shape[0], self.height, self.width, self.channels)
        return keras.KerasTensor(shape, dtype="float32")

    def _decoded(self, image: tf.Tensor) -> tf.Tensor:
        """string [] -> float32 [height, width, channels]."""
        begins = [tf.strings.substr(image, 0, len(start)) == start for start in _SIGNATURES]
        return tf.cond(
            tf.reduce_any(begins),
            lambda: self._resized(image),
            lambda: tf.zeros((self.height, self.width, self.channels)),
        )

    def _resized(self, image: tf.Tensor) -> tf.Tensor:
        pixels = tf.io.decode_image(image, self.channels, expand_animations=False)
        pixels = tf.image.resize(pixels, (self.height, self.width), antialias=True)
        return tf.ensure_shape(pixels, (self.height, self.width, self.channels))
