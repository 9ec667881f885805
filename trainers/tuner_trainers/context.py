"""What a trainer is handed, what it reports to, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tuner.space import Value
from tuner.study import (
    Constraint,
    DataSource,
    Feature,
    Measurement,
    Metric,
    Selection,
    StudySpec,
)

#: Variables that a process sets before it imports TensorFlow to train or to export. oneDNN rounds
#: a product by how many rows it has, so that a gang's losses would drift from one process's.
ENVIRONMENT: Mapping[str, str] = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}

#: Where in an attempt's `artifact_dir` its checkpoints lie.
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialTask:
    """One trial to train: the same on every rank of a gang."""

    study: str
    trial: int
    trainer: str
    data: DataSource
    features: tuple[Feature, ...]
    #: Fixed parameters of the trainer.
    settings: Mapping[str, Value]
    #: The trial's point of the space.
    parameters: Mapping[str, Value]
    metric: Metric
    #: Of the study: it decides which rows validate, and with the trial's number all else.
    seed: int
    statistics_path: str
    #: The archive with the user's function that builds the network; empty: none, or installed.
    code: str = ""
    #: Below which archives lie.
    artifacts: str = ""
    #: What bounds the study's metrics, and which of the epochs is the trial's result.
    constraints: tuple[Constraint, ...] = ()
    selection: Selection = Selection.BEST

    def is_result(self, new: Mapping[str, float], current: Mapping[str, float]) -> bool:
        """Whether a later epoch's metrics take the place of those that were the result so far."""
        if self.selection is Selection.LAST:
            return True
        asked = StudySpec(metrics=(self.metric,), constraints=self.constraints)
        before, after = (Measurement(step=0, metrics=metrics) for metrics in (current, new))
        return asked.rank(after) > asked.rank(before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a trial came to."""

    #: The metrics of the epoch that counts, the best one or the last.
    metrics: Mapping[str, float]
    #: That epoch, counted from 1.
    step: int
    #: Whether it was told to stop before its last epoch.
    stopped: bool


class TrialContext(Protocol):
    """Where a rank of a gang stands, and whom rank 0 reports to.

    Used from one thread, `keep` excepted.
    """

    @property
    def rank(self) -> int:
        """The place of this process among `workers`; 0 reports and writes."""
        ...

    @property
    def workers(self) -> int:
        """How many processes train the trial together."""
        ...

    @property
    def artifact_dir(self) -> Path:
        """Where rank 0 writes what the trial leaves; it exists on rank 0."""
        ...

    @property
    def checkpoint(self) -> Path | None:
        """Where an earlier attempt left off, the same on every rank; None: at the beginning."""
        ...

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Reports the metrics of an epoch, on rank 0 only; False means: stop."""
        ...

    def keep(self, step: int, checkpoint: Path) -> bool:
        """Says that a whole checkpoint was written, on rank 0 only and from any thread.

        Args:
            step: the last epoch that is in it.
            checkpoint: what another attempt is handed as `checkpoint`.

        Returns:
            Whether it was taken note of for sure, so that an earlier one is of no more use.
        """
        ...
