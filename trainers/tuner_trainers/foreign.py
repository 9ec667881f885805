"""SavedModels from elsewhere: looked at, run on golden rows, and laid out as versions are.

Golden rows of these are recorded by running the model: they show that what is served later
predicts as what was imported. Each is a line `{"inputs": {...}, "outputs": {...}}` of a request
of one row, whose tensors are nested lists.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.core.framework import types_pb2

from tuner.errors import DataError, ModelRejectedError, first_line
from tuner_trainers import artifacts, checksums, golden, layout, mlmodel, training, warmup
from tuner_trainers import card as cards
from tuner_trainers.layout import SIGNATURE

#: Rows that are recorded, and of these how many are warm-up requests.
_MOST_ROWS, _WARMUP_REQUESTS = 1000, 10

Arrays = Mapping[str, npt.NDArray[Any]]


def take(source: Path, to: Path, *, model: str, origin: str, rows: Path | None = None) -> None:
    """Copies a SavedModel to where a version is made of it.

    Args:
        source: the SavedModel's directory; it stays as it is.
        to: the directory to write; it must not exist.
        model: the name it is published under.
        origin: where it comes from, for people.
        rows: JSON lines, each an object with a value by input: the rows to record; None: none.

    Raises:
        DataError: it is no SavedModel that can be loaded and served, or the rows are none of its.
    """
    if (source / layout.METADATA).is_file():
        # Exported by tuner: it has all that a version has.
        shutil.copytree(source, to)
        return
    if not source.is_dir():
        raise DataError(f"{source} is no folder; give that of a SavedModel.")
    shutil.copytree(source, to, ignore=shutil.ignore_patterns("assets.extra"))
    running = _Signature(to)
    (to / layout.EXTRA).mkdir(parents=True)
    asked = [] if rows is None else _rows(rows)
    lines = [running.record(row, number) for number, row in enumerate(asked, start=1)]
    artifacts.write_text(to / layout.GOLDEN, "".join(f"{json.dumps(line)}\n" for line in lines))
    metadata = {
        "format_version": layout.FORMAT_VERSION,
        "kind": layout.IMPORTED,
        "model": model,
        "source": origin,
        "inputs": running.inputs,
        "outputs": running.outputs,
        "golden_rows": len(lines),
        "tolerance": golden.TOLERANCE,
        "versions": {"exported": training.versions()},
        "create_time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    text = json.dumps(metadata, indent=2, ensure_ascii=False)
    artifacts.write_text(to / layout.METADATA, text)
    example = asked[0] if asked else None
    artifacts.write_text(to / layout.CARD, cards.card(metadata, example))
    if lines:
        requests = [running.tensors(row["inputs"]) for row in lines[:_WARMUP_REQUESTS]]
        warmup.write(to / layout.WARMUP, model, requests)
    mlmodel.write(to, metadata)
    checksums.write(to, to / layout.SUMS)


def replay(directory: Path) -> float:
    """Runs the golden rows again; returns the largest difference from what was recorded.

    Raises:
        ModelRejectedError: it predicts something else.
        DataError: it cannot be loaded.
    """
    running = _Signature(directory)
    largest = 0.0
    with (directory / layout.GOLDEN).open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            recorded = json.loads(line)
            replayed = running.run(recorded["inputs"])
            difference = _difference(recorded["outputs"], replayed)
            if difference > golden.TOLERANCE:
                raise ModelRejectedError(
                    f"the model predicts golden row {number} with a difference of "
                    f"{difference:.3g} from what was recorded; at most {golden.TOLERANCE:g} is "
                    "allowed."
                )
            largest = max(largest, difference)
    return largest


class _Signature:
    """The signature that clients call, in this process."""

    def __init__(self, directory: Path) -> None:
        if not (directory / layout.SAVED_MODEL).is_file():
            raise DataError(f"{directory} is no SavedModel: it has no {layout.SAVED_MODEL}.")
        try:
            self._model = tf.saved_model.load(str(directory), tags=["serve"])
        except Exception as error:  # operations that are not known here raise anything
            raise DataError(f"the SavedModel cannot be loaded: {first_line(error)}.") from error
        signatures = self._model.signatures
        if SIGNATURE not in signatures:
            raise DataError(
                f"the SavedModel has no signature {SIGNATURE!r}, but "
                f"{', '.join(map(repr, signatures)) or 'none'}; save it with signatures="
                f"{{{SIGNATURE!r}: function}}."
            )
        self._call = signatures[SIGNATURE]
        #: By name, as Python arguments have them.
        self._specs: Mapping[str, tf.TensorSpec] = self._call.structured_input_signature[1]
        if not self._specs:
            raise DataError(f"the signature {SIGNATURE!r} takes no inputs; it cannot be served.")
        self.inputs: Sequence[Mapping[str, Any]] = [
            {"name": name, "argument": name, **_described(spec)}
            for name, spec in self._specs.items()
        ]
        self.outputs: Mapping[str, Any] = {
            name: _described(spec) for name, spec in self._call.structured_outputs.items()
        }

    def record(self, row: Mapping[str, Any], number: int) -> Mapping[str, Any]:
        """A row as a golden line; raises DataError if it is none of the model's."""
        if set(row) != set(self._specs):
            raise DataError(
                f"row {number} has {', '.join(sorted(row)) or 'nothing'}, but the model takes "
                f"{', '.join(self._specs)}."
            )
        batch = {name: [value] if self._batched(name) else value for name, value in row.items()}
        try:
            return {"inputs": batch, "outputs": self.run(batch)}
        except (ValueError, TypeError, tf.errors.OpError) as error:
            raise DataError(f"row {number} cannot be predicted: {first_line(error)}.") from error

    def run(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The outputs for inputs, both nested lists."""
        outputs = self._call(**self.tensors(inputs))
        return {name: _listed(tensor.numpy()) for name, tensor in outputs.items()}

    def tensors(self, inputs: Mapping[str, Any]) -> Mapping[str, tf.Tensor]:
        """Nested lists as tensors."""
        return {
            name: tf.constant(_unpacked(value), self._specs[name].dtype)
            for name, value in inputs.items()
        }

    def _batched(self, name: str) -> bool:
        """Whether an input's first dimension is that of rows."""
        shape = self._specs[name].shape
        return shape.rank is None or (shape.rank > 0 and shape[0] is None)


def _described(spec: tf.TensorSpec) -> dict[str, Any]:
    shape = None if spec.shape.rank is None else spec.shape.as_list()
    return {
        "dtype": types_pb2.DataType.Name(spec.dtype.as_datatype_enum),
        "shape": ["any"] if shape is None else shape,
    }


def _rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON lines: {first_line(error)}.") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} holds no rows: each line is an object with a value by input.")
    if len(rows) > _MOST_ROWS:
        raise DataError(f"{path} has {len(rows)} rows; {_MOST_ROWS} golden rows are enough.")
    return rows


def _listed(array: npt.NDArray[Any]) -> Any:
    """Nested lists; bytes that are no text as `{"b64": ...}`."""
    if array.dtype != object:
        return array.tolist()
    if array.ndim:
        return [_listed(np.asarray(item, object)) for item in array]
    value: bytes = array.item()
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}


def _unpacked(value: Any) -> Any:
    """Nested lists with bytes in place of `{"b64": ...}`."""
    if isinstance(value, dict):
        return base64.b64decode(value["b64"])
    return [_unpacked(item) for item in value] if isinstance(value, list) else value


def _difference(recorded: Mapping[str, Any], replayed: Mapping[str, Any]) -> float:
    """The largest of all outputs; infinite where texts or shapes differ."""
    if recorded.keys() != replayed.keys():
        return np.inf
    largest = 0.0
    for name, value in recorded.items():
        before, after = np.asarray(value), np.asarray(replayed[name])
        if before.dtype.kind in "biuf" and after.dtype.kind in "biuf":
            numbers = before.astype(np.float64)
            largest = max(largest, golden.Golden({}, numbers).difference(after))
        elif value != replayed[name]:
            return np.inf
    return largest
