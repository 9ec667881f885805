"""Predictions of an endpoint for a file of rows, asked of a gateway in portions."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tuner.client.predictions import Predictions
from tuner.errors import DataError
from tuner_trainers import data
from tuner_trainers.data import Columns
from tuner_trainers.target import Target

#: How many rows go out at once, and how many with images or other bytes.
_ROWS, _ROWS_OF_BYTES = 1000, 50


class Remote:
    """The model that an endpoint serves; one version answers all that this object asks.

    Args:
        predictions: The gateways.
        endpoint: The endpoint's id.

    Raises:
        TunerError: what a gateway said, or UnavailableError.
        DataError: what it serves was not exported by tuner.
    """

    def __init__(self, predictions: Predictions, endpoint: str) -> None:
        self._predictions = predictions
        self._endpoint = endpoint
        about = predictions.about(endpoint).checked()
        self.version, metadata = int(about["version"]), about["metadata"]
        if "target" not in metadata:
            raise DataError(
                f"the model of {endpoint} was imported, and what its columns mean is not known: "
                f"send it rows as JSON, to {predictions.url}/v1/models/{endpoint}:predict."
            )
        self.inputs: Mapping[str, str] = {
            column["name"]: column["kind"] for column in metadata["inputs"]
        }
        self._missing_values = tuple(metadata["missing_values"])
        self._target = Target.from_json(metadata["target"])

    def read(self, uri: str) -> Columns:
        """Reads the columns that the model needs from a file; raises DataError."""
        return data.read(
            uri,
            types=self.inputs,
            missing_values=self._missing_values,
            columns=tuple(self.inputs),
        )

    def predict(
        self, columns: Columns, told: Callable[[int], None]
    ) -> dict[str, npt.NDArray[Any]]:
        """Predicts rows.

        Args:
            columns: The raw columns.
            told: Is told how many rows were predicted each time.

        Returns:
            As `tuner_trainers.predict.Predictor.predict`.
        """
        count = len(next(iter(columns.values())))
        size = _ROWS_OF_BYTES if "bytes" in self.inputs.values() else _ROWS
        parts = list[npt.NDArray[np.float32]]()
        for start in range(0, count, size):
            rows = {name: columns[name][start : start + size] for name in self.inputs}
            parts.append(self._outputs(rows))
            told(len(parts[-1]))
        return self._target.predicted(np.concatenate(parts))

    def _outputs(self, rows: Columns) -> npt.NDArray[np.float32]:
        inputs = {name: _values(rows[name], kind) for name, kind in self.inputs.items()}
        answer = self._predictions.predict_columns(self._endpoint, self.version, inputs)
        outputs = answer.checked()["outputs"]
        # A model with a single output answers its values alone.
        if isinstance(outputs, dict):
            outputs = outputs["scores" if self._target.classes else "value"]
        return np.asarray(outputs, np.float32)


def _values(column: npt.NDArray[Any], kind: str) -> list[Any]:
    values: list[Any] = column.tolist()
    if kind == "bytes":
        return [{"b64": base64.b64encode(value or b"").decode()} for value in values]
    return ["" if value is None else value for value in values] if kind == "string" else values
