"""Small trainers for gangs: the real loop of two workers, on data made up from a seed."""

from __future__ import annotations

import os
import random
import sys
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tuner.errors import InfeasibleError
from tuner.runner.worker import Context
from tuner_trainers.context import Result, TrialTask

if TYPE_CHECKING:
    import tensorflow as tf

BATCH = 32


def fit(
    units: int,
    epochs: int,
    context: Context,
    strategy: tf.distribute.Strategy | None,
    *,
    after_epoch: Callable[[int, Context], None] = lambda epoch, context: None,
) -> Result:
    """Fits a line with a hidden layer; returns the loss of each epoch as metrics."""
    import keras
    import tensorflow as tf

    keras.backend.clear_session()
    keras.utils.set_random_seed(7)
    strategy = strategy or tf.distribute.get_strategy()
    random = np.random.default_rng(0)
    x = random.normal(size=(BATCH * 4, 5)).astype("float32")
    y = (x @ random.normal(size=(5, 1))).astype("float32")
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    rows = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH).repeat().with_options(options)
    with strategy.scope():
        layers = [keras.layers.Dense(units, activation="tanh"), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((5,)), *layers])
        optimizer = keras.optimizers.SGD(0.05)
        optimizer.build(model.trainable_variables)

    @tf.function  # type: ignore[untyped-decorator]
    def step(batches: object) -> object:
        def replica(x: object, y: object) -> object:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(model(x, training=True) - y)) / BATCH
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            return loss

        losses = strategy.run(replica, args=next(batches))  # type: ignore[call-overload]
        return strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)

    batches = iter(strategy.experimental_distribute_dataset(rows))
    losses = []
    for epoch in range(epochs):
        losses.append(float(sum(float(step(batches)) for _ in range(4))))
        after_epoch(epoch, context)
    print(f"rank {context.rank} of {context.workers} is done")
    return Result(
        metrics={f"loss{epoch}": loss for epoch, loss in enumerate(losses)},
        step=epochs,
        stopped=False,
    )


def fail(kind: str, context: Context, strategy: tf.distribute.Strategy | None) -> Result:
    """Raises what a trainer may raise, on every rank."""
    print("about to fail")
    errors: dict[str, BaseException] = {
        "value": ValueError("units must be even\nand so on"),
        "infeasible": InfeasibleError("the loss is not a number."),
        "exit": SystemExit(3),
    }
    if kind == "memory":
        np.ones(2**50)
    raise errors[kind]


def look_around(context: Context, strategy: tf.distribute.Strategy | None) -> Result:
    """Returns what a trial may find changed, as numbers."""
    import keras
    import tensorflow as tf

    seen = (
        sorted(os.environ.items()),
        os.getcwd(),
        sys.path,
        keras.config.floatx(),
        keras.config.epsilon(),
        keras.config.image_data_format(),
        keras.config.dtype_policy().name,
        keras.layers.Dense(1).name,
        tf.config.functions_run_eagerly(),
        random.random(),
        float(np.random.random()),
        float(tf.random.normal(())),
    )
    metrics = {str(n): float(zlib.crc32(repr(what).encode())) for n, what in enumerate(seen)}
    return Result(metrics=metrics, step=1, stopped=False)


def spoil(context: Context, strategy: tf.distribute.Strategy | None) -> Result:
    """Changes all of that, and fails."""
    import keras
    import tensorflow as tf

    os.environ["LEFT_BEHIND"] = "1"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"
    os.chdir("/")
    sys.path.insert(0, "/nowhere")
    keras.config.set_floatx("float64")
    keras.config.set_epsilon(0.5)
    keras.config.set_image_data_format("channels_first")
    keras.mixed_precision.set_global_policy("mixed_float16")
    keras.utils.set_random_seed(99)
    keras.layers.Dense(1)
    tf.config.run_functions_eagerly(True)
    raise ValueError("spoilt")


def leave_a_thread(context: Context, strategy: tf.distribute.Strategy | None) -> Result:
    """Leaves a thread that does not end."""
    threading.Thread(target=time.sleep, args=(60,), name="forgotten", daemon=True).start()
    return Result(metrics={}, step=1, stopped=False)


def leak(mib: int, context: Context, strategy: tf.distribute.Strategy | None) -> Result:
    """Keeps memory for ever: in a module that every trial of the process shares."""
    sys.modules[Path.__module__].__dict__.setdefault("_leaked", []).append(np.ones(mib * 2**17))
    return Result(metrics={}, step=1, stopped=False)


def fail_on_one_rank(context: Context, strategy: tf.distribute.Strategy | None) -> Result:
    """Fails on rank 1 while rank 0 waits for it."""
    if context.rank == 1:
        raise ValueError("only here")
    return fit(4, 1000, context, strategy)


def die_on_one_rank(
    folder: str, signal: int, context: Context, strategy: tf.distribute.Strategy | None
) -> Result:
    """Kills rank 1's process in the middle of the training."""

    def die(epoch: int, context: Context) -> None:
        if context.rank == 1 and epoch == 2:
            Path(folder, "died").write_text(str(os.getpid()))
            print("about to die", flush=True)
            os.kill(os.getpid(), signal)

    return fit(4, 1000, context, strategy, after_epoch=die)


def linger(folder: str, context: Context, strategy: tf.distribute.Strategy | None) -> Result:
    """Trains for long."""

    def pause(epoch: int, context: Context) -> None:
        Path(folder, f"rank{context.rank}").write_text(str(os.getpid()))
        time.sleep(0.1)

    return fit(4, 10_000, context, strategy, after_epoch=pause)


def where(context: Context, strategy: tf.distribute.Strategy | None) -> Result:
    """Returns the process id."""
    return Result(metrics={"pid": os.getpid()}, step=1, stopped=False)


def losses_of(result: Result) -> Sequence[float]:
    """The losses in the order of epochs."""
    return [result.metrics[f"loss{epoch}"] for epoch in range(result.step)]


def tabular(
    task: TrialTask,
    folder: str,
    pauses: Sequence[int],
    checkpoint: str,
    context: Context,
    strategy: tf.distribute.Strategy | None,
) -> Result:
    """Trains a trial of the box; tells of each epoch by a file, and waits for one after some."""
    from tests.integration import trials
    from tuner_trainers import training

    def decide(step: int, metrics: Mapping[str, float]) -> bool:
        Path(folder, f"epoch{step}").write_text(repr(metrics["loss"]))
        deadline = time.monotonic() + 120
        while step in pauses and not Path(folder, f"go{step}").exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody said go after epoch {step}")
            time.sleep(0.02)
        return True

    mine = trials.Context(context.artifact_dir, workers=context.workers)
    mine.decide = decide
    mine.checkpoint = Path(checkpoint) if checkpoint else None
    training.train(task, mine, strategy, trials.storage(Path(task.statistics_path).parent))
    losses = {f"loss{n}": report["loss"] for n, report in enumerate(mine.reports)}
    return Result(metrics=losses, step=len(losses), stopped=False)
