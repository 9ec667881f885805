"""A study's trials while they are worked on: leases, reports, results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from google.protobuf.message import Message

from tuner.engine.pareto import optimal_numbers
from tuner.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    LeaseLostError,
    NotFoundError,
    TunerError,
)
from tuner.service import outcome, validate
from tuner.service.events import Reported
from tuner.service.exchange import (
    Asking,
    Directive,
    Exchanged,
    NewTrial,
    Report,
    Result,
    Suggested,
    Wait,
)
from tuner.service.proposals import Proposals, Proposer
from tuner.service.record import Postponed, Record, utc_now
from tuner.service.reply import Reply, silent
from tuner.study import (
    Cause,
    Decision,
    Failure,
    Lease,
    Measurement,
    Origin,
    StudyState,
    Trial,
    TrialState,
    lease_token,
    parse_lease_token,
)
from tuner_storage import writes

R = TypeVar("R")
M = TypeVar("M", bound=Message)

#: A trial with all that it measured has to fit into one message, of 16 MiB.
_MOST_MEASUREMENTS, _MOST_BYTES = 100_000, 12 * 2**20
_SOON = timedelta(seconds=0.3)
_LATER = timedelta(seconds=1)


class LiveStudy:
    """A study that is being worked on. Thread-safe.

    Every method is one verb of the record's: decided under its lock, which makes the limits
    exact, and answered once it is on disk. What takes long is done before, without the lock: the
    fit of a model that new trials are proposed by.

    Args:
        record: The study.
        lease: How long a silent worker keeps a trial.
        causes: Why earlier attempts of trials ended.
        furthest: The highest steps that earlier attempts measured.
        proposer: Fits models.
    """

    def __init__(
        self,
        record: Record,
        lease: timedelta,
        causes: Mapping[int, Sequence[Cause]],
        furthest: Mapping[int, int],
        proposer: Proposer,
    ) -> None:
        self.record = record
        self.last_use = utc_now()
        self._lease = lease
        self._proposer = proposer
        self._causes = {number: list(listed) for number, listed in causes.items()}
        self._furthest = dict(furthest)
        #: The running trials whose present attempts have kept a checkpoint.
        self._kept: set[int] = set()
        self._reported: dict[int, dict[int, Measurement]] = {}
        #: How much of a message each of them takes.
        self._sizes: dict[int, int] = {}
        self._ticked = self.last_use
        self._take_over()

    def _take_over(self) -> None:
        """Goes on where another server, or an earlier life of this one, left off."""
        if self._may_fit and self.record.engine.fits_soon:
            self._proposer.fits.prepare()
        for trial in self.record.board.of(TrialState.RUNNING):
            self._reported[trial.number] = {m.step: m for m in trial.measurements}
            self._sizes[trial.number] = sum(map(size_of, trial.measurements))
            if trial.checkpoint is not None:  # perhaps an earlier attempt's
                self._kept.add(trial.number)
            self.record.board.put(replace(trial, measurements=()))
        self._forgive(self.last_use)

    def _forgive(self, now: datetime) -> None:
        """Gives workers that outlived a server the time to be heard."""
        earliest = now + self._lease / 2
        for trial in self.record.board.of(TrialState.RUNNING):
            if trial.lease is not None and trial.lease.expire_time < earliest:
                lease = replace(trial.lease, expire_time=earliest)
                self.record.board.put(replace(trial, lease=lease))

    @property
    def is_at_rest(self) -> bool:
        """Whether the study has ended and no worker holds a trial of it."""
        ended = self.record.study.state.is_finished
        return ended and self.record.board.count(TrialState.RUNNING) == 0

    def has_ended(self) -> bool:
        """Whether it is at rest and watchers have been told of all that led there."""
        return self.is_at_rest and self.record.read(lambda now: self.is_at_rest)

    def optimal(self) -> list[int]:
        """The numbers of the trials that no other one beats in every metric."""
        return optimal_numbers(self.record.study.spec, self.record.board)

    def is_over(self, number: int) -> bool:
        """Whether nothing more is to come from a trial; raises NotFoundError."""
        trial = self._known(number)
        if trial.state is TrialState.QUEUED:
            return self.record.study.state.is_finished
        return trial.state.is_finished

    # --- leasing ---

    def suggest(self, asking: Asking, reply: Reply[Suggested, M]) -> M:
        """Leases to a worker its open trials, then those that are due, then new ones."""

        def verb(now: datetime, proposals: Proposals) -> Suggested:
            if self._may_fit:
                self._demand(asking, now, proposals)
            self.record.settle(now)
            return self._suggest_settled(asking, now, proposals)

        return self._run_proposing(reply, verb)

    def _run_proposing(self, reply: Reply[R, M], verb: Callable[[datetime, Proposals], R]) -> M:
        """Runs a verb that may propose trials, as soon as the models that it takes are fitted.

        One caller at a time fits, so that each sees the trials of the others; others wait with a
        deadline.
        """
        with self._proposer.proposals() as proposals:
            while True:
                try:
                    decided = self.record.decide(reply, lambda now: verb(now, proposals))
                    break
                except Postponed:
                    proposals.find()
        return self.record.answer(reply, decided)

    def _demand(
        self, asking: Asking, now: datetime, proposals: Proposals, ended: Trial | None = None
    ) -> None:
        """Raises Postponed if a model is to be fitted before trials can be leased.

        Args:
            ended: A trial whose attempt is going to have ended by then, as it is to be.
        """
        engine, points = self.record.engine, proposals.points
        supposing: AbstractContextManager[None] = nullcontext()
        if ended is not None and ended.state.is_finished:
            supposing = engine.supposing(self._with_reported(ended))
        with supposing:
            if engine.fits_soon:
                proposals.expect()
            if engine.takes_fit and len(points) < self._missing(asking, now, ended):
                number = self.record.board.total + len(points)
                proposals.demand(lambda: engine.fit(number, points))

    @property
    def _may_fit(self) -> bool:
        """Whether models are fitted at all."""
        return self.record.study.state is StudyState.ACTIVE and self.record.engine.fits

    def _missing(self, asking: Asking, now: datetime, ended: Trial | None) -> int:
        """How many trials are to be proposed; not fewer than will be."""
        record, gone = self.record, 0 if ended is None else 1
        if record.reached(now) is not None:
            return 0
        held = record.board.held_by(asking.worker_id)
        held = [trial for trial in held if ended is None or trial.number != ended.number]
        due = record.board.count(TrialState.QUEUED)
        due += ended is not None and ended.state is TrialState.QUEUED
        left = record.board.past + record.study.spec.limits.trials - record.board.total
        return min(asking.count - len(held) - due, self._room() + gone - due, left)

    def _suggest_settled(self, asking: Asking, now: datetime, proposals: Proposals) -> Suggested:
        """The same for a study that has just been looked at, whether it is to end."""
        record, self.last_use = self.record, now
        if record.study.state.is_finished:
            return Suggested(state=record.study.state)
        held = record.board.held_by(asking.worker_id)[: asking.count]
        missing = min(asking.count - len(held), self._room())
        leased = self._lease_out(asking, missing, now, proposals)
        held = self._renew(held, now)
        if held or leased:
            return Suggested(state=record.study.state, trials=(*held, *leased))
        record.settle(now)
        state = record.study.state
        return Suggested(state=state, wait=None if state.is_finished else self._wait(now))

    def _room(self) -> int:
        """How many more trials may run."""
        if self.record.study.state is not StudyState.ACTIVE:
            return 0
        spec = self.record.study.spec
        parallel = spec.limits.parallel or (1 if spec.is_managed else None)
        if parallel is None:
            return sys.maxsize
        return max(0, parallel - self.record.board.count(TrialState.RUNNING))

    def _lease_out(
        self, asking: Asking, count: int, now: datetime, proposals: Proposals
    ) -> list[Trial]:
        """Trials that are due, and new ones, once they are leased."""
        if count <= 0:
            return []
        due = [
            replace(
                outcome.with_result(self.record.study.spec, trial, None),
                state=TrialState.RUNNING,
                attempt=trial.attempt + 1,
                lease=self._leased_to(asking, trial.number, trial.attempt + 1, now),
                state_reason="",
                start_time=now,
            )
            for trial in self.record.board.of(TrialState.QUEUED)[:count]
        ]
        proposed = self._propose(asking, count - len(due), now, proposals)
        if not due and not proposed:
            return []
        self.record.write(*writes.lease_trials(due=due, proposed=proposed, host=asking.host))
        for trial in due:
            self.record.engine.restart(trial.number)
        for trial in (*due, *proposed):
            self._reported[trial.number], self._sizes[trial.number] = {}, 0
            self.record.board.put(trial)
            self.record.tell(trial)
        self.record.meter.suggested(len(due) + len(proposed))
        return [*due, *proposed]

    def _leased_to(self, asking: Asking, number: int, attempt: int, now: datetime) -> Lease:
        return Lease(
            worker_id=asking.worker_id,
            expire_time=now + self._lease,
            token=lease_token(self.record.key, number, attempt),
        )

    def _propose(
        self, asking: Asking, count: int, now: datetime, proposals: Proposals
    ) -> list[Trial]:
        """New trials, already known to the engine so that the next one differs."""
        record, proposed = self.record, list[Trial]()
        if count <= 0 or record.reached(now):
            return proposed
        first, study = record.board.total, record.study
        for number in range(
            first, min(first + count, record.board.past + study.spec.limits.trials)
        ):
            fitted, note = proposals.take(), proposals.note
            if fitted is not None:
                parameters, note = record.engine.accept(fitted), ""
            else:
                parameters = record.engine.suggest_quickly(number)
            if parameters is None:
                record.exhausted = True
                break
            trial = Trial(
                study_id=study.study_id,
                number=number,
                state=TrialState.RUNNING,
                parameters=parameters,
                space_version=study.space_version,
                attempt=1,
                lease=self._leased_to(asking, number, 1, now),
                search_note=note,
                create_time=now,
                start_time=now,
            )
            record.engine.add(trial)
            proposed.append(trial)
        return proposed

    def _renew(self, held: Sequence[Trial], now: datetime) -> list[Trial]:
        if not held:
            return []
        renewed = [self._renewed(trial, now) for trial in held]
        self.record.write(*writes.renew_leases(renewed, now + self._lease))
        for trial in renewed:
            self.record.board.put(trial)
        return renewed

    def _renewed(self, trial: Trial, now: datetime) -> Trial:
        if trial.lease is None:
            return trial
        return replace(trial, lease=replace(trial.lease, expire_time=now + self._lease))

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

    def report(self, number: int, token: str, report: Report, reply: Reply[Directive, M]) -> M:
        """Takes a measurement, a checkpoint or a heartbeat, and says whether to go on.

        Raises:
            LeaseLostError: the lease is over.
            InvalidArgumentError: the study's metric was never reported; the trial has failed.
        """
        return self.record.run(reply, lambda now: self._report(number, token, report, now))

    def _report(self, number: int, token: str, report: Report, now: datetime) -> Directive:
        trial = self._leased(number, token)
        self.last_use = now
        if report.measurement is not None and not self._reported.get(number):
            try:
                outcome.check_first(self.record.study.spec, report.measurement)
            except InvalidArgumentError as error:
                # Another attempt would report the same names.
                failure = Failure(cause=Cause.USER_ERROR, message=error.message)
                self._end(trial, Result(failure=failure), now, final=True)
                raise
        trial, news = self._take(self._renewed(trial, now), report)
        self.record.board.put(trial)
        self.record.write(
            writes.report(
                self.record.study.spec,
                trial,
                measurement=report.measurement,
                stop_reason=news,
                now=now,
            )
        )
        if report.measurement is not None:
            self.record.tell(Reported(trial=trial.name, measurement=report.measurement))
        return Directive(
            decision=Decision.STOP if trial.stop_requested else Decision.CONTINUE,
            reason=trial.state_reason if trial.stop_requested else "",
            expire_time=now + self._lease,
        )

    def _take(self, trial: Trial, report: Report) -> tuple[Trial, str | None]:
        """The trial with the report taken in, and why to stop it if that is new."""
        study, verdict = self.record.study, None
        if report.checkpoint is not None:
            trial = replace(trial, checkpoint=report.checkpoint)
            self._kept.add(trial.number)
        if report.measurement is not None:
            self._make_room_for(trial.number, report.measurement)
            result = self._result(trial, report.measurement)
            trial = outcome.with_result(study.spec, trial, result)
            verdict = self.record.engine.report(trial.number, report.measurement)
        if study.state is StudyState.STOPPED:
            verdict = f"the study was stopped: {study.state_reason}"
        news = None if trial.stop_requested else verdict
        if news is not None:
            trial = replace(trial, stop_requested=True, state_reason=news)
        return trial, news

    def _make_room_for(self, number: int, new: Measurement) -> None:
        """Counts a measurement, which may take another one's place; raises if it is too much."""
        reported = self._reported.get(number, {})
        old = reported.get(new.step)
        size = self._sizes.get(number, 0) + size_of(new) - (size_of(old) if old else 0)
        if size > _MOST_BYTES or (old is None and len(reported) >= _MOST_MEASUREMENTS):
            raise InvalidArgumentError(
                f"an attempt may report {_MOST_MEASUREMENTS:,} steps and {_MOST_BYTES:,} bytes of "
                "values with their names; report less often, or fewer metrics."
            )
        self._sizes[number] = size

    def _result(self, trial: Trial, new: Measurement) -> Measurement | None:
        """The result so far. Looks at all measurements only where one takes another's place."""
        spec, reported = self.record.study.spec, self._reported.setdefault(trial.number, {})
        replaced = new.step in reported
        reported[new.step] = new
        if replaced:
            return outcome.result_of(spec, reported.values())
        return outcome.better_of(spec, trial.final_measurement, new)

    def write_log(
        self, number: int, token: str, offset: int, text: str, reply: Reply[None, M]
    ) -> M:
        """Appends to the log of an attempt, which may be over. Raises LeaseLostError."""
        key, leased, attempt = parse_lease_token(token)

        def verb(now: datetime) -> None:
            trial = self._known(number)
            if (key, leased) != (self.record.key, number) or not 0 < attempt <= trial.attempt:
                raise LeaseLostError(f"trial {number} has no such attempt any more; drop it.")
            self.record.write(writes.write_log(number, attempt, offset, text))

        message = self.record.run(reply, verb)
        self.record.events.log_written(number)
        return message

    # --- ending ---

    def complete(self, number: int, token: str, result: Result, reply: Reply[Trial, M]) -> M:
        """Ends an attempt with a result or a failure.

        Raises:
            LeaseLostError: the lease is over, and not by this request.
            InvalidArgumentError: there is no result.
        """
        return self.record.run(reply, lambda now: self._complete(number, token, result, now))

    def _complete(self, number: int, token: str, result: Result, now: datetime) -> Trial:
        trial = self._leased(number, token)
        try:
            return self._end(trial, result, now)
        except InvalidArgumentError as error:
            if result.final is None and self._reported.get(number):
                # It reported to the end without one of the metrics; so would another attempt.
                failure = Failure(cause=Cause.USER_ERROR, message=error.message)
                self._end(trial, Result(failure=failure), now, final=True)
            raise

    def exchange(
        self, number: int, token: str, result: Result, asking: Asking, reply: Reply[Exchanged, M]
    ) -> M:
        """Ends an attempt as `complete` does, and leases as `suggest` does, in one change.

        A search that fails costs no result: the worker is told to ask for itself.
        """

        def verb(now: datetime, proposals: Proposals) -> Exchanged:
            to_be = self._to_be(number, token, result, now) if self._may_fit else None
            if to_be is not None:
                self._demand(asking, now, proposals, to_be)
            ended = self._complete(number, token, result, now)
            following = self.record.besides(lambda: self._suggest_settled(asking, now, proposals))
            if following is None:
                wait = Wait(reason="the search failed", retry_after=_LATER)
                following = Suggested(state=self.record.study.state, wait=wait)
            return Exchanged(ended=ended, next=following)

        return self._run_proposing(reply, verb)

    def _to_be(self, number: int, token: str, result: Result, now: datetime) -> Trial | None:
        """What a trial is going to be once its attempt has ended; None if it cannot end so."""
        try:
            trial = self._leased(number, token)
            return self._after(trial, self._judged(number, result), now, final=False)
        except TunerError:
            # Ending it says what is wrong, and whom to tell.
            return None

    def release(self, number: int, token: str, reason: str, reply: Reply[Trial, M]) -> M:
        """Gives a trial back: it is due again. Raises LeaseLostError as `complete` does."""
        reason = reason or "given back by its worker"
        failure = Failure(cause=Cause.PREEMPTED, message=reason)
        return self.complete(number, token, Result(failure=failure), reply)

    def _end(self, trial: Trial, result: Result, now: datetime, *, final: bool = False) -> Trial:
        record, number = self.record, trial.number
        result = self._judged(number, result)
        ended = self._after(trial, result, now, final)
        cost = record.study.spec.cost(now - (trial.start_time or now))
        ended = replace(ended, cost=ended.cost + cost)
        record.write(
            writes.end_attempt(
                record.study.spec, ended, failure=result.failure, cost=cost, now=now
            )
        )
        record.cost += cost
        if result.failure is not None:
            self._causes.setdefault(number, []).append(result.failure.cause)
            if (step := self._step(number)) > self._furthest.get(number, -1):
                self._furthest[number] = step
        record.board.put(ended)
        if ended.state.is_finished:
            record.engine.finish(self._with_reported(ended))
        self._reported.pop(number, None)
        self._sizes.pop(number, None)
        self._kept.discard(number)
        record.tell(ended)
        record.tell_study()
        record.settle(now)
        return ended

    def _judged(self, number: int, result: Result) -> Result:
        if result.failure is None:
            return result
        further = number in self._kept or self._step(number) > self._furthest.get(number, -1)
        return replace(result, failure=outcome.judged(result.failure, further=further))

    def _step(self, number: int) -> int:
        """The highest step that the present attempt at a trial measured; -1 if there is none."""
        return max(self._reported.get(number, ()), default=-1)

    def _with_reported(self, trial: Trial) -> Trial:
        """The trial with what its attempt reported."""
        reported = self._reported.get(trial.number)
        if not reported:
            return trial
        return replace(trial, measurements=tuple(reported[step] for step in sorted(reported)))

    def _after(self, trial: Trial, result: Result, now: datetime, final: bool) -> Trial:
        if result.artifact_uri:
            trial = replace(trial, artifact_uri=result.artifact_uri)
        if result.failure is not None:
            earlier = self._causes.get(trial.number, ())
            return outcome.failed(trial, result.failure, earlier, now, final=final)
        reported = self._reported.get(trial.number, {}).values()
        return outcome.succeeded(trial, result.final, self.record.study.spec, reported, now)

    def tick(self) -> None:
        """Takes trials from silent workers, and ends the study if its time is over."""
        self.record.run(silent(), self._tick)

    def _tick(self, now: datetime) -> None:
        if now - self._ticked > self._lease / 2:
            # This machine slept, or its clock was set: its workers had no time to be heard.
            self._forgive(now)
        self._ticked = now
        for trial in self.record.board.of(TrialState.RUNNING):
            if trial.lease is not None and trial.lease.expire_time <= now:
                self.record.meter.expired()
                seconds = self._lease.total_seconds()
                message = f"worker {trial.lease.worker_id!r} was silent for {seconds:g} s"
                self._end(trial, Result(failure=Failure(cause=Cause.LOST, message=message)), now)
        self.record.settle(now)

    # --- what people do to trials ---

    def stop(self, number: int, reply: Reply[Trial, M]) -> M:
        """Asks a trial to stop; one that waits to be run ends at once."""
        return self.record.run(reply, lambda now: self._stop(number, now))

    def _stop(self, number: int, now: datetime) -> Trial:
        record, reason = self.record, "a user asked it to stop"
        trial = self._known(number)
        if trial.state is TrialState.QUEUED:
            record.give_up([trial], reason, now)
            record.settle(now)
        elif trial.state is TrialState.RUNNING and not trial.stop_requested:
            trial = replace(trial, stop_requested=True, state_reason=reason)
            record.write(writes.request_stop(trial))
            record.board.put(trial)
            record.tell(trial)
        return record.board[number]

    def label(self, number: int, labels: Mapping[str, str], reply: Reply[Trial, M]) -> M:
        """Changes a trial's labels."""
        return self.record.run(reply, lambda now: self._label(number, labels))

    def add_labels(self, number: int, labels: Mapping[str, str]) -> None:
        """Adds to a trial's labels, or replaces some, as far as there is room for more."""

        def verb(now: datetime) -> Trial:
            known = self._known(number).labels
            fresh = [name for name in labels if name not in known]
            fit = {*known, *fresh[: max(0, validate.LABELS - len(known))]}
            added = {name: label for name, label in labels.items() if name in fit}
            return self._label(number, dict(sorted({**known, **added}.items())))

        self.record.run(silent(), verb)

    def _label(self, number: int, labels: Mapping[str, str]) -> Trial:
        trial = replace(self._known(number), labels=labels)
        if labels != self._known(number).labels:
            self.record.write(writes.label_trial(trial))
            self.record.board.put(trial)
            self.record.tell(trial)
        return trial

    def add(self, new: Sequence[NewTrial], reply: Reply[list[str], M]) -> M:
        """Adds trials of the user's own; see `_add`."""
        return self.record.run(reply, lambda now: self._add(new, now))

    def _add(self, new: Sequence[NewTrial], now: datetime) -> list[str]:
        """Adds trials to be run, before anything is proposed, and past results.

        Raises:
            FailedPreconditionError: the study has ended or has no space yet, or its limit of
                trials leaves no room.
            InvalidArgumentError: one is no point of the space, or lacks a metric.
        """
        record, study = self.record, self.record.study
        self._check_room(sum(1 for trial in new if not trial.is_past))
        added = list[Trial]()
        for index, wanted in enumerate(new):
            try:
                study.spec.space.check(wanted.parameters)
                added.append(self._added(record.board.total + index, wanted, now))
            except InvalidArgumentError as error:
                raise InvalidArgumentError(f"`trials[{index}]`: {error.message}") from error
        record.write(*writes.add_trials(study.spec, added))
        for trial in added:
            record.engine.add(trial)
            record.board.put(replace(trial, measurements=()))
            record.tell(trial)
        record.tell_study()
        record.settle(now)
        return [trial.name for trial in added]

    def _check_room(self, count: int) -> None:
        study, board = self.record.study, self.record.board
        if study.space_version == 0:
            raise FailedPreconditionError(
                f"study {study.study_id!r} has no space yet; wait until it is ACTIVE."
            )
        if study.state.is_finished and count:
            raise FailedPreconditionError(
                f"study {study.study_id!r} is {study.state.value}; resume it first."
            )
        room = study.spec.limits.trials - (board.total - board.past)
        if count > room:
            raise FailedPreconditionError(
                f"study {study.study_id!r} has room for {max(0, room)} more trials, but got "
                f"{count} to run; raise its limit of trials first."
            )

    def _added(self, number: int, new: NewTrial, now: datetime) -> Trial:
        study, past = self.record.study, new.is_past
        trial = Trial(
            study_id=study.study_id,
            number=number,
            state=TrialState.SUCCEEDED if past else TrialState.QUEUED,
            parameters=new.parameters,
            space_version=study.space_version,
            attempt=1 if past else 0,
            measurements=tuple(sorted(new.measurements, key=lambda m: m.step)),
            origin=Origin.PAST if past else Origin.GIVEN,
            labels=new.labels,
            create_time=now,
            start_time=now if past else None,
            end_time=now if past else None,
        )
        if not past:
            return trial
        result = new.final or outcome.result_of(study.spec, trial.measurements)
        outcome.check_result(study.spec, result or trial.measurements[-1])
        return outcome.with_result(study.spec, trial, result)

    # --- access ---

    def _known(self, number: int) -> Trial:
        if number not in self.record.board:
            study_id = self.record.study.study_id
            raise NotFoundError(f"study {study_id!r} has no trial {number}.")
        return self.record.board[number]

    def _leased(self, number: int, token: str) -> Trial:
        key, _, attempt = parse_lease_token(token)
        if key != self.record.key:
            raise LeaseLostError(
                f"the study that trial {number} was leased from was deleted; drop it."
            )
        trial = self._known(number)
        if trial.lease is None or trial.lease.token != token:
            raise LeaseLostError(
                f"attempt {attempt} of trial {number} is over (the trial is {trial.state.value}, "
                f"attempt {trial.attempt}); drop it."
            )
        return trial


def size_of(measurement: Measurement) -> int:
    """How many bytes of a message a measurement takes at most."""
    return 40 + sum(18 + len(name.encode()) for name in measurement.metrics)
