"""Studies over gRPC and a real PostgreSQL: their lives, lists, events, and the server's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import grpc
import psycopg
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import (  # type: ignore[import-untyped]
    reflection_pb2,
    reflection_pb2_grpc,
)

from tests.integration.service_support import (
    Caller,
    refused,
    request_id,
    running,
    study_of,
    until,
)
from tuner.config import Settings
from tuner.errors import DataDirectoryError, FailedPreconditionError
from tuner.service import StudyServer, interceptor
from tuner.v1 import space_pb2, study_pb2, trial_pb2
from tuner.v1 import study_service_pb2 as pb

State = trial_pb2.Trial.State
StudyState = study_pb2.Study.State
MANAGED: dict[str, Any] = {
    "trainer": study_pb2.Trainer(kind="tabular"),
    "data": study_pb2.DataSource(train_uri="a.csv", label="y", validation_fraction=0.2),
    "space": space_pb2.Space(),
}


@pytest.fixture
def caller(tmp_path: Path, database_url: str) -> Iterator[Caller]:
    with running(tmp_path / "data", database_url) as caller:
        yield caller


def prepare(caller: Caller, request: str = "", **outcome: Any) -> study_pb2.Study:
    if not outcome:
        space = study_of().space
        settings = {"epochs": space_pb2.ParameterValue(int_value=3)}
        features = [study_pb2.Feature(name="age", kind="numeric", columns=["age"])]
        statistics = study_pb2.StatisticsRef(fingerprint="f", uri="u", rows=7)
        outcome["prepared"] = pb.PrepareStudyRequest.Prepared(
            space=space, settings=settings, features=features, statistics=statistics
        )
    return caller.stub.PrepareStudy(
        pb.PrepareStudyRequest(name="studies/s", request_id=request, **outcome), timeout=30
    )


def update(caller: Caller, study: study_pb2.Study, *paths: str) -> study_pb2.Study:
    study.name = "studies/s"
    request = pb.UpdateStudyRequest(study=study, update_mask=FieldMask(paths=paths))
    return caller.stub.UpdateStudy(request, timeout=30)


def list_studies(caller: Caller, **fields: Any) -> list[str]:
    request, names = pb.ListStudiesRequest(**fields), []
    while True:
        response = caller.stub.ListStudies(request, timeout=30)
        names += [study.name.removeprefix("studies/") for study in response.studies]
        if not response.next_page_token:
            return names
        request.page_token = response.next_page_token


# --- creating ---


def test_a_study_is_created_once_and_attached_to_later(caller: Caller) -> None:
    asked = request_id()
    made = caller.create(request_id=asked, trials=3)
    assert (made.name, made.state, made.space_version) == ("studies/s", StudyState.ACTIVE, 1)
    assert made.search.algorithm_in_use == "random"
    caller.complete(caller.one(), 0.5)
    assert caller.create(request_id=asked, trials=3) == made
    attached = caller.create(trials=3)
    assert attached.trial_counts.succeeded == 1
    with refused("ALREADY_EXISTS", "ALREADY_EXISTS") as said:
        caller.create(trials=3, metrics=[study_pb2.Metric(name="loss")])
    assert "auc" in said[0]
    assert "loss" in said[0]
    assert caller.study() == attached


def test_a_study_submitted_again_with_changes_is_extended(caller: Caller) -> None:
    caller.create(trials=2)
    stream = caller.watch()
    next(stream)
    caller.complete(caller.one(), 0.5)
    held = caller.one()
    space = space_pb2.Space()
    space.parameters.add(name="x").float_domain.high = 8.0
    added = space.parameters.add(name="y")
    added.int_domain.high = 3
    added.default_value.int_value = 2
    asked = request_id()
    extended = caller.create(trials=30, space=space, request_id=asked)
    assert (extended.space_version, extended.limits.trials) == (2, 30)
    assert caller.create(trials=30, space=space, request_id=asked) == extended
    assert caller.create(trials=30, space=space).space_version == 2
    # The worker of an earlier version goes on; what is proposed now is of the new one.
    assert caller.complete(held, 0.75).space_version == 1
    new = [caller.complete(caller.one(), 0.1) for _ in range(20)]
    assert {trial.space_version for trial in new} == {2}
    assert all(set(trial.parameters) == {"x", "y"} for trial in new)
    assert max(trial.parameters["x"].double_value for trial in new) > 1
    assert caller.study().best_trial == held.name
    with refused("ALREADY_EXISTS", "ALREADY_EXISTS") as said:
        caller.create(trials=30)
    assert "`y`" in said[0] or "'y'" in said[0]
    assert caller.stop().state == StudyState.STOPPED
    assert list(stream)[-1].study.state == StudyState.STOPPED


def test_nothing_is_proposed_from_the_old_space_once_it_is_extended(caller: Caller) -> None:
    caller.create(trials=10_000)
    stop = threading.Event()
    seen = list[trial_pb2.Trial]()

    def work(name: str) -> None:
        while not stop.is_set():
            seen.append(caller.complete(caller.one(name), 0.5))

    workers = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for worker in workers:
        worker.start()
    space = space_pb2.Space()
    space.parameters.add(name="x").float_domain.high = 1.0
    for version in range(2, 8):
        added = space.parameters.add(name=f"y{version}")
        added.int_domain.high = 3
        added.default_value.int_value = 2
        assert caller.create(trials=10_000, space=space).space_version == version
    stop.set()
    for worker in workers:
        worker.join(30)
    assert {trial.space_version for trial in seen} > {1}
    for trial in seen:
        # Version 1 has x, and each later one has one parameter more.
        assert len(trial.parameters) == trial.space_version, trial


def test_a_refused_deletion_changes_nothing_for_anyone(caller: Caller) -> None:
    caller.create()
    caller.one()
    stream = caller.watch()
    token = [next(stream), next(stream)][-1].resume_token
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION"):
        caller.stub.DeleteStudy(pb.DeleteStudyRequest(name="studies/s"), timeout=30)
    caller.complete(caller.one(), 0.5)
    # The study was not loaded again: what was seen before still resumes.
    assert next(caller.watch(token)).trial.state == State.SUCCEEDED


def test_one_callers_mistake_is_not_told_to_others(caller: Caller, database_url: str) -> None:
    """What only the database refuses is the error of the call that sent it."""
    caller.create(trials=10_000)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "ALTER TABLE tuner.trials ADD CONSTRAINT odd CHECK (artifact_uri <> 'refused')"
        )
    stop, others = threading.Event(), list[str]()

    def work(name: str) -> None:
        while not stop.is_set():
            try:
                caller.complete(caller.one(name), 0.5)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    others.append(f"{error.code()}: {error.details()}")

    workers = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for worker in workers:
        worker.start()
    for _ in range(10):
        trial = caller.one("bad")
        request = pb.CompleteTrialRequest(
            name=trial.name, lease_token=trial.lease.token, artifact_uri="refused"
        )
        request.final_measurement.metrics["auc"] = 0.5
        with pytest.raises(grpc.RpcError):
            caller.stub.CompleteTrial(request, timeout=30)
    stop.set()
    for worker in workers:
        worker.join(30)
    assert others == []
    assert caller.study().trial_counts.succeeded > 0


@pytest.mark.parametrize(
    "domain",
    [
        {"low": -1.7e308, "high": 1.7e308},
        {"low": 0.0, "high": 1.0, "step": 1e-300},
        {"low": 0.0, "high": 1e308, "step": 1e-5},
    ],
)
def test_ranges_that_no_float_can_hold_are_refused(
    caller: Caller, domain: dict[str, float]
) -> None:
    space = space_pb2.Space()
    space.parameters.add(name="x").float_domain.MergeFrom(
        type(space.parameters[0].float_domain)(**domain)
    )
    with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT"):
        caller.create(space=space)


def test_more_trials_take_a_completed_study_up_again(caller: Caller) -> None:
    caller.create(trials=1)
    caller.complete(caller.one(), 0.5)
    assert caller.study().state == StudyState.COMPLETED
    assert caller.create(trials=2).state == StudyState.ACTIVE
    caller.complete(caller.one(), 0.75)
    assert caller.study().state == StudyState.COMPLETED
    assert caller.study().trial_counts.succeeded == 2


@pytest.mark.parametrize(
    ("study_id", "fields", "said"),
    [
        ("My Study", {}, "'my-study' would do"),
        ("s", {"space": space_pb2.Space()}, "the space is empty"),
        ("s", {"metrics": []}, "at least one metric"),
        ("s", {"search": study_pb2.Search(algorithm="magic")}, "`algorithm` must be one of"),
        ("s", {"trainer": study_pb2.Trainer(kind="tabular")}, "needs `data`"),
        ("s", {"trials": -1}, "limits.trials"),
    ],
)
def test_a_study_that_cannot_be_is_refused(
    caller: Caller, study_id: str, fields: dict[str, Any], said: str
) -> None:
    with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT") as message:
        caller.create(study_id, **fields)
    assert said in message[0]
    assert list_studies(caller) == []


def test_many_threads_create_one_study(caller: Caller) -> None:
    made: list[study_pb2.Study] = []
    threads = [threading.Thread(target=lambda: made.append(caller.create())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(made) == 6
    assert len({study.create_time.ToNanoseconds() for study in made}) == 1


# --- managed studies ---


def test_a_managed_study_is_prepared_by_a_runner(caller: Caller) -> None:
    made = caller.create(**MANAGED)
    assert (made.state, made.space_version) == (StudyState.PREPARING, 0)
    assert caller.suggest().wait.reason == "the data is being read"
    assert list_studies(caller, states=[StudyState.PREPARING], managed_only=True) == ["s"]
    asked = request_id()
    study = prepare(caller, asked)
    assert (study.state, study.space_version) == (StudyState.ACTIVE, 1)
    assert (study.statistics.rows, study.settings["epochs"].int_value) == (7, 3)
    assert study.features[0].name == "age"
    assert prepare(caller, asked) == study
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION"):
        prepare(caller)
    assert caller.one("ann").space_version == 1
    assert "as many as may run" in caller.suggest("bob").wait.reason
    assert caller.create(**MANAGED).name == "studies/s"


def test_a_study_that_could_not_be_prepared_is_replaced(caller: Caller) -> None:
    caller.create(**MANAGED)
    stopped = prepare(caller, failure="a.csv has no column 'y'")
    assert (stopped.state, stopped.state_reason) == (StudyState.STOPPED, "a.csv has no column 'y'")
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION"):
        caller.resume()
    assert caller.suggest().study_state == StudyState.STOPPED
    again = caller.create(**MANAGED, trials=5)
    assert (again.state, again.limits.trials) == (StudyState.PREPARING, 5)
    assert prepare(caller).state == StudyState.ACTIVE
    assert caller.one().name == "studies/s/trials/0"


def test_a_preparation_that_cannot_be_searched_changes_nothing(caller: Caller) -> None:
    caller.create(**MANAGED, search=study_pb2.Search(algorithm="grid"))
    with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT") as said:
        prepare(caller)
    assert "a grid needs a finite space" in said[0]
    assert caller.study().state == StudyState.PREPARING


# --- changing ---


def test_limits_labels_and_export_change_under_an_etag(caller: Caller) -> None:
    made = caller.create(trials=1)
    caller.complete(caller.one(), 0.5)
    ended = caller.study()
    assert ended.state == StudyState.COMPLETED and ended.etag != made.etag
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION"):
        caller.resume()
    stale = study_of(trials=2)
    stale.etag = made.etag
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION"):
        update(caller, stale, "limits")
    fresh = study_of(trials=2, labels={"team": "a"}, export=study_pb2.Export(model="m"))
    fresh.etag = ended.etag
    changed = update(caller, fresh, "limits", "labels", "export")
    assert (changed.limits.trials, changed.labels["team"], changed.export.model) == (2, "a", "m")
    assert changed.etag != ended.etag
    assert caller.resume().state == StudyState.ACTIVE
    caller.complete(caller.one(), 0.6)
    assert caller.study().state == StudyState.COMPLETED
    exported = update(caller, study_pb2.Study(exported_model_uri="/m/1"), "exported_model_uri")
    assert exported.exported_model_uri == "/m/1" and exported.limits.trials == 2
    update(caller, study_of(trials=3), "limits")
    # More trials may bring another winner: what was exported counts no more.
    assert caller.resume().exported_model_uri == ""
    with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT"):
        update(caller, study_pb2.Study(), "space")
    with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT"):
        update(caller, study_pb2.Study())


def test_a_study_is_deleted_with_its_trials(caller: Caller) -> None:
    caller.create()
    trial = caller.one()
    request = pb.DeleteStudyRequest(name="studies/s")
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION"):
        caller.stub.DeleteStudy(request, timeout=30)
    request.force = True
    caller.stub.DeleteStudy(request, timeout=30)
    for call in (caller.study, caller.suggest, lambda: caller.report(trial)):
        with refused("NOT_FOUND", "NOT_FOUND"):
            call()
    caller.create()
    assert caller.one().name == trial.name
    assert caller.trial().attempt == 1


# --- reading ---


def test_lists_come_in_pages(caller: Caller) -> None:
    for name in "abcde":
        caller.create(name)
    assert list_studies(caller, page_size=2) == ["e", "d", "c", "b", "a"]
    for _ in range(7):
        caller.complete(caller.one(study_id="a"), 0.5)
    held = caller.one(study_id="a")
    for order in ("", "number desc", "best"):
        numbers = [
            int(t.name.rpartition("/")[2]) for t in caller.trials("a", order_by=order, page_size=3)
        ]
        assert numbers == sorted(range(8), reverse=order == "number desc")
    only = caller.trials("a", states=[State.RUNNING])
    assert [t.name for t in only] == [held.name]
    assert list(only[0].attempts) == []
    assert len(caller.trials("a", states=[State.RUNNING], view=pb.FULL)[0].attempts) == 1
    with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT"):
        caller.trials("a", order_by="luck")


def test_importance_needs_trials(caller: Caller) -> None:
    space = study_of().space
    space.parameters.add(name="y", group="PREPROCESSING").float_domain.high = 1.0
    caller.create(space=space, trials=40)
    request = pb.GetImportanceRequest(name="studies/s")
    assert not caller.stub.GetImportance(request, timeout=30).parameters
    while (answer := caller.suggest()).trials:
        caller.complete(answer.trials[0], answer.trials[0].parameters["x"].double_value)
    found = caller.stub.GetImportance(request, timeout=30)
    assert found.trials == 40
    assert sum(found.parameters.values()) == pytest.approx(1.0)
    assert found.parameters["x"] > 0.8
    assert set(found.groups) == {"model", "preprocessing"}


# --- watching ---


def kinds(events: list[pb.StudyEvent]) -> list[str | None]:
    return [event.WhichOneof("event") for event in events]


def test_a_watcher_sees_the_study_as_it_is_and_then_changes(caller: Caller) -> None:
    caller.create(trials=2)
    first = caller.one()
    stream = caller.watch()
    begin = [next(stream), next(stream)]
    assert kinds(begin) == ["study", "trial"]
    assert (begin[0].resume_token, begin[1].trial.name) == ("", first.name)
    caller.report(first, 0, auc=0.25)
    reported = next(stream)
    assert reported.reported.trial == first.name
    assert reported.reported.measurement.metrics["auc"] == 0.25
    caller.complete(first)
    ended = [next(stream), next(stream)]
    assert kinds(ended) == ["trial", "study"]
    assert ended[1].study.best_trial == first.name
    caller.complete(caller.one(), 0.5)
    rest = list(stream)
    assert rest[-1].study.state == StudyState.COMPLETED
    # States that others followed are left out.
    resumed = list(caller.watch(reported.resume_token))
    assert [event for event in (*ended, *rest) if event in resumed] == resumed
    assert resumed[-1] == rest[-1]
    again = list(caller.watch())
    assert kinds(again) == ["study", "trial", "trial"]
    assert again[0].study.state == StudyState.COMPLETED
    assert list(caller.watch(again[-1].resume_token)) == []
    assert kinds(list(caller.watch("not.a.token"))) == kinds(again)


def test_a_watcher_that_does_not_read_blocks_nobody(caller: Caller) -> None:
    caller.create(trials=200)
    stream = caller.watch()
    next(stream)
    while (answer := caller.suggest(count=20)).trials:
        for trial in answer.trials:
            caller.complete(trial, 0.5)
    seen = list(stream)
    assert seen[-1].study.state == StudyState.COMPLETED
    ended = {e.trial.name for e in seen if e.trial.state == State.SUCCEEDED}
    assert len(ended) == 200


def test_watchers_learn_that_a_study_is_gone(caller: Caller) -> None:
    caller.create()
    stream = caller.watch()
    next(stream)
    caller.stub.DeleteStudy(pb.DeleteStudyRequest(name="studies/s"), timeout=30)
    with refused("NOT_FOUND", "NOT_FOUND"):
        list(stream)


def test_a_watcher_that_goes_away_frees_its_place(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interceptor, "STREAMS", 8)
    with running(tmp_path, database_url) as caller:
        caller.create()
        streams = []
        for _ in range(8):
            streams.append(caller.watch())
            next(streams[-1])
        with refused("UNAVAILABLE", "UNAVAILABLE") as said:
            next(caller.watch())
        assert "8 streams are open" in said[0]
        assert caller.one().name == "studies/s/trials/0"
        for stream in streams:
            stream.cancel()
        until(lambda: _can_watch(caller))


def _can_watch(caller: Caller) -> bool:
    stream = caller.watch()
    try:
        next(stream)
    except grpc.RpcError:
        return False
    stream.cancel()
    return True


# --- the database behind ---


def test_what_another_process_changed_is_noticed(caller: Caller, database_url: str) -> None:
    """As after a lost connection during a commit: memory is behind, and catches up."""
    caller.create()
    trial = caller.one()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE tuner.trials SET state = 'SUCCEEDED', worker_id = NULL, expire_time = NULL, "
            "end_time = now()"
        )
        connection.execute("UPDATE tuner.studies SET revision = revision + 1")
    with refused("ABORTED", "LEASE_LOST"):
        caller.report(trial)
    assert caller.study().trial_counts.succeeded == 1
    assert caller.pause().state == StudyState.PAUSED


def test_connections_that_break_cost_one_call_at_most(caller: Caller, database_url: str) -> None:
    caller.create()
    trial = caller.one()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    until(lambda: _reports(caller, trial))
    assert caller.complete(trial, 0.5).state == State.SUCCEEDED


def _reports(caller: Caller, trial: trial_pb2.Trial) -> bool:
    try:
        caller.report(trial)
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE, error
        return False
    return True


# --- the server ---


def test_health_and_reflection(tmp_path: Path, database_url: str) -> None:
    settings = Settings(data_dir=tmp_path, server_port=0, database_url=database_url)
    with StudyServer(settings) as server, grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "tuner.v1.StudyService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=30)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        (answer,) = stub.ServerReflectionInfo(asked, timeout=30)
        names = [service.name for service in answer.list_services_response.service]
        assert "tuner.v1.StudyService" in names
        said = json.loads((tmp_path / "server.json").read_text())
        assert said == {
            "address": server.address,
            "local": server.address,
            "pid": os.getpid(),
        }
    assert not (tmp_path / "server.json").exists()


def test_a_port_in_use_and_a_directory_in_use(tmp_path: Path, database_url: str) -> None:
    settings = Settings(data_dir=tmp_path / "a", server_port=0, database_url=database_url)
    with StudyServer(settings) as server:
        port = int(server.address.rpartition(":")[2])
        other = Settings(data_dir=tmp_path / "b", server_port=port, database_url=database_url)
        with pytest.raises(FailedPreconditionError, match=rf"127\.0\.0\.1:{port} cannot be"):
            StudyServer(other)
        assert not (tmp_path / "b").exists()
        with pytest.raises(DataDirectoryError, match=f"process {os.getpid()}"):
            StudyServer(settings)
        with grpc.insecure_channel(server.address) as channel:
            assert list_studies(Caller(channel)) == []


def test_unexpected_errors_have_a_name_in_the_log(
    caller: Caller, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caller.create()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE tuner.trial_logs DROP COLUMN text")
    trial = caller.one()
    with refused("INTERNAL", "INTERNAL") as said:
        caller.write_log(trial, "x")
    name = said[0].rpartition(" ")[2].rstrip(".")
    assert any(name in record.getMessage() for record in caplog.records)
    assert "trial_logs" not in said[0]


# --- processes ---


class Process:
    """`python -m tuner.service` on a data directory."""

    def __init__(self, folder: Path, **environment: str) -> None:
        values = {
            **os.environ,
            "TUNER_DATA_DIR": str(folder),
            "TUNER_SERVER_PORT": "0",
            "TUNER_LEASE_SECONDS": "4",
            **environment,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tuner.service"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=values,
        )
        self.said: dict[str, Any] = json.loads(_line(self.process.stdout))

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        try:
            code = self.process.wait(40)
        finally:
            self.process.kill()
            self.process.communicate()
        return code


def _line(stream: IO[str] | None) -> str:
    assert stream is not None
    line = stream.readline()
    assert line, "the server said nothing"
    return line


def without_times(trial: trial_pb2.Trial) -> trial_pb2.Trial:
    copy = trial_pb2.Trial()
    copy.CopyFrom(trial)
    copy.ClearField("lease")
    return copy


@pytest.mark.timeout(180)
def test_kill_9_loses_nothing_and_workers_keep_their_trials(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    server = Process(folder)
    try:
        with grpc.insecure_channel(server.said["address"]) as channel:
            caller = Caller(channel)
            caller.create(trials=6)
            for value in (0.5, 0.9):
                trial = caller.one()
                caller.report(trial, 0, auc=value)
                caller.complete(trial)
            caller.fail(caller.one(), "USER_ERROR")
            held = caller.one("ann")
            quiet = caller.one("bob")
            asked = request_id()
            proposed = caller.suggest("cat", request_id=asked)
            caller.report(held, 3, auc=0.7)
            caller.write_log(held, "hello")
            study, trials = caller.study(), caller.trials(view=pb.FULL)
    finally:
        server.end(signal.SIGKILL)
    server = Process(folder)
    try:
        with grpc.insecure_channel(server.said["address"]) as channel:
            caller = Caller(channel)
            assert caller.study() == study
            after = caller.trials(view=pb.FULL)
            assert list(map(without_times, after)) == list(map(without_times, trials))
            assert caller.suggest("cat", request_id=asked).trials[0].name == (
                proposed.trials[0].name
            )
            assert caller.report(held, 4, auc=0.6).decision == pb.ReportTrialResponse.CONTINUE
            assert caller.complete(held).final_measurement.metrics["auc"] == 0.7
            assert [c.text for c in caller.read_log(held)] == ["hello"]
            name = quiet.name
            until(lambda: _state(caller, name) == State.QUEUED)
            assert caller.study().best_trial == "studies/s/trials/1"
            again = caller.fail(caller.one("dan"), "USER_ERROR")
            assert again.attempt == 2
    finally:
        assert server.end(signal.SIGTERM) == 0
    assert not (folder / "server.json").exists()
    assert not (folder / "postgres" / "postmaster.pid").exists()


def test_workers_are_not_blamed_for_the_time_that_a_server_slept(tmp_path: Path) -> None:
    """As when a laptop is closed: everybody sleeps, and everybody wakes up."""
    server = Process(tmp_path / "data")
    try:
        with grpc.insecure_channel(server.said["address"]) as channel:
            caller = Caller(channel)
            caller.create()
            held = caller.one("ann")
            os.kill(server.process.pid, signal.SIGSTOP)
            time.sleep(6)
            os.kill(server.process.pid, signal.SIGCONT)
            time.sleep(1)
            assert caller.report(held, 0, auc=0.5).decision == pb.ReportTrialResponse.CONTINUE
            assert caller.complete(held).attempt == 1
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
        assert server.end(signal.SIGTERM) == 0


def _state(caller: Caller, name: str) -> int:
    return caller.trial(int(name.rpartition("/")[2])).state


def test_a_server_that_refuses_says_why(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    server = Process(tmp_path)
    code = server.process.wait(30)
    server.process.communicate()
    assert code == 2
    assert server.said["error"]["reason"] == "DATA_DIRECTORY"
    assert "'mine.txt'" in server.said["error"]["message"]
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
