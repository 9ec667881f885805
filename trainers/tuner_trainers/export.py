"""Exports a trial as a SavedModel that takes raw rows, and checks exported models.

    python -m tuner_trainers.export ARTIFACTS DIRECTORY [--model NAME] [--check]
    python -m tuner_trainers.export --verify DIRECTORY
    python -m tuner_trainers.export --import SAVED_MODEL DIRECTORY [--model NAME] [--rows FILE]

Each is run in a process of its own: what is verified is what any process will load. With
`--check`, one process writes and another verifies; they share nothing but TensorFlow's import.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import keyword
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tuner import keeper
from tuner.errors import DataError, ModelRejectedError, TunerError, first_line
from tuner.trainer_spaces import TRAINERS
from tuner_trainers import (
    artifacts,
    checksums,
    foreign,
    golden,
    layout,
    mlmodel,
    own,
    training,
    warmup,
)
from tuner_trainers import card as cards
from tuner_trainers.artifacts import TrialRecord
from tuner_trainers.layout import SUMS
from tuner_trainers.model import build_model
from tuner_trainers.predict import Predictor, read_metadata
from tuner_trainers.statistics import Statistics

#: Stands in an example for the content of a file.
_B64 = {"b64": "BASE64"}
#: How many rows the warm-up requests have: single ones, as most clients send them, and a batch.
_WARMUP_ROWS = (1, 1, 32)
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
        serving = built.serving()
        _write_saved_model(serving, record, arguments, to)
        (to / layout.EXTRA).mkdir(parents=True)
        unsaved = _save_keras(serving, record, to / layout.KERAS)
    for name, place in (
        (artifacts.STATISTICS, layout.STATISTICS),
        (artifacts.GOLDEN, layout.GOLDEN),
    ):
        shutil.copyfile(artifact_dir / name, to / place)
    metadata = {
        **_metadata(record, arguments, model, built.rows_at_once),
        "rows": statistics.rows,
        "keras_model": unsaved or layout.KERAS.name,
    }
    _write_json(to / layout.METADATA, metadata)
    _write_json(to / layout.SCHEMA, _schema(metadata, statistics))
    recorded = golden.read(to / layout.GOLDEN, record.inputs)
    warmup.write(to / layout.WARMUP, model or task.study, _warmup(recorded.inputs))
    artifacts.write_text(to / layout.CARD, cards.card(metadata, _example(recorded.inputs)))
    mlmodel.write(to, metadata)
    checksums.write(to, to / SUMS)


def _save_keras(model: keras.Model, record: TrialRecord, path: Path) -> str:
    """Saves the model as Keras does; why it cannot be, if layers of the user's own keep it."""
    try:
        with warnings.catch_warnings():
            # Of Keras's own making: it reads TensorFlow's variables as NumPy 1 did.
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            model.save(path)
    except (NotImplementedError, TypeError, ValueError) as error:
        if record.task.trainer in TRAINERS:
            raise
        path.unlink(missing_ok=True)
        return f"not saved: {first_line(error)}"
    return ""


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    artifacts.write_text(path, json.dumps(document, indent=2, ensure_ascii=False))


def _schema(metadata: Mapping[str, Any], statistics: Statistics) -> Mapping[str, Any]:
    """What each input may hold, and what training saw of it."""
    inputs = []
    for column in metadata["inputs"]:
        seen = statistics.columns[column["name"]]
        document = {
            **column,
            "missing": "NaN" if seen.kind == "number" else "",
            "missing_fraction": seen.missing / max(seen.count, 1),
            "distinct": seen.summary.distinct,
        }
        if seen.kind == "number":
            document |= {"minimum": seen.minimum, "maximum": seen.maximum}
        inputs.append(document)
    return {"format_version": layout.FORMAT_VERSION, "inputs": inputs}


def _warmup(inputs: golden.Columns) -> Iterator[Mapping[str, tf.Tensor]]:
    start, rows = 0, len(next(iter(inputs.values()), ()))
    for count in _WARMUP_ROWS:
        # Of few rows some are sent twice.
        places = np.arange(start, start + count) % max(rows, 1)
        yield golden.tensors({name: column[places] for name, column in inputs.items()})
        start += count


def _example(inputs: golden.Columns) -> Mapping[str, Any] | None:
    """The first row without a missing number: JSON knows none."""
    for row in range(len(next(iter(inputs.values()), ()))):
        values = {name: column[row : row + 1].tolist()[0] for name, column in inputs.items()}
        if all(not isinstance(v, float) or np.isfinite(v) for v in values.values()):
            # A file's content would be all that one sees of the card.
            return {n: _B64 if isinstance(v, bytes) else v for n, v in values.items()}
    return None


def verify(directory: Path) -> float:
    """Replays the golden rows with an exported model; returns the largest difference.

    Raises:
        ModelRejectedError: a file is not the one exported, or a prediction is not the recorded.
        DataError: it is no exported model.
    """
    checksums.check(directory, directory / SUMS)
    if read_metadata(directory).get("kind") == layout.IMPORTED:
        return foreign.replay(directory)
    predictor = Predictor(directory)
    recorded = golden.read(directory / layout.GOLDEN, predictor.inputs)
    replayed = predictor.outputs(recorded.inputs)
    unit = predictor.target.unit
    difference = recorded.difference(replayed, unit)
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
    if first.difference(np.concatenate(one_by_one), unit) > golden.TOLERANCE:
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
        "format_version": layout.FORMAT_VERSION,
        "model": model,
        "study": task.study,
        "trial": task.trial,
        "trainer": task.trainer,
        "code": task.code,
        "data": task.data.train_uri,
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
    """Exports, imports or verifies; a failure is one line on standard error, and a status."""
    parser = argparse.ArgumentParser(prog="python -m tuner_trainers.export")
    parser.add_argument("source", nargs="?", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--model", default="")
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--import", dest="imported", action="store_true")
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--origin", default="")
    options = parser.parse_args(arguments)
    if options.verify == (options.source is not None):
        parser.error("give SOURCE and DIRECTORY, or --verify and DIRECTORY.")
    if options.verify:
        return _reported(partial(_verify, options.directory))
    if not options.check:
        return _reported(partial(_write, options))
    # TensorFlow is imported, which takes seconds, but has run nothing yet: to fork is safe, and
    # what is forked is as good as a process that was started.
    if status := _in_child(partial(_write, options)):
        return status
    return layout.UNVERIFIED if _in_child(partial(_verify, options.directory)) else 0


def _write(options: argparse.Namespace) -> None:
    if options.imported:
        foreign.take(
            options.source,
            options.directory,
            model=options.model,
            origin=options.origin or str(options.source),
            rows=options.rows,
        )
    else:
        export(options.source, options.directory, options.model)


def _verify(directory: Path) -> None:
    print(f"{verify(directory):.3g}")


def _reported(work: Callable[[], None]) -> int:
    """Does it; returns an exit status."""
    try:
        work()
    except TunerError as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


def _in_child(work: Callable[[], None]) -> int:
    """Does it in a fork of this process, which ends with this one; returns its exit status."""
    pid = keeper.fork(partial(_reported, work))
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status < 0:
        print(f"its process was ended by signal {-status}.", file=sys.stderr)
    return abs(status)


if __name__ == "__main__":
    sys.exit(main())
