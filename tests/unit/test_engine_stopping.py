"""Early stopping on curves made by hand."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.engine_support import at, spec, succeeded, trial
from tuner.early_stopping import Progress, Stopping
from tuner.engine import StudyEngine
from tuner.engine.stopping import RULES, Rule, StoppingPruner
from tuner.engine.stopping.rule import Comparing
from tuner.space import Float, Space
from tuner.study import Goal, Metric, Selection, Trial, TrialState

UP = Metric(name="val_auc", goal=Goal.MAXIMIZE)
DOWN = Metric(name="loss", goal=Goal.MINIMIZE)
SPACE = Space.of({"x": Float(0, 1)})


COMPARING = [name for name in RULES if name not in ("none", "threshold")]
#: Parameters under which a rule stops something in a short history.
QUICK: dict[str, dict[str, Any]] = {
    "median": {"trials": 2},
    "percentile": {"trials": 2},
    "no-progress": {"patience": 1},
    "threshold": {"at_most": 2},
}


def made(name: str, metric: Metric, **parameters: Any) -> Rule:
    return RULES[name](name, metric, Stopping(**parameters))


def best_of(metric: Metric, values: Iterable[float]) -> float:
    """The best that is finite; NaN if none is."""
    best = math.nan
    for value in values:
        if math.isfinite(value) and metric.goal.better(value, best):
            best = value
    return best


def report(rule: Rule, number: int, step: float, value: float) -> str | None:
    rule.record(number, step, value)
    return rule.verdict(number, step)


def test_asha_keeps_the_best_third_at_each_rung() -> None:
    rule = made("asha", UP)
    values = [0.80, 0.70, 0.60, 0.90, 0.65, 0.79, 0.85, 0.84, 0.81]
    said = {value: report(rule, i, 2, value) for i, value in enumerate(values)}
    # 1 of 1, 1 of 2, 1 of 3, 1 of 4, 1 of 5, 2 of 6, ...
    assert [value for value in values if said[value] is None] == [0.80, 0.90, 0.85]
    assert said[0.81] == (
        "stopped by asha at step 2: val_auc 0.81 is not among the best third of 9 trials there"
    )


def test_asha_judges_only_at_rungs() -> None:
    rule = made("asha", UP)
    for number in range(5):
        assert report(rule, number, 1, 0.5 + number / 10) is None
    assert report(rule, 0, 2, 0.8) is None
    assert report(rule, 1, 2, 0.9) is None
    assert report(rule, 2, 2, 0.1) is not None
    for step in (3, 4, 5):
        assert report(rule, 1, step, 0.8) is None
    for number, value in ((0, 0.95), (3, 0.97), (4, 0.96)):
        report(rule, number, 6, value)
    said = report(rule, 1, 6, 0.8)
    assert said is not None
    assert "step 6: val_auc 0.9 is not among the best third of 4 trials there" in said
    assert report(rule, 1, 7, 0.8) is None


def test_asha_takes_other_rungs() -> None:
    rule = made("asha", DOWN, first=5, eta=2)
    for step in range(1, 5):
        assert report(rule, 0, step, 0.0) is None
        assert report(rule, 1, step, 1.0) is None
    assert report(rule, 0, 5, 0.0) is None
    said = report(rule, 1, 5, 1.0)
    assert said is not None
    assert "the best half of 2" in said
    for number in range(2, 10):
        assert (report(rule, number, 5, number) is None) == (number < 2)
    assert report(rule, 0, 9, 0.0) is None
    assert report(rule, 0, 10, 0.0) is None
    assert report(rule, 1, 10, 1.0) is not None


@pytest.mark.parametrize("first", [1, 2, 0.1, 7])
@pytest.mark.parametrize("eta", [2, 3, 10])
def test_rungs_lie_where_they_should(first: float, eta: float) -> None:
    rule = made("asha", DOWN, first=first, eta=eta)
    for rung in range(8):
        report(rule, 0, first * eta**rung, 0.0)
        assert report(rule, 1 + rung, first * eta**rung, 1.0) is not None


def test_hyperband_compares_in_brackets() -> None:
    rule = made("hyperband", DOWN)
    stops: Counter[int] = Counter()
    for number in range(240):
        for step in range(1, 30):
            said = report(rule, number, step, float(number))
            if said is not None:
                assert " of 3)" in said
                stops[step] += 1
                break
    # The best of each bracket goes on; shares are 9 : 4.5 : 3 for a start at 2, 6 and 18.
    assert stops.total() == 237
    assert [
        stops[step] / 237 == pytest.approx(share, abs=0.02)
        for step, share in ((2, 9 / 16.5), (6, 4.5 / 16.5), (18, 3 / 16.5))
    ] == [True] * 3


def test_median_stops_what_is_worse_than_the_median_of_five_others() -> None:
    rule = made("median", UP)
    for number, value in enumerate((0.5, 0.6, 0.7, 0.8)):
        report(rule, number, 2, value)
    assert report(rule, 4, 2, 0.1) is None
    assert report(rule, 5, 2, 0.6) is None
    assert report(rule, 6, 2, 0.55) == (
        "stopped by median at step 2: val_auc 0.55 is worse than the median of 6 other trials, 0.6"
    )
    assert report(rule, 7, 1, 0.0) is None


def test_median_compares_at_the_same_step() -> None:
    rule = made("median", DOWN)
    for number in range(6):
        for step in range(1, 11):
            report(rule, number, step, 10.0 - step + number / 10)
    assert report(rule, 6, 3, 7.0) is None
    assert report(rule, 6, 9, 6.9) is not None


def test_a_percentile_of_other_trials() -> None:
    rule = made("percentile", DOWN, percentile=10, trials=20)
    for number in range(20):
        assert report(rule, number, 2, float(number)) is None
    assert report(rule, 20, 2, 1.9) is None
    said = report(rule, 21, 2, 2.1)
    assert said is not None
    assert said.endswith("loss 2.1 is worse than the best 10 % of 21 other trials, 1.9")


@settings(max_examples=30, deadline=None)
@given(
    losses=st.lists(st.integers(0, 30), min_size=6, max_size=40),
    percentile=st.sampled_from([1, 10, 25, 50, 75, 99]),
)
def test_quantiles_are_those_of_the_others(losses: list[int], percentile: int) -> None:
    rule = made("percentile", DOWN, percentile=percentile)
    for number, loss in enumerate(losses):
        said = report(rule, number, 5, float(loss))
        others = losses[:number]
        if len(others) < 5:
            assert said is None
        elif loss > min(others):
            assert (said is not None) == (loss > np.percentile(others, percentile) + 1e-12)


def test_no_progress_stops_after_patience() -> None:
    rule = made("no-progress", UP, patience=3)
    report(rule, 0, 1, 0.9)
    values = [0.5, 0.6, 0.6, 0.55, 0.61, 0.61, 0.6]
    said = [report(rule, 1, step, value) for step, value in enumerate(values, 1)]
    assert said == [None] * 7
    assert report(rule, 1, 8, 0.61) == (
        "stopped by no-progress at step 8: val_auc 0.61 has not become better for 3 steps"
    )


def test_progress_has_to_be_worth_it() -> None:
    rule = made("no-progress", DOWN, patience=4, min_change=0.1)
    report(rule, 0, 1, 0.0)
    said = [report(rule, 1, step, 1.0 - 0.03 * step) for step in range(1, 10)]
    # Better by 0.1 at step 5 for the first time.
    assert said == [None] * 9
    rule = made("no-progress", DOWN, patience=4, min_change=0.2)
    report(rule, 0, 1, 0.0)
    said = [report(rule, 1, step, 1.0 - 0.03 * step) for step in range(1, 10)]
    assert [step for step, why in enumerate(said, 1) if why] == [5, 6, 7]


def test_the_best_may_rest() -> None:
    rule = made("no-progress", UP, patience=2)
    for step in range(1, 50):
        assert report(rule, 0, step, 0.9) is None
        assert report(rule, 1, step, 0.8 if step < 3 else 0.0) is None or step >= 3
    # Once another is better it may not.
    assert report(rule, 2, 1, 0.95) is None
    assert report(rule, 0, 50, 0.9) is not None


def test_thresholds_bound_the_last_value() -> None:
    rule = made("threshold", DOWN, at_least=0.1, at_most=2.0, first=3)
    assert report(rule, 0, 2, 99.0) is None
    assert report(rule, 0, 3, 2.0) is None
    assert report(rule, 0, 4, 2.5) == "stopped by threshold at step 4: loss 2.5 is above 2"
    assert report(rule, 0, 5, 0.01) == "stopped by threshold at step 5: loss 0.01 is below 0.1"
    assert report(rule, 0, 6, math.nan) == (
        "stopped by threshold at step 6: loss has no value that counts"
    )
    rule.restart(0)
    assert rule.verdict(0, 7) is None


# --- what all rules have in common -----------------------------------------------------------

finite = st.one_of(st.integers(-5, 5).map(float), st.just(math.nan))
values = st.one_of(finite, st.sampled_from([math.inf, -math.inf]))
steps = st.one_of(st.integers(1, 40), st.integers(1, 10_000))
#: Trial, step and value; a step of a trial once.
histories = st.lists(
    st.tuples(st.integers(0, 9), steps, values), max_size=40, unique_by=lambda r: r[:2]
)


@pytest.mark.parametrize("name", COMPARING)
@pytest.mark.parametrize("metric", [UP, DOWN])
@settings(max_examples=30, deadline=None)
@given(history=histories)
def test_the_best_is_never_stopped(
    name: str, metric: Metric, history: list[tuple[int, int, float]]
) -> None:
    """Neither the best of all, nor one that no other was better than by the same step."""
    rule, seen = made(name, metric, **QUICK.get(name, {})), list[tuple[int, int, float]]()
    for number, step, value in history:
        seen.append((number, step, value))
        said = report(rule, number, step, value)
        if said is None:
            continue
        own = best_of(metric, (v for n, s, v in seen if n == number and s <= step))
        others = [v for n, s, v in seen if n != number]
        assert metric.goal.better(best_of(metric, others), own)
        if name != "no-progress" and max(s for n, s, _ in seen if n == number) == step:
            by_then = [v for n, s, v in seen if n != number and s <= step * 17 / 16 + 1]
            assert metric.goal.better(best_of(metric, by_then), own)


@pytest.mark.parametrize("name", COMPARING)
@settings(max_examples=30, deadline=None)
@given(history=histories, pair=st.tuples(finite, finite), step=steps)
def test_a_better_value_never_stops_what_a_worse_one_does_not(
    name: str, history: list[tuple[int, int, float]], pair: tuple[float, float], step: int
) -> None:
    worse, better = pair if not DOWN.goal.better(*pair) else pair[::-1]
    said = []
    for value in (worse, better):
        rule = made(name, DOWN, **QUICK.get(name, {}))
        for number, at_step, earlier in history:
            report(rule, number, at_step, earlier)
        said.append(report(rule, 10, step, value))
    assert said[0] is not None or said[1] is None


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=30, deadline=None)
@given(history=histories, source=st.randoms())
def test_what_is_known_depends_on_no_order(
    name: str, history: list[tuple[int, int, float]], source: random.Random
) -> None:
    """Of reports of different trials; and nor of one's own, but for its last one."""
    if name == "threshold":
        history.sort(key=lambda reported: reported[1])
    shuffled = history.copy()
    if name != "threshold":
        source.shuffle(shuffled)
    rules = [made(name, DOWN, **QUICK.get(name, {})) for _ in range(2)]
    for rule, reports in zip(rules, (history, shuffled), strict=True):
        for reported in reports:
            rule.record(*reported)
    for number, step, _ in history:
        assert rules[0].verdict(number, step) == rules[1].verdict(number, step)


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=30, deadline=None)
@given(history=histories, again=st.integers(0, 9))
def test_another_attempt_leaves_no_trace(
    name: str, history: list[tuple[int, int, float]], again: int
) -> None:
    rules = [made(name, DOWN, **QUICK.get(name, {})) for _ in range(2)]
    for reported in history:
        rules[0].record(*reported)
        if reported[0] != again:
            rules[1].record(*reported)
    rules[0].restart(again)
    for rule in rules:
        rule.record(again, 10, 1.0)
    for number, step, _ in [*history, (again, 10, 1.0)]:
        if number != again or step == 10:
            assert rules[0].verdict(number, step) == rules[1].verdict(number, step)


