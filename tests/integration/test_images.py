"""Images: decoded, brought to one size and scaled in the graph."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from tuner_trainers.image_layers import DecodeImage

GREY = np.arange(0, 240, 4, dtype=np.uint8).reshape(6, 10, 1)
COLOURS: npt.NDArray[np.uint8] = np.stack(
    [np.full((4, 4), level, np.uint8) for level in (255, 0, 128)], axis=-1
)


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    encoded: bytes = tf.io.encode_png(pixels).numpy()
    return encoded


def test_values_are_those_of_the_image() -> None:
    found = DecodeImage(6, 10, 1, "none")(tf.constant([png(GREY)])).numpy()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, GREY[None])


@pytest.mark.parametrize(("scaling", "low", "high"), [("unit", 0.0, 1.0), ("signed", -1.0, 1.0)])
def test_values_are_scaled(scaling: str, low: float, high: float) -> None:
    found = DecodeImage(4, 4, 3, scaling)(tf.constant([png(COLOURS)])).numpy()
    np.testing.assert_allclose(
        found[0, 0, 0], [high, low, low + (high - low) * 128 / 255], atol=1e-6
    )


def test_images_of_any_size_and_kind_come_to_one(tmp_path: Path) -> None:
    jpeg = tf.io.encode_jpeg(np.full((30, 20, 3), 100, np.uint8)).numpy()
    found = DecodeImage(5, 7, 3)(tf.constant([png(GREY), png(COLOURS), jpeg])).numpy()
    assert found.shape == (3, 5, 7, 3)
    np.testing.assert_allclose(found[1, :, :, 0], 1.0, rtol=1e-5)
    np.testing.assert_allclose(found[2], 100 / 255, atol=0.02)


def test_what_is_no_image_is_zero() -> None:
    found = DecodeImage(2, 3, 1)(tf.constant([b"", b"/etc/passwd", b"GIF89a", png(GREY)])).numpy()
    assert not found[:3].any() and found[3].any()


def test_half_an_image_is_an_error() -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        DecodeImage(2, 3, 1)(tf.constant([png(GREY)[:40]]))


def test_a_saved_model_decodes_the_same(tmp_path: Path) -> None:
    raw = keras.Input((), dtype="string")
    model = keras.Model(raw, DecodeImage(5, 7, 3, "signed")(raw))
    assert model.output_shape == (None, 5, 7, 3)
    model.export(str(tmp_path / "model"), verbose=False)
    images = tf.constant([png(COLOURS), b"", png(GREY)])
    served = tf.saved_model.load(str(tmp_path / "model")).serve(images)
    np.testing.assert_array_equal(served, model(images))


def test_digits(shared_data: Path) -> None:
    table = pq.read_table(shared_data / "mnist" / "test.parquet").slice(0, 50)
    found = DecodeImage(28, 28, 1)(tf.constant(table["image"].to_pylist())).numpy()
    assert found.shape == (50, 28, 28, 1) and 0.1 < found.mean() < 0.2 and found.max() == 1.0
