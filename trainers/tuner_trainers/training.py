"""Trains one trial, from its task to its artifacts."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tuner import code
from tuner.errors import DataError, InfeasibleError
from tuner.trainer_spaces import Task, check_metric
from tuner_trainers import artifacts, data, golden, metrics, own, rows
from tuner_trainers.artifacts import TrialRecord
from tuner_trainers.context import Result, TrialContext, TrialTask
from tuner_trainers.feed import Feed
from tuner_trainers.golden import Golden
from tuner_trainers.heads import loss_of
from tuner_trainers.loop import Loop
from tuner_trainers.model import Model, build_model
from tuner_trainers.optimizers import build_optimizer
from tuner_trainers.preprocessing import input_kinds
from tuner_trainers.rows import Rows
from tuner_trainers.statistics import Statistics
from tuner_trainers.storage import Storage
from tuner_trainers.target import target_of

Outputs = npt.NDArray[np.floating[Any]]


def train(
    task: TrialTask,
    context: TrialContext,
    strategy: tf.distribute.Strategy | None = None,
    storage: Storage | None = None,
) -> Result:
    """Trains a trial; every process of a gang calls it with the same task.

    Rows that do not fit into the memory that the storage allows are encoded as they are needed,
    in the same order. Rank 0 reports each epoch to the context and writes the artifacts; only its
    result has metrics.

    Raises:
        InfeasibleError: the loss or the study's metric is not a number.
        DataError: the data cannot be used.
        Exception: what reporting raised, on rank 0; the others return as if told to stop.
    """
    keras.utils.set_random_seed(trial_seed(task))
    try:
        strategy = strategy or tf.distribute.get_strategy()
        with own.importing(task.code, Path(task.artifacts)):
            return _train(task, context, strategy, storage or Storage())
    finally:
        # Frees the graphs, so that a process trains trial after trial in the same memory.
        keras.backend.clear_session()


def trial_seed(task: TrialTask) -> int:
    """The seed of a trial's weights and of the order of its rows, the same on every rank."""
    return int(np.random.SeedSequence([task.seed, task.trial]).generate_state(1)[0])


class _Decision(IntEnum):
    """What rank 0 tells the others after an epoch."""

    CONTINUE = 0
    STOP = 1
    ABORT = 2


def _train(
    task: TrialTask, context: TrialContext, strategy: tf.distribute.Strategy, storage: Storage
) -> Result:
    statistics = Statistics.load(Path(task.statistics_path))
    target = target_of(task.data, statistics)
    check_metric(task.metric, target.task)
    model = build_model(task, statistics, target, strategy)
    training, validation = _rows(task, statistics, model, storage)
    loop = _loop(task, model, training, strategy)
    epochs = int(model.parameters["epochs"])
    if context.rank:
        stopped = _run(loop, epochs, lambda epoch, loss: _Decision.CONTINUE)
        return Result(metrics={}, step=0, stopped=stopped)
    leader = _Leader(task, context, statistics, model, validation, storage)
    stopped = _run(loop, epochs, leader.after)
    return leader.finish(stopped)


def _run(loop: Loop, epochs: int, after: Callable[[int, float], _Decision]) -> bool:
    """Trains epoch after epoch until rank 0 says stop; returns whether it did before the end."""
    for epoch in range(1, epochs + 1):
        loss = loop.epoch(epoch)
        decision = _Decision.ABORT
        try:
            decision = after(epoch, loss)
        finally:
            # The others wait for this, whatever happened here.
            decision = _Decision(round(loop.sum(decision)))
        if decision is not _Decision.CONTINUE:
            return epoch < epochs
    return False


def _rows(
    task: TrialTask, statistics: Statistics, model: Model, storage: Storage
) -> tuple[Rows, Rows]:
    """The rows that train and those that validate; each has a label."""
    whole = _load(task, task.data.train_uri, statistics, model, storage)
    if task.data.validation_uri:
        training = whole.labelled()
        validation = _load(task, task.data.validation_uri, statistics, model, storage).labelled()
    else:
        fraction = task.data.validation_fraction or 0.0
        kept, held_out = data.split(whole.count, fraction, task.seed)
        training, validation = whole.take(kept).labelled(), whole.take(held_out).labelled()
    if not training.count:
        raise DataError(f"{task.data.train_uri} has no row with a label to train on.")
    classes = len(np.unique(validation.labels()))
    if not classes or (model.target.task is Task.BINARY and classes < 2):
        raise DataError(
            f"the {validation.count} validation rows hold "
            f"{'one class' if classes else 'no label'} only; set more rows apart."
        )
    if training.encoded_bytes + validation.encoded_bytes <= storage.most_memory_bytes:
        return training.hold(), validation.hold()
    return training, validation


def _load(
    task: TrialTask, uri: str, statistics: Statistics, model: Model, storage: Storage
) -> Rows:
    label = statistics.columns[task.data.label]
    raw = rows.load(
        uri,
        input_kinds(task.features, statistics),
        (label.name, label.kind),
        task.data.missing_values,
        storage,
    )
    return rows.encode(raw, model.encoder, model.target)