@pytest.mark.parametrize("name", COMPARING)
def test_nan_never_wins(name: str) -> None:
    rule = made(name, DOWN, **QUICK.get(name, {}))
    for number in range(8):
        assert report(rule, number, 2, math.nan) is None
    assert report(rule, 8, 2, 100.0) is None
    report(rule, 9, 1, math.nan)
    said = report(rule, 9, 18, math.nan) or report(rule, 10, 2, math.nan)
    assert said is not None
    assert "loss, without a value that counts," in said


def test_a_spike_does_not_stop_a_good_trial() -> None:
    rule = made("asha", DOWN)
    for number in range(8):
        report(rule, number, 2, 1.0 + number)
    report(rule, 8, 1, 0.1)
    assert report(rule, 8, 2, 50.0) is None


def test_asha_leaves_out_the_rungs_that_steps_leave_out() -> None:
    rule = made("asha", DOWN)
    for number in range(6):
        assert (report(rule, number, 1000, number / 10) is None) == (number == 0)
    assert report(rule, 6, 1000, 0.9) is not None
    assert report(rule, 7, 2000, 0.9) is None
    assert report(rule, 8, 2, 0.9) is None


def test_a_trial_that_reports_rarely_does_not_shame_the_others() -> None:
    rule = made("asha", DOWN)
    for number in range(6):
        report(rule, number, 5, 0.1)
    assert report(rule, 6, 2, 0.5) is None


