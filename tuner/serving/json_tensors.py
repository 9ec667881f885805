"""The JSON of TensorFlow Serving's REST API, to arrays and back.

It behaves as TensorFlow Serving's own code does (`util/json_tensor.cc`), whatever its
documentation says: which documents it takes, what it says of others, and how answers are written.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tuner.errors import InvalidArgumentError, UnimplementedError
from tuner.serving.signature import DTYPES, Signature, Tensor

Array = npt.NDArray[Any]

_DECODER = json.JSONDecoder()
#: `json.dumps` makes one for each call.
_ENCODER = json.JSONEncoder(ensure_ascii=False)
_B64 = "b64"
_BYTES = "_bytes"
#: Of a value that is at fault, so much is shown.
_SHOWN = 200
_KINDS = {
    dict: "Object",
    list: "Array",
    str: "String",
    bytes: "String",
    int: "Number",
    float: "Number",
    type(None): "Null",
}
#: The whole numbers up to which floating types have them all, and the largest that they have.
_EXACT = {"DT_HALF": 2**11, "DT_FLOAT": 2**24 - 1, "DT_DOUBLE": 2**53 - 1}
_MOST = {name: float(np.finfo(DTYPES[name][1]).max) for name in _EXACT}
_MISSING: Mapping[str, Any] = {"DT_STRING": "", "DT_DOUBLE": math.nan, "DT_FLOAT": math.nan}
_INDENT = "    "

#: How many a tensor of a request may have; NumPy takes two more.
MOST_DIMENSIONS = 62


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictRequest:
    """What a client wants predicted."""

    #: The name of the signature that was asked for, maybe the default.
    signature: Signature
    inputs: Mapping[str, Array]
    #: Whether it came, and is answered, in rows; else in columns.
    in_rows: bool


def read_predict(body: bytes, find: Callable[[str], Signature]) -> PredictRequest:
    """Reads the body of a `:predict` request.

    Args:
        body: The JSON; what follows the first value is ignored.
        find: Gives the signature of a name, empty for the default; raises InvalidArgumentError.

    Raises:
        InvalidArgumentError: it is not JSON, or not what the signature takes.
    """
    document = parse(body)
    signature = find(signature_name(document))
    if not signature.inputs:
        raise InvalidArgumentError(
            f"Failed to get input map for signature: {signature.name or 'DEFAULT'}"
        )
    if "instances" in document:
        if "inputs" in document:
            raise InvalidArgumentError(
                f"JSON Value: {_shown(document)} Not formatted correctly expecting only one of "
                "'inputs' or 'instances' keys to exist "
            )
        rows = document["instances"]
        if type(rows) is not list:
            raise InvalidArgumentError(
                f"JSON Value: {_shown(document)} Excepting 'instances' to be an list/array"
            )
        if not rows:
            raise InvalidArgumentError(
                f"JSON Value: {_shown(document)} No values in 'instances' array"
            )
        return PredictRequest(signature=signature, inputs=_of_rows(rows, signature), in_rows=True)
    if "inputs" in document:
        inputs = _of_columns(document["inputs"], signature)
        return PredictRequest(signature=signature, inputs=inputs, in_rows=False)
    raise InvalidArgumentError("Missing 'inputs' or 'instances' key")


def write_predict(outputs: Mapping[str, Array], *, in_rows: bool) -> bytes:
    """Writes the answer to a `:predict` request.

    Raises:
        InvalidArgumentError: the outputs cannot be written in rows, or have a type that JSON
            does not carry.
    """
    if not outputs:
        raise InvalidArgumentError("Cannot convert empty tensor map to JSON")
    named = sorted(outputs.items())
    return (_in_rows(named) if in_rows else _in_columns(named)).encode()


def parse(body: bytes) -> dict[str, Any]:
    """Reads a JSON object; what follows it is ignored. Raises InvalidArgumentError."""
    try:
        document_text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(
            f"JSON Parse error: Invalid encoding in string. at offset: {error.start}"
        ) from None
    start = len(document_text) - len(document_text.lstrip(" \t\r\n"))
    if start == len(document_text):
        raise InvalidArgumentError("JSON Parse error: The document is empty")
    try:
        document, _ = _DECODER.raw_decode(document_text, start)
    except json.JSONDecodeError as error:
        raise InvalidArgumentError(
            f"JSON Parse error: {error.msg}. at offset: {error.pos}"
        ) from None
    except RecursionError:
        raise InvalidArgumentError("JSON Parse error: The document is nested too deep.") from None
    except ValueError:  # a whole number with thousands of digits
        raise InvalidArgumentError("JSON Parse error: Number too big to be stored.") from None
    if type(document) is not dict:
        raise InvalidArgumentError(f"JSON Value: {_shown(document)} Is not object")
    return document


def signature_name(document: Mapping[str, Any]) -> str:
    """The signature that a request names, empty for the default; raises InvalidArgumentError."""
    name = document.get("signature_name", "")
    if type(name) is not str:
        raise InvalidArgumentError(
            f"JSON Value: {_shown(document)} not formatted correctly. 'signature_name' key must "
            "be a string value."
        )
    return name


# --- requests ---


def _of_rows(rows: list[Any], signature: Signature) -> dict[str, Array]:
    inputs = signature.inputs
    if type(rows[0]) is not dict and len(inputs) > 1:
        raise InvalidArgumentError(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    if not _is_named(rows[0]):
        only = next(iter(inputs.values()))
        for place, row in enumerate(rows):
            if _is_named(row):
                raise InvalidArgumentError(
                    f"Expecting value/list but got object at item {place} of input list"
                )
        return {only.name: stacked(rows, only, signature.takes_missing, "")}
    for place, row in enumerate(rows):
        if not _is_named(row):
            raise InvalidArgumentError(
                f"Expecting object but got list at item {place} of input list"
            )
        if row.keys() != inputs.keys():
            unknown = sorted(row.keys() - inputs.keys())
            if unknown:
                raise InvalidArgumentError(
                    f"Failed to process element: {place} key: {unknown[0]} of 'instances' list. "
                    "Error: INVALID_ARGUMENT: JSON object: does not have named input: "
                    f"{unknown[0]}"
                )
            raise InvalidArgumentError(
                f"Failed to process element: {place} of 'instances' list. JSON object: "
                f"{_shown(row)} keys must be equal to: {','.join(sorted(inputs))}"
            )
    return {
        name: stacked([row[name] for row in rows], tensor, signature.takes_missing, name)
        for name, tensor in inputs.items()
    }


def _of_columns(value: Any, signature: Signature) -> dict[str, Array]:
    inputs = signature.inputs
    if not _is_named(value):
        if len(inputs) > 1:
            raise InvalidArgumentError(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        (only,) = inputs.values()
        return {only.name: _dense(value, only, signature.takes_missing)}
    columns = {}
    for name, tensor in inputs.items():
        if name not in value:
            raise InvalidArgumentError(f"Missing named input: {name} in 'inputs' object.")
        columns[name] = _dense(value[name], tensor, signature.takes_missing)
    return columns


def stacked(items: list[Any], tensor: Tensor, takes_missing: bool, key: str) -> Array:
    """One item of each row, all of the same shape, as an array [rows, ...]."""
    types = set(map(type, items))
    if list not in types:
        try:
            return _flat(items, types, tensor, takes_missing)
        except InvalidArgumentError:
            pass  # which of them it is, is found below
    parts, first = [], None
    for place, item in enumerate(items):
        try:
            part = _dense(item, tensor, takes_missing)
            first = part if first is None else first
            if part.size != first.size:
                raise InvalidArgumentError(
                    f"Expecting tensor size: {first.size} but got: {part.size}"
                )
            if part.shape != first.shape:
                raise InvalidArgumentError(
                    f"Expecting shape {_shape(first)} but got: {_shape(part)}"
                )
        except InvalidArgumentError as error:
            named = f" key: {key}" if key else ""
            raise InvalidArgumentError(
                f"Failed to process element: {place}{named} of 'instances' list. Error: "
                f"INVALID_ARGUMENT: {error.message}"
            ) from None
        parts.append(part)
    return np.stack(parts)


def _shape(array: Array) -> str:
    return f"[{','.join(map(str, array.shape))}]"


def _dense(value: Any, tensor: Tensor, takes_missing: bool) -> Array:
    """A value, or lists of lists of values, as an array."""
    shape: list[int] = []
    inner = value
    while type(inner) is list:
        shape.append(len(inner))
        if len(shape) > MOST_DIMENSIONS:
            raise InvalidArgumentError("JSON Value: [...] is nested too deep.")
        if not inner:
            break
        inner = inner[0]
    flat = list(_leaves(value, shape, 0))
    return _array(flat, tuple(shape), tensor, takes_missing)


def _leaves(value: Any, shape: Sequence[int], level: int) -> Iterator[Any]:
    if type(value) is not list:
        if level != len(shape):
            raise InvalidArgumentError(
                f"JSON Value: {_shown(value)} found at incorrect level: {level + 1} in the JSON "
                f"DOM. Expected at level: {len(shape)}"
            )
        yield value
        return
    if level >= len(shape):
        raise InvalidArgumentError(
            f"Encountered list at unexpected level: {level} expected < {len(shape)}"
        )
    if len(value) != shape[level]:
        raise InvalidArgumentError(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: "
            f"{shape[level]}"
        )
    for item in value:
        yield from _leaves(item, shape, level + 1)


def _array(
    values: list[Any], shape: tuple[int, ...], tensor: Tensor, takes_missing: bool
) -> Array:
    """Values of a tensor's type, none of them a list, in a shape."""
    return _flat(values, set(map(type, values)), tensor, takes_missing).reshape(shape)


