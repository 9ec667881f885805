"""The Pareto front, against its definition."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.unit.engine_support import spec, trial
from tuner.engine import optimal_numbers
from tuner.engine.pareto import front
from tuner.space import Space
from tuner.study import Constraint, Goal, Measurement, Metric, StudySpec, Trial, TrialState


def by_definition(values: NDArray[np.float64], maximize: list[bool]) -> list[int]:
    def dominates(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
        gains = [x - y if up else y - x for x, y, up in zip(a, b, maximize, strict=True)]
        return bool(min(gains) >= 0 and max(gains) > 0)

    return [i for i, own in enumerate(values) if not any(dominates(o, own) for o in values)]


@st.composite
def results(draw: st.DrawFn) -> tuple[NDArray[np.float64], list[bool]]:
    objectives = draw(st.integers(1, 5))
    # Few different numbers, so that ties and duplicates are common.
    number = st.sampled_from([-1e300, -1.0, -0.0, 0.0, 0.5, 1.0, 2.0, 1e300])
    row = st.lists(number, min_size=objectives, max_size=objectives)
    rows = draw(st.lists(row, max_size=24))
    values = np.array(rows, dtype=np.float64).reshape(len(rows), objectives)
    return values, draw(st.lists(st.booleans(), min_size=objectives, max_size=objectives))


@given(results())
def test_the_front_is_what_nothing_dominates(
    given: tuple[NDArray[np.float64], list[bool]],
) -> None:
    values, maximize = given
    assert front(values, maximize).tolist() == by_definition(values, maximize)


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_the_front_of_many_points(objectives: int) -> None:
    values = np.random.default_rng(objectives).normal(size=(300, objectives))
    maximize = [i % 2 == 0 for i in range(objectives)]
    assert front(values, maximize).tolist() == by_definition(values, maximize)


def test_equal_points_stay_together() -> None:
    values = np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [0.0, 0.0], [0.5, 2.0]])
    assert front(values, [True, True]).tolist() == [0, 1, 2]
    assert front(values, [False, False]).tolist() == [3]


def test_the_front_of_nothing_is_empty() -> None:
    assert front(np.empty((0, 3)), [True, True, True]).tolist() == []


TWO = replace(
    spec(Space()),
    metrics=(Metric(name="auc"), Metric(name="ms", goal=Goal.MINIMIZE)),
    constraints=(Constraint(metric="bytes", at_most=100),),
)


def ended(
    number: int, auc: float, ms: float, size: float = 1, state: TrialState = TrialState.SUCCEEDED
) -> Trial:
    metrics = {"auc": auc, "ms": ms, "bytes": size}
    return replace(
        trial(number, {}, state), final_measurement=Measurement(step=1, metrics=metrics)
    )


def test_only_results_within_the_constraints_are_optimal() -> None:
    trials = [
        ended(7, 0.9, 10),
        ended(3, 0.8, 5, state=TrialState.PRUNED),
        ended(1, 0.7, 6),
        ended(2, 0.99, 1, size=101),
        ended(4, math.nan, 1),
        ended(5, 0.95, -math.inf),
        ended(6, 0.99, 1, state=TrialState.FAILED),
        trial(8, {}, TrialState.SUCCEEDED),
        ended(9, 0.95, 20, state=TrialState.RUNNING),
    ]
    assert optimal_numbers(TWO, trials) == [3, 7]
    lacking = [
        replace(t, final_measurement=Measurement(step=1, metrics={"auc": 1})) for t in trials
    ]
    assert optimal_numbers(TWO, lacking) == []
    assert optimal_numbers(TWO, []) == []


def test_with_one_metric_the_best_are_optimal() -> None:
    one: StudySpec = replace(TWO, metrics=TWO.metrics[1:], constraints=())
    assert optimal_numbers(one, [ended(0, 1, 3), ended(1, 1, 2), ended(2, 0, 2)]) == [1, 2]
