"""What may be written to a study: each function says one change as a statement and its values."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from tuner.study import Failure, Measurement, Study, StudySpec, Trial
from tuner_storage import rows


@dataclass(frozen=True, slots=True)
class Write:
    """A named statement with its values; the study's key is filled in when it is committed."""

    name: str
    values: Mapping[str, Any]


# --- studies -------------------------------------------------------------------------------


def save_study(study: Study) -> Write:
    """The study's row; its etag is one more than the etag that was read. STALE otherwise."""
    statistics = json.dumps(asdict(study.statistics)) if study.statistics else None
    values = {
        **study_columns(study),
        "revision": int(study.etag) - 1,
        "submitted": None,
        "statistics": statistics,
        "exported_model_uri": study.exported_model_uri,
        "end_time": study.end_time,
    }
    return Write("save_study", values)


def resubmit_study(study: Study, submitted: StudySpec) -> Write:
    """The same for a study that was submitted again with changes."""
    saved = save_study(study)
    return Write(saved.name, {**saved.values, "submitted": rows.spec_text(submitted)})


def delete_study() -> Write:
    """The study with all that is its."""
    return Write("delete_study", {})


def study_columns(study: Study) -> dict[str, Any]:
    """What a new study and a changed one have in common."""
    return {
        "state": study.state.value,
        "state_reason": study.state_reason,
        "spec": rows.spec_text(study.spec),
        "space": rows.space_text(study.spec),
        "space_version": study.space_version,
        "now": study.update_time,
    }


# --- leases --------------------------------------------------------------------------------


def lease_trials(*, due: Sequence[Trial], proposed: Sequence[Trial], host: str) -> Write:
    """Trials as they are once leased: all to one worker, at one time. STALE if one is not due."""
    first = (*due, *proposed)[0]
    values = {
        "now": first.start_time,
        "worker_id": first.lease.worker_id if first.lease else None,
        "expire_time": first.lease.expire_time if first.lease else None,
        "host": host,
        "space_version": first.space_version if not proposed else proposed[0].space_version,
        "due": [trial.number for trial in due],
        "attempts": [trial.attempt for trial in due],
        "proposed": [trial.number for trial in proposed],
        "parameters": [rows.parameters_text(trial.parameters) for trial in proposed],
    }
    return Write("lease_trials", values)


def renew_leases(trials: Sequence[Trial], expire_time: datetime) -> Write:
    """The leases of trials that their worker asked for again."""
    values = {
        "numbers": [trial.number for trial in trials],
        "attempts": [trial.attempt for trial in trials],
        "expire_time": expire_time,
    }
    return Write("renew_leases", values)


def report(
    spec: StudySpec,
    trial: Trial,
    *,
    measurement: Measurement | None,
    stop_reason: str | None,
    now: datetime,
) -> Write:
    """A renewed lease, with what was measured and the decision that followed. LEASE_LOST."""
    checkpoint = trial.checkpoint
    values = {
        **rows.final_columns(spec, trial),
        "number": trial.number,
        "attempt": trial.attempt,
        "expire_time": trial.lease.expire_time if trial.lease else None,
        "stop": stop_reason is not None,
        "state_reason": stop_reason,
        "checkpoint_uri": None if checkpoint is None else checkpoint.uri,
        "checkpoint_step": None if checkpoint is None else checkpoint.step,
        "step": None if measurement is None else measurement.step,
        "metric_names": list(measurement.metrics) if measurement else None,
        "metric_values": list(measurement.metrics.values()) if measurement else None,
        "elapsed": None if measurement is None else measurement.elapsed,
        "now": now,
    }
    return Write("report", values)


def end_attempt(spec: StudySpec, trial: Trial, *, failure: Failure | None, now: datetime) -> Write:
    """A trial as it is after its current attempt: ended, or due again. LEASE_LOST."""
    values = {
        **rows.final_columns(spec, trial),
        "number": trial.number,
        "attempt": trial.attempt,
        "state": trial.state.value,
        "artifact_uri": trial.artifact_uri,
        "state_reason": trial.state_reason,
        "end_time": trial.end_time,
        "now": now,
        "failure_cause": None if failure is None else failure.cause.value,
        "failure_message": None if failure is None else failure.message,
        "failure_stack": None if failure is None else failure.stack,
        "failure_log_tail": None if failure is None else failure.log_tail,
    }
    return Write("end_attempt", values)


