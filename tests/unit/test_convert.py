"""Round trips: what goes over the wire or into the database comes back equal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from tuner import convert
from tuner.early_stopping import Progress, Stopping
from tuner.errors import InvalidArgumentError
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
    STUDY_ID,
    Attempt,
    Cause,
    Checkpoint,
    Constraint,
    Cost,
    DataSource,
    Failure,
    Feature,
    Goal,
    Lease,
    Limits,
    Measurement,
    Metric,
    Origin,
    OwnTrainer,
    Resources,
    Search,
    Selection,
    StatisticsRef,
    Study,
    StudySpec,
    StudyState,
    Trial,
    TrialCounts,
    TrialState,
)
from tuner.v1 import space_pb2, study_pb2, trial_pb2

M = TypeVar("M", bound=Message)
V = TypeVar("V")


def _in_order(of: Mapping[str, V]) -> dict[str, V]:
    """Names sorted: maps on the wire have no order."""
    return dict(sorted(of.items()))


finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
names = st.text(st.characters(categories=("L", "N", "P", "Zs")), min_size=1, max_size=20).filter(
    str.isprintable
)
values = st.one_of(finite, st.integers(-(2**63), 2**63 - 1), names, st.booleans())
times = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
moments = st.one_of(st.none(), times)
spans = st.timedeltas(timedelta(seconds=-1), timedelta(days=300 * 365))
texts = st.text(max_size=20)
words = st.dictionaries(names, texts, max_size=4).map(_in_order)
points = st.dictionaries(names, values, max_size=4).map(_in_order)
study_ids = st.from_regex(STUDY_ID, fullmatch=True)
counts = st.integers(0, 2**31 - 1)
steps = st.integers(0, 2**63 - 1)


def domains() -> st.SearchStrategy[Domain]:
    pairs = st.tuples(finite, finite).map(sorted)
    ints = st.tuples(st.integers(-1000, 1000), st.integers(-1000, 1000)).map(sorted)
    return st.one_of(
        pairs.map(lambda p: Float(p[0], p[1])),
        pairs.map(lambda p: Float(abs(p[0]) + 1, abs(p[0]) + 2 + abs(p[1]), log=True)),
        st.integers(-9, 9).map(lambda low: Float(low, low + 1, step=0.125)),
        ints.map(lambda p: Int(p[0], p[1], step=3)),
        ints.map(lambda p: Int(abs(p[0]) + 1, abs(p[0]) + 2 + abs(p[1]), log=True)),
        st.lists(finite, min_size=1, unique=True).map(lambda v: Discrete(sorted(v))),
        st.lists(values, min_size=1, unique_by=lambda v: (type(v), v)).map(Categorical),
    )


@st.composite
def parameters(draw: st.DrawFn, name: str, depth: int) -> Parameter:
    """A parameter with children down to a depth, each under some of its parent's values."""
    if depth == 1:
        return Parameter(name=name, domain=draw(domains()), group=draw(st.sampled_from(Group)))
    kinds: list[tuple[Domain, list[Value]]] = [
        (Categorical(("on", True, 1, 1.5)), ["on", True, 1, 1.5]),
        (Int(1, 5), [1, 3, 5]),
        (Discrete((0.5, 2.0)), [0.5, 2.0]),
        (Float(0.0, 1.0), [0.0, 0.25]),
    ]
    domain, choices = draw(st.sampled_from(kinds))
    given_values = st.lists(
        st.sampled_from(choices), min_size=1, unique_by=lambda v: (type(v), v)
    ).map(tuple)
    children = [
        Child(draw(given_values), draw(parameters(f"{name}.{number}", depth - 1)))
        for number in range(draw(st.integers(0, 2)))
    ]
    return Parameter(
        name=name,
        domain=domain,
        group=draw(st.sampled_from(Group)),
        children=tuple(children),
        default=draw(st.one_of(st.none(), st.sampled_from(choices))),
    )


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """Spaces of depth 1 to 3."""
    named = draw(st.lists(names, unique=True, max_size=4))
    tree = [
        draw(parameters(f"{n} {name}", draw(st.integers(1, 3)))) for n, name in enumerate(named)
    ]
    return Space(tuple(tree))


