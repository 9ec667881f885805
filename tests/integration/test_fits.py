"""Models fitted beside the server: what is slow, hangs or dies there holds up nothing else."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.integration.service_support import (
    Caller,
    NewTrial,
    Trial,
    new_trial,
    number_of,
    running,
    until,
)
from tests.integration.test_service_studies import Process
from tests.unit.engine_support import NOW
from tuner.engine import Fit, StudyEngine
from tuner.engine.fit import solve_here
from tuner.engine.gp import Problem, cube_of
from tuner.fits import FitError, Fits, wire
from tuner.fits.worker import solved
from tuner.space import Categorical, Float, Int, Space
from tuner.study import Goal, Measurement, Metric, Search, StudySpec, TrialState
from tuner.study import Trial as StudyTrial
from tuner.v1 import space_pb2, study_pb2
from tuner.v1 import study_service_pb2 as pb

GP = study_pb2.Search(algorithm="gp", early_stopping="none", seed=3)
#: So many results of a space of one parameter, and a model is fitted.
ENOUGH = 6


def fitters(parent: int) -> list[int]:
    """The processes that fit models for a server."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            status = (process / "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        if b"tuner.fits.worker" in words and int(status[1]) == parent and status[0] != "Z":
            found.append(int(process.name))
    return found


@pytest.fixture
def caller(tmp_path: Path, database_url: str) -> Iterator[Caller]:
    with running(tmp_path / "data", database_url, fit_seconds=15.0) as caller:
        warm_up(caller)
        yield caller


def warm_up(caller: Caller) -> None:
    """Waits until a process has started that fits models: on a busy machine that takes a while."""
    fill(caller, "warm")
    workers = map(str, itertools.count())
    until(lambda: not caller.one(next(workers), "warm").search_note, 90)


def fill(caller: Caller, study_id: str = "s", results: int = ENOUGH) -> None:
    """Creates a study that is about to fit a model."""
    caller.create(study_id, search=GP, trials=1000)
    past = [new_trial((i + 0.5) / results, auc=-abs(i / results - 0.4)) for i in range(results)]
    caller.add(*past, study_id=study_id)


@contextmanager
def beside(call: Callable[[], Trial]) -> Iterator[list[Trial]]:
    """Makes a call in a thread of its own; at the end it has been answered."""
    answers: list[Trial] = []
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    yield answers
    thread.join(40)
    assert answers


@contextmanager
def hung(parent: int) -> Iterator[Callable[[], list[int]]]:
    """The processes of a server stand still, until it is told that they go on."""
    pids = fitters(parent)
    assert pids

    def go_on() -> list[int]:
        left = sorted(set(pids) & set(fitters(parent)))
        for pid in left:
            os.kill(pid, signal.SIGCONT)
        return left

    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield go_on
    finally:
        go_on()


# --- a problem and its answer ---


def fit_of(results: int) -> Fit:
    space = Space.of(
        {"x": Float(0, 1), "n": Int(1, 8, log=True), "k": Categorical(("a", "b")), "c": Int(3, 3)}
    )
    metric = Metric(name="auc", goal=Goal.MAXIMIZE)
    search = Search(algorithm="gp", early_stopping="none", seed=-5)
    engine = StudyEngine("s", StudySpec(metrics=(metric,), space=space, search=search))
    for number in range(results):
        parameters = engine.suggest_quickly(number)
        assert parameters is not None
        engine.add(
            StudyTrial(
                study_id="s",
                number=number,
                state=TrialState.SUCCEEDED,
                parameters=parameters,
                final_measurement=Measurement(step=1, metrics={"auc": float(parameters["x"])}),
                create_time=NOW,
            )
        )
    fit = engine.fit(results)
    assert fit is not None
    return fit


