"""Several study servers on one database: owners, forwarding, takeover, handing over."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psycopg
import pytest

from tests.integration.service_support import (
    Caller,
    refused,
    request_id,
    running,
    until,
)
from tests.integration.test_service_studies import Process
from tuner.client import Client
from tuner.service import interceptor
from tuner.service.fleet import _identity
from tuner.v1 import study_pb2, trial_pb2
from tuner.v1 import study_service_pb2 as pb

State = trial_pb2.Trial.State
StudyState = study_pb2.Study.State


@pytest.fixture
def pair(tmp_path: Path, database_url: str) -> Iterator[tuple[Caller, Caller]]:
    """Two servers in this process; the first one owns the study `s`."""
    with (
        running(tmp_path / "a", database_url) as first,
        running(tmp_path / "b", database_url) as second,
    ):
        first.create(trials=3)
        first.study()
        yield first, second


def test_either_server_answers_for_a_study(pair: tuple[Caller, Caller]) -> None:
    owner, other = pair
    trial = other.one("ann")
    assert other.study() == owner.study()
    assert other.report(trial, 0, auc=0.5).decision == pb.ReportTrialResponse.CONTINUE
    other.write_log(trial, "hello")
    stream = other.watch()
    assert next(stream).study.name == "studies/s"
    log = other.read_log(trial, follow=True)
    assert next(log).text == "hello"
    assert other.complete(trial, 0.75).state == State.SUCCEEDED
    assert list(log) == []
    assert owner.trial(0) == other.trial(0)
    for caller in (owner, other):
        caller.complete(caller.one("bob"), 0.5)
    assert list(stream)[-1].study.state == StudyState.COMPLETED
    assert other.study().best_trial == trial.name


def test_streams_that_are_passed_on_count_with_the_others(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes a thread of the server that passes it on, too."""
    monkeypatch.setattr(interceptor, "STREAMS", 3)
    with (
        running(tmp_path / "a", database_url) as owner,
        running(tmp_path / "b", database_url) as other,
    ):
        for caller, study_id in ((owner, "s"), (other, "t")):
            caller.create(study_id)
            caller.study(study_id)
        streams = [other.watch(study_id=study_id) for study_id in ("s", "s", "t")]
        for stream in streams:
            next(stream)
        with refused("UNAVAILABLE", "UNAVAILABLE") as said:
            next(other.watch())
        assert "3 streams are open" in said[0]
        assert other.one().name == "studies/s/trials/0"
        for stream in streams:
            stream.cancel()


def test_a_log_is_followed_when_the_study_goes_to_another_server(
    tmp_path: Path, database_url: str, pair: tuple[Caller, Caller]
) -> None:
    owner, other = pair
    trial = owner.one("ann")
    owner.write_log(trial, "one ")
    with Client(_address(tmp_path / "a")) as client:
        log = client.get_study("s").log(0, follow=True)
        assert next(log) == (1, "one ")
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(
                "UPDATE tuner.studies SET epoch = epoch + 1, owner = "
                "(SELECT server FROM tuner.servers WHERE address = %s)",
                (_address(tmp_path / "b"),),
            )
        other.write_log(trial, "two", offset=4)
        assert next(log) == (1, "two")
        other.complete(trial, 0.5)
        assert list(log) == []


def test_errors_and_repeated_requests_pass_through(pair: tuple[Caller, Caller]) -> None:
    owner, other = pair
    asked = request_id()
    first = owner.suggest("ann", request_id=asked)
    assert other.suggest("ann", request_id=asked) == first
    trial = first.trials[0]
    ended = request_id()
    assert owner.complete(trial, 0.5, ended) == other.complete(trial, 0.5, ended)
    with refused("ABORTED", "LEASE_LOST"):
        other.report(trial, 1, auc=0.5)
    with refused("NOT_FOUND", "NOT_FOUND"):
        other.stop_trial(7)
    with refused("NOT_FOUND", "NOT_FOUND"):
        other.study("nobody")
    with refused("INVALID_ARGUMENT", "INVALID_ARGUMENT"):
        other.suggest("")


def test_a_forwarded_call_goes_no_further(tmp_path: Path, database_url: str) -> None:
    """Two servers that each take the other for the owner must not send a call to and fro."""
    with running(tmp_path / "a", database_url) as caller:
        caller.create()
        caller.study()
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO tuner.servers VALUES (gen_random_uuid(), %s, now(), now() + '1 h')",
                (_address(tmp_path / "a"),),
            )
            connection.execute(
                "UPDATE tuner.studies SET epoch = epoch + 1, owner = (SELECT server FROM "
                "tuner.servers ORDER BY expire_time DESC LIMIT 1)"
            )
        with refused("UNAVAILABLE", "UNAVAILABLE"):
            caller.suggest()
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("UPDATE tuner.studies SET owner = NULL")
        until(lambda: _answers(caller))


def _address(folder: Path) -> str:
    return str(json.loads((folder / "server.json").read_text())["address"])


def _answers(caller: Caller) -> bool:
    try:
        return bool(caller.suggest().trials)
    except grpc.RpcError:
        return False


