"""`tuner export`, `tuner import` and `tuner predict`: models in and out, rows to predictions."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import click

from tuner import registry
from tuner.cli import documents
from tuner.cli.quiet import quiet_libraries
from tuner.cli.session import Session, server_option
from tuner.client import Access, Study, Trial, tables
from tuner.client.predictions import Predictions
from tuner.config import Settings
from tuner.endpoint import check_endpoint_id
from tuner.errors import (
    DataError,
    FailedPreconditionError,
    InvalidArgumentError,
    ModelRejectedError,
    NotFoundError,
)
from tuner.model import Lineage, VersionState


@click.command()
@click.argument("name", metavar="STUDY|MODEL[@ALIAS|/VERSION]")
@click.option("--to", "target", required=True, help="A new folder, or a URI of a store.")
@click.option("--trial", "number", type=click.IntRange(0), help="Not the best, but this trial.")
@server_option
@click.pass_obj
def export(session: Session, name: str, target: str, number: int | None) -> None:
    """Export the best trial of a STUDY, or a published version of a MODEL.

    What is written is a model that TensorFlow Serving can serve. A name without a version is that
    of a study; if there is none, that of a model, whose newest version is meant.
    """
    trial = None if "@" in name or "/" in name else _trial(session, name, number)
    if trial is None:
        _export_version(session, name, target)
    else:
        _export_trial(session, name, trial, target)


def _trial(session: Session, name: str, number: int | None) -> Trial | None:
    """A study's trial; None if only a model has the name."""
    try:
        study = session.client.get_study(name)
    except (NotFoundError, InvalidArgumentError):
        if not any(model.model_id == name for model in session.client.models):
            raise
        return None
    trial = study.best() if number is None else study.trial(number)
    _check_kind(study, trial)
    return trial


def _export_trial(session: Session, study: str, trial: Trial, target: str) -> None:
    source = registry.Source(directory=_artifacts(trial))
    with session.spinner(f"exporting trial {trial.number} and checking its predictions"):
        path = registry.export_to(source, target)
    if session.as_json:
        session.print_json({"study": study, "trial": trial.number, "path": path})
        return
    value = "" if trial.value is None else f" ({trial.metric.name} {tables.number(trial.value)})"
    session.say(f"trial {trial.number}{value} is exported to {path}")
    session.note(f"tuner predict {target} --input rows.csv")


def _export_version(session: Session, name: str, target: str) -> None:
    version = session.client.models.version(name)
    with session.spinner(f"copying version {version.version} and checking its files"):
        path = registry.copy_to(version, target)
    if session.as_json:
        document = {"model": version.model_id, "version": version.version, "path": path}
        session.print_json(document)
    else:
        session.say(f"version {version.version} of {version.model_id} is exported to {path}")


@click.command("import")
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--model", required=True, help="The model to make a version of.")
@click.option(
    "--golden",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSON lines, each an object with a value by input: rows whose predictions are recorded.",
)
@server_option
@click.pass_obj
def import_(session: Session, directory: Path, model: str, golden: Path | None) -> None:
    """Publish the SavedModel in DIRECTORY, made elsewhere, as the next version of a model.

    It is loaded in a process of its own: import what you would run. What it predicts for the rows
    of --golden is recorded, and has to be predicted again by a fresh process.
    """
    directory = directory.absolute()
    root = registry.ModelRoot(Settings.read().models_uri)
    source = registry.Source.of_saved_model(directory, golden)
    models = session.client.models
    with session.spinner("loading the model and checking its predictions"):
        publishing = registry.Registry(models, root)
        version = publishing.publish(model, Lineage(source=str(directory)), source)
    if version.state is not VersionState.READY:
        report = version.report or f"{version.publisher} is at it"
        raise ModelRejectedError(f"{model}/{version.version} is {version.state.lower()}: {report}")
    if session.as_json:
        session.print_json(documents.model_version(version))
        return
    session.say(f"version {version.version} of {model} is published at {version.uri}")
    session.note(f"tuner models alias set {model}@champion {version.version}")


def _check_kind(study: Study, trial: Trial) -> None:
    uri = trial.record.artifact_uri
    if study.record.spec.data is None:
        raise FailedPreconditionError(
            f"the trainer of {study.study_id} is your own, and what its trials wrote is no model "
            f"that tuner knows{f': trial {trial.number} left it in {uri}' if uri else ''}."
        )


