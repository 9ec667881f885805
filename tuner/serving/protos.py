"""The calls of TensorFlow Serving's gRPC API, to arrays and back, where TensorFlow is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from tensorflow.core.example import example_pb2
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from tuner.errors import FailedPreconditionError, InvalidArgumentError
from tuner.serving import examples, json_tensors
from tuner.serving.signature import DTYPES, Signature, Tensor
from tuner.v1 import tensorflow_serving_pb2 as pb
from tuner_trainers import warmup

Array = npt.NDArray[Any]
Find = Callable[[str], Signature]
#: A signature, its inputs, and how to write what it gives for them.
Call = tuple[Signature, Mapping[str, Array], Callable[[Mapping[str, Array]], bytes]]


@dataclass(frozen=True, slots=True)
class _Values:
    """How a TensorProto holds the values of a type."""

    number: int
    field: str
    dtype: np.dtype[Any]

    @property
    def has_content(self) -> bool:
        """Whether they may come as the bytes of an array."""
        return self.dtype != np.object_


#: Of the types that inputs and outputs mostly have.
_VALUES = {
    name: _Values(types_pb2.DataType.Value(name), field, np.dtype(DTYPES[name][1]))
    for name, field in {
        "DT_FLOAT": "float_val",
        "DT_DOUBLE": "double_val",
        "DT_INT32": "int_val",
        "DT_INT64": "int64_val",
        "DT_STRING": "string_val",
    }.items()
}
#: How many values a tensor may have that are not sent one by one.
_MOST_REPEATED = 2**20
_OF_ARRAYS = {values.dtype: values for values in _VALUES.values()}

#: In the type of an `Any`; the message is `SignatureDefMap`, with a map as its only field.
_SIGNATURES_URL = "type.googleapis.com/tensorflow.serving.SignatureDefMap"


def read_predict(body: bytes, find: Find) -> Call:
    """Reads a `PredictRequest`.

    Raises:
        InvalidArgumentError: it cannot be read, or does not fit the signature.
        FailedPreconditionError: there is no such signature.
    """
    request = _parsed(pb.PredictRequest, body)
    try:
        signature = find(request.model_spec.signature_name)
    except InvalidArgumentError:
        key = request.model_spec.signature_name
        raise FailedPreconditionError(f'Serving signature key "{key}" not found.') from None
    _check_names(request.inputs.keys(), signature)
    inputs = {name: _array(name, tensor, signature) for name, tensor in request.inputs.items()}
    wanted = list(request.output_filter)
    for name in wanted:
        if name not in signature.outputs:
            raise InvalidArgumentError(
                f"output tensor alias not found in signature: {name} Outputs expected to be in "
                f"the set {{{','.join(signature.outputs)}}}."
            )
    if len(set(wanted)) < len(wanted):
        raise InvalidArgumentError("duplicate output tensor alias in `output_filter`.")
    return signature, inputs, partial(_write_predict, wanted=wanted)


def read_classify(body: bytes, find: Find) -> Call:
    """Reads a `ClassificationRequest`; raises InvalidArgumentError."""
    return *_read_examples(body, find), _write_classify


def read_regress(body: bytes, find: Find) -> Call:
    """Reads a `RegressionRequest`; raises InvalidArgumentError."""
    return *_read_examples(body, find), _write_regress


def metadata(body: bytes, meta_graph: meta_graph_pb2.MetaGraphDef) -> bytes:
    """Answers a `GetModelMetadataRequest`; raises InvalidArgumentError."""
    request = _parsed(pb.GetModelMetadataRequest, body)
    if not request.metadata_field:
        raise InvalidArgumentError(
            "GetModelMetadataRequest must specify at least one metadata_field"
        )
    for field in request.metadata_field:
        if field != "signature_def":
            raise InvalidArgumentError(f"Metadata field {field} is not supported")
    # A MetaGraphDef has the same map in its fifth field, a SignatureDefMap in its first.
    entries = b"".join(
        warmup.field(
            1, warmup.field(1, name.encode()) + warmup.field(2, definition.SerializeToString())
        )
        for name, definition in sorted(meta_graph.signature_def.items())
    )
    response = pb.GetModelMetadataResponse()
    found = AnyMessage(type_url=_SIGNATURES_URL, value=entries)
    response.metadata["signature_def"].CopyFrom(found)
    return response.SerializeToString()


def to_json(body: bytes) -> bytes:
    """The JSON that answers a request with rows as a `PredictResponse` does.

    Raises:
        InvalidArgumentError: it cannot be written so.
    """
    response = _parsed(pb.PredictResponse, body)
    outputs = {
        name: tf.make_ndarray(tensor_pb2.TensorProto.FromString(tensor))
        for name, tensor in sorted(response.outputs.items())
    }
    return json_tensors.write_predict(outputs, in_rows=True)


def _parsed(kind: type[Any], body: bytes) -> Any:
    try:
        message: Message = kind.FromString(body)
    except DecodeError:
        raise InvalidArgumentError("the request cannot be read.") from None
    return message


def _check_names(names: Any, signature: Signature) -> None:
    sent, expected = set(names), set(signature.inputs)
    if sent != expected:
        raise InvalidArgumentError(
            f"input size does not match signature: {len(sent)}!={len(expected)} "
            f"len({{{','.join(sorted(sent))}}}) != len({{{','.join(sorted(expected))}}}). Sent "
            f"extra: {{{','.join(sorted(sent - expected))}}}. Missing but required: "
            f"{{{','.join(sorted(expected - sent))}}}."
        )


def _plain_array(proto: tensor_pb2.TensorProto, expected: Tensor) -> Array | None:
    """What `tf.make_ndarray` gives, in a tenth of its time; None for what is rare."""
    values = _VALUES.get(expected.dtype)
    if values is None or proto.dtype != values.number:
        return None
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_content and values.has_content:
        return np.frombuffer(proto.tensor_content, values.dtype).copy().reshape(shape)
    found = getattr(proto, values.field)
    if proto.tensor_content or len(found) != math.prod(shape):
        return None
    return np.array(list(found), values.dtype).reshape(shape)


def _proto(array: Array) -> bytes:
    """What `tf.make_tensor_proto` gives, in a tenth of its time, serialized."""
    values = _OF_ARRAYS.get(array.dtype)
    if values is None or (values.has_content and array.size < 2):
        made = tf.make_tensor_proto(array)
    else:
        made = tensor_pb2.TensorProto(dtype=values.number)
        # A scalar has a shape, too, one without dimensions.
        made.tensor_shape.SetInParent()
        for size in array.shape:
            made.tensor_shape.dim.add(size=size)
        if values.has_content:
            made.tensor_content = array.tobytes()
        else:
            made.string_val.extend(array.ravel().tolist())
    serialized: bytes = made.SerializeToString()
    return serialized


def _array(name: str, body: bytes, signature: Signature) -> Array:
    expected = signature.inputs[name]
    try:
        proto = tensor_pb2.TensorProto.FromString(body)
        size = math.prod(dim.size for dim in proto.tensor_shape.dim)
        # A single value may stand for all of them.
        if size > max(_MOST_REPEATED, len(body)):
            raise ValueError(f"it has {size} values; send less at once.")
        array = _plain_array(proto, expected)
        if array is None:
            array = tf.make_ndarray(proto)
    except (DecodeError, ValueError, TypeError) as error:
        raise InvalidArgumentError(f"the tensor {name} cannot be read: {error}") from None
    if proto.dtype != types_pb2.DataType.Value(expected.dtype):
        sent = tf.dtypes.as_dtype(proto.dtype).name
        raise InvalidArgumentError(
            f"the input {name} has type {sent}, but the model takes {expected.type_name}."
        )
    return array


def _write_predict(outputs: Mapping[str, Array], wanted: Sequence[str]) -> bytes:
    response = pb.PredictResponse()
    for name in wanted or outputs:
        response.outputs[name] = _proto(outputs[name])
    return response.SerializeToString()


def _read_examples(body: bytes, find: Find) -> tuple[Signature, dict[str, Array]]:
    request = _parsed(pb.ExampleRequest, body)
    signature = find(request.model_spec.signature_name)
    kind = request.input.WhichOneof("kind")
    if kind is None:
        raise InvalidArgumentError("Input is empty.")
    listed = getattr(request.input, kind)
    if not listed.examples:
        raise InvalidArgumentError("Input is empty.")
    context = _features(listed.context) if kind == "example_list_with_context" else {}
    rows = [{**context, **_features(example)} for example in listed.examples]
    return signature, examples.of_features(rows, signature)


def _features(body: bytes) -> dict[str, list[Any]]:
    example = _parsed(example_pb2.Example, body)
    features: dict[str, list[Any]] = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        features[name] = list(getattr(feature, kind).value) if kind else []
    return features


def _write_classify(outputs: Mapping[str, Array]) -> bytes:
    response = pb.ClassificationResponse()
    for row in examples.classifications(outputs):
        classes = response.result.classifications.add().classes
        for label, score in row:
            classes.add(label=label, score=score)
    return response.SerializeToString()


def _write_regress(outputs: Mapping[str, Array]) -> bytes:
    response = pb.RegressionResponse()
    for value in examples.regressions(outputs).tolist():
        response.result.regressions.add(value=value)
    return response.SerializeToString()
