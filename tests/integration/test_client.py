"""The client and the command line against a real study server."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import tuner
from tuner.cli import main
from tuner.client import Client, Study, channel
from tuner.client.trial import RunningTrial
from tuner.config import Settings
from tuner.errors import (
    AlreadyExistsError,
    DataError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from tuner.service.server import StudyServer
from tuner.space import Domain
from tuner.study import Cause, StudyState, TrialState
from tuner.v1 import study_pb2
from tuner.v1 import study_service_pb2 as pb

SPACE: Mapping[str, Domain] = {
    "x": tuner.Float(-5.0, 5.0),
    "layers": tuner.Int(1, 4),
    "activation": tuner.Categorical(["relu", "gelu"]),
}


def settings(folder: Path, **more: object) -> Settings:
    return Settings(data_dir=folder, server_port=0, **more)  # type: ignore[arg-type]


LEASE_SECONDS = 1.5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyServer]:
    folder = tmp_path_factory.mktemp("server")
    with StudyServer(settings(folder, lease_seconds=LEASE_SECONDS)) as server:
        yield server


@pytest.fixture
def client(server: StudyServer) -> Iterator[Client]:
    with tuner.connect(server.address) as client:
        yield client


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A study's name that no other test uses."""
    words = request.node.name.removeprefix("test_").split("[")[0]
    return str(words).replace("_", "-")[:63].strip("-")


def loss(x: object) -> float:
    return (float(x) - 1.0) ** 2  # type: ignore[arg-type]


# --- the loop --------------------------------------------------------------------------------


def test_a_script_works_until_the_study_ends(client: Client, name: str) -> None:
    study = client.create_study(
        name, SPACE, minimize="loss", trials=30, search="random", seed=3, early_stopping="none"
    )
    seen = []
    for trial in study:
        with trial as p:
            seen.append(trial.number)
            for step in range(3):
                assert trial.report({"loss": loss(p["x"]) + 2 - step, "other": 1.0})
    assert seen == list(range(30))
    assert study.state is StudyState.COMPLETED
    trials = list(study.trials())
    assert [trial.state for trial in trials] == [TrialState.SUCCEEDED] * 30
    for done in trials:
        assert done.value == pytest.approx(loss(done.parameters["x"]))
        assert done.metrics["other"] == 1.0
    best = study.best()
    assert best.value == min(trial.value for trial in trials if trial.value is not None)
    assert best.parameters == trials[best.number].parameters
    shares = study.importance()
    assert shares.trials == 30
    assert sum(shares.parameters.values()) == pytest.approx(1.0)
    assert max(shares.parameters, key=shares.parameters.__getitem__) == "x"


def test_trials_are_asked_for_and_told_in_any_order(client: Client, name: str) -> None:
    study = client.create_study(name, SPACE, minimize="loss", trials=2, early_stopping="none")
    first, second = study.ask(worker="a"), study.ask(worker="b")
    assert first is not None and second is not None
    again = study.ask(worker="a")
    assert (first.number, second.number) == (0, 1) and again is not None and again.number == 0
    assert study.ask(worker="c") is None and not study.record.state.is_finished
    time.sleep(1.5 * LEASE_SECONDS)  # their leases are renewed meanwhile
    second.complete(2.0)
    assert first.report(1.0)
    study.take_up(first.record).complete(0.5)
    assert first.report(0.1) is False and first.lost, "it was ended elsewhere"
    assert [trial.value for trial in study.trials()] == [0.5, 2.0]
    assert study.ask() is None and study.record.state.is_finished
    assert not second.lost, "its lease ended with it"