def _flat(values: list[Any], types: set[type], tensor: Tensor, takes_missing: bool) -> Array:
    """Values of a tensor's type, none of them a list."""
    if tensor.dtype not in DTYPES:
        raise UnimplementedError(
            f"Conversion of JSON Value: {_shown(values)} to type: {tensor.type_name}"
        )
    if takes_missing and type(None) in types and tensor.dtype in _MISSING:
        missing = _MISSING[tensor.dtype]
        values = [missing if value is None else value for value in values]
        types = set(map(type, values))
    dtype = DTYPES[tensor.dtype][1]
    if tensor.dtype == "DT_STRING":
        encoded = [
            value.encode("utf-8", "surrogatepass") if type(value) is str else _bytes(value, tensor)
            for value in values
        ]
        return np.array(encoded, np.object_)
    if tensor.dtype == "DT_BOOL":
        _check_types(values, types, {bool}, tensor)
    elif tensor.dtype in _EXACT:
        _check_types(values, types, {int, float}, tensor)
        _check_decimals(values, tensor)
    else:
        _check_types(values, types, {int}, tensor)
        bounds = np.iinfo(dtype)
        for value in values:
            if not bounds.min <= value <= bounds.max:
                raise _type_error(value, tensor)
    return np.array(values, dtype)


