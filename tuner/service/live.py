"""A study's trials while they are worked on: leases, reports, results."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from google.protobuf.message import Message

from tuner.errors import LeaseLostError, NotFoundError, UnavailableError
from tuner.service import outcome
from tuner.service.events import Reported
from tuner.service.exchange import Asking, Directive, Result, Suggested, Wait
from tuner.service.record import Record, utc_now
from tuner.service.reply import Reply, silent
from tuner.study import (
    Cause,
    Decision,
    Failure,
    Lease,
    Measurement,
    StudyState,
    Trial,
    TrialState,
)
from tuner_storage import RepeatedRequestError

M = TypeVar("M", bound=Message)

_TURN_SECONDS = 60.0
_SOON = timedelta(seconds=0.3)
_LATER = timedelta(seconds=1)


class LiveStudy:
    """A study that is being worked on. Thread-safe.

    Proposals are decided and committed one after the other under the record's lock, which makes
    the limits exact. Reports and results are decided under the lock and committed outside it, side
    by side; the verbs on one trial take turns.

    Args:
        record: The study.
        lease: How long a silent worker keeps a trial.
        causes: Why earlier attempts of trials ended.
    """

    def __init__(
        self, record: Record, lease: timedelta, causes: Mapping[int, Sequence[Cause]]
    ) -> None:
        self.record = record
        self.last_use = utc_now()
        self._lease = lease
        self._causes = {number: list(listed) for number, listed in causes.items()}
        self._reported: dict[int, dict[int, Measurement]] = {}
        self._busy: set[int] = set()
        self._ending: set[int] = set()
        self._turns = threading.Condition(record.lock)
        self._take_over()

    def _take_over(self) -> None:
        """Gives workers that outlived a server the time to be heard."""
        earliest = self.last_use + self._lease / 2
        for trial in self.record.board.of(TrialState.RUNNING):
            self._reported[trial.number] = {m.step: m for m in trial.measurements}
            held = trial.lease or Lease(worker_id="", expire_time=earliest)
            until = max(held.expire_time, earliest)
            lease = replace(held, expire_time=until)
            self.record.board.put(replace(trial, measurements=(), lease=lease))

    @property
    def is_at_rest(self) -> bool:
        """Whether the study has ended and no worker holds a trial of it."""
        ended = self.record.study.state.is_finished
        return ended and self.record.board.count(TrialState.RUNNING) == 0

    def is_over(self, number: int) -> bool:
        """Whether nothing more is to come from a trial; raises NotFoundError."""
        with self.record.lock:
            trial = self._known(number)
            if trial.state is TrialState.QUEUED:
                return self.record.study.state.is_finished
            return trial.state.is_finished

    # --- leasing ---

    def suggest(self, asking: Asking, reply: Reply[Suggested, M]) -> M:
        """Leases to a worker its open trials, then those due again, then new ones."""
        with self.record.open() as now:
            self.last_use = now
            self.record.settle(now)
            if self.record.study.state.is_finished:
                kept = self.record.kept(reply)
                return kept or reply.build(Suggested(state=self.record.study.state))
            held = self._held_by(asking)
            missing = min(asking.count - len(held), self._room())
            with self.record.changing():
                due, proposed = self._choose(asking, missing, now)
            if due or proposed:
                return self._lease_out(asking, held, due, proposed, reply)
            return self.record.kept(reply) or reply.build(self._without_new(held, now))

    def _held_by(self, asking: Asking) -> list[Trial]:
        return [
            trial
            for trial in self.record.board.of(TrialState.RUNNING)
            if trial.lease is not None
            and trial.lease.worker_id == asking.worker_id
            and trial.number not in self._ending
        ][: asking.count]

    def _room(self) -> int:
        """How many more trials may run."""
        if self.record.study.state is not StudyState.ACTIVE:
            return 0
        spec = self.record.study.spec
        parallel = spec.limits.parallel or (1 if spec.is_managed else None)
        if parallel is None:
            return spec.limits.trials
        return max(0, parallel - self.record.board.count(TrialState.RUNNING))

    def _choose(
        self, asking: Asking, count: int, now: datetime
    ) -> tuple[list[Trial], list[Trial]]:
        """Trials that are due again, and new ones, as they are once leased."""
        if count <= 0:
            return [], []
        lease = Lease(worker_id=asking.worker_id, expire_time=now + self._lease)
        due = [
            replace(
                trial,
                state=TrialState.RUNNING,
                attempt=trial.attempt + 1,
                lease=lease,
                final_measurement=None,
                state_reason="",
                start_time=now,
            )
            for trial in self.record.board.of(TrialState.QUEUED)[:count]
        ]
        return due, self._propose(lease, count - len(due), now)

    def _propose(self, lease: Lease, count: int, now: datetime) -> list[Trial]:
        """New trials, already known to the engine so that the next one differs."""
        study, proposed = self.record.study, list[Trial]()
        if count <= 0 or self.record.reached(now):
            return proposed
        first = self.record.board.total
        for number in range(first, min(first + count, study.spec.limits.trials)):
            parameters = self.record.engine.suggest(number)
            if parameters is None:
                self.record.exhausted = True
                break
            trial = Trial(
                study_id=study.study_id,
                number=number,
                state=TrialState.RUNNING,
                parameters=parameters,
                space_version=study.space_version,
                attempt=1,
                lease=lease,
                create_time=now,
                start_time=now,
            )
            self.record.engine.add(trial)
            proposed.append(trial)
        return proposed

    def _lease_out(
        self,
        asking: Asking,
        held: list[Trial],
        due: list[Trial],
        proposed: list[Trial],
        reply: Reply[Suggested, M],
    ) -> M:
        leased = (*due, *proposed)
        now = leased[0].start_time or utc_now()
        state = self.record.study.state
        with self.record.changing():
            renewed = self._renew(held, now)
            message = reply.build(Suggested(state=state, trials=(*renewed, *leased)))
            try:
                self.record.store.lease_trials(
                    self.record.key,
                    due=due,
                    proposed=proposed,
                    host=asking.host,
                    answer=reply.keep(message),
                )
            except RepeatedRequestError:
                # The engine took the proposals in: the study has to be loaded again.
                self.record.close()
                return self.record.kept(reply) or message
            for trial in due:
                self.record.engine.restart(trial.number)
            for trial in leased:
                self._reported[trial.number] = {}
                self.record.board.put(trial)
                self.record.events.publish(trial, now)
        return message

    def _renew(self, held: list[Trial], now: datetime) -> list[Trial]:
        if not held:
            return []
        expire_time = now + self._lease
        renewed = [
            replace(trial, lease=replace(trial.lease, expire_time=expire_time))
            for trial in held
            if trial.lease is not None
        ]
        self.record.store.renew_leases(self.record.key, renewed, expire_time)
        for trial in renewed:
            self.record.board.put(trial)
        return renewed

    def _without_new(self, held: list[Trial], now: datetime) -> Suggested:
        """What a worker is told that gets no other trial than those it holds."""
        if held:
            with self.record.changing():
                renewed = self._renew(held, now)
            return Suggested(state=self.record.study.state, trials=tuple(renewed))
        self.record.settle(now)
        state = self.record.study.state
        return Suggested(state=state, wait=None if state.is_finished else self._wait(now))

    def _wait(self, now: datetime) -> Wait:
        match self.record.study.state:
            case StudyState.PREPARING:
                return Wait(reason="the data is being read", retry_after=_LATER)
            case StudyState.PAUSED:
                return Wait(reason="the study is paused", retry_after=_LATER)
        running = self.record.board.count(TrialState.RUNNING)
        reached = self.record.reached(now)
        if reached is not None and reached.gives_up:
            reason = f"{reached.reason}; {running} trials still run"
        elif self._room() == 0:
            reason = f"{running} trials run, as many as may run at once"
        else:
            reason = f"every trial is out; {running} still run"
        return Wait(reason=reason, retry_after=_SOON)

    # --- reporting ---

    def report(self, number: int, attempt: int, measurement: Measurement | None) -> Directive:
        """Takes a measurement or a heartbeat, and says whether to go on.

        Raises:
            LeaseLostError: the attempt is over.
            InvalidArgumentError: the study's metric was never reported.
        """
        with self._turn(number):
            with self.record.open() as now:
                trial = self._leased(number, attempt)
                self._check(number, measurement)
                with self.record.changing():
                    trial, news = self._take(trial, measurement, now)
            with self.record.changing():
                self.record.store.report(
                    self.record.key,
                    trial,
                    measurement=measurement,
                    stop_reason=news,
                    metric=self.record.study.spec.metric,
                    now=now,
                )
        if measurement is not None:
            self.record.events.publish(Reported(trial=trial.name, measurement=measurement), now)
        return Directive(
            decision=Decision.STOP if trial.stop_requested else Decision.CONTINUE,
            reason=trial.state_reason if trial.stop_requested else "",
            expire_time=now + self._lease,
        )

    def _check(self, number: int, measurement: Measurement | None) -> None:
        metric = self.record.study.spec.metric
        earlier = self._reported.get(number, {}).values()
        if measurement is not None and not any(metric.name in m.metrics for m in earlier):
            outcome.check_metric(metric, measurement)

    def _take(
        self, trial: Trial, measurement: Measurement | None, now: datetime
    ) -> tuple[Trial, str | None]:
        """The trial with the report taken in, and why to stop it if that is new."""
        verdict = None
        metric = self.record.study.spec.metric
        if measurement is not None:
            reported = self._reported.setdefault(trial.number, {})
            reported[measurement.step] = measurement
            measured = (m for m in reported.values() if metric.name in m.metrics)
            trial = replace(trial, final_measurement=outcome.best_of(metric, measured))
            verdict = self.record.engine.report(trial.number, measurement)
        if self.record.study.state is StudyState.STOPPED:
            verdict = f"the study was stopped: {self.record.study.state_reason}"
        news = None if trial.stop_requested else verdict
        if news is not None:
            trial = replace(trial, stop_requested=True, state_reason=news)
        if trial.lease is not None:
            lease = replace(trial.lease, expire_time=now + self._lease)
            trial = replace(trial, lease=lease)
        self.record.board.put(trial)
        return trial, news

    # --- ending ---

    def complete(self, number: int, attempt: int, result: Result, reply: Reply[Trial, M]) -> M:
        """Ends an attempt with a result or a failure.

        Raises:
            LeaseLostError: the attempt is over, and not by this request.
            InvalidArgumentError: there is no result.
        """
        return self._end(number, attempt, result, reply)

    def release(self, number: int, attempt: int, reason: str, reply: Reply[Trial, M]) -> M:
        """Gives a trial back: it is due again. Raises LeaseLostError as `complete` does."""
        reason = reason or "given back by its worker"
        failure = Failure(cause=Cause.PREEMPTED, message=reason)
        return self._end(number, attempt, Result(failure=failure), reply)

    def _end(
        self,
        number: int,
        attempt: int,
        result: Result,
        reply: Reply[Trial, M],
        expired_by: datetime | None = None,
    ) -> M:
        with self._turn(number, ending=True):
            try:
                with self.record.open() as now:
                    trial = self._leased(number, attempt)
                    if expired_by and trial.lease and trial.lease.expire_time > expired_by:
                        raise LeaseLostError("the lease was renewed.")
                    ended = self._after(trial, result, now)
                message = reply.build(ended)
                with self.record.changing():
                    self.record.store.end_attempt(
                        self.record.key,
                        ended,
                        failure=result.failure,
                        metric=self.record.study.spec.metric,
                        now=now,
                        expired_by=expired_by,
                        answer=reply.keep(message),
                    )
                    with self.record.lock:
                        self._ended(trial, ended, result.failure, now)
            except (LeaseLostError, RepeatedRequestError):
                kept = self.record.kept(reply)
                if kept is None:
                    raise
                return kept
        return message

    def _after(self, trial: Trial, result: Result, now: datetime) -> Trial:
        trial = replace(trial, artifact_uri=result.artifact_uri or trial.artifact_uri)
        if result.failure is not None:
            earlier = self._causes.get(trial.number, ())
            return outcome.failed(trial, result.failure, earlier, now)
        return outcome.succeeded(trial, result.final, self.record.study.spec.metric, now)

    def _ended(self, before: Trial, after: Trial, failure: Failure | None, now: datetime) -> None:
        """Takes over what was committed. The caller holds the lock."""
        record, number = self.record, after.number
        record.attempt_time += now - (before.start_time or now)
        if failure is not None:
            self._causes.setdefault(number, []).append(failure.cause)
        reported = self._reported.pop(number, {})
        record.board.put(after)
        if after.state.is_finished:
            measurements = tuple(reported[step] for step in sorted(reported))
            record.engine.finish(replace(after, measurements=measurements))
        record.events.publish(after, now)
        record.publish_study(now)
        record.settle(now)

    def stop(self, number: int) -> Trial:
        """Asks a trial to stop; one that waits for another attempt ends at once."""
        reason = "a user asked it to stop"
        with self._turn(number), self.record.open() as now:
            trial = self._known(number)
            if trial.state is TrialState.QUEUED:
                self.record.give_up([trial], reason, now)
                self.record.settle(now)
            elif trial.state is TrialState.RUNNING and not trial.stop_requested:
                trial = replace(trial, stop_requested=True, state_reason=reason)
                with self.record.changing():
                    self.record.store.request_stop(self.record.key, trial)
                self.record.board.put(trial)
                self.record.events.publish(trial, now)
            return self.record.board[number]

    def tick(self) -> None:
        """Takes trials from silent workers, and ends the study if its time is over."""
        with self.record.open() as now:
            silent = [
                trial
                for trial in self.record.board.of(TrialState.RUNNING)
                if trial.lease is not None and trial.lease.expire_time <= now
            ]
        for trial in silent:
            self._lose(trial, now)
        with self.record.open() as now:
            self.record.settle(now)

    def _lose(self, trial: Trial, now: datetime) -> None:
        worker = trial.lease.worker_id if trial.lease else ""
        message = f"worker {worker!r} was silent for {self._lease.total_seconds():g} s"
        failure = Failure(cause=Cause.LOST, message=message)
        try:
            self._end(
                trial.number, trial.attempt, Result(failure=failure), silent(), expired_by=now
            )
        except LeaseLostError:
            return

    # --- turns ---

    @contextmanager
    def _turn(self, number: int, *, ending: bool = False) -> Iterator[None]:
        """Waits until no other verb is under way on the trial."""
        with self._turns:
            if not self._turns.wait_for(lambda: number not in self._busy, _TURN_SECONDS):
                raise UnavailableError(f"trial {number} is busy; try again.")
            self.last_use = utc_now()
            self._busy.add(number)
            if ending:
                self._ending.add(number)
        try:
            yield
        finally:
            with self._turns:
                self._busy.discard(number)
                self._ending.discard(number)
                self._turns.notify_all()

    def _known(self, number: int) -> Trial:
        if number not in self.record.board:
            study_id = self.record.study.study_id
            raise NotFoundError(f"study {study_id!r} has no trial {number}.")
        return self.record.board[number]

    def _leased(self, number: int, attempt: int) -> Trial:
        trial = self._known(number)
        if trial.state is not TrialState.RUNNING or trial.attempt != attempt:
            raise LeaseLostError(
                f"attempt {attempt} of trial {number} is over (the trial is {trial.state.value}, "
                f"attempt {trial.attempt}); drop it."
            )
        return trial
