"""What the study server asks of its database: one method is one transaction and one verb."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypeVar

from psycopg.rows import class_row

from tuner import convert
from tuner.errors import NotFoundError
from tuner.study import (
    Attempt,
    Cause,
    Failure,
    Measurement,
    Metric,
    Study,
    StudyState,
    Trial,
)
from tuner_storage import rows
from tuner_storage.database import Connection, Database
from tuner_storage.queries import QUERIES
from tuner_storage.values import NO_ANSWER, Answer, LoadedTrials, LogPiece, StoredStudy, TrialPage

R = TypeVar("R")


class Store:
    """The database's verbs. Thread-safe; owns nothing but the pool it was given.

    Every method is one transaction: when it returns, what it did is on disk; when it raises,
    nothing was done. `now` is handed in, so that a verb and its answer agree about the time.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- studies ---

    def create_study(
        self, study: Study, *, answer: Answer = NO_ANSWER, replaces: int | None = None
    ) -> int:
        """Returns the new study's key; `replaces` is the key of one that stopped without a trial.

        Raises:
            AlreadyExistsError: the id is taken.
        """
        parameters = {
            **_study_columns(study),
            **answer.columns(),
            "study_id": study.study_id,
            "submitted": rows.spec_text(study.spec),
            "managed": study.spec.is_managed,
        }
        with self._database.transaction() as connection:
            if replaces is not None:
                connection.execute(QUERIES["delete_failed_study"], {"study": replaces})
            return int(_one(connection, "create_study", parameters))

    def find_study(self, study_id: str) -> StoredStudy | None:
        """The study of that id, if there is one."""
        found = self._rows(rows.StudyRow, "find_study", {"study_id": study_id})
        return _stored(found[0]) if found else None

    def list_studies(
        self,
        *,
        states: Sequence[StudyState] = (),
        managed_only: bool = False,
        before: int | None = None,
        limit: int = 100,
    ) -> list[StoredStudy]:
        """Studies, newest first; `before` is the key of the last one seen."""
        parameters = {
            "states": [state.value for state in states] or None,
            "managed_only": managed_only,
            "before": before,
            "limit": limit,
        }
        return [_stored(row) for row in self._rows(rows.StudyRow, "list_studies", parameters)]

    def save_study(self, key: int, study: Study, *, answer: Answer = NO_ANSWER) -> None:
        """Writes a study; its etag is one more than the etag that was read.

        Raises:
            StaleError: the study has another etag by now.
        """
        with self._database.connection() as connection:
            _save_study(connection, key, study, answer)

    def delete_study(self, key: int) -> None:
        """Deletes a study with all that is its."""
        self._execute("delete_study", {"study": key})

    # --- trials ---

    def load_trials(self, stored: StoredStudy) -> LoadedTrials:
        """Everything that a server keeps in memory of a study's trials."""
        parameters = {"study": stored.key, "numbers": None}
        with self._database.transaction() as connection:
            found = _fetch(connection, rows.TrialRow, "all_trials", parameters)
            measured = _measured(connection, parameters)
            causes: dict[int, list[Cause]] = defaultdict(list)
            for number, cause in connection.execute(QUERIES["list_causes"], parameters):
                causes[number].append(Cause(cause))
            attempt_time = _one(connection, "attempt_time", parameters)
        return LoadedTrials(
            trials=tuple(
                row.to_trial(stored.study.study_id, measured.get(row.number, ())) for row in found
            ),
            causes={number: tuple(listed) for number, listed in causes.items()},
            attempt_time=attempt_time,
        )

    def lease_trials(
        self,
        key: int,
        *,
        due: Sequence[Trial],
        proposed: Sequence[Trial],
        host: str,
        answer: Answer = NO_ANSWER,
    ) -> None:
        """Writes trials as they are once leased: all to one worker, at one time.

        Raises:
            StaleError: one of them is not what the server thought.
            RepeatedRequestError: the request was answered before.
        """
        first = (*due, *proposed)[0]
        parameters = {
            **answer.columns(),
            "study": key,
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
        self._execute("lease_trials", parameters)

    def renew_leases(self, key: int, trials: Sequence[Trial], expire_time: datetime) -> None:
        """Renews the leases of trials that their worker asked for again."""
        parameters = {
            "study": key,
            "numbers": [trial.number for trial in trials],
            "attempts": [trial.attempt for trial in trials],
            "expire_time": expire_time,
        }
        self._execute("renew_leases", parameters)

    def report(
        self,
        key: int,
        trial: Trial,
        *,
        measurement: Measurement | None,
        stop_reason: str | None,
        metric: Metric,
        now: datetime,
    ) -> None:
        """Renews a lease, and stores a measurement and the decision that followed from it.

        Raises:
            LeaseLostError: the attempt is not the current one any more.
        """
        parameters = {
            **rows.final_columns(metric, trial.final_measurement),
            "study": key,
            "number": trial.number,
            "attempt": trial.attempt,
            "expire_time": trial.lease.expire_time if trial.lease else None,
            "stop": stop_reason is not None,
            "state_reason": stop_reason,
            "step": None if measurement is None else measurement.step,
            "metric_names": list(measurement.metrics) if measurement else None,
            "metric_values": list(measurement.metrics.values()) if measurement else None,
            "elapsed": None if measurement is None else measurement.elapsed,
            "now": now,
        }
        self._execute("report", parameters)

    def end_attempt(
        self,
        key: int,
        trial: Trial,
        *,
        failure: Failure | None,
        metric: Metric,
        now: datetime,
        expired_by: datetime | None = None,
        answer: Answer = NO_ANSWER,
    ) -> None:
        """Writes a trial as it is after its current attempt: ended, or due again.

        Args:
            expired_by: Only if the lease ended by then.

        Raises:
            LeaseLostError: the attempt is not the current one any more, or its lease was renewed.
            RepeatedRequestError: the request was answered before.
        """
        parameters = {
            **answer.columns(),
            **rows.final_columns(metric, trial.final_measurement),
            "study": key,
            "number": trial.number,
            "attempt": trial.attempt,
            "state": trial.state.value,
            "artifact_uri": trial.artifact_uri,
            "state_reason": trial.state_reason,
            "end_time": trial.end_time,
            "expired_by": expired_by,
            "now": now,
            "failure_cause": None if failure is None else failure.cause.value,
            "failure_message": None if failure is None else failure.message,
            "failure_stack": None if failure is None else failure.stack,
            "failure_log_tail": None if failure is None else failure.log_tail,
        }
        self._execute("end_attempt", parameters)

    def request_stop(self, key: int, trial: Trial) -> None:
        """Records that a running trial is to stop, and why; raises StaleError if it is not."""
        parameters = {
            "study": key,
            "number": trial.number,
            "attempt": trial.attempt,
            "state_reason": trial.state_reason,
        }
        self._execute("request_stop", parameters)

    def cancel_trials(self, key: int, numbers: Sequence[int], reason: str, now: datetime) -> None:
        """Ends trials that are due again and will not run; raises StaleError if one is not."""
        parameters = {"study": key, "numbers": list(numbers), "state_reason": reason, "now": now}
        self._execute("cancel_trials", parameters)

    def retry_trials(
        self,
        key: int,
        numbers: Sequence[int],
        *,
        study: Study | None,
        now: datetime,
        answer: Answer = NO_ANSWER,
    ) -> None:
        """Makes failed trials due again, and writes `study` if that takes it up again.

        Raises:
            StaleError: one of the trials has not failed, or the study has changed.
            RepeatedRequestError: the request was answered before.
        """
        with self._database.transaction() as connection:
            changed = {"study": key, "numbers": list(numbers)}
            connection.execute(QUERIES["retry_trials"], changed)
            if study is not None:
                _save_study(connection, key, study, NO_ANSWER)
            kept = {**answer.columns(), "study": key, "now": now}
            connection.execute(QUERIES["record_answer"], kept)

    def get_trial(self, key: int, study_id: str, number: int, *, full: bool) -> Trial:
        """Returns a trial; raises NotFoundError."""
        with self._database.connection() as connection:
            parameters = {"study": key, "number": number}
            found = _fetch(connection, rows.TrialRow, "find_trial", parameters)
            if not found:
                raise NotFoundError(f"study {study_id!r} has no trial {number}.")
            return _completed(connection, key, study_id, found, full=full)[0]

    def list_trials(self, key: int, study_id: str, page: TrialPage) -> list[Trial]:
        """Returns one page of a study's trials."""
        name = {
            "number": "list_trials_by_number",
            "number desc": "list_trials_by_number_desc",
            "best": "list_trials_by_score",
        }[page.order]
        parameters = {
            "study": key,
            "states": [state.value for state in page.states] or None,
            "limit": page.limit,
            "number": page.after_number,
            "score": page.after_score,
        }
        with self._database.connection() as connection:
            found = _fetch(connection, rows.TrialRow, name, parameters)
            return _completed(connection, key, study_id, found, full=page.full)

    # --- logs ---

    def write_log(self, key: int, number: int, piece: LogPiece) -> None:
        """Appends to an attempt's log what it does not hold yet; raises NotFoundError."""
        parameters = {
            "study": key,
            "trial": number,
            "attempt": piece.attempt,
            "log_offset": piece.offset,
            "text": piece.text,
        }
        self._execute("write_log", parameters)

    def read_log(
        self, key: int, number: int, *, after: tuple[int, int] = (0, -1), limit: int = 64
    ) -> list[LogPiece]:
        """Pieces of a trial's log in order; `after` is the attempt and offset of the last one."""
        parameters = {
            "study": key,
            "trial": number,
            "attempt": after[0],
            "log_offset": after[1],
            "limit": limit,
        }
        return [
            LogPiece(attempt=row.attempt, offset=row.log_offset, text=row.text)
            for row in self._rows(rows.LogRow, "read_log", parameters)
        ]

    # --- repeated requests ---

    def find_answer(self, key: int, answer: Answer) -> bytes | None:
        """The first answer to a request, if it was answered."""
        if not answer.request_id:
            return None
        parameters = {
            "study": key,
            "request_id": answer.request_id,
            "method": answer.method,
        }
        with self._database.connection() as connection:
            row = connection.execute(QUERIES["find_answer"], parameters).fetchone()
        return None if row is None else bytes(row[0])

    def forget_requests(self, before: datetime) -> None:
        """Forgets the answers that nobody asks for any more."""
        self._execute("forget_requests", {"before": before})

    def _execute(self, name: str, parameters: Mapping[str, Any]) -> None:
        with self._database.connection() as connection:
            connection.execute(QUERIES[name], parameters)

    def _rows(self, kind: type[R], name: str, parameters: Mapping[str, Any]) -> list[R]:
        with self._database.connection() as connection:
            return _fetch(connection, kind, name, parameters)


def _fetch(
    connection: Connection, kind: type[R], name: str, parameters: Mapping[str, Any]
) -> list[R]:
    with connection.cursor(row_factory=class_row(kind)) as cursor:
        return cursor.execute(QUERIES[name], parameters).fetchall()


def _one(connection: Connection, name: str, parameters: Mapping[str, Any]) -> Any:
    row = connection.execute(QUERIES[name], parameters).fetchone()
    return None if row is None else row[0]


def _stored(row: rows.StudyRow) -> StoredStudy:
    submitted = convert.spec_from_json(row.submitted)
    return StoredStudy(key=row.study, study=row.to_study(), submitted=submitted)


def _study_columns(study: Study) -> dict[str, Any]:
    return {
        "state": study.state.value,
        "state_reason": study.state_reason,
        "spec": rows.spec_text(study.spec),
        "space": rows.space_text(study.spec),
        "space_version": study.space_version,
        "now": study.update_time,
    }


def _save_study(connection: Connection, key: int, study: Study, answer: Answer) -> None:
    parameters = {
        **_study_columns(study),
        **answer.columns(),
        "study": key,
        "revision": int(study.etag) - 1,
        "statistics": json.dumps(asdict(study.statistics)) if study.statistics else None,
        "exported_model_uri": study.exported_model_uri,
        "end_time": study.end_time,
    }
    connection.execute(QUERIES["save_study"], parameters)


def _measured(
    connection: Connection, parameters: Mapping[str, Any]
) -> Mapping[int, list[Measurement]]:
    measured: dict[int, list[Measurement]] = defaultdict(list)
    for row in _fetch(connection, rows.MeasurementRow, "list_measurements", parameters):
        measured[row.trial].append(row.to_measurement())
    return measured


def _completed(
    connection: Connection,
    key: int,
    study_id: str,
    found: Sequence[rows.TrialRow],
    *,
    full: bool,
) -> list[Trial]:
    """Trials of rows, with their measurements and attempts if that is asked for."""
    if not full:
        return [row.to_trial(study_id) for row in found]
    parameters = {"study": key, "numbers": [row.number for row in found]}
    measured = _measured(connection, parameters)
    tried: dict[int, list[Attempt]] = defaultdict(list)
    for row in _fetch(connection, rows.AttemptRow, "list_attempts", parameters):
        tried[row.trial].append(row.to_attempt())
    return [
        row.to_trial(study_id, measured.get(row.number, ()), tried[row.number]) for row in found
    ]
