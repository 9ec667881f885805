"""Trials over gRPC and a real PostgreSQL: leases, reports, results, limits."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.integration.service_support import (
    Caller,
    number_of,
    refused,
    request_id,
    running,
    until,
)
from tuner import convert
from tuner.engine import StudyEngine
from tuner.service import live
from tuner.study import Measurement
from tuner.v1 import study_pb2, trial_pb2
from tuner.v1 import study_service_pb2 as pb

State = trial_pb2.Trial.State
StudyState = study_pb2.Study.State


@pytest.fixture
def caller(tmp_path: Path, database_url: str) -> Iterator[Caller]:
    with running(tmp_path / "data", database_url) as caller:
        yield caller


@pytest.fixture
def hasty(tmp_path: Path, database_url: str) -> Iterator[Caller]:
    """A server whose leases are short."""
    with running(tmp_path / "data", database_url, lease_seconds=1.0) as caller:
        yield caller


# --- a life ---


def test_a_trial_from_proposal_to_result(caller: Caller) -> None:
    caller.create(trials=1)
    trial = caller.one()
    assert trial.name == "studies/s/trials/0"
    assert (trial.state, trial.attempt, trial.lease.worker_id) == (State.RUNNING, 1, "ann")
    assert 0 <= trial.parameters["x"].double_value <= 1
    for step, value in enumerate((0.5, 0.8, 0.7)):
        told = caller.report(trial, step, auc=value, loss=1.0)
        assert told.decision == pb.ReportTrialResponse.CONTINUE
        assert told.expire_time.ToDatetime() >= trial.lease.expire_time.ToDatetime()
    assert caller.trial().final_measurement.metrics["auc"] == 0.8
    done = caller.complete(trial)
    assert (done.state, done.final_measurement.step) == (State.SUCCEEDED, 1)
    kept = caller.trial()
    assert [m.metrics["auc"] for m in kept.measurements] == [0.5, 0.8, 0.7]
    assert [(a.number, a.worker_id, a.host) for a in kept.attempts] == [(1, "ann", "box")]
    assert kept.attempts[0].HasField("end_time") and not kept.attempts[0].HasField("failure")
    assert not kept.HasField("lease")
    study = caller.study()
    assert (study.state, study.best_trial) == (StudyState.COMPLETED, trial.name)
    assert study.state_reason == "all 1 trials have ended"
    assert study.trial_counts.succeeded == 1 and study.HasField("end_time")
    assert caller.suggest() == pb.SuggestTrialsResponse(study_state=StudyState.COMPLETED)


def test_a_worker_that_asks_again_gets_its_open_trials(caller: Caller) -> None:
    caller.create()
    first = caller.one("ann")
    again = caller.one("ann")
    assert (again.name, again.attempt) == (first.name, first.attempt)
    assert again.lease.expire_time.ToDatetime() >= first.lease.expire_time.ToDatetime()
    more = caller.suggest("ann", count=3)
    assert [t.name[-1] for t in more.trials] == ["0", "1", "2"]
    assert caller.one("bob").name == "studies/s/trials/3"


def test_a_released_trial_is_due_again_for_anyone(caller: Caller) -> None:
    caller.create()
    first = caller.one("ann")
    caller.report(first, 0, auc=0.9)
    given = caller.release(first, "machine goes away")
    assert (given.state, given.state_reason) == (State.QUEUED, "machine goes away")
    second = caller.one("bob")
    assert (second.name, second.attempt) == (first.name, 2)
    assert second.parameters == first.parameters
    assert not second.HasField("final_measurement")
    kept = caller.trial()
    assert kept.attempts[0].failure.cause == trial_pb2.Failure.PREEMPTED
    assert list(kept.measurements) == []


def test_a_late_worker_is_refused_and_harms_nothing(caller: Caller) -> None:
    caller.create()
    old = caller.one("ann")
    caller.release(old)
    new = caller.one("bob")
    for call in (
        lambda: caller.report(old, 0, auc=1.0),
        lambda: caller.report(old),
        lambda: caller.complete(old, 1.0),
        lambda: caller.fail(old),
        lambda: caller.release(old),
    ):
        with refused("ABORTED", "LEASE_LOST"):
            call()
    assert caller.complete(new, 0.25).final_measurement.metrics["auc"] == 0.25
    with refused("ABORTED", "LEASE_LOST"):
        caller.complete(new, 1.0)
    assert caller.trial().final_measurement.metrics["auc"] == 0.25


def test_a_silent_worker_loses_its_trial(hasty: Caller) -> None:
    hasty.create(parallel=1)
    old = hasty.one("ann")
    assert hasty.suggest("bob").wait.reason
    until(lambda: hasty.trial().state == State.QUEUED)
    lost = hasty.trial().attempts[0].failure
    assert lost.cause == trial_pb2.Failure.LOST and "'ann' was silent" in lost.message
    new = hasty.one("bob")
    assert (new.name, new.attempt) == (old.name, 2)
    with refused("ABORTED", "LEASE_LOST"):
        hasty.report(old)


def test_heartbeats_keep_a_trial(hasty: Caller) -> None:
    hasty.create()
    trial = hasty.one("ann")
    for _ in range(12):
        time.sleep(0.2)
        hasty.report(trial)
    assert (hasty.trial().attempt, hasty.trial().state) == (1, State.RUNNING)


# --- results ---


def test_a_study_without_its_metric_says_what_was_reported(caller: Caller) -> None:
    caller.create()
    trial = caller.one()
    with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT") as said:
        caller.report(trial, 0, loss=1.0, accuracy=0.5)
    assert said == ["the study's metric is 'auc', but this was reported: accuracy, loss."]
    failed = caller.trial()
    assert (failed.state, failed.state_reason) == (State.FAILED, said[0])
    assert failed.attempts[0].failure.cause == trial_pb2.Failure.USER_ERROR
    with refused("ABORTED", "LEASE_LOST"):
        caller.report(trial, 1, auc=0.5)
    trial = caller.one()
    caller.report(trial, 0, auc=0.5)
    caller.report(trial, 1, loss=0.9)
    assert caller.complete(trial).final_measurement.metrics == {"auc": 0.5}


def test_a_metric_that_is_missing_to_the_end_fails_the_trial_for_good(caller: Caller) -> None:
    caller.create(constraints=[study_pb2.Constraint(metric="latency", at_most=5)])
    trial = caller.one()
    caller.report(trial, 0, auc=0.5)
    with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT") as said:
        caller.complete(trial)
    assert "'latency'" in said[0]
    assert "auc" in said[0]
    failed = caller.trial()
    assert (failed.state, failed.state_reason) == (State.FAILED, said[0])


def test_a_time_that_nobody_lives_to_see_is_refused(caller: Caller) -> None:
    caller.create()
    trial = caller.one()
    request = pb.ReportTrialRequest(name=trial.name, lease_token=trial.lease.token)
    request.measurement.metrics["auc"] = 0.5
    request.measurement.elapsed.seconds = 9 * 10**18
    with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT"):
        caller.stub.ReportTrial(request, timeout=30)
    assert caller.complete(trial, 0.5).state == State.SUCCEEDED


def test_a_trial_that_reported_nothing_has_no_result(caller: Caller) -> None:
    caller.create()
    trial = caller.one()
    with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT") as said:
        caller.complete(trial)
    assert "reported nothing" in said[0]
    assert caller.trial().state == State.RUNNING
    assert caller.complete(trial, 0.5).state == State.SUCCEEDED


def test_nan_and_infinities_are_kept_and_never_win(caller: Caller) -> None:
    caller.create(trials=4)
    for value in (math.nan, math.inf, -math.inf, 0.1):
        trial = caller.one()
        caller.report(trial, 0, auc=value)
        caller.complete(trial)
    assert caller.study().best_trial == "studies/s/trials/3"
    kept = [t.final_measurement.metrics["auc"] for t in caller.trials()]
    assert math.isnan(kept[0]) and kept[1:] == [math.inf, -math.inf, 0.1]
    best = caller.trials(order_by="best")
    assert [t.name[-1] for t in best] == ["3", "0", "1", "2"]


def test_failures_are_tried_again_by_cause(caller: Caller) -> None:
    caller.create(trials=1)
    for cause in ("LOST", "PREEMPTED", "USER_ERROR", "OUT_OF_MEMORY", "LOST"):
        assert caller.fail(caller.one(), cause).state == State.QUEUED
    last = caller.fail(caller.one(), "USER_ERROR", "division by zero")
    assert (last.state, last.state_reason) == (State.FAILED, "division by zero")
    assert last.attempt == 6
    causes = [a.failure.cause for a in caller.trial().attempts]
    assert [trial_pb2.Failure.Cause.Name(c) for c in causes] == [
        "LOST", "PREEMPTED", "USER_ERROR", "OUT_OF_MEMORY", "LOST", "USER_ERROR"
    ]  # fmt: skip
    assert caller.study().state == StudyState.COMPLETED


def test_what_crashes_at_the_same_place_is_the_trials_own_fault(caller: Caller) -> None:
    caller.create(trials=1)
    # It measures something new, it keeps a checkpoint, and then it comes no further.
    for step, saves in ((4, False), (2, True), (4, False), (1, False)):
        trial = caller.one()
        caller.report(trial, step, auc=0.5)
        if saves:
            caller.checkpoint(trial, "/a", step)
        assert caller.fail(trial, "CRASHED", "worker 0 died").state == State.QUEUED
    last = caller.fail(caller.one(), "CRASHED", "worker 0 died")
    assert (last.state, last.state_reason) == (
        State.FAILED,
        "crashed 3 times without coming further: worker 0 died",
    )
    causes = [a.failure.cause for a in caller.trial().attempts]
    assert [trial_pb2.Failure.Cause.Name(c) for c in causes] == [
        "LOST", "LOST", "CRASHED", "CRASHED", "CRASHED"
    ]  # fmt: skip


def test_infeasible_parameters_are_never_tried_again(caller: Caller) -> None:
    caller.create(trials=2)
    assert caller.fail(caller.one(), "INFEASIBLE", "too wide").state == State.INFEASIBLE
    assert caller.one().name == "studies/s/trials/1"
    assert caller.study().trial_counts.infeasible == 1


def test_failed_trials_can_be_retried_even_after_the_end(caller: Caller) -> None:
    caller.create(trials=2)
    caller.complete(caller.one(), 0.5)
    while caller.study().state != StudyState.COMPLETED:
        caller.fail(caller.one(), "TIMED_OUT")
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION") as said:
        caller.retry(0)
    assert "trial 0 is SUCCEEDED" in said[0]
    with refused("NOT_FOUND", "NOT_FOUND"):
        caller.retry(7)
    again = request_id()
    assert caller.retry(request_id=again) == ["studies/s/trials/1"]
    assert caller.study().state == StudyState.ACTIVE
    assert caller.complete(caller.one(), 0.9).state == State.SUCCEEDED
    study = caller.study()
    assert (study.state, study.best_trial) == (StudyState.COMPLETED, "studies/s/trials/1")
    assert caller.retry(request_id=again) == ["studies/s/trials/1"]
    assert caller.retry() == []


# --- stopping ---


def test_early_stopping_answers_stop_and_prunes(caller: Caller) -> None:
    search = study_pb2.Search(algorithm="random", early_stopping="median")
    caller.create(search=search, trials=12)
    for _ in range(6):
        trial = caller.one()
        for step in range(4):
            caller.report(trial, step, auc=0.9)
        caller.complete(trial)
    bad, step = caller.one(), 0
    while caller.report(bad, step, auc=0.1).decision != pb.ReportTrialResponse.STOP:
        step += 1
        assert step < 20
    told = caller.trial(6)
    assert told.stop_requested and told.state_reason
    done = caller.complete(bad)
    assert (done.state, done.state_reason) == (State.PRUNED, told.state_reason)
    assert done.final_measurement.metrics["auc"] == 0.1


def test_a_user_stops_a_trial(caller: Caller) -> None:
    caller.create()
    trial = caller.one()
    caller.report(trial, 0, auc=0.5)
    assert caller.stop_trial().stop_requested
    told = caller.report(trial)
    assert (told.decision, told.reason) == (
        pb.ReportTrialResponse.STOP,
        "a user asked it to stop",
    )
    assert caller.complete(trial).state == State.PRUNED
    assert caller.stop_trial().state == State.PRUNED


def test_a_trial_that_waits_for_another_attempt_stops_at_once(caller: Caller) -> None:
    caller.create(trials=1)
    caller.release(caller.one())
    assert caller.stop_trial().state == State.FAILED
    assert caller.study().state == StudyState.COMPLETED


def test_a_stopped_study_tells_its_trials(caller: Caller) -> None:
    caller.create()
    trial = caller.one()
    caller.report(trial, 0, auc=0.5)
    assert caller.stop("enough").state_reason == "enough"
    assert caller.suggest("bob") == pb.SuggestTrialsResponse(study_state=StudyState.STOPPED)
    told = caller.report(trial, 1, auc=0.6)
    assert told.decision == pb.ReportTrialResponse.STOP and "enough" in told.reason
    assert caller.complete(trial).state == State.PRUNED
    assert caller.stop("again").state_reason == "enough"


def test_a_paused_study_waits_and_its_trials_go_on(caller: Caller) -> None:
    caller.create()
    trial = caller.one()
    assert caller.pause().state == StudyState.PAUSED
    assert caller.report(trial, 0, auc=0.5).decision == pb.ReportTrialResponse.CONTINUE
    assert caller.one("ann").name == trial.name
    answer = caller.suggest("bob")
    assert answer.wait.reason == "the study is paused"
    assert answer.wait.retry_after.ToTimedelta().total_seconds() > 0
    caller.complete(trial)
    assert caller.resume().state == StudyState.ACTIVE
    assert caller.one("bob").name == "studies/s/trials/1"


# --- limits ---


def test_the_number_of_trials_is_exact_under_eight_threads(caller: Caller) -> None:
    caller.create(trials=60, parallel=5)
    running_now, most, lock = set[str](), [0], threading.Lock()
    errors: list[BaseException] = []

    def work(worker: str) -> None:
        try:
            while True:
                response = caller.suggest(worker)
                for trial in response.trials:
                    with lock:
                        assert trial.name not in running_now
                        running_now.add(trial.name)
                        most[0] = max(most[0], len(running_now))
                    caller.report(trial, 0, auc=0.5)
                    with lock:
                        running_now.discard(trial.name)
                    caller.complete(trial, trial.parameters["x"].double_value)
                if not response.trials and not response.HasField("wait"):
                    return
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
        assert not thread.is_alive()
    assert errors == []
    assert most[0] <= 5
    trials = caller.trials(view=pb.FULL)
    assert [int(t.name.rpartition("/")[2]) for t in trials] == list(range(60))
    assert {t.state for t in trials} == {State.SUCCEEDED}
    assert {len(t.attempts) for t in trials} == {1}
    assert len({t.parameters["x"].double_value for t in trials}) == 60
    best = max(trials, key=lambda t: t.final_measurement.metrics["auc"])
    study = caller.study()
    assert (study.state, study.best_trial) == (StudyState.COMPLETED, best.name)


def test_parallel_trials_are_limited(caller: Caller) -> None:
    caller.create(parallel=2)
    first = caller.suggest("ann", count=5).trials
    assert len(first) == 2
    answer = caller.suggest("bob")
    assert answer.wait.reason == "2 trials run, as many as may run at once"
    caller.complete(first[0], 0.5)
    assert caller.one("bob").name == "studies/s/trials/2"


def test_the_last_trials_are_waited_for(caller: Caller) -> None:
    caller.create(trials=1)
    trial = caller.one("ann")
    answer = caller.suggest("bob")
    assert answer.wait.reason == "every trial is out; 1 still run"
    assert answer.study_state == StudyState.ACTIVE
    caller.complete(trial, 0.1)
    assert caller.suggest("bob").study_state == StudyState.COMPLETED


def test_an_exhausted_space_ends_the_study(caller: Caller) -> None:
    space = study_pb2.Study().space
    space.parameters.add(name="n").int_domain.high = 2
    caller.create(space=space, trials=50)
    values = []
    while (answer := caller.suggest()).trials:
        values.append(answer.trials[0].parameters["n"].int_value)
        caller.complete(answer.trials[0], 0.5)
    assert sorted(values) == [0, 1, 2]
    study = caller.study()
    assert (study.state, study.state_reason) == (
        StudyState.COMPLETED,
        "every point of the space was tried",
    )


def test_trials_without_improvement_end_the_study(caller: Caller) -> None:
    caller.create(no_improvement_trials=3)
    values = iter((0.1, 0.5, 0.5, 0.4, 0.3, 0.9))
    while (answer := caller.suggest()).trials:
        caller.complete(answer.trials[0], next(values))
    study = caller.study()
    assert study.trial_counts.succeeded == 5
    assert study.state_reason == "3 trials in a row brought nothing better"


def test_failed_trials_end_the_study_and_what_waits_is_given_up(caller: Caller) -> None:
    caller.create(failed_trials=1)
    ann, bob = caller.one("ann"), caller.one("bob")
    caller.release(bob)
    caller.fail(ann, "TIMED_OUT")
    study = caller.study()
    assert (study.state, study.state_reason) == (StudyState.COMPLETED, "1 trials failed")
    assert caller.trial(1).state_reason == "the study ended: 1 trials failed"
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION") as said:
        caller.resume()
    assert "raise the limit first" in said[0]


def test_time_ends_the_study_without_anyone_asking(caller: Caller) -> None:
    caller.create(duration=0.5, parallel=1)
    trial = caller.one()
    until(lambda: "its time" in caller.suggest("bob").wait.reason)
    assert caller.study().state == StudyState.ACTIVE
    caller.complete(trial, 0.5)
    assert caller.study().state == StudyState.COMPLETED
    caller.create("quiet", duration=0.2)
    until(lambda: caller.study("quiet").state == StudyState.COMPLETED)


def test_the_workers_time_ends_the_study(caller: Caller) -> None:
    caller.create(worker_time=0.3, parallel=1, resources=study_pb2.Resources(workers=2))
    trial = caller.one()
    until(lambda: "workers' time" in caller.suggest("bob").wait.reason)
    caller.complete(trial, 0.5)
    study, ended = caller.study(), caller.trial(0)
    assert study.state == StudyState.COMPLETED
    seconds = (ended.end_time.ToDatetime() - ended.start_time.ToDatetime()).total_seconds()
    assert ended.cost.worker_time.ToTimedelta().total_seconds() == pytest.approx(2 * seconds)
    assert not ended.cost.HasField("cpu_time"), "which CPUs a script uses is not known"
    assert study.cost == ended.cost == ended.attempts[0].cost


# --- repeated requests ---


def test_of_another_trial_it_is_another_request(caller: Caller) -> None:
    caller.create(trials=3)
    ended, first = request_id(), caller.one("ann")
    caller.complete(first, 0.5, request_id=ended)
    second = caller.one("ann")
    assert caller.complete(second, 0.7, request_id=ended).name == second.name


def test_requests_are_repeatable(caller: Caller) -> None:
    caller.create(trials=3)
    asked, ended = request_id(), request_id()
    first = caller.suggest("ann", request_id=asked)
    assert caller.suggest("ann", request_id=asked).trials[0].name == first.trials[0].name
    done = caller.complete(first.trials[0], 0.5, request_id=ended)
    assert caller.complete(first.trials[0], 0.5, request_id=ended) == done
    assert caller.suggest("ann", request_id=asked) == first
    with refused("ABORTED", "LEASE_LOST"):
        caller.complete(first.trials[0], 0.5, request_id=request_id())
    second, given = caller.one("bob"), request_id()
    assert second.name == "studies/s/trials/1"
    freed = caller.release(second, request_id=given)
    assert caller.release(second, request_id=given) == freed
    assert caller.study().trial_counts.queued == 1


def test_the_same_request_sent_at_once_is_done_once(caller: Caller) -> None:
    caller.create()
    trial, ended = caller.one(), request_id()
    answers: list[trial_pb2.Trial] = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(caller.complete(trial, 0.5, request_id=ended))
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(answers) == 6
    assert all(answer == answers[0] for answer in answers)
    assert caller.study().trial_counts.succeeded == 1


# --- logs ---


def test_logs_of_every_attempt_are_kept_once(caller: Caller) -> None:
    caller.create()
    first = caller.one()
    caller.write_log(first, "epoch 1\n")
    caller.write_log(first, "epoch 1\n")
    caller.write_log(first, "epoch 2 ünï\0\n", offset=8)
    caller.release(first)
    second = caller.one("bob")
    caller.write_log(second, "again\n")
    chunks = [(c.attempt, c.text) for c in caller.read_log(second)]
    assert chunks == [(1, "epoch 1\n"), (1, "epoch 2 ünï\ufffd\n"), (2, "again\n")]
    key = second.lease.token.partition(".")[0]
    for token in (f"{key}.0.3", f"{int(key) + 1}.0.1"):
        with refused("ABORTED", "LEASE_LOST"):
            caller.write_log(
                trial_pb2.Trial(name=first.name, lease=trial_pb2.Lease(token=token)), "x"
            )
    with refused("NOT_FOUND", "NOT_FOUND"):
        list(caller.read_log(trial_pb2.Trial(name="studies/s/trials/9")))


def test_a_log_is_followed_until_the_trial_ends(caller: Caller) -> None:
    caller.create()
    trial = caller.one()
    caller.write_log(trial, "one ")
    stream = caller.read_log(trial, follow=True)
    assert next(stream).text == "one "
    caller.write_log(trial, "two ", offset=4)
    assert next(stream).text == "two "
    caller.write_log(trial, "three", offset=8)
    caller.complete(trial, 0.5)
    assert [chunk.text for chunk in stream] == ["three"]


# --- what an attempt may report ---


def test_what_an_attempt_reports_fits_into_a_message(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_MOST_BYTES", 20_000)
    caller.create()
    trial = caller.one()
    metrics = {"auc": 0.5, **{"\N{SNOWMAN}" * 100 + str(index): 1.0 for index in range(9)}}
    for _ in range(20):
        caller.report(trial, 0, **metrics)  # again and again in one place
    steps = 1
    with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT") as said:
        for steps in range(1, 100):
            caller.report(trial, steps, **metrics)
    assert "report less often" in said[0]
    assert 15_000 < sum(m.ByteSize() for m in caller.trial().measurements) < 20_000
    assert caller.report(trial, steps, auc=0.75).decision == pb.ReportTrialResponse.CONTINUE
    assert caller.complete(trial).state == trial_pb2.Trial.State.SUCCEEDED


@pytest.mark.parametrize(
    "measurement",
    [
        Measurement(step=0, metrics={"a": 1.0}),
        Measurement(
            step=2**63 - 1,
            metrics={"\N{SNOWMAN}" * 128: 0.1, "b": -1e300},
            elapsed=timedelta(days=365_000, microseconds=1),
        ),
    ],
)
def test_no_measurement_takes_more_of_a_message_than_is_counted(measurement: Measurement) -> None:
    message = trial_pb2.Trial(measurements=[convert.measurement_to_proto(measurement)])
    assert message.ByteSize() <= live.size_of(measurement)


# --- when the search fails ---


def test_a_search_that_fails_costs_no_result(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller.create(trials=3)
    trial = caller.one()
    exchange = pb.ExchangeTrialRequest(
        name=trial.name,
        lease_token=trial.lease.token,
        worker_id="ann",
        request_id=request_id(),
        final_measurement=trial_pb2.Measurement(metrics={"auc": 0.5}),
    )

    def fail(engine: StudyEngine, number: int) -> None:
        raise ArithmeticError("singular")

    with monkeypatch.context() as patch:
        patch.setattr(StudyEngine, "suggest_quickly", fail)
        answer = caller.stub.ExchangeTrial(exchange, timeout=60)
    assert (answer.ended_state, answer.next.wait.reason) == (State.SUCCEEDED, "the search failed")
    assert caller.stub.ExchangeTrial(exchange, timeout=60) == answer
    assert caller.trial().final_measurement.metrics["auc"] == 0.5
    assert caller.study().trial_counts.succeeded == 1
    assert number_of(caller.one()) == 1