@contextmanager
def processes(tmp_path: Path, url: str) -> Iterator[tuple[Process, Process]]:
    """Two servers as processes of their own."""
    started = list[Process]()
    try:
        for name in "ab":
            started.append(Process(tmp_path / name, TUNER_DATABASE_URL=url))
        yield started[0], started[1]
    finally:
        for process in started:
            if process.process.poll() is None:
                os.kill(process.process.pid, signal.SIGCONT)
                process.end(signal.SIGKILL)


def test_a_dead_servers_studies_are_taken_over(tmp_path: Path, database_url: str) -> None:
    with (
        processes(tmp_path, database_url) as (a, b),
        grpc.insecure_channel(a.said["address"]) as to_a,
        grpc.insecure_channel(b.said["address"]) as to_b,
    ):
        first, second = Caller(to_a), Caller(to_b)
        first.create()
        held = first.one("ann")
        first.report(held, 0, auc=0.5)
        stream = second.watch()
        next(stream)
        a.end(signal.SIGKILL)
        killed = time.monotonic()
        until(lambda: _goes_on(second, held))
        seconds = time.monotonic() - killed
        print(f"taken over in {seconds:.1f} s")
        assert second.complete(held).final_measurement.metrics["auc"] == 0.7
        assert second.one("bob").name == "studies/s/trials/1"


def _goes_on(caller: Caller, held: trial_pb2.Trial) -> bool:
    try:
        return caller.report(held, 1, auc=0.7).decision == pb.ReportTrialResponse.CONTINUE
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE, error
        return False


def test_a_server_that_slept_cannot_write_to_what_it_lost(
    tmp_path: Path, database_url: str
) -> None:
    with (
        processes(tmp_path, database_url) as (a, b),
        grpc.insecure_channel(a.said["address"]) as to_a,
        grpc.insecure_channel(b.said["address"]) as to_b,
    ):
        first, second = Caller(to_a), Caller(to_b)
        first.create(trials=4)
        held = first.one("ann")
        # What is passed on from now on goes over a connection that stands.
        second.study()
        os.kill(a.process.pid, signal.SIGSTOP)
        asked = first.stub.SuggestTrials.future(
            pb.SuggestTrialsRequest(parent="studies/s", worker_id="cat"), timeout=30
        )
        until(lambda: _goes_on(second, held))
        bob = second.one("bob")
        assert bob.name == "studies/s/trials/1"
        os.kill(a.process.pid, signal.SIGCONT)
        # It never heard of that trial, and must not say so to whom it was leased.
        until(lambda: _goes_on(first, bob))
        # It wakes up believing that trial 1 is free; what it is told instead is the owner's word.
        assert asked.result(timeout=30).trials[0].name == "studies/s/trials/2"
        assert first.complete(held, 0.5) == _basic(second)
        assert [t.name for t in first.trials()] == [f"studies/s/trials/{n}" for n in range(3)]


def test_a_server_that_lost_a_study_shows_nobody_the_past(
    tmp_path: Path, database_url: str
) -> None:
    """It only reads and watches: no write of its own tells it that another server took over."""
    with (
        running(tmp_path / "a", database_url) as first,
        running(tmp_path / "b", database_url) as second,
    ):
        first.create()
        stream = first.watch()
        next(stream)
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(
                "UPDATE tuner.studies SET epoch = epoch + 1, owner = (SELECT server FROM "
                "tuner.servers WHERE address = %s)",
                (_address(tmp_path / "b"),),
            )
        second.complete(second.one(), 0.5)
        until(lambda: first.study().trial_counts.succeeded == 1)
        assert next(event for event in stream if event.trial.state == State.SUCCEEDED)


def test_a_server_that_joins_gets_its_share(tmp_path: Path, database_url: str) -> None:
    with running(tmp_path / "a", database_url) as first:
        names = [f"study-{number}" for number in range(4)]
        for name in names:
            first.create(name)
            first.one("ann", study_id=name)
        with running(tmp_path / "b", database_url) as second:
            until(lambda: _owned(database_url) == [2, 2])
            for name in names:
                trial = second.one("bob", study_id=name)
                assert first.complete(trial, 0.5).state == State.SUCCEEDED
        until(lambda: _owned(database_url) == [4])
        for name in names:
            assert first.one("ann", study_id=name).name == f"studies/{name}/trials/0"


def _basic(caller: Caller) -> trial_pb2.Trial:
    return caller.trials()[0]


def _owned(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT count(*) FROM tuner.studies WHERE owner IS NOT NULL GROUP BY owner ORDER BY 1"
        ).fetchall()
    return [count for (count,) in rows]


def test_a_copied_data_directory_is_another_server(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first = _identity(tmp_path / "a")
    assert _identity(tmp_path / "a") == first
    (tmp_path / "b" / "server-id.json").write_text((tmp_path / "a" / "server-id.json").read_text())
    assert _identity(tmp_path / "b") != first
    (tmp_path / "a" / "server-id.json").write_text("half a li")
    assert _identity(tmp_path / "a") != first
