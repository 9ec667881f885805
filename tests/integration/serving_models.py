"""Writes small SavedModels to serve: python -m tests.integration.serving_models FOLDER"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf


def half_plus(plus: float) -> tuple[Any, Callable[..., Any], Any]:
    """One unnamed input, as in TensorFlow Serving's own example."""
    module = tf.Module()
    module.plus = tf.Variable(plus)
    return module, lambda x: {"y": x * 0.5 + module.plus}, tf.TensorSpec([None], tf.float32, "x")


def classifier() -> tuple[Any, Callable[..., Any], Any]:
    """Raw named inputs, a table, and the outputs of tuner's own models."""
    module = tf.Module()
    pairs = tf.lookup.KeyValueTensorInitializer(tf.constant(["a", "b"]), tf.constant([1.0, 2.0]))
    module.table = tf.lookup.StaticHashTable(pairs, 0.0)

    def predict(columns: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        age = tf.cast(columns["age"], tf.float32)
        logit = tf.where(tf.math.is_nan(age), 0.0, age) / 10 + module.table.lookup(columns["job"])
        yes = tf.sigmoid(logit)
        scores = tf.stack([1 - yes, yes], axis=1)
        classes = tf.constant(["no", "yes"])
        return {
            "classes": tf.broadcast_to(classes[None], tf.shape(scores)),
            "scores": scores,
            "predicted": tf.gather(classes, tf.argmax(scores, axis=1)),
        }

    spec = {
        "age": tf.TensorSpec([None], tf.float64, "age"),
        "job": tf.TensorSpec([None], tf.string, "job"),
    }
    return module, predict, spec


def strict() -> tuple[Any, Callable[..., Any], Any]:
    """Refuses negative numbers, and with them the whole batch they are in."""

    def predict(n: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([tf.debugging.assert_non_negative(n, "it is negative")]):
            return {"root": tf.sqrt(tf.cast(n, tf.float64))}

    return tf.Module(), predict, tf.TensorSpec([None], tf.int64, "n")


def loud() -> tuple[Any, Callable[..., Any], Any]:
    """Prints what is JSON, too, where its process says that it is ready."""

    def predict(x: tf.Tensor) -> dict[str, tf.Tensor]:
        tf.print("5", output_stream=sys.stdout)
        return {"y": x}

    return tf.Module(), predict, tf.TensorSpec([None], tf.float32, "x")


def lost() -> tuple[Any, Callable[..., Any], Any]:
    """Needs a file that is not there."""
    spec = tf.TensorSpec([], tf.string, "x")
    return tf.Module(), lambda x: {"y": tf.io.read_file("/proc/nothing/" + x)}, spec


def write(folder: Path) -> None:
    """Writes the models `half` (versions 1 and 2), `clf`, `strict`, `loud` and `lost`."""
    for name, version, (module, predict, spec) in (
        ("half", 1, half_plus(2.0)),
        ("half", 2, half_plus(3.0)),
        ("clf", 7, classifier()),
        ("strict", 1, strict()),
        ("loud", 1, loud()),
        ("lost", 1, lost()),
    ):
        module.predict = tf.function(predict, input_signature=[spec])
        signatures = {"serving_default": module.predict}
        tf.saved_model.save(module, str(folder / name / str(version)), signatures=signatures)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
