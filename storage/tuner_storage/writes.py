"""What may be written to a study: each function says one change as a statement and its values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from tuner.study import Cost, Failure, Measurement, Study, StudySpec, Trial
from tuner_storage import rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One change. The study's key is filled in when it is committed."""

    #: The statement.
    name: str
    #: Its parameters; of a bulk statement, one row of its parameter `rows`.
    values: Mapping[str, Any]
    #: The trials that it touches; None: the whole study.
    trials: tuple[int, ...] | None = None
    #: Whether one statement takes the rows of many changes.
    bulk: bool = False


@dataclass(slots=True)
class _Group:
    """Changes that are one statement."""

    name: str
    values: list[Mapping[str, Any]]
    trials: set[int] | None
    bulk: bool

    def conflicts(self, write: Write) -> bool:
        """Whether the order of the two matters."""
        if self.trials is None or write.trials is None:
            return True
        return not self.trials.isdisjoint(write.trials)


def statements(writes: Iterable[Write]) -> list[tuple[str, Mapping[str, Any]]]:
    """Changes as statements with their parameters, many rows in one where their order allows it.

    What a statement costs on its way through a driver and a planner is more than the row it
    writes, so the changes of many callers that are committed together share theirs.
    """
    groups = list[_Group]()
    for write in writes:
        first = 0
        for index in range(len(groups) - 1, -1, -1):
            if groups[index].conflicts(write):
                first = index + 1
                break
        group = next((g for g in groups[first:] if write.bulk and g.name == write.name), None)
        if group is None:
            touched = None if write.trials is None else set(write.trials)
            groups.append(_Group(write.name, [write.values], touched, write.bulk))
        else:
            group.values.append(write.values)
            group.trials = (group.trials or set()) | set(write.trials or ())
    return [(g.name, {"rows": _rows(g.values)} if g.bulk else g.values[0]) for g in groups]


def _rows(values: Sequence[Mapping[str, Any]]) -> str:
    return _ENCODER.encode(values)


def _plain(value: object) -> str:
    """What JSON does not know, in PostgreSQL's words."""
    match value:
        case datetime():
            return value.isoformat()
        case timedelta():
            return f"{value // timedelta(microseconds=1)} microseconds"
        case bytes():
            return "\\x" + value.hex()
    raise TypeError(f"{type(value).__name__} is not written to the database.")


_ENCODER = json.JSONEncoder(default=_plain, allow_nan=False)


def _numbers(values: Iterable[float]) -> list[float | str]:
    """JSON knows neither NaN nor infinities; PostgreSQL reads their names."""
    return [value if math.isfinite(value) else str(value) for value in values]


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
    return Write(name="save_study", values=values)


def resubmit_study(study: Study, submitted: StudySpec) -> Write:
    """The same for a study that was submitted again with changes."""
    saved = save_study(study)
    values = {**saved.values, "submitted": rows.spec_text(submitted)}
    return Write(name=saved.name, values=values)


def delete_study() -> Write:
    """The study with all that is its."""
    return Write(name="delete_study", values={})


def study_columns(study: Study) -> dict[str, Any]:
    """What a new study and a changed one have in common."""
    return {
        "state": study.state.value,
        "state_reason": study.state_reason,
        "spec": rows.spec_text(study.spec),
        "space": rows.space_text(study.spec),
        "space_version": study.space_version,
        "algorithm_in_use": study.algorithm_in_use,
        "now": study.update_time,
    }


# --- leases --------------------------------------------------------------------------------


def lease_trials(*, due: Sequence[Trial], proposed: Sequence[Trial], host: str) -> list[Write]:
    """Trials as they are once leased. STALE if one is not due."""
    return [
        Write(
            name="lease_trials",
            values={
                "number": trial.number,
                "attempt": trial.attempt,
                "worker_id": trial.lease.worker_id if trial.lease else None,
                "expire_time": trial.lease.expire_time if trial.lease else None,
                "host": host,
                "now": trial.start_time,
                "space_version": trial.space_version,
                "parameters": trial.parameters if is_new else None,
                "search_note": trial.search_note,
            },
            trials=(trial.number,),
            bulk=True,
        )
        for trials, is_new in ((due, False), (proposed, True))
        for trial in trials
    ]


def renew_leases(trials: Sequence[Trial], expire_time: datetime) -> list[Write]:
    """The leases of trials that their worker asked for again."""
    return [
        Write(
            name="renew_leases",
            values={
                "number": trial.number,
                "attempt": trial.attempt,
                "expire_time": expire_time,
            },
            trials=(trial.number,),
            bulk=True,
        )
        for trial in trials
    ]


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
        **_final(spec, trial),
        "number": trial.number,
        "attempt": trial.attempt,
        "expire_time": trial.lease.expire_time if trial.lease else None,
        "stop_reason": stop_reason,
        "checkpoint_uri": None if checkpoint is None else checkpoint.uri,
        "checkpoint_step": None if checkpoint is None else checkpoint.step,
        "now": now,
    }
    if measurement is not None:
        values |= {
            "step": measurement.step,
            "metric_names": list(measurement.metrics),
            "metric_values": _numbers(measurement.metrics.values()),
            "elapsed": measurement.elapsed,
        }
    return Write(name="report", values=values, trials=(trial.number,), bulk=True)


