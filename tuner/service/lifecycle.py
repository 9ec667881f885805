"""What people and runners do to a study as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

from google.protobuf.message import Message

from tuner.engine import check_search
from tuner.errors import FailedPreconditionError, NotFoundError
from tuner.service.record import Record
from tuner.service.reply import Reply
from tuner.space import Space, Value
from tuner.study import (
    Feature,
    Limits,
    StatisticsRef,
    Study,
    StudyState,
    Trial,
    TrialState,
)

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
    with record.open() as now:
        study = record.study
        if study.state is not StudyState.PREPARING:
            kept = record.kept(reply)
            if kept is not None:
                return kept
            raise FailedPreconditionError(
                f"study {study.study_id!r} is {study.state.value} and needs no preparation."
            )
        if isinstance(outcome, str):
            return record.move(StudyState.STOPPED, outcome, now, reply)
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
        with record.changing():
            record.build_engine(prepared, ())
        return record.save(prepared, now, reply)


def stop(record: Record, reason: str, reply: Reply[Study, M]) -> M:
    """Ends a study; one that has ended stays as it is."""
    with record.open() as now:
        if record.study.state.is_finished:
            return reply.build(record.summary())
        return record.move(StudyState.STOPPED, reason or "stopped by a user", now, reply)


def pause(record: Record, reply: Reply[Study, M]) -> M:
    """Proposes no more; raises FailedPreconditionError unless the study is ACTIVE or PAUSED."""
    with record.open() as now:
        state = record.study.state
        if state is StudyState.PAUSED:
            return reply.build(record.summary())
        if state is not StudyState.ACTIVE:
            raise FailedPreconditionError(
                f"study {record.study.study_id!r} is {state.value}; only an active one can pause."
            )
        return record.move(StudyState.PAUSED, "paused by a user", now, reply)


def resume(record: Record, reply: Reply[Study, M]) -> M:
    """Takes a study up again.

    Raises:
        FailedPreconditionError: it was never prepared, or its limits allow nothing more.
    """
    with record.open() as now:
        study = record.study
        if study.state is StudyState.ACTIVE:
            return reply.build(record.summary())
        if study.space_version == 0:
            raise FailedPreconditionError(
                f"study {study.study_id!r} is {study.state.value} without a space; wait for a "
                "runner, or submit it again."
            )
        if study.state.is_finished:
            _check_room(record, now)
        return record.move(StudyState.ACTIVE, "", now, reply)


def _check_room(record: Record, now: datetime) -> None:
    reached = record.reached(now)
    if reached is not None and (reached.gives_up or record.board.open == 0):
        raise FailedPreconditionError(
            f"study {record.study.study_id!r} allows nothing more: {reached.reason}; raise the "
            "limit first."
        )


def update(record: Record, changes: Changes, reply: Reply[Study, M]) -> M:
    """Changes limits, labels or export; raises FailedPreconditionError if the etag is old."""
    with record.open() as now:
        kept = record.kept(reply)
        if kept is not None:
            return kept
        study = record.study
        if changes.etag and changes.etag != study.etag:
            raise FailedPreconditionError(
                f"study {study.study_id!r} was changed since you read it; read it again."
            )
        message = record.save(_changed(study, changes), now, reply)
        record.settle(now)
        return message


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
    with record.open() as now:
        kept = record.kept(reply)
        if kept is not None:
            return kept
        trials = _failed(record, numbers)
        message = reply.build([trial.name for trial in trials])
        if not trials:
            return message
        _retry(record, trials, now, reply, message)
        return message


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
    return [trial for trial in failed if not numbers or trial.number in numbers]


def _retry(
    record: Record,
    trials: Sequence[Trial],
    now: datetime,
    reply: Reply[list[str], M],
    message: M,
) -> None:
    queued = [
        replace(
            trial,
            state=TrialState.QUEUED,
            final_measurement=None,
            stop_requested=False,
            state_reason="",
            end_time=None,
        )
        for trial in trials
    ]
    # Until it is committed only this thread sees it: the caller holds the lock. A refusal closes
    # the record, which forgets it.
    with record.changing():
        for trial in queued:
            record.board.put(trial)
        again = None
        if record.study.state is StudyState.COMPLETED:
            _check_room(record, now)
            again = record.taken_up(now)
        record.store.retry_trials(
            record.key,
            [trial.number for trial in queued],
            study=again,
            now=now,
            answer=reply.keep(message),
        )
        record.retried(queued, again, now)