def test_an_objective_is_optimized_in_one_call_a_trial(client: Client, name: str) -> None:
    """With errors, results that were reported, and a limit of this worker's own."""
    study = client.create_study(name, SPACE, maximize="score", trials=9, early_stopping="none")
    calls = list[str]()
    original = study._connection.call

    def counted(verb: Any, request: Any, **limits: Any) -> Any:
        # A heartbeat may come at any time.
        if not isinstance(request, pb.ReportTrialRequest):
            calls.append(type(request).__name__.removesuffix("Request"))
        return original(verb, request, **limits)

    study._connection.call = counted  # type: ignore[method-assign]
    seen = list[int]()

    def objective(trial: RunningTrial) -> float | None:
        seen.append(trial.number)
        if trial.number == 1 and trial.attempt == 1:
            raise ValueError("once")
        if trial.number == 2:
            trial.report(-5.0)
            return None
        return -abs(float(trial.parameters["x"]))

    study.optimize(objective, trials=4)
    assert seen == [0, 1, 1, 2]  # what failed is due again before anything new
    assert Counter(calls) == {"SuggestTrials": 1, "ExchangeTrial": 3, "CompleteTrial": 1}
    # Nobody holds a trial that nobody works on.
    assert study.refresh().trial_counts.running == 0
    study.optimize(objective)
    assert study.state is StudyState.COMPLETED
    assert [trial.state for trial in study.trials()] == [TrialState.SUCCEEDED] * 9
    assert sorted({*seen}) == list(range(9))


def test_ctrl_c_in_an_objective_gives_the_trial_back(client: Client, name: str) -> None:
    study = client.create_study(name, SPACE, maximize="score", trials=3)

    def objective(trial: RunningTrial) -> float:
        if trial.number == 1:
            raise KeyboardInterrupt
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        study.optimize(objective)
    counts = study.refresh().trial_counts
    assert (counts.succeeded, counts.queued, counts.running) == (1, 1, 0)


def test_a_study_stopped_in_an_objective_proposes_nothing_more(client: Client, name: str) -> None:
    study = client.create_study(name, SPACE, maximize="score", trials=9)

    def objective(trial: RunningTrial) -> float:
        study.stop("good enough")
        return 1.0

    study.optimize(objective)
    assert study.state is StudyState.STOPPED
    assert study.refresh().trial_counts.total == 1


