"""What the study server asks of its database: one method is one transaction."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from psycopg.rows import dict_row

from tuner import convert
from tuner.errors import NotFoundError
from tuner.study import Attempt, Cause, Measurement, Study, StudyState, Trial
from tuner_storage import rows, writes
from tuner_storage.columns import Block, MeasurementColumns, MetricColumns, TrialColumns
from tuner_storage.database import Database
from tuner_storage.pipeline import Connection
from tuner_storage.queries import QUERIES, fetch_rows, fetch_value
from tuner_storage.values import (
    NO_REQUEST,
    LoadedTrials,
    LogPiece,
    Orphan,
    Ownership,
    Request,
    ServerEntry,
    StoredStudy,
    TrialPage,
)
from tuner_storage.writes import Write

R = TypeVar("R")

#: How many trials are read at once.
_BLOCK = 10_000
#: No trial has a higher number.
_LAST = 2**31 - 1
_ORDERS = {
    "number": "list_trials_by_number",
    "number desc": "list_trials_by_number_desc",
    "best": "list_trials_by_score",
}


class Store:
    """The database's verbs. Thread-safe; owns nothing but the pool it was given.

    Every method is one transaction: when it returns, what it did is on disk; when it raises,
    nothing was done. `now` is handed in, so that a verb and its answer agree about the time.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- writing to a study ---

    def commit(self, ownership: Ownership, changes: Sequence[Write]) -> None:
        """Writes changes of one study, in their order, all or none.

        Raises:
            StaleError: the server does not own the study any more, or a change does not fit what
                the database holds.
            TunerError: as the statements of `writes` say.
        """
        owner = {"server": ownership.server, "epoch": ownership.epoch}
        work = [("check_owner", owner), *writes.statements(changes)]
        self._database.execute([(name, {"study": ownership.key, **of}) for name, of in work])

    # --- studies ---

    def create_study(
        self, study: Study, *, request: Request = NO_REQUEST, replaces: int | None = None
    ) -> int:
        """Returns the new study's key; `replaces` is the key of one that stopped without a trial.

        Raises:
            AlreadyExistsError: the id is taken.
        """
        parameters = {
            **writes.study_columns(study),
            **request.columns(),
            "study_id": study.study_id,
            "submitted": rows.spec_text(study.spec),
            "managed": study.spec.is_managed,
            "creator": study.creator,
        }
        with self._database.transaction() as connection:
            if replaces is not None:
                connection.execute(QUERIES["delete_failed_study"], {"study": replaces})
            return int(fetch_value(connection, "create_study", parameters))

    def find_study(self, study_id: str) -> StoredStudy | None:
        """The study of that id, if there is one."""
        found = self._rows(rows.StudyRow, "find_study", {"study_id": study_id})
        return _stored(found[0]) if found else None

    def find_key(self, study_id: str) -> int | None:
        """The key of the study of that id, if there is one."""
        with self._database.connection() as connection:
            key = fetch_value(connection, "find_key", {"study_id": study_id})
        return None if key is None else int(key)

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
        with self._database.reading() as connection:
            found = fetch_rows(connection, rows.StudyRow, "list_studies", parameters)
        return [_stored(row) for row in found]

    # --- trials ---

    def load_trials(self, stored: StoredStudy) -> LoadedTrials:
        """Everything that a server keeps in memory of a study's trials.

        The server has claimed the study, so nobody else writes to it: the reads need not be one
        transaction, which PostgreSQL would end as idle if making trials of the rows took long.
        """
        parameters = {"study": stored.key}
        with self._database.connection() as connection:
            trials = [
                trial
                for block in _blocks(connection, stored.key)
                for trial in block.trials(stored.study.study_id, stored.key)
            ]
            causes: dict[int, list[Cause]] = defaultdict(list)
            furthest: dict[int, int] = {}
            for number, cause, step in connection.execute(QUERIES["list_causes"], parameters):
                causes[number].append(Cause(cause))
                if step is not None:
                    furthest[number] = max(step, furthest.get(number, step))
            answered = connection.execute(QUERIES["list_requests"], parameters).fetchall()
        return LoadedTrials(
            trials=tuple(trials),
            causes={number: tuple(listed) for number, listed in causes.items()},
            furthest=furthest,
            answered=frozenset((request_id, method) for request_id, method in answered),
        )

    def finished_trials(self, stored: StoredStudy, before: datetime) -> list[Trial]:
        """The trials that had ended with a result by a time, without what they reported."""
        parameters = {"study": stored.key, "before": before}
        found = self._rows(rows.TrialRow, "finished_trials", parameters)
        return [row.to_trial(stored.study.study_id) for row in found]

    def get_trial(self, key: int, study_id: str, number: int, *, full: bool) -> Trial:
        """Returns a trial; raises NotFoundError."""
        with self._database.reading() as connection:
            parameters = {"study": key, "number": number}
            found = fetch_rows(connection, rows.TrialRow, "find_trial", parameters)
            if not found:
                raise NotFoundError(f"study {study_id!r} has no trial {number}.")
            return _completed(connection, key, study_id, found, full=full)[0]

    def list_trials(
        self, key: int, study_id: str, page: TrialPage
    ) -> list[tuple[Trial, float | None]]:
        """Returns one page of a study's trials, each with what it is ordered by."""
        parameters: dict[str, Any] = {
            "study": key,
            "states": [state.value for state in page.states] or None,
            "numbers": None if page.numbers is None else list(page.numbers),
            "filter": page.filter,
            "limit": page.limit,
            "number": page.after_number,
            "key": page.after_key,
        }
        if page.order in _ORDERS:
            name = _ORDERS[page.order]
            parameters |= _start(page)
        else:
            name = "list_trials_by_key"
            # A name may hold spaces: that of a cross does.
            word = page.order.removesuffix(" desc")
            kind, _, of = word.partition(".")
            parameters |= {"kind": kind, "name": of, "sign": 1 if word == page.order else -1}
        with self._database.reading() as connection:
            found = fetch_rows(connection, rows.TrialRow, name, parameters)
            trials = _completed(connection, key, study_id, found, full=page.full)
        keys = [row.score if page.order == "best" else row.key for row in found]
        return list(zip(trials, keys, strict=True))

    # --- logs ---

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
        with self._database.reading() as connection:
            found = fetch_rows(connection, rows.LogRow, "read_log", parameters)
        return [
            LogPiece(attempt=row.attempt, offset=row.log_offset, text=row.text) for row in found
        ]

    # --- repeated requests ---

    def find_answer(self, key: int, request_id: str, method: str) -> bytes | None:
        """The first answer to a request, if it was answered; of a deletion the key is 0."""
        parameters = {"study": key, "request_id": request_id, "method": method}
        with self._database.connection() as connection:
            row = connection.execute(QUERIES["find_answer"], parameters).fetchone()
        return None if row is None else bytes(row[0])

    def forget_requests(self, before: datetime) -> None:
        """Forgets the answers that nobody asks for any more."""
        self._execute("forget_requests", {"before": before})

    # --- several servers ---

    def forget_servers(self) -> None:
        """Forgets servers that are long dead."""
        self._execute("forget_servers", {})

    def enter_server(self, server: UUID, address: str, lease: timedelta) -> None:
        """Registers a server as alive for a time, or renews that."""
        self._execute("enter_server", {"server": server, "address": address, "lease": lease})

    def leave_server(self, server: UUID) -> None:
        """A server stops: its studies are anybody's."""
        self._execute("leave_server", {"server": server})

    def list_servers(self) -> list[ServerEntry]:
        """The servers that are alive, and how many studies each owns."""
        return self._rows(ServerEntry, "list_servers", {})

    def claim_study(self, server: UUID, study_id: str) -> int | None:
        """Makes the server the study's owner; returns the epoch.

        None: there is no such study, or another living server owns it.
        """
        with self._database.connection() as connection:
            epoch = fetch_value(
                connection, "claim_study", {"server": server, "study_id": study_id}
            )
        return None if epoch is None else int(epoch)

    def find_owner(self, study_id: str) -> str | None:
        """The address of the study's owner, empty if it has none; None: no such study."""
        with self._database.connection() as connection:
            row = connection.execute(QUERIES["find_owner"], {"study_id": study_id}).fetchone()
        return None if row is None else str(row[0] or "")

    def list_owned(self, server: UUID) -> Mapping[int, int]:
        """The epochs of the studies that a server owns, by key."""
        with self._database.connection() as connection:
            return dict(connection.execute(QUERIES["list_owned"], {"server": server}).fetchall())

    def hand_over_study(self, ownership: Ownership, heir: UUID) -> None:
        """Gives a study to another living server."""
        parameters = {"study": ownership.key, "server": ownership.server, "heir": heir}
        self._execute("hand_over_study", parameters)

    def list_orphans(self, server: UUID) -> list[Orphan]:
        """Studies to be worked on that no other living server owns."""
        return self._rows(Orphan, "list_orphans", {"server": server})

    def _execute(self, name: str, parameters: Mapping[str, Any]) -> None:
        with self._database.connection() as connection:
            connection.execute(QUERIES[name], parameters)

    def _rows(self, kind: type[R], name: str, parameters: Mapping[str, Any]) -> list[R]:
        with self._database.connection() as connection:
            return fetch_rows(connection, kind, name, parameters)


