"""The main job on real data: from a study file to predictions of raw rows, by the command line."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import r2_score, roc_auc_score

from tests.acceptance.support import Up

pytestmark = pytest.mark.timeout(900)

ADULT = """
study: adult-income
metric: {name: val_auc, goal: maximize}
data: {train: TRAIN, validation: 0.2, test: TEST, label: income}
trainer: tabular
features:
  age: {kind: numeric, buckets: {int: [2, 64], log: true}}
  education_num: {kind: numeric}
  capital_gain: {kind: numeric, scaling: {categorical: [zscore, log, quantile]}, buckets: 16}
  capital_loss: {kind: numeric, scaling: log, buckets: {int: [0, 32]}}
  hours_per_week: {kind: numeric, buckets: {int: [0, 32]}}
  workclass: {kind: categorical}
  education: {kind: categorical}
  marital_status: {kind: categorical}
  occupation: {kind: categorical}
  relationship: {kind: categorical}
  race: {kind: categorical}
  sex: {kind: categorical}
  native_country: {kind: categorical, vocabulary: {int: [8, 64]}, embedding: {int: [2, 16]}}
  age x hours_per_week: {kind: cross, buckets: {int: [64, 1024], log: true}}
parameters:
  layers: {int: [1, 4]}
  units: {int: [16, 256], log: true}
  learning_rate: {float: [1.0e-4, 1.0e-1], log: true}
search: {algorithm: auto, early_stopping: asha, seed: 7}
limits: {trials: 3, parallel: 1}
training: {epochs: 5, batch_size: {int: [128, 512], log: true}}
resources: {strategy: multi_worker, workers: 2}
export: {model: adult-income}
"""

FLIGHTS = """
study: flights
metric: {name: val_rmse, goal: minimize}
data: {train: TRAIN, validation: 0.2, label: arr_delay,
       exclude: [dep_delay, dep_time, arr_time, air_time]}
trainer: tabular
features:
  month: {kind: categorical}
  hour: {kind: numeric, buckets: {int: [0, 24]}}
  distance: {kind: numeric, scaling: log}
  carrier: {kind: categorical}
  origin: {kind: categorical}
  dest: {kind: categorical, vocabulary: {int: [16, 128]}, embedding: {int: [2, 16]}}
  tailnum: {kind: categorical, hash_buckets: {int: [64, 2048], log: true}, embedding: 8}
  month x hour: {kind: cross, buckets: 256}
search: {seed: 3}
limits: {trials: 2, parallel: 1}
training: {epochs: 4}
"""

NUMBERS = ("age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The addresses of a running tuner."""
    run = Up(tmp_path_factory.mktemp("home"))
    try:
        yield run.ready()
        run.stop()
    finally:
        run.end()


