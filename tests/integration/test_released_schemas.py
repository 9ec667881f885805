"""Databases that released versions wrote become today's, with every row, and are worked on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.integration.conftest import database_of, make_database
from tests.integration.service_support import running, until
from tests.integration.test_migrations import _dump
from tuner.study import StudyState, TrialState
from tuner.v1 import study_pb2, trial_pb2
from tuner_storage import Database, EmbeddedPostgres

DATA = Path(__file__).parent / "data"
#: The schema of each release that changed it; its file is a dump of a database of that release.
RELEASED = {1: "0.1.0"}

Rows = dict[str, tuple[str, list[Any]]]


@pytest.fixture(params=RELEASED, ids=list(RELEASED.values()))
def released(request: pytest.FixtureRequest, postgres: EmbeddedPostgres) -> Iterator[str]:
    """The URL of a database as a release left it."""
    name = f"released_{request.param}"
    make_database(postgres, name)
    url = database_of(postgres, name)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute((DATA / f"schema_{request.param:04}.sql").read_bytes())
    yield url
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def columns_of(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """The columns of each table."""
    query = (
        "SELECT table_name, string_agg(quote_ident(column_name), ', ' ORDER BY ordinal_position) "
        "FROM information_schema.columns JOIN information_schema.tables "
        "USING (table_schema, table_name) "
        "WHERE table_schema = 'tuner' AND table_type = 'BASE TABLE' GROUP BY table_name"
    )
    return dict(connection.execute(query).fetchall())


def rows_of(url: str, columns: dict[str, str] | None = None) -> Rows:
    """Every row as text, by table: all columns, or those that are named."""
    found: Rows = {}
    with psycopg.connect(url) as connection:
        for table, names in (columns or columns_of(connection)).items():
            query = f"SELECT ROW({names})::text FROM tuner.{table} ORDER BY 1".encode()
            found[table] = (names, [row for (row,) in connection.execute(query)])
    return found


def test_every_row_is_there_after_the_migration(released: str, database_url: str) -> None:
    before = rows_of(released)
    assert all(rows for table, (_, rows) in before.items()), before.keys()
    Database(released).close()
    after = rows_of(released, {table: names for table, (names, _) in before.items()})
    migrated = after.pop("migrations")[1]
    assert migrated[: len(before["migrations"][1])] == before.pop("migrations")[1]
    assert after == before
    # `_dump` has the schema alone.
    assert sorted(_dump(released)) == sorted(_dump(database_url))


def test_todays_server_goes_on_with_it(released: str, tmp_path: Path) -> None:
    with running(tmp_path, released, lease_seconds=1) as caller:
        states = {
            study.name.partition("/")[2]: StudyState(study_pb2.Study.State.Name(study.state))
            for study in (caller.study(name) for name in ("going-on", "done", "stopped", "s"))
        }
        assert states == {
            "going-on": StudyState.ACTIVE,
            "done": StudyState.COMPLETED,
            "stopped": StudyState.STOPPED,
            "s": StudyState.ACTIVE,
        }
        trials = caller.trials("going-on")
        assert [TrialState(trial_pb2.Trial.State.Name(trial.state)) for trial in trials[:5]] == [
            TrialState.SUCCEEDED,
            TrialState.SUCCEEDED,
            TrialState.PRUNED,
            TrialState.FAILED,
            TrialState.INFEASIBLE,
        ]
        assert trials[1].final_measurement.metrics["auc"] == 0.91
        measured = caller.trial(0, "going-on").measurements
        assert math.isnan(measured[0].metrics["loss"]) and measured[1].metrics["auc"] == 0.75
        assert "".join(piece.text for piece in caller.read_log(trials[0])) == (
            "epoch 1\nepoch 2: “gut”\n"
        )
        for trial in (caller.trial(n, "going-on") for n in range(5)):
            lasted = [a.end_time.ToDatetime() - a.start_time.ToDatetime() for a in trial.attempts]
            assert trial.cost.worker_time.ToTimedelta() == sum(lasted, timedelta(0))
        # The worker of trial 5 has been silent ever since; it gets a lease's time to come back.
        until(lambda: caller.trial(5, "going-on").state == trial_pb2.Trial.State.QUEUED)
        due = caller.one("new", "going-on")
        assert due.name == "studies/going-on/trials/5" and due.attempt == 3
        caller.report(due, 2, auc=0.95)
        assert caller.complete(due).final_measurement.metrics["auc"] == 0.95
        assert caller.one("new", "going-on").name == "studies/going-on/trials/6"
        assert caller.study("going-on").best_trial == "studies/going-on/trials/5"
        assert caller.create("after-the-upgrade").state == study_pb2.Study.State.ACTIVE
