"""Processes that train one network on the same rows, fed in different ways.

    python -m tests.benchmarks.feeding CONTENDER FOLDER ALLOWED_BYTES

A process is ready when it has said so on standard output, trains one epoch for each line that it
reads, and says then how long that took.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tuner.study import DataSource, Feature, Metric
from tuner_trainers.context import ENVIRONMENT, TrialTask

#: The first is what one would write by hand; the last two are what no way of training can beat.
BY_HAND, HELD, STREAMED = "tf.data + fit", "ours, in memory", "ours, streamed"
PRODUCTS, PASS = "matrix products alone", "one pass over the columns"
BATCH_ROWS = 256
_SEED = 7
_PART_ROWS = 250_000
_WATCH_SECONDS = 0.02
_WORDS = (8, 30, 200, 2_000, 20_000)

FEATURES = (
    *(
        Feature(
            name=f"n{i}",
            kind="numeric",
            columns=(f"n{i}",),
            settings={"scaling": scaling, "buckets": buckets},
        )
        for i, (scaling, buckets) in enumerate(
            [("zscore", 16), ("log", 32), ("quantile", 1), ("zscore", 1), ("zscore", 1)]
        )
    ),
    *(
        Feature(
            name=f"w{i}",
            kind="categorical",
            columns=(f"w{i}",),
            settings={"vocabulary": 1000, "embedding": 8 if i > 1 else 0},
        )
        for i in range(len(_WORDS))
    ),
)


def write_rows(folder: Path, rows: int) -> int:
    """Writes rows with ten columns and a label as Parquet files, and their statistics.

    Returns:
        The size of the files in bytes.
    """
    from tuner_trainers import statistics  # what the parent process needs

    random = np.random.default_rng(_SEED)
    data = folder / "rows"
    data.mkdir()
    words = [[f"word {i:05} of {count}" for i in range(count)] for count in _WORDS]
    for part, start in enumerate(range(0, rows, _PART_ROWS)):
        count = min(_PART_ROWS, rows - start)
        numbers = random.normal(size=(5, count))
        codes = [(n * random.random(count) ** 2).astype(np.int32) for n in _WORDS]
        score = numbers[0] - numbers[3] + np.sin(codes[0]) + np.cos(codes[2])
        label = np.where(score + random.normal(size=count) > 0, "yes", "no")
        columns: dict[str, Any] = {f"n{i}": column for i, column in enumerate(numbers)}
        columns["n1"] = np.exp(columns["n1"])
        for i, column in enumerate(codes):
            columns[f"w{i}"] = pa.DictionaryArray.from_arrays(column, words[i])
        columns["label"] = pa.array(label)
        pq.write_table(pa.table(columns), data / f"{part:04}.parquet")
    statistics.scan(str(data)).save(folder / "statistics.json")
    return sum(file.stat().st_size for file in data.iterdir())


def compare(
    folder: Path, contenders: Sequence[str], allowed_bytes: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Lets the contenders train in turn, an epoch each; returns the figures of each.

    So a slow minute of the machine strikes all alike. The first epoch, in which graphs are made,
    does not count.
    """
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    figures: dict[str, dict[str, float]] = {}
    with ExitStack() as stack:
        ask = {
            name: stack.enter_context(_running(name, folder, allowed_bytes)) for name in contenders
        }
        for number in range(rounds + 1):
            for name in contenders:
                print(f"{name}: epoch {number} of {rounds}", file=sys.stderr, flush=True)
                figures[name] = ask[name]()
                if number:
                    found[name].append(figures[name])
    for name, epochs in found.items():
        examples = epochs[0]["examples"]
        figures[name] = {
            "examples/s": examples / median(epoch["seconds"] for epoch in epochs),
            "best examples/s": examples / min(epoch["seconds"] for epoch in epochs),
            "CPU us/example": 1e6 * median(epoch["cpu_seconds"] for epoch in epochs) / examples,
            **{name: epochs[-1][name] for name in ("loss",) if name in epochs[-1]},
            "peak RSS MiB": epochs[-1]["peak_mib"],
            "RSS before": epochs[-1]["before_mib"],
            "private MiB": epochs[-1]["private_mib"],
            "before": epochs[-1]["private_before_mib"],
        }
    return figures


