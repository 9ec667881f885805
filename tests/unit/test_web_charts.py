"""The figures say what the trials did."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.unit.web_source import HOSTILE, START, some_trials
from tuner.study import Goal, Measurement, Metric, Trial, TrialState
from tuner.web import charts

METRIC = Metric(name="val_auc", goal=Goal.MAXIMIZE)
LOSS = Metric(name="loss", goal=Goal.MINIMIZE)


def trial(
    number: int,
    value: float | None,
    state: TrialState = TrialState.SUCCEEDED,
    ended: int | None = None,
) -> Trial:
    metrics = {} if value is None else {"val_auc": value, "loss": value}
    return Trial(
        study_id="s",
        number=number,
        state=state,
        parameters={},
        final_measurement=Measurement(step=3, metrics=metrics) if metrics else None,
        create_time=START,
        end_time=START + timedelta(seconds=number if ended is None else ended)
        if state.is_finished
        else None,
    )


def traces(figure: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {trace["name"]: trace for trace in figure["data"]}


def test_the_best_line_steps_at_each_better_complete_result() -> None:
    trials = [
        trial(0, 0.5),
        trial(1, 0.9, TrialState.PRUNED),
        trial(2, 0.4),
        trial(3, 0.7),
        trial(4, None, TrialState.FAILED),
    ]
    best = traces(charts.progress(trials, METRIC))["best so far"]
    assert best["x"] == [0, 3, 4]
    assert best["y"] == [0.5, 0.7, 0.7]
    assert best["line"]["shape"] == "hv"


def test_the_best_line_falls_where_less_is_better() -> None:
    best = traces(charts.progress([trial(0, 0.5), trial(1, 0.7), trial(2, 0.2)], LOSS))
    assert best["best so far"]["y"] == [0.5, 0.2, 0.2]


def test_by_time_trials_count_in_the_order_in_which_they_ended() -> None:
    trials = [trial(0, 0.9, ended=50), trial(1, 0.5, ended=10)]
    figure = charts.progress(trials, METRIC, by_time=True)
    best = traces(figure)["best so far"]
    assert best["y"] == [0.5, 0.9, 0.9]
    assert best["x"][0] == (START + timedelta(seconds=10)).isoformat()
    assert figure["layout"]["xaxis"]["type"] == "date"


def test_pruned_running_and_failed_trials_are_marked() -> None:
    trials = [
        trial(0, 0.5),
        trial(1, 0.4, TrialState.PRUNED),
        trial(2, 0.3, TrialState.RUNNING),
        trial(3, None, TrialState.INFEASIBLE),
    ]
    shown = traces(charts.progress(trials, METRIC))
    assert {name: trace["x"] for name, trace in shown.items() if name != "best so far"} == {
        "succeeded": [0],
        "pruned": [1],
        "running": [2],
        "failed": [3],
    }


def test_nan_and_infinity_never_win_and_never_reach_the_browser() -> None:
    trials = [trial(0, float("nan")), trial(1, 0.5), trial(2, float("inf"))]
    figure = charts.progress(trials[:2], METRIC)
    assert traces(figure)["best so far"]["y"] == [0.5, 0.5]
    json.dumps(charts.progress(trials, LOSS), allow_nan=False)
    series = {1: [(0, 0.5), (1, float("nan"))]}
    json.dumps(charts.curves(series, {1: TrialState.SUCCEEDED}, 1), allow_nan=False)


def test_without_trials_there_is_nothing_to_draw() -> None:
    assert charts.progress([], METRIC)["data"] == []
    assert charts.curves({}, {}, None)["data"] == []


def test_thousands_of_trials_are_thinned_and_the_best_stay() -> None:
    trials = [trial(n, 0.5 + (0.3 if n == 3001 else 0.0)) for n in range(5000)]
    shown = traces(charts.progress(trials, METRIC))
    assert len(shown["succeeded"]["x"]) <= charts.MAX_POINTS
    assert 3001 in shown["succeeded"]["x"]
    assert shown["best so far"]["x"][-1] == 4999


def test_curves_are_parted_by_gaps_and_the_best_comes_last() -> None:
    series = {0: [(0, 0.1), (1, 0.2)], 1: [(0, 0.3), (1, 0.4)], 2: [(0, 0.2)], 3: [(0, 0.9)]}
    states = {0: TrialState.SUCCEEDED, 1: TrialState.SUCCEEDED, 2: TrialState.PRUNED}
    figure = charts.curves(series, states | {3: TrialState.RUNNING}, best=1)
    assert [trace["name"] for trace in figure["data"]] == [
        "pruned",
        "ended",
        "running",
        "best: trial 1",
    ]
    assert figure["data"][1]["y"] == [0.1, 0.2, None]
    assert figure["data"][3]["customdata"] == [1, 1, None]


def test_users_words_are_escaped() -> None:
    figure = charts.metrics({HOSTILE: [(0, 1.0)], "val_" + HOSTILE: [(0, 1.0)]})
    assert HOSTILE not in json.dumps(figure)
    assert figure["data"][0]["name"].startswith("val_&lt;script")


@pytest.mark.parametrize("far", [1e6, -1e6])
def test_one_value_far_off_does_not_flatten_the_rest(far: float) -> None:
    values = [0.1 * n for n in range(20)]
    assert charts.view(values) is None
    shown = charts.view([*values, far])
    assert shown is not None
    low, high = shown
    assert low < min(values) + 0.1 and high > max(values) - 0.1
    assert not low <= far <= high


def test_best_first_puts_complete_results_before_pruned_ones_and_failures_last() -> None:
    trials = [
        trial(0, None, TrialState.FAILED),
        trial(1, 0.99, TrialState.PRUNED),
        trial(2, 0.5),
        trial(3, 0.7),
        trial(4, float("nan")),
    ]
    assert [t.number for t in charts.best_first(trials, METRIC)] == [3, 2, 1, 0, 4]
    assert [t.number for t in charts.best_first(trials, LOSS)] == [2, 3, 1, 0, 4]


def test_what_is_beyond_a_constraint_is_marked_and_never_the_best() -> None:
    trials = [
        trial(0, 0.5),
        replace(trial(1, 0.9), within_constraints=False),
        replace(trial(2, 0.8, TrialState.RUNNING), within_constraints=False),
        replace(trial(3, 0.6), within_constraints=True),
    ]
    shown = traces(charts.progress(trials, METRIC))
    assert shown["beyond a constraint"]["x"] == [1]
    assert shown["succeeded"]["x"] == [0, 3]
    assert shown["running"]["x"] == [2]
    assert shown["best so far"]["y"] == [0.5, 0.6, 0.6]
    assert [t.number for t in charts.best_first(trials, METRIC)] == [3, 0, 1, 2]


def test_every_colour_is_a_variable_of_the_style_sheet() -> None:
    trials = some_trials(40)
    series = {t.number: [(m.step, m.metrics["loss"]) for m in t.measurements] for t in trials}
    figures = (
        charts.progress([replace(t, study_id="s") for t in trials], METRIC),
        charts.curves(series, {t.number: t.state for t in trials}, 2),
        charts.metrics({"loss": series[0]}),
    )
    names = set().union(*map(_colours, figures))
    style = (charts.__file__.rpartition("/")[0]) + "/static/tuner.css"
    with open(style, encoding="utf-8") as sheet:
        text = sheet.read()
    assert names and all(f"{name}:" in text for name in names)


def _colours(node: Any) -> set[str]:
    if isinstance(node, dict):
        return set().union(*map(_colours, node.values()))
    if isinstance(node, list):
        return set().union(*map(_colours, node))
    return {node} if isinstance(node, str) and node.startswith("--") else set()
