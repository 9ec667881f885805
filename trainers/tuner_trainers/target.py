"""What a model predicts: raw labels as numbers, and the network's answers as users read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tuner.errors import DataError
from tuner.study import DataSource
from tuner.trainer_spaces import Task
from tuner_trainers.columns import number_text
from tuner_trainers.labels import task_of
from tuner_trainers.statistics import Statistics


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The label of a study; `classes` are its values as text, in the order of the outputs.

    A regression is learned in units of `deviation` around `mean`.
    """

    label: str
    task: Task
    classes: tuple[str, ...] = ()
    mean: float = 0.0
    deviation: float = 1.0

    @property
    def units(self) -> int:
        """How many outputs the network has."""
        return len(self.classes) if self.task is Task.MULTICLASS else 1

    @property
    def unit(self) -> float:
        """What a prediction is of the size of: it is rounded in proportion to this at least."""
        return 1.0 if self.classes else max(abs(self.mean), self.deviation)

    def encode(self, raw: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """The labels of rows: classes by place, or numbers; NaN where missing or of no class.

        Args:
            raw: float64 [rows] with NaN for missing, or strings [rows] with "" for missing.
        """
        if self.task is Task.REGRESSION:
            numbers = raw.astype(np.float64)
            return np.where(np.isfinite(numbers), numbers, np.nan)
        values, place = np.unique(raw, return_inverse=True)
        known = {text: float(index) for index, text in enumerate(self.classes)}
        texts = [_text(value) for value in values.tolist()]
        unknown = next((text for text in texts if text and text not in known), None)
        if unknown is not None:
            raise DataError(
                f"the label {self.label!r} holds {unknown!r}, which the training data has not; "
                "add such rows to it, or remove them here."
            )
        codes = [known.get(text, np.nan) for text in texts]
        return np.asarray(codes, np.float64)[place]

    def learned(self, labels: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """The encoded labels in the units that the loss takes."""
        if self.task is Task.REGRESSION:
            labels = (labels - self.mean) / self.deviation
        return labels.astype(np.float32)

    def predicted(self, outputs: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """Predictions as columns: the label, and for classes the probability of each.

        Args:
            outputs: float [rows, classes] probabilities; of a regression float [rows].
        """
        if self.task is Task.REGRESSION:
            return {self.label: outputs.astype(np.float64)}
        names = np.asarray(self.classes, object)
        return {self.label: names[outputs.argmax(axis=1)]} | {
            f"probability({name})": outputs[:, index] for index, name in enumerate(self.classes)
        }

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> Target:
        """The inverse of `dataclasses.asdict`, through JSON."""
        classes = tuple(fields["classes"])
        return Target(**{**fields, "task": Task(fields["task"]), "classes": classes})


def target_of(source: DataSource, statistics: Statistics) -> Target:
    """What a study's data asks to predict; raises DataError if it cannot be learned."""
    column = statistics.columns[source.label]
    task, classes = task_of(column, source)
    if task is not Task.REGRESSION:
        return Target(label=column.name, task=task, classes=classes)
    deviation = math.sqrt(column.variance or 0.0)
    return Target(
        label=column.name,
        task=task,
        mean=column.mean or 0.0,
        deviation=deviation if math.isfinite(deviation) and deviation else 1.0,
    )


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else number_text(value)
