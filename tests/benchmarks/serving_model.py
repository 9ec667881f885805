"""The model that all servers of the benchmark serve, and the requests that they are sent.

    python -m tests.benchmarks.serving_model FOLDER ROWS

It trains the tabular trainer over Adult for an epoch, with the features that are proposed for it,
and exports it to FOLDER/models/adult/1. FOLDER/requests.json has, by the rows of each, the bodies
of requests and what the model answers them, and how many microseconds a call of it takes.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tuner_trainers.context import ENVIRONMENT

MODEL, VERSION = "adult", 1
#: How many rows a request has, and how many requests there are of that size.
SIZES: Mapping[int, int] = {1: 64, 32: 16}
_SEED, _CALLS = 7, 2000


def main(arguments: Sequence[str]) -> None:
    """Makes the model and the requests."""
    folder, rows = map(Path, arguments)
    os.environ.update(ENVIRONMENT)
    directory = folder / "models" / MODEL / str(VERSION)
    _train(folder, rows, directory)
    document = {"requests": _requests(directory, rows), "call_us": _call_us(directory)}
    (folder / "requests.json").write_text(json.dumps(document), encoding="utf-8")


def _train(folder: Path, rows: Path, directory: Path) -> None:
    from tests.integration.trials import Context
    from tuner.study import DataSource, Metric, StudySpec
    from tuner_trainers import export, training
    from tuner_trainers.context import TrialTask
    from tuner_trainers.prepare import prepare

    source = DataSource(
        train_uri=str(rows), label="income", validation_fraction=0.2, missing_values=("?",)
    )
    spec = StudySpec(metrics=(Metric(name="val_auc"),), trainer="tabular", data=source)
    found = prepare(spec)
    found.statistics.save(folder / "statistics.json")
    task = TrialTask(
        study="benchmark",
        trial=0,
        trainer="tabular",
        data=source,
        features=found.features,
        settings={**found.settings, "epochs": 1},
        parameters={},
        metric=spec.metric,
        seed=_SEED,
        statistics_path=str(folder / "statistics.json"),
    )
    artifacts = folder / "artifacts"
    artifacts.mkdir()
    training.train(task, Context(artifacts))
    directory.parent.mkdir(parents=True)
    export.export(artifacts, directory, MODEL)


def _requests(directory: Path, rows: Path) -> dict[str, list[dict[str, Any]]]:
    from tuner_trainers.predict import Predictor

    predictor = Predictor(directory)
    columns = predictor.read(str(rows))
    found: dict[str, list[dict[str, Any]]] = {}
    start = 0
    for size, count in SIZES.items():
        found[str(size)] = requests = []
        for _ in range(count):
            part = {name: column[start : start + size] for name, column in columns.items()}
            scores = predictor.outputs(part)
            requests.append(
                {
                    "rest": _json(part),
                    "grpc": base64.b64encode(_proto(part)).decode(),
                    "scores": scores.ravel().tolist(),
                }
            )
            start += size
    return found


def _call_us(directory: Path) -> dict[str, float]:
    """Of the median call of the loaded model, as replicas call it."""
    from tuner.serving.model import Model, zeros

    model = Model(directory)
    signature = model.signature("")
    row = zeros(signature) or {}
    found = {}
    for size in SIZES:
        inputs, seconds = {name: column.repeat(size) for name, column in row.items()}, []
        for _ in range(_CALLS):
            begun = time.perf_counter()
            model.run(signature, inputs)
            seconds.append(time.perf_counter() - begun)
        found[str(size)] = 1e6 * median(seconds)
    return found


def _json(columns: Mapping[str, Any]) -> str:
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    named = [dict(zip(columns, map(_plain, row), strict=True)) for row in rows]
    return json.dumps({"instances": named})


def _plain(value: Any) -> Any:
    """Whole numbers as clients write them."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _proto(columns: Mapping[str, Any]) -> bytes:
    import tensorflow as tf

    from tuner.v1 import tensorflow_serving_pb2 as pb

    request = pb.PredictRequest(model_spec=pb.ModelSpec(name=MODEL))
    for name, column in columns.items():
        tensor = tf.make_tensor_proto(column.tolist(), _dtype(column))
        request.inputs[name] = tensor.SerializeToString()
    return request.SerializeToString()


def _dtype(column: Any) -> Any:
    import tensorflow as tf

    return tf.string if column.dtype == object else tf.float64


if __name__ == "__main__":
    main(sys.argv[1:])