def _artifacts(trial: Trial) -> Path:
    uri, study_id = trial.record.artifact_uri.removeprefix("file://"), trial.record.study_id
    if not uri:
        raise FailedPreconditionError(
            f"trial {trial.number} of {study_id} is {trial.state.lower()} and has left no "
            "weights; choose another with --trial."
        )
    path = Path(uri)
    if not path.is_dir():
        raise FailedPreconditionError(
            f"the weights of trial {trial.number} lie in {uri}, which this machine does not see; "
            "run the export where the runner runs."
        )
    return path


@click.command()
@click.argument("model", metavar="FOLDER|ENDPOINT")
@click.option("--input", required=True, metavar="FILE", help="Raw rows: CSV, Parquet or TFRecord.")
@click.option("--output", type=click.Path(path_type=Path), help="A CSV file; else the screen.")
@click.option("--gateway", help="Where the endpoint is asked, host:port; else one is looked for.")
@server_option
@click.pass_obj
def predict(
    session: Session, model: str, input: str | Path, output: Path | None, gateway: str | None
) -> None:
    """Predict raw rows with the exported model in a FOLDER, or with an ENDPOINT."""
    if gateway is None and Path(model).is_dir():
        predicted = _predicted(session, Path(model), str(input))
    else:
        predicted = _predicted_remotely(session, model, str(input), gateway)
    rows = _rows(predicted)
    if output is not None:
        _save_csv(session, output, predicted, rows)
    elif session.as_json:
        for row in rows:
            session.print_line(row)
    else:
        _write_csv(sys.stdout, predicted, rows)


def _predicted(session: Session, model: Path, file: str) -> Mapping[str, Any]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet_libraries(), session.spinner("loading the model"):
        from tuner_trainers.predict import Predictor  # TensorFlow costs seconds

        predictor = Predictor(_version(model))
        return predictor.predict(_checked(predictor.read(file), file))


def _predicted_remotely(
    session: Session, name: str, file: str, gateway: str | None
) -> Mapping[str, Any]:
    from tuner.cli.remote import Remote  # needs the serving extra

    try:
        endpoint = check_endpoint_id(name)
    except InvalidArgumentError:
        raise InvalidArgumentError(
            f"{name} is no folder, and no endpoint's name; give the folder of an exported model, "
            "or an endpoint."
        ) from None
    if gateway is None:
        predictions = session.client.endpoint(endpoint).predictions()
    else:
        predictions = Predictions(Access.of(Settings.read(server=session.server)), [gateway])
    with predictions:
        remote = Remote(predictions, endpoint)
        columns = _checked(remote.read(file), file)
        count = len(next(iter(columns.values())))
        with session.progress("predicting", count) as told:
            return remote.predict(columns, told)


def _checked(columns: Mapping[str, Any], file: str) -> Mapping[str, Any]:
    if not next((len(column) for column in columns.values()), 0):
        raise DataError(f"{file} has no rows; give it some.")
    return columns


def _version(model: Path) -> Path:
    """A model's newest version, or the folder itself."""
    versions = [path for path in model.iterdir() if path.name.isdecimal() and path.is_dir()]
    return max(versions, key=lambda path: int(path.name), default=model)


def _rows(predicted: Mapping[str, Any]) -> Iterator[dict[str, object]]:
    """Each row as plain values: numbers as short as their precision allows."""
    names = list(predicted)
    for values in zip(*(predicted[name] for name in names), strict=True):
        yield {name: _plain(value) for name, value in zip(names, values, strict=True)}


def _plain(value: Any) -> object:
    # str() of a numpy number is the shortest text that reads back as the same number.
    return float(str(value)) if getattr(value, "dtype", None) == "float32" else value


def _write_csv(
    file: TextIO, predicted: Mapping[str, Any], rows: Iterable[Mapping[str, object]]
) -> None:
    writer = csv.DictWriter(file, list(predicted), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _save_csv(
    session: Session,
    output: Path,
    predicted: Mapping[str, Any],
    rows: Iterable[Mapping[str, object]],
) -> None:
    partial = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with partial.open("w", newline="", encoding="utf-8") as file:
            _write_csv(file, predicted, rows)
        partial.replace(output)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InvalidArgumentError(f"cannot write {output}: {error.strerror}.") from error
    count = len(next(iter(predicted.values())))
    if session.as_json:
        session.print_json({"predictions": count, "output": str(output)})
    else:
        session.say(f"{count:,} predictions in {output}")
