"""Exact metrics of predictions, in numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    """The metrics of `task` by name; one that the rows do not define is NaN, or left out.

    Args:
        task: what was predicted.
        labels: int64 [rows] classes, or float64 [rows].
        outputs: float [rows, classes] probabilities, or float [rows] predictions.
        scale: the deviation by which the loss of a regression is divided.
    """
    if task is Task.REGRESSION:
        return _regression(labels.astype(np.float64), outputs.astype(np.float64), scale)
    if not len(labels):
        return {}
    classes, scores = labels.astype(np.int64), outputs.astype(np.float64)
    metrics = {"accuracy": accuracy(classes, scores), "loss": log_loss(classes, scores)}
    if task is Task.BINARY:
        metrics["auc_pr"] = auc_pr(classes, scores[:, 1])
        return {**metrics, **_of_class(classes, scores.argmax(axis=1), scores[:, 1], 1)}
    return {**metrics, **_of_classes(classes, scores)}


def accuracy(labels: Labels, scores: Floats) -> float:
    """The part of rows whose most probable class is right."""
    return float(np.mean(scores.argmax(axis=1) == labels)) if len(labels) else np.nan


def log_loss(labels: Labels, scores: Floats) -> float:
    """The mean of minus the logarithm of the right class's probability."""
    if not len(labels):
        return np.nan
    right = scores[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(right, CLIP, 1 - CLIP)).mean())


def _of_class(
    labels: Labels, predicted: Labels, scores: Floats, place: int
) -> Mapping[str, float]:
    """How well one class is told from all others.

    What divides by zero is 0, as in scikit-learn, but for `auc`, which is NaN where the class or
    all others are absent.
    """
    chosen, actual = predicted == place, labels == place
    both = int(np.sum(chosen & actual))
    found, present = int(chosen.sum()), int(actual.sum())
    return {
        "precision": both / found if found else 0.0,
        "recall": both / present if present else 0.0,
        "f1": 2 * both / (found + present) if found + present else 0.0,
        "auc": auc(actual.astype(np.int64), scores),
    }


def _of_classes(labels: Labels, scores: Floats) -> Mapping[str, float]:
    """The same of each class that is present or predicted, and the mean of these (macro)."""
    predicted = scores.argmax(axis=1)
    places = np.union1d(labels, predicted).tolist()
    found = [_of_class(labels, predicted, scores[:, place], place) for place in places]
    areas = [of["auc"] for of in found if np.isfinite(of["auc"])]
    means = {name: _mean([of[name] for of in found]) for name in ("precision", "recall", "f1")}
    return means | {"auc": _mean(areas)}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else np.nan


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
