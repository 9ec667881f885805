"""The Keras callback of a trial; the only client module that needs Keras."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import keras


class Reports(Protocol):
    """What epochs are reported to."""

    def report(self, metrics: Mapping[str, float], *, step: int | None = None) -> bool:
        """Records metrics; returns whether to go on."""


class ReportEpochs(keras.callbacks.Callback):  # type: ignore[misc]
    """Reports the logs of each epoch, and stops the training when it is told to."""

    def __init__(self, trial: Reports) -> None:
        super().__init__()
        self._trial = trial

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Reports the epoch."""
        if logs and not self._trial.report({k: float(v) for k, v in logs.items()}, step=epoch):
            self.model.stop_training = True
