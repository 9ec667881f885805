"""A pool of connections to one PostgreSQL database whose schema is this version's."""

from __future__ import annotations

import logging
import re
import select
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import psycopg
import psycopg_pool
from psycopg import conninfo

from tuner.errors import DataDirectoryError
from tuner_storage import errors, pipeline, queries
from tuner_storage.pipeline import Connection, Statement

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 10
#: How long a caller waits for a connection: longer than PostgreSQL takes to be started again.
_WAIT_SECONDS = 3.0
#: How long the pool tries by itself to replace a connection. Its tries come more and more rarely,
#: but a caller who waits makes it start over: so this is less than what a caller waits.
_RECONNECT_SECONDS = 2.0
_OPTIONS: Mapping[str, Any] = {
    "application_name": "tuner",
    # psycopg would prepare statements of its own, and after a rollback make PostgreSQL forget all,
    # those of `pipeline` as well.
    "prepare_threshold": None,
    # The statements are short; compiling them costs more than it saves.
    "options": "-c jit=off -c timezone=UTC -c client_min_messages=warning"
    " -c idle_in_transaction_session_timeout=5000",
    # A server or a network that fell silent is noticed; a local socket needs none of it.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
#: How many lists and files may be read at once, and how long one may take. Readers have
#: connections of their own: however many there are, they do not keep anybody from writing.
_READERS, _READ_MILLISECONDS = 6, 60_000
#: How long PostgreSQL may take for one transaction.
_STATEMENT_SECONDS = 60.0


class Database:
    """Owns a connection pool. Thread-safe; `close` it, or use it in a `with`.

    PostgreSQL may be restarted under it: callers wait for it for a while, statements that are cut
    off raise UnavailableError, and no connection to the server that was is handed out.

    Args:
        url: A PostgreSQL URL or connection string.
        name: What people call it in messages.
        connections: The most that are open at once.

    Raises:
        DataDirectoryError: it cannot be reached, or a newer tuner wrote it. Nothing was changed.
    """

    def __init__(
        self, url: str, *, name: str = "TUNER_DATABASE_URL", connections: int = 16
    ) -> None:
        self._pool: psycopg_pool.ConnectionPool[Connection] | None = None
        self._readers: psycopg_pool.ConnectionPool[Connection] | None = None
        with connect(url, name) as connection:
            migrate(connection)
        self._pool = self._open(url, connections)
        self._readers = self._open(
            url, min(_READERS, connections), f" -c statement_timeout={_READ_MILLISECONDS}"
        )

    def _open(
        self, url: str, connections: int, options: str = ""
    ) -> psycopg_pool.ConnectionPool[Connection]:
        usual = {**_OPTIONS, "options": _OPTIONS["options"] + options}
        return psycopg_pool.ConnectionPool(
            url,
            connection_class=Connection,
            kwargs={"autocommit": True, **usual},
            min_size=min(2, connections),
            max_size=connections,
            timeout=_WAIT_SECONDS,
            reconnect_timeout=_RECONNECT_SECONDS,
            reconnect_failed=_try_again,
            check=self._check,
            open=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lends a connection on which each statement is a transaction of its own."""
        if self._pool is None:
            raise DataDirectoryError("the database is not open.")
        with errors.wrapped(), self._pool.connection() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Lends a connection for what may take long and changes nothing."""
        if self._readers is None:
            raise DataDirectoryError("the database is not open.")
        with errors.wrapped(), self._readers.connection() as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Lends a connection for one transaction of several statements."""
        with self.connection() as connection, connection.transaction():
            yield connection

    def execute(self, statements: Sequence[Statement]) -> None:
        """Executes statements as one transaction, in one round trip; see `pipeline.execute`."""
        if self._pool is None:
            raise DataDirectoryError("the database is not open.")
        with errors.wrapped():
            connection = self._pool.getconn()
            try:
                pipeline.execute(connection, statements, _STATEMENT_SECONDS)
            except BaseException:
                # It may be anywhere in what it was told.
                connection.close()
                raise
            finally:
                self._pool.putconn(connection)

    def _check(self, connection: Connection) -> None:
        """Raises if the other end of an idle connection is closed; costs no round trip."""
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        if not poll.poll(0):
            return
        try:
            psycopg_pool.ConnectionPool.check_connection(connection)
        except psycopg.Error:
            # What ended one has most likely ended all of them; they are not tried one by one.
            for pool in (self._pool, self._readers):
                if pool is not None:
                    pool.drain()
            raise

    def stats(self) -> Mapping[str, int]:
        """The pool's own counters, as psycopg_pool names them."""
        return {} if self._pool is None else self._pool.get_stats()

    def close(self) -> None:
        """Closes every connection."""
        for pool in (self._pool, self._readers):
            if pool is not None:
                pool.close(timeout=5)


def _try_again(pool: psycopg_pool.ConnectionPool[Connection]) -> None:
    """Starts over for those who wait: psycopg_pool itself would only do so for the next caller."""
    if pool.get_stats().get("requests_waiting"):
        pool.check()


def connect(url: str, name: str = "TUNER_DATABASE_URL") -> Connection:
    """Opens a connection outside any pool; raises DataDirectoryError with cause and remedy."""
    target = _target(url, name)
    try:
        return Connection.connect(
            url, autocommit=True, connect_timeout=_CONNECT_SECONDS, **_OPTIONS
        )
    except psycopg.Error as error:
        message = f"{_cause(str(error), target)}; {_remedy(str(error))} ({name})."
        # Without the original: libpq's text may quote the connection string.
        raise DataDirectoryError(message) from None


def _target(url: str, name: str) -> Mapping[str, str]:
    """What may be shown of an address: none of the password, also where it was not escaped."""
    try:
        parts = conninfo.conninfo_to_dict(url)
    except psycopg.Error:
        parts = {"host": "@"}
    shown = {key: str(value) for key, value in parts.items() if key != "password"}
    ports = shown.get("port", "5432").split(",")
    if not all(map(str.isdecimal, ports)) or any("@" in value for value in shown.values()):
        raise DataDirectoryError(
            f"{name} is not a PostgreSQL address; write postgresql://USER:PASSWORD@HOST:5432/"
            "DATABASE, special characters of the password as %XX."
        )
    return shown


def _cause(text: str, target: Mapping[str, str]) -> str:
    where = f"{target.get('host', 'localhost')}:{target.get('port', '5432')}"
    user = target.get("user", "")
    if "password" in text:
        return f"PostgreSQL at {where} refuses the password of user {user!r}"
    if re.search(r"database .* does not exist", text):
        return f"PostgreSQL at {where} has no database {target.get('dbname', user)!r}"
    if re.search(r"role .* does not exist", text):
        return f"PostgreSQL at {where} has no user {user!r}"
    if "pg_hba.conf" in text:
        return f"PostgreSQL at {where} does not let user {user!r} in from here"
    if "could not translate host name" in text or "resolve" in text:
        return f"no host is called {target.get('host', '')!r}"
    return f"PostgreSQL does not answer at {where}"


def _remedy(text: str) -> str:
    if "password" in text or re.search(r"role .* does not exist", text):
        return "correct the user and the password"
    if re.search(r"database .* does not exist", text):
        return "create it, or name another one"
    if "pg_hba.conf" in text:
        return "allow it in the server's pg_hba.conf"
    return "start it, or correct the address"


def migrate(connection: Connection) -> None:
    """Brings the schema to this version.

    Raises:
        DataDirectoryError: a newer tuner wrote the database, or it is not UTF-8.
    """
    steps = queries.migrations()
    with errors.wrapped(), connection.transaction():
        connection.execute(queries.QUERIES["lock_schema"])
        encoding = _value(connection, "server_encoding")
        if encoding != "UTF8":
            raise DataDirectoryError(
                f"the database's encoding is {encoding}; create it with ENCODING 'UTF8'."
            )
        applied = _applied(connection)
        if applied > steps[-1].version:
            raise DataDirectoryError(
                f"a newer tuner wrote this database (schema {applied}, this one knows "
                f"{steps[-1].version}); upgrade tuner. Nothing was changed."
            )
        for step in (step for step in steps if step.version > applied):
            logger.info("migrating the database to schema %d (%s)", step.version, step.name)
            connection.execute(step.sql)
            connection.execute(
                queries.QUERIES["record_migration"],
                {"version": step.version, "name": step.name},
            )


def _applied(connection: Connection) -> int:
    exists = _value(connection, "schema_exists")
    return int(_value(connection, "applied_version")) if exists else 0


def _value(connection: Connection, name: str) -> Any:
    row = connection.execute(queries.QUERIES[name]).fetchone()
    return None if row is None else row[0]
