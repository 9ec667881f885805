"""Checkpoints: all that another attempt at a trial needs to go on as if nothing had happened.

A checkpoint is one file, `checkpoints/NUMBER.npz` among the attempt's artifacts. It holds every
variable of the network and of the optimizer, the states of the network's random generators among
them; the best epoch so far; and how far the training came. What else is random in an epoch
follows from the trial's seed and the epoch's number.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import logging
import math
import os
import threading
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from tuner.errors import DataError, TunerError
from tuner_trainers.context import CHECKPOINTS, TrialContext, TrialTask

FORMAT_VERSION = 1

#: The share of the training's time that checkpoints may take, in the thread that writes them.
_SHARE = 0.1
#: How long a long epoch goes on before its middle is kept.
EPOCH_SECONDS = 20.0
#: How long the end of a trial waits for a checkpoint that is being written.
_CLOSE_SECONDS = 30.0

Arrays = Sequence[npt.NDArray[Any]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best epoch so far, with what its weights predict for the validation rows."""

    step: int
    metrics: Mapping[str, float]
    weights: Arrays
    outputs: npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A trial between two steps of its training."""

    #: The epochs that are whole.
    epoch: int
    #: Of the epoch under way: the steps made, and the summed loss of their rows.
    steps: int = 0
    loss_sum: float = 0.0
    #: The metrics of each whole epoch, with its number as `step`.
    history: Sequence[Mapping[str, float]]
    best: Best | None
    #: Those of the network, then those of the optimizer.
    variables: Arrays


def task_key(task: TrialTask, data_fingerprint: str) -> str:
    """Names what is trained, and on what: a checkpoint of anything else cannot be gone on from."""
    fields = {**dataclasses.asdict(task), "statistics_path": data_fingerprint}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def write(path: Path, snapshot: Snapshot, key: str) -> None:
    """Writes a file that appears under its name once it is whole, power cuts included."""
    best = snapshot.best
    header = {
        "format_version": FORMAT_VERSION,
        "key": key,
        "epoch": snapshot.epoch,
        "steps": snapshot.steps,
        "loss_sum": snapshot.loss_sum,
        "history": snapshot.history,
        "best": None if best is None else {"step": best.step, "metrics": best.metrics},
    }
    arrays = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)}
    arrays |= {f"variable_{n}": array for n, array in enumerate(snapshot.variables)}
    if best is not None:
        arrays |= {f"best_{n}": array for n, array in enumerate(best.weights)}
        arrays["outputs"] = best.outputs
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read(path: Path, key: str) -> Snapshot:
    """Reads a checkpoint.

    Raises:
        DataError: it is not there, not whole, or of another task.
    """
    try:
        # A zip file: what is not as it was written does not match its checksums.
        with path.open("rb") as file, zipfile.ZipFile(file) as members:
            arrays = {
                name.removesuffix(".npy"): np.lib.format.read_array(
                    io.BytesIO(members.read(name)), allow_pickle=False
                )
                for name in members.namelist()
            }
        header = json.loads(arrays.pop("header").tobytes())
        if header["format_version"] != FORMAT_VERSION:
            raise DataError("it was written by another version of tuner.")
        if header["key"] != key:
            raise DataError("it is of a trial with other parameters, settings or data.")
        return _snapshot(header, arrays)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"it cannot be read: {error}") from error


def _snapshot(header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Snapshot:
    best = None
    if header["best"] is not None:
        best = Best(
            step=header["best"]["step"],
            metrics=header["best"]["metrics"],
            weights=_numbered("best", arrays),
            outputs=arrays["outputs"],
        )
    return Snapshot(
        epoch=header["epoch"],
        steps=header["steps"],
        loss_sum=header["loss_sum"],
        history=header["history"],
        best=best,
        variables=_numbered("variable", arrays),
    )


def _numbered(kind: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    count = sum(name.startswith(f"{kind}_") for name in arrays)
    return [arrays[f"{kind}_{number}"] for number in range(count)]


class State:
    """The variables that training changes, to be copied and to be set again."""

    def __init__(self, network: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
        # Not only the weights: a Dropout keeps the state of its random generator as a variable.
        self._variables = [*network.variables, *optimizer.variables]

    def copy(self) -> Arrays:
        """The values as they are now."""
        return [np.array(v.value.numpy()) for v in self._variables]

    def check(self, values: Arrays) -> None:
        """Raises DataError if the values are of other variables than these."""
        here = [(tuple(v.shape), str(v.dtype)) for v in self._variables]
        there = [(value.shape, str(value.dtype)) for value in values]
        if here != there:
            raise DataError("its variables are not those of this trial's network and optimizer.")

    def set(self, values: Arrays) -> None:
        """Sets all variables, on this process's devices."""
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)


def load(context: TrialContext, key: str, state: State) -> Snapshot | None:
    """Reads the checkpoint that an earlier attempt left; None where it cannot be gone on from."""
    if context.checkpoint is None:
        return None
    try:
        snapshot = read(context.checkpoint, key)
        state.check(snapshot.variables)
    except DataError as error:
        logger.warning(
            "the checkpoint %s is left aside, and the trial starts anew: %s",
            context.checkpoint,
            error.message,
        )
        return None
    return snapshot


class Writer:
    """Writes the checkpoints of one attempt in a thread of its own: training does not wait.

    One that is not begun when the next one comes is dropped. The one before is removed once the
    context has taken note of the next. Used by one thread, on rank 0, and closed by it.
    """

    def __init__(self, context: TrialContext, key: str) -> None:
        self._context, self._key = context, key
        self._folder = context.artifact_dir / CHECKPOINTS
        self._outdated = [] if context.checkpoint is None else [context.checkpoint]
        self._changed = threading.Condition()
        self._next: Snapshot | None = None
        self._closed = False
        self._last_time = time.monotonic()
        #: Until then, another one would take more than its share of the time.
        self._due_time = 0.0
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
        self._thread.start()

    def is_due(self, least_seconds: float = 0.0) -> bool:
        """Whether a checkpoint is worth its time now, if the last one is as old as that."""
        now = time.monotonic()
        with self._changed:
            due = self._next is None and now >= self._due_time
            return due and now - self._last_time >= least_seconds

    def put(self, snapshot: Snapshot) -> None:
        """Has a snapshot written; returns at once."""
        with self._changed:
            self._next, self._last_time = snapshot, time.monotonic()
            self._due_time = math.inf
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread after the last snapshot that was put."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        number = 0
        while (snapshot := self._take()) is not None:
            number, start = number + 1, time.monotonic()
            try:
                self._keep(self._folder / f"{number}.npz", snapshot)
            except (OSError, TunerError) as error:
                logger.warning("no checkpoint could be written, training goes on: %s", error)
            end = time.monotonic()
            with self._changed:
                if self._next is None:
                    self._due_time = end + (end - start) * (1 / _SHARE - 1)

    def _take(self) -> Snapshot | None:
        with self._changed:
            while self._next is None and not self._closed:
                self._changed.wait()
            snapshot, self._next = self._next, None
            return snapshot

    def _keep(self, path: Path, snapshot: Snapshot) -> None:
        write(path, snapshot, self._key)
        # One that may have been taken note of all the same stays until the next one is.
        if self._context.keep(snapshot.epoch, path):
            for outdated in self._outdated:
                outdated.unlink(missing_ok=True)
            self._outdated.clear()
        self._outdated.append(path)
