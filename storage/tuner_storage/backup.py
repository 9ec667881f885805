"""A database in one file: written while servers use it, read back into an empty database."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from psycopg import conninfo

from tuner.errors import DataDirectoryError, FailedPreconditionError, InvalidArgumentError
from tuner_storage import embedded, errors
from tuner_storage.database import connect, migrate
from tuner_storage.pipeline import Connection
from tuner_storage.queries import QUERIES

#: Servers that run are no part of what a database holds.
_NOT_KEPT = "tuner.servers"


def dump(url: str, file: Path, *, name: str = "TUNER_DATABASE_URL") -> int:
    """Writes the database as it is at one moment to a file; returns the file's size in bytes.

    The file is there once it is complete; one that was there before is replaced then.

    Raises:
        DataDirectoryError: the database cannot be read, or the file not be written.
        FailedPreconditionError: the database holds nothing of tuner's, or pg_dump is too old.
    """
    with connect(url, name) as connection:
        if not _flag(connection, "schema_exists"):
            raise FailedPreconditionError(
                "the database holds nothing of tuner's, so there is nothing to back up; name "
                "another one by TUNER_DATA_DIR or TUNER_DATABASE_URL."
            )
        program = _program("pg_dump", connection)
    kept = ("--schema=tuner", f"--exclude-table-data={_NOT_KEPT}")
    with _written(file) as temporary:
        command = [program, "--format=custom", "--no-owner", "--no-privileges", *kept]
        _run([*command, f"--file={temporary}"], url)
    return file.stat().st_size


def restore(url: str, file: Path, *, name: str = "TUNER_DATABASE_URL") -> int:
    """Reads a file that `dump` wrote into an empty database; returns how many studies it has.

    All of it is restored, or nothing is.

    Raises:
        DataDirectoryError: the database cannot be reached, or a newer tuner wrote the file.
        FailedPreconditionError: the database is not empty.
        InvalidArgumentError: the file is no such file.
    """
    with connect(url, name) as connection:
        if _flag(connection, "schema_exists"):
            raise FailedPreconditionError(
                "the database holds tuner's tables already, and a backup is restored into an "
                "empty one; name a new data directory by TUNER_DATA_DIR, or a new database by "
                "TUNER_DATABASE_URL. Nothing was changed."
            )
        program = _program("pg_restore", connection)
        check_file(program, file)
        _run([program, "--single-transaction", "--exit-on-error", "--no-owner"], url, file)
        try:
            migrate(connection)
        except DataDirectoryError:
            connection.execute(QUERIES["drop_schema"])
            raise
        row = connection.execute(QUERIES["count_studies"]).fetchone()
    return 0 if row is None else int(row[0])


def check_file(program: str, file: Path) -> None:
    """Raises InvalidArgumentError if a file is not what `dump` writes."""
    listed = subprocess.run([program, "--list", str(file)], capture_output=True, text=True)
    if listed.returncode != 0 or " SCHEMA - tuner " not in listed.stdout:
        cause = f" ({_cause(listed.stderr)})" if listed.returncode != 0 else ""
        raise InvalidArgumentError(
            f"{file} is not a backup{cause}; name a file that `tuner backup` wrote. Nothing was "
            "changed."
        )


@contextmanager
def _written(file: Path) -> Iterator[Path]:
    """Lends a temporary path that becomes the file; only its owner may read it."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        yield temporary
        temporary.replace(file)
    except OSError as error:
        raise DataDirectoryError(
            f"{file} cannot be written ({error.strerror}); name another file. Nothing was written."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _program(name: str, connection: Connection) -> str:
    """A program that knows the server's version: the embedded package's, or the PATH's.

    Raises:
        FailedPreconditionError: all are older than the server.
    """
    major = connection.info.server_version // 10000
    found = [str(embedded.program(name))] if embedded.is_installed() else []
    on_path = shutil.which(name)
    found += [on_path] if on_path else []
    versions = {program: program_version(program) for program in found}
    return newest_enough(name, major, versions)


def newest_enough(name: str, major: int, versions: dict[str, int]) -> str:
    """The first program that is not older than a server of that major version."""
    for program, version in versions.items():
        if version >= major:
            return program
    here = f"older ({max(versions.values())})" if versions else "missing"
    raise FailedPreconditionError(
        f"the database is of PostgreSQL {major}, and {name} is {here} here; install the client "
        f"programs of PostgreSQL {major}, so that {name} is on the PATH."
    )


def program_version(program: str) -> int:
    """The major version that a program of PostgreSQL says it is; 0 if it says none."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    match = re.search(r"\) (\d+)", said)
    return int(match[1]) if match else 0


def _run(command: Sequence[str], url: str, file: Path | None = None) -> None:
    # The password goes another way: everybody on the machine can read a command line.
    parts = conninfo.conninfo_to_dict(url)
    password = parts.pop("password", None)
    environment = {**os.environ, "LC_ALL": "C"}
    if password is not None:
        environment["PGPASSWORD"] = str(password)
    target = f"--dbname={conninfo.make_conninfo('', **parts)}"
    last = [] if file is None else [str(file)]
    done = subprocess.run(
        [*command, target, *last], env=environment, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise DataDirectoryError(
            f"{Path(command[0]).name} failed: {_cause(done.stderr)}. Nothing was written."
        )


def _cause(said: str) -> str:
    """What a program of PostgreSQL says is wrong, in one line."""
    lines = said.strip().splitlines() or ["it said nothing"]
    telling = next((line for line in lines if "error:" in line), lines[-1])
    return telling.partition("error:")[2].strip().rstrip(".") or telling.strip()


def _flag(connection: Connection, name: str) -> bool:
    with errors.wrapped():
        row = connection.execute(QUERIES[name]).fetchone()
    return bool(row and row[0])
