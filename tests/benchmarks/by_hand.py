"""The trials of the benchmark `study` as one writes them with Keras alone.

    python -m tests.benchmarks.by_hand CSV POINTS

POINTS is a JSON list of parameters. TensorFlow is imported and the rows are read into memory; then
one line of JSON says how long each trial took, and how much of the CPUs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from pyarrow import csv

from tuner.space import Value
from tuner_trainers.context import ENVIRONMENT

LABEL = "income"
#: What is made of the columns: the first in buckets, the others as numbers; then the words.
BUCKETED = "age"
NUMBERS = ("education_num", "hours_per_week")
LOGARITHMS = ("capital_gain", "capital_loss")
WORDS = ("workclass", "education", "marital_status", "occupation", "relationship", "sex")
VALIDATION = 0.2
#: What trains one trial at a time; the gang's worker has as many.
THREADS = 1

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Adult in memory: what no trial changes is encoded once."""

    bucketed: npt.NDArray[np.float64]
    rest: Floats
    labels: Floats

    @staticmethod
    def read(path: Path) -> Rows:
        """Reads and encodes the file."""
        table = csv.read_csv(path)
        numbers = [table[name].to_numpy().astype(float) for name in NUMBERS]
        numbers += [np.log1p(table[name].to_numpy()) for name in LOGARITHMS]
        blocks = [((column - column.mean()) / column.std())[:, None] for column in numbers]
        for name in WORDS:
            codes = pc.dictionary_encode(table[name].combine_chunks())
            indices = codes.indices.fill_null(len(codes.dictionary)).to_numpy()
            blocks.append(np.eye(len(codes.dictionary) + 1)[indices])
        labels = pc.equal(table[LABEL], ">50K").combine_chunks().to_numpy(zero_copy_only=False)
        return Rows(
            bucketed=table[BUCKETED].to_numpy().astype(float),
            rest=np.concatenate(blocks, axis=1).astype(np.float32),
            labels=labels.astype(np.float32),
        )

    def encoded(self, buckets: int) -> Floats:
        """All columns of a trial."""
        edges = np.quantile(self.bucketed, np.linspace(0, 1, buckets + 1)[1:-1])
        ones = np.eye(buckets, dtype=np.float32)[np.digitize(self.bucketed, edges)]
        return np.concatenate([ones, self.rest], axis=1)


def train(rows: Rows, point: Mapping[str, Value]) -> float:
    """Trains a trial; returns the area under the curve of its last epoch."""
    import keras  # imports TensorFlow, which this module's other users need not have

    keras.utils.set_random_seed(7)
    inputs = rows.encoded(int(point[f"{BUCKETED}.buckets"]))
    model = keras.Sequential([keras.Input((inputs.shape[1],))])
    for _ in range(int(point["layers"])):
        model.add(keras.layers.Dense(int(point["units"]), activation="relu"))
    model.add(keras.layers.Dense(1, activation="sigmoid"))
    model.compile(
        optimizer=keras.optimizers.Adam(float(point["learning_rate"])),
        loss="binary_crossentropy",
        metrics=[keras.metrics.AUC(name="auc")],
    )
    held = np.random.default_rng(7).random(len(inputs)) < VALIDATION
    history = model.fit(
        inputs[~held],
        rows.labels[~held],
        validation_data=(inputs[held], rows.labels[held]),
        epochs=int(point["epochs"]),
        batch_size=int(point["batch_size"]),
        verbose=0,
    )
    keras.backend.clear_session()
    return float(history.history["val_auc"][-1])


def prepare() -> None:
    """Imports TensorFlow, with as many threads as a gang's worker has."""
    os.environ.update(ENVIRONMENT)
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(2)


def main() -> None:
    """Trains the trials one after another."""
    path, points = Path(sys.argv[1]), json.loads(sys.argv[2])
    prepare()
    rows = Rows.read(path)
    found: list[dict[str, Any]] = []
    for point in points:
        begun, used = time.perf_counter(), time.process_time()
        auc = train(rows, point)
        seconds, used = time.perf_counter() - begun, time.process_time() - used
        found.append({"seconds": seconds, "cpu_seconds": used, "auc": auc})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