@contextmanager
def _running(
    contender: str, folder: Path, allowed_bytes: int
) -> Iterator[Callable[[], dict[str, float]]]:
    """A process of a contender; the function asks it for an epoch."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.feeding", contender, folder, str(allowed_bytes)],
        env={**os.environ, **ENVIRONMENT, "CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def ask() -> dict[str, float]:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the process has no pipes.")
        process.stdin.write("\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{contender} ended with {process.wait(timeout=60)}.")
        answer: dict[str, float] = json.loads(line)
        return answer

    try:
        yield ask
    finally:
        process.kill()
        process.communicate()


def task_of(folder: Path) -> TrialTask:
    """The trial that every contender trains."""
    return TrialTask(
        study="benchmark",
        trial=0,
        trainer="tabular",
        data=DataSource(train_uri=str(folder / "rows"), label="label", validation_fraction=0.05),
        features=FEATURES,
        settings={"batch_size": BATCH_ROWS, "dropout": 0.0},
        parameters={},
        metric=Metric(name="val_auc"),
        seed=_SEED,
        statistics_path=str(folder / "statistics.json"),
    )


def _epochs(contender: str, folder: Path, allowed_bytes: int) -> Iterator[Mapping[str, float]]:
    """Trains an epoch for each item; gives its rows, its loss, and their size encoded."""
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

    task = task_of(folder)
    learned = Statistics.load(task.statistics_path)
    target = target_of(task.data, learned)
    built = model.build_model(task, learned, target)
    before = {
        "before_mib": _memory_mib("VmHWM"),
        "private_before_mib": _memory_mib("RssAnon"),
    }
    storage = Storage(cache_dir=folder / "cache", memory_bytes=allowed_bytes)
    raw = rows.load(
        task.data.train_uri, input_kinds(FEATURES, learned), ("label", "string"), (), storage
    )
    all_rows = rows.encode(raw, built.encoder, target)
    given = {**before, "examples": all_rows.count}
    if contender == STREAMED and all_rows.encoded_bytes <= storage.most_memory_bytes:
        raise ValueError("the rows fit into the memory that is allowed.")
    if contender in (PRODUCTS, PASS):
        while True:
            if contender == PASS:
                for column in raw.table.columns.values():
                    np.add.reduce(column.values)
            else:
                _products(built.network, all_rows.count)
            yield given
    if contender == BY_HAND:
        inputs = all_rows.encoded(slice(None))
        labels = tf.constant(target.learned(all_rows.labels()))
        for loss in _by_hand(built.network, inputs, labels):
            yield {**given, "loss": loss}
    feed = Feed(all_rows if contender == STREAMED else all_rows.hold(), _SEED)
    loop = Loop(
        tf.distribute.get_strategy(),
        built.network,
        build_optimizer(built.parameters, built.network, 1),
        loss_of(target.task),
        feed,
        batch_size=BATCH_ROWS,
    )
    number = 0
    while True:
        number += 1
        yield {**given, "loss": loop.epoch(number, lambda steps, loss: None)}


def _by_hand(network: Any, inputs: Mapping[str, Any], labels: Any) -> Iterator[float]:
    """Keras's `fit` over tf.data as an expert would: a permutation, gathered by whole batches."""
    import keras
    import tensorflow as tf

    count = len(labels)

    def batch(index: Any) -> Any:
        return {k: tf.gather(v, index) for k, v in inputs.items()}, tf.gather(labels, index)

    def order(_: Any) -> Any:
        # Shuffling and batching row by row takes longer than training: 2.5 times in all.
        shuffled = tf.random.shuffle(tf.range(count // BATCH_ROWS * BATCH_ROWS))
        return tf.data.Dataset.from_tensor_slices(tf.reshape(shuffled, (-1, BATCH_ROWS)))

    data = (
        tf.data.Dataset.range(1)
        .flat_map(order)
        .map(batch, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
        .repeat()
    )
    network.compile(
        keras.optimizers.Adam(0.002),
        keras.losses.BinaryCrossentropy(from_logits=True),
        steps_per_execution=64,
        jit_compile=False,  # XLA is slower here
    )
    while True:
        fitted = network.fit(data, steps_per_epoch=count // BATCH_ROWS, epochs=1, verbose=0)
        yield float(fitted.history["loss"][0])


def _products(network: Any, count: int) -> None:
    """The matrix products of an epoch and nothing else: one forward and two backward for each."""
    import tensorflow as tf

    from tuner_trainers.tabular import MATMUL_LIMIT

    shapes = [tuple(w.shape) for w in network.trainable_weights if len(w.shape) == 2]
    shapes = [(rows, width) for rows, width in shapes if rows <= MATMUL_LIMIT]

    def run(steps: Any) -> Any:
        values = [
            (tf.ones((BATCH_ROWS, i)), tf.ones((i, o)), tf.ones((BATCH_ROWS, o)))
            for i, o in shapes
        ]

        def step(n: Any, total: Any) -> Any:
            for x, w, y in values:
                x = x + total  # or the product would be taken out of the loop
                forward, to_w = tf.matmul(x, w), tf.matmul(x, y, transpose_a=True)
                to_x = tf.matmul(y + total, w, transpose_b=True)
                total = total + 0.0 * (forward[0, 0] + to_w[0, 0] + to_x[0, 0])
            return n + 1, total

        start = (tf.constant(0), tf.constant(0.0))
        return tf.while_loop(lambda n, _: n < steps, step, start)

    tf.function(run, autograph=False)(tf.constant(count // BATCH_ROWS))


class _Peak:
    """The most private memory that this process has had, looked at all the time."""

    def __init__(self) -> None:
        self.mib = 0.0
        threading.Thread(target=self._watch, name="memory", daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.mib = max(self.mib, _memory_mib("RssAnon"))
            time.sleep(_WATCH_SECONDS)


def _memory_mib(name: str) -> float:
    """A figure of /proc/self/status: VmHWM is the peak, RssAnon what is not of mapped files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(contender: str, folder: Path, allowed_bytes: int) -> None:
    """Answers each line of standard input with the figures of an epoch."""
    epochs, peak = _epochs(contender, folder, allowed_bytes), _Peak()
    for _ in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        told = next(epochs)
        answer = {
            **told,
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - cpu,
            "peak_mib": _memory_mib("VmHWM"),
            "private_mib": peak.mib,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
