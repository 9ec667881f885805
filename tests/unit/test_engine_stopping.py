"""Early stopping on curves made by hand."""

from __future__ import annotations

import math
import random

import pytest

from tests.unit.engine_support import at, spec, succeeded, trial
from tuner.engine import StudyEngine
from tuner.engine.stopping import Asha, Curve, Median, Rule
from tuner.space import Float, Space
from tuner.study import Goal, Metric, Trial, TrialState

UP = Metric(name="val_auc", goal=Goal.MAXIMIZE)
DOWN = Metric(name="loss", goal=Goal.MINIMIZE)
SPACE = Space.of({"x": Float(0, 1)})


def report(rule: Rule, number: int, step: int, value: float) -> str | None:
    rule.record(number, step, value)
    return rule.verdict(number, step)


def test_a_curve_knows_its_best_so_far() -> None:
    curve = Curve(Goal.MINIMIZE)
    for step, value in ((2, 5.0), (4, math.nan), (6, 3.0), (9, 4.0)):
        curve.add(step, value)
    assert [curve.best(step) for step in (1, 2, 5, 6, 9, 10)] == [None, 5.0, 5.0, 3.0, 3.0, None]
    curve.add(4, 1.0)
    curve.add(1, 7.0)
    assert [curve.best(step) for step in (1, 2, 4, 9)] == [7.0, 5.0, 1.0, 1.0]
    only_nan = Curve(Goal.MAXIMIZE)
    only_nan.add(1, math.nan)
    assert math.isnan(only_nan.best(1) or 0.0)


def test_asha_keeps_the_best_third_at_each_rung() -> None:
    rule = Asha(UP)
    values = [0.80, 0.70, 0.60, 0.90, 0.65, 0.79, 0.85, 0.84, 0.81]
    said = {value: report(rule, i, 2, value) for i, value in enumerate(values)}
    # The first two come too early to be judged; then 1 of 3, 1 of 4, 1 of 5, 2 of 6, ...
    assert [value for value in values if said[value] is None] == [0.80, 0.70, 0.90, 0.85]
    assert said[0.81] == "val_auc 0.81 by step 2 is not in the best third of 9 trials"


def test_asha_judges_only_at_rungs() -> None:
    rule = Asha(UP)
    for number in range(5):
        assert report(rule, number, 1, 0.5 + number / 10) is None
    assert report(rule, 0, 2, 0.9) is None
    assert report(rule, 1, 2, 0.8) is None
    assert report(rule, 2, 2, 0.1) is not None
    for step in (3, 4, 5):
        assert report(rule, 1, step, 0.8) is None
    for number, value in ((0, 0.95), (3, 0.97), (4, 0.96)):
        report(rule, number, 6, value)
    assert report(rule, 1, 6, 0.8) == "val_auc 0.8 by step 6 is not in the best third of 4 trials"
    assert report(rule, 1, 7, 0.8) is None


def test_asha_answers_a_repeated_report_the_same() -> None:
    rule = Asha(DOWN)
    for number in range(6):
        report(rule, number, 2, float(number))
    said = report(rule, 6, 2, 9.0)
    assert said is not None
    assert report(rule, 6, 2, 9.0) == said


@pytest.mark.parametrize("rule_type", [Asha, Median])
@pytest.mark.parametrize("metric", [UP, DOWN])
@pytest.mark.parametrize("uneven", [False, True])
def test_the_best_so_far_is_never_stopped(
    rule_type: type[Rule], metric: Metric, uneven: bool
) -> None:
    chance = random.Random(1)
    rule = rule_type(metric)
    best_at: dict[int, float] = {}
    stopped: set[int] = set()
    reached = dict.fromkeys(range(60), 0)
    for _ in range(1500):
        number = chance.choice([n for n in reached if n not in stopped])
        reached[number] += chance.randint(1, 3) if uneven else 1
        step, value = reached[number], chance.choice([chance.random(), math.nan])
        said = report(rule, number, step, value)
        if not math.isnan(value) and (
            step not in best_at or not metric.goal.better(best_at[step], value)
        ):
            best_at[step] = value
            if not uneven:
                others = [
                    b
                    for other, curve in rule._curves.items()
                    if other != number and (b := curve.best(step)) is not None
                ]
                if not any(metric.goal.better(b, value) for b in others):
                    assert said is None
        if said is not None:
            stopped.add(number)
            own = rule._curves[number].best(step)
            assert own is not None
            assert any(
                metric.goal.better(other_best, own)
                for other, curve in rule._curves.items()
                if other != number and (other_best := curve.best(step)) is not None
            )
    assert len(stopped) > 20


@pytest.mark.parametrize("rule_type", [Asha, Median])
def test_nan_never_wins(rule_type: type[Rule]) -> None:
    rule = rule_type(DOWN)
    for number in range(8):
        assert report(rule, number, 2, math.nan) is None
    assert report(rule, 8, 2, 100.0) is None
    said = report(rule, 9, 2, math.nan)
    assert said is not None
    assert said.startswith("loss, without a value that counts by step 2,")


