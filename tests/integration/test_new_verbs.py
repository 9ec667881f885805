"""A user's own trials, labels, checkpoints, constraints, orders, repetitions: over gRPC."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from tests.integration.service_support import (
    Caller,
    NewTrial,
    new_trial,
    number_of,
    refused,
    request_id,
    running,
    study_of,
    until,
)
from tuner.v1 import space_pb2, study_pb2, trial_pb2
from tuner.v1 import study_service_pb2 as pb

Trial = trial_pb2.Trial
State = trial_pb2.Trial.State
StudyState = study_pb2.Study.State


@pytest.fixture
def caller(tmp_path: Path, database_url: str) -> Iterator[Caller]:
    with running(tmp_path / "data", database_url) as caller:
        yield caller


# --- a user's own trials ---


def test_given_trials_run_first_in_their_order_and_count(caller: Caller) -> None:
    caller.create(trials=4)
    proposed = caller.one("ann")
    names = caller.add(new_trial(0.25, why="a hunch"), new_trial(0.75))
    assert names == ["studies/s/trials/1", "studies/s/trials/2"]
    assert caller.study().trial_counts.queued == 2
    first, second, third = caller.suggest("bob", count=5).trials
    assert [t.parameters["x"].double_value for t in (first, second)] == [0.25, 0.75]
    assert [t.origin for t in (first, third)] == [Trial.GIVEN, Trial.PROPOSED]
    assert (first.attempt, first.labels["why"], number_of(third)) == (1, "a hunch", 3)
    for trial in (proposed, first, second, third):
        caller.complete(trial, 0.5)
    study = caller.study()
    assert (study.state, study.state_reason) == (
        StudyState.COMPLETED,
        "all 4 trials have ended",
    )
    assert study.trial_counts.past == 0


def test_given_trials_need_room_below_the_limit(caller: Caller) -> None:
    caller.create(trials=3)
    caller.complete(caller.one(), 0.5)
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION") as said:
        caller.add(*[new_trial(0.5)] * 3)
    assert "room for 2 more trials, but got 3 to run" in said[0]
    assert len(caller.trials()) == 1
    # Past results need none.
    assert len(caller.add(new_trial(0.5), new_trial(0.25), new_trial(0.1, 0.1))) == 3
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION"):
        caller.add(new_trial(0.5))
    caller.add(new_trial(0.5, 0.5))
    assert caller.suggest(count=9).trials[-1].name == "studies/s/trials/2"


def test_past_results_count_for_nothing_but_the_best(caller: Caller) -> None:
    caller.create(trials=2, no_improvement_trials=3, failed_trials=1)
    values = (0.6, 0.9, 0.2, 0.3, 0.4, 0.1)
    names = caller.add(*[new_trial(n / 10, value) for n, value in enumerate(values)])
    study = caller.study()
    assert (study.state, study.best_trial) == (StudyState.ACTIVE, names[1])
    assert (study.trial_counts.past, study.trial_counts.succeeded) == (6, 6)
    past = caller.trial(1)
    assert (past.state, past.origin, past.attempt) == (State.SUCCEEDED, Trial.PAST, 1)
    assert past.final_measurement.metrics["auc"] == 0.9
    assert past.HasField("end_time") and len(past.attempts) == 1
    for value in (0.5, 0.4):
        trial = caller.one()
        assert number_of(trial) >= 6 and trial.origin == Trial.PROPOSED
        caller.complete(trial, value)
    study = caller.study()
    assert (study.state, study.best_trial) == (StudyState.COMPLETED, names[1])
    assert study.state_reason == "all 2 trials have ended"
    # A better one may still come from elsewhere.
    (better,) = caller.add(new_trial(0.9, 0.95))
    assert caller.study().best_trial == better
    assert caller.study().state == StudyState.COMPLETED


def test_the_search_knows_the_past(caller: Caller) -> None:
    space = space_pb2.Space()
    space.parameters.add(name="n").int_domain.high = 3
    caller.create(space=space, trials=10)
    for number in (0, 1, 3):
        past = NewTrial(final_measurement=trial_pb2.Measurement(metrics={"auc": 0.5}))
        past.parameters["n"].int_value = number
        caller.add(past)
    assert caller.one().parameters["n"].int_value == 2
    answer = caller.suggest("bob")
    assert not answer.trials
    caller.complete(caller.one(), 0.1)
    assert caller.study().state_reason == "every point of the space was tried"
    importance = caller.stub.GetImportance(pb.GetImportanceRequest(name="studies/s"), timeout=30)
    assert importance.trials == 4


def test_a_past_trial_keeps_what_it_measured(caller: Caller) -> None:
    caller.create()
    past = new_trial(0.5)
    for step, value in ((7, 0.2), (3, 0.9), (5, math.nan)):
        past.measurements.add(step=step, metrics={"auc": value, f"m{step}": 1.0})
    caller.add(past)
    kept = caller.trial()
    assert [m.step for m in kept.measurements] == [3, 5, 7]
    assert kept.final_measurement.step == 3
    assert math.isnan(kept.measurements[1].metrics["auc"])
    assert set(kept.measurements[2].metrics) == {"auc", "m7"}
    (only,) = caller.trials()
    assert only.final_measurement == kept.final_measurement and not only.measurements


def test_trials_outside_of_the_space_are_refused_whole(caller: Caller) -> None:
    space = study_of().space
    kind = space.parameters.add(name="kind")
    for word in ("a", "b"):
        kind.categorical_domain.choices.add(string_value=word)
    child = kind.children.add()
    child.parent_values.add(string_value="b")
    child.parameter.name = "n"
    child.parameter.int_domain.high = 3
    caller.create(space=space)

    def of(**values: object) -> NewTrial:
        made = NewTrial()
        for name, value in values.items():
            kind = {float: "double_value", int: "int_value", str: "string_value"}[type(value)]
            setattr(made.parameters[name], kind, value)
        return made

    good = of(x=0.5, kind="b", n=3)
    for bad, said in (
        (of(x=1.5, kind="a"), "'x' = 1.5 is not in float"),
        (of(x=math.nan, kind="a"), "must be finite"),
        (of(x=0.5), "'kind' is active but has no value"),
        (of(x=0.5, kind="c"), "'kind' = 'c' is not in"),
        (of(x=0.5, kind="b"), "'n' is active but has no value"),
        (of(x=0.5, kind="a", n=1), "'n' is not an active parameter"),
        (of(x=0.5, kind="b", n=4), "'n' = 4 is not in"),
        (of(x=0.5, kind="b", n=1.5), "'n' = 1.5 is not in"),
        (of(x="0.5", kind="a"), "'x' = '0.5' is not in"),
        (of(x=0.5, kind="a", y=1), "'y' is not an active parameter"),
        (NewTrial(), "'x' is active but has no value"),
    ):
        with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT") as told:
            caller.add(good, bad)
        assert said in told[0], told
        assert "trials[1]" in told[0] or "finite" in said
    with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT"):
        caller.add()
    assert caller.trials() == [] and caller.study().trial_counts == study_pb2.TrialCounts()
    assert caller.add(good, of(x=1, kind="a")) == ["studies/s/trials/0", "studies/s/trials/1"]


def test_past_results_without_the_metric_are_refused(caller: Caller) -> None:
    caller.create(constraints=[study_pb2.Constraint(metric="size", at_most=1.0)])
    other = new_trial(0.5, 0.5)
    with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT") as said:
        caller.add(other)
    assert said == ["`trials[0]`: the study's metric is 'size', but this was reported: auc."]
    other.final_measurement.metrics["size"] = 2.0
    caller.add(other)
    assert caller.trial().within_constraints is False
    assert caller.study().best_trial == ""
    measured = new_trial(0.5)
    measured.measurements.add(metrics={"size": 0.5})
    with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT"):
        caller.add(measured)
    measured.measurements.add(step=1, metrics={"size": 0.5, "auc": 0.25})
    caller.add(measured)
    assert caller.study().best_trial == "studies/s/trials/1"


def test_trials_are_added_to_what_can_take_them(caller: Caller) -> None:
    caller.create()
    caller.pause()
    caller.add(new_trial(0.5))
    assert caller.suggest().wait.reason == "the study is paused"
    caller.resume()
    assert caller.one().origin == Trial.GIVEN
    caller.stop()
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION") as said:
        caller.add(new_trial(0.5))
    assert "STOPPED; resume it first" in said[0]
    caller.add(new_trial(0.5, 0.5))
    managed = study_of(
        trainer=study_pb2.Trainer(kind="tabular"),
        data=study_pb2.DataSource(train_uri="rows.csv", label="y"),
    )
    managed.ClearField("space")
    request = pb.CreateStudyRequest(study=managed, study_id="managed")
    caller.stub.CreateStudy(request, timeout=30)
    for added in (new_trial(0.5), new_trial(0.5, 0.5)):
        with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION") as said:
            caller.add(added, study_id="managed")
        assert "has no space yet" in said[0]
    with refused("NOT_FOUND", "NOT_FOUND"):
        caller.add(new_trial(0.5), study_id="unknown")


def test_a_given_trial_that_is_stopped_before_it_ran_can_be_retried(caller: Caller) -> None:
    caller.create(trials=1)
    caller.add(new_trial(0.5))
    stopped = caller.stop_trial(0)
    assert (stopped.state, stopped.attempt) == (State.FAILED, 0)
    assert caller.study().state == StudyState.COMPLETED
    assert caller.retry(0) == ["studies/s/trials/0"]
    trial = caller.one()
    assert (trial.attempt, trial.origin) == (1, Trial.GIVEN)
    assert caller.complete(trial, 0.5).state == State.SUCCEEDED


def test_a_retry_that_is_refused_changes_nothing(caller: Caller) -> None:
    caller.create(no_improvement_trials=2)
    caller.fail(caller.one(), "TIMED_OUT")
    for value in (0.9, 0.5, 0.4):
        caller.complete(caller.one(), value)
    before = caller.study()
    assert before.state_reason == "2 trials in a row brought nothing better"
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION") as said:
        caller.retry(0)
    assert "allows nothing more: 2 trials in a row" in said[0]
    assert caller.study() == before
    caller.update(study_of(no_improvement_trials=3), "limits")
    assert caller.resume().state == StudyState.ACTIVE
    assert caller.retry(0) == ["studies/s/trials/0"]


def test_watchers_see_added_trials(caller: Caller) -> None:
    caller.create(trials=1)
    stream = caller.watch()
    assert next(stream).WhichOneof("event") == "study"
    caller.add(new_trial(0.5, 0.9), new_trial(0.25))
    events = [next(stream) for _ in range(3)]
    assert [e.WhichOneof("event") for e in events] == ["trial", "trial", "study"]
    assert [e.trial.origin for e in events[:2]] == [Trial.PAST, Trial.GIVEN]
    assert events[2].study.best_trial == events[0].trial.name
    stream.cancel()


# --- labels ---


def test_labels_of_trials_change_whatever_their_state(caller: Caller) -> None:
    caller.create()
    trial = caller.one()
    assert caller.label_trial(0, {"a": "1", "b": ""}).labels == {"a": "1", "b": ""}
    assert caller.report(trial, 0, auc=0.5).decision == pb.ReportTrialResponse.CONTINUE
    assert caller.complete(trial).labels == {"a": "1", "b": ""}
    assert caller.label_trial(0, {"c": "3"}).labels == {"c": "3"}
    assert caller.trial().labels == {"c": "3"} and caller.trial().state == State.SUCCEEDED
    assert caller.label_trial(0, {}).labels == {}
    with refused("NOT_FOUND", "NOT_FOUND"):
        caller.label_trial(1, {"a": "1"})
    for labels in ({"a" * 129: ""}, {"a": "x" * 1025}, {"": ""}, {"a\n": ""}, {"a": "\0"}):
        with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT"):
            caller.label_trial(0, labels)
    many = {str(number): "x" for number in range(65)}
    with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT"):
        caller.label_trial(0, many)
    for paths in ([], ["state"], ["labels", "state"]):
        request = pb.UpdateTrialRequest(trial=Trial(name=trial.name))
        request.update_mask.paths.extend(paths)
        with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT"):
            caller.stub.UpdateTrial(request, timeout=30)
    assert caller.trial().labels == {}


def test_labels_of_studies_change_and_nothing_else_does(caller: Caller) -> None:
    made = caller.create(labels={"a": "1"}, trials=7)
    changed = caller.update(study_of(labels={"b": "2"}, trials=9), "labels")
    assert changed.labels == {"b": "2"} and changed.limits.trials == 7
    assert changed.etag != made.etag
    assert caller.study() == changed
    assert caller.update(study_pb2.Study(), "labels").labels == {}
    with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT"):
        caller.update(study_pb2.Study(labels={"a\n": ""}), "labels")


# --- checkpoints ---


def test_a_checkpoint_survives_a_lost_lease(tmp_path: Path, database_url: str) -> None:
    with running(tmp_path, database_url, lease_seconds=1.0) as caller:
        caller.create()
        first = caller.one("ann")
        caller.report(first, 3, auc=0.5)
        caller.checkpoint(first, "/a/0/3", 3)
        caller.checkpoint(first, "/a/0/9", 9)
        assert caller.trial().checkpoint == trial_pb2.Checkpoint(uri="/a/0/9", step=9)
        assert [m.step for m in caller.trial().measurements] == [3]
        until(lambda: caller.trial().state == State.QUEUED)
        second = caller.one("bob")
        assert (second.attempt, second.checkpoint.uri, second.checkpoint.step) == (2, "/a/0/9", 9)
        with refused("ABORTED", "LEASE_LOST"):
            caller.checkpoint(first, "/a/0/12", 12)
        caller.checkpoint(second, "/b/0/1", 1)
        caller.release(second)
        third = caller.one("ann")
        assert (third.attempt, third.checkpoint.uri) == (3, "/b/0/1")
        assert caller.complete(third, 0.5).checkpoint.uri == "/b/0/1"


def test_a_checkpoint_survives_a_restart(tmp_path: Path, database_url: str) -> None:
    with running(tmp_path, database_url) as caller:
        caller.create()
        trial = caller.one("ann")
        caller.checkpoint(trial, "/a", 4)
    with running(tmp_path, database_url) as caller:
        assert caller.one("ann").checkpoint.step == 4
        caller.fail(trial, "OUT_OF_MEMORY")
        assert caller.one("bob").checkpoint == trial_pb2.Checkpoint(uri="/a", step=4)


def test_a_checkpoint_needs_a_place_and_a_step(caller: Caller) -> None:
    caller.create()
    trial = caller.one()
    for uri, step in (("", 1), ("/a", -1), ("/a\0", 1), ("x" * 1025, 1)):
        with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT"):
            caller.checkpoint(trial, uri, step)
    assert not caller.trial().HasField("checkpoint")


# --- constraints, and which measurement is the result ---


def test_a_trial_beyond_the_constraints_is_never_the_best(caller: Caller) -> None:
    limits = [
        study_pb2.Constraint(metric="size", at_most=10.0),
        study_pb2.Constraint(metric="auc", at_least=0.2),
    ]
    caller.create(constraints=limits, trials=5)
    for value, size in ((0.9, 10.5), (0.1, 5.0), (0.4, 10.0), (0.95, math.nan), (0.3, 1.0)):
        trial = caller.one()
        caller.report(trial, 0, auc=value, size=size)
        caller.complete(trial)
    assert [t.within_constraints for t in caller.trials()] == [False, False, True, False, True]
    assert all(t.HasField("within_constraints") for t in caller.trials())
    assert caller.study().best_trial == "studies/s/trials/2"
    assert [number_of(t) for t in caller.trials(order_by="best")] == [2, 4, 0, 1, 3]
    assert [number_of(t) for t in caller.trials(optimal=True)] == [2]


def test_only_a_result_is_within_the_constraints(caller: Caller) -> None:
    caller.create(constraints=[study_pb2.Constraint(metric="size", at_most=10.0)])
    trial = caller.one()
    assert not trial.HasField("within_constraints")
    caller.report(trial, 0, auc=0.9)
    assert not caller.trial().HasField("within_constraints")
    caller.report(trial, 1, auc=0.9, size=11.0)
    assert caller.trial().within_constraints is False
    caller.report(trial, 2, auc=0.5, size=9.0)
    assert caller.trial().within_constraints is True
    done = caller.complete(trial)
    assert (done.final_measurement.step, done.within_constraints) == (2, True)
    failed = caller.one()
    caller.report(failed, 0, auc=0.5, size=1.0)
    assert not caller.fail(failed, "TIMED_OUT").HasField("within_constraints")
    with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT") as said:
        caller.complete(caller.one(), 0.5)
    assert "'size'" in said[0]


@pytest.mark.parametrize(
    ("selection", "metrics", "steps"),
    [
        ("MEASUREMENT_SELECTION_UNSPECIFIED", ("auc",), (1, 2)),
        ("BEST", ("auc",), (1, 2)),
        ("LAST", ("auc",), (3, 3)),
        ("MEASUREMENT_SELECTION_UNSPECIFIED", ("auc", "loss"), (3, 3)),
        ("BEST", ("auc", "loss"), (1, 2)),
    ],
)
def test_the_selected_measurement_is_the_result(
    caller: Caller, selection: str, metrics: tuple[str, ...], steps: tuple[int, int]
) -> None:
    caller.create(
        metrics=[study_pb2.Metric(name=name) for name in metrics],
        measurement_selection=study_pb2.Study.MeasurementSelection.Value(selection),
    )
    trial = caller.one()
    for step, value in ((0, 0.1), (1, 0.9), (2, 0.8), (3, 0.5)):
        caller.report(trial, step, auc=value, loss=0.0)
    # Reported late, out of order.
    caller.report(trial, 0, auc=0.2, loss=0.0)
    assert caller.trial().final_measurement.step == steps[0]
    # The best so far, said again, is worse.
    caller.report(trial, 1, auc=0.3, loss=0.0)
    assert caller.trial().final_measurement.step == steps[1]
    assert caller.complete(trial).final_measurement.step == steps[1]
    stated = caller.one()
    caller.report(stated, 0, auc=0.9, loss=0.0)
    request = pb.CompleteTrialRequest(
        name=stated.name,
        lease_token=stated.lease.token,
        final_measurement=trial_pb2.Measurement(step=9, metrics={"auc": 0.1, "loss": 0.0}),
    )
    done = caller.stub.CompleteTrial(request, timeout=30)
    assert done.final_measurement.step == 9


# --- lists ---


@pytest.fixture
def many(caller: Caller) -> Caller:
    """A study with trials of every kind."""
    space = study_of().space
    space.parameters.add(name="layers.units").int_domain.high = 1000
    caller.create(
        space=space,
        trials=1000,
        metrics=[
            study_pb2.Metric(name="auc"),
            study_pb2.Metric(name="val/loss", goal=study_pb2.Metric.MINIMIZE),
        ],
    )
    for number in range(23):
        made = new_trial(((number * 7) % 23) / 23, team="ab"[number % 2])
        made.parameters["layers.units"].int_value = (number * 5) % 23
        if number % 3:
            auc = math.nan if number == 7 else ((number * 11) % 23) / 23
            made.final_measurement.metrics.update({"auc": auc, "val/loss": float(number % 4)})
            if number % 4 == 1:
                made.final_measurement.metrics["extra"] = -number
        caller.add(made)
    for trial in caller.suggest(count=3).trials:
        caller.report(trial, 0, **{"auc": 0.5, "val/loss": 0.5})
    caller.stop_trial(number_of(caller.trials(states=[State.QUEUED])[0]))
    return caller


ORDERS = (
    "",
    "number desc",
    "best",
    "metrics.auc",
    "metrics.auc desc",
    "metrics.val/loss",
    "metrics.extra desc",
    "metrics.nothing",
    "parameters.x",
    "parameters.layers.units desc",
    "start_time desc",
    "end_time",
)
NARROWED: tuple[dict[str, Any], ...] = (
    {},
    {"filter": "metrics.auc > 0.3 AND NOT labels.team = b"},
    {"states": [State.QUEUED, State.RUNNING]},
    {"optimal": True},
    {"filter": 'metrics."val/loss" <= 1', "states": [State.SUCCEEDED], "view": pb.FULL},
    {"filter": "number < 0"},
)


@pytest.mark.parametrize("narrowed", NARROWED, ids=str)
def test_a_stream_is_all_pages_of_a_list(many: Caller, narrowed: dict[str, Any]) -> None:
    for order in ORDERS:
        whole = many.trials(order_by=order, **narrowed)
        for size in (1, 5, len(whole) or 1):
            assert many.trials(order_by=order, page_size=size, **narrowed) == whole
            assert many.stream(order_by=order, page_size=size, **narrowed) == whole
        names = [trial.name for trial in whole]
        assert len(set(names)) == len(names)
        assert set(names) == {t.name for t in many.trials(**narrowed)}
        if narrowed == {"filter": "number < 0"}:
            assert whole == []
        else:
            assert whole


def test_orders_go_by_what_they_name(many: Caller) -> None:
    def key(order: str, trial: Trial) -> float | None:
        of, _, name = order.partition(" ")[0].partition(".")
        if of == "metrics":
            value = dict(trial.final_measurement.metrics).get(name, math.nan)
            return None if math.isnan(value) else value
        if of == "parameters":
            parameter = trial.parameters[name]
            return parameter.double_value or parameter.int_value
        time: Timestamp = getattr(trial, of)
        return time.ToNanoseconds() or None

    for order in ORDERS[3:]:
        sign = -1 if order.endswith(" desc") else 1
        found = [(key(order, t), number_of(t)) for t in many.trials(order_by=order)]
        assert found == sorted(
            found,
            key=lambda pair: (pair[0] is None, sign * (pair[0] or 0.0), pair[1]),
        ), order


def test_pages_go_on_where_they_were_while_trials_are_added(many: Caller) -> None:
    request = pb.ListTrialsRequest(parent="studies/s", page_size=10, order_by="parameters.x")
    first = many.stub.ListTrials(request, timeout=30)
    below, above = new_trial(0.0), new_trial(1.0)
    for made in (below, above):
        made.parameters["layers.units"].int_value = 1
    many.add(below, above)
    request.page_token = first.next_page_token
    rest = many.trials(order_by="parameters.x", page_token=first.next_page_token)
    names = [t.name for t in (*first.trials, *rest)]
    assert len(set(names)) == len(names) == 24
    # What was added before the place where the first page ended is not seen any more.
    assert names[-1] == "studies/s/trials/24"


def test_tokens_of_other_lists_are_refused(many: Caller) -> None:
    request = pb.ListTrialsRequest(parent="studies/s", page_size=2)
    token = many.stub.ListTrials(request, timeout=30).next_page_token
    for order in ORDERS[1:]:
        with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT"):
            many.trials(order_by=order, page_token=token)
        with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT"):
            many.stream(order_by=order, page_token=token)
    assert len(many.stream(page_token=token)) == 21


def test_a_page_holds_no_more_than_a_message_can(caller: Caller) -> None:
    """Trials with as many labels and as long values as may be: 13 MB."""
    space = study_of().space
    for number in range(60):
        choices = space.parameters.add(name=f"p{number}").categorical_domain.choices
        choices.add(string_value="x" * 1000)
    caller.create(space=space, trials=1000)
    past = new_trial(0.5, 0.5, **{f"l{n}": "x" * 1024 for n in range(64)})
    for number in range(60):
        past.parameters[f"p{number}"].string_value = "x" * 1000
    caller.add(*[past] * 80)
    assert len(caller.suggest(count=40).trials) == 40
    pages = list[int]()
    request = pb.ListTrialsRequest(parent="studies/s", page_size=1000, order_by="metrics.auc desc")
    numbers = list[int]()
    while True:
        response = caller.stub.ListTrials(request, timeout=30)
        pages.append(len(response.trials))
        numbers += map(number_of, response.trials)
        request.page_token = response.next_page_token
        if not request.page_token:
            break
    assert len(pages) > 3 and numbers == list(range(120))
    assert len(caller.stream()) == 120
    caller.delete(force=True)
    for number in range(5):
        # As large as studies may be.
        large = {f"s{n}": space_pb2.ParameterValue(string_value="x" * 1000) for n in range(1000)}
        features = [
            study_pb2.Feature(name=f"f{n}", kind="numeric", columns=["x" * 1000], settings=large)
            for n in range(2)
        ]
        caller.create(f"s{number}", settings=large, features=features)
    listing, names = pb.ListStudiesRequest(), list[str]()
    while len(names) < 5:
        listed = caller.stub.ListStudies(listing, timeout=30)
        assert 1 <= len(listed.studies) < 5
        names += [study.name for study in listed.studies]
        listing.page_token = listed.next_page_token
    assert names == [f"studies/s{number}" for number in (4, 3, 2, 1, 0)]
    assert not listing.page_token


def test_a_bad_filter_says_where(many: Caller) -> None:
    for call in (many.trials, many.stream):
        with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT") as said:
            call(filter="metrics.auc >> 1")
        assert "at character 14" in said[0]


def test_lists_of_unknown_studies_are_not_empty_but_not_found(caller: Caller) -> None:
    for call in (caller.trials, caller.stream):
        for changes in ({}, {"optimal": True}):
            with refused("NOT_FOUND", "NOT_FOUND"):
                call("unknown", **changes)


# --- repeated requests ---


@dataclass(frozen=True)
class Repeatable:
    """A method with a request that changes something, and how to prepare for it."""

    method: str
    prepare: Callable[[Caller], Message]


def _created(caller: Caller) -> None:
    caller.create(trials=20)


def _create_request(caller: Caller) -> Message:
    return pb.CreateStudyRequest(study=study_of(trials=20), study_id="s")


def _update_request(caller: Caller) -> Message:
    _created(caller)
    request = pb.UpdateStudyRequest(study=study_of(labels={"a": "b"}))
    request.study.name = "studies/s"
    request.update_mask.paths.append("labels")
    return request


def _delete_request(caller: Caller) -> Message:
    _created(caller)
    return pb.DeleteStudyRequest(name="studies/s")


def _prepare_request(caller: Caller) -> Message:
    study = study_of(
        trainer=study_pb2.Trainer(kind="tabular"),
        data=study_pb2.DataSource(train_uri="rows.csv", label="y"),
    )
    space = space_pb2.Space()
    space.CopyFrom(study.space)
    study.ClearField("space")
    request = pb.CreateStudyRequest(study=study, study_id="s")
    caller.stub.CreateStudy(request, timeout=30)
    return pb.PrepareStudyRequest(
        name="studies/s", prepared=pb.PrepareStudyRequest.Prepared(space=space)
    )


def _stop_request(caller: Caller) -> Message:
    _created(caller)
    return pb.StopStudyRequest(name="studies/s", reason="enough")


def _pause_request(caller: Caller) -> Message:
    _created(caller)
    return pb.PauseStudyRequest(name="studies/s")


def _resume_request(caller: Caller) -> Message:
    _created(caller)
    caller.pause()
    return pb.ResumeStudyRequest(name="studies/s")


def _suggest_request(caller: Caller) -> Message:
    _created(caller)
    return pb.SuggestTrialsRequest(parent="studies/s", worker_id="ann", count=3)


def _complete_request(caller: Caller) -> Message:
    _created(caller)
    trial = caller.one()
    return pb.CompleteTrialRequest(
        name=trial.name,
        lease_token=trial.lease.token,
        final_measurement=trial_pb2.Measurement(metrics={"auc": 0.5}),
    )


def _exchange_request(caller: Caller) -> Message:
    _created(caller)
    trial = caller.one()
    return pb.ExchangeTrialRequest(
        name=trial.name,
        lease_token=trial.lease.token,
        final_measurement=trial_pb2.Measurement(metrics={"auc": 0.5}),
        worker_id="ann",
    )


def _release_request(caller: Caller) -> Message:
    _created(caller)
    trial = caller.one()
    return pb.ReleaseTrialRequest(name=trial.name, lease_token=trial.lease.token)


def _stop_trial_request(caller: Caller) -> Message:
    _created(caller)
    return pb.StopTrialRequest(name=caller.one().name)


def _retry_request(caller: Caller) -> Message:
    _created(caller)
    caller.fail(caller.one(), "TIMED_OUT")
    return pb.RetryTrialsRequest(parent="studies/s")


def _add_request(caller: Caller) -> Message:
    _created(caller)
    return pb.AddTrialsRequest(parent="studies/s", trials=[new_trial(0.25), new_trial(0.5, 0.9)])


def _update_trial_request(caller: Caller) -> Message:
    _created(caller)
    request = pb.UpdateTrialRequest(trial=Trial(name=caller.one().name, labels={"a": "b"}))
    request.update_mask.paths.append("labels")
    return request


REPEATABLE = [
    Repeatable("CreateStudy", _create_request),
    Repeatable("UpdateStudy", _update_request),
    Repeatable("DeleteStudy", _delete_request),
    Repeatable("PrepareStudy", _prepare_request),
    Repeatable("StopStudy", _stop_request),
    Repeatable("PauseStudy", _pause_request),
    Repeatable("ResumeStudy", _resume_request),
    Repeatable("SuggestTrials", _suggest_request),
    Repeatable("CompleteTrial", _complete_request),
    Repeatable("ExchangeTrial", _exchange_request),
    Repeatable("ReleaseTrial", _release_request),
    Repeatable("StopTrial", _stop_trial_request),
    Repeatable("RetryTrials", _retry_request),
    Repeatable("AddTrials", _add_request),
    Repeatable("UpdateTrial", _update_trial_request),
]
repeatable = pytest.mark.parametrize("what", REPEATABLE, ids=lambda what: what.method)


def test_every_method_with_a_request_id_is_repeated_here() -> None:
    service = pb.DESCRIPTOR.services_by_name["StudyService"]
    with_id = {m.name for m in service.methods if "request_id" in m.input_type.fields_by_name}
    assert {what.method for what in REPEATABLE} == with_id


def _state_of(caller: Caller) -> tuple[list[study_pb2.Study], list[Trial]]:
    studies = list(caller.stub.ListStudies(pb.ListStudiesRequest(), timeout=30).studies)
    return studies, caller.trials(view=pb.FULL) if studies else []


@repeatable
def test_a_repeated_request_gets_its_first_answer(
    what: Repeatable, tmp_path: Path, database_url: str
) -> None:
    """At once, after others changed what it is about, and of a server that was restarted."""
    with running(tmp_path, database_url) as caller:
        request: Any = what.prepare(caller)
        request.request_id = request_id()
        first = getattr(caller.stub, what.method)(request, timeout=30)
        after = _state_of(caller)
        assert getattr(caller.stub, what.method)(request, timeout=30) == first
        assert _state_of(caller) == after
        if after[0] and after[0][0].state == StudyState.ACTIVE:
            caller.label_trial(number_of(caller.one("zoe")), {"late": "yes"})
            after = _state_of(caller)
        assert getattr(caller.stub, what.method)(request, timeout=30) == first
        assert _state_of(caller) == after
    with running(tmp_path, database_url) as caller:
        assert getattr(caller.stub, what.method)(request, timeout=30) == first
        # Of a running trial the server that starts gives its worker the time to be heard.
        assert _without_leases(_state_of(caller)) == _without_leases(after)


def _without_leases(
    state: tuple[list[study_pb2.Study], list[Trial]],
) -> tuple[list[study_pb2.Study], list[Trial]]:
    for study in state[0]:
        study.search.ClearField("algorithm_in_use")
    for trial in state[1]:
        trial.ClearField("lease")
    return state


@repeatable
def test_requests_that_are_repeated_at_once_get_one_answer(
    what: Repeatable, caller: Caller
) -> None:
    request: Any = what.prepare(caller)
    request.request_id = request_id()
    answers: list[Message] = []
    errors: list[BaseException] = []
    together = threading.Barrier(6)

    def ask() -> None:
        together.wait(60)
        try:
            answers.append(getattr(caller.stub, what.method)(request, timeout=30))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert len(answers) == 6 and all(answer == answers[0] for answer in answers)


@repeatable
def test_another_request_id_is_another_request(what: Repeatable, caller: Caller) -> None:
    """Even of the same caller, with the same words; it is decided on what is there now."""
    request: Any = what.prepare(caller)
    request.request_id = request_id()
    call = getattr(caller.stub, what.method)
    first = call(request, timeout=30)
    request.request_id = request_id()
    match what.method:
        case "DeleteStudy":
            with refused("NOT_FOUND", "NOT_FOUND"):
                call(request, timeout=30)
        case "CompleteTrial" | "ExchangeTrial" | "ReleaseTrial":
            with refused("ABORTED", "LEASE_LOST"):
                call(request, timeout=30)
        case "PrepareStudy":
            with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION"):
                call(request, timeout=30)
        case "AddTrials":
            assert call(request, timeout=30).names != first.names
        case "RetryTrials":
            assert list(call(request, timeout=30).names) == []
        case "SuggestTrials":
            again = call(request, timeout=30)
            assert [t.name for t in again.trials] == [t.name for t in first.trials]
        case _:
            again = call(request, timeout=30)
            assert again.name == first.name and again.state == first.state


def test_a_deletion_that_is_repeated_spares_the_next_study_of_that_name(
    tmp_path: Path, database_url: str
) -> None:
    asked = request_id()
    with running(tmp_path, database_url) as caller:
        caller.create()
        caller.delete(request_id=asked)
        caller.create(trials=5)
        trial = caller.one()
        caller.delete(request_id=asked, force=True)
        assert caller.study().limits.trials == 5
        assert caller.complete(trial, 0.5).state == State.SUCCEEDED
    with running(tmp_path, database_url) as caller:
        caller.delete(request_id=asked)
        assert caller.study().trial_counts.succeeded == 1
        caller.delete(request_id=request_id())
        with refused("NOT_FOUND", "NOT_FOUND"):
            caller.study()


def test_answers_of_a_deleted_study_are_not_given_for_its_successor(caller: Caller) -> None:
    ids = itertools.repeat(request_id())
    caller.create(request_id=next(ids))
    first = caller.suggest(request_id=next(ids)).trials[0]
    caller.complete(first, 0.5, request_id=next(ids))
    caller.delete()
    caller.create(request_id=next(ids), trials=3)
    second = caller.suggest(request_id=next(ids)).trials[0]
    assert second.lease.token != first.lease.token
    assert caller.complete(second, 0.25, request_id=next(ids)).final_measurement.metrics == {
        "auc": 0.25
    }


def test_what_was_refused_may_be_asked_again(caller: Caller) -> None:
    caller.create(trials=1)
    caller.complete(caller.one(), 0.5)
    asked = request_id()
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION"):
        caller.add(new_trial(0.5), request_id=asked)
    caller.update(study_of(trials=5), "limits")
    caller.resume()
    assert caller.add(new_trial(0.5), request_id=asked) == ["studies/s/trials/1"]
    assert caller.add(new_trial(0.5), request_id=asked) == ["studies/s/trials/1"]
    assert len(caller.trials()) == 2


# --- fencing across studies of one name ---


def test_a_holder_of_a_deleted_studys_trial_harms_its_successor_nowhere(caller: Caller) -> None:
    caller.create()
    old = caller.one("ann")
    caller.delete(force=True)
    caller.create()
    new = caller.one("ann")
    assert (new.name, new.attempt) == (old.name, old.attempt)
    assert new.lease.token != old.lease.token
    for call in (
        lambda: caller.report(old, 0, auc=1.0),
        lambda: caller.report(old),
        lambda: caller.checkpoint(old, "/a", 1),
        lambda: caller.complete(old, 1.0),
        lambda: caller.complete(old, 1.0, request_id=request_id()),
        lambda: caller.fail(old),
        lambda: caller.release(old),
        lambda: caller.write_log(old, "x"),
    ):
        with refused("ABORTED", "LEASE_LOST"):
            call()
    kept = caller.trial()
    assert (kept.state, kept.attempt, len(kept.measurements)) == (State.RUNNING, 1, 0)
    assert list(caller.read_log(new)) == []
    assert caller.complete(new, 0.5).state == State.SUCCEEDED


def test_a_token_is_good_for_its_own_trial_only(caller: Caller) -> None:
    caller.create()
    caller.create("other")
    first, second = caller.suggest(count=2).trials
    other = caller.one(study_id="other")
    for token in (second.lease.token, other.lease.token, "1.0.1", "999999999.0.1"):
        if token == first.lease.token:
            continue
        request = pb.ReportTrialRequest(name=first.name, lease_token=token)
        with refused("ABORTED", "LEASE_LOST"):
            caller.stub.ReportTrial(request, timeout=30)
    for token in ("", "x", "1.0", first.lease.token + "0" * 40, first.lease.token + "\0"):
        request = pb.ReportTrialRequest(name=first.name, lease_token=token)
        with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT"):
            caller.stub.ReportTrial(request, timeout=30)


def test_a_log_goes_to_the_trial_that_its_token_names(caller: Caller) -> None:
    caller.create()
    first, second = caller.suggest(count=2).trials
    request = pb.WriteTrialLogRequest(name=first.name, lease_token=second.lease.token, text="x")
    with refused("ABORTED", "LEASE_LOST"):
        caller.stub.WriteTrialLog(request, timeout=30)
    assert list(caller.read_log(first)) == list(caller.read_log(second)) == []
    # An attempt that is over may still say how it ended.
    caller.release(first)
    caller.write_log(first, "bye")
    caller.one("bob")
    caller.write_log(first, "!", offset=3)
    assert [(c.attempt, c.text) for c in caller.read_log(first)] == [(1, "bye"), (1, "!")]