def test_uneven_steps_are_compared_by_the_best_up_to_them() -> None:
    rule = made("median", DOWN)
    for number in range(6):
        for step in (5, 10, 15):
            report(rule, number, step, 20.0 - step + number / 10)
    assert report(rule, 6, 4, 99.0) is None
    assert report(rule, 6, 7, 15.1) is None
    assert report(rule, 6, 12, 15.0) is not None


@pytest.mark.parametrize("name", COMPARING)
def test_seconds_compare_as_steps_do(name: str) -> None:
    """Were they steps that happen to be uneven, at another scale."""
    chance = random.Random(3)
    parameters = QUICK.get(name, {"first": 1.0})
    rules = [made(name, DOWN, by=by, **parameters) for by in (Progress.STEPS, Progress.SECONDS)]
    said: list[list[str | None]] = [[], []]
    for number in range(40):
        place, quality = 0.0, chance.random()
        for _ in range(12):
            place += chance.random() * 3
            value = quality + chance.random() / 5
            for rule, words in zip(rules, said, strict=True):
                words.append(report(rule, number, place, value))
    # Levels of seconds are finer, so verdicts may differ now and then.
    agree = sum((a is None) == (b is None) for a, b in zip(*said, strict=True))
    assert agree > 0.9 * len(said[0])
    assert any(why is not None and f" at {why.split(' at ')[1][:3]}" in why for why in said[1])
    assert sum(why is not None for why in said[1]) > 20
    assert all(" s: " in why for why in said[1] if why is not None)


