"""Trains one trial, from its task to its artifacts."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tuner import code
from tuner.errors import DataError, InfeasibleError
from tuner.trainer_spaces import Task, check_metric, effective_parameters
from tuner_trainers import artifacts, checkpoints, data, golden, metrics, own, rows
from tuner_trainers.artifacts import TrialRecord
from tuner_trainers.checkpoints import Best, Snapshot, State, Writer
from tuner_trainers.class_weights import class_weights
from tuner_trainers.context import Result, TrialContext, TrialTask
from tuner_trainers.coordinated import is_coordinated, loop_of
from tuner_trainers.feed import Feed
from tuner_trainers.golden import Golden
from tuner_trainers.heads import loss_of
from tuner_trainers.loop import Loop
from tuner_trainers.model import Model, build_model, trained_model
from tuner_trainers.optimizers import build_optimizer
from tuner_trainers.preprocessing import input_kinds
from tuner_trainers.rows import Rows
from tuner_trainers.statistics import Statistics
from tuner_trainers.storage import Storage
from tuner_trainers.target import Target, target_of

Outputs = npt.NDArray[np.floating[Any]]

logger = logging.getLogger(__name__)


def train(
    task: TrialTask,
    context: TrialContext,
    strategy: tf.distribute.Strategy | None = None,
    storage: Storage | None = None,
) -> Result:
    """Trains a trial; every process of a gang calls it with the same task.

    Rows that do not fit into the memory that the storage allows are encoded as they are needed,
    in the same order. Rank 0 reports each epoch to the context and writes checkpoints and the
    artifacts; only its result has metrics. Where the context knows a checkpoint, training goes on
    from it, after what it had measured until then was reported again.

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
    model, trained = _models(task, statistics, target, strategy)
    training, validation = _rows(task, statistics, model, storage)
    epochs, batch_size = (int(model.parameters[name]) for name in ("epochs", "batch_size"))
    with strategy.scope():
        steps = epochs * -(-training.count // batch_size)
        optimizer = build_optimizer(model.parameters, trained.network, steps)
    loop = loop_of(strategy)(
        strategy,
        trained.network,
        optimizer,
        loss_of(target.task),
        Feed(training, trial_seed(task)),
        batch_size=batch_size,
        class_weights=class_weights(model.parameters, target, training),
    )
    state = State(trained.network, optimizer)
    key = checkpoints.task_key(task, statistics.fingerprint)
    start = _resume(loop, context, checkpoints.load(context, key, state), state)
    if context.rank:
        stopped = _run(loop, trained, start, _Follower())
        return Result(metrics={}, step=0, stopped=stopped)
    with closing(Writer(context, key)) as writer:
        leader = _Leader(
            task, context, statistics, model, trained, validation, storage, state, writer
        )
        stopped = _run(loop, trained, start, leader)
        return leader.finish(stopped)


def _models(
    task: TrialTask, statistics: Statistics, target: Target, strategy: tf.distribute.Strategy
) -> tuple[Model, Model]:
    """The model that is measured and exported, and the one that is trained: mostly the same.

    What is measured computes in float32 and in this process, as the exported model will.
    """
    parameters = effective_parameters(task.trainer, task.settings, task.parameters)
    if parameters["precision"] == "float32" and not is_coordinated(strategy):
        model = build_model(task, statistics, target, strategy)
        return model, model
    model = build_model(task, statistics, target)
    return model, trained_model(task, model, strategy)


def _resume(
    loop: Loop, context: TrialContext, found: Snapshot | None, state: State
) -> Snapshot | None:
    """Takes up a checkpoint if every rank could read it: all of them, or none."""
    if context.checkpoint is None or round(loop.sum(found is not None)) < context.workers:
        return None
    if found is None:
        return None
    state.set(found.variables)
    return replace(found, loss_sum=0.0) if context.rank else found


class _Follower:
    """The part of the other ranks: they do as rank 0 does."""

    def resume(self, start: Snapshot) -> _Decision:
        """Knows nothing."""
        return _Decision.CONTINUE

    def after(self, epoch: int, found: Mapping[str, float]) -> _Decision:
        """Knows nothing."""
        return _Decision.CONTINUE

    def between(self, steps: int, loss_sum: float) -> None:
        """Has nothing to do."""


def _run(loop: Loop, trained: Model, start: Snapshot | None, part: _Leader | _Follower) -> bool:
    """Trains epoch after epoch until rank 0 says stop; returns whether it did before the end."""
    epochs, done, steps = int(trained.parameters["epochs"]), 0, 0
    loss_sum = 0.0
    if start is not None:
        done, steps, loss_sum = start.epoch, start.steps, start.loss_sum
        if _agree(loop, partial(part.resume, start)) is not _Decision.CONTINUE:
            return done < epochs
    for epoch in range(done + 1, epochs + 1):
        loss = loop.epoch(epoch, part.between, steps=steps, loss_sum=loss_sum)
        steps, loss_sum = 0, 0.0
        found = {**trained.after_epoch(epoch), "loss": loss}
        if _agree(loop, partial(part.after, epoch, found)) is not _Decision.CONTINUE:
            return epoch < epochs
    return False


def _agree(loop: Loop, decide: Callable[[], _Decision]) -> _Decision:
    """What rank 0 decides, in every process."""
    decision = _Decision.ABORT
    try:
        decision = decide()
    finally:
        # The others wait for this, whatever happened here.
        decision = _Decision(round(loop.sum(decision)))
    return decision


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


class _Leader:
    """Rank 0's part: it evaluates, reports, remembers the best epoch and writes what is kept."""

    def __init__(
        self,
        task: TrialTask,
        context: TrialContext,
        statistics: Statistics,
        model: Model,
        trained: Model,
        validation: Rows,
        storage: Storage,
        state: State,
        writer: Writer,
    ) -> None:
        self._task, self._context, self._statistics = task, context, statistics
        self._model, self._trained = model, trained
        self._validation, self._storage = validation, storage
        self._state, self._writer = state, writer
        self._epochs = int(model.parameters["epochs"])
        self._forward = model.forward()
        self._best: Best | None = None
        self._history: list[Mapping[str, float]] = []

    def resume(self, start: Snapshot) -> _Decision:
        """Goes on from a checkpoint; reports what is in it, so that the trial's curve is whole."""
        logger.info(
            "going on after epoch %d and %d steps, from %s",
            start.epoch,
            start.steps,
            self._context.checkpoint,
        )
        self._best, self._history = start.best, [*start.history]
        go_on = True
        for measured in self._history:
            metrics = {name: value for name, value in measured.items() if name != "step"}
            go_on = self._context.report(int(measured["step"]), metrics)
        return _Decision.CONTINUE if go_on else _Decision.STOP

    def after(self, epoch: int, found: Mapping[str, float]) -> _Decision:
        """Evaluates and reports an epoch."""
        weights = self._trained.network.get_weights()
        if self._trained is not self._model:
            self._model.network.set_weights(weights)
        outputs = self._predicted(self._validation)
        measured = {**found, **self._measure("val", self._validation, outputs)}
        self._check(epoch, measured)
        measured = _finite(measured)
        best = self._best
        if best is None or self._task.is_result(measured, best.metrics):
            self._best = Best(step=epoch, metrics=measured, weights=weights, outputs=outputs)
        self._history.append({"step": epoch, **measured})
        go_on = self._context.report(epoch, measured)
        if go_on and (self._writer.is_due() or epoch == self._epochs):
            self._writer.put(self._snapshot(epoch))
        return _Decision.CONTINUE if go_on else _Decision.STOP

    def finish(self, stopped: bool) -> Result:
        """Writes the artifacts of the epoch that counts."""
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

    def between(self, steps: int, loss_sum: float) -> None:
        """Keeps the middle of a long epoch."""
        if self._writer.is_due(checkpoints.EPOCH_SECONDS):
            self._writer.put(self._snapshot(len(self._history), steps, loss_sum))

    def _snapshot(self, epoch: int, steps: int = 0, loss_sum: float = 0.0) -> Snapshot:
        return Snapshot(
            epoch=epoch,
            steps=steps,
            loss_sum=loss_sum,
            history=tuple(self._history),
            best=self._best,
            variables=self._state.copy(),
        )

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