def _check_types(
    values: Sequence[Any], types: set[type], allowed: set[type], tensor: Tensor
) -> None:
    if not types <= allowed:
        raise _type_error(next(v for v in values if type(v) not in allowed), tensor)


def _check_decimals(values: Sequence[Any], tensor: Tensor) -> None:
    most, exact = _MOST[tensor.dtype], _EXACT[tensor.dtype]
    for value in values:
        if type(value) is int:
            is_lossy = abs(value) > exact
        else:
            is_lossy = abs(value) > most and math.isfinite(value)
        if is_lossy:
            raise InvalidArgumentError(
                f"Cannot convert JSON value: {_shown(value)} to {tensor.type_name} without loss "
                "of precision."
            )


def _bytes(value: Any, tensor: Tensor) -> bytes:
    if type(value) is bytes:  # of a proto
        return value
    if type(value) is not dict:
        raise _type_error(value, tensor)
    if not is_base64(value):
        raise InvalidArgumentError(
            f"JSON Value: {_shown(value)} not formatted correctly for base64 data"
        )
    return decoded(value[_B64])


def decoded(encoded: str) -> bytes:
    """Bytes in base 64, with or without padding, also in the alphabet of URLs."""
    plain = "".join(encoded.split()).translate(str.maketrans("-_", "+/")).rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgumentError("Unable to base64 decode") from None


def is_base64(value: dict[str, Any]) -> bool:
    """Whether an object stands for bytes."""
    return len(value) == 1 and type(value.get(_B64)) is str


def _is_named(value: Any) -> bool:
    return type(value) is dict and not is_base64(value)


def _type_error(value: Any, tensor: Tensor) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"JSON Value: {_shown(value)} Type: {kind(value)} is not of expected type: "
        f"{tensor.type_name}"
    )


