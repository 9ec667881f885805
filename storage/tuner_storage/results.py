"""What is asked of the database about predictions and what became of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from tuner.endpoint import Result
from tuner_storage.database import Database
from tuner_storage.endpoints import no_endpoint
from tuner_storage.pipeline import Connection
from tuner_storage.queries import QUERIES, fetch_rows, fetch_value


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A prediction that results may come of."""

    endpoint_id: str
    request: str
    version: int
    time: datetime
    #: JSON; empty if it was too long.
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a row of a prediction."""

    request: str
    row: int
    #: Gives the name of the result and its value of what was answered; None if it cannot.
    grade: Callable[[str], tuple[str, float] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Untold:
    """Results of a version whose trial does not say them yet."""

    endpoint_id: str
    version: int
    result: str
    count: int
    total: Decimal
    mean: float
    study_id: str
    trial: int


class ResultStore:
    """The verbs on predictions and results. Thread-safe; owns nothing but the pool."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record_predictions(self, predictions: Sequence[Prediction]) -> None:
        """Keeps predictions; those that are kept already stay as they are."""
        rows = [
            {
                "endpoint_id": each.endpoint_id,
                "request": each.request,
                "version": each.version,
                "time": each.time.isoformat(),
                "answer": each.answer,
            }
            for each in predictions
        ]
        with self._database.connection() as connection:
            connection.execute(QUERIES["record_predictions"], {"rows": json.dumps(rows)})

    def record_results(self, endpoint_id: str, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Counts results; one of the same row and name is replaced.

        Returns:
            Those that were not counted: of no recorded prediction, or without a grade.

        Raises:
            NotFoundError: there is no such endpoint.
        """
        requests = sorted({each.request for each in outcomes})
        parameters = {"endpoint_id": endpoint_id, "requests": requests}
        with self._database.transaction() as connection:
            if fetch_value(connection, "share_endpoint", parameters) is None:
                raise no_endpoint(endpoint_id)
            found = connection.execute(QUERIES["lock_predictions"], parameters).fetchall()
            answers = {request: (version, answer) for request, version, answer in found}
            rows, unknown = _graded(outcomes, answers)
            if rows:
                _record(connection, endpoint_id, rows)
        return unknown

    def list_results(self, endpoint_id: str) -> list[Result]:
        """All results of an endpoint by name and version, not yet compared."""
        with self._database.reading() as connection:
            return fetch_rows(connection, Result, "list_results", {"endpoint_id": endpoint_id})

    def forget(self) -> None:
        """Removes predictions that no results are waited for any more."""
        with self._database.connection() as connection:
            connection.execute(QUERIES["forget_predictions"])

    # --- what trials say of them ---

    def list_untold(self, server: UUID, limit: int = 100) -> list[Untold]:
        """Results that a server is to tell the trials of their versions."""
        with self._database.connection() as connection:
            connection.execute(QUERIES["mark_untellable"])
            parameters = {"server": server, "limit": limit}
            return fetch_rows(connection, Untold, "list_untold", parameters)

    def mark_told(self, told: Untold) -> None:
        """A trial says them now."""
        parameters = {
            "endpoint_id": told.endpoint_id,
            "version": told.version,
            "result": told.result,
            "count": told.count,
            "total": told.total,
        }
        with self._database.connection() as connection:
            connection.execute(QUERIES["mark_told"], parameters)


def _graded(
    outcomes: Sequence[Outcome], answers: Mapping[str, tuple[int, str]]
) -> tuple[list[Mapping[str, Any]], list[Outcome]]:
    """The rows to keep, and what cannot be counted; of the same result the last one counts."""
    rows, unknown = dict[tuple[str, int, str], Mapping[str, Any]](), list[Outcome]()
    for each in outcomes:
        version, answer = answers.get(each.request, (0, ""))
        graded = each.grade(answer) if version else None
        if graded is None:
            unknown.append(each)
            continue
        name, value = graded
        rows[each.request, each.row, name] = {
            "request": each.request,
            "version": version,
            "place": each.row,
            "result": name,
            "value": value,
        }
    return list(rows.values()), unknown


def _record(connection: Connection, endpoint_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
    parameters = {"endpoint_id": endpoint_id, "rows": json.dumps(rows)}
    connection.execute(QUERIES["record_results"], parameters)
