"""What a trial leaves in its directory, and how it is read again.

    trial.json           the task, the target, the result and the versions of what trained it
    weights.npz          of the best epoch, in the order of the network's variables
    statistics.json      the statistics that the preprocessing was built from
    golden.jsonl         raw rows with their predictions
    history.json         the metrics of each epoch
    validation.parquet   the predictions of the rows that validated, and where there are any
    test.parquet         those of the test rows

Every file is written under a temporary name and renamed; trial.json comes last.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tuner.errors import DataError
from tuner.study import Constraint, DataSource, Feature, Goal, Metric, Selection
from tuner_trainers.context import Result, TrialTask
from tuner_trainers.target import Target

FORMAT_VERSION = 1
TRIAL, WEIGHTS, STATISTICS = "trial.json", "weights.npz", "statistics.json"
GOLDEN, HISTORY = "golden.jsonl", "history.json"
VALIDATION, TEST = "validation.parquet", "test.parquet"

Weights = Sequence[npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """trial.json: all that is needed, with weights and statistics, to build the model again."""

    task: TrialTask
    target: Target
    result: Result
    #: The columns the model reads, each "number", "string" or "bytes".
    inputs: Mapping[str, str]
    data_fingerprint: str
    versions: Mapping[str, str]


def write_text(path: Path, text: str) -> None:
    """Writes a text file under its name only when it is whole."""
    _written(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_record(directory: Path, record: TrialRecord) -> None:
    """Writes trial.json."""
    fields = {"format_version": FORMAT_VERSION, **dataclasses.asdict(record)}
    write_text(directory / TRIAL, json.dumps(fields, indent=2, ensure_ascii=False) + "\n")


def read_record(directory: Path) -> TrialRecord:
    """Reads trial.json; raises DataError."""
    try:
        fields = json.loads((directory / TRIAL).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{directory} holds no trial that can be exported: {error.strerror} ({TRIAL})."
        ) from error
    if fields.get("format_version") != FORMAT_VERSION:
        raise DataError(
            f"{directory / TRIAL} was written by another version of tuner; export it with that."
        )
    return TrialRecord(
        task=_task(fields["task"]),
        target=Target.from_json(fields["target"]),
        result=Result(**fields["result"]),
        inputs=fields["inputs"],
        data_fingerprint=fields["data_fingerprint"],
        versions=fields["versions"],
    )


def write_weights(directory: Path, weights: Weights) -> None:
    """Writes weights.npz."""

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, *weights)

    _written(directory / WEIGHTS, save)


def read_weights(directory: Path) -> Weights:
    """Reads weights.npz; raises DataError."""
    try:
        with np.load(directory / WEIGHTS, allow_pickle=False) as arrays:
            return [arrays[f"arr_{index}"] for index in range(len(arrays.files))]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{directory / WEIGHTS} cannot be read: {error}.") from error


def write_predictions(
    path: Path,
    rows: npt.NDArray[np.integer[Any]],
    predicted: Mapping[str, npt.NDArray[Any]],
    actual: npt.NDArray[Any],
) -> None:
    """Writes the predictions of rows as Parquet.

    Args:
        path: where to.
        rows: the place of each row in its data, in the column `_row`.
        predicted: the columns that predicting raw rows gives.
        actual: the raw labels, in the column `_actual`.
    """
    columns = {"_row": rows.astype(np.int64), **predicted, "_actual": actual}
    table = pa.table({name: pa.array(column) for name, column in columns.items()})
    _written(path, lambda temporary: pq.write_table(table, temporary))


def _written(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    write(temporary)
    temporary.replace(path)


def _task(fields: Mapping[str, Any]) -> TrialTask:
    # JSON has no tuples.
    data: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in fields["data"].items()
    }
    metric = fields["metric"]
    return TrialTask(
        **{
            **fields,
            "data": DataSource(**data),
            "features": tuple(
                Feature(**{**feature, "columns": tuple(feature["columns"])})
                for feature in fields["features"]
            ),
            "metric": Metric(name=metric["name"], goal=Goal(metric["goal"])),
            "constraints": tuple(Constraint(**each) for each in fields.get("constraints", ())),
            "selection": Selection(fields.get("selection", Selection.BEST)),
        }
    )