def of_leaves(values: list[Any], shape: tuple[int, ...], tensor: Tensor) -> Array:
    """Values of a tensor's type, none of them a list, as an array of a shape.

    Raises:
        InvalidArgumentError: they are not of the type, or not as many.
    """
    if len(values) != math.prod(shape):
        raise InvalidArgumentError(
            f"the tensor {tensor.name} has {len(values)} values, but the shape {list(shape)}."
        )
    return _array(values, shape, tensor, False)


def kind(value: Any) -> str:
    """What JSON calls a value."""
    return str(value) if type(value) is bool else _KINDS[type(value)]


def _shown(value: Any) -> str:
    whole = json.dumps(value, ensure_ascii=False, indent=4, default=repr)
    return whole if len(whole) <= _SHOWN else f"{whole[:_SHOWN]}…"


# --- answers ---


def _in_rows(outputs: Sequence[tuple[str, Array]]) -> str:
    rows = -1
    for name, array in outputs:
        if not array.ndim:
            raise InvalidArgumentError(f"Tensor name: {name} has no shape information ")
        if rows >= 0 and len(array) != rows:
            raise InvalidArgumentError(
                f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {rows}"
            )
        rows = len(array)
    columns = [_each(literals(name, array), array.shape) for name, array in outputs]
    if len(outputs) == 1:
        return f'{{\n    "predictions": [{", ".join(columns[0])}\n    ]\n}}'
    keys = [f"            {text(name)}: " for name, _ in outputs]
    objects = [
        ",\n".join(key + value for key, value in zip(keys, row, strict=True))
        for row in zip(*columns, strict=True)
    ]
    listed = ",\n".join(f"        {{\n{each}\n        }}" for each in objects)
    return f'{{\n    "predictions": [\n{listed}\n    ]\n}}'


def _each(literals: Sequence[str], shape: tuple[int, ...]) -> list[str]:
    """The literals of each row's values, as nested lists on one line."""
    for size in reversed(shape[1:]):
        step = max(size, 1)
        if not size:
            literals = ["[]"] * math.prod(shape[:-1])
            continue
        literals = [
            f"[{', '.join(literals[at : at + step])}]" for at in range(0, len(literals), step)
        ]
    return list(literals)


def _in_columns(outputs: Sequence[tuple[str, Array]]) -> str:
    if len(outputs) == 1:
        name, array = outputs[0]
        return f'{{\n    "outputs": {_nested(literals(name, array), array.shape, 1)}\n}}'
    members = ",\n".join(
        f"        {text(name)}: {_nested(literals(name, array), array.shape, 2)}"
        for name, array in outputs
    )
    return f'{{\n    "outputs": {{\n{members}\n    }}\n}}'


def _nested(literals: Sequence[str], shape: tuple[int, ...], level: int) -> str:
    """Literals as nested lists, each value on a line of its own."""
    if not shape:
        return literals[0]
    if not shape[0]:
        return "[]"
    step = len(literals) // shape[0]
    indent = _INDENT * (level + 1)
    items = [
        indent + _nested(literals[at * step : (at + 1) * step], shape[1:], level + 1)
        for at in range(shape[0])
    ]
    return "[\n" + ",\n".join(items) + f"\n{_INDENT * level}]"


def literals(name: str, array: Array) -> list[str]:
    """The JSON of each value of an array."""
    flat = array.ravel()
    match array.dtype.kind:
        case "f":
            return decimals(flat)
        case "i" | "u":
            return list(map(str, flat.tolist()))
        case "b":
            return ["true" if value else "false" for value in flat.tolist()]
        case "O" | "S":
            values = flat.tolist()
            if name.endswith(_BYTES):
                return [f'{{"{_B64}": "{base64.b64encode(v).decode()}"}}' for v in values]
            return [text(value.decode("utf-8", "replace")) for value in values]
    raise InvalidArgumentError(f"Failed to write JSON value for tensor type: {array.dtype}")


def decimals(flat: Array) -> list[str]:
    """The shortest decimals that are read as the same numbers, whole ones with `.0`."""
    # NumPy's own text of a float32 is that of a float32, not of the float64 next to it.
    texts: list[str] = flat.astype("U32").tolist()
    if np.isfinite(flat).all():
        return texts
    special = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
    return [special.get(text, text) for text in texts]


def text(value: str) -> str:
    """A string as JSON."""
    return _ENCODER.encode(value)
