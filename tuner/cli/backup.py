"""`tuner backup` and `tuner restore`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from tuner.cli.session import Session
from tuner.cli.up import settings_options
from tuner.config import Settings
from tuner.errors import FailedPreconditionError
from tuner_storage import DataDirectory, EmbeddedPostgres, embedded
from tuner_storage import backup as files

_EMBEDDED = "the embedded PostgreSQL"

file_argument = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


@click.command()
@file_argument
@settings_options("data-dir", "database-url")
@click.pass_obj
def backup(session: Session, /, file: Path, **flags: Any) -> None:
    """Write all studies and trials to FILE, also while the study server runs.

    Checkpoints and models are files already: copy the artifacts' folder as well.
    """
    settings = Settings.read(**flags)
    with session.spinner("writing the backup"), _database(settings) as (url, name):
        size = files.dump(url, file.absolute(), name=name)
    if session.as_json:
        session.print_json({"file": str(file), "bytes": size})
    session.say(f"the backup is in {file} ({size:,} bytes)")


@click.command()
@file_argument
@settings_options("data-dir", "database-url")
@click.pass_obj
def restore(session: Session, /, file: Path, **flags: Any) -> None:
    """Read FILE, which `tuner backup` wrote, into an empty database."""
    settings = Settings.read(**flags)
    if not file.is_file():
        raise FailedPreconditionError(f"there is no file {file}; name one that you backed up.")
    with session.spinner("restoring"), _empty_database(settings) as (url, name):
        studies = files.restore(url, file.absolute(), name=name)
    if session.as_json:
        session.print_json({"studies": studies})
    session.say(f"restored {studies} studies; `tuner up` continues them")


@contextmanager
def _database(settings: Settings) -> Iterator[tuple[str, str]]:
    """The address and the name of the database, whether its server runs or not."""
    if settings.database_url:
        yield settings.database_url, "TUNER_DATABASE_URL"
        return
    if not embedded.exists(settings.data_dir):
        raise FailedPreconditionError(
            f"there is no database in {settings.data_dir}; name its directory by --data-dir or "
            "TUNER_DATA_DIR."
        )
    with embedded.running(settings.data_dir) as url:
        if url is not None:
            yield url, _EMBEDDED
            return
    with _own_database(settings) as found:
        yield found


@contextmanager
def _empty_database(settings: Settings) -> Iterator[tuple[str, str]]:
    """The same for a database that no server uses; it is made if there is none."""
    if settings.database_url:
        yield settings.database_url, "TUNER_DATABASE_URL"
        return
    with _own_database(settings) as found:
        yield found


@contextmanager
def _own_database(settings: Settings) -> Iterator[tuple[str, str]]:
    with (
        DataDirectory(settings.data_dir, postgres=embedded.POSTGRES),
        EmbeddedPostgres(settings.data_dir) as postgres,
    ):
        yield postgres.url, _EMBEDDED
