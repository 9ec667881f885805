"""For the whole session a real PostgreSQL and models to serve; an empty database for each test."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tuner_storage import Database, EmbeddedPostgres

_TEMPLATE = "template_tuner"
_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """An embedded server, and in it a database that the others are copies of."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("postgres")) as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            # Tests need no durability but what they test themselves, on servers of their own.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
        make_database(server, _TEMPLATE, template="template1")
        Database(database_of(server, _TEMPLATE)).close()
        yield server


@pytest.fixture
def database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database with tuner's tables and nothing in them."""
    name = f"test_{next(_numbers)}"
    make_database(postgres, name, template=_TEMPLATE)
    yield database_of(postgres, name)
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def make_database(server: EmbeddedPostgres, name: str, *, template: str = "template1") -> None:
    """Creates a database."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())


def database_of(server: EmbeddedPostgres, name: str) -> str:
    """The URL of a database."""
    return server.url.replace("/postgres?", f"/{name}?")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of `serving_models`, and one that cannot be loaded."""
    folder = tmp_path_factory.mktemp("models")
    command = [sys.executable, "-m", "tests.integration.serving_models", str(folder)]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    (folder / "broken" / "1").mkdir(parents=True)
    (folder / "broken" / "1" / "saved_model.pb").write_bytes(b"no model")
    return folder
