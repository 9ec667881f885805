"""How much the rows of each class count in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tuner.space import Value
from tuner.trainer_spaces import CLASS_WEIGHT
from tuner_trainers.rows import Rows
from tuner_trainers.target import Target


def class_weights(parameters: Mapping[str, Value], target: Target, rows: Rows) -> Sequence[float]:
    """The weight of each class of the target; empty where all count the same.

    Balanced, a class that has a part p of the rows counts 1 / (classes p), so that the mean over
    all rows is 1 (King and Zeng, Logistic Regression in Rare Events Data, 2001).

    Args:
        parameters: the trainer's effective ones.
        target: what is predicted.
        rows: those that train.
    """
    given = {
        target.classes.index(name.removeprefix(CLASS_WEIGHT)): float(value)
        for name, value in parameters.items()
        if name.startswith(CLASS_WEIGHT)
    }
    weights = np.ones(len(target.classes))
    if parameters["class_weights"] == "balanced" and len(weights):
        counts = np.bincount(rows.labels().astype(np.int64), minlength=len(weights))
        weights = rows.count / (np.count_nonzero(counts) * np.maximum(counts, 1))
    weights[list(given)] = list(given.values())
    return [] if np.all(weights == 1) else [float(weight) for weight in weights]
