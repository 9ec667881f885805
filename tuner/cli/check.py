"""`tuner check`: every mistake of a study file, and of what it says about its data."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from tuner import code, study_file
from tuner.cli import describe, documents
from tuner.cli.quiet import quiet_libraries
from tuner.cli.session import Session, json_option
from tuner.client import tables
from tuner.errors import TunerError
from tuner.space import Space
from tuner.study import StudySpec
from tuner.trainer_spaces import is_own

if TYPE_CHECKING:
    from tuner_trainers.prepare import Prepared


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--no-data", is_flag=True, help="Do not read the data, nor import the trainer.")
@json_option
@click.pass_obj
def check(session: Session, file: Path, no_data: bool) -> None:
    """Find every mistake in a study file: each with its line, and what is allowed."""
    read = study_file.read(file)
    if read.spec is None:
        _print_problems(session, file, read)
        click.get_current_context().exit(2)
    prepared, skipped, space = None, "", read.spec.space
    if is_own(read.spec.trainer) and read.spec.data is None:
        space = space if no_data else _examined(session, file, read.spec)
    else:
        prepared, skipped = _prepare(session, file, read.spec, no_data)
        space = space if prepared is None else prepared.space
    if session.as_json:
        session.print_json(_document(file, read, space, prepared))
        return
    if prepared is not None:
        describe.print_features(session, prepared.features, space)
        for name, reason in prepared.skipped.items():
            session.note(f"{name} is left out: {reason}")
    if space.parameters:
        session.out.print(tables.fitted(_space_table(space), session.out, "values", "when"))
    session.say(f"ok: {read.study_id}: {_summary(read.spec, prepared, space)}")
    if skipped:
        session.note(skipped)


def _print_problems(session: Session, file: Path, read: study_file.StudyFile) -> None:
    if session.as_json:
        session.print_json(_document(file, read, Space(), None))
        return
    for problem in read.problems:
        click.echo(problem.describe(str(file)), err=True)


def _examined(session: Session, file: Path, spec: StudySpec) -> Space:
    """The space, once the trainer was imported from its code as it would be shipped."""
    from tuner_trainers import own  # what it imports may take its time

    with (
        quiet_libraries(),
        tempfile.TemporaryDirectory() as scratch,
        session.spinner("looking at the trainer"),
    ):
        try:
            return own.examine(code.ship(spec, Path(scratch)), Path(scratch))
        except TunerError as error:
            cause = error.message.rstrip(".")
            raise type(error)(f"{file}: {cause}; --no-data checks the file alone.") from error


def _prepare(
    session: Session, file: Path, spec: StudySpec, no_data: bool
) -> tuple[Prepared | None, str]:
    """What the data says, or why it was not asked."""
    if not spec.is_managed or no_data:
        return None, ""
    try:
        from tuner_trainers import learning, prepare  # the worker extra may not be installed
    except ModuleNotFoundError as error:
        return None, f"the data was not read: {error.name} is missing; pip install 'tuner[all]'"
    try:
        client = session.find_client()
        shelf = None if client is None else client.shelf
        with (
            quiet_libraries(),
            session.reading() as progress,
            tempfile.TemporaryDirectory() as scratch,
        ):
            learner = learning.Learner(shelf=shelf, progress=progress)
            artifacts = Path(scratch)
            shipped = code.ship(spec, artifacts)
            return prepare.prepare(shipped, artifacts=artifacts, learner=learner), ""
    except TunerError as error:
        cause = error.message.rstrip(".")
        raise type(error)(f"{file}: {cause}; --no-data checks the file alone.") from error


def _summary(spec: StudySpec, prepared: Prepared | None, space: Space) -> str:
    if prepared is None:
        return describe.summary(spec, space=space)
    rows = prepared.statistics.rows
    told = describe.summary(spec, rows, features=prepared.features, space=prepared.space)
    classes = len(prepared.classes)
    return f"{prepared.task}{f' of {classes} classes' if classes > 2 else ''} · {told}"


def _space_table(space: Space) -> Table:
    view = tables.table()
    for heading in ("parameter", "group", "values", "when"):
        view.add_column(heading, no_wrap=True)
    conditions = {
        child.parameter.name: f"{parent.name} is {' or '.join(map(str, child.parent_values))}"
        for parent in space.walk()
        for child in parent.children
    }
    for parameter in space.walk():
        view.add_row(
            parameter.name,
            parameter.group,
            parameter.domain.describe(),
            conditions.get(parameter.name, ""),
        )
    if not conditions:
        view.columns.pop()
    return view


def _document(
    file: Path, read: study_file.StudyFile, space: Space, prepared: Prepared | None
) -> dict[str, object]:
    return {
        "file": str(file),
        "ok": read.spec is not None,
        "problems": [
            {"line": p.line, "column": p.column, "message": p.message} for p in read.problems
        ],
        "study": read.study_id or None,
        "parameters": [documents.parameter(parameter) for parameter in space.walk()],
        "rows": prepared.statistics.rows if prepared else None,
        "task": prepared.task if prepared else None,
    }
