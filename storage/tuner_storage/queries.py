"""The SQL files of this package: named queries, the migrations and the schema."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeVar

import psycopg
from psycopg.rows import class_row

T = TypeVar("T")

_NAME = re.compile(r"^-- ([a-z_]+) --$", re.MULTILINE)
_MIGRATION = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One step from an older schema to today's."""

    version: int
    name: str
    sql: bytes


def parse(text: str) -> Mapping[str, bytes]:
    """Splits a file at its `-- name --` lines; what stands before the first is not read."""
    _, *parts = _NAME.split(text)
    names, bodies = parts[::2], parts[1::2]
    if len(set(names)) != len(names):
        raise ValueError("a query's name appears twice.")
    return {name: body.strip().encode() for name, body in zip(names, bodies, strict=True)}


def schema() -> bytes:
    """The schema as it is today."""
    return (resources.files("tuner_storage.sql") / "schema.sql").read_bytes()


def migrations() -> tuple[Migration, ...]:
    """Every migration, in order."""
    found = []
    for file in resources.files("tuner_storage.migrations").iterdir():
        if match := _MIGRATION.fullmatch(file.name):
            sql = file.read_bytes()
            found.append(Migration(version=int(match[1]), name=match[2], sql=sql))
    return tuple(sorted(found, key=lambda migration: migration.version))


#: Every named query. Bytes, because psycopg takes them as they are and mypy strict agrees.
QUERIES: Mapping[str, bytes] = parse(
    (resources.files("tuner_storage.sql") / "queries.sql").read_text(encoding="utf-8")
)


def fetch_rows(
    connection: psycopg.Connection[Any], kind: type[T], name: str, parameters: Mapping[str, Any]
) -> list[T]:
    """What a query finds, each row as a value of a kind."""
    with connection.cursor(row_factory=class_row(kind)) as cursor:
        return cursor.execute(QUERIES[name], parameters).fetchall()


def fetch_value(
    connection: psycopg.Connection[Any], name: str, parameters: Mapping[str, Any]
) -> Any:
    """The first column of the first row that a query finds; None if it finds none."""
    row = connection.execute(QUERIES[name], parameters).fetchone()
    return None if row is None else row[0]
