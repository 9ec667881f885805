"""Several metrics and constraints: what samplers are told, and what they make of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest

from tests.unit.engine_support import at, spec, trial
from tuner.engine import ALGORITHMS, StudyEngine, check_search, optimal_numbers
from tuner.errors import InvalidArgumentError
from tuner.space import Categorical, Child, Float, Int, Parameter, Space, Value
from tuner.study import Constraint, Goal, Measurement, Metric, StudySpec, Trial, TrialState

SPACE = Space(
    (
        Parameter(name="x", domain=Float(0, 1)),
        Parameter(name="y", domain=Float(0, 1)),
        Parameter(
            name="kind",
            domain=Categorical(["a", "b"]),
            children=(Child(("b",), Parameter(name="z", domain=Int(1, 9))),),
        ),
    )
)
FINITE = Space.of({"x": Int(0, 4), "y": Int(0, 4)})
POINT: Mapping[str, Value] = {"x": 0.1, "y": 0.1, "kind": "a"}
GAIN, COST = Metric(name="gain"), Metric(name="cost", goal=Goal.MINIMIZE)

Objective = Callable[[Mapping[str, Value]], Mapping[str, float]]


def asked(
    algorithm: str = "tpe",
    *,
    metrics: Sequence[Metric] = (GAIN, COST),
    constraints: Sequence[Constraint] = (),
    stopping: str = "asha",
    seed: int = 0,
    space: Space = SPACE,
) -> StudySpec:
    base = spec(space, algorithm, stopping=stopping, seed=seed)
    return replace(base, metrics=tuple(metrics), constraints=tuple(constraints))


def measured(step: int = 1, **metrics: float) -> Measurement:
    return Measurement(step=step, metrics=metrics)


def ended(
    number: int,
    parameters: Mapping[str, Value],
    final: Measurement | None,
    state: TrialState = TrialState.SUCCEEDED,
) -> Trial:
    return replace(trial(number, parameters, state), final_measurement=final)


def run(engine: StudyEngine, objective: Objective, numbers: range) -> list[Trial]:
    trials = []
    for number in numbers:
        parameters = engine.suggest(number)
        assert parameters is not None
        engine.add(trial(number, parameters))
        trials.append(
            ended(number, parameters, Measurement(step=1, metrics=objective(parameters)))
        )
        engine.finish(trials[-1])
    return trials


def trade_off(parameters: Mapping[str, Value]) -> dict[str, float]:
    """The front is y = 0, along x."""
    x, y = float(parameters["x"]), float(parameters["y"])
    return {"gain": x - 2 * y, "cost": x + 2 * y}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_end_of_a_trial_with_several_metrics_goes_well(algorithm: str) -> None:
    asked_for = asked(algorithm, space=FINITE if algorithm == "grid" else SPACE)
    engine = StudyEngine("s", asked_for)
    history = run(engine, trade_off, range(12))
    both = measured(gain=1.0, cost=2.0)
    ends = [
        (both, TrialState.PRUNED),
        (None, TrialState.PRUNED),
        (measured(gain=1.0), TrialState.PRUNED),
        (measured(gain=1.0), TrialState.SUCCEEDED),
        (measured(gain=math.nan, cost=1.0), TrialState.SUCCEEDED),
        (measured(gain=1.0, cost=math.inf), TrialState.SUCCEEDED),
        (None, TrialState.INFEASIBLE),
        (None, TrialState.FAILED),
        (None, TrialState.RUNNING),
    ]
    for number, (final, state) in enumerate(ends, 12):
        parameters = engine.suggest(number)
        assert parameters is not None
        engine.add(trial(number, parameters))
        curve = (measured(1, gain=-9.0, cost=9.0), measured(2, gain=-9.0, cost=9.0))
        assert [engine.report(number, measurement) for measurement in curve] == [None, None]
        after = replace(ended(number, parameters, final, state), measurements=curve)
        if state is not TrialState.RUNNING:
            engine.finish(after)
        history.append(after)
    mirrored = engine.optuna_study().trials[12:]
    assert [t.state.name for t in mirrored] == ["COMPLETE", *["FAIL"] * 7, "RUNNING"]
    assert mirrored[0].values == [1.0, 2.0]
    assert all(t.intermediate_values == {} for t in mirrored)
    assert StudyEngine("s", asked_for, history).suggest(21) == engine.suggest(21)
    engine.restart(14)
    assert engine.importance().trials == 13
    assert next(iter(engine.importance().parameters)) in ("x", "y")


def test_optuna_sees_every_direction() -> None:
    study = StudyEngine("s", asked()).optuna_study()
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]


def test_optuna_agrees_on_the_front() -> None:
    asked_for = asked("random")
    engine = StudyEngine("s", asked_for)
    trials = run(engine, trade_off, range(40))
    front = sorted(t.number for t in engine.optuna_study().best_trials)
    assert front == optimal_numbers(asked_for, trials)


@pytest.mark.parametrize("algorithm", ["auto", "tpe", "gp"])
def test_the_model_finds_the_front(algorithm: str) -> None:
    def far_off(name: str) -> float:
        late: list[float] = []
        for seed in range(3):
            engine = StudyEngine("s", asked(name, seed=seed))
            late += [float(t.parameters["y"]) for t in run(engine, trade_off, range(60))[30:]]
        return sum(late) / len(late)

    assert far_off(algorithm) < 0.3 < 0.4 < far_off("random")


def test_the_model_seeks_both_ends_of_the_front() -> None:
    engine = StudyEngine("s", asked(seed=1))
    late = [float(t.parameters["x"]) for t in run(engine, trade_off, range(90))[30:]]
    assert min(late) < 0.2
    assert max(late) > 0.8


@pytest.mark.parametrize("metrics", [(GAIN,), (GAIN, COST)])
def test_the_model_keeps_to_the_constraints(metrics: Sequence[Metric]) -> None:
    def objective(parameters: Mapping[str, Value]) -> dict[str, float]:
        return {**trade_off(parameters), "ms": 100 * float(parameters["x"])}

    def beyond(constraints: Sequence[Constraint]) -> int:
        asked_for = asked(metrics=metrics, constraints=constraints, seed=2)
        late = run(StudyEngine("s", asked_for), objective, range(80))[40:]
        return sum(float(t.parameters["x"]) > 0.4 for t in late)

    # The gain grows with x, so that only the constraint holds it back.
    assert beyond([Constraint(metric="ms", at_most=40)]) < 16
    assert beyond([]) > 20


def test_optuna_is_told_how_far_a_trial_is_beyond() -> None:
    constraints = [
        Constraint(metric="ms", at_most=50),
        Constraint(metric="ms", at_least=10),
        Constraint(metric="auc", at_least=0.8),
    ]
    engine = StudyEngine("s", asked(metrics=[COST], constraints=constraints))
    finals = [
        measured(cost=1, ms=60, auc=0.9),
        measured(cost=1, ms=4, auc=0.7),
        measured(cost=1, ms=30, auc=0.8),
        measured(cost=1, ms=math.nan),
        measured(cost=1, ms=math.inf, auc=1.0),
    ]
    for number, final in enumerate(finals):
        engine.add(ended(number, POINT, final))
    engine.add(trial(5, POINT))
    engine.add(ended(6, POINT, None, TrialState.FAILED))
    told = [t.constraints for t in engine.optuna_study().trials]
    assert told[0] == {"ms": 10, "auc": pytest.approx(-0.1)}
    assert told[1] == {"ms": 6, "auc": pytest.approx(0.1)}
    assert told[2] == {"ms": -20, "auc": 0}
    assert told[3] == {"ms": 1e100, "auc": 1e100}
    assert told[4] == {"ms": 1e100, "auc": pytest.approx(-0.2)}
    assert told[5:] == [{}, {}]
    for number in range(7, 20):
        assert engine.suggest(number) is not None
        engine.add(ended(number, POINT, finals[number % 5]))
    best = engine.optuna_study().best_trial
    assert best.number == 2


def test_a_stopped_trial_has_its_violations_too() -> None:
    engine = StudyEngine(
        "s", asked(metrics=[COST], constraints=[Constraint(metric="ms", at_most=5)])
    )
    engine.add(ended(0, POINT, measured(3, cost=1, ms=7), TrialState.PRUNED))
    stopped = engine.optuna_study().trials[0]
    assert stopped.state.name == "PRUNED"
    assert stopped.constraints == {"ms": 2}
    assert stopped.intermediate_values == {3: 1.0}
    engine.restart(0)
    pending = engine.optuna_study().trials[0]
    assert (pending.constraints, pending.intermediate_values) == ({}, {})


@pytest.mark.parametrize("stopping", ["asha", "median"])
def test_a_trial_beyond_the_constraints_stops_no_other(stopping: str) -> None:
    constraint = Constraint(metric="ms", at_most=5)
    asked_for = asked("random", metrics=[COST], constraints=[constraint], stopping=stopping)
    engine = StudyEngine("s", asked_for)
    for number in range(8):
        engine.add(trial(number, POINT))
        assert engine.report(number, measured(2, cost=-number, ms=9)) is None
    engine.add(trial(8, POINT))
    assert engine.report(8, measured(2, cost=5, ms=1)) is None
    engine.add(trial(9, POINT))
    said = engine.report(9, measured(2, cost=-99, ms=9))
    assert said is not None
    assert "step 2: cost, without a value that counts, is" in said


def test_a_constrained_metric_may_be_measured_later() -> None:
    constraint = Constraint(metric="ms", at_most=5)
    asked_for = asked("random", metrics=[COST], constraints=[constraint])
    engine = StudyEngine("s", asked_for)
    for number in range(4):
        engine.add(trial(number, POINT))
        assert (engine.report(number, measured(2, cost=number)) is None) == (number < 1)


def test_a_rebuilt_engine_stops_the_same_trials() -> None:
    constraint = Constraint(metric="ms", at_most=5)
    asked_for = asked("random", metrics=[COST], constraints=[constraint])
    history = [
        replace(trial(n, POINT), measurements=(measured(2, cost=-n, ms=9 if n < 7 else 1),))
        for n in range(9)
    ]
    engine = StudyEngine("s", asked_for, history)
    said = {n: engine.report(n, history[n].measurements[0]) for n in range(9)}
    assert [n for n in said if said[n] is None] == [7, 8]


def test_early_stopping_is_off_with_several_metrics() -> None:
    asked_for = asked(stopping="asha")
    check_search(asked_for)
    assert asked_for.early_stopping_in_use == "none"
    assert asked(metrics=[COST]).early_stopping_in_use == "asha"
    engine = StudyEngine("s", asked_for)
    for number in range(9):
        engine.add(trial(number, POINT))
        assert engine.report(number, measured(2, gain=-number, cost=number)) is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (asked(stopping="median"), "`median` compares trials by one metric, but the study has 2"),
        (asked(metrics=[COST, COST]), "the metric 'cost' appears twice"),
        (
            asked(metrics=[Metric(name=f"m{i}") for i in range(6)]),
            "`tpe` weighs at most 5 metrics, but got 6; bound some of them by constraints",
        ),
        (
            asked(constraints=[Constraint(metric="ms", at_most=1)] * 2),
            "the `at_most` constraint of 'ms' appears twice",
        ),
        (
            asked(
                constraints=[
                    Constraint(metric="ms", at_most=1),
                    Constraint(metric="ms", at_least=2),
                ]
            ),
            "no 'ms' is at least 2 and at most 1",
        ),
        (replace(asked(), warm_start=tuple("abcdef")), "at most 5 earlier ones, but got 6"),
        (replace(asked(), warm_start=("a", "a")), "the earlier study 'a' appears twice"),
    ],
)
def test_check_says_what_is_wrong(wrong: StudySpec, said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        check_search(wrong)


def test_check_accepts_what_there_is() -> None:
    check_search(asked("random", metrics=[Metric(name=f"m{i}") for i in range(9)]))
    bounds = [Constraint(metric="ms", at_most=2), Constraint(metric="ms", at_least=2)]
    check_search(replace(asked(constraints=bounds), warm_start=tuple("abcde")))


def test_values_on_the_way_are_kept_where_they_are() -> None:
    engine = StudyEngine("s", asked("random", metrics=[Metric(name="loss", goal=Goal.MINIMIZE)]))
    for number in range(2):
        engine.add(trial(number, POINT))
    engine.report(0, at(1, 3.0))
    held = engine.optuna_study().get_trials(deepcopy=False)
    read = engine.optuna_study().trials
    engine.report(0, at(2, 2.0))
    assert held[0].intermediate_values == {1: 3.0, 2: 2.0}
    assert read[0].intermediate_values == {1: 3.0}
    assert held[1].intermediate_values == {}
    engine.finish(ended(0, POINT, at(2, 2.0)))
    assert engine.optuna_study().trials[0].intermediate_values == {1: 3.0, 2: 2.0}


def test_what_is_read_of_a_trial_is_nobody_elses() -> None:
    engine = StudyEngine("s", asked("random"))
    for number in range(2):
        engine.add(trial(number, POINT))
    first, second = engine.optuna_study().trials
    first.set_user_attr("mine", 1)
    first.params["x"] = 9
    del first.distributions["x"]
    assert second.user_attrs == {}
    again = engine.optuna_study().trials[0]
    assert (again.user_attrs, again.params["x"], "x" in again.distributions) == ({}, 0.1, True)


def test_a_point_by_chance_asks_nothing_of_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """So its price does not grow with the number of trials."""
    engine = StudyEngine("s", asked("random"))
    run(engine, trade_off, range(3))

    def listed(*args: object, **options: object) -> None:
        raise AssertionError("the trials were listed")

    monkeypatch.setattr("tuner.engine.mirror.Mirror.get_all_trials", listed)
    for number in range(3, 9):
        parameters = engine.suggest(number)
        assert parameters is not None
        engine.add(trial(number, parameters))