def test_pages_are_read_one_after_the_other(
    client: Client, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuner.client.study._PAGE", 3)
    study = client.create_study(name, SPACE, minimize="loss", trials=8, search="random")
    for trial in study:
        trial.complete(loss(trial.parameters["x"]))
    assert [trial.number for trial in study.trials()] == list(range(8))
    assert [trial.number for trial in study.trials(order_by="number desc", limit=4)] == [
        7,
        6,
        5,
        4,
    ]
    values = [trial.value for trial in study.trials(order_by="best")]
    assert values == sorted(values)  # type: ignore[type-var]
    assert list(study.trials(states=[TrialState.FAILED])) == []


def test_an_exception_fails_the_attempt_and_the_loop_goes_on(
    client: Client, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    study = client.create_study(name, SPACE, maximize="score", trials=3, search="random")
    for trial in study:
        with trial:
            if trial.number == 1:
                raise ValueError("units must be even")
            trial.complete(0.5)
    failed = study.trial(1)
    assert failed.state is TrialState.FAILED
    assert [t.state for t in study.trials()].count(TrialState.SUCCEEDED) == 2
    failure = failed.record.attempts[-1].failure
    assert failure is not None
    assert failure.cause is Cause.USER_ERROR
    assert failure.message == "ValueError: units must be even"
    assert 'raise ValueError("units must be even")' in failure.stack
    assert "trial 1 failed: ValueError: units must be even" in caplog.messages


def test_memory_errors_have_a_cause_of_their_own(client: Client, name: str) -> None:
    study = client.create_study(name, SPACE, maximize="score", trials=1, search="random")
    for trial in study:
        with trial:
            raise MemoryError("too large")
    failure = study.trial(0).record.attempts[0].failure
    assert failure is not None and failure.cause is Cause.OUT_OF_MEMORY


def test_a_block_without_a_result_fails_and_says_so(
    client: Client, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    study = client.create_study(name, SPACE, maximize="score", trials=1, search="random")
    for trial in study:
        with trial:
            pass
    assert study.trial(0).state is TrialState.FAILED
    assert "call trial.report(...) or trial.complete(...)" in caplog.text


def test_completing_without_a_result_is_a_mistake(client: Client, name: str) -> None:
    study = client.create_study(name, SPACE, maximize="score", trials=1, search="random")
    for trial in study:
        with pytest.raises(InvalidArgumentError, match="trial 0 has no result"):
            trial.complete()
        trial.complete(1.0)
        trial.complete(2.0)
        assert not trial.report(3.0)
    assert study.best().value == 1.0


def test_infeasible_trials_are_told_apart(client: Client, name: str) -> None:
    study = client.create_study(name, SPACE, maximize="score", trials=2, search="random")
    for trial in study:
        with trial:
            if trial.number == 0:
                trial.infeasible("does not fit")
                continue
            trial.complete(1.0)
    assert [trial.state for trial in study.trials()] == [
        TrialState.INFEASIBLE,
        TrialState.SUCCEEDED,
    ]
    assert study.trial(0).record.state_reason == "does not fit"


def test_an_objective_may_end_its_trial_itself(
    client: Client, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study = client.create_study(name, SPACE, maximize="score", trials=3, search="random")

    def objective(trial: RunningTrial) -> None:
        if trial.number == 0:
            trial.infeasible("does not fit")
        elif trial.number == 1:
            trial.complete(0.5)
        else:
            trial.release("later")

    study.optimize(objective, trials=3)
    assert [trial.state for trial in study.trials()] == [
        TrialState.INFEASIBLE,
        TrialState.SUCCEEDED,
        TrialState.QUEUED,
    ]
    assert "failed" not in capsys.readouterr().err


def test_ctrl_c_gives_the_trial_back(client: Client, name: str) -> None:
    study = client.create_study(name, SPACE, maximize="score", trials=2, search="random")
    with pytest.raises(KeyboardInterrupt):
        for trial in study:
            with trial:
                raise KeyboardInterrupt
    given_back = study.trial(0)
    assert given_back.state is TrialState.QUEUED
    for trial in study:
        with trial as p:
            if trial.number == 0:
                assert trial.attempt == 2
                assert p == given_back.parameters
            trial.complete(1.0)
    assert [trial.state for trial in study.trials()] == [TrialState.SUCCEEDED] * 2


def test_a_server_that_was_away_is_no_fault_of_the_trial(client: Client, name: str) -> None:
    study = client.create_study(name, SPACE, maximize="score", trials=1)
    for trial in study:
        with trial:
            if trial.attempt < 4:
                raise UnavailableError("nobody answers.")  # as `report` does, after a minute
            trial.complete(1.0)
    attempts = study.trial(0).record.attempts
    causes = [attempt.failure.cause for attempt in attempts if attempt.failure is not None]
    assert causes == [Cause.PREEMPTED] * 3
    assert study.trial(0).state is TrialState.SUCCEEDED


def test_leaving_the_loop_gives_an_open_trial_back(client: Client, name: str) -> None:
    study = client.create_study(name, SPACE, maximize="score", trials=2, search="random")
    for _ in study:
        break
    assert study.trial(0).state is TrialState.QUEUED


def test_a_heartbeat_keeps_a_trial_that_reports_nothing(client: Client, name: str) -> None:
    study = client.create_study(name, SPACE, maximize="score", trials=1, search="random")
    for trial in study:
        with trial:
            time.sleep(4)  # the lease is 1.5 s
            trial.complete(1.0)
    done = study.trial(0)
    assert (done.state, done.record.attempt) == (TrialState.SUCCEEDED, 1)


def test_a_lost_lease_ends_the_block_quietly(
    client: Client, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = client.create_study(name, SPACE, maximize="score", trials=1, search="random")
    monkeypatch.setattr("tuner.client.heartbeat.Heartbeat.add", lambda *_: None)
    for trial in study:
        with trial:
            with tuner.connect(client.address) as other:
                _take(other.get_study(name))
            assert not trial.report(0.1, step=9)
            assert trial.stop
    done = study.trial(0)
    assert (done.value, done.record.attempt) == (1.0, 2)


def _take(study: Study) -> None:
    """Works on the study as another worker, as soon as a lease has ended."""

    def work() -> None:
        for trial in study:
            trial.complete(1.0)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_a_stopped_study_tells_its_trials(client: Client, name: str) -> None:
    study = client.create_study(name, SPACE, maximize="score", trials=5, search="random")
    for trial in study:
        with trial:
            assert trial.report(0.5)
            study.stop("enough")
            assert not trial.report(0.6)
            assert trial.stop
    assert study.state is StudyState.STOPPED
    assert study.trial(0).value in (0.5, 0.6)


def test_pause_holds_trials_back_until_resume(client: Client, name: str) -> None:
    study = client.create_study(name, SPACE, maximize="score", trials=1, search="random")
    study.pause()
    assert study.refresh().state is StudyState.PAUSED
    timer = threading.Timer(1.0, study.resume)
    timer.start()
    for trial in study:
        assert study.refresh().state is StudyState.ACTIVE
        trial.complete(1.0)
    timer.join(timeout=30)
    assert study.best().number == 0


# --- several processes -----------------------------------------------------------------------


def _work(address: str, name: str) -> None:
    with tuner.connect(address) as client:
        study = client.create_study(name, SPACE, minimize="loss", trials=40, search="random")
        for trial in study:
            with trial as p:
                trial.report(loss(p["x"]))


def test_four_processes_share_a_study(client: Client, server: StudyServer, name: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_work, args=(server.address, name)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=100)
    assert [worker.exitcode for worker in workers] == [0] * 4
    trials = list(client.get_study(name).trials(full=True))
    assert [trial.number for trial in trials] == list(range(40))
    assert {trial.state for trial in trials} == {TrialState.SUCCEEDED}
    assert all(len(trial.record.attempts) == 1 for trial in trials)
    by_worker = Counter(trial.record.attempts[0].worker_id for trial in trials)
    assert len(by_worker) > 1
    points = {tuple(sorted(trial.parameters.items())) for trial in trials}
    assert len(points) == 40


FORKS = """
import multiprocessing, sys, tuner
client = tuner.connect(sys.argv[1])
study = client.create_study(sys.argv[2], {"x": tuner.Float(0, 1)}, minimize="loss", trials=20)

def work():
    for trial in study:
        with trial as p:
            trial.report(p["x"])

first = next(iter(study))       # the parent's connection and heartbeat are in use
fork = multiprocessing.get_context("fork")
workers = [fork.Process(target=work) for _ in range(4)]
for worker in workers: worker.start()
first.complete(0.5)
for worker in workers: worker.join(timeout=60)
print([worker.exitcode for worker in workers], study.state)
"""


def test_a_forked_process_works_on(client: Client, server: StudyServer, name: str) -> None:
    command = [sys.executable, "-c", FORKS, server.address, name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.stdout == "[0, 0, 0, 0] COMPLETED\n", done.stderr
    assert {trial.state for trial in client.get_study(name).trials()} == {TrialState.SUCCEEDED}


# --- studies ---------------------------------------------------------------------------------


def test_the_same_study_again_is_the_same_study(client: Client, name: str) -> None:
    first = client.create_study(name, SPACE, maximize="score", trials=3)
    again = client.create_study(name, SPACE, maximize="score", trials=3)
    assert again.record.create_time == first.record.create_time
    with pytest.raises(AlreadyExistsError):
        client.create_study(name, {"y": tuner.Float(0, 1)}, maximize="score", trials=3)


def test_a_study_deleted_under_a_script_ends_it_quietly(client: Client, name: str) -> None:
    study = client.create_study(name, SPACE, maximize="score", trials=3)
    seen = 0
    with pytest.raises(NotFoundError):
        # Only asking for the next trial says that there is no study any more.
        for trial in study:
            seen += 1
            with trial:
                trial.report(0.5)
                client.get_study(name).delete(force=True)
                assert not trial.report(0.6)
                assert trial.lost
    assert seen == 1


def test_mistakes_are_raised_as_what_they_are(client: Client, name: str) -> None:
    with pytest.raises(NotFoundError):
        client.get_study("nowhere")
    with pytest.raises(InvalidArgumentError, match="'my-study' would do"):
        client.create_study("My Study", SPACE, maximize="score")
    with pytest.raises(InvalidArgumentError, match="name what to optimize in one way"):
        client.create_study(name, SPACE)
    study = client.create_study(name, SPACE, maximize="score")
    with pytest.raises(NotFoundError, match="has a result yet"):
        study.best()
    with pytest.raises(NotFoundError):
        study.trial(7)
    for _ in study:
        with pytest.raises(FailedPreconditionError):
            study.delete()
        study.delete(force=True)
        break
    with pytest.raises(NotFoundError):
        study.refresh()


def test_nobody_at_the_address(client: Client) -> None:
    with pytest.raises(UnavailableError, match="start one with `tuner up`"):
        tuner.connect("127.0.0.1:1")


def test_a_server_is_found_where_it_says_it_listens(
    server: StudyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TUNER_SERVER", raising=False)
    monkeypatch.setenv("TUNER_DATA_DIR", str(tmp_path))
    (tmp_path / "server.json").write_text(json.dumps({"address": server.address}))
    with tuner.connect() as client:
        assert client.address == server.address


def test_work_goes_on_after_the_server_restarted(tmp_path: Path) -> None:
    first = StudyServer(settings(tmp_path))
    with first:
        port = int(first.address.rpartition(":")[2])
        client = tuner.connect(first.address)
        study = client.create_study("mine", SPACE, maximize="score", trials=6, search="random")
        work = iter(study)
        next(work).complete(1.0)
        held = next(work)
    restarted: list[StudyServer] = []
    wake = threading.Event()

    def restart() -> None:
        with StudyServer(Settings(data_dir=tmp_path, server_port=port)) as second:
            restarted.append(second)
            wake.wait(60)

    thread = threading.Thread(target=restart)
    thread.start()
    try:
        assert held.report(0.5, step=0)  # waits for the server
        held.complete()
        for trial in work:
            trial.complete(0.1)
        assert [trial.value for trial in study.trials()] == [1.0, 0.5, 0.1, 0.1, 0.1, 0.1]
        assert study.trial(1).record.attempt == 1
    finally:
        wake.set()
        thread.join(timeout=60)
        client.close()
    assert restarted


def test_what_ended_a_study_is_told_after_a_restart(tmp_path: Path) -> None:
    with StudyServer(settings(tmp_path)) as first:
        port = int(first.address.rpartition(":")[2])
        client = tuner.connect(first.address)
        study = client.create_study("mine", SPACE, maximize="score", trials=1)
        work = iter(study)
        trial = next(work)
        events = study.events()
        assert next(events).study.name == study.name
    with client, StudyServer(Settings(data_dir=tmp_path, server_port=port)):
        trial.complete(1.0)
        assert study.state is StudyState.COMPLETED
        states = [event.study.state for event in events if event.HasField("study")]
    assert states[-1] == study_pb2.Study.State.COMPLETED


def test_a_log_is_followed_for_longer_than_a_stream_lasts(
    client: Client, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "STREAM_SECONDS", 0.5)
    study = client.create_study(name, SPACE, maximize="score", trials=1)
    work = iter(study)
    trial = next(work)
    log = study.log(0, follow=True)
    text = ""
    for piece in ("one ", "two ", "three"):
        _write_log(study, trial, piece, len(text))
        text += piece
        assert next(log) == (1, piece)
        time.sleep(0.8)
    trial.complete(1.0)
    assert list(log) == []


def _write_log(study: Study, trial: RunningTrial, text: str, offset: int) -> None:
    token = trial._lease_token
    request = pb.WriteTrialLogRequest(name=trial.name, lease_token=token, text=text, offset=offset)
    study._connection.call(lambda stub: stub.WriteTrialLog, request)


# --- managed studies, and the command line ---------------------------------------------------

MANAGED = """\
study: {name}
metric: {{name: val_auc}}
data: {{train: t.csv, label: y}}
trainer: tabular
features: {{a: {{kind: numeric, buckets: {{int: [2, 9]}}}}}}
limits: {{trials: 3}}
"""


@pytest.fixture
def file(tmp_path: Path, name: str) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(MANAGED.format(name=name))
    return path


def _answer_preparation(client: Client, name: str, failure: str = "") -> None:
    """Does what a runner does with a study that is PREPARING."""
    study = client.get_study(name)
    request = pb.PrepareStudyRequest(name=study.name)
    if failure:
        request.failure = failure
    else:
        message = client._connection.call(
            lambda s: s.GetStudy, pb.GetStudyRequest(name=study.name)
        )
        request.prepared.space.CopyFrom(message.space)
        request.prepared.features.extend(message.features)
        request.prepared.statistics.rows = 1234
        request.prepared.statistics.fingerprint = "f"
        request.prepared.statistics.uri = "u"
    client._connection.call(lambda stub: stub.PrepareStudy, request)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The exit code, the output and the errors of a command."""
    with pytest.raises(SystemExit) as exit_:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(exit_.value.code or 0), out, err


def test_a_submitted_study_waits_for_a_runner(client: Client, file: Path) -> None:
    study = client.submit(file)
    assert study.wait_prepared(0.3) is StudyState.PREPARING
    assert study.wait(0.3) is StudyState.PREPARING


def test_data_that_cannot_be_used_is_told(client: Client, file: Path, name: str) -> None:
    study = client.submit(file)
    _answer_preparation(client, name, failure="t.csv has no column 'y'; name another label.")
    with pytest.raises(DataError, match="no column 'y'"):
        study.wait_prepared(30)


def test_submit_says_what_will_be_done(
    client: Client, file: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    client.submit(file)
    _answer_preparation(client, name)
    code, out, err = run(capsys, "--server", client.address, "submit", str(file))
    assert code == 0
    assert out == (f"{name}: 1,234 rows · 1 feature · 1 parameter (1 preprocessing) · 3 trials\n")
    assert err == f"tuner watch {name}\n"


def test_submit_fails_with_the_reason(
    client: Client, file: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    client.submit(file)
    timer = threading.Timer(1.0, _answer_preparation, (client, name, "t.csv is empty; check it."))
    timer.start()
    code, out, err = run(capsys, "submit", str(file), "--server", client.address)
    timer.join(timeout=30)
    assert (code, out, err) == (2, "", "error: t.csv is empty; check it.\n")


@pytest.fixture
def finished(client: Client, name: str) -> Study:
    """A study of five trials: one failed, one infeasible."""
    study = client.create_study(name, SPACE, maximize="score", trials=5, search="random", seed=1)
    for trial in study:
        with trial:
            if trial.number == 2:
                raise ValueError("units [must] be even")
            if trial.number == 3:
                trial.infeasible("does not fit")
                continue
            trial.report(trial.number / 10)
    return study


def test_trials_lists_them(
    client: Client, finished: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ("--server", client.address)
    code, out, _ = run(capsys, *at, "trials", finished.study_id)
    assert code == 0
    rows = [line.split() for line in out.splitlines() if line.strip()]
    assert rows[0][:5] == ["trial", "state", "score", "step", "time"]
    assert [row[:2] for row in rows[2:]] == [
        ["0", "succeeded"],
        ["1", "succeeded"],
        ["2", "failed"],
        ["3", "infeasible"],
        ["4", "succeeded"],
    ]
    code, out, _ = run(capsys, *at, "trials", finished.study_id, "--top", "2", "--json")
    document = json.loads(out)
    assert [(row["trial"], row["value"]) for row in document] == [(4, 0.4), (1, 0.1)]
    assert document[0]["parameters"] == finished.trial(4).parameters


def test_studies_lists_them(
    client: Client, finished: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "--server", client.address, "studies")
    assert code == 0
    (row,) = (line.split() for line in out.splitlines() if finished.study_id in line)
    assert row[:7] == [finished.study_id, "completed", "5/5", "1", "score", "↑", "0.4000"]
    code, out, _ = run(capsys, "--server", client.address, "studies", "--json")
    (found,) = (d for d in json.loads(out) if d["study"] == finished.study_id)
    assert found["trials"]["succeeded"] == 3
    assert found["best_trial"] == 4
    assert found["cost"]["worker_seconds"] > 0 == found["cost"]["cpu_seconds"]
    assert found["cost"]["worker_seconds"] == pytest.approx(
        sum(trial.record.cost.worker_time.total_seconds() for trial in finished.trials())
    )


@pytest.fixture
def weighed(client: Client, name: str) -> Study:
    """A finished study of two metrics and a constraint: one trial of four is beyond it."""
    study = client.create_study(
        name,
        {"x": tuner.Int(0, 100), "kind": tuner.Categorical(["a", "b", True])},
        metrics={"auc": "maximize", "ms": "minimize"},
        constraints={"size": {"at_most": 5}},
        trials=3,
        search="random",
    )
    past = {"auc": 0.5, "ms": 7.0, "size": 1.0}
    study.add_results([({"x": 50, "kind": "a"}, past)], labels={"from": "2024"})
    study.add_trials({"x": x, "kind": "b"} for x in (10, 20, 30))
    for trial in study:
        with trial as p:
            x = float(p["x"])
            trial.complete({"auc": x / 100, "ms": x, "size": x / 5})
    return study


def test_several_metrics_and_constraints_are_shown(
    client: Client, weighed: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ("--server", client.address)
    _, out, _ = run(capsys, *at, "trials", weighed.study_id)
    rows = [line.split() for line in out.splitlines() if line.strip()]
    assert rows[0][:7] == ["trial", "state", "auc", "ms", "size", "step", "time"]
    assert rows[2][:7] == ["0", "succeeded", "0.5000", "7.0000", "1.0000", "0", "past"]
    assert rows[5][:6] == ["3", "succeeded", "0.3000", "30.0000", "!", "6.0000"]
    assert out.splitlines()[-1].strip() == "! beyond a constraint: size ≤ 5"
    _, out, _ = run(capsys, *at, "studies")
    (row,) = (line.split() for line in out.splitlines() if weighed.study_id in line)
    assert row[1:10] == ["completed", "3/3", "auc", "↑", "ms", "↓", "0.5000", "/", "7.0000"]
    _, out, _ = run(capsys, *at, "watch", weighed.study_id)
    assert "trial 3 succeeded auc=0.3000 ms=30.0000 size=6.0000 beyond a constraint (best" in out
    assert "no other trial beats these in every metric: 0" in out
    _, out, _ = run(capsys, *at, "trials", weighed.study_id, "--filter", "metrics.auc > 2")
    assert out == "no such trial\n"


def test_json_tells_all_of_a_study(
    client: Client, weighed: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    weighed.label({"team": "credit"})
    at = ("--server", client.address)
    _, out, _ = run(capsys, *at, "studies", "--json")
    (found,) = (d for d in json.loads(out) if d["study"] == weighed.study_id)
    assert [metric["name"] for metric in found["metrics"]] == ["auc", "ms"]
    assert found["constraints"] == [{"metric": "size", "at_most": 5.0, "at_least": None}]
    assert (found["measurement"], found["labels"]) == ("last", {"team": "credit"})
    assert found["trials"]["past"] == 1
    _, out, _ = run(capsys, *at, "trials", weighed.study_id, "--json")
    first, *_, last = json.loads(out)
    assert (first["origin"], first["labels"]) == ("past", {"from": "2024"})
    assert (last["origin"], last["within_constraints"]) == ("given", False)


def test_a_study_whose_trials_all_break_a_constraint_says_so(
    client: Client, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study = client.create_study(
        name, SPACE, maximize="auc", constraints={"ms": {"at_most": 1}}, trials=1
    )
    for trial in study:
        trial.complete({"auc": 0.5, "ms": 2.0})
    _, out, _ = run(capsys, "--server", client.address, "watch", name)
    assert out.splitlines()[-1] == f"{name}: no trial keeps to the constraints"
    with pytest.raises(NotFoundError, match="has a result within the constraints yet"):
        study.best()


def test_trials_and_past_results_are_added(
    client: Client, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space: dict[str, Domain] = {"x": tuner.Float(0, 1), "kind": tuner.Categorical(["1", 2, True])}
    study = client.create_study(name, space, maximize="auc", trials=5)
    at = ("--server", client.address, "add", name)
    assert run(capsys, *at, "x=0.5", "kind=1")[:2] == (0, f"{name}: added due: 0\n")
    assert run(capsys, *at, "x=1e-3", "kind=2", "auc=0.9")[1] == f"{name}: added past: 1\n"
    file = tmp_path / "old.csv"
    file.write_text("x,auc,kind\n0.25,0.8,True\n1,,2\n")
    _, out, _ = run(capsys, *at, "--file", str(file), "--json")
    assert json.loads(out) == {"study": name, "past": [2], "due": [3]}
    trials = [(t.state, dict(t.parameters), t.value) for t in study.trials()]
    assert trials == [
        (TrialState.QUEUED, {"x": 0.5, "kind": "1"}, None),
        (TrialState.SUCCEEDED, {"x": 0.001, "kind": 2}, 0.9),
        (TrialState.SUCCEEDED, {"x": 0.25, "kind": True}, 0.8),
        (TrialState.QUEUED, {"x": 1, "kind": 2}, None),
    ]
    for wrong, words in (
        (("y=1",), "y: the parameters of"),
        (("x=0.5",), "kind"),
        (("x=7", "kind=2"), "x"),
        (("x=0.5", "kind=2", "auc=good"), "auc is a number, but got 'good'; correct it."),
        (("--file", str(tmp_path / "none.csv")), "cannot read"),
    ):
        code, out, err = run(capsys, *at, *wrong)
        assert (code, out) == (2, "") and words in err


def test_watch_prints_a_line_for_each_trial(
    client: Client, finished: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "--server", client.address, "watch", finished.study_id)
    assert code == 0
    lines = [line for line in out.splitlines() if line.startswith("trial ")]
    assert len([line for line in lines if not line.startswith("trial  ")]) == 5
    assert any(line.startswith("trial 2 failed: ValueError: units [must]") for line in lines)
    assert any(line.startswith("trial 4 succeeded score=0.4000 (best 0.4000") for line in lines)
    assert "what mattered: " in out or "best trials of" in out
    code, out, _ = run(capsys, "--server", client.address, "watch", finished.study_id, "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert {key for event in events for key in event} >= {"study", "trial"}


def test_logs_show_why_a_trial_failed(
    client: Client, finished: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "--server", client.address, "logs", f"{finished.study_id}/2")
    assert code == 0
    assert 'raise ValueError("units [must] be even")' in out
    assert "failed" in err and "user error" in err
    code, _, err = run(capsys, "--server", client.address, "logs", f"{finished.study_id}/99")
    assert code == 2
    assert err.startswith("error: ")


def test_failed_trials_run_again(
    client: Client, finished: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ("--server", client.address)
    code, out, _ = run(capsys, *at, "retry", finished.study_id, "--failed")
    assert (code, out) == (0, f"{finished.study_id}: due again: 2\n")
    assert finished.trial(2).state is TrialState.QUEUED


def test_studies_are_stopped_and_deleted(
    client: Client, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    client.create_study(name, SPACE, maximize="score")
    at = ("--server", client.address)
    for verb, state in (("pause", "paused"), ("resume", "active")):
        code, out, _ = run(capsys, *at, verb, name)
        assert (code, out.split(":")[0].strip()) == (0, f"{name} is {state}")
    code, out, _ = run(capsys, *at, "stop", name, "--reason", "enough")
    assert (code, out) == (0, f"{name} is stopped: enough\n")
    code, _, err = run(capsys, *at, "delete", name)
    assert (code, err) == (
        2,
        f"error: deleting {name} with 0 trials needs --yes; see `tuner delete --help`.\n",
    )
    assert run(capsys, *at, "delete", name, "--yes")[:2] == (0, f"{name} is deleted\n")
    assert run(capsys, *at, "stop", name)[0] == 2


# --- Keras -----------------------------------------------------------------------------------


def test_a_keras_model_reports_its_epochs_and_stops(client: Client, name: str) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    keras = pytest.importorskip("keras")
    import numpy as np

    study = client.create_study(name, SPACE, minimize="loss", trials=2, search="random")
    x = np.zeros((8, 1), dtype="float32")
    for trial in study:
        with trial:
            model = keras.Sequential([keras.layers.Dense(1)])
            model.compile(loss="mse")
            callback = trial.keras_callback()
            if trial.number == 0:
                model.fit(x, x, epochs=3, verbose=0, callbacks=[callback])
                continue
            study.stop("enough")
            history = model.fit(x, x, epochs=50, verbose=0, callbacks=[callback])
            assert len(history.epoch) == 1
    first = study.trial(0)
    assert [m.step for m in first.measurements] == [0, 1, 2]
    assert first.value == min(m.metrics["loss"] for m in first.measurements)
