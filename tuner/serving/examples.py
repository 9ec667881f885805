"""The `:classify` and `:regress` calls of TensorFlow Serving, for signatures with named inputs.

TensorFlow Serving hands such a signature serialized examples. A model that names its inputs takes
the features of those names instead, so that the same requests reach it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from tuner.errors import FailedPreconditionError, InvalidArgumentError
from tuner.serving import json_tensors
from tuner.serving.signature import Signature, Tensor

Array = npt.NDArray[Any]


def read(body: bytes, find: Callable[[str], Signature]) -> tuple[Signature, dict[str, Array]]:
    """Reads the body of a `:classify` or `:regress` request: the signature, and its inputs.

    Raises:
        InvalidArgumentError: it is not JSON, or not what the signature takes.
    """
    document = json_tensors.parse(body)
    signature = find(json_tensors.signature_name(document))
    context = _features(document["context"]) if "context" in document else {}
    if "examples" not in document:
        raise InvalidArgumentError(
            "When method is classify, key 'examples' is expected and was not found"
        )
    examples = document["examples"]
    if type(examples) is not list:
        raise InvalidArgumentError("Expecting 'examples' value to be an list/array")
    if not examples:
        raise InvalidArgumentError("'examples' value is an empty array")
    return signature, of_features([{**context, **_features(each)} for each in examples], signature)


def of_features(
    examples: Sequence[Mapping[str, Sequence[Any]]], signature: Signature
) -> dict[str, Array]:
    """The inputs of a signature from examples: for each feature the list of its values.

    Raises:
        InvalidArgumentError: an example lacks a feature, or has values of another type.
    """
    inputs: dict[str, Array] = {}
    for name, tensor in signature.inputs.items():
        values = [_value(example, tensor, place) for place, example in enumerate(examples)]
        inputs[name] = json_tensors.stacked(values, tensor, signature.takes_missing, name)
    return inputs


def classifications(outputs: Mapping[str, Array]) -> list[list[tuple[str, float]]]:
    """Of each row the labels and their scores, from the outputs `classes` and `scores`.

    Raises:
        FailedPreconditionError: the signature does not classify.
    """
    scores = outputs.get("scores")
    if scores is None or scores.ndim != 2:
        raise FailedPreconditionError(
            "the signature does not classify: it has no output `scores` of [rows, classes]; use "
            ":predict."
        )
    labels = outputs.get("classes")
    if labels is None:
        names = [[""] * scores.shape[1]] * len(scores)
    else:
        names = [[str(each, "utf-8", "replace") for each in row] for row in labels.tolist()]
    return [list(zip(*row, strict=True)) for row in zip(names, scores.tolist(), strict=True)]


def regressions(outputs: Mapping[str, Array]) -> Array:
    """Of each row the predicted number, from the output `value` or `outputs`, or the only one.

    Raises:
        FailedPreconditionError: the signature predicts no number for each row.
    """
    names = [name for name in ("value", "outputs") if name in outputs] or list(outputs)
    found = outputs[names[0]] if len(names) == 1 else None
    if found is not None and found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found is None or found.ndim != 1 or found.dtype.kind != "f":
        raise FailedPreconditionError(
            "the signature predicts no number for each row; use :predict or :classify."
        )
    return found


def write_classifications(outputs: Mapping[str, Array]) -> bytes:
    """Writes the answer to `:classify`. The key is `results`, whatever is documented."""
    rows = classifications(outputs)
    scores = json_tensors.decimals(outputs["scores"].ravel())
    texts, at = [], 0
    for row in rows:
        pairs = [
            f"[{json_tensors.text(label)}, {score}]"
            for (label, _), score in zip(row, scores[at : at + len(row)], strict=True)
        ]
        at += len(row)
        texts.append(f"[{', '.join(pairs)}]")
    return f'{{\n    "results": [{", ".join(texts)}\n    ]\n}}'.encode()


def write_regressions(outputs: Mapping[str, Array]) -> bytes:
    """Writes the answer to `:regress`."""
    values = json_tensors.decimals(regressions(outputs))
    return f'{{\n    "results": [{", ".join(values)}]\n}}'.encode()


def _features(value: Any) -> dict[str, list[Any]]:
    if type(value) is not dict:
        raise InvalidArgumentError(
            f"Example must be JSON object but got JSON {json_tensors.kind(value)}"
        )
    return {name: _checked(name, content) for name, content in value.items()}


def _checked(name: str, content: Any) -> list[Any]:
    """The values of a feature, all of one kind: whole numbers, decimals or bytes."""
    values = content if type(content) is list else [content]
    kinds = set()
    for value in values:
        match value:
            case bool() | int():
                kinds.add("int64")
                if not -(2**63) <= value < 2**63:
                    raise InvalidArgumentError(
                        f"Feature: {name} has uint64 element. Only int64 is supported."
                    )
            case float():
                kinds.add("float")
            case str():
                kinds.add("bytes")
            case dict() if json_tensors.is_base64(value):
                kinds.add("bytes")
            case _:
                raise InvalidArgumentError(
                    f"Feature: {name} has element with unexpected JSON type: "
                    f"{json_tensors.kind(value)}"
                )
        if len(kinds) > 1:
            raise InvalidArgumentError(
                f"Unexpected element type in feature: {name} expecting type: {sorted(kinds)[0]}"
            )
    return [int(value) if type(value) is bool else value for value in values]


def _value(example: Mapping[str, Sequence[Any]], tensor: Tensor, place: int) -> Any:
    """A feature's value as the input takes it: one of each row, or a list."""
    values = example.get(tensor.name)
    if values is None:
        raise InvalidArgumentError(f"Example {place} has no feature {tensor.name!r}.")
    is_single = tensor.shape is None or len(tensor.shape) == 1
    if not is_single:
        return list(values)
    if len(values) != 1:
        raise InvalidArgumentError(
            f"Example {place}: the feature {tensor.name!r} has {len(values)} values, but the "
            "model takes one."
        )
    return values[0]
