"""What people and runners do to a study as a whole: each function is one verb of the record's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

from google.protobuf.message import Message

from tuner.engine import check_search
from tuner.errors import FailedPreconditionError, NotFoundError
from tuner.extension import extend as extended
from tuner.service import call, roles
from tuner.service.record import Record, taken_up
from tuner.service.reply import Reply
from tuner.space import Space, Value
from tuner.study import (
    Feature,
    Limits,
    StatisticsRef,
    Study,
    StudySpec,
    StudyState,
    Trial,
    TrialState,
)
from tuner_storage import writes

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What the data says of a managed study."""

    space: Space
    features: tuple[Feature, ...]
    settings: Mapping[str, Value]
    statistics: StatisticsRef | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What to change of a study; None leaves it as it is. An empty model exports none."""

    etag: str = ""
    limits: Limits | None = None
    labels: Mapping[str, str] | None = None
    export_model: str | None = None
    exported_model_uri: str | None = None


def prepare(record: Record, outcome: Prepared | str, reply: Reply[Study, M]) -> M:
    """Completes a study that is PREPARING, or stops it for a reason.

    Raises:
        FailedPreconditionError: it is not PREPARING.
        InvalidArgumentError: its space cannot be searched as it asks for.
    """

    def verb(now: datetime) -> Study:
        study = _unprepared(record)
        if isinstance(outcome, str):
            return record.move(StudyState.STOPPED, outcome, now)
        spec = replace(
            study.spec,
            space=outcome.space,
            features=outcome.features,
            settings=outcome.settings,
        )
        check_search(spec, prepared=True)
        prepared = replace(
            study,
            spec=spec,
            space_version=1,
            statistics=outcome.statistics,
            state=StudyState.ACTIVE,
            state_reason="",
        )
        record.build_engine(prepared, ())
        return record.save(prepared, now)

    return record.run(reply, verb)


def preparing(record: Record, doing: str, reply: Reply[Study, M]) -> M:
    """Says what is being done to prepare a study; raises FailedPreconditionError if it is done."""

    def verb(now: datetime) -> Study:
        return record.save(replace(_unprepared(record), state_reason=doing), now)

    return record.run(reply, verb)


def _unprepared(record: Record) -> Study:
    """The study, which is PREPARING; raises FailedPreconditionError."""
    study = record.study
    if study.state is not StudyState.PREPARING:
        raise FailedPreconditionError(
            f"study {study.study_id!r} is {study.state.value} and needs no preparation."
        )
    return study


def extend(record: Record, submitted: StudySpec, reply: Reply[Study, M]) -> M:
    """Takes over what changed in a study that was submitted again.

    Raises:
        AlreadyExistsError: it differs in what cannot change.
    """

    def verb(now: datetime) -> Study:
        study = record.study
        spec = extended(study.spec, record.submitted, submitted)
        check_search(spec, prepared=study.space_version > 0)
        changed = replace(study, spec=spec)
        if study.space_version > 0 and spec.space != study.spec.space:
            changed = replace(changed, space_version=study.space_version + 1)
        saved = record.save(changed, now, submitted)
        if study.state is StudyState.COMPLETED and record.reached(now) is None:
            saved = record.save(taken_up(record.study), now)
        record.settle(now)
        # What proposes is built anew, from all that was measured: the study is loaded again.
        record.retire()
        return saved

    message = record.run(reply, verb)
    record.close()
    return message


def stop(record: Record, reason: str, reply: Reply[Study, M]) -> M:
    """Ends a study; one that has ended stays as it is."""

    def verb(now: datetime) -> Study:
        if record.study.state.is_finished:
            return record.summary()
        return record.move(StudyState.STOPPED, reason or "stopped by a user", now)

    return record.run(reply, verb)


def pause(record: Record, reply: Reply[Study, M]) -> M:
    """Proposes no more; raises FailedPreconditionError unless the study is ACTIVE or PAUSED."""

    def verb(now: datetime) -> Study:
        state = record.study.state
        if state is StudyState.PAUSED:
            return record.summary()
        if state is not StudyState.ACTIVE:
            raise FailedPreconditionError(
                f"study {record.study.study_id!r} is {state.value}; only an active one can pause."
            )
        return record.move(StudyState.PAUSED, "paused by a user", now)

    return record.run(reply, verb)


def resume(record: Record, reply: Reply[Study, M]) -> M:
    """Takes a study up again.

    Raises:
        FailedPreconditionError: it was never prepared, or its limits allow nothing more.
    """

    def verb(now: datetime) -> Study:
        study = record.study
        if study.state is StudyState.ACTIVE:
            return record.summary()
        if study.space_version == 0:
            raise FailedPreconditionError(
                f"study {study.study_id!r} is {study.state.value} without a space; wait for a "
                "runner, or submit it again."
            )
        if study.state.is_finished:
            _check_room(record, now)
        return record.move(StudyState.ACTIVE, "", now)

    return record.run(reply, verb)


def _check_room(record: Record, now: datetime, retried: Collection[int] = ()) -> None:
    """Raises FailedPreconditionError if the limits allow neither new trials nor those due."""
    reached = record.reached(now, retried)
    due = record.board.open + len(retried)
    if reached is not None and (reached.gives_up or due == 0):
        raise FailedPreconditionError(
            f"study {record.study.study_id!r} allows nothing more: {reached.reason}; raise the "
            "limit first."
        )


def update(record: Record, changes: Changes, reply: Reply[Study, M]) -> M:
    """Changes limits, labels or export; raises FailedPreconditionError if the etag is old."""

    def verb(now: datetime) -> Study:
        study = record.study
        if changes.etag and changes.etag != study.etag:
            raise FailedPreconditionError(
                f"study {study.study_id!r} was changed since you read it; read it again."
            )
        saved = record.save(_changed(study, changes), now)
        record.settle(now)
        return saved

    return record.run(reply, verb)


def _changed(study: Study, changes: Changes) -> Study:
    spec, uri = study.spec, study.exported_model_uri
    if changes.limits is not None:
        spec = replace(spec, limits=changes.limits)
    if changes.labels is not None:
        spec = replace(spec, labels=changes.labels)
    if changes.export_model is not None:
        spec = replace(spec, export_model=changes.export_model or None)
    if changes.exported_model_uri is not None:
        uri = changes.exported_model_uri
    return replace(study, spec=spec, exported_model_uri=uri)


def retry(record: Record, numbers: Sequence[int], reply: Reply[list[str], M]) -> M:
    """Makes failed trials due again, all of them if none is named.

    Raises:
        NotFoundError: there is no such trial.
        FailedPreconditionError: one has not failed, or the study allows nothing more.
    """

    def verb(now: datetime) -> list[str]:
        trials = _failed(record, numbers)
        if trials:
            _retry(record, trials, now)
        return [trial.name for trial in trials]

    return record.run(reply, verb)


def _failed(record: Record, numbers: Sequence[int]) -> list[Trial]:
    study, failed = record.study, record.board.of(TrialState.FAILED)
    if study.state is StudyState.STOPPED:
        raise FailedPreconditionError(f"study {study.study_id!r} is STOPPED; resume it first.")
    for number in numbers:
        if number not in record.board:
            raise NotFoundError(f"study {study.study_id!r} has no trial {number}.")
        state = record.board[number].state
        if state is not TrialState.FAILED:
            raise FailedPreconditionError(
                f"trial {number} is {state.value}; only failed ones can be tried again."
            )
    wanted = set(numbers)
    return [trial for trial in failed if not wanted or trial.number in wanted]


def _retry(record: Record, trials: Sequence[Trial], now: datetime) -> None:
    """Trials that are due again; a study that they completed is taken up again."""
    completed = record.study.state is StudyState.COMPLETED
    if completed:
        _check_room(record, now, [trial.number for trial in trials])
    queued = [
        replace(
            trial,
            state=TrialState.QUEUED,
            final_measurement=None,
            within_constraints=None,
            stop_requested=False,
            state_reason="",
            end_time=None,
        )
        for trial in trials
    ]
    for trial in queued:
        record.board.put(trial)
    record.write(writes.retry_trials([trial.number for trial in queued]))
    if completed:
        record.save(taken_up(record.study), now)
    for trial in queued:
        record.engine.restart(trial.number)
        record.tell(trial)
    record.tell_study()


def delete(record: Record, *, force: bool, reply: Reply[None, M]) -> M:
    """Deletes a study.

    Raises:
        PermissionDeniedError: it is somebody else's.
        FailedPreconditionError: trials run, and it is not forced.
    """

    def verb(now: datetime) -> None:
        roles.check_delete(call.current(), record.study.study_id, record.study.creator)
        running = record.board.count(TrialState.RUNNING)
        if running and not force:
            raise FailedPreconditionError(
                f"{running} trials of study {record.study.study_id!r} run; stop it and wait, or "
                "delete it by force."
            )
        record.write(writes.delete_study())
        if reply.request_id:
            record.write(writes.record_deletion(reply.request_id, reply.method, now))
        record.retire()

    message = record.run(replace(reply, request_id=""), verb)
    record.close()
    return message