def tuner(*arguments: str | Path, timeout_seconds: float = 600) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tuner.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def submit(address: str, text: str, tmp_path: Path) -> dict[str, Any]:
    file = tmp_path / "study.yaml"
    file.write_text(text)
    tuner("check", file)
    outcome: dict[str, Any] = json.loads(
        tuner("--server", address, "submit", file, "--wait", "--json")
    )
    return outcome


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_without(path: Path, rows: Sequence[dict[str, str]], label: str) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [n for n in rows[0] if n != label], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def awkward(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The rows, some with values that are missing or that training has never seen."""
    found = [dict(row) for row in rows]
    for row in found[::23]:
        row["native_country"], row["hours_per_week"] = "Atlantis", ""
    for row in found[7::29]:
        row["occupation"], row["age"] = "", "-3.5e9"
    return found


def by_grpc(address: str, endpoint: str, rows: Sequence[dict[str, str]]) -> list[float]:
    """What TensorFlow Serving's own client gets: the scores of the second class."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    scores: list[float] = []
    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for start in range(0, len(rows), 2000):
            chunk = rows[start : start + 2000]
            request = predict_pb2.PredictRequest()
            request.model_spec.name = endpoint
            for name in rows[0]:
                values: list[Any] = [row[name] for row in chunk]
                if name in NUMBERS:
                    floats = [float(value or "nan") for value in values]
                    tensor = tf.make_tensor_proto(floats, tf.float64)
                else:
                    tensor = tf.make_tensor_proto(values, tf.string)
                request.inputs[name].CopyFrom(tensor)
            answer = stub.Predict(request, timeout=60)
            scores += tf.make_ndarray(answer.outputs["scores"])[:, 1].tolist()
    return scores


def test_adult_from_study_file_to_predictions(
    up: dict[str, Any], shared_data: Path, tmp_path: Path
) -> None:
    adult, server = shared_data / "adult", up["address"]
    rows, test = awkward(read_csv(adult / "test.csv")), tmp_path / "test.csv"
    write_without(test, rows, "")
    study = ADULT.replace("TRAIN", str(adult / "train.csv")).replace("TEST", str(test))
    outcome = submit(server, study, tmp_path)
    counts = outcome["trials"]
    assert outcome["state"] == "COMPLETED"
    assert counts["succeeded"] + counts["pruned"] == 3, counts

    model = tmp_path / "exported"
    tuner("--server", server, "export", "adult-income", "--to", model)
    write_without(tmp_path / "rows.csv", rows, "income")
    output = tmp_path / "predictions.csv"
    tuner("predict", model, "--input", tmp_path / "rows.csv", "--output", output)
    predicted = read_csv(output)
    assert len(predicted) == len(rows)

    scores = np.array([float(row["probability(>50K)"]) for row in predicted])
    usual = [at for at, row in enumerate(read_csv(adult / "test.csv")) if row == rows[at]]
    auc = roc_auc_score([rows[at]["income"] == ">50K" for at in usual], scores[usual])
    print(f"adult: test AUC {auc:.4f}")
    assert auc >= 0.900

    # What the training process predicted for the same rows, before there was a model to export.
    best = outcome["best_trials"][0]
    recorded = pq.read_table(Path(best["artifact_uri"]) / "test.parquet").to_pydict()
    assert recorded["_row"] == list(range(len(rows)))
    assert [row["income"] for row in predicted] == recorded["income"]
    trained = np.array(recorded["probability(>50K)"])
    assert np.abs(scores - trained).max() <= 1e-6

    # The same over REST and gRPC, from the winner that the study published.
    tuner("--server", server, "deploy", "adult-income")
    file = tmp_path / "rows.csv"
    tuner("--server", server, "predict", "adult-income", "--input", file, "--output", output)
    served = read_csv(output)
    assert [row["income"] for row in served] == recorded["income"]
    by_rest = np.array([float(row["probability(>50K)"]) for row in served])
    assert np.abs(by_rest - trained).max() <= 1e-6
    raw = [{name: row[name] for name in row if name != "income"} for row in rows]
    found = np.array(by_grpc(up["grpc"], "adult-income", raw))
    assert np.abs(found - trained).max() <= 1e-6


def test_flights_beat_the_mean(up: dict[str, Any], shared_data: Path, tmp_path: Path) -> None:
    server = up["address"]
    flights = shared_data / "flights" / "flights.csv"
    rows = read_csv(flights)
    held_out, known = rows[::5], [row for number, row in enumerate(rows) if number % 5 == 1]
    train = tmp_path / "train.csv"
    with train.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(known)
    study = submit(server, FLIGHTS.replace("TRAIN", str(train)), tmp_path)
    assert study["state"] == "COMPLETED"

    model = tmp_path / "exported"
    tuner("--server", server, "export", "flights", "--to", model)
    flown = [row for row in held_out if row["arr_delay"]]
    write_without(tmp_path / "rows.csv", flown, "arr_delay")
    output = tmp_path / "predictions.csv"
    tuner("predict", model, "--input", tmp_path / "rows.csv", "--output", output)
    truth = [float(row["arr_delay"]) for row in flown]
    predicted = [float(row["arr_delay"]) for row in read_csv(output)]
    explained = r2_score(truth, predicted)
    print(f"flights: R2 {explained:.3f} on rows never seen; predicting the mean gives 0")
    assert explained > 0.02