def _loop(task: TrialTask, model: Model, training: Rows, strategy: tf.distribute.Strategy) -> Loop:
    with strategy.scope():
        optimizer = build_optimizer(model.parameters, model.network)
    return Loop(
        strategy,
        model.network,
        optimizer,
        loss_of(model.target.task),
        Feed(training, trial_seed(task)),
        batch_size=int(model.parameters["batch_size"]),
    )


@dataclass(frozen=True, slots=True)
class _Best:
    """The best epoch so far, with what its weights predict for the validation rows."""

    step: int
    metrics: Mapping[str, float]
    weights: artifacts.Weights
    outputs: Outputs


class _Leader:
    """Rank 0's part: it evaluates, reports, remembers the best epoch and writes the artifacts."""

    def __init__(
        self,
        task: TrialTask,
        context: TrialContext,
        statistics: Statistics,
        model: Model,
        validation: Rows,
        storage: Storage,
    ) -> None:
        self._task, self._context, self._statistics = task, context, statistics
        self._model, self._validation, self._storage = model, validation, storage
        self._forward = model.forward()
        self._best: _Best | None = None
        self._history: list[Mapping[str, float]] = []

    def after(self, epoch: int, loss: float) -> _Decision:
        """Evaluates and reports an epoch."""
        outputs = self._predicted(self._validation)
        measured = {"loss": loss, **self._measure("val", self._validation, outputs)}
        self._check(epoch, measured)
        measured = _finite(measured)
        metric, best = self._task.metric, self._best
        if best is None or metric.goal.better(measured[metric.name], best.metrics[metric.name]):
            weights = self._model.network.get_weights()
            self._best = _Best(epoch, measured, weights, outputs)
        self._history.append({"step": epoch, **measured})
        go_on = self._context.report(epoch, measured)
        return _Decision.CONTINUE if go_on else _Decision.STOP

    def finish(self, stopped: bool) -> Result:
        """Writes the artifacts of the best epoch."""
        best = self._best
        if best is None:
            raise InfeasibleError("no epoch was trained; `epochs` must be at least 1.")
        self._model.network.set_weights(best.weights)
        directory = self._context.artifact_dir
        self._write_predictions(directory / artifacts.VALIDATION, self._validation, best.outputs)
        measured = {**best.metrics, **self._test(directory)}
        result = Result(metrics=measured, step=best.step, stopped=stopped)
        if self._task.code:
            code.copy(self._task.code, Path(self._task.artifacts), directory)
        artifacts.write_weights(directory, best.weights)
        artifacts.write_text(directory / artifacts.STATISTICS, self._statistics.to_json())
        artifacts.write_text(directory / artifacts.GOLDEN, golden.dumps(self._golden()))
        artifacts.write_text(directory / artifacts.HISTORY, json.dumps(self._history))
        artifacts.write_record(directory, self._record(result))
        return result

    def _check(self, epoch: int, measured: Mapping[str, float]) -> None:
        for name in ("loss", self._task.metric.name):
            if not np.isfinite(measured[name]):
                raise InfeasibleError(
                    f"`{name}` is {measured[name]:g} after epoch {epoch}: the training diverged, "
                    "which a lower learning_rate may prevent."
                )

    def _measure(self, prefix: str, part: Rows, outputs: Outputs) -> dict[str, float]:
        """The metrics of the rows with a label."""
        target = self._model.target
        labels = part.labels()
        known = np.isfinite(labels)
        measured = metrics.evaluate(target.task, labels[known], outputs[known], target.deviation)
        return {f"{prefix}_{name}": value for name, value in measured.items()}

    def _predicted(self, part: Rows) -> Outputs:
        return np.concatenate([self._forward(inputs) for inputs in part.chunks()])

    def _test(self, directory: Path) -> Mapping[str, float]:
        """Predicts the test rows, if there are any; returns their metrics."""
        uri = self._task.data.test_uri
        if not uri:
            return {}
        part = _load(self._task, uri, self._statistics, self._model, self._storage)
        outputs = self._predicted(part)
        self._write_predictions(directory / artifacts.TEST, part, outputs)
        return _finite(self._measure("test", part, outputs))

    def _write_predictions(self, path: Path, part: Rows, outputs: Outputs) -> None:
        predicted = self._model.target.predicted(outputs)
        label = part.raw.label
        actual = part.raw.take(part.places, [label])[label]
        artifacts.write_predictions(path, part.places, predicted, actual)

    def _golden(self) -> Golden:
        words = self._task.data.missing_values
        chosen = golden.choose(self._validation, self._statistics, words)
        encoded = self._model.encoder.encode(golden.tensors(chosen))
        return Golden(chosen, self._forward(encoded))

    def _record(self, result: Result) -> TrialRecord:
        return TrialRecord(
            task=self._task,
            target=self._model.target,
            result=result,
            inputs=input_kinds(self._task.features, self._statistics),
            data_fingerprint=self._statistics.fingerprint,
            versions=versions(),
        )


def versions() -> dict[str, str]:
    """The versions of what trains and exports models."""
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }


def _finite(measured: Mapping[str, float]) -> dict[str, float]:
    """The metrics that the rows define."""
    return {name: value for name, value in measured.items() if np.isfinite(value)}