# --- what people do to trials --------------------------------------------------------------


def request_stop(trial: Trial) -> Write:
    """A running trial is to stop, for a reason. STALE if it does not run."""
    values = {
        "number": trial.number,
        "attempt": trial.attempt,
        "state_reason": trial.state_reason,
    }
    return Write("request_stop", values)


def cancel_trials(numbers: Sequence[int], reason: str, now: datetime) -> Write:
    """Trials that are due and will not run. STALE if one is not due."""
    return Write("cancel_trials", {"numbers": list(numbers), "state_reason": reason, "now": now})


def retry_trials(numbers: Sequence[int]) -> Write:
    """Failed trials that are due again. STALE if one has not failed."""
    return Write("retry_trials", {"numbers": list(numbers)})


def label_trial(trial: Trial) -> Write:
    """A trial's labels."""
    return Write("label_trial", {"number": trial.number, "labels": json.dumps(dict(trial.labels))})


def add_trials(spec: StudySpec, trials: Sequence[Trial]) -> list[Write]:
    """Trials of the user's own, due to be run or past ones with all they measured."""
    first = trials[0]
    finals = [rows.final_columns(spec, trial) for trial in trials]
    names = [column["final_names"] or [] for column in finals]
    found = [column["final_values"] or [] for column in finals]
    values = {
        "now": first.create_time,
        "space_version": first.space_version,
        "numbers": [trial.number for trial in trials],
        "states": [trial.state.value for trial in trials],
        "origins": [trial.origin.value for trial in trials],
        "attempts": [trial.attempt for trial in trials],
        "parameters": [rows.parameters_text(trial.parameters) for trial in trials],
        "labels": [json.dumps(dict(trial.labels)) for trial in trials],
        "final_steps": [column["final_step"] for column in finals],
        "final_elapsed": [column["final_elapsed"] for column in finals],
        "scores": [column["score"] for column in finals],
        "within": [column["within_constraints"] for column in finals],
        **_ragged("final_names", names, "final_values", found),
    }
    measured = [(trial, m) for trial in trials for m in trial.measurements]
    written = [Write("add_trials", values)]
    if measured:
        written.append(_add_measurements(measured, first.create_time))
    return written


def _add_measurements(measured: Sequence[tuple[Trial, Measurement]], now: datetime) -> Write:
    names = [list(measurement.metrics) for _, measurement in measured]
    found = [list(measurement.metrics.values()) for _, measurement in measured]
    values = {
        "now": now,
        "trials": [trial.number for trial, _ in measured],
        "steps": [measurement.step for _, measurement in measured],
        "elapsed": [measurement.elapsed for _, measurement in measured],
        **_ragged("metric_names", names, "metric_values", found),
    }
    return Write("add_measurements", values)


def _ragged(
    names_key: str,
    names: Sequence[Sequence[str]],
    values_key: str,
    values: Sequence[Sequence[float]],
) -> dict[str, Any]:
    """Lists of different lengths as one each, and where each part starts and ends, from 1."""
    ends = list(itertools.accumulate(len(part) for part in names))
    return {
        names_key: [name for part in names for name in part],
        values_key: [value for part in values for value in part],
        "starts": [end - len(part) + 1 for end, part in zip(ends, names, strict=True)],
        "ends": ends,
    }


# --- logs ----------------------------------------------------------------------------------


def write_log(number: int, attempt: int, offset: int, text: str) -> Write:
    """A piece of an attempt's log, as far as it is not held yet."""
    values = {"trial": number, "attempt": attempt, "log_offset": offset, "text": text}
    return Write("write_log", values)


# --- repeated requests, and who asked ------------------------------------------------------


def record_answer(request_id: str, method: str, body: bytes, now: datetime) -> Write:
    """The answer that a repeated request gets."""
    values = {"request_id": request_id, "method": method, "answer": body, "now": now}
    return Write("record_answer", values)


def record_deletion(request_id: str, method: str, now: datetime) -> Write:
    """The same for a study that is gone."""
    return Write("record_deletion", {"request_id": request_id, "method": method, "now": now})


def record_change(
    *, caller: str, method: str, resource: str, request: str, now: datetime
) -> Write:
    """Who changed what, for the audit log."""
    values = {
        "caller": caller,
        "method": method,
        "resource": resource,
        "request": request,
        "now": now,
    }
    return Write("record_change", values)
