"""What a study becomes when it is submitted again, what is refused, and the search after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.engine_support import run, spaces, spec
from tuner.engine import StudyEngine, check_search, points
from tuner.errors import AlreadyExistsError
from tuner.extension import extend
from tuner.space import (
    Categorical,
    Child,
    Discrete,
    Domain,
    Float,
    Group,
    Int,
    Parameter,
    Space,
    Value,
)
from tuner.study import (
    Constraint,
    DataSource,
    Feature,
    Goal,
    Limits,
    Metric,
    OwnTrainer,
    Resources,
    Search,
    Selection,
    StudySpec,
)


def of(*parameters: Parameter, **more: object) -> StudySpec:
    return replace(spec(Space(parameters)), **more)  # type: ignore[arg-type]


def parameter(
    name: str, domain: Domain, *children: Child, default: Value | None = None
) -> Parameter:
    return Parameter(name=name, domain=domain, children=children, default=default)


X = parameter("x", Float(0, 1))
MOMENTUM = parameter("momentum", Float(0, 0.9))
OPTIMIZER = parameter("opt", Categorical(["adam", "sgd"]), Child(("sgd",), MOMENTUM))
BASE = of(X, OPTIMIZER, settings={"epochs": 10})


def again(now: StudySpec, before: StudySpec = BASE) -> StudySpec:
    return extend(before, before, now)


def refused(now: StudySpec, before: StudySpec = BASE, old: StudySpec | None = None) -> str:
    with pytest.raises(AlreadyExistsError) as caught:
        extend(old or before, before, now)
    return caught.value.message


@settings(max_examples=50, deadline=None)
@given(spaces())
def test_the_same_again_changes_nothing(space: Space) -> None:
    same = replace(BASE, space=space)
    assert extend(same, same, same) == same


def test_what_does_not_touch_results_may_change() -> None:
    now = replace(
        BASE,
        search=Search(algorithm="tpe", early_stopping="median"),
        limits=Limits(trials=500, duration=timedelta(hours=2)),
        resources=Resources(workers=2),
        labels={"team": "b"},
        export_model="better",
    )
    assert again(now) == now


def test_what_was_changed_elsewhere_stays() -> None:
    old = replace(BASE, limits=Limits(trials=500), labels={"seen": "yes"}, export_model="m")
    now = replace(BASE, limits=Limits(failed_trials=9))
    assert extend(old, BASE, now) == replace(old, limits=Limits(trials=500, failed_trials=9))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (Float(0, 1), Float(-1, 2)),
        (Float(0.1, 1, log=True), Float(0.01, 1, log=True)),
        (Float(0.1, 0.5, step=0.1), Float(-0.2, 0.7, step=0.1)),
        (Int(1, 4), Int(0, 9)),
        (Int(3, 9, step=3), Int(0, 12, step=3)),
        (Discrete([1, 4]), Discrete([0, 1, 2, 4])),
        (Categorical(["a", 1]), Categorical([True, 1, "b", "a"])),
    ],
)
def test_ranges_widen_and_choices_are_added(old: Domain, new: Domain) -> None:
    assert again(of(parameter("p", new)), of(parameter("p", old))) == of(parameter("p", new))


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (Float(0, 1), Float(0.1, 2), "float [0, 1] -> float [0.1, 2] (a range may only widen)"),
        (Float(0, 1), Float(0, 0.9), "a range may only widen"),
        (Float(0.1, 1), Float(0.1, 1, log=True), "[0.1, 1] log (its scale is fixed)"),
        (Float(0, 1, step=0.5), Float(0, 1), "[0, 1] step 0.5 -> float [0, 1] (its step is"),
        (Float(0, 1, step=0.5), Float(0, 1, step=0.25), "its step is fixed"),
        (Float(0, 1, step=0.5), Float(-0.2, 1, step=0.5), "it may only widen by whole steps"),
        (Int(1, 9, step=2), Int(0, 9, step=2), "it may only widen by whole steps"),
        (Int(1, 9), Int(2, 9), "a range may only widen"),
        (Int(1, 9), Float(1, 9), "int [1, 9] -> float [1, 9] (its kind is fixed)"),
        (Int(1, 2), Discrete([1, 2]), "its kind is fixed"),
        (Discrete([1, 2]), Categorical([1, 2]), "its kind is fixed"),
        (Discrete([1, 2]), Discrete([1, 3]), "[1, 2] -> discrete [1, 3] (values may only be"),
        (Categorical(["a", 1]), Categorical(["a", True]), "choices may only be added"),
    ],
)
def test_nothing_narrows_and_no_kind_changes(old: Domain, new: Domain, why: str) -> None:
    message = refused(of(parameter("p", new)), of(parameter("p", old)))
    assert message.startswith("the study exists, and this cannot change: parameter 'p': ")
    assert why in message
    assert message.endswith(" Undo it, or submit it under another name.")


def test_a_new_parameter_needs_a_default() -> None:
    depth = parameter("depth", Int(1, 4))
    said = refused(of(X, OPTIMIZER, depth, settings=BASE.settings))
    assert "'depth': none -> int [1, 4] (give it a `default`" in said
    added = parameter("depth", Int(1, 4), default=2)
    now = of(added, X, OPTIMIZER, settings=BASE.settings)
    # The old ones come first, whatever the order that is submitted.
    assert again(now).space.parameters == (X, OPTIMIZER, added)


def test_a_new_parameter_under_an_old_value_needs_a_default() -> None:
    def grown(default: Value | None) -> StudySpec:
        nesterov = parameter("nesterov", Categorical([True, False]), default=default)
        children = (*OPTIMIZER.children, Child(("sgd",), nesterov))
        return of(X, replace(OPTIMIZER, children=children), settings=BASE.settings)

    assert "'nesterov': none -> categorical" in refused(grown(None))
    assert again(grown(False)) == grown(False)


def test_a_new_parameter_under_a_new_value_needs_none() -> None:
    rho = Child(("rmsprop",), parameter("rho", Float(0, 1)))
    children = (*OPTIMIZER.children, rho)
    optimizer = parameter("opt", Categorical(["rmsprop", "sgd", "adam"]), *children)
    now = of(X, optimizer, settings=BASE.settings)
    assert again(now) == now


def test_the_children_of_a_default_need_defaults() -> None:
    def grown(default: Value | None, of_off: Value | None = None) -> StudySpec:
        on = Child(("on",), parameter("rate", Float(0, 1), default=default))
        off = Child(("off",), parameter("unread", Float(0, 1), default=of_off))
        mode = parameter("mode", Categorical(["on", "off"]), on, off, default="on")
        return of(X, OPTIMIZER, mode, settings=BASE.settings)

    assert "'rate': none -> float [0, 1]" in refused(grown(None))
    assert again(grown(0.5)) == grown(0.5)


def test_a_child_may_exist_under_more_values() -> None:
    def under(values: tuple[Value, ...], default: Value | None = None) -> StudySpec:
        child = Child(values, replace(MOMENTUM, default=default))
        choices = Categorical(["adam", "sgd", "lion"])
        return of(X, parameter("opt", choices, child), settings=BASE.settings)

    assert again(under(("sgd", "lion"))) == under(("sgd", "lion"))
    assert "'momentum': none -> float" in refused(under(("adam", "sgd")))
    assert again(under(("adam", "sgd"), 0.0)) == under(("sgd", "adam"), 0.0)
    assert "'momentum' of 'opt': [sgd] -> [lion]" in refused(under(("lion",)))


def test_parameters_stay_and_stay_where_they_are() -> None:
    assert "'x': float [0, 1] -> none (trials so far have it)" in refused(
        of(OPTIMIZER, settings=BASE.settings)
    )
    assert "'momentum': float [0, 0.9] -> none" in refused(
        of(X, replace(OPTIMIZER, children=()), settings=BASE.settings)
    )
    moved = of(X, replace(OPTIMIZER, children=()), MOMENTUM, settings=BASE.settings)
    assert "'momentum': elsewhere in the tree -> float" in refused(moved)
    below = parameter("new", Int(1, 2), Child((1,), X), default=2)
    assert "'x': elsewhere in the tree" in refused(of(OPTIMIZER, below, settings=BASE.settings))
    fixed = of(OPTIMIZER, settings={"epochs": 10, "x": 0.5})
    said = refused(fixed)
    assert "'x': float [0, 1] -> fixed 0.5 (a range may only widen)" in said
    assert said.count(" -> ") == 1


def test_defaults_and_groups_may_change() -> None:
    now = replace(
        BASE,
        space=Space((replace(X, default=0.5, group=Group.TRAINING), OPTIMIZER)),
    )
    assert again(now) == now
    # One that is left out is kept: trials may be read with it.
    assert extend(now, now, BASE).space.parameters[0].default == 0.5


def test_a_fixed_setting_may_be_tuned_from_now_on() -> None:
    now = of(X, OPTIMIZER, parameter("epochs", Int(5, 20)))
    tuned = parameter("epochs", Int(5, 20), default=10)
    assert again(now) == of(X, OPTIMIZER, tuned)
    same = of(X, OPTIMIZER, tuned)
    assert again(same) == same
    for wrong in (Int(11, 20), Int(1, 9)):
        said = refused(of(X, OPTIMIZER, parameter("epochs", wrong)))
        assert "'epochs': fixed 10 -> int" in said
        assert "must include 10, which trials so far had" in said
    said = refused(of(X, OPTIMIZER, parameter("epochs", Int(5, 20), default=7)))
    assert "its default must include 10" in said
    children = (*OPTIMIZER.children, Child(("sgd",), tuned))
    said = refused(of(X, replace(OPTIMIZER, children=children)))
    assert "'epochs': fixed 10 -> int [5, 20] (trials so far have it under every value)" in said


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"settings": {"epochs": 20}}, "epochs: 10 -> 20 (trials so far would not compare"),
        ({"settings": {}}, "epochs: 10 -> none"),
        ({"settings": {"epochs": 10, "warmup": 3}}, "warmup: none -> 3"),
        ({"metrics": (Metric(name="loss"),)}, "metrics: minimize loss -> maximize loss"),
        (
            {"metrics": (*BASE.metrics, Metric(name="auc"))},
            "metrics: minimize loss -> minimize loss, maximize auc",
        ),
        (
            {"constraints": (Constraint(metric="ms", at_most=5.0),)},
            "constraints: none -> ms at most 5.0 (they decide what is best)",
        ),
        ({"measurement_selection": Selection.LAST}, "measurement: best -> last"),
        ({"search": Search(algorithm="random", early_stopping="none", seed=1)}, "seed: 0 -> 1"),
        ({"warm_start": ("a", "b")}, "warm_start: none -> a, b (earlier results are read once"),
        ({"trainer": "tabular"}, "trainer: none -> tabular"),
        ({"own": OwnTrainer(code="a" * 64)}, f"trainer.code: none -> {'a' * 12}"),
        ({"own": OwnTrainer(command=("a", "b c"))}, "trainer.command: none -> a 'b c'"),
        ({"own": OwnTrainer(environment={"A": "1"})}, "trainer.env: none -> A=1"),
        ({"data": DataSource(train_uri="t.csv", label="y")}, "data: none -> t.csv"),
    ],
)
def test_what_results_hang_on_is_fixed(changed: Mapping[str, object], said: str) -> None:
    assert said in refused(replace(BASE, **changed))  # type: ignore[arg-type]


def test_the_same_in_other_words_is_no_change() -> None:
    bounds = (Constraint(metric="a", at_most=1), Constraint(metric="b", at_least=2))
    before = replace(BASE, constraints=bounds)
    now = replace(before, constraints=bounds[::-1], measurement_selection=Selection.BEST)
    assert again(now, before) == before


def test_every_refused_change_is_told_up_to_five() -> None:
    before = of(*(parameter(f"p{i}", Int(1, 9)) for i in range(7)))
    now = of(*(parameter(f"p{i}", Int(2, 9)) for i in range(7)))
    said = refused(replace(now, metrics=(Metric(name="auc", goal=Goal.MAXIMIZE),)), before)
    assert said.count(" -> ") == 5
    assert "; and 3 more." in said
    assert "more" not in refused(
        of(*now.space.parameters[:5], *before.space.parameters[5:]), before
    )


DATA = DataSource(train_uri="t.csv", label="y")
AGE = Feature(name="age", kind="numeric", columns=("age",), settings={"scaling": "log"})
SUBMITTED = of(parameter("layers", Int(1, 4)), trainer="tabular", data=DATA, features=(AGE,))
COMPLETED = replace(
    SUBMITTED,
    space=Space(
        (
            *SUBMITTED.space.parameters,
            parameter("units", Int(16, 64)),
            parameter("job.v", Int(2, 9)),
        )
    ),
    settings={"task": "binary"},
    features=(
        replace(AGE, settings={"scaling": "log", "buckets": 0}),
        Feature(name="job", kind="categorical", columns=("job",), settings={"oov": 1}),
    ),
    resources=Resources(strategy="single"),
)


def test_what_the_runner_proposed_stays() -> None:
    assert extend(COMPLETED, SUBMITTED, SUBMITTED) == COMPLETED
    now = replace(SUBMITTED, space=Space((parameter("layers", Int(1, 6)),)))
    extended = extend(COMPLETED, SUBMITTED, now)
    assert extended == replace(
        COMPLETED,
        space=Space((parameter("layers", Int(1, 6)), *COMPLETED.space.parameters[1:])),
    )


def test_what_is_submitted_now_replaces_what_the_runner_proposed() -> None:
    layers = SUBMITTED.space.parameters[0]
    now = replace(SUBMITTED, space=Space((parameter("units", Int(16, 512)), layers)))
    extended = extend(COMPLETED, SUBMITTED, now)
    assert [p.domain for p in extended.space.parameters] == [Int(1, 4), Int(16, 512), Int(2, 9)]
    narrow = replace(SUBMITTED, space=Space((parameter("units", Int(32, 512)), layers)))
    assert "'units': int [16, 64] -> int [32, 512]" in refused(narrow, SUBMITTED, COMPLETED)
    settled = replace(SUBMITTED, settings={"units": 64})
    said = refused(settled, SUBMITTED, COMPLETED)
    assert said.count(" -> ") == 1
    assert "'units': int [16, 64] -> fixed 64" in said


def test_a_setting_of_a_feature_may_be_tuned_from_now_on() -> None:
    buckets = parameter("age.buckets", Int(0, 64))
    now = replace(SUBMITTED, space=Space((*SUBMITTED.space.parameters, buckets)))
    extended = extend(COMPLETED, SUBMITTED, now)
    assert extended.space.parameters[-1] == replace(buckets, default=0)
    assert extended.features[0].settings == {"scaling": "log"}


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ((), "feature 'age': numeric of age -> none (models of trials so far see"),
        ((replace(AGE, kind="categorical"),), "'age': numeric of age -> categorical of age"),
        ((replace(AGE, columns=("years",)),), "numeric of age -> numeric of years"),
        ((replace(AGE, settings={"scaling": "zscore"}),), "age.scaling: log -> zscore"),
        ((replace(AGE, settings={}),), "age.scaling: log -> none"),
        ((AGE, replace(AGE, name="b")), "feature 'b': none -> numeric of age"),
    ],
)
def test_features_are_fixed(features: tuple[Feature, ...], said: str) -> None:
    assert said in refused(replace(SUBMITTED, features=features), SUBMITTED, COMPLETED)


def test_a_proposed_feature_may_be_written_out() -> None:
    now = replace(SUBMITTED, features=(AGE, replace(COMPLETED.features[1], settings={})))
    assert extend(COMPLETED, SUBMITTED, now) == COMPLETED


def test_data_is_fixed_field_by_field() -> None:
    now = replace(SUBMITTED, data=replace(DATA, train_uri="u.csv", test_uri="v.csv"))
    said = refused(now, SUBMITTED, COMPLETED)
    assert "data.train_uri: t.csv -> u.csv (trials" in said
    assert "data.test_uri: none -> v.csv" in said


# --- the search goes on ----------------------------------------------------------------------

NARROW = of(
    parameter("x", Float(0, 1)),
    parameter("act", Categorical(["relu", "tanh"])),
    search=Search(algorithm="tpe", early_stopping="none"),
)
WIDE = replace(
    NARROW,
    space=Space(
        (
            parameter("x", Float(0, 2)),
            parameter(
                "act",
                Categorical(["gelu", "tanh", "relu"]),
                Child(("gelu",), parameter("slope", Float(0, 1))),
                Child(("relu",), parameter("cap", Int(1, 6), default=6)),
            ),
            parameter("depth", Int(1, 4), default=1),
        )
    ),
)


def loss(parameters: Mapping[str, Value]) -> float:
    return -float(parameters["x"]) - 0.2 * float(parameters.get("depth", 1))


@pytest.mark.parametrize("algorithm", ["auto", "tpe", "random", "qmc"])
def test_trials_drawn_before_inform_what_comes_after(algorithm: str) -> None:
    search = Search(algorithm=algorithm, early_stopping="none")
    before, now = replace(NARROW, search=search), replace(WIDE, search=search)
    trials = run(StudyEngine("s", before), loss, range(30))
    extended = extend(before, before, now)
    check_search(extended)
    engine = StudyEngine("s", extended, trials)
    mirrored = engine.optuna_study().trials
    for old, read in zip(trials, mirrored, strict=True):
        assert read.params["depth"] == 1
        assert read.params["x"] == old.parameters["x"]
        assert read.params.get("cap") == (6 if old.parameters["act"] == "relu" else None)
    rest = run(engine, loss, range(30, 70))
    for done in rest:
        extended.space.check(done.parameters)
    if algorithm in ("auto", "tpe"):
        late = [float(t.parameters["x"]) for t in rest[10:]]
        assert sum(late) / len(late) > 1.2
        assert max(float(t.parameters["depth"]) for t in rest[10:]) == 4
    again_built = StudyEngine("s", extended, [*trials, *rest[:5]])
    assert again_built.suggest(35) == rest[5].parameters


@pytest.mark.parametrize("algorithm", ["grid", "auto", "random"])
def test_a_finite_space_is_exhausted_after_it_grew(algorithm: str) -> None:
    search = Search(algorithm=algorithm, early_stopping="none")
    before = of(parameter("a", Int(2, 6, step=2)), parameter("b", Discrete([1, 2])), search=search)
    deep = parameter("c", Categorical(["x", "y"]), default="y")
    now = of(
        parameter("a", Int(0, 6, step=2)),
        parameter("b", Discrete([1, 1.5, 2]), Child((1.5,), parameter("d", Int(1, 2)))),
        deep,
        search=search,
    )
    first = run(StudyEngine("s", before), lambda p: float(p["a"]), range(99))
    assert len(first) == 6
    extended = extend(before, before, now)
    engine = StudyEngine("s", extended, first)
    rest = run(engine, lambda p: float(p["a"]), range(6, 99))
    size = 4 * (1 + 2 + 1) * 2
    assert len(rest) == size - 6
    read = [points.project(extended.space, t.parameters) for t in [*first, *rest]]
    assert all(p.complete for p in read)
    assert len({points.key_of(p.values) for p in read}) == size
    assert engine.suggest(size) is None


@st.composite
def widened(draw: st.DrawFn) -> tuple[Domain, Domain, Value]:
    """A domain, a wider one, and a value of the first."""
    match draw(st.sampled_from(["float", "int", "discrete", "categorical"])):
        case "float":
            step, low = draw(st.sampled_from([0.1, 0.25])), draw(st.integers(-9, 9))
            span, below, above = (draw(st.integers(0, 5)) for _ in range(3))
            low_of = [round(step * (low - by), 6) for by in (0, below)]
            high_of = [round(step * (low + span + by), 6) for by in (0, above)]
            old, new = (Float(a, b, step=step) for a, b in zip(low_of, high_of, strict=True))
            return old, new, round(old.low + step * draw(st.integers(0, span)), 6)
        case "int":
            step, low = draw(st.integers(1, 3)), draw(st.integers(-9, 9))
            span, below, above = (draw(st.integers(0, 5)) for _ in range(3))
            narrow = Int(low, low + span * step, step=step)
            wide = Int(low - below * step, low + (span + above) * step, step=step)
            return narrow, wide, low + step * draw(st.integers(0, span))
        case "discrete":
            values = draw(st.lists(st.integers(-9, 9), min_size=2, unique=True))
            kept = sorted(values[: draw(st.integers(1, len(values)))])
            return Discrete(kept), Discrete(sorted(values)), float(draw(st.sampled_from(kept)))
        case _:
            every: list[Value] = ["a", "b", 1, True, 2.5]
            choices = draw(st.permutations(every))
            some = choices[: draw(st.integers(1, 4))]
            return Categorical(some), Categorical(choices[::-1]), draw(st.sampled_from(some))


@settings(deadline=None)
@given(widened())
def test_every_old_value_is_read_in_a_wider_range(case: tuple[Domain, Domain, Value]) -> None:
    old, new, value = case
    extended = again(of(parameter("p", new)), of(parameter("p", old)))
    read = points.project(extended.space, {"p": value})
    assert read.complete
    kept = read.values["p"]
    assert kept == pytest.approx(value) and isinstance(kept, bool) is isinstance(value, bool)
    if old != new and not isinstance(old, Categorical):
        refused(of(parameter("p", old)), of(parameter("p", new)))
