"""Predicts raw rows with an exported model, from its SavedModel alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tuner.errors import DataError, first_line
from tuner_trainers import data
from tuner_trainers.columns import number_text
from tuner_trainers.data import Columns
from tuner_trainers.layout import FORMAT_VERSION, IMPORTED, METADATA, SIGNATURE
from tuner_trainers.target import Target

#: Rows that are predicted at once by models that do not say it.
_ROWS_AT_ONCE = 8192


class Predictor:
    """An exported model. Its methods may be called from several threads.

    Attributes:
        metadata: what metadata.json says.
        inputs: the columns it needs, each "number", "string" or "bytes".
        rows_at_once: how many rows are predicted together.
        target: what it predicts.
    """

    def __init__(self, directory: str | Path) -> None:
        """Loads the model of `directory`; raises DataError."""
        self.directory = Path(directory)
        self.metadata = read_metadata(self.directory)
        if self.metadata.get("kind") == IMPORTED:
            raise DataError(
                f"{self.directory} was imported, and what its columns mean is not known: call its "
                f"signature {SIGNATURE} by TensorFlow, or serve it."
            )
        self.inputs: Mapping[str, str] = {
            column["name"]: column["kind"] for column in self.metadata["inputs"]
        }
        self.rows_at_once = int(self.metadata.get("rows_at_once", _ROWS_AT_ONCE))
        self.target = Target.from_json(self.metadata["target"])
        self._arguments = {
            column["name"]: column["argument"] for column in self.metadata["inputs"]
        }
        try:
            self._model = tf.saved_model.load(str(self.directory))
        except (OSError, tf.errors.OpError) as error:
            raise DataError(f"{self.directory} cannot be loaded: {first_line(error)}.") from error
        self._signature = self._model.signatures[SIGNATURE]

    def read(self, uri: str) -> Columns:
        """Reads the columns that the model needs from a file; raises DataError."""
        return data.read(
            uri,
            types=self.inputs,
            missing_values=tuple(self.metadata["missing_values"]),
            columns=tuple(self.inputs),
        )

    def predict(self, columns: Columns) -> dict[str, npt.NDArray[Any]]:
        """Predicts rows.

        Args:
            columns: the raw columns; those that the model does not use are ignored. NaN or None
                is a missing number, "" or None a missing string, b"" or None missing bytes.

        Returns:
            Columns: the label by its own name, and of classes `probability({class})` for each.

        Raises:
            DataError: a column is missing, or holds text where numbers or bytes are needed, or
                an image is not whole.
        """
        return self.target.predicted(self.outputs(columns))

    def outputs(self, columns: Columns) -> npt.NDArray[np.float32]:
        """The probabilities [rows, classes], or of a regression the predicted numbers [rows]."""
        raw = {name: _checked(columns, name, kind) for name, kind in self.inputs.items()}
        lengths = {len(column) for column in raw.values()}
        if len(lengths) > 1:
            raise DataError("the columns differ in length; give each of them all rows.")
        name, size = "scores" if self.target.classes else "value", self.rows_at_once
        parts = [
            self._call({column: raw[column][start : start + size] for column in raw}, name)
            for start in range(0, max(lengths.pop(), 1), size)
        ]
        return np.concatenate(parts)

    def _call(self, raw: Columns, output: str) -> npt.NDArray[np.float32]:
        inputs = {self._arguments[name]: _tensor(column) for name, column in raw.items()}
        try:
            predicted: npt.NDArray[np.float32] = self._signature(**inputs)[output].numpy()
        except tf.errors.InvalidArgumentError as error:
            raise DataError(
                f"the model cannot read these rows: {first_line(error)}; look for an image that "
                "is not whole."
            ) from error
        return predicted


def read_metadata(directory: Path) -> dict[str, Any]:
    """What metadata.json says of an exported model; raises DataError."""
    path = directory / METADATA
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{directory} is no exported model: it has no {METADATA} that can be read."
        ) from error
    if fields.get("format_version") != FORMAT_VERSION:
        raise DataError(f"{directory} was exported by another version of tuner; export it again.")
    return fields


def _checked(columns: Columns, name: str, kind: str) -> npt.NDArray[Any]:
    if name not in columns:
        raise DataError(f"the column {name!r} is missing; the model needs it.")
    column = np.asarray(columns[name])
    if kind == "bytes":
        return _bytes(name, column)
    return _numbers(name, column) if kind == "number" else _strings(column)


def _bytes(name: str, column: npt.NDArray[Any]) -> npt.NDArray[np.object_]:
    for row, value in enumerate(column.tolist()):
        if value is not None and not isinstance(value, bytes):
            raise DataError(
                f"the column {name!r} takes bytes, but row {row} holds {value!r:.100}; read the "
                "file."
            )
    found = np.empty(len(column), object)
    found[:] = [value or b"" for value in column.tolist()]
    return found


def _numbers(name: str, column: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    if column.dtype.kind in "biuf":
        return column.astype(np.float64)
    for row, value in enumerate(column.tolist()):
        if value is not None and not isinstance(value, (int, float)):
            raise DataError(f"the column {name!r} takes numbers, but row {row} holds {value!r}.")
    return np.asarray([np.nan if value is None else value for value in column.tolist()], float)


def _strings(column: npt.NDArray[Any]) -> npt.NDArray[np.object_]:
    return np.asarray([_string(value) for value in column.tolist()], object)


def _string(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value)
    return number_text(value) if isinstance(value, float) else str(value)


def _tensor(column: npt.NDArray[Any]) -> tf.Tensor:
    if column.dtype == object:
        return tf.constant(column.tolist(), tf.string, shape=column.shape)
    return tf.constant(column, tf.float64)