def test_a_problem_travels_without_loss() -> None:
    problem = fit_of(12).problem
    there = wire.problem_from_bytes(wire.problem_to_bytes(problem))
    assert (there.cube, there.seed) == (problem.cube, problem.seed)
    for name in ("points", "losses", "progress", "violations", "pending", "failed"):
        sent, came = getattr(problem, name), getattr(there, name)
        assert sent.shape == came.shape and (sent == came).all(), name


def test_a_process_answers_as_the_engine_would() -> None:
    fit = fit_of(12)
    with Fits() as fits:
        assert fits.solve(fit, time.monotonic() + 60) == fit.solve(solve_here)


def test_what_goes_wrong_in_a_model_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(wire.SolverError, match="KeyError: 'axes'"):
        wire.answer_from_bytes(wire.answer_to_bytes(solved(b"{}\n")))
    assert "in problem_from_bytes" in capsys.readouterr().err


def test_there_are_never_more_processes_than_allowed() -> None:
    fit = fit_of(12)
    with Fits(most=1) as fits:
        fits.solve(fit, time.monotonic() + 60)
        with hung(os.getpid()):
            thread = threading.Thread(target=_expect_late, args=(fits, fit, 6))
            thread.start()
            until(lambda: not fits.idle)
            with pytest.raises(FitError, match="1 other models were being fitted"):
                fits.solve(fit, time.monotonic() + 0.2)
            thread.join(20)
        # The one that hung is gone, and another one does the work.
        assert fits.solve(fit, time.monotonic() + 60) == fit.solve(solve_here)
    assert not fitters(os.getpid())


def _expect_late(fits: Fits, fit: Fit, seconds: float) -> None:
    with pytest.raises(FitError, match="took too long"):
        fits.solve(fit, time.monotonic() + seconds)


# --- in the server ---


def test_a_fit_that_hangs_delays_no_report_and_no_other_study(caller: Caller) -> None:
    fill(caller)
    fill(caller, "other")
    trial = caller.one("ann")
    with hung(os.getpid()) as go_on, beside(lambda: caller.one("bob")) as answers:
        for step in range(30):
            caller.report(trial, step, auc=step / 100)
        assert caller.complete(trial).state == Trial.State.SUCCEEDED
        caller.report(caller.one("cyd", "other"))
        assert not answers
        assert go_on()
    assert not answers[0].search_note


def test_a_fit_that_hangs_for_long_is_given_up_and_the_trial_says_so(
    tmp_path: Path, database_url: str
) -> None:
    with running(tmp_path, database_url, fit_seconds=4.0) as caller:
        warm_up(caller)
        fill(caller)
        caller.one("ann")
        with hung(os.getpid()) as go_on:
            late = caller.one("bob")
            assert not go_on()
        assert late.search_note == "tpe, because the model took too long to fit"
        workers = map(str, itertools.count())
        until(lambda: not caller.one(next(workers)).search_note, 90)
        assert caller.trial(ENOUGH).search_note == ""
        assert caller.trial(ENOUGH + 1).search_note == late.search_note
    with running(tmp_path, database_url) as again:
        assert again.one("bob").search_note == late.search_note


def test_no_time_at_all_is_tpe(tmp_path: Path, database_url: str) -> None:
    with running(tmp_path, database_url, fit_seconds=0.0) as caller:
        fill(caller)
        assert caller.one().search_note.startswith("tpe, because ")


def test_a_process_that_is_killed_is_replaced(caller: Caller) -> None:
    fill(caller)
    caller.one("ann")
    for pid in fitters(os.getpid()):
        os.kill(pid, signal.SIGKILL)
    assert not caller.one("bob").search_note


def test_several_trials_at_once_know_of_each_other(caller: Caller) -> None:
    fill(caller)
    both = caller.suggest("ann", count=3).trials
    fill(caller, "other")
    single = [caller.one(worker, "other") for worker in ("ann", "bob", "cyd")]
    assert [t.parameters["x"].double_value for t in both] == [
        t.parameters["x"].double_value for t in single
    ]
    assert len({t.parameters["x"].double_value for t in both}) == 3