measurements = st.builds(
    Measurement,
    step=steps,
    metrics=st.dictionaries(names, st.floats(allow_nan=False), min_size=1, max_size=3).map(
        _in_order
    ),
    elapsed=spans,
)
constraints = st.one_of(
    st.builds(Constraint, metric=names, at_most=finite),
    st.builds(Constraint, metric=names, at_least=finite),
)
features = st.builds(
    Feature,
    name=names,
    kind=st.sampled_from(("numeric", "categorical", "cross")),
    columns=st.lists(texts, min_size=1, max_size=2).map(tuple),
    settings=points,
    reason=texts,
)
sources = st.one_of(
    st.builds(
        DataSource,
        train_uri=texts,
        label=texts,
        validation_fraction=st.floats(0.01, 0.99),
        test_uri=st.one_of(st.none(), names),
        task=st.one_of(st.none(), st.sampled_from(("classification", "regression"))),
        column_types=words,
        missing_values=st.lists(texts, max_size=2).map(tuple),
        exclude=st.lists(texts, max_size=2).map(tuple),
    ),
    st.builds(DataSource, train_uri=texts, label=texts, validation_uri=texts),
)
some = st.one_of(st.none(), st.integers(1, 2**31 - 1))
limits = st.builds(
    Limits,
    trials=st.integers(1, 2**31 - 1),
    parallel=some,
    duration=st.one_of(st.none(), spans),
    no_improvement_trials=some,
    failed_trials=some,
    worker_time=st.one_of(st.none(), spans),
)
stoppings = st.sampled_from(
    [
        Stopping(),
        Stopping(by=Progress.SECONDS, first=0.5, eta=2.5, brackets=3),
        Stopping(first=0.0, percentile=12.5, trials=4, at_least=-1.5, at_most=0.0),
        Stopping(patience=7.0, min_change=0.0),
    ]
)
managed = st.builds(
    StudySpec,
    metrics=st.lists(
        st.builds(Metric, name=names, goal=st.sampled_from(Goal)), min_size=1, max_size=3
    ).map(tuple),
    space=spaces(),
    settings=points,
    search=st.builds(
        Search,
        algorithm=names,
        early_stopping=names,
        stopping=stoppings,
        seed=st.integers(-(2**63), 2**63 - 1),
    ),
    limits=limits,
    trainer=names,
    own=st.builds(
        OwnTrainer,
        command=st.lists(texts, max_size=3).map(tuple),
        environment=st.dictionaries(names, texts, max_size=2),
        code=texts,
    ),
    data=st.one_of(st.none(), sources),
    features=st.lists(features, max_size=2).map(tuple),
    resources=st.builds(
        Resources,
        strategy=texts,
        workers=st.integers(1, 9),
        parameter_servers=st.integers(0, 9),
        cpus_per_worker=st.floats(0.125, 9),
        gpus_per_worker=st.floats(0, 9),
    ),
    export_model=st.one_of(st.none(), names),
    labels=words,
    constraints=st.lists(constraints, max_size=3).map(tuple),
    warm_start=st.lists(study_ids, max_size=3).map(tuple),
    measurement_selection=st.sampled_from((None, *Selection)),
)
scripts = managed.map(lambda spec: replace(spec, trainer=None, own=OwnTrainer()))
specs = st.one_of(managed, scripts)
costs = st.one_of(
    st.just(Cost()),
    st.builds(
        Cost,
        worker_time=spans.filter(bool),
        cpu_time=spans,
        gpu_time=spans,
    ),
)
studies = st.builds(
    Study,
    study_id=study_ids,
    spec=specs,
    state=st.sampled_from(StudyState),
    state_reason=texts,
    space_version=counts,
    algorithm_in_use=texts,
    statistics=st.one_of(
        st.none(), st.builds(StatisticsRef, fingerprint=texts, uri=texts, rows=steps)
    ),
    trial_counts=st.builds(
        TrialCounts,
        **{
            name: counts
            for name in (
                "queued",
                "running",
                "succeeded",
                "pruned",
                "failed",
                "infeasible",
                "past",
            )
        },
    ),
    best_trial=st.one_of(st.none(), st.integers(0, 999_999_999)),
    exported_model_uri=texts,
    creator=texts,
    cost=costs,
    create_time=times,
    update_time=times,
    end_time=moments,
    etag=texts,
)
failures = st.builds(
    Failure, cause=st.sampled_from(Cause), message=texts, stack=texts, log_tail=texts
)
attempts = st.builds(
    Attempt,
    number=counts,
    worker_id=texts,
    host=texts,
    start_time=times,
    end_time=moments,
    failure=st.one_of(st.none(), failures),
    cost=costs,
)
trials = st.builds(
    Trial,
    study_id=study_ids,
    number=st.integers(0, 999_999_999),
    state=st.sampled_from(TrialState),
    parameters=points,
    space_version=counts,
    attempt=counts,
    lease=st.one_of(st.none(), st.builds(Lease, worker_id=texts, expire_time=times, token=texts)),
    final_measurement=st.one_of(st.none(), measurements),
    measurements=st.lists(measurements, max_size=3).map(tuple),
    attempts=st.lists(attempts, max_size=3).map(tuple),
    stop_requested=st.booleans(),
    artifact_uri=texts,
    state_reason=texts,
    origin=st.sampled_from(Origin),
    labels=words,
    checkpoint=st.one_of(st.none(), st.builds(Checkpoint, uri=texts, step=steps)),
    within_constraints=st.sampled_from((None, True, False)),
    cost=costs,
    create_time=times,
    start_time=moments,
    end_time=moments,
)


