"""Exports a trial as a SavedModel that takes raw rows, and checks exported models.

    python -m tuner_trainers.export ARTIFACTS DIRECTORY [--model NAME]
    python -m tuner_trainers.export --verify DIRECTORY

Each is run in a process of its own: what is verified is what any process will load.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import keyword
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tuner.errors import DataError, ModelRejectedError, TunerError
from tuner_trainers import artifacts, checksums, golden, own, predict, training
from tuner_trainers.artifacts import TrialRecord
from tuner_trainers.model import build_model
from tuner_trainers.predict import EXTRA, Predictor
from tuner_trainers.statistics import Statistics

SUMS = EXTRA / "SHA256SUMS"
#: Golden rows that are also replayed one by one, as clients send them.
SINGLE_ROWS = 5

Outputs = dict[str, tf.Tensor]


def export(artifact_dir: Path, to: Path, model: str = "") -> None:
    """Writes the model of a trial's artifacts as a SavedModel directory.

    Args:
        artifact_dir: what the trial left.
        to: the directory to write; it must not exist.
        model: the name it is published under, for its metadata.

    Raises:
        DataError: the artifacts are not whole.
    """
    record = artifacts.read_record(artifact_dir)
    statistics = Statistics.load(artifact_dir / artifacts.STATISTICS)
    # The trial's own copy of the code that builds its network, if it has any.
    task = dataclasses.replace(record.task, artifacts=str(artifact_dir))
    with own.importing(task.code, artifact_dir):
        built = build_model(task, statistics, record.target)
        network = built.network
        network.set_weights(_fitting(network, artifacts.read_weights(artifact_dir)))
        arguments = _arguments(built.encoder.columns)
        _write_saved_model(built.serving(), record, arguments, to)
    extra = to / EXTRA
    extra.mkdir(parents=True)
    metadata = _metadata(record, arguments, model, built.rows_at_once)
    artifacts.write_text(to / predict.METADATA, json.dumps(metadata, indent=2, ensure_ascii=False))
    for name in (artifacts.STATISTICS, artifacts.GOLDEN):
        shutil.copyfile(artifact_dir / name, extra / name)
    checksums.write(to, to / SUMS)


def verify(directory: Path) -> float:
    """Replays the golden rows with an exported model; returns the largest difference.

    Raises:
        ModelRejectedError: a file is not the one exported, or a prediction is not the recorded.
        DataError: it is no exported model.
    """
    checksums.check(directory, directory / SUMS)
    predictor = Predictor(directory)
    recorded = golden.read(directory / EXTRA / artifacts.GOLDEN, predictor.inputs)
    replayed = predictor.outputs(recorded.inputs)
    difference = recorded.difference(replayed)
    if difference > golden.TOLERANCE:
        raise ModelRejectedError(
            f"the model predicts its golden rows with a difference of {difference:.3g} from what "
            f"training recorded; at most {golden.TOLERANCE:g} is allowed."
        )
    singles = min(SINGLE_ROWS, len(replayed))
    one_by_one = [
        predictor.outputs(
            {name: column[row : row + 1] for name, column in recorded.inputs.items()}
        )
        for row in range(singles)
    ]
    first = golden.Golden(recorded.inputs, recorded.outputs[:singles])
    if first.difference(np.concatenate(one_by_one)) > golden.TOLERANCE:
        raise ModelRejectedError("the model predicts single rows otherwise than many together.")
    return difference


def _fitting(network: keras.Model, weights: artifacts.Weights) -> artifacts.Weights:
    expected = [tuple(variable.shape) for variable in network.weights]
    if [array.shape for array in weights] != expected:
        raise DataError(
            f"{artifacts.WEIGHTS} does not fit {artifacts.TRIAL}; train the trial again."
        )
    return weights


def _arguments(columns: Sequence[str]) -> dict[str, str]:
    """What each column is called as a Python argument: as itself where that is possible."""
    return {
        column: column if _is_argument(column) else f"column_{index}"
        for index, column in enumerate(columns)
    }


def _is_argument(name: str) -> bool:
    legal = name.isascii() and name.isidentifier() and not keyword.iskeyword(name)
    return legal and name != "self" and name[0].isalpha() and not name.startswith("column_")


def _write_saved_model(
    model: keras.Model, record: TrialRecord, arguments: Mapping[str, str], to: Path
) -> None:
    archive = keras.export.ExportArchive()
    archive.track(model)
    answer = _answer(record)

    def serve(columns: Mapping[str, tf.Tensor]) -> Outputs:
        return answer(model([columns[name] for name in arguments.values()], training=False))

    specs = {
        arguments[name]: tf.TensorSpec((None,), _dtype(record.inputs[name]), name=arguments[name])
        for name in arguments
    }
    archive.add_endpoint("serving_default", serve, input_signature=[specs])
    archive.write_out(str(to), verbose=False)
    _name_inputs(to, {argument: column for column, argument in arguments.items()})


def _answer(record: TrialRecord) -> Callable[[tf.Tensor], Outputs]:
    """Turns predictions into named outputs."""
    if not record.target.classes:
        return lambda predictions: {"value": predictions}
    classes = tf.constant(record.target.classes)

    def answer(scores: tf.Tensor) -> Outputs:
        return {
            "classes": tf.broadcast_to(classes[None, :], tf.shape(scores)),
            "scores": scores,
            "predicted": tf.gather(classes, tf.argmax(scores, axis=1)),
        }

    return answer


def _dtype(kind: str) -> tf.DType:
    return tf.float64 if kind == "number" else tf.string


def _name_inputs(directory: Path, columns: Mapping[str, str]) -> None:
    """Gives the signature's inputs, as clients name them, the names of the columns.

    Python forbids some of these as arguments, so that TensorFlow cannot write them itself.
    """
    if all(argument == column for argument, column in columns.items()):
        return
    path = directory / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    signature = saved.meta_graphs[0].signature_def["serving_default"]
    inputs = {
        columns[argument]: info.SerializeToString() for argument, info in signature.inputs.items()
    }
    signature.inputs.clear()
    for name, info in inputs.items():
        signature.inputs[name].MergeFromString(info)
    path.write_bytes(saved.SerializeToString())


def _metadata(
    record: TrialRecord, arguments: Mapping[str, str], model: str, rows_at_once: int
) -> dict[str, Any]:
    task = record.task
    inputs = [
        {
            "name": name,
            "kind": record.inputs[name],
            "argument": argument,
            "dtype": "DT_DOUBLE" if record.inputs[name] == "number" else "DT_STRING",
        }
        for name, argument in arguments.items()
    ]
    outputs = {"classes": "DT_STRING", "scores": "DT_FLOAT", "predicted": "DT_STRING"}
    return {
        "format_version": predict.FORMAT_VERSION,
        "model": model,
        "study": task.study,
        "trial": task.trial,
        "trainer": task.trainer,
        "parameters": dict(task.parameters),
        "settings": dict(task.settings),
        "features": [dataclasses.asdict(feature) for feature in task.features],
        "metric": dataclasses.asdict(task.metric),
        "metrics": dict(record.result.metrics),
        "epoch": record.result.step,
        "target": dataclasses.asdict(record.target),
        "inputs": inputs,
        "outputs": outputs if record.target.classes else {"value": "DT_FLOAT"},
        "rows_at_once": rows_at_once,
        "missing_values": list(task.data.missing_values),
        "data_fingerprint": record.data_fingerprint,
        "tolerance": golden.TOLERANCE,
        "versions": {"trained": dict(record.versions), "exported": training.versions()},
        "create_time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Exports or verifies; a failure is one line on standard error and a non-zero status."""
    parser = argparse.ArgumentParser(prog="python -m tuner_trainers.export")
    parser.add_argument("artifacts", nargs="?", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--model", default="")
    parser.add_argument("--verify", action="store_true")
    options = parser.parse_args(arguments)
    if options.verify == (options.artifacts is not None):
        parser.error("give ARTIFACTS and DIRECTORY, or --verify and DIRECTORY.")
    try:
        if options.verify:
            print(f"{verify(options.directory):.3g}")
        else:
            export(options.artifacts, options.directory, options.model)
    except TunerError as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
