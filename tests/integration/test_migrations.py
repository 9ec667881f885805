"""The migrations and the schema for reading give the same database."""

from __future__ import annotations

import subprocess
from itertools import product

import psycopg
import pytest

from tests.integration.conftest import database_of, make_database
from tuner.errors import DataDirectoryError
from tuner.study import STUDY_MOVES, TRIAL_MOVES, StudyState, TrialState
from tuner_storage import Database, EmbeddedPostgres, embedded, queries


def _dump(url: str) -> list[str]:
    """The schema as statements, without the words that differ from one dump to the next."""
    program = embedded._programs() / "pg_dump"
    command = [str(program), "--schema-only", "--no-owner", url]
    text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    return [line for line in text.splitlines() if not line.startswith(("--", "\\"))]


def test_migrations_equal_the_schema(postgres: EmbeddedPostgres, database_url: str) -> None:
    make_database(postgres, "by_schema")
    by_schema = database_of(postgres, "by_schema")
    with psycopg.connect(by_schema, autocommit=True) as connection:
        connection.execute(queries.schema())
    dumped = _dump(by_schema)
    assert "CREATE TABLE tuner.trials (" in dumped
    assert _dump(database_url) == dumped


def test_opening_again_changes_nothing(database_url: str) -> None:
    before = _dump(database_url)
    Database(database_url).close()
    assert _dump(database_url) == before
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT version, name FROM tuner.migrations").fetchall()
    assert rows == [(m.version, m.name) for m in queries.migrations()]


def test_a_newer_database_is_left_alone(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("INSERT INTO tuner.migrations VALUES (99, 'from_the_future')")
        connection.execute("ALTER TABLE tuner.trials RENAME TO trials_of_tomorrow")
    before = _dump(database_url)
    with pytest.raises(DataDirectoryError, match=r"newer tuner wrote this database \(schema 99"):
        Database(database_url)
    assert _dump(database_url) == before


def test_a_database_that_is_not_utf8_is_refused(postgres: EmbeddedPostgres) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    url = database_of(postgres, "latin")
    with pytest.raises(DataDirectoryError, match="encoding is LATIN1; create it with"):
        Database(url)
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT to_regnamespace('tuner') IS NULL").fetchone()
    assert found == (True,)


@pytest.mark.parametrize("kind", ["study", "trial"])
def test_sql_knows_the_same_moves(database_url: str, kind: str) -> None:
    states: list[StudyState] | list[TrialState]
    states = list(StudyState) if kind == "study" else list(TrialState)
    legal = {
        (before.value, after.value)
        for before, afters in (STUDY_MOVES if kind == "study" else TRIAL_MOVES).items()
        for after in afters
    }
    with psycopg.connect(database_url) as connection:
        asked = f"SELECT tuner.is_{kind}_move(%s, %s)".encode()
        for before, after in product(states, states):
            found = connection.execute(asked, (before.value, after.value)).fetchone()
            assert found == ((before.value, after.value) in legal,), (before, after)


def test_queries_have_names_of_their_own() -> None:
    assert queries.parse("preamble\n-- a --\nSELECT 1;\n\n-- b_c --\n-- why\nSELECT 2;\n") == {
        "a": b"SELECT 1;",
        "b_c": b"-- why\nSELECT 2;",
    }
    with pytest.raises(ValueError, match="twice"):
        queries.parse("-- a --\nSELECT 1;\n-- a --\nSELECT 2;")


def test_every_query_is_prepared(database_url: str) -> None:
    """PostgreSQL itself checks every statement against the schema."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        for name, query in queries.QUERIES.items():
            names = dict.fromkeys(_parameters(query))
            with connection.transaction(force_rollback=True):
                try:
                    connection.execute(query, names)
                except (psycopg.IntegrityError, psycopg.DatabaseError) as error:
                    assert not isinstance(error, psycopg.ProgrammingError), (name, error)


def _parameters(query: bytes) -> list[str]:
    text = query.decode()
    return [part.partition(")s")[0] for part in text.split("%(")[1:]]
