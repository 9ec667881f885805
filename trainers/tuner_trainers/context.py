"""What a trainer is handed, what it reports to, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tuner.space import Value
from tuner.study import DataSource, Feature, Metric

#: Variables that a process sets before it imports TensorFlow to train or to export. oneDNN rounds
#: a product by how many rows it has, so that a gang's losses would drift from one process's.
ENVIRONMENT: Mapping[str, str] = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a trial came to."""

    #: The metrics of the best epoch.
    metrics: Mapping[str, float]
    #: The best epoch, counted from 1.
    step: int
    #: Whether it was told to stop before its last epoch.
    stopped: bool


class TrialContext(Protocol):
    """Where a rank of a gang stands, and whom rank 0 reports to. Used from one thread."""

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

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Reports the metrics of an epoch, on rank 0 only; False means: stop."""
        ...
