"""Exact metrics of predictions, in numpy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tuner.trainer_spaces import Task

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.int64]

#: Probabilities count as at least this in a logarithm, and as at most 1 minus this.
CLIP = 1e-7


def evaluate(
    task: Task, labels: npt.NDArray[np.generic], outputs: Floats, scale: float = 1.0
) -> Mapping[str, float]:
    """The metrics of `task` by name; one that the rows do not define is NaN.

    Args:
        task: what was predicted.
        labels: int64 [rows] classes, or float64 [rows].
        outputs: float [rows, classes] probabilities, or float [rows] predictions.
        scale: the deviation by which the loss of a regression is divided.
    """
    if task is Task.REGRESSION:
        return _regression(labels.astype(np.float64), outputs.astype(np.float64), scale)
    classes, scores = labels.astype(np.int64), outputs.astype(np.float64)
    metrics = {"accuracy": accuracy(classes, scores), "loss": log_loss(classes, scores)}
    if task is Task.BINARY:
        positive = scores[:, 1]
        metrics["auc"] = auc(classes, positive)
        metrics["auc_pr"] = auc_pr(classes, positive)
        metrics["f1"] = f1(classes, scores)
    return metrics


def accuracy(labels: Labels, scores: Floats) -> float:
    """The part of rows whose most probable class is right."""
    return float(np.mean(scores.argmax(axis=1) == labels)) if len(labels) else np.nan


def log_loss(labels: Labels, scores: Floats) -> float:
    """The mean of minus the logarithm of the right class's probability."""
    if not len(labels):
        return np.nan
    right = scores[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(right, CLIP, 1 - CLIP)).mean())


def f1(labels: Labels, scores: Floats) -> float:
    """Of the second of two classes; 0 where it is neither present nor predicted."""
    predicted = scores.argmax(axis=1) == 1
    actual = labels == 1
    both = int(np.sum(predicted & actual))
    total = int(predicted.sum() + actual.sum())
    return 2 * both / total if total else 0.0


def auc(labels: Labels, scores: Floats) -> float:
    """The area under the ROC curve: how probably a positive is ranked above a negative.

    Ties count half; NaN where only one class is present.
    """
    positives = int(np.sum(labels == 1))
    negatives = len(labels) - positives
    if not positives or not negatives:
        return np.nan
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_ranks = last - (counts - 1) / 2
    rank_sum = float(mean_ranks[place][labels == 1].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def auc_pr(labels: Labels, scores: Floats) -> float:
    """The average precision, a step-wise area under the precision-recall curve.

    NaN where no positive is present.
    """
    positives = int(np.sum(labels == 1))
    if not positives:
        return np.nan
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(labels[order] == 1)[ends]
    precision = hits / (ends + 1)
    return float(np.sum(np.diff(hits, prepend=0) * precision) / positives)


def _regression(labels: Floats, predictions: Floats, scale: float) -> dict[str, float]:
    if not len(labels):
        return dict.fromkeys(("rmse", "mae", "r2", "loss"), np.nan)
    errors = predictions - labels
    square = float(np.mean(errors**2))
    variance = float(np.var(labels))
    return {
        "rmse": float(np.sqrt(square)),
        "mae": float(np.mean(np.abs(errors))),
        "r2": 1 - square / variance if variance else np.nan,
        "loss": square / scale**2,
    }
