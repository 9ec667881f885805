"""Proposals: in the space, the same again after a restart, none twice, and better than chance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from scipy.stats import qmc

from tests.unit.engine_support import at, run, spaces, spec, succeeded, trial
from tuner.engine import ALGORITHMS, StudyEngine, check_search, points
from tuner.engine import check as checks
from tuner.errors import InvalidArgumentError
from tuner.space import Categorical, Child, Discrete, Float, Group, Int, Parameter, Space, Value
from tuner.study import Goal, Measurement, Metric, TrialState

MIXED = Space(
    (
        Parameter(name="lr", domain=Float(1e-5, 1, log=True), group=Group.TRAINING),
        Parameter(name="units", domain=Int(8, 256, log=True)),
        Parameter(
            name="optimizer",
            domain=Categorical(["sgd", "adam", True, 1]),
            children=(
                Child(("sgd",), Parameter(name="momentum", domain=Float(0, 0.99))),
                Child(("sgd", "adam"), Parameter(name="decay", domain=Discrete([0, 0.1, 0.5]))),
            ),
        ),
    )
)
FINITE = Space(
    (
        Parameter(name="a", domain=Int(1, 3)),
        Parameter(
            name="b",
            domain=Categorical(["x", "y"]),
            children=(Child(("y",), Parameter(name="c", domain=Float(0, 1, step=0.5))),),
        ),
    )
)
FINITE_SIZE = 3 * (1 + 3)
#: For CMA-ES, which takes only numbers that always exist.
NUMBERS = Space(
    (
        Parameter(name="lr", domain=Float(1e-5, 1, log=True)),
        Parameter(name="units", domain=Int(8, 256, log=True)),
        Parameter(name="dropout", domain=Float(0, 0.5, step=0.1)),
    )
)
FINITE_NUMBERS = Space(
    (
        Parameter(name="a", domain=Int(1, 3)),
        Parameter(name="b", domain=Discrete([1, 2, 8, 16])),
    )
)


CHILDREN = Space(
    (
        Parameter(
            name="a",
            domain=Int(1, 3),
            children=(Child((2,), Parameter(name="b", domain=Int(0, 3))),),
        ),
    )
)


def loss(parameters: Mapping[str, Value]) -> float:
    lr = math.log10(float(parameters["lr"]))
    return (lr + 3) ** 2 + 0.1 * math.log2(float(parameters["units"]))


def space_of(algorithm: str) -> Space:
    return {"grid": FINITE, "cma-es": NUMBERS}.get(algorithm, MIXED)


def finite_of(algorithm: str) -> Space:
    return FINITE_NUMBERS if algorithm == "cma-es" else FINITE


def plain(parameters: Mapping[str, Value]) -> float:
    return float(len(repr(sorted(parameters.items()))))


@settings(max_examples=25, deadline=None)
@given(spaces())
@pytest.mark.parametrize("algorithm", ["random", "qmc", "tpe", "gp", "auto", "nsga-ii"])
def test_every_suggestion_lies_in_the_space(algorithm: str, space: Space) -> None:
    engine = StudyEngine("s", spec(space, algorithm))
    trials = run(engine, plain, range(14))
    assert trials
    for done in trials:
        space.check(done.parameters)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("cut", [1, 7, 11])
def test_an_engine_built_from_history_goes_on_the_same(algorithm: str, cut: int) -> None:
    asked = spec(space_of(algorithm), algorithm, seed=11)
    engine = StudyEngine("s", asked)
    whole = run(engine, plain, range(24))
    history = whole[:cut]
    rebuilt = StudyEngine("s", asked, history)
    rest = run(rebuilt, plain, range(len(history), 24))
    assert [t.parameters for t in rest] == [t.parameters for t in whole[cut:]]
    assert rebuilt.algorithm_in_use == engine.algorithm_in_use


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_pending_and_stopped_trials_survive_a_rebuild(algorithm: str) -> None:
    asked = spec(space_of(algorithm), algorithm, seed=5, stopping="asha")
    engine = StudyEngine("s", asked)
    history = run(engine, plain, range(8))
    for number, state in ((8, TrialState.PRUNED), (9, TrialState.FAILED), (10, None)):
        parameters = engine.suggest(number)
        assert parameters is not None
        engine.add(trial(number, parameters))
        engine.report(number, at(1, 3.0))
        engine.report(number, at(2, 2.5))
        seen = (at(1, 3.0), at(2, 2.5))
        after = trial(number, parameters, state or TrialState.RUNNING, measurements=seen)
        if state is not None:
            engine.finish(after)
        history.append(after)
    assert StudyEngine("s", asked, history).suggest(11) == engine.suggest(11)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_suggesting_changes_nothing(algorithm: str) -> None:
    engine = StudyEngine("s", spec(space_of(algorithm), algorithm))
    run(engine, plain, range(11))
    assert engine.suggest(11) == engine.suggest(11)
    assert len(engine.optuna_study().trials) == 11


@pytest.mark.parametrize("algorithm", ["random", "grid", "qmc", "tpe", "gp"])
def test_the_seed_decides(algorithm: str) -> None:
    first = [
        StudyEngine("s", spec(space_of(algorithm), algorithm, seed=seed)).suggest(0)
        for seed in (-1, 0, 1, 2, 3, 2**63 - 1)
    ]
    assert len({repr(parameters) for parameters in first}) > 3


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_finite_space_is_exhausted_without_repeats(algorithm: str) -> None:
    engine = StudyEngine("s", spec(finite_of(algorithm), algorithm, seed=4))
    trials = run(engine, plain, range(100))
    assert len(trials) == FINITE_SIZE
    assert len({points.key_of(t.parameters) for t in trials}) == FINITE_SIZE
    assert engine.suggest(FINITE_SIZE) is None


def test_a_grid_goes_on_where_trials_of_other_origin_have_been() -> None:
    engine = StudyEngine("s", spec(FINITE, "grid"))
    first = engine.suggest(0)
    assert first is not None
    engine.add(trial(0, {"a": 2, "b": "y", "c": 0.5}))
    rest = run(engine, plain, range(1, 100))
    assert len(rest) == FINITE_SIZE - 1


def test_an_empty_space_has_one_point() -> None:
    engine = StudyEngine("s", spec(Space(), "auto"))
    assert engine.suggest(0) == {}
    engine.add(trial(0, {}))
    assert engine.suggest(1) is None


def test_only_the_next_trial_is_suggested() -> None:
    engine = StudyEngine("s", spec(MIXED))
    with pytest.raises(ValueError, match="next trial is 0"):
        engine.suggest(1)
    with pytest.raises(ValueError, match="came before trial 0"):
        engine.add(trial(1, {"lr": 0.1}))


@pytest.mark.parametrize(
    ("metrics", "space"),
    [
        ("f", MIXED),
        ("fg", NUMBERS),
        ("f", Space.of({"a": Categorical(list("uvw")), "b": Categorical(list("xyz"))})),
    ],
    ids=["tree", "several metrics", "choices"],
)
def test_auto_says_what_it_does_and_why(metrics: str, space: Space) -> None:
    asked = spec(space, "auto")
    asked = replace(asked, metrics=tuple(Metric(name=n, goal=Goal.MINIMIZE) for n in metrics))
    engine, said = StudyEngine("s", asked), list[str]()
    for number in range(260):
        said.append(engine.algorithm_in_use)
        parameters = points.centre(space)
        result = Measurement(step=1, metrics=dict.fromkeys(metrics, float(number)))
        done = trial(number, parameters, TrialState.SUCCEEDED)
        engine.add(replace(done, final_measurement=result))
    assert said[0] == "qmc (auto: spread points until 5 trials have ended with a value)"
    assert said[249] == "gp (auto: 249 trials have ended with a value)"
    assert said[250] == "tpe (auto: 250 trials have ended with a value)"


def test_qmc_is_more_even_than_chance() -> None:
    space = Space.of({"x": Float(0, 1), "y": Float(0, 1)})

    def cells(algorithm: str) -> int:
        engine = StudyEngine("s", spec(space, algorithm))
        trials = run(engine, plain, range(64))
        return len({tuple(int(8 * float(v)) for v in t.parameters.values()) for t in trials})

    assert cells("qmc") == 64
    assert cells("random") < 56


def test_qmc_goes_on_in_the_next_block() -> None:
    asked = spec(MIXED, "qmc", seed=3)
    trials = run(StudyEngine("s", asked), plain, range(70))
    assert len({points.key_of(t.parameters) for t in trials}) == 70
    again = StudyEngine("s", asked, trials[:65]).suggest(65)
    assert again == trials[65].parameters


def test_auto_starts_at_the_centre_spreads_and_then_models() -> None:
    engine = StudyEngine("s", spec(MIXED, "auto"))
    assert engine.suggest(0) == points.centre(MIXED)
    assert engine.algorithm_in_use == (
        "qmc (auto: spread points until 5 trials have ended with a value)"
    )
    run(engine, loss, range(5))
    assert engine.algorithm_in_use == "gp (auto: 5 trials have ended with a value)"


def test_auto_does_not_model_failures() -> None:
    engine = StudyEngine("s", spec(MIXED, "auto"))
    for number in range(9):
        parameters = engine.suggest(number)
        assert parameters is not None
        engine.add(trial(number, parameters))
        state = TrialState.SUCCEEDED if number % 2 else TrialState.INFEASIBLE
        engine.finish(trial(number, parameters, state, math.nan if number % 2 else None))
    assert engine.algorithm_in_use.startswith("qmc")


@pytest.mark.parametrize("algorithm", ["tpe", "gp", "auto"])
def test_the_model_finds_what_chance_does_not(algorithm: str) -> None:
    def best(name: str) -> float:
        values = []
        for seed in range(3):
            engine = StudyEngine("s", spec(MIXED, name, seed=seed))
            values.append(min(loss(t.parameters) for t in run(engine, loss, range(60))))
        return sum(values)

    assert best(algorithm) < best("random") - 0.05


@pytest.mark.parametrize("algorithm", ["tpe", "gp"])
def test_the_model_follows_the_goal(algorithm: str) -> None:
    for goal, sign in ((Goal.MAXIMIZE, 1), (Goal.MINIMIZE, -1)):
        space = Space.of({"x": Float(-1, 1)})
        engine = StudyEngine("s", spec(space, algorithm, goal=goal))
        trials = run(engine, lambda p: float(p["x"]), range(40))
        late = [float(t.parameters["x"]) for t in trials[25:]]
        assert sign * sum(late) / len(late) > 0.5


@pytest.mark.parametrize("algorithm", ["tpe", "gp"])
def test_children_are_modelled(algorithm: str) -> None:
    def objective(parameters: Mapping[str, Value]) -> float:
        return abs(float(parameters.get("momentum", 2)) - 0.9)

    engine = StudyEngine("s", spec(MIXED, algorithm, seed=1))
    trials = run(engine, objective, range(60))
    late = [t.parameters.get("momentum") for t in trials[40:]]
    # By chance it would be 5 and 1 or 2; a part goes to choices that were made least.
    assert sum(m is not None for m in late) > 10
    assert sum(m is not None and float(m) > 0.7 for m in late) > 8


def test_parallel_trials_are_pushed_apart() -> None:
    space = Space.of({"x": Float(0, 1)})

    def spread(*, pending: bool) -> float:
        engine = StudyEngine("s", spec(space, "tpe", seed=2))
        run(engine, lambda p: abs(float(p["x"]) - 0.5), range(30))
        drawn = []
        for number in range(30, 42):
            parameters = engine.suggest(number)
            assert parameters is not None
            drawn.append(float(parameters["x"]))
            state = TrialState.RUNNING if pending else TrialState.FAILED
            engine.add(trial(number, parameters, state))
        return max(drawn) - min(drawn)

    assert spread(pending=True) > spread(pending=False)


def test_failed_trials_do_not_inform_the_model_and_stopped_ones_do() -> None:
    engine = StudyEngine("s", spec(MIXED, "tpe"))
    parameters = points.centre(MIXED)
    ends = [
        trial(0, parameters, TrialState.SUCCEEDED, 1.0),
        trial(1, parameters, TrialState.SUCCEEDED, math.nan),
        trial(2, parameters, TrialState.SUCCEEDED),
        trial(3, parameters, TrialState.FAILED),
        trial(4, parameters, TrialState.INFEASIBLE),
        trial(5, parameters, TrialState.PRUNED, measurements=(at(1, 5.0), at(2, 4.0))),
        trial(6, parameters, TrialState.PRUNED, measurements=(at(1, math.nan),)),
        trial(7, parameters, TrialState.QUEUED),
        trial(8, parameters, TrialState.SUCCEEDED, math.inf),
    ]
    for end in ends:
        engine.add(end)
    mirrored = engine.optuna_study().trials
    assert [t.state.name for t in mirrored] == [
        "COMPLETE", "FAIL", "FAIL", "FAIL", "FAIL", "PRUNED", "PRUNED", "RUNNING", "FAIL",
    ]  # fmt: skip
    assert [t.value for t in mirrored] == [1.0, None, None, None, None, 4.0, *[None] * 3]
    assert mirrored[5].intermediate_values == {1: 5.0, 2: 4.0}
    assert [t._trial_id for t in mirrored] == [t.number for t in mirrored] == list(range(9))


def test_a_retried_trial_is_pending_again() -> None:
    engine = StudyEngine("s", spec(MIXED, "tpe", stopping="asha"))
    parameters = points.centre(MIXED)
    engine.add(trial(0, parameters))
    engine.report(0, at(1, 3.0))
    engine.finish(trial(0, parameters, TrialState.FAILED))
    engine.restart(0)
    mirrored = engine.optuna_study().trials[0]
    assert (mirrored.state.name, mirrored.intermediate_values) == ("RUNNING", {})


def test_an_extended_space_keeps_its_trials_useful() -> None:
    narrow = Space.of({"x": Float(0, 1), "act": Categorical(["relu", "tanh"])})
    trials = run(StudyEngine("s", spec(narrow, "tpe")), lambda p: -float(p["x"]), range(30))
    wide = Space(
        (
            Parameter(name="x", domain=Float(0, 2)),
            Parameter(name="act", domain=Categorical(["gelu", "relu", "tanh"])),
            Parameter(name="depth", domain=Int(1, 4), default=1),
        )
    )
    engine = StudyEngine("s", spec(wide, "tpe"), trials)
    assert engine.optuna_study().trials[0].params["depth"] == 1
    rest = run(engine, lambda p: -float(p["x"]), range(30, 60))
    for done in rest:
        wide.check(done.parameters)
    assert min(float(t.parameters["x"]) for t in rest[10:]) > 0.5
    assert max(float(t.parameters["x"]) for t in rest) > 1.5
    assert engine.importance().parameters.keys() == {"x", "act", "depth"}


def test_importance_needs_four_trials() -> None:
    engine = StudyEngine("s", spec(MIXED))
    run(engine, loss, range(3))
    assert engine.importance().parameters == {}
    assert engine.importance().groups == {}
    assert engine.importance().trials == 3


@pytest.mark.parametrize("goal", list(Goal))
def test_importance_finds_what_matters(goal: Goal) -> None:
    def objective(parameters: Mapping[str, Value]) -> float:
        return 10 * math.log10(float(parameters["lr"])) + float(parameters.get("momentum", 0))

    engine = StudyEngine("s", spec(MIXED, "random", goal=goal, seed=3))
    run(engine, objective, range(80))
    importance = engine.importance()
    assert next(iter(importance.parameters)) == "lr"
    assert importance.parameters.keys() == {"lr", "units", "optimizer", "momentum", "decay"}
    assert sum(importance.parameters.values()) == pytest.approx(1)
    assert sum(importance.groups.values()) == pytest.approx(1)
    assert importance.groups["training"] == importance.parameters["lr"] > 0.5
    assert importance.trials == 80


def test_importance_counts_stopped_trials() -> None:
    engine = StudyEngine("s", spec(Space.of({"x": Float(0, 1), "y": Float(0, 1)}), seed=1))
    for number in range(40):
        parameters = engine.suggest(number)
        assert parameters is not None
        value = float(parameters["x"])
        if value < 0.5:
            engine.add(succeeded(number, parameters, value))
        else:
            stopped = trial(number, parameters, TrialState.PRUNED, measurements=(at(2, value),))
            engine.add(stopped)
    assert engine.importance().trials == 40
    assert engine.importance().parameters["x"] > 0.7


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("stopping", ["none", "asha", "median"])
def test_check_accepts_what_there_is(algorithm: str, stopping: str) -> None:
    check_search(spec(finite_of(algorithm), algorithm, stopping=stopping))


@pytest.mark.parametrize(
    ("algorithm", "stopping", "space", "said"),
    [
        ("bayes", "none", FINITE, "auto, random, .* gp, cma-es, nsga-ii, but got 'bayes'"),
        ("cma-es", "none", MIXED, "'optimizer' is .*; choose `auto`, `tpe` or `nsga-ii`, or fix"),
        ("cma-es", "none", CHILDREN, "some depend on 'a'; choose `auto`"),
        ("tpe", "halving", FINITE, "but got 'halving'"),
        ("grid", "none", MIXED, "'lr' is float .* log; give it a `step`"),
        ("auto", "none", Space(), "the space is empty"),
    ],
)
def test_check_says_what_is_wrong(algorithm: str, stopping: str, space: Space, said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        check_search(spec(space, algorithm, stopping=stopping))


def test_cma_es_takes_one_metric() -> None:
    asked = spec(FINITE_NUMBERS, "cma-es")
    two = replace(asked, metrics=(*asked.metrics, Metric(name="time", goal=Goal.MINIMIZE)))
    with pytest.raises(InvalidArgumentError, match="one metric, but the study has 2"):
        check_search(two)


def test_check_knows_the_limit_of_sobol_sequences() -> None:
    space = Space(tuple(Parameter(name=f"p{i}", domain=Int(0, 9)) for i in range(21_202)))
    check_search(spec(space, "random"))
    with pytest.raises(InvalidArgumentError, match="at most 21201 parameters"):
        check_search(spec(space, "qmc"))


def test_a_trainer_may_bring_the_parameters_later() -> None:
    managed = replace(spec(Space(), "auto"), trainer="tabular")
    check_search(managed)
    with pytest.raises(InvalidArgumentError, match="empty"):
        check_search(managed, prepared=True)


def test_what_is_known_of_sobol_sequences_is_so() -> None:
    assert checks.SOBOL_DIMENSIONS == qmc.Sobol.MAXDIM


def test_a_branch_without_a_point_left_is_left_for_another() -> None:
    rate = Parameter(name="rate", domain=Float(0, 1))
    kind = Parameter(
        name="kind", domain=Categorical(("plain", "rich")), children=(Child(("rich",), rate),)
    )
    space = Space((kind, Parameter(name="size", domain=Discrete((1, 2)))))
    engine = StudyEngine("s", spec(space, "tpe"))
    # The branch that is finite is the better one.
    trials = run(engine, lambda point: float(point["kind"] == "rich"), range(50))
    tried = [points.key_of(each.parameters) for each in trials]
    assert len(set(tried)) > 45
