"""Statements that go out in one packet, run as one transaction, and answer in one."""

from __future__ import annotations

import re
import select
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

import psycopg
from psycopg import pq

from tuner_storage.queries import QUERIES

#: A statement's name in `QUERIES`, and its parameters.
Statement = tuple[str, Mapping[str, Any]]

_PARAMETER = re.compile(rb"%\((\w+)\)s")
_DONE = frozenset({pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK})


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that remembers which statements PostgreSQL has prepared for it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.prepared = set[str]()


def execute(connection: Connection, statements: Sequence[Statement], seconds: float) -> None:
    """Executes statements as one transaction; their answers are not looked at.

    psycopg's own pipeline sends and awaits each statement by itself, in Python; here libpq sends
    all and is asked once, at a quarter of the cost. Without a BEGIN, PostgreSQL takes the
    statements of a pipeline as one transaction until its end.

    Args:
        connection: In autocommit mode, outside a transaction; to be closed after an error.
        statements: In their order.
        seconds: How long PostgreSQL may be silent.

    Raises:
        psycopg.Error: one failed, and with it all; OperationalError if PostgreSQL is silent.
    """
    libpq = connection.pgconn
    libpq.enter_pipeline_mode()
    expected = 0
    for name, parameters in statements:
        text, names = _numbered(name)
        if name not in connection.prepared:
            libpq.send_prepare(name.encode(), text)
            connection.prepared.add(name)
            expected += 1
        libpq.send_query_prepared(name.encode(), [_text(parameters[key]) for key in names])
        expected += 1
    libpq.pipeline_sync()
    line = _Line(connection, seconds)
    line.flush()
    for _ in range(expected):
        line.check(_DONE)
        line.result()  # libpq says None between two statements
    line.check({pq.ExecStatus.PIPELINE_SYNC})
    libpq.exit_pipeline_mode()


class _Line:
    """What libpq sends and receives, awaited with a deadline."""

    def __init__(self, connection: Connection, seconds: float) -> None:
        self._libpq = connection.pgconn
        self._encoding = connection.info.encoding
        self._poll = select.poll()
        self._socket = self._libpq.socket
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds

    def flush(self) -> None:
        """Sends all; PostgreSQL may answer meanwhile, and is listened to."""
        while self._libpq.flush():
            if self._wait(select.POLLIN | select.POLLOUT) & select.POLLIN:
                self._libpq.consume_input()

    def result(self) -> pq.abc.PGresult | None:
        """The next result."""
        while self._libpq.is_busy():
            self._wait(select.POLLIN)
            self._libpq.consume_input()
        return self._libpq.get_result()

    def check(self, wanted: frozenset[int] | set[pq.ExecStatus]) -> None:
        """Raises what the next result says, unless it is one that is wanted."""
        result = self.result()
        if result is None or result.status not in wanted:
            if result is None or result.status != pq.ExecStatus.FATAL_ERROR:
                raise psycopg.OperationalError("PostgreSQL answered out of turn.")
            raise psycopg.errors.error_from_result(result, self._encoding)

    def _wait(self, events: int) -> int:
        self._poll.register(self._socket, events)
        left = self._deadline - time.monotonic()
        ready = self._poll.poll(max(0.0, left) * 1000)
        if not ready:
            raise psycopg.OperationalError(f"PostgreSQL was silent for {self._seconds:g} s.")
        return ready[0][1]


@cache
def _numbered(name: str) -> tuple[bytes, tuple[str, ...]]:
    """A statement with its parameters numbered, and their names in that order."""
    names: dict[bytes, int] = {}

    def number(found: re.Match[bytes]) -> bytes:
        return b"$%d" % names.setdefault(found[1], len(names) + 1)

    text = _PARAMETER.sub(number, QUERIES[name])
    return text, tuple(parameter.decode() for parameter in names)


def _text(value: object) -> bytes | None:
    """A value in PostgreSQL's words; every statement casts its parameters, so words will do."""
    match value:
        case None:
            return None
        case bool():
            return b"true" if value else b"false"
        case str():
            return value.encode()
        case int() | float() | UUID():
            return str(value).encode()
        case bytes():
            return b"\\x" + value.hex().encode()
        case datetime():
            return value.isoformat().encode()
        case timedelta():
            return b"%d microseconds" % (value // timedelta(microseconds=1))
        case list():
            return b"{" + b",".join(str(int(number)).encode() for number in value) + b"}"
    raise TypeError(f"{type(value).__name__} is not written to the database.")