def test_a_report_costs_no_walk_over_the_other_trials() -> None:
    """Levels, not trials, are looked at: a trial passes few, however often it reports."""
    rule = made("median", DOWN)
    for step in range(1, 20_001):
        rule.record(0, step, 1.0 / step)
    assert isinstance(rule, Comparing)
    assert len(rule._levels._losses[0]) < 200


# --- in an engine ----------------------------------------------------------------------------


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


def after(first: Trial) -> tuple[StudyEngine, StudyEngine]:
    """An engine that saw its first trial run and end, and one that is built when it has."""
    asha = spec(SPACE, stopping="asha", goal=Goal.MAXIMIZE)
    engine = StudyEngine("s", asha)
    engine.add(trial(0, first.parameters))
    assert [engine.report(0, each) for each in first.measurements] == [None] * len(
        first.measurements
    )
    engine.finish(first)
    return engine, StudyEngine("s", asha, [first])


def test_a_trial_is_not_stopped_where_others_ended() -> None:
    """At its end, that is: there would be nothing saved, and its result is whole."""
    curve = tuple(at(step, 0.9) for step in (1, 2, 4, 6))
    for each in after(trial(0, {"x": 0.5}, TrialState.SUCCEEDED, 0.9, curve)):
        each.add(trial(1, {"x": 0.6}))
        assert each.report(1, at(6, 0.1)) is None
        each.add(trial(2, {"x": 0.7}))
        assert each.report(2, at(2, 0.1)) is not None


def test_a_trial_that_failed_is_no_example() -> None:
    running = trial(0, {"x": 0.5})
    for each in after(replace(running, state=TrialState.FAILED, measurements=(at(2, 0.99),))):
        each.add(trial(1, {"x": 0.6}))
        assert each.report(1, at(2, 0.7)) is None
        each.add(trial(2, {"x": 0.7}))
        assert each.report(2, at(2, 0.6)) is not None


@pytest.mark.parametrize("selection", Selection)
def test_a_trial_is_judged_by_what_will_be_its_result(selection: Selection) -> None:
    study = spec(SPACE, stopping="asha", goal=Goal.MAXIMIZE)
    engine = StudyEngine("s", replace(study, measurement_selection=selection))
    engine.add(trial(0, {"x": 0.5}))
    for step, value in ((1, 0.99), (2, 0.5), (6, 0.5)):
        assert engine.report(0, at(step, value)) is None
    engine.add(trial(1, {"x": 0.6}))
    assert (engine.report(1, at(2, 0.7)) is None) is (selection is Selection.LAST)


def test_a_pruner_takes_steps_in_any_order_and_no_failed_trial() -> None:
    study = optuna.create_study(direction="maximize", pruner=StoppingPruner("asha", first=1))
    failed = study.ask()
    failed.report(0.99, 2)
    assert not failed.should_prune()
    study.tell(failed, state=optuna.trial.TrialState.FAIL)
    good = study.ask()
    good.report(0.5, 5)
    assert not good.should_prune()
    good.report(0.9, 3)
    assert not good.should_prune()
    other = study.ask()
    other.report(0.7, 3)
    assert other.should_prune()
