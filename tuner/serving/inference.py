"""The JSON of the Open Inference Protocol, version 2, as KServe and Triton speak it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tuner.errors import InvalidArgumentError
from tuner.serving import json_tensors
from tuner.serving.signature import DTYPES, Signature, Tensor

Array = npt.NDArray[Any]

_TYPES = {
    "DT_BOOL": "BOOL",
    "DT_UINT8": "UINT8",
    "DT_UINT16": "UINT16",
    "DT_UINT32": "UINT32",
    "DT_UINT64": "UINT64",
    "DT_INT8": "INT8",
    "DT_INT16": "INT16",
    "DT_INT32": "INT32",
    "DT_INT64": "INT64",
    "DT_HALF": "FP16",
    "DT_FLOAT": "FP32",
    "DT_DOUBLE": "FP64",
    "DT_STRING": "BYTES",
}
#: The same by the names of NumPy's types.
_OF_ARRAYS = {np.dtype(DTYPES[dtype][1]).name: name for dtype, name in _TYPES.items()}


def read(
    body: bytes, find: Callable[[str], Signature]
) -> tuple[Signature, dict[str, Array], Callable[[Mapping[str, Array]], bytes]]:
    """Reads the body of an `infer` request: the signature, its inputs, and how to answer.

    Raises:
        InvalidArgumentError: it is not JSON, or not what the signature takes.
    """
    document = json_tensors.parse(body)
    signature = find("")
    sent = _named(document.get("inputs"), "inputs")
    if sent.keys() != signature.inputs.keys():
        raise InvalidArgumentError(
            f"the model takes the inputs {', '.join(signature.inputs)}, but got "
            f"{', '.join(sent) or 'none'}."
        )
    inputs = {name: _array(sent[name], tensor) for name, tensor in signature.inputs.items()}
    wanted = list(_named(document["outputs"], "outputs")) if document.get("outputs") else None
    for name in wanted or ():
        if name not in signature.outputs:
            raise InvalidArgumentError(
                f"the model has no output {name!r}; it has {', '.join(signature.outputs)}."
            )
    number = document.get("id", "")
    if type(number) is not str:
        raise InvalidArgumentError("`id` is a string.")
    return signature, inputs, partial(_write, number=number, wanted=wanted)


def describe(signature: Signature) -> bytes:
    """What a model takes and gives: the `inputs` and `outputs` of its metadata."""
    document = {
        "platform": "tensorflow_savedmodel",
        "inputs": list(map(_described, signature.inputs.values())),
        "outputs": list(map(_described, signature.outputs.values())),
    }
    return json.dumps(document).encode()


def _described(tensor: Tensor) -> dict[str, Any]:
    shape = [-1 if size is None else size for size in tensor.shape or (None,)]
    kind = _TYPES.get(tensor.dtype, tensor.dtype)
    return {"name": tensor.name, "datatype": kind, "shape": shape}


def _named(items: Any, key: str) -> dict[str, dict[str, Any]]:
    if type(items) is not list or not all(type(each) is dict for each in items):
        raise InvalidArgumentError(f"`{key}` is a list of objects.")
    named = {each.get("name"): each for each in items}
    if len(named) < len(items) or not all(type(name) is str for name in named):
        raise InvalidArgumentError(f"each of `{key}` has a `name` of its own.")
    return named


def _array(sent: Mapping[str, Any], tensor: Tensor) -> Array:
    shape, kind = sent.get("shape"), _TYPES.get(tensor.dtype, tensor.dtype)
    if sent.get("datatype") != kind:
        raise InvalidArgumentError(
            f"the input {tensor.name!r} has the datatype {kind}, but got {sent.get('datatype')!r}."
        )
    if type(shape) is not list or not all(type(size) is int and size >= 0 for size in shape):
        raise InvalidArgumentError(f"the `shape` of {tensor.name!r} is a list of sizes.")
    if len(shape) > json_tensors.MOST_DIMENSIONS:
        raise InvalidArgumentError(f"the `shape` of {tensor.name!r} has too many dimensions.")
    if type(sent.get("data")) is not list:
        raise InvalidArgumentError(f"the `data` of {tensor.name!r} is a list.")
    try:
        leaves = list(_flat(sent["data"]))
    except RecursionError:
        raise InvalidArgumentError(f"the `data` of {tensor.name!r} is nested too deep.") from None
    # Nested or flat, in the same order.
    return json_tensors.of_leaves(leaves, tuple(shape), tensor)


def _flat(values: list[Any]) -> Iterator[Any]:
    for value in values:
        if type(value) is list:
            yield from _flat(value)
        else:
            yield value


def _write(outputs: Mapping[str, Array], number: str, wanted: list[str] | None) -> bytes:
    written = [_output(name, outputs[name]) for name in wanted or outputs]
    identity = f'"id": {json_tensors.text(number)}, ' if number else ""
    return f'{identity}"outputs": [{", ".join(written)}]'.encode()


def _output(name: str, array: Array) -> str:
    if array.dtype == np.object_:
        values = [json_tensors.text(_text(value)) for value in array.ravel().tolist()]
    else:
        values = json_tensors.literals(name, array)
    return (
        f'{{"name": {json_tensors.text(name)}, "datatype": "{_OF_ARRAYS[array.dtype.name]}", '
        f'"shape": {list(array.shape)}, "data": [{", ".join(values)}]}}'
    )


def _text(value: bytes) -> str:
    """A string as it is; what is none, in base 64."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode()