def again(message: M) -> M:
    """The message as it arrives on the other side."""
    return type(message).FromString(message.SerializeToString())


def types(of: Mapping[str, Value]) -> list[type]:
    """The types of values: 1, 1.0 and True are equal, and not the same."""
    return [type(value) for value in of.values()]


@given(spaces())
def test_spaces_round_trip(space: Space) -> None:
    assert convert.space_from_proto(again(convert.space_to_proto(space))) == space


@given(spaces())
def test_choices_keep_their_types(space: Space) -> None:
    back = convert.space_from_proto(again(convert.space_to_proto(space)))
    for before, after in zip(space.walk(), back.walk(), strict=True):
        assert type(before.default) is type(after.default)
        if isinstance(before.domain, Categorical) and isinstance(after.domain, Categorical):
            assert list(map(type, before.domain.choices)) == list(map(type, after.domain.choices))


@given(specs)
def test_specifications_round_trip(spec: StudySpec) -> None:
    back = convert.spec_from_proto(again(convert.spec_to_proto(spec)))
    assert back == spec
    assert types(back.settings) == types(spec.settings)


@given(specs)
def test_specifications_round_trip_through_json(spec: StudySpec) -> None:
    """As the database keeps them."""
    document = json.loads(json.dumps(convert.spec_to_json(spec), allow_nan=False))
    back = convert.spec_from_json(document)
    assert back == spec
    assert types(back.settings) == types(spec.settings)


@given(limits)
def test_limits_round_trip(asked: Limits) -> None:
    assert convert.limits_from_proto(again(convert.limits_to_proto(asked))) == asked


@given(measurements)
def test_measurements_round_trip(measurement: Measurement) -> None:
    message = again(convert.measurement_to_proto(measurement))
    assert convert.measurement_from_proto(message) == measurement


def test_what_is_no_number_is_measured() -> None:
    odd = {"inf": math.inf, "minus": -math.inf, "nan": math.nan, "zero": -0.0}
    measurement = Measurement(step=0, metrics=odd)
    back = convert.measurement_from_proto(again(convert.measurement_to_proto(measurement)))
    assert list(map(str, back.metrics.values())) == ["inf", "-inf", "nan", "-0.0"]


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1))
def test_any_time_that_is_sent_is_read_or_refused(seconds: int, nanos: int) -> None:
    message = trial_pb2.Measurement(step=0, metrics={"a": 1.0})
    message.elapsed.seconds, message.elapsed.nanos = seconds, nanos
    limits = study_pb2.Limits()
    limits.duration.CopyFrom(message.elapsed)
    try:
        convert.measurement_from_proto(message)
        convert.limits_from_proto(limits)
    except InvalidArgumentError as error:
        assert "seconds at most" in error.message


def test_defaults_are_the_same_on_both_sides() -> None:
    spec = StudySpec(metrics=(Metric(name="m"),))
    assert convert.spec_from_proto(study_pb2.Study(metrics=[{"name": "m"}])) == spec  # type: ignore[list-item]


@given(studies)
def test_studies_round_trip(study: Study) -> None:
    assert convert.study_from_proto(again(convert.study_to_proto(study))) == study


@given(trials)
def test_trials_round_trip(trial: Trial) -> None:
    back = convert.trial_from_proto(again(convert.trial_to_proto(trial)))
    assert back == trial
    assert types(back.parameters) == types(trial.parameters)


def test_a_tree_too_deep_is_refused() -> None:
    message = space_pb2.Parameter(name="p0", int_domain={"low": 1, "high": 2})  # type: ignore[arg-type]
    for depth in range(1, convert.MAX_DEPTH + 1):
        parent = space_pb2.Parameter(name=f"p{depth}", int_domain={"low": 1, "high": 2})  # type: ignore[arg-type]
        child = parent.children.add()
        child.parent_values.add().int_value = 1
        child.parameter.CopyFrom(message)
        message = parent
    with pytest.raises(InvalidArgumentError, match="deep at most"):
        convert.parameter_from_proto(message)


def test_what_is_not_set_is_named() -> None:
    with pytest.raises(InvalidArgumentError, match="at least one metric"):
        convert.spec_from_proto(study_pb2.Study())
    with pytest.raises(InvalidArgumentError, match="'x': set one of float_domain"):
        convert.parameter_from_proto(space_pb2.Parameter(name="x"))
    with pytest.raises(InvalidArgumentError, match="one of its kinds"):
        convert.value_from_proto(space_pb2.ParameterValue())
