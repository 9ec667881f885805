"""Examples per second of the image trainer, beside Keras's `fit` over tf.data on the same network.

The one written by hand decodes each image in its first epoch and keeps it in memory, as an expert
would. Ours decodes it before the first epoch of the first trial, for all trials of the machine.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.report import Report
from tuner.space import Value
from tuner.study import DataSource, Metric, StudySpec
from tuner_trainers.context import ENVIRONMENT, TrialTask

SIDE, BATCH_ROWS, CLASSES = 32, 64, 10
_BY_HAND, _OURS = "tf.data + fit", "ours"
_SETTINGS: Mapping[str, Value] = {"filters": 8, "stride": 2, "dropout": 0.0, "epochs": 1}
_SEED = 7

#: Trains an epoch.
Epoch = Callable[[], object]


def measure(folder: Path, quick: bool) -> Report:
    """Measures both in turn, an epoch each: a slow minute of the machine strikes both alike."""
    os.environ.update(ENVIRONMENT)
    rows, rounds = (4_000, 3) if quick else (20_000, 5)
    write_images(folder / "images.parquet", rows)
    prepared, started = {}, {}
    for name, prepare in ((_OURS, _ours), (_BY_HAND, _by_hand)):
        start = time.perf_counter()
        prepared[name] = prepare(folder)
        prepared[name]()  # in which graphs are made, and images decoded
        started[name] = time.perf_counter() - start
    epochs: dict[str, list[tuple[float, float]]] = {name: [] for name in prepared}
    for number in range(rounds):
        for name, epoch in prepared.items():
            print(f"{name}: epoch {number + 1} of {rounds}", file=sys.stderr, flush=True)
            start, cpu = time.perf_counter(), time.process_time()
            epoch()
            epochs[name].append((time.perf_counter() - start, time.process_time() - cpu))
    figures = {
        name: {
            "examples/s": rows / median(wall for wall, _ in of),
            "CPU us/example": 1e6 * median(cpu for _, cpu in of) / rows,
            "s to the first epoch's end": started[name],
        }
        for name, of in epochs.items()
    }
    ours, by_hand = figures[_OURS], figures[_BY_HAND]
    return Report(
        title=f"{rows:,} PNG images of {SIDE} x {SIDE}, batches of {BATCH_ROWS}, one worker",
        rows=figures,
        ratios={
            "keras_fit": ours["examples/s"] / by_hand["examples/s"],
            "keras_fit_cpu": ours["CPU us/example"] / by_hand["CPU us/example"],
        },
    )


def write_images(path: Path, rows: int) -> None:
    """Writes noisy images in colour, brighter by their label."""
    import tensorflow as tf  # only after the environment is set

    random = np.random.default_rng(_SEED)
    labels = random.integers(0, CLASSES, rows)
    images = [
        tf.io.encode_png(random.integers(0, 60 + 19 * label, (SIDE, SIDE, 3), np.uint8)).numpy()
        for label in labels.tolist()
    ]
    pq.write_table(pa.table({"image": pa.array(images, pa.binary()), "label": labels}), path)


def _task(folder: Path) -> TrialTask:
    from tuner_trainers.prepare import prepare

    source = DataSource(
        train_uri=str(folder / "images.parquet"), label="label", validation_fraction=0.1
    )
    spec = StudySpec(metrics=(Metric(name="val_accuracy"),), trainer="image", data=source)
    found = prepare(spec)
    learned = folder / "statistics.json"
    found.statistics.save(learned)
    return TrialTask(
        study="benchmark",
        trial=0,
        trainer="image",
        data=source,
        features=found.features,
        settings={**found.settings, **_SETTINGS, "batch_size": BATCH_ROWS},
        parameters={},
        metric=spec.metric,
        seed=_SEED,
        statistics_path=str(learned),
    )


def _ours(folder: Path) -> Epoch:
    import tensorflow as tf

    from tuner_trainers import model, rows
    from tuner_trainers.feed import Feed
    from tuner_trainers.heads import loss_of
    from tuner_trainers.loop import Loop
    from tuner_trainers.optimizers import build_optimizer
    from tuner_trainers.preprocessing import input_kinds
    from tuner_trainers.statistics import Statistics
    from tuner_trainers.storage import Storage
    from tuner_trainers.target import target_of

    task = _task(folder)
    learned = Statistics.load(task.statistics_path)
    target = target_of(task.data, learned)
    built = model.build_model(task, learned, target)
    storage, kinds = Storage(cache_dir=folder / "cache"), input_kinds(task.features, learned)
    raw = rows.load(task.data.train_uri, kinds, ("label", "number"), (), storage)
    loop = Loop(
        tf.distribute.get_strategy(),
        built.network,
        build_optimizer(built.parameters, built.network, 1),
        loss_of(target.task),
        Feed(rows.encode(raw, built.encoder, target).hold(), _SEED),
        batch_size=BATCH_ROWS,
    )

    def epochs() -> Iterator[float]:
        number = 0
        while True:
            number += 1
            yield loop.epoch(number, lambda steps, loss: None)

    made = epochs()
    return lambda: next(made)


def _by_hand(folder: Path) -> Epoch:
    """As Keras's documents say: decoded in parallel, cached, shuffled, batched, prefetched."""
    import keras
    import tensorflow as tf

    table = pq.read_table(folder / "images.parquet")

    def decode(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.io.decode_png(image, 3), label

    data = (
        tf.data.Dataset.from_tensor_slices((table["image"].to_pylist(), table["label"].to_numpy()))
        .map(decode, num_parallel_calls=tf.data.AUTOTUNE)
        .cache()
        .shuffle(len(table))
        .batch(BATCH_ROWS)
        .prefetch(tf.data.AUTOTUNE)
    )
    pixels = keras.Input((SIDE, SIDE, 3), dtype="uint8")
    seen = keras.layers.Rescaling(1 / 255)(pixels)
    for filters in (8, 16):
        seen = keras.layers.Conv2D(filters, 3, strides=2, padding="same", activation="relu")(seen)
    seen = keras.layers.Flatten()(seen)
    seen = keras.layers.Dense(64, activation="relu")(seen)
    network = keras.Model(pixels, keras.layers.Dense(CLASSES)(seen))
    network.compile(
        keras.optimizers.Adam(0.001),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,  # XLA is slower here
    )
    return lambda: network.fit(data, epochs=1, verbose=0)
