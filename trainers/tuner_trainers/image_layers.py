"""Keras layers that decode images in the graph, and vary them in training."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tuner_trainers import image_headers
from tuner_trainers.layers import RawLayer


@keras.saving.register_keras_serializable(package="tuner")
class DecodeImage(RawLayer):
    """Decodes PNG and JPEG, and brings them to one size.

    The layer takes the bytes of an image, never the path of a file: a served model would read any
    file of its machine for whoever asks.

    Call: string [batch] -> uint8 [batch, height, width, channels]; 0 for what is empty or neither
    PNG nor JPEG. An image that begins as one and is not whole raises
    tf.errors.InvalidArgumentError.

    Args:
        height: of the result, in pixels.
        width: the same.
        channels: 1 for grey, 3 for colours.
    """

    output_dtype = "uint8"

    def __init__(self, height: int, width: int, channels: int = 3, **base: Any) -> None:
        super().__init__(height=height, width=width, channels=channels, **base)
        self.shape = (height, width, channels)

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """string [batch] -> uint8 [batch, height, width, channels]."""
        signature = tf.TensorSpec(self.shape, tf.uint8)
        return tf.map_fn(self.decode, images, fn_output_signature=signature)

    def compute_output_spec(self, images: keras.KerasTensor, **_: Any) -> keras.KerasTensor:
        """The shape and dtype of the output."""
        return keras.KerasTensor((images.shape[0], *self.shape), dtype="uint8")

    def decode(self, image: tf.Tensor) -> tf.Tensor:
        """One image: string [] -> uint8 [height, width, channels]."""
        begins = [
            tf.strings.substr(image, 0, len(start)) == start
            for start in (image_headers.PNG, image_headers.JPEG)
        ]
        return tf.cond(
            tf.reduce_any(begins),
            lambda: self._resized(image),
            lambda: tf.zeros(self.shape, tf.uint8),
        )

    def _resized(self, image: tf.Tensor) -> tf.Tensor:
        pixels = tf.io.decode_image(image, self.shape[2], expand_animations=False)
        size = tf.shape(pixels)[:2]
        resized = tf.cond(
            tf.reduce_all(size == self.shape[:2]),
            lambda: pixels,
            lambda: tf.saturate_cast(
                tf.round(tf.image.resize(pixels, self.shape[:2], antialias=True)), tf.uint8
            ),
        )
        return tf.ensure_shape(resized, self.shape)


@keras.saving.register_keras_serializable(package="tuner")
class Augment(keras.layers.Layer):  # type: ignore[misc]
    """Flips, shifts and turns images at random in training, all by one resampling.

    Call: float32 [batch, height, width, channels] -> the same; outside of training as it is.
    What comes in from beyond an image's border is as the border is.

    Args:
        flip: "none", "horizontal", "vertical" or "both".
        shift: the part of a side by which an image is shifted, at most.
        rotation: the degrees by which it is turned, at most.
    """

    def __init__(self, flip: str, shift: float, rotation: float, **base: Any) -> None:
        # TensorFlow resamples no images of bfloat16.
        super().__init__(**{"dtype": "float32", **base})
        self.flip, self.shift, self.rotation = flip, shift, rotation
        self.generator = keras.random.SeedGenerator()

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """float32 [batch, height, width, channels] -> the same."""
        if not training:
            return images
        shape = tf.shape(images)
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=images,
            transforms=self._transforms(shape[0], images.shape[1], images.shape[2]),
            output_shape=shape[1:3],
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="NEAREST",
        )

    def compute_output_spec(self, images: keras.KerasTensor, **_: Any) -> keras.KerasTensor:
        """The shape and dtype of the output."""
        return keras.KerasTensor(images.shape, dtype=images.dtype)

    def get_config(self) -> dict[str, Any]:
        """The layer's state, from which it can be built again."""
        names = ("flip", "shift", "rotation")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

    def _transforms(self, count: tf.Tensor, height: int, width: int) -> tf.Tensor:
        """float32 [count, 8]: where the pixel that each place of the result gets comes from.

        A place (x, y) relative to the centre comes from R S (x, y) + t: a rotation of a
        reflection, shifted.
        """
        drawn = keras.random.uniform((count, 5), -1.0, 1.0, seed=self.generator)
        angle = drawn[:, 0] * (self.rotation * np.pi / 180)
        cosine, sine = tf.cos(angle), tf.sin(angle)
        across = tf.sign(drawn[:, 1]) if self.flip in ("horizontal", "both") else 1.0
        down = tf.sign(drawn[:, 2]) if self.flip in ("vertical", "both") else 1.0
        x, y = (width - 1) / 2, (height - 1) / 2
        a, b, c, d = cosine * across, -sine * down, sine * across, cosine * down
        right = x - a * x - b * y + drawn[:, 3] * self.shift * width
        below = y - c * x - d * y + drawn[:, 4] * self.shift * height
        zeros = tf.zeros_like(angle)
        return tf.stack([a, b, right, c, d, below, zeros, zeros], axis=1)
