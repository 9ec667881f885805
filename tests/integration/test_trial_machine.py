"""Whatever workers and users do to a study, in any order: its trials become what the rules say.

The server's objects run in this process on a real PostgreSQL, under a clock of the test's own, and
are thrown away now and then, as by a restart. What is expected says `trial_model`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, cast

import grpc
import hypothesis.strategies as st
import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.integration.service_support import new_trial, number_of, request_id, study_of
from tests.integration.trial_model import ENDED, RETRIES, Measured, Rules, StudyModel, TrialModel
from tuner.engine import StudyEngine
from tuner.errors import TunerError
from tuner.fits import Fits
from tuner.service import live, record, studies
from tuner.service.board import Board
from tuner.service.fleet import Fleet
from tuner.service.live import LiveStudy
from tuner.service.servicer import StudyServicer
from tuner.service.studies import Studies
from tuner.study import Trial
from tuner.v1 import study_pb2, trial_pb2
from tuner.v1 import study_service_pb2 as pb
from tuner_storage import Database, Store

LEASE = timedelta(seconds=30)
CONTEXT = cast(grpc.ServicerContext, None)
VALUES = (0.3, 0.3, 0.5, 0.5, 0.7, 0.7, math.nan, math.inf, -math.inf)
_numbers = itertools.count()

workers = st.sampled_from(("ann", "bob", "cat"))
picks = st.integers(0, 99)
values = st.sampled_from(VALUES)


class Clock:
    """Time that passes when it is told to, and a little whenever somebody looks."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(microseconds=1)
        return self.now


