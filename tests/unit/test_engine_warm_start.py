"""Warm start: which earlier results count, what they change, and what they leave alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from tests.unit.engine_support import at, run, spec, succeeded, trial
from tuner.engine import ALGORITHMS, Earlier, StudyEngine, optimal_numbers, points
from tuner.engine.earlier import WarmStart, read
from tuner.engine.translation import Translation
from tuner.space import Categorical, Float, Int, Parameter, Space, Value
from tuner.study import (
    Constraint,
    Feature,
    Goal,
    Measurement,
    Metric,
    StudySpec,
    Trial,
    TrialState,
)

SPACE = Space.of({"x": Float(0, 1), "y": Float(0, 1)})
FINITE = Space.of({"x": Int(0, 3), "y": Int(0, 2)})


def loss(parameters: Mapping[str, Value]) -> float:
    return abs(float(parameters["x"]) - 0.8) + abs(float(parameters["y"]) - 0.2)


def results(count: int, space: Space = SPACE, seed: int = 9) -> Earlier:
    old = spec(space, "random", seed=seed)
    return old, run(StudyEngine("old", old), loss, range(count))


def warm(asked: StudySpec, *earlier: Earlier) -> WarmStart:
    return read(asked, Translation(asked), earlier)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_numbers_limits_and_importance_are_the_studys_own(algorithm: str) -> None:
    asked = spec(FINITE, algorithm, stopping="asha")
    earlier = [results(9, FINITE), results(5, FINITE, seed=1)]
    engine = StudyEngine("s", asked, earlier=earlier)
    trials = run(engine, loss, range(50))
    assert len({points.key_of(t.parameters) for t in trials}) == len(trials) == 12
    study = engine.optuna_study()
    assert [t.number for t in study.trials] == [t._trial_id for t in study.trials]
    assert len(study.trials) == engine.importance().trials == 12
    assert study.best_trial.number in optimal_numbers(asked, trials)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("cut", [1, 6])
def test_an_engine_built_from_history_goes_on_the_same(algorithm: str, cut: int) -> None:
    asked = spec(FINITE if algorithm == "grid" else SPACE, algorithm, seed=11)
    earlier = [results(20)]
    engine = StudyEngine("s", asked, earlier=earlier)
    whole = run(engine, loss, range(12))
    rebuilt = StudyEngine("s", asked, whole[:cut], earlier)
    rest = run(rebuilt, loss, range(cut, 12))
    assert [t.parameters for t in rest] == [t.parameters for t in whole[cut:]]
    assert rebuilt.algorithm_in_use == engine.algorithm_in_use


def test_auto_starts_from_the_best_earlier_point_and_models_at_once() -> None:
    old, trials = results(20)
    engine = StudyEngine("s", spec(SPACE, "auto"), earlier=[(old, trials)])
    assert engine.suggest(0) == min(trials, key=lambda t: loss(t.parameters)).parameters
    assert engine.algorithm_in_use == (
        "gp (auto: 0 trials have ended with a value; 20 earlier results)"
    )


def test_auto_spreads_less_after_a_few_earlier_results() -> None:
    engine = StudyEngine("s", spec(SPACE, "auto"), earlier=[results(3)])
    assert engine.algorithm_in_use == (
        "qmc (auto: spread points until 5 trials have ended with a value; 3 earlier results)"
    )
    run(engine, loss, range(2))
    assert engine.algorithm_in_use.startswith("gp (auto: 2 trials have")


def test_tpe_says_what_it_started_from() -> None:
    other = replace(results(4)[0], metrics=(Metric(name="auc"),)), results(4)[1]
    engine = StudyEngine("s", spec(SPACE, "tpe"), earlier=[results(12), other])
    assert engine.algorithm_in_use == "tpe (12 earlier results, 4 left out)"
    assert StudyEngine("s", spec(SPACE, "tpe")).algorithm_in_use == "tpe"


@pytest.mark.parametrize("algorithm", ["auto", "tpe", "gp"])
def test_the_first_trials_are_better_for_it(algorithm: str) -> None:
    def early(earlier: Sequence[Earlier]) -> float:
        found = []
        for seed in range(4):
            engine = StudyEngine("s", spec(SPACE, algorithm, seed=seed), earlier=earlier)
            found += [loss(t.parameters) for t in run(engine, loss, range(8))]
        return sum(found) / len(found)

    assert early([results(60)]) < 0.6 * early([])


def test_earlier_results_inform_a_search_for_several_metrics() -> None:
    metrics = (Metric(name="a"), Metric(name="b", goal=Goal.MINIMIZE))
    asked = replace(spec(SPACE, "tpe"), metrics=metrics)

    def both(number: int, y: float) -> Trial:
        final = Measurement(step=1, metrics={"a": -y, "b": y})
        return replace(succeeded(number, {"x": 0.5, "y": y}, 0), final_measurement=final)

    old = replace(asked, metrics=metrics[::-1])
    trials = [both(n, (n % 10) / 10) for n in range(40)]
    engine = StudyEngine("s", asked, earlier=[(old, trials)])
    drawn = []
    for number in range(10):
        parameters = engine.suggest(number)
        assert parameters is not None
        engine.add(trial(number, parameters, TrialState.FAILED))
        drawn.append(float(parameters["y"]))
    assert sum(drawn) / len(drawn) < 0.3


def test_only_results_that_the_study_would_have_got_count() -> None:
    asked = spec(SPACE)
    old, trials = results(6)
    assert len(warm(asked, (old, trials)).trials) == 6
    others: list[StudySpec] = [
        replace(old, metrics=(Metric(name="auc", goal=Goal.MINIMIZE),)),
        replace(old, metrics=(Metric(name="loss", goal=Goal.MAXIMIZE),)),
    ]
    for other in others:
        assert warm(asked, (other, trials)) == WarmStart(left_out=6)
    more = replace(old, metrics=(Metric(name="auc"), *old.metrics))
    assert len(warm(asked, (more, trials)).trials) == 6
    two = replace(asked, metrics=more.metrics)
    assert warm(two, (old, trials)) == WarmStart(left_out=6)


def test_only_results_count() -> None:
    point = {"x": 0.5, "y": 0.5}
    trials = [
        trial(0, point),
        trial(1, point, TrialState.FAILED),
        trial(2, point, TrialState.INFEASIBLE),
        trial(3, point, TrialState.SUCCEEDED, math.inf),
        trial(4, point, TrialState.PRUNED, 7.0),
        trial(5, point, TrialState.PRUNED, 5.0, (at(1, 5.0), at(2, 6.0))),
        trial(6, point, TrialState.SUCCEEDED, 3.0),
    ]
    found = warm(spec(SPACE), (spec(SPACE), trials[::-1]))
    assert [(t.number, t.state.name, t.value) for t in found.trials] == [
        (-3, "PRUNED", 7.0),
        (-2, "PRUNED", 6.0),
        (-1, "COMPLETE", 3.0),
    ]
    assert found.left_out == 1
    assert found.best == point


def test_points_are_read_in_the_new_space() -> None:
    asked = spec(
        Space(
            (
                Parameter(name="x", domain=Float(0.5, 2)),
                Parameter(name="depth", domain=Int(1, 4), default=2),
                Parameter(name="act", domain=Categorical(["relu", "gelu"])),
            )
        )
    )
    old = replace(spec(SPACE), settings={"act": "relu", "epochs": 3})
    trials = [succeeded(0, {"x": 0.7, "y": 0.1}, 1.0), succeeded(1, {"x": 0.2, "y": 0.1}, 0.5)]
    found = warm(asked, (old, trials))
    assert [dict(t.params) for t in found.trials] == [{"x": 0.7, "depth": 2, "act": "relu"}]
    assert found.left_out == 1
    assert found.best == {"x": 0.7, "depth": 2, "act": "relu"}


def test_what_was_tuned_away_from_what_is_fixed_now_is_left_out() -> None:
    feature = Feature(name="age", kind="numeric", columns=("age",), settings={"buckets": 8})
    asked = replace(spec(Space.of({"x": Float(0, 1)})), settings={"y": 0.5}, features=(feature,))
    trials = [
        succeeded(0, {"x": 0.1, "y": 0.5}, 1.0),
        succeeded(1, {"x": 0.2, "y": 0.6}, 1.0),
        succeeded(2, {"x": 0.3, "y": 0.5, "age.buckets": 9}, 1.0),
        succeeded(3, {"x": 0.4, "y": 0.5, "age.buckets": 8}, 1.0),
    ]
    found = warm(asked, (spec(SPACE), trials))
    assert [t.params["x"] for t in found.trials] == [0.1, 0.4]


def test_constraints_are_the_new_studys() -> None:
    asked = replace(spec(SPACE), constraints=(Constraint(metric="ms", at_most=5),))

    def ended(number: int, value: float, **more: float) -> Trial:
        final = Measurement(step=1, metrics={"loss": value, **more})
        parameters = {"x": number / 10, "y": 0.0}
        return replace(succeeded(number, parameters, 0), final_measurement=final)

    trials = [ended(0, 1.0, ms=9), ended(1, 2.0, ms=4), ended(2, 3.0, ms=1), ended(3, 0.5)]
    found = warm(asked, (spec(SPACE), trials))
    assert [t.constraints for t in found.trials] == [{"ms": 4}, {"ms": -1}, {"ms": -4}]
    assert found.left_out == 1
    assert found.best == {"x": 0.1, "y": 0.0}


def test_early_stopping_knows_nothing_of_earlier_studies() -> None:
    old, trials = results(9)
    curves = [replace(t, measurements=(at(2, -99.0),)) for t in trials]
    asked = spec(SPACE, "random", stopping="asha")
    engine = StudyEngine("s", asked, earlier=[(old, curves)])
    for number in range(3):
        engine.add(trial(number, {"x": 0.5, "y": 0.5}))
        assert engine.report(number, at(2, 1.0)) is None
