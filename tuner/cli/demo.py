"""`tuner demo`: the main job on real data, from raw rows to predictions, in a few minutes."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import click
from rich.syntax import Syntax

from tuner.cli.endpoints import deploy
from tuner.cli.models import predict
from tuner.cli.session import Session, json_option
from tuner.cli.submit import submit
from tuner.client import Access, tables
from tuner.client.local import LocalTuner
from tuner.config import Settings
from tuner.errors import TunerError

_LABEL, _MODEL = "diagnosis", "tumours"
#: Rows that the study never sees.
_NEW_ROWS = 69
_SHOWN_ROWS = 8


@click.command()
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("tuner-demo"),
    show_default=True,
    help="Where the demo's data, study file and models lie.",
)
@json_option
@click.pass_context
def demo(context: click.Context, directory: Path) -> None:
    """Show everything on real data, in minutes.

    Starts a study server, a runner and the web pages, tunes a network and its preprocessing with
    two workers for each trial, exports the winner, serves it, predicts rows it has never seen,
    and stops.
    """
    session: Session = context.obj
    files = _write_files(directory)
    with _Steps(session).all() as step:
        step(f"The study file: {files.study}")
        if not session.as_json:
            session.out.print(Syntax(files.study.read_text(), "yaml", background_color="default"))
        step("Starting the study server with PostgreSQL, the runner with Ray, pages and gateway")
        with _running(session, directory / "home") as web:
            session.say(f"the study's page, while it runs: {web}/studies/{files.study_id}")
            step(f"tuner submit {files.study} --wait")
            context.invoke(submit, file=files.study, name=files.study_id, wait=True)
            model = _exported_model(session, files.study_id)
            step(f"tuner deploy {_MODEL}; tuner predict {_MODEL} --input {files.new_rows}")
            context.invoke(deploy, version=_MODEL)
            served = _predictions(context, files, _MODEL)
        step(f"Everything is stopped. tuner predict {model} --input {files.new_rows}")
        _judge(session, files, _predictions(context, files, str(model)), served)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    study: Path
    study_id: str
    new_rows: Path
    truth: tuple[str, ...]


class _Steps:
    """Says what happens now, and at the end how long all of it took."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._start = time.monotonic()

    @contextmanager
    def all(self) -> Iterator[_Steps]:
        """The whole demo."""
        yield self
        self._session.say(f"\nThe demo took {time.monotonic() - self._start:.0f} seconds.")

    def __call__(self, text: str) -> None:
        if not self._session.as_json:
            self._session.out.rule(style="dim")
            self._session.out.print(text, style="bold", soft_wrap=True)


def _write_files(directory: Path) -> _Files:
    """Writes the known rows, the new rows without their label, and the study file."""
    from sklearn.datasets import load_breast_cancer  # the demo extra

    directory.mkdir(parents=True, exist_ok=True)
    data = load_breast_cancer()
    names = [name.replace(" ", "_") for name in data.feature_names]
    labels = [str(data.target_names[target]) for target in data.target]
    rows = [dict(zip(names, row, strict=True)) for row in data.data.tolist()]
    known = [{**row, _LABEL: label} for row, label in zip(rows, labels, strict=True)]
    _write_csv(directory / "known.csv", known[_NEW_ROWS:])
    # A client may not know everything: the first new row lacks a value.
    rows[0]["mean_texture"] = ""
    _write_csv(directory / "new-rows.csv", rows[:_NEW_ROWS])
    study = directory / "tumours.yaml"
    study.write_text(resources.files("tuner.cli").joinpath("demo.yaml").read_text())
    return _Files(
        study=study,
        study_id=time.strftime("tumours-%H%M%S"),
        new_rows=directory / "new-rows.csv",
        truth=tuple(labels[:_NEW_ROWS]),
    )


def _write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@contextmanager
def _running(session: Session, data_dir: Path) -> Iterator[str]:
    """A `tuner up` for the demo alone, on free ports; yields the address of the web pages."""
    settings = Settings.read(
        data_dir=data_dir, server_port=0, web_port=0, rest_port=0, grpc_port=0
    )
    local = LocalTuner.start(settings, announce=False)
    try:
        session.access = Access.of(replace(settings, server=""))
        yield local.web
    finally:
        session.close()
        local.close()


def _exported_model(session: Session, study_id: str) -> Path:
    uri = session.client.get_study(study_id).record.exported_model_uri
    if not uri:
        raise TunerError(f"{study_id} ended without exporting its winner; see the runner's log.")
    return Path(uri)


def _predictions(context: click.Context, files: _Files, model: str) -> list[dict[str, str]]:
    """What a model predicts for the new rows: that in a folder, or that of an endpoint."""
    output = files.new_rows.with_name("predictions.csv")
    context.invoke(predict, model=model, input=files.new_rows, output=output)
    with output.open(newline="") as file:
        return list(csv.DictReader(file))


def _judge(
    session: Session,
    files: _Files,
    predicted: Sequence[Mapping[str, str]],
    served: Sequence[Mapping[str, str]],
) -> None:
    """Shows the predictions, and how many are right; those that were served are the same."""
    guesses = [row[_LABEL] for row in predicted]
    right = sum(a == b for a, b in zip(guesses, files.truth, strict=True))
    same = sum(row[_LABEL] == guess for row, guess in zip(served, guesses, strict=True))
    _show(session, predicted, files.truth)
    session.say(
        f"{right} of {len(files.truth)} rows that the study never saw are right; the gateway's "
        f"answers were the same for {same} of them."
    )


def _show(session: Session, predicted: Sequence[Mapping[str, str]], truth: Sequence[str]) -> None:
    """Some of the predictions, beside what was true; the row is the one in new-rows.csv."""
    if session.as_json:
        return
    view = tables.table()
    view.add_column("row", justify="right")
    for name in (*predicted[0], "in truth"):
        view.add_column(name, justify="right" if name.startswith("probability") else "left")
    for number in range(0, len(predicted), len(predicted) // _SHOWN_ROWS):
        values = (_short(value) for value in predicted[number].values())
        view.add_row(str(number + 1), *values, truth[number])
    session.out.print(view)


def _short(value: str) -> str:
    """A probability with four decimals, a label as it is."""
    try:
        return f"{float(value):.4f}"
    except ValueError:
        return value
