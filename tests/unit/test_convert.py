"""Round trips: what goes over the wire or into the database comes back equal."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner import convert
from tuner.errors import InvalidArgumentError
from tuner.space import Categorical, Child, Discrete, Domain, Float, Group, Int, Parameter, Space
from tuner.study import (
    Attempt,
    Cause,
    DataSource,
    Failure,
    Feature,
    Goal,
    Lease,
    Limits,
    Measurement,
    Metric,
    Resources,
    Search,
    StatisticsRef,
    Study,
    StudySpec,
    StudyState,
    Trial,
    TrialCounts,
    TrialState,
)
from tuner.v1 import space_pb2, study_pb2

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
names = st.text(st.characters(categories=("L", "N", "P", "Zs")), min_size=1, max_size=20).filter(
    str.isprintable
)
values = st.one_of(finite, st.integers(-(2**62), 2**62), names, st.booleans())
times = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


def domains() -> st.SearchStrategy[Domain]:
    pairs = st.tuples(finite, finite).map(sorted)
    ints = st.tuples(st.integers(-1000, 1000), st.integers(-1000, 1000)).map(sorted)
    return st.one_of(
        pairs.map(lambda p: Float(p[0], p[1])),
        ints.map(lambda p: Int(p[0], p[1], step=3)),
        ints.map(lambda p: Int(abs(p[0]) + 1, abs(p[0]) + 2 + abs(p[1]), log=True)),
        st.lists(finite, min_size=1, unique=True).map(lambda v: Discrete(sorted(v))),
        st.lists(values, min_size=1, unique_by=lambda v: (type(v), v)).map(Categorical),
    )


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    parameters: list[Parameter] = []
    for name in draw(st.lists(names, unique=True, max_size=6)):
        group = draw(st.sampled_from(Group))
        parameter = Parameter(name=name, domain=draw(domains()), group=group)
        parent = Parameter(
            name=f"{name} parent",
            domain=Categorical(("on", True, 1)),
            children=(Child((True, "on"), parameter),),
            default=1,
        )
        parameters.append(draw(st.sampled_from((parameter, parent))))
    try:
        return Space(tuple(parameters))
    except InvalidArgumentError:
        return Space(tuple(parameters[:1]))


@given(spaces())
def test_spaces_round_trip(space: Space) -> None:
    message = convert.space_to_proto(space)
    again = space_pb2.Space.FromString(message.SerializeToString())
    assert convert.space_from_proto(again) == space


@given(
    st.dictionaries(names, values, max_size=4),
    spaces(),
    st.sampled_from(Goal),
    st.one_of(st.none(), st.timedeltas(timedelta(seconds=1), timedelta(days=99))),
)
def test_specifications_round_trip_through_json(
    settings: dict[str, float | str], space: Space, goal: Goal, duration: timedelta | None
) -> None:
    spec = StudySpec(
        metrics=(Metric(name="val_auc", goal=goal),),
        space=space,
        settings=dict(sorted(settings.items())),
        search=Search(algorithm="tpe", early_stopping="none", seed=-5),
        limits=Limits(trials=7, parallel=2, duration=duration, failed_trials=3),
        trainer="tabular",
        data=DataSource(train_uri="t.csv", label="y", validation_uri="v.csv", exclude=("a*",)),
        features=(
            Feature(
                name="a x b",
                kind="cross",
                columns=("a", "b"),
                settings=dict(sorted(settings.items())),
            ),
        ),
        resources=Resources(strategy="multi_worker", workers=2, cpus_per_worker=0.5),
        export_model="m",
        labels={"team": "a"},
    )
    document = json.loads(json.dumps(convert.spec_to_json(spec)))
    assert convert.spec_from_json(document) == spec


def test_defaults_are_the_same_on_both_sides() -> None:
    spec = StudySpec(metrics=(Metric(name="m"),))
    assert convert.spec_from_proto(study_pb2.Study(metrics=[{"name": "m"}])) == spec  # type: ignore[list-item]


@given(times, st.one_of(st.none(), times), st.sampled_from(StudyState))
def test_studies_round_trip(time: datetime, end: datetime | None, state: StudyState) -> None:
    study = Study(
        study_id="a-b",
        spec=StudySpec(metrics=(Metric(name="m"),), data=DataSource(train_uri="t", label="y")),
        state=state,
        state_reason="why",
        space_version=2,
        algorithm_in_use="tpe",
        statistics=StatisticsRef(fingerprint="f", uri="u", rows=9),
        trial_counts=TrialCounts(queued=1, running=2, succeeded=3, pruned=4, failed=5),
        best_trial=0,
        exported_model_uri="m/1",
        create_time=time,
        update_time=time,
        end_time=end,
        etag="1",
    )
    assert convert.study_from_proto(convert.study_to_proto(study)) == study


@given(times, st.sampled_from(TrialState), st.sampled_from(Cause), st.dictionaries(names, values))
def test_trials_round_trip(
    time: datetime, state: TrialState, cause: Cause, parameters: dict[str, float | str]
) -> None:
    measurement = Measurement(
        step=3, metrics={"a": float("inf"), "b": 0.5}, elapsed=timedelta(seconds=1.5)
    )
    failure = Failure(cause=cause, message="m", stack="s", log_tail="l")
    trial = Trial(
        study_id="s",
        number=0,
        state=state,
        parameters=dict(sorted(parameters.items())),
        attempt=2,
        lease=Lease(worker_id="w", expire_time=time, token="1.0.2"),
        final_measurement=measurement,
        measurements=(measurement,),
        attempts=(Attempt(number=1, worker_id="w", start_time=time, failure=failure),),
        stop_requested=True,
        create_time=time,
        start_time=time,
    )
    assert convert.trial_from_proto(convert.trial_to_proto(trial)) == trial


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
