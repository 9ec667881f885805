"""Golden rows: raw rows with the predictions that the training process made for them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tuner_trainers import rows as rows_of_data
from tuner_trainers.rows import Rows
from tuner_trainers.statistics import Statistics

#: Rows of the data among the golden ones, where it has as many.
DRAWN_ROWS = 100
#: Fewer are drawn if what they hold is large: so many bytes are enough.
DRAWN_BYTES = 4 << 20
#: A text that no vocabulary holds.
UNSEEN = "never seen ☃"
#: How far a replayed prediction may be from the recorded one: processors add in different orders.
TOLERANCE = 1e-6

Columns = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Golden:
    """Raw columns of some rows and, row by row, what was predicted for them.

    `outputs` is float [rows, classes] or, of a regression, float [rows].
    """

    inputs: Columns
    outputs: npt.NDArray[np.floating[Any]]

    def difference(self, outputs: npt.NDArray[np.floating[Any]], unit: float = 1.0) -> float:
        """The largest distance of predictions from the recorded ones, in units of what they are.

        Relative where these are above a unit; infinite where only one of the two is a number.
        """
        if outputs.shape != self.outputs.shape:
            return np.inf
        recorded, replayed = self.outputs.astype(np.float64), outputs.astype(np.float64)
        distance = np.abs(replayed - recorded) / np.maximum(unit, np.abs(recorded))
        same = (recorded == replayed) | (np.isnan(recorded) & np.isnan(replayed))
        distance = np.where(same, 0.0, np.where(np.isnan(distance), np.inf, distance))
        return float(distance.max(initial=0.0))


def choose(rows: Rows, statistics: Statistics, words: Sequence[str]) -> Columns:
    """Chooses raw rows: some of the given ones, and made ones with missing and unseen values.

    Args:
        rows: what some are drawn from.
        statistics: of the training data.
        words: those that mean missing, besides the empty one.
    """
    drawn = np.linspace(0, rows.count - 1, min(DRAWN_ROWS, rows.count)).astype(np.int64)
    places = rows.places[drawn]
    columns = _few(rows.raw.take(places, rows.raw.columns))
    first = {name: column[:1] for name, column in columns.items()}
    strange = [{name: _missing(column) for name, column in first.items()}]
    for name, column in first.items():
        strange.append({**first, name: _missing(column)})
        maximum = statistics.columns[name].maximum or 0.0
        kind = statistics.columns[name].kind
        unseen = UNSEEN if column.dtype == object else 2 * abs(maximum) + 1
        strange.append({**first, name: _filled(column, unseen)})
        if kind == "string":
            strange.extend({**first, name: _filled(column, word)} for word in words)
    return {
        name: np.concatenate([column, *(made[name] for made in strange)])
        for name, column in columns.items()
    }


def _few(columns: Columns) -> Columns:
    """As many of the first rows as are not too large; one at least."""
    sizes = [
        [len(value) if isinstance(value, bytes) else 0 for value in column.tolist()]
        for column in columns.values()
        if column.dtype == object
    ]
    if not sizes:
        return columns
    count = max(1, int(np.sum(np.cumsum(np.sum(sizes, axis=0)) <= DRAWN_BYTES)))
    return {name: column[:count] for name, column in columns.items()}


def tensors(columns: Columns) -> dict[str, tf.Tensor]:
    """Raw columns as the model takes them."""
    return {name: rows_of_data.as_tensor(column) for name, column in columns.items()}


def dumps(golden: Golden) -> str:
    """The rows as lines of JSON; null stands for a missing number, {"b64": ...} for bytes."""
    names = list(golden.inputs)
    columns = [_plain(golden.inputs[name]) for name in names]
    lines = [
        json.dumps({"inputs": dict(zip(names, values, strict=True)), "outputs": outputs})
        for values, outputs in zip(
            zip(*columns, strict=True), golden.outputs.astype(np.float64).tolist(), strict=True
        )
    ]
    return "\n".join(lines) + "\n"


def read(path: Path, kinds: Mapping[str, str]) -> Golden:
    """Reads what `dumps` gave; `kinds` are those of the input columns."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    inputs = {
        name: _column([line["inputs"][name] for line in lines], kind)
        for name, kind in kinds.items()
    }
    return Golden(inputs, np.asarray([line["outputs"] for line in lines], np.float64))


def _column(values: list[Any], kind: str) -> npt.NDArray[Any]:
    if kind == "bytes":
        values = [base64.b64decode(value["b64"]) for value in values]
    if kind == "number":
        return np.asarray(values, np.float64)
    column: npt.NDArray[Any] = np.empty(len(values), object)
    column[:] = values
    return column


def _plain(column: npt.NDArray[Any]) -> list[Any]:
    if column.dtype != object:
        return [value if np.isfinite(value) else None for value in column.tolist()]
    return [
        # As TensorFlow Serving's REST takes them.
        {"b64": base64.b64encode(value).decode("ascii")} if isinstance(value, bytes) else value
        for value in column.tolist()
    ]


def _missing(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return _filled(column, "" if column.dtype == object else np.nan)


def _filled(column: npt.NDArray[Any], value: str | float) -> npt.NDArray[Any]:
    if column.dtype == object and isinstance(column[0], bytes):
        value = str(value).encode()  # type: ignore[assignment]
    filled = np.empty(column.shape, column.dtype)
    filled[:] = [value] * len(column)
    return filled
