"""Rows of the database, and what they are in the domain."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from tuner import convert
from tuner.space import Value
from tuner.study import (
    Attempt,
    Cause,
    Checkpoint,
    Cost,
    Failure,
    Lease,
    Measurement,
    Origin,
    StatisticsRef,
    Study,
    StudySpec,
    StudyState,
    Trial,
    TrialCounts,
    TrialState,
    lease_token,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRow:
    """A row of tuner.study_summaries."""

    study: int
    study_id: str
    state: str
    state_reason: str
    submitted: Mapping[str, Any]
    spec: Mapping[str, Any]
    managed: bool
    space_version: int
    statistics: Mapping[str, Any] | None
    exported_model_uri: str
    revision: int
    create_time: datetime
    update_time: datetime
    end_time: datetime | None
    owner: UUID | None
    epoch: int
    creator: str
    algorithm_in_use: str
    queued: int
    running: int
    succeeded: int
    pruned: int
    failed: int
    infeasible: int
    past: int
    best_trial: int | None
    worker_time: timedelta
    cpu_time: timedelta
    gpu_time: timedelta

    def to_study(self) -> Study:
        """The study as its row says."""
        return Study(
            study_id=self.study_id,
            spec=convert.spec_from_json(self.spec),
            state=StudyState(self.state),
            state_reason=self.state_reason,
            space_version=self.space_version,
            statistics=None if self.statistics is None else StatisticsRef(**self.statistics),
            trial_counts=TrialCounts(
                queued=self.queued,
                running=self.running,
                succeeded=self.succeeded,
                pruned=self.pruned,
                failed=self.failed,
                infeasible=self.infeasible,
                past=self.past,
            ),
            best_trial=self.best_trial,
            exported_model_uri=self.exported_model_uri,
            creator=self.creator,
            cost=_cost(self),
            algorithm_in_use=self.algorithm_in_use,
            create_time=self.create_time,
            update_time=self.update_time,
            end_time=self.end_time,
            etag=str(self.revision),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRow:
    """A row of tuner.trials."""

    study: int
    number: int
    state: str
    parameters: Mapping[str, Value]
    space_version: int
    attempt: int
    worker_id: str | None
    expire_time: datetime | None
    final_step: int | None
    final_names: list[str] | None
    final_values: list[float] | None
    final_elapsed: timedelta | None
    score: float | None
    stop_requested: bool
    artifact_uri: str
    state_reason: str
    create_time: datetime
    start_time: datetime | None
    end_time: datetime | None
    origin: str
    labels: Mapping[str, str]
    checkpoint_uri: str | None
    checkpoint_step: int | None
    within_constraints: bool | None
    search_note: str
    worker_time: timedelta
    cpu_time: timedelta
    gpu_time: timedelta
    #: What the list is ordered by that the row is of.
    key: float | None = None

    def to_trial(
        self,
        study_id: str,
        measurements: Iterable[Measurement] = (),
        attempts: Iterable[Attempt] = (),
    ) -> Trial:
        """The trial with what other tables say of it."""
        lease = None
        if self.worker_id is not None and self.expire_time is not None:
            lease = Lease(
                worker_id=self.worker_id,
                expire_time=self.expire_time,
                token=lease_token(self.study, self.number, self.attempt),
            )
        checkpoint = None
        if self.checkpoint_uri is not None and self.checkpoint_step is not None:
            checkpoint = Checkpoint(uri=self.checkpoint_uri, step=self.checkpoint_step)
        return Trial(
            study_id=study_id,
            number=self.number,
            state=TrialState(self.state),
            parameters=self.parameters,
            space_version=self.space_version,
            attempt=self.attempt,
            lease=lease,
            final_measurement=self._final(),
            measurements=tuple(measurements),
            attempts=tuple(attempts),
            stop_requested=self.stop_requested,
            artifact_uri=self.artifact_uri,
            state_reason=self.state_reason,
            origin=Origin(self.origin),
            labels=self.labels,
            checkpoint=checkpoint,
            within_constraints=self.within_constraints,
            search_note=self.search_note,
            cost=_cost(self),
            create_time=self.create_time,
            start_time=self.start_time,
            end_time=self.end_time,
        )

    def _final(self) -> Measurement | None:
        if self.final_step is None:
            return None
        return Measurement(
            step=self.final_step,
            metrics=dict(zip(self.final_names or (), self.final_values or (), strict=True)),
            elapsed=self.final_elapsed or timedelta(0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementRow:
    """A row of tuner.measurements, its attempt known."""

    trial: int
    step: int
    metric_names: list[str]
    metric_values: list[float]
    elapsed: timedelta

    def to_measurement(self) -> Measurement:
        """The measurement."""
        return Measurement(
            step=self.step,
            metrics=dict(zip(self.metric_names, self.metric_values, strict=True)),
            elapsed=self.elapsed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """A row of tuner.attempts."""

    study: int
    trial: int
    attempt: int
    worker_id: str
    host: str
    start_time: datetime
    end_time: datetime | None
    failure_cause: str | None
    failure_message: str | None
    failure_stack: str | None
    failure_log_tail: str | None
    worker_time: timedelta
    cpu_time: timedelta
    gpu_time: timedelta

    def to_attempt(self) -> Attempt:
        """The attempt."""
        failure = None
        if self.failure_cause is not None:
            failure = Failure(
                cause=Cause(self.failure_cause),
                message=self.failure_message or "",
                stack=self.failure_stack or "",
                log_tail=self.failure_log_tail or "",
            )
        return Attempt(
            number=self.attempt,
            worker_id=self.worker_id,
            host=self.host,
            start_time=self.start_time,
            end_time=self.end_time,
            failure=failure,
            cost=_cost(self),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRow:
    """A row of tuner.trial_logs, its trial known."""

    attempt: int
    log_offset: int
    text: str


def _cost(row: StudyRow | TrialRow | AttemptRow) -> Cost:
    return Cost(worker_time=row.worker_time, cpu_time=row.cpu_time, gpu_time=row.gpu_time)


def spec_text(spec: StudySpec) -> str:
    """A specification as the database keeps it."""
    return json.dumps(convert.spec_to_json(spec))


def space_text(spec: StudySpec) -> str:
    """A specification's space as the database keeps it."""
    return json.dumps(convert.spec_to_json(spec).get("space", {}))