def test_a_spike_does_not_stop_a_good_trial() -> None:
    rule = Asha(DOWN)
    for number in range(8):
        report(rule, number, 2, 1.0 + number)
    report(rule, 8, 1, 0.1)
    assert report(rule, 8, 2, 50.0) is None


def test_asha_leaves_out_the_rungs_that_steps_leave_out() -> None:
    rule = Asha(DOWN)
    for number in range(6):
        assert report(rule, number, 1000, number / 10) is None or number > 1
    assert report(rule, 6, 1000, 0.9) is not None
    assert report(rule, 7, 2000, 0.9) is None
    assert report(rule, 8, 2, 0.9) is None


def test_a_trial_that_reports_rarely_does_not_shame_the_others() -> None:
    rule = Asha(DOWN)
    for number in range(6):
        report(rule, number, 5, 0.1)
    assert report(rule, 6, 2, 0.5) is None


def test_another_attempt_starts_over() -> None:
    rule = Asha(DOWN)
    for number in range(3):
        report(rule, number, 2, float(number))
    rule.restart(0)
    assert report(rule, 3, 2, 1.5) is not None
    assert report(rule, 0, 2, 3.0) is not None
    rule.restart(0)
    assert report(rule, 0, 2, 0.5) is None


def test_median_stops_what_is_worse_than_the_median_of_five_others() -> None:
    rule = Median(UP)
    for number, value in enumerate((0.5, 0.6, 0.7, 0.8)):
        report(rule, number, 2, value)
    assert report(rule, 4, 2, 0.1) is None
    assert report(rule, 5, 2, 0.6) is None
    said = report(rule, 6, 2, 0.55)
    assert said == "val_auc 0.55 by step 2 is worse than the median 0.6 of 6 other trials"
    assert report(rule, 7, 1, 0.0) is None


def test_median_compares_at_the_same_step() -> None:
    rule = Median(DOWN)
    for number in range(6):
        for step in range(1, 11):
            report(rule, number, step, 10.0 - step + number / 10)
    assert report(rule, 6, 3, 7.0) is None
    assert report(rule, 6, 9, 6.9) is not None


def test_uneven_steps_are_compared_by_the_best_up_to_them() -> None:
    rule = Median(DOWN)
    for number in range(6):
        for step in (5, 10, 15):
            report(rule, number, step, 20.0 - step + number / 10)
    assert report(rule, 6, 4, 99.0) is None
    assert report(rule, 6, 7, 15.1) is None
    assert report(rule, 6, 12, 15.0) is not None


def study(stopping: str, trials: tuple[Trial, ...] = ()) -> StudyEngine:
    return StudyEngine("s", spec(SPACE, "random", stopping=stopping), trials)


def test_the_engine_stops_by_the_study_s_rule() -> None:
    for stopping in ("none", "asha", "median"):
        engine = study(stopping)
        for number in range(8):
            engine.add(trial(number, {"x": number / 8}))
            assert engine.report(number, at(1, 100.0)) is None
        said = [engine.report(number, at(2, float(number))) for number in range(8)]
        assert (said[-1] is None) == (stopping == "none")


def test_the_engine_judges_by_the_first_metric_only() -> None:
    engine = study("asha")
    engine.add(trial(0, {"x": 0.5}))
    other = at(2, 1.0)
    assert engine.report(0, type(other)(step=2, metrics={"accuracy": 0.1})) is None
    assert engine.optuna_study().trials[0].intermediate_values == {}


@pytest.mark.parametrize("stopping", ["asha", "median"])
def test_an_engine_built_from_history_stops_the_same(stopping: str) -> None:
    chance = random.Random(7)
    engine = study(stopping)
    trials: list[Trial] = []
    verdicts = []
    for number in range(30):
        curve = tuple(at(step, chance.random()) for step in range(1, chance.randint(2, 9)))
        engine.add(trial(number, {"x": number / 30}))
        said = [engine.report(number, measurement) for measurement in curve]
        state = TrialState.SUCCEEDED if said[-1] is None else TrialState.PRUNED
        trials.append(trial(number, {"x": number / 30}, state, 0.5, curve))
        engine.finish(trials[-1])
    rebuilt = study(stopping, tuple(trials))
    for live in (engine, rebuilt):
        live.add(trial(30, {"x": 0.5}))
        verdicts.append([live.report(30, at(step, 0.6)) for step in range(1, 9)])
    assert verdicts[0] == verdicts[1]
    assert any(verdicts[0])


def test_a_finished_trial_without_reports_is_no_judge() -> None:
    engine = study("median", tuple(succeeded(n, {"x": n / 10}, 0.0) for n in range(9)))
    engine.add(trial(9, {"x": 0.95}))
    assert engine.report(9, at(2, 1.0)) is None