def _blocks(connection: Connection, key: int) -> Iterator[Block]:
    """A study's history, so many trials at a time.

    Reading a column keeps all threads of the process from running, those too that renew the
    server's registration.
    """
    first = 0
    while True:
        range_ = {"study": key, "first": first, "past": first + _BLOCK}
        block = Block(
            columns=_columns(connection, TrialColumns, "load_trials", range_),
            results=_columns(connection, MetricColumns, "load_results", range_),
            measured=_columns(connection, MeasurementColumns, "load_measurements", range_),
        )
        yield block
        if len(block.columns.number) < _BLOCK:
            return
        first += _BLOCK


def _columns(connection: Connection, kind: type[R], name: str, parameters: Mapping[str, Any]) -> R:
    """The one row of a query whose columns are arrays; what is NULL, of nothing, is empty."""
    # Binary arrays are read several times as fast as text.
    with connection.cursor(binary=True, row_factory=dict_row) as cursor:
        row = cursor.execute(QUERIES[name], parameters).fetchone() or {}
    return kind(**{column: values or [] for column, values in row.items()})


def _stored(row: rows.StudyRow) -> StoredStudy:
    submitted = convert.spec_from_json(row.submitted)
    return StoredStudy(key=row.study, study=row.to_study(), submitted=submitted)


def _measured(
    connection: Connection, parameters: Mapping[str, Any]
) -> Mapping[int, list[Measurement]]:
    measured: dict[int, list[Measurement]] = defaultdict(list)
    for row in fetch_rows(connection, rows.MeasurementRow, "list_measurements", parameters):
        measured[row.trial].append(row.to_measurement())
    return measured


def _start(page: TrialPage) -> Mapping[str, Any]:
    """What the page comes after, in an order that an index has; before everything at first."""
    if page.after_number is None:
        return {"number": _LAST if page.order == "number desc" else -1, "rank": -math.inf}
    return {"rank": math.inf if page.after_key is None else -page.after_key}


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
    for row in fetch_rows(connection, rows.AttemptRow, "list_attempts", parameters):
        tried[row.trial].append(row.to_attempt())
    return [
        row.to_trial(study_id, measured.get(row.number, ()), tried[row.number]) for row in found
    ]
