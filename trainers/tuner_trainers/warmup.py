"""Warm-up requests: what TensorFlow Serving predicts with a version before it serves it.

A TFRecord file of tensorflow.serving.PredictionLog. These messages ship with TensorFlow Serving's
API, which is not needed here: the few fields that a request has are written by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import tensorflow as tf

from tuner_trainers.layout import SIGNATURE

Tensors = Mapping[str, tf.Tensor]

# The numbers of fields, from prediction_log.proto, predict.proto and model.proto.
_PREDICT_LOG, _REQUEST = 6, 1
_MODEL_SPEC, _INPUTS = 1, 2
_NAME, _SIGNATURE_NAME = 1, 3
_KEY, _VALUE = 1, 2
#: What says in a field's tag that its length stands before it.
_DELIMITED = 2


def write(path: Path, model: str, requests: Iterable[Tensors]) -> None:
    """Writes requests.

    Args:
        path: the file.
        model: the name of the model.
        requests: the inputs of each by name, of the signature `serving_default`.
    """
    with tf.io.TFRecordWriter(str(path)) as writer:
        for inputs in requests:
            writer.write(prediction_log(model, inputs))


def prediction_log(model: str, inputs: Tensors) -> bytes:
    """A PredictionLog with one PredictRequest."""
    spec = field(_NAME, model.encode()) + field(_SIGNATURE_NAME, SIGNATURE.encode())
    request = field(_MODEL_SPEC, spec)
    for name, tensor in inputs.items():
        value = tf.make_tensor_proto(tensor).SerializeToString()
        entry = field(_KEY, name.encode()) + field(_VALUE, value)
        request += field(_INPUTS, entry)
    return field(_PREDICT_LOG, field(_REQUEST, request))


def field(number: int, body: bytes) -> bytes:
    """A field of bytes of a protocol buffer, as it is on the wire."""
    return _varint(number << 3 | _DELIMITED) + _varint(len(body)) + body


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