def end_attempt(
    spec: StudySpec, trial: Trial, *, failure: Failure | None, cost: Cost, now: datetime
) -> Write:
    """A trial after its current attempt, which cost this: ended, or due again. LEASE_LOST."""
    values = {
        **_final(spec, trial),
        **asdict(cost),
        "number": trial.number,
        "attempt": trial.attempt,
        "state": trial.state.value,
        "artifact_uri": trial.artifact_uri,
        "state_reason": trial.state_reason,
        "end_time": trial.end_time,
        "now": now,
    }
    if failure is not None:
        values |= {
            "failure_cause": failure.cause.value,
            "failure_message": failure.message,
            "failure_stack": failure.stack,
            "failure_log_tail": failure.log_tail,
        }
    return Write(name="end_attempt", values=values, trials=(trial.number,), bulk=True)


def _final(spec: StudySpec, trial: Trial) -> dict[str, Any]:
    """A trial's result, as a row says it; without one it says nothing."""
    result = trial.final_measurement
    if result is None:
        return {}
    return {
        "final_step": result.step,
        "final_names": list(result.metrics),
        "final_values": _numbers(result.metrics.values()),
        "final_elapsed": result.elapsed,
        "score": spec.score(result),
        "within_constraints": trial.within_constraints,
    }


# --- what people do to trials --------------------------------------------------------------


def request_stop(trial: Trial) -> Write:
    """A running trial is to stop, for a reason. STALE if it does not run."""
    values = {
        "number": trial.number,
        "attempt": trial.attempt,
        "state_reason": trial.state_reason,
    }
    return Write(name="request_stop", values=values, trials=(trial.number,))


def cancel_trials(numbers: Sequence[int], reason: str, now: datetime) -> Write:
    """Trials that are due and will not run. STALE if one is not due."""
    values = {"numbers": list(numbers), "state_reason": reason, "now": now}
    return Write(name="cancel_trials", values=values, trials=tuple(numbers))


def retry_trials(numbers: Sequence[int]) -> Write:
    """Failed trials that are due again. STALE if one has not failed."""
    values = {"numbers": list(numbers)}
    return Write(name="retry_trials", values=values, trials=tuple(numbers))


def label_trial(trial: Trial) -> Write:
    """A trial's labels."""
    values = {"number": trial.number, "labels": json.dumps(dict(trial.labels))}
    return Write(name="label_trial", values=values, trials=(trial.number,))


def add_trials(spec: StudySpec, trials: Sequence[Trial]) -> list[Write]:
    """Trials of the user's own, due to be run or past ones with all they measured."""
    added = [
        Write(
            name="add_trials",
            values={
                **_final(spec, trial),
                "number": trial.number,
                "state": trial.state.value,
                "origin": trial.origin.value,
                "attempt": trial.attempt,
                "space_version": trial.space_version,
                "parameters": trial.parameters,
                "labels": dict(trial.labels),
                "now": trial.create_time,
            },
            trials=(trial.number,),
            bulk=True,
        )
        for trial in trials
    ]
    measured = [
        Write(
            name="add_measurements",
            values={
                "trial": trial.number,
                "step": measurement.step,
                "metric_names": list(measurement.metrics),
                "metric_values": _numbers(measurement.metrics.values()),
                "elapsed": measurement.elapsed,
                "now": trial.create_time,
            },
            trials=(),
            bulk=True,
        )
        for trial in trials
        for measurement in trial.measurements
    ]
    return [*added, *measured]


# --- logs ----------------------------------------------------------------------------------


def write_log(number: int, attempt: int, offset: int, text: str) -> Write:
    """A piece of an attempt's log, as far as it is not held yet."""
    values = {"trial": number, "attempt": attempt, "log_offset": offset, "text": text}
    return Write(name="write_log", values=values, trials=(number,))


# --- repeated requests, and who asked ------------------------------------------------------


def record_answer(request_id: str, method: str, body: bytes, now: datetime) -> Write:
    """The answer that a repeated request gets."""
    values = {"request_id": request_id, "method": method, "answer": body, "now": now}
    return Write(name="record_answer", values=values, trials=(), bulk=True)


def record_deletion(request_id: str, method: str, now: datetime) -> Write:
    """The same for a study that is gone."""
    values = {"request_id": request_id, "method": method, "now": now}
    return Write(name="record_deletion", values=values)


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
    return Write(name="record_change", values=values, trials=(), bulk=True)
