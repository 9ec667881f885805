"""The metrics agree with scikit-learn's, ties and single classes included."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from tuner.trainer_spaces import METRICS, Task
from tuner_trainers import metrics

_RATES = {
    "precision": reference.precision_score,
    "recall": reference.recall_score,
    "f1": reference.f1_score,
}


def _binary(seed: int, rows: int, levels: int) -> tuple[metrics.Labels, metrics.Floats]:
    """Random labels, and scores of so many different values."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, rows)
    positive = rng.integers(0, levels, rows) / levels
    return labels, np.stack([1 - positive, positive], axis=1)


@pytest.mark.parametrize("levels", [2, 5, 1_000_000])
@pytest.mark.parametrize("rows", [10, 997])
def test_binary_metrics_agree_with_scikit_learn(rows: int, levels: int) -> None:
    labels, scores = _binary(rows + levels, rows, levels)
    found = metrics.evaluate(Task.BINARY, labels, scores)
    predicted = scores.argmax(axis=1)
    clipped = np.clip(scores, metrics.CLIP, 1 - metrics.CLIP)
    assert found["auc"] == pytest.approx(reference.roc_auc_score(labels, scores[:, 1]))
    assert found["auc_pr"] == pytest.approx(
        reference.average_precision_score(labels, scores[:, 1])
    )
    assert found["accuracy"] == reference.accuracy_score(labels, predicted)
    assert found["f1"] == pytest.approx(reference.f1_score(labels, predicted))
    for name, score in _RATES.items():
        assert found[name] == pytest.approx(score(labels, predicted, zero_division=0.0))
    assert found["loss"] == pytest.approx(reference.log_loss(labels, clipped))


def test_multiclass_metrics_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 300)
    scores = rng.dirichlet(np.ones(4), 300)
    predicted = scores.argmax(axis=1)
    found = metrics.evaluate(Task.MULTICLASS, labels, scores)
    assert found == {
        "accuracy": reference.accuracy_score(labels, predicted),
        "loss": pytest.approx(reference.log_loss(labels, scores)),
        "auc": pytest.approx(reference.roc_auc_score(labels, scores, multi_class="ovr")),
        **{
            name: pytest.approx(score(labels, predicted, average="macro"))
            for name, score in _RATES.items()
        },
    }


def test_a_class_that_no_row_has_is_left_out_of_means() -> None:
    scores = np.asarray([[0.6, 0.4, 0.0], [0.3, 0.7, 0.0], [0.8, 0.2, 0.0]])
    found = metrics.evaluate(Task.MULTICLASS, np.asarray([0, 1, 1]), scores)
    assert found["auc"] == 0.5 and found["f1"] == pytest.approx(2 / 3)


def test_regression_metrics_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    labels = rng.normal(100, 10, 200)
    predictions = labels + rng.normal(0, 3, 200)
    found = metrics.evaluate(Task.REGRESSION, labels, predictions, scale=10.0)
    square = reference.mean_squared_error(labels, predictions)
    assert found["rmse"] == pytest.approx(math.sqrt(square))
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(labels, predictions))
    assert found["r2"] == pytest.approx(reference.r2_score(labels, predictions))
    assert found["loss"] == pytest.approx(square / 100)


def test_area_of_equal_scores_is_a_half() -> None:
    assert metrics.auc(np.asarray([0, 1, 1, 0]), np.full(4, 0.3)) == 0.5


def test_areas_of_one_class_are_no_numbers() -> None:
    scores = np.asarray([0.1, 0.9])
    assert math.isnan(metrics.auc(np.asarray([1, 1]), scores))
    assert math.isnan(metrics.auc(np.asarray([0, 0]), scores))
    assert math.isnan(metrics.auc_pr(np.asarray([0, 0]), scores))


def test_loss_of_a_certain_mistake_is_finite() -> None:
    loss = metrics.log_loss(np.asarray([1]), np.asarray([[1.0, 0.0]]))
    assert loss == pytest.approx(-math.log(metrics.CLIP))


def test_constant_labels_have_no_r2() -> None:
    found = metrics.evaluate(Task.REGRESSION, np.ones(3), np.zeros(3))
    assert math.isnan(found["r2"])
    assert found["rmse"] == 1.0


@pytest.mark.parametrize("task", list(Task))
def test_metrics_are_those_that_the_table_promises(task: Task) -> None:
    outputs = np.ones(3) if task is Task.REGRESSION else np.full((3, 2), 0.5)
    found = metrics.evaluate(task, np.asarray([0, 1, 1]), outputs)
    promised = set(METRICS[task]) - {"loss"}
    assert {f"val_{name}" for name in found} == promised


@pytest.mark.parametrize("task", list(Task))
def test_no_rows_have_no_metrics(task: Task) -> None:
    outputs = np.ones(0) if task is Task.REGRESSION else np.ones((0, 2))
    found = metrics.evaluate(task, np.ones(0), outputs)
    assert all(math.isnan(value) for value in found.values())