class TrialMachine(RuleBasedStateMachine):
    """One study, two worlds: the server's and the model's."""

    store: ClassVar[Store]
    clock: ClassVar[Clock]
    folder: ClassVar[Path]
    steps: ClassVar[int] = 0

    @initialize(
        trials=st.integers(3, 14),
        parallel=st.one_of(st.none(), st.integers(2, 5)),
        failed_trials=st.one_of(st.none(), st.integers(1, 4)),
        no_improvement_trials=st.one_of(st.none(), st.integers(1, 5)),
        minimize=st.booleans(),
        last=st.booleans(),
        at_least=st.sampled_from((-math.inf, 0.4)),
        algorithm=st.sampled_from(("random", "random", "tpe")),
    )
    def create(
        self,
        trials: int,
        parallel: int | None,
        failed_trials: int | None,
        no_improvement_trials: int | None,
        minimize: bool,
        last: bool,
        at_least: float,
        algorithm: str,
    ) -> None:
        self.asked = Rules(
            sign=-1 if minimize else 1,
            at_least=at_least,
            last=last,
            trials=trials,
            parallel=parallel,
            failed_trials=failed_trials,
            no_improvement_trials=no_improvement_trials,
        )
        self.model = StudyModel(self.asked, LEASE, self.clock.now)
        self.study_id = f"s{next(_numbers)}"
        self.name = f"studies/{self.study_id}"
        self.answered: list[tuple[str, Message, Message]] = []
        #: The most trials that could have been proposed under any limit so far.
        self.allowed = trials
        self.fleet = Fleet(self.store, self.folder)
        self.store.enter_server(self.fleet.server, "here:1", timedelta(hours=1))
        self.fits = Fits()
        self.studies = self.old = Studies(self.store, self.fleet, LEASE, self.fits, 10.0)
        metric = study_pb2.Metric(
            name="auc", goal=study_pb2.Metric.Goal.Value("MINIMIZE" if minimize else "MAXIMIZE")
        )
        constraints = [study_pb2.Constraint(metric="auc", at_least=at_least)]
        selection = study_pb2.Study.LAST if last else study_pb2.Study.BEST
        study = study_of(
            metrics=[metric],
            constraints=constraints if math.isfinite(at_least) else [],
            measurement_selection=selection,
            search=study_pb2.Search(algorithm=algorithm, early_stopping="none"),
        )
        study.limits.CopyFrom(self._limits())
        self.call("CreateStudy", pb.CreateStudyRequest(study=study, study_id=self.study_id))
        self.suggest("ann", 2)

    def _limits(self) -> study_pb2.Limits:
        return study_pb2.Limits(
            trials=self.asked.trials,
            parallel=self.asked.parallel or 0,
            failed_trials=self.asked.failed_trials or 0,
            no_improvement_trials=self.asked.no_improvement_trials or 0,
        )

    def call(self, method: str, request: Any, expected: str | None = None) -> Any:
        """Calls the server and expects an error of a class, or none."""
        TrialMachine.steps += 1
        if hasattr(request, "request_id"):
            request.request_id = request_id()
        try:
            answer = getattr(StudyServicer(self.studies), method)(request, CONTEXT)
        except TunerError as error:
            assert type(error).__name__ == expected, (method, error)
            return None
        assert expected is None, f"{method} was not refused; expected {expected}"
        key = self.store.find_key(self.study_id)
        if key and self.store.find_answer(key, getattr(request, "request_id", ""), method):
            self.answered.append((method, request, answer))
        return answer

    # --- helpers ---

    def pick(self, pick: int, *states: str) -> TrialModel:
        """One of the trials in some states, or of all."""
        chosen = self.model.of(*states) if states else self.model.trials
        return chosen[pick % len(chosen)]

    def path(self, trial: TrialModel) -> str:
        return f"{self.name}/trials/{trial.number}"

    def live(self) -> LiveStudy:
        return self.studies.live(self.study_id)

    # --- workers ---

    def suggest(self, worker: str, count: int) -> None:
        request = pb.SuggestTrialsRequest(parent=self.name, worker_id=worker, count=count)
        answer: pb.SuggestTrialsResponse = self.call("SuggestTrials", request)
        self._check_suggested(answer, worker, count)

    def _check_suggested(self, answer: pb.SuggestTrialsResponse, worker: str, count: int) -> None:
        expected = self.model.suggest(worker, count or 1, self.clock.now)
        assert [number_of(t) for t in answer.trials] == [t.number for t in expected]
        state = study_pb2.Study.State.Name(answer.study_state)
        assert state == self.model.state
        waits = not expected and state in ("ACTIVE", "PAUSED")
        assert answer.HasField("wait") == waits
        for told, trial in zip(answer.trials, expected, strict=True):
            assert (told.attempt, told.lease.worker_id) == (trial.attempt, worker)
            if told.attempt > len(trial.tokens):
                assert told.lease.token not in trial.tokens
                trial.tokens.append(told.lease.token)
            assert told.lease.token == trial.tokens[-1]

    @rule(worker=workers, count=st.integers(0, 4))
    def ask(self, worker: str, count: int) -> None:
        self.suggest(worker, count)

    @precondition(lambda self: self.model.of("RUNNING"))
    @rule(
        pick=picks,
        reported=st.lists(values, max_size=3),
        again=st.booleans(),
        missing=st.integers(0, 9),
        save=st.booleans(),
    )
    def report(
        self, pick: int, reported: Sequence[float], again: bool, missing: int, save: bool
    ) -> None:
        """Some measurements, of which one may lack the metric or take another's place."""
        trial = self.pick(pick, "RUNNING")
        checkpoint = pick if save else None
        if not reported:
            self._report(trial, trial.tokens[-1], None, checkpoint)
        for index, value in enumerate(reported):
            known = list(trial.reported)
            step = known[pick % len(known)] if again and known else max(known, default=0) + 1
            if trial.state == "RUNNING":
                measured = (step, None if index == missing else value)
                self._report(trial, trial.tokens[-1], measured, checkpoint)

    def _report(
        self, trial: TrialModel, token: str, measured: Measured | None, checkpoint: int | None
    ) -> None:
        request = pb.ReportTrialRequest(name=self.path(trial), lease_token=token)
        if measured is not None:
            request.measurement.CopyFrom(_measurement(measured))
        if checkpoint is not None:
            request.checkpoint.uri, request.checkpoint.step = f"/a/{checkpoint}", checkpoint
        expected = self.model.report(trial, token, measured, checkpoint, self.clock.now)
        answer = self.call("ReportTrial", request, expected)
        if answer is not None:
            assert (answer.decision == pb.ReportTrialResponse.STOP) == trial.stop

    @precondition(lambda self: self.model.of("RUNNING"))
    @rule(pick=picks, value=st.one_of(st.none(), values), missing=st.integers(0, 9))
    def complete(self, pick: int, value: float | None, missing: int) -> None:
        final = None if value is None else (99, value if missing else None)
        trial = self.pick(pick, "RUNNING")
        self._complete(trial, trial.tokens[-1], final)

    @precondition(lambda self: self.model.of("RUNNING"))
    @rule(results=st.lists(values, min_size=1, max_size=4))
    def complete_several_from_the_last(self, results: Sequence[float]) -> None:
        running = reversed(self.model.of("RUNNING"))
        for trial, value in zip(running, results, strict=False):
            self._complete(trial, trial.tokens[-1], (99, value))

    def _complete(self, trial: TrialModel, token: str, final: Measured | None) -> None:
        request = pb.CompleteTrialRequest(name=self.path(trial), lease_token=token)
        if final is not None:
            request.final_measurement.CopyFrom(_measurement(final))
        self.call("CompleteTrial", request, self.model.complete(trial, token, final))

    @precondition(lambda self: any(trial.tokens for trial in self.model.trials))
    @rule(pick=picks, final=st.one_of(st.none(), values), worker=workers, late=st.booleans())
    def exchange(self, pick: int, final: float | None, worker: str, late: bool) -> None:
        """Ends a trial, perhaps one that is not held any more, and asks for the next one."""
        held = [t for t in self.model.trials if t.tokens and (late or t.state == "RUNNING")]
        if not held:
            return
        trial = held[pick % len(held)]
        token, measured = trial.tokens[-1], None if final is None else (99, final)
        request = pb.ExchangeTrialRequest(
            name=self.path(trial), lease_token=token, worker_id=worker
        )
        if measured is not None:
            request.final_measurement.CopyFrom(_measurement(measured))
        refused = self.model.complete(trial, token, measured)
        answer = self.call("ExchangeTrial", request, refused)
        if refused is None:
            assert trial_pb2.Trial.State.Name(answer.ended_state) == trial.state
            self._check_suggested(answer.next, worker, 1)

    @precondition(lambda self: self.model.of("RUNNING"))
    @rule(pick=picks, cause=st.sampled_from((*RETRIES, "USER_ERROR", "TIMED_OUT")))
    def fail(self, pick: int, cause: str) -> None:
        trial = self.pick(pick, "RUNNING")
        self._fail(trial, trial.tokens[-1], cause)

    @rule(worker=workers, cause=st.sampled_from(tuple(RETRIES)), times=st.integers(2, 12))
    def crash(self, worker: str, cause: str, times: int) -> None:
        """A worker that always fails."""
        for _ in range(times):
            self.suggest(worker, 1)
            for trial in self.model.of("RUNNING"):
                if trial.worker == worker:
                    self._fail(trial, trial.tokens[-1], cause)
                    break

    def _fail(self, trial: TrialModel, token: str, cause: str) -> None:
        request = pb.CompleteTrialRequest(
            name=self.path(trial),
            lease_token=token,
            failure=trial_pb2.Failure(cause=trial_pb2.Failure.Cause.Value(cause), message="why"),
        )
        self.call("CompleteTrial", request, self.model.fail(trial, token, cause))

    def _release(self, trial: TrialModel, token: str) -> None:
        request = pb.ReleaseTrialRequest(name=self.path(trial), lease_token=token)
        self.call("ReleaseTrial", request, self.model.fail(trial, token, "PREEMPTED"))

    @precondition(lambda self: self.model.of("RUNNING"))
    @rule(pick=picks)
    def release(self, pick: int) -> None:
        trial = self.pick(pick, "RUNNING")
        self._release(trial, trial.tokens[-1])

    @precondition(lambda self: any(trial.tokens for trial in self.model.trials))
    @rule(pick=picks, which=picks, word=st.sampled_from(("report", "complete", "fail", "release")))
    def say_with_any_token_there_ever_was(self, pick: int, which: int, word: str) -> None:
        held = [trial for trial in self.model.trials if trial.tokens]
        trial = held[pick % len(held)]
        token = trial.tokens[which % len(trial.tokens)]
        match word:
            case "report":
                self._report(trial, token, (1, 0.5), None)
            case "complete":
                self._complete(trial, token, (1, 0.5))
            case "fail":
                self._fail(trial, token, "USER_ERROR")
            case _:
                self._release(trial, token)

    # --- people ---

    @precondition(lambda self: self.model.of("QUEUED", "RUNNING"))
    @rule(pick=picks, any_state=st.booleans())
    def stop_trial(self, pick: int, any_state: bool) -> None:
        trial = self.pick(pick, *(() if any_state else ("QUEUED", "RUNNING")))
        self.model.stop_trial(trial)
        self.call("StopTrial", pb.StopTrialRequest(name=self.path(trial)))

    @precondition(lambda self: self.model.of("FAILED"))
    @rule(picked=st.lists(picks, max_size=2), any_state=st.integers(0, 4))
    def retry(self, picked: Sequence[int], any_state: int) -> None:
        states = () if any_state == 0 else ("FAILED",)
        trials = list({t.number: t for t in (self.pick(p, *states) for p in picked)}.values())
        request = pb.RetryTrialsRequest(parent=self.name, names=map(self.path, trials))
        self.call("RetryTrials", request, self.model.retry(trials))

    @rule(results=st.lists(st.one_of(st.none(), values), min_size=1, max_size=3))
    def add(self, results: Sequence[float | None]) -> None:
        first = len(self.model.trials)
        expected = self.model.add(results, self.clock.now)
        trials = [new_trial(0.5, result, number=str(n)) for n, result in enumerate(results)]
        request = pb.AddTrialsRequest(parent=self.name, trials=trials)
        answer = self.call("AddTrials", request, expected)
        if answer is not None:
            for n, name in enumerate(answer.names):
                self.model.trials[first + n].labels = {"number": str(n)}
                assert name == f"{self.name}/trials/{first + n}"

    @precondition(lambda self: self.model.trials)
    @rule(pick=picks)
    def label(self, pick: int) -> None:
        trial = self.pick(pick)
        trial.labels = {"pick": str(pick)}
        told = trial_pb2.Trial(name=self.path(trial), labels=trial.labels)
        request = pb.UpdateTrialRequest(trial=told)
        request.update_mask.paths.append("labels")
        self.call("UpdateTrial", request)

    @rule(
        trials=st.integers(1, 16),
        parallel=st.one_of(st.none(), st.integers(1, 4)),
        failed_trials=st.one_of(st.none(), st.integers(1, 6)),
        no_improvement_trials=st.one_of(st.none(), st.integers(1, 6)),
    )
    def limit(
        self,
        trials: int,
        parallel: int | None,
        failed_trials: int | None,
        no_improvement_trials: int | None,
    ) -> None:
        self.asked.trials, self.asked.parallel = trials, parallel
        self.asked.failed_trials = failed_trials
        self.asked.no_improvement_trials = no_improvement_trials
        self.allowed = max(self.allowed, trials)
        self.model.settle()
        request = pb.UpdateStudyRequest(study=study_pb2.Study(name=self.name))
        request.study.limits.CopyFrom(self._limits())
        request.update_mask.paths.append("limits")
        self.call("UpdateStudy", request)

    @rule(word=st.sampled_from(("pause", "pause", "resume", "stop")))
    def interfere(self, word: str) -> None:
        match word:
            case "pause":
                request = pb.PauseStudyRequest(name=self.name)
                self.call("PauseStudy", request, self.model.pause())
            case "stop":
                self.model.stop()
                self.call("StopStudy", pb.StopStudyRequest(name=self.name))
            case _:
                self._resume()

    @precondition(lambda self: self.model.state != "ACTIVE")
    @rule()
    def resume(self) -> None:
        self._resume()

    def _resume(self) -> None:
        self.call("ResumeStudy", pb.ResumeStudyRequest(name=self.name), self.model.resume())

    @precondition(lambda self: self.answered)
    @rule(pick=picks)
    def repeat(self, pick: int) -> None:
        """A request that was answered gets the same answer, and changes nothing."""
        method, request, answer = self.answered[pick % len(self.answered)]
        assert getattr(StudyServicer(self.studies), method)(request, CONTEXT) == answer

    # --- time and servers ---

    @rule(times=st.integers(1, 5))
    def wait(self, times: int) -> None:
        """Often enough, as the server looks after its leases."""
        for _ in range(times):
            self._pass(timedelta(seconds=7))

    @rule()
    def sleep(self) -> None:
        """As a laptop does: longer than a lease, and the workers slept, too."""
        self._pass(LEASE + timedelta(seconds=11))

    def _pass(self, time: timedelta) -> None:
        self.clock.now += time
        self.model.tick(self.clock.now)
        self.studies.tick()

    @rule(all_of_it=st.booleans())
    def restart(self, all_of_it: bool) -> None:
        """What was only in memory is gone: with its server, or as after a commit that failed."""
        if all_of_it:
            self.old = self.studies
            self.studies = Studies(self.store, self.fleet, LEASE, self.fits, 10.0)
        else:
            self.live().record.close()
        self.live()
        self.model.taken_over(self.clock.now)

    @precondition(lambda self: self.old is not self.studies)
    @rule(pick=picks)
    def return_to_the_server_before(self, pick: int) -> None:
        """One that was believed dead, and believes its memory: the first write tells it."""
        self.old, self.studies = self.studies, self.old
        request = pb.UpdateStudyRequest(
            study=study_pb2.Study(name=self.name, labels={"pick": str(pick)})
        )
        request.update_mask.paths.append("labels")
        self.call("UpdateStudy", request)
        self.model.taken_over(self.clock.now)
        self.model.settle()

    # --- what must always hold ---

    @invariant()
    def the_server_says_what_the_model_says(self) -> None:
        study: study_pb2.Study = StudyServicer(self.studies).GetStudy(
            pb.GetStudyRequest(name=self.name), CONTEXT
        )
        listed: list[trial_pb2.Trial] = list(
            StudyServicer(self.studies)
            .ListTrials(pb.ListTrialsRequest(parent=self.name, view=pb.FULL), CONTEXT)
            .trials
        )
        assert study_pb2.Study.State.Name(study.state) == self.model.state
        assert [number_of(t) for t in listed] == list(range(len(self.model.trials)))
        for told, trial in zip(listed, self.model.trials, strict=True):
            self._compare(told, trial)
        best = self.model.best
        assert study.best_trial == ("" if best is None else f"{self.name}/trials/{best}")
        counts = {name: len(self.model.of(name)) for name in ("QUEUED", "RUNNING", *ENDED)}
        for name, count in counts.items():
            assert getattr(study.trial_counts, name.lower()) == count, name
        assert study.trial_counts.past == self.model.past
        assert len(listed) - self.model.past <= self.allowed

    def _compare(self, told: trial_pb2.Trial, trial: TrialModel) -> None:
        where = f"trial {trial.number}"
        assert trial_pb2.Trial.State.Name(told.state) == trial.state, where
        assert trial_pb2.Trial.Origin.Name(told.origin) == trial.origin, where
        assert told.attempt == trial.attempt == len(told.attempts), where
        assert [a.number for a in told.attempts] == list(range(1, trial.attempt + 1)), where
        causes = [a.failure.cause for a in told.attempts if a.HasField("failure")]
        assert [trial_pb2.Failure.Cause.Name(c) for c in causes] == trial.causes, where
        assert told.HasField("lease") == (trial.state == "RUNNING"), where
        if trial.state == "RUNNING":
            assert (told.lease.worker_id, told.lease.token) == (trial.worker, trial.tokens[-1])
        assert told.stop_requested == trial.stop, where
        assert dict(told.labels) == trial.labels, where
        assert told.HasField("end_time") == (trial.state in ENDED), where
        assert told.HasField("checkpoint") == (trial.checkpoint is not None), where
        assert told.checkpoint.step == (trial.checkpoint or 0), where
        assert told.HasField("final_measurement") == (trial.result is not None), where
        assert told.HasField("within_constraints") == (trial.result is not None), where
        if trial.result is not None:
            step, value = trial.result
            found = told.final_measurement.metrics["auc"]
            assert (told.final_measurement.step, str(found)) == (step, str(value)), where
            assert told.within_constraints == (
                value is not None
                and (self.asked.within(value) if self.asked.at_least > -math.inf else True)
            ), where
        if trial.state == "RUNNING":
            assert [m.step for m in told.measurements] == sorted(trial.reported), where

    @invariant()
    def memory_is_what_the_database_holds(self) -> None:
        found, stored = self.live(), self.store.find_study(self.study_id)
        assert stored is not None
        loaded = self.store.load_trials(stored)
        assert list(map(_settled, found.record.board)) == list(map(_settled, loaded.trials))
        summary = found.record.summary()
        # The row says which algorithm it was when the row was last written.
        written = stored.study.algorithm_in_use
        assert written
        assert replace(summary, algorithm_in_use=written) == stored.study
        rebuilt = Board(stored.study.spec, loaded.trials)
        assert (found.record.board.since_best, found.record.board.best) == (
            rebuilt.since_best,
            rebuilt.best,
        )
        assert found.record.board.since_best == len(self.model.since_best)
        engine = StudyEngine(self.study_id, stored.study.spec, loaded.trials)
        number = len(loaded.trials)
        assert found.record.engine.suggest(number) == engine.suggest(number)

    def teardown(self) -> None:
        self.studies.close()
        self.old.close()
        self.fits.close()


def _measurement(measured: Measured) -> trial_pb2.Measurement:
    step, value = measured
    metrics = {"other": 1.0} if value is None else {"auc": value}
    return trial_pb2.Measurement(step=step, metrics=metrics)


def _settled(trial: Trial) -> str:
    """A trial without what differs: measurements are the engine's, and who starts gives time.

    As text, in which NaN equals NaN.
    """
    lease = trial.lease and replace(trial.lease, expire_time=trial.create_time)
    return repr(replace(trial, measurements=(), lease=lease))


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with Database(database_url, connections=4) as database:
        yield Store(database)


@pytest.mark.timeout(600)  # a failure is made smaller before it is shown
def test_trials_become_what_the_rules_say(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TrialMachine.store, TrialMachine.clock, TrialMachine.folder = store, Clock(), tmp_path
    TrialMachine.steps = 0
    for module in (record, live, studies):
        monkeypatch.setattr(module, "utc_now", TrialMachine.clock)
    run_state_machine_as_test(
        TrialMachine,
        settings=settings(
            max_examples=25,
            stateful_step_count=80,
            deadline=None,
            derandomize=True,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert TrialMachine.steps > 1000
    print(f"{TrialMachine.steps} calls")