def test_an_exchange_knows_its_own_result(caller: Caller) -> None:
    """It proposes what a completion and a suggestion after it would."""
    fill(caller, results=3)
    fill(caller, "other", results=3)
    one, other = caller.one(), caller.one(study_id="other")
    for step in range(6):
        assert one.parameters == other.parameters
        auc = 1 - abs(one.parameters["x"].double_value - 0.7)
        caller.report(one, 1, auc=auc)
        caller.report(other, 1, auc=auc)
        request = pb.ExchangeTrialRequest(
            name=one.name, lease_token=one.lease.token, worker_id="ann", request_id=f"{step}"
        )
        one = caller.stub.ExchangeTrial(request, timeout=30).next.trials[0]
        again = caller.stub.ExchangeTrial(request, timeout=30)
        assert again.next.trials[0].name == one.name
        caller.complete(other)
        other = caller.one(study_id="other")


def test_many_workers_exhaust_a_finite_space_once(caller: Caller) -> None:
    """The limit is exact, and nothing is proposed twice, whoever fits meanwhile."""
    study = study_pb2.Study()
    for name in ("a", "b"):
        domain = study.space.parameters.add(name=name).int_domain
        domain.low, domain.high = 1, 5
    caller.create(space=study.space, search=GP, trials=1000)

    def work(worker: str) -> None:
        while (response := caller.suggest(worker)).study_state == study_pb2.Study.State.ACTIVE:
            for trial in response.trials:
                caller.complete(trial, auc=float(trial.parameters["a"].int_value))
            if not response.trials:
                time.sleep(0.01)

    threads = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    trials = caller.trials()
    points = {(t.parameters["a"].int_value, t.parameters["b"].int_value) for t in trials}
    assert len(trials) == len(points) == 25
    assert not any(t.search_note for t in trials)


def test_a_trial_that_came_due_meanwhile_goes_first(caller: Caller) -> None:
    fill(caller)
    caller.one("ann")
    with hung(os.getpid()) as go_on, beside(lambda: caller.one("bob")) as answers:
        # Long enough to be fitting; if it were not, the outcome is the same.
        time.sleep(0.3)
        given = NewTrial(parameters={"x": space_pb2.ParameterValue(double_value=0.5)})
        added = caller.add(given)
        assert go_on()
    assert added == [answers[0].name]
    assert number_of(caller.one("cyd")) == ENOUGH + 2


@pytest.mark.timeout(120)
def test_processes_end_with_a_server_that_is_killed(tmp_path: Path) -> None:
    server = Process(tmp_path / "data")
    with grpc.insecure_channel(server.said["address"]) as channel:
        caller = Caller(channel)
        fill(caller)
        caller.one("ann")
    pids = fitters(server.process.pid)
    assert len(pids) == 1
    server.end(signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pids[0]}").exists())


def test_a_process_ends_in_the_middle_of_a_fit() -> None:
    slow = _slow_problem()
    with Fits(most=1) as fits:
        fits.prepare()
        (pid,) = fits.idle
        process = fits._take()
        process.wait_ready(time.monotonic() + 60)
        started = _cpu_ticks(pid)
        process._line.send(wire.problem_to_bytes(slow))
        until(lambda: _cpu_ticks(pid) > started + 20)
        process._line.close()
        until(lambda: pid not in fitters(os.getpid()))
        process._process.wait(60)


def _cpu_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


def _slow_problem() -> Problem:
    """One that takes minutes: many axes, several objectives and constraints."""
    rng, axes = np.random.default_rng(0), 200
    return Problem(
        cube=cube_of(Space.of({f"x{i}": Float(0, 1) for i in range(axes)})),
        points=rng.random((400, axes)),
        losses=rng.random((400, 3)),
        progress=np.ones(400),
        violations=rng.random((400, 10)),
        pending=np.empty((0, axes)),
        failed=np.empty((0, axes)),
        seed=(0, 0, 0),
    )
