"""What became of predictions: labels compared with answers, versions compared with each other."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

ACCURACY = "accuracy"
SQUARED_ERROR = "squared_error"
#: The largest result: its square still is a number.
LARGEST = 1e100


def graded(answer: str, row: int, label: str) -> tuple[str, float] | None:
    """A result's name and value, of a label and what was predicted.

    An answer is what TensorFlow Serving's REST gives: `{"predictions": [...]}` by row,
    `{"outputs": ...}` by output, or the `results` of a classification or a regression; or what the
    Open Inference Protocol does. What tuner exports names its outputs: `predicted`, or `classes`
    with their `scores`, or `value`. Of other models a number is a number, several numbers are the
    scores of classes 0, 1, 2 and so on.

    Args:
        answer: JSON.
        row: From 0.
        label: What was true.

    Returns:
        None if the answer has no such row, or is no answer to which there is a label.
    """
    try:
        predicted = _predicted(_row(json.loads(answer), row))
    except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
        return None
    if isinstance(predicted, str):
        return ACCURACY, float(_is_same(predicted, label))
    number = _number(label)
    if number is None or not abs(predicted - number) < math.sqrt(LARGEST):
        return None
    return SQUARED_ERROR, (predicted - number) ** 2


def _row(answer: Mapping[str, Any], row: int) -> Any:
    """What was answered for a row; raises LookupError or TypeError."""
    if row < 0:
        raise IndexError(row)
    for by_row in ("predictions", "results"):
        if by_row in answer:
            return answer[by_row][row]
    outputs = answer["outputs"]
    if isinstance(outputs, list) and outputs and isinstance(outputs[0], dict):
        outputs = {each["name"]: _rows(each) for each in outputs}
    if isinstance(outputs, dict):
        return {name: values[row] for name, values in outputs.items()}
    return outputs[row]


def _rows(tensor: Mapping[str, Any]) -> list[Any]:
    """The rows of a tensor of the Open Inference Protocol."""
    data, (rows, *rest) = tensor["data"], tensor["shape"]
    if not rest or len(data) == rows:
        return list(data)
    width = math.prod(rest)
    return [data[start : start + width] for start in range(0, rows * width, width)]


def _predicted(value: Any) -> str | float:
    """The class that was predicted, in words, or the number; raises TypeError for neither."""
    if isinstance(value, dict):
        if "predicted" in value:
            return _word(value["predicted"])
        if "scores" in value and "classes" in value:
            return _word(value["classes"][_best(value["scores"])])
        if "classes" in value:
            return _word(value["classes"])
        return _predicted(value["value"] if "value" in value else _only(list(value.values())))
    if isinstance(value, list) and len(value) > 1:
        if all(isinstance(each, list) for each in value):
            return _word(value[_best([score for _, score in value])][0])
        return str(_best(value))
    if isinstance(value, list):
        return _predicted(_only(value))
    if isinstance(value, bool | str):
        return _word(value)
    return float(value)


def _only(values: list[Any]) -> Any:
    (value,) = values
    return value


def _best(scores: list[float]) -> int:
    """The place of the largest; raises TypeError for what are no numbers."""
    return max(range(len(scores)), key=lambda place: float(scores[place]))


def _word(value: Any) -> str:
    while isinstance(value, list):
        value = _only(value)
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _is_same(predicted: str, label: str) -> bool:
    if predicted == label:
        return True
    number, other = _number(predicted), _number(label)
    if number is not None and other is not None:
        return number == other
    return predicted in ("true", "false") and predicted == _truth(label)


def _truth(label: str) -> str:
    """`true` or `false` in other words."""
    return {"1": "true", "0": "false"}.get(label, label.lower())


def _number(label: str) -> float | None:
    try:
        number = float(label)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
